"""A Kafka broker without Java: librdkafka's in-process mock cluster, in a child process of its own.

It speaks the Kafka protocol to ordinary clients (groups, idempotent producers, seeks), with these limits, none hidden:

- **Its log is volatile.** It lives in memory and is gone when the process ends.
- **It keeps 5 MiB and 100,000 batches a partition** and drops the oldest beyond that without a word, read or not.
- Topics come from `create_topic`; the CreateTopics request is not answered. A topic that a client merely names gets 4
  partitions.
- The cluster id in its metadata is a memory address (`mockCluster…`): it may be the same after a restart. What does
  tell one log from the next is `EmbeddedBroker.incarnation`, drawn at random at each start and handed to the consumers
  (setting `KIZASHI_BROKER_INCARNATION`), which begin anew when it differs from the one they stored.
- A rebalance of a group that has members takes their session time-out less one second, and a member that asks for its
  partitions after the leader has spoken is refused (`consumers.broker` sees to it that leaders wait).
- A produce answer carries a made-up time (1234 ms); the time in the stored record is right.

`confluent_kafka` has no Python call to create a topic in the mock cluster, so the child calls librdkafka's public C
functions (`rdkafka_mock.h`) through ctypes, in the very library that `confluent_kafka` brings along.
"""

import argparse
import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from embedded.process import EmbeddedError

DEFAULT_PARTITIONS = 32
# A real broker waits 3 s for the first members of a group; on one machine they come at once.
REBALANCE_DELAY_MS = 100
STOP_SECONDS = 5.0
RD_KAFKA_PRODUCER = 0


class EmbeddedBroker:
    """`topics` maps each topic to its number of partitions. The child ends when this process does."""

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self._topics = dict(topics or {})
        self._process: subprocess.Popen[str] | None = None
        self._bootstrap = ""
        self._incarnation = ""

    def start(self) -> None:
        """Returns when clients can connect. Raises EmbeddedError."""
        if self._process is not None:
            return
        root = str(Path(__file__).parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "embedded.broker", "--with-owner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            hello = json.loads(self._answer())
            self._bootstrap, self._incarnation = hello["bootstrap"], hello["incarnation"]
            for name, partitions in self._topics.items():
                self.create_topic(name, partitions)
        except BaseException:
            self.stop()
            raise

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:port`."""
        return self._bootstrap

    @property
    def incarnation(self) -> str:
        """Different for each start, hence for each log."""
        return self._incarnation

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def create_topic(self, name: str, partitions: int = DEFAULT_PARTITIONS) -> None:
        """Raises EmbeddedError when it exists."""
        self._command({"create": name, "partitions": partitions})

    def delete_topic(self, name: str) -> None:
        """With its records; for tests of a topic that is made anew."""
        self._command({"delete": name})

    def stop(self) -> None:
        """Harmless when not running."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process = None

    def kill(self) -> None:
        """SIGKILL; all records are gone, as after any other end."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT make a broker that hangs."""
        if self._process is not None:
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self, command: Mapping[str, str | int]) -> None:
        if self._process is None or self._process.stdin is None:
            raise EmbeddedError("the embedded broker is not running")
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EmbeddedError("the embedded broker has ended") from None
        answer = json.loads(self._answer())
        if "error" in answer:
            raise EmbeddedError(f"embedded broker: {command}: {answer['error']}")

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EmbeddedError(
                f"the embedded broker ended with status {self._process.wait()} (its error is printed above)"
            )
        return line


class _MockCluster:
    """librdkafka's mock cluster of one broker; lives until the process ends."""

    def __init__(self) -> None:
        self._lib = _librdkafka()
        error = ctypes.create_string_buffer(512)
        conf = self._lib.rd_kafka_conf_new()
        # Warnings about our own idle handle, which never connects anywhere.
        self._lib.rd_kafka_conf_set(conf, b"log_level", b"2", error, len(error))
        handle = self._lib.rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, len(error))
        if not handle:
            raise EmbeddedError(f"librdkafka: {error.value.decode()}")
        self._cluster = self._lib.rd_kafka_mock_cluster_new(handle, 1)
        if not self._cluster:
            raise EmbeddedError("librdkafka could not make its mock cluster")
        self._lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, REBALANCE_DELAY_MS)

    @property
    def bootstrap(self) -> str:
        text: bytes = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return text.decode()

    def create_topic(self, name: str, partitions: int) -> str | None:
        """None when made, else the problem."""
        return self._problem(self._lib.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1))

    def delete_topic(self, name: str) -> str | None:
        return self._problem(self._lib.rd_kafka_mock_topic_delete(self._cluster, name.encode()))

    def _problem(self, code: int) -> str | None:
        if code == 0:
            return None
        text: bytes = self._lib.rd_kafka_err2str(code)
        return text.decode()


def _librdkafka() -> ctypes.CDLL:
    try:
        from confluent_kafka import cimpl
    except ImportError as error:
        raise EmbeddedError(
            f"the package `confluent-kafka` is not usable ({error}): pip install 'kizashi[demo]'"
        ) from error
    # Names are looked up in the extension's own dependencies too, wherever its wheel keeps librdkafka.
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_topic_delete": (number, [pointer, text]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _say(message: Mapping[str, str]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _serve_owner(cluster: _MockCluster) -> None:
    """One JSON command a line on standard input, one answer a line on standard output, until the owner is gone."""
    for line in sys.stdin:
        command = json.loads(line)
        if "create" in command:
            problem = cluster.create_topic(command["create"], command["partitions"])
        else:
            problem = cluster.delete_topic(command["delete"])
        _say({"error": problem} if problem else {})


def _topic(text: str) -> tuple[str, int]:
    name, _, partitions = text.partition("=")
    return name, int(partitions or DEFAULT_PARTITIONS)


def main() -> None:
    """`python -m embedded.broker --port-file FILE --topic NAME=PARTITIONS` runs until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m embedded.broker", description="A volatile Kafka broker on 127.0.0.1."
    )
    parser.add_argument("--port-file", type=Path, help="write {bootstrap, incarnation, pid} here as JSON when ready")
    parser.add_argument("--topic", type=_topic, action="append", default=[], metavar="NAME=PARTITIONS")
    parser.add_argument("--with-owner", action="store_true", help="take commands on standard input, end when it closes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    try:
        cluster = _MockCluster()
    except EmbeddedError as error:
        sys.exit(str(error))
    for name, partitions in options.topic:
        if problem := cluster.create_topic(name, partitions):
            sys.exit(f"topic {name}: {problem}")
    hello = {"bootstrap": cluster.bootstrap, "incarnation": secrets.token_hex(16), "pid": str(os.getpid())}
    if options.port_file is not None:
        unfinished = options.port_file.with_name(options.port_file.name + ".new")
        unfinished.write_text(json.dumps(hello))
        unfinished.replace(options.port_file)
    _say(hello)
    if options.with_owner:
        _serve_owner(cluster)
    else:
        signal.pause()
    # librdkafka's threads would be torn down in no set order.
    os._exit(0)


if __name__ == "__main__":
    main()
