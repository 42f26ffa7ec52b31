"""A real Apache Kafka for tests and for a demo that keeps its log: one KRaft node, broker and controller in one JVM.

Needs Java 17 or later. The jars come from Maven Central, once, into a cache folder: `python -m embedded.kafka fetch`.
A folder holds everything: `server.properties`, `log/` (the records), `server.log`. Starting on a folder that exists
resumes it, on the same port where that is still free, after a crash too.
"""

import argparse
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from embedded.process import EmbeddedError, GuardedProcess, free_port, log_tail, port_is_free

VERSION = "4.1.0"
SCALA = "2.13"
# Kafka logs through slf4j 1.7; without a binding it says nothing at all, not even why it cannot start.
SLF4J_SIMPLE = "1.7.36"
JARS_VARIABLE = "KIZASHI_KAFKA_JARS"
JAVA_MINIMUM = 17
START_SECONDS = 90.0
STOP_SECONDS = 30.0
FETCH_SECONDS = 600.0
DEFAULT_PARTITIONS = 32
# One small node on a shared laptop: quick to start (no optimising compiler, no parallel collector) before quick to run.
JAVA_OPTIONS = ("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>kizashi</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_{scala}</artifactId>
      <version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>{slf4j}</version>
    </dependency>
  </dependencies>
</project>
"""


class EmbeddedKafka:
    """One node on one folder. `settings` are lines of server.properties that win over ours."""

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "server.log"
        self.port = 0
        self._settings = dict(settings or {})
        self._process: GuardedProcess | None = None

    def start(self) -> None:
        """Fetch what is missing, format a new folder, start; returns when clients are served. Raises EmbeddedError."""
        if self._process is not None:
            return
        java = _java()
        jars = fetch()
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self._write_properties()
        if not (self.folder / "log" / "meta.properties").exists():
            self._format(java, jars, properties)
        process = GuardedProcess(
            command=[java, *JAVA_OPTIONS, "-cp", f"{jars}/*", "kafka.Kafka", str(properties)],
            log=self.log,
            stop_signal=signal.SIGTERM,
            grace_seconds=STOP_SECONDS,
        )
        process.start()
        self._process = process
        try:
            self._wait_until_ready(process)
        except BaseException:
            self.stop()
            raise

    @property
    def bootstrap(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """Process id of the JVM; 0 when not started."""
        return 0 if self._process is None else self._process.pid

    def stop(self) -> None:
        """Controlled shutdown; harmless when not running."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would; `start` recovers on the same port."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT make a broker that hangs."""
        if self._process is not None:
            self._process.signal(number)

    def create_topic(
        self, name: str, partitions: int = DEFAULT_PARTITIONS, config: Mapping[str, str] | None = None
    ) -> None:
        """Returns when the topic exists. Raises EmbeddedError when it did already."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        try:
            admin.create_topics([topic], operation_timeout=30)[name].result(timeout=30)
        except KafkaException as error:
            raise EmbeddedError(f"topic {name}: {error}") from error

    def delete_topic(self, name: str) -> None:
        """With its records."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        # In a variable: a client that is collected takes its pending answers along.
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        try:
            admin.delete_topics([name], operation_timeout=30)[name].result(timeout=30)
        except KafkaException as error:
            raise EmbeddedError(f"topic {name}: {error}") from error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_properties(self) -> Path:
        """Made anew at each start; the ports of the last time are kept where they are free."""
        path = self.folder / "server.properties"
        before = dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}
        ports = [int(port) for port in re.findall(r":(\d+)", before.get("listeners", ""))]
        if len(ports) != 2 or not all(port_is_free(port) for port in ports):
            ports = [free_port(), free_port()]
        self.port, controller = ports
        properties = {**_properties(self.port, controller, self.folder / "log"), **self._settings}
        path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        return path

    def _format(self, java: str, jars: Path, properties: Path) -> None:
        cluster = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        # The id is an argument: one that begins with a dash would be taken for an option.
        cluster = cluster.replace("-", "A", 1) if cluster.startswith("-") else cluster
        command = [java, *JAVA_OPTIONS, "-cp", f"{jars}/*", "kafka.tools.StorageTool"]
        command += ["format", "-t", cluster, "-c", str(properties)]
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True, check=False
        )
        if done.returncode != 0:
            shutil.rmtree(self.folder / "log", ignore_errors=True)
            raise EmbeddedError(f"Apache Kafka could not format {self.folder / 'log'}:\n{done.stdout}{done.stderr}")

    def _wait_until_ready(self, process: GuardedProcess) -> None:
        deadline = time.monotonic() + START_SECONDS
        while process.running and time.monotonic() < deadline:
            if self._listens() and self._answers():
                return
            time.sleep(0.1)
        state = f"was not ready within {START_SECONDS:.0f} s" if process.running else "ended while starting"
        raise EmbeddedError(f"Apache Kafka {state} on {self.folder}. Its log ends with:\n{log_tail(self.log)}")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _answers(self) -> bool:
        """Listening comes first; the node lists itself only once its controller has let it in."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            metadata = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0}).list_topics(timeout=2)
        except KafkaException:
            return False
        return bool(metadata.brokers)


def _properties(port: int, controller: int, log: Path) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(log),
        "auto.create.topics.enable": "false",
        "num.partitions": str(DEFAULT_PARTITIONS),
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # After SIGKILL a new start must wait for the session of the old one to run out (default 9 s).
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # The default of 128 MiB would be a quarter of the heap.
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    }


def jars_folder() -> Path:
    """Where the jars are or will be: `KIZASHI_KAFKA_JARS`, else below the user's cache folder."""
    if given := os.environ.get(JARS_VARIABLE):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "kizashi" / f"kafka-{VERSION}"


def has_jars() -> bool:
    """Whether `start` needs nothing fetched."""
    return _has_jars(jars_folder())


def _has_jars(folder: Path) -> bool:
    return (folder / f"kafka_{SCALA}-{VERSION}.jar").exists()


def available() -> tuple[bool, str]:
    """Whether `start` can be expected to work, and why (not); looks only, fetches nothing."""
    try:
        java = _java()
    except EmbeddedError as error:
        return False, str(error)
    folder = jars_folder()
    if _has_jars(folder):
        return True, f"{java}, jars in {folder}"
    if shutil.which("mvn") is None:
        return (
            False,
            f"no jars in {folder} and no Maven (`mvn`) to fetch them; set {JARS_VARIABLE} to a folder with them",
        )
    return True, f"{java}, jars to be fetched by Maven into {folder}"


def fetch() -> Path:
    """The folder with the jars, fetched by Maven when missing. Raises EmbeddedError."""
    folder = jars_folder()
    if _has_jars(folder):
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise EmbeddedError(
            f"no jars in {folder} and no Maven (`mvn`) to fetch them: install Maven, or set {JARS_VARIABLE}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as name:
        work = Path(name)
        (work / "pom.xml").write_text(POM.format(scala=SCALA, version=VERSION, slf4j=SLF4J_SIMPLE))
        command = [
            maven,
            "-q",
            "-B",
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={work}/jars",
        ]
        try:
            done = subprocess.run(
                command,
                cwd=work,
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"Maven did not fetch Apache Kafka {VERSION} within {FETCH_SECONDS:.0f} s") from None
        if done.returncode != 0 or not _has_jars(work / "jars"):
            raise EmbeddedError(f"Maven could not fetch Apache Kafka {VERSION}:\n{(done.stdout + done.stderr)[-2000:]}")
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        try:
            (work / "jars").rename(folder)
        except OSError as error:
            # Another process was quicker; theirs is as good.
            if not _has_jars(folder):
                raise EmbeddedError(f"cannot put the jars into {folder}: {error}") from error
    return folder


def _java() -> str:
    """Path of a Java of at least version 17. Raises EmbeddedError."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        raise EmbeddedError(f"no Java found: install Java {JAVA_MINIMUM} or later, or set JAVA_HOME")
    said = subprocess.run(
        [java, "-version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    ).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found.group(1)) < JAVA_MINIMUM:
        raise EmbeddedError(
            f"{java} is too old for Apache Kafka {VERSION} (Java {JAVA_MINIMUM} or later): {said.strip()[:80]}"
        )
    return java


def main() -> None:
    """`python -m embedded.kafka fetch`."""
    parser = argparse.ArgumentParser(
        prog="python -m embedded.kafka", description="Apache Kafka for tests and the demo."
    )
    parser.add_argument("command", choices=["fetch"], help="fetch: get the jars through Maven into the cache folder")
    parser.parse_args()
    try:
        folder = fetch()
    except EmbeddedError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
