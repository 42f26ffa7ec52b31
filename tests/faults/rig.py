"""The whole road as processes on loopback, with a proxy before each server: Postgres, Apache Kafka, an API, two
consumers, and the clients of ``tests/faults/sender.py``. What dies is started again, as a supervisor would.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from consumers.events import Usage
from embedded.kafka import EmbeddedKafka
from embedded.postgres import EmbeddedPostgres
from embedded.process import free_port
from service import auth
from service.clock import utc_now
from service.db import make_engine, migrate
from tests.faults import rigged
from tests.faults.ledger import Ledger, Verdict, compare
from tests.faults.proxy import Proxy, acks_of

ROOT = Path(__file__).resolve().parents[2]
CONSUMERS = ("consumer-1", "consumer-2")
PARTITIONS = 8
SESSION_SECONDS = 3.0
DATABASE_TIMEOUT_SECONDS = 3.0
"""Shorter than the defaults, so that waits for them do not fill the time."""
RESTART_SECONDS = 0.5
START_SECONDS = 240.0
RECOVERY_SECONDS = 300.0
TOO_OFTEN = 12
"""A role that ended by itself this often does not run at all."""
DRAIN_SECONDS = 200.0
TOPIC = "kizashi.events"
DATABASE = "kizashi"
THERE = """
SELECT f.account_id, f.feature FROM unnest($1::text[], $2::text[]) AS u(account_id, feature)
JOIN features f ON f.account_id = u.account_id AND f.feature = u.feature
"""


class NotRecovered(AssertionError):
    """What had been acknowledged is not in the facts long after the fault ended."""


@dataclass(kw_only=True)
class Process:
    """One role, kept running. ``held``: not to be started again now."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    running: subprocess.Popen[bytes] | None = None
    held: bool = False
    expected: bool = False  # we ended it
    ends: list[int] = field(default_factory=list)  # exit statuses that we did not cause

    def start(self) -> None:
        self.expected = False
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, cwd=ROOT, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return 0 if self.running is None else self.running.pid

    def signal(self, number: signal.Signals) -> None:
        if self.running is not None and self.running.poll() is None:
            self.expected |= number == signal.SIGKILL
            self.running.send_signal(number)

    def end(self) -> None:
        """In good order, by force when that takes long."""
        if self.running is None:
            return
        self.expected = True
        self.running.send_signal(signal.SIGCONT)
        self.running.terminate()
        try:
            self.running.wait(20)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()


@dataclass(kw_only=True)
class Rig:
    """Everything that a fault can be done to. Made by ``rigged_road``."""

    folder: Path
    postgres: EmbeddedPostgres
    kafka: EmbeddedKafka
    to_database: Proxy
    to_broker: Proxy
    processes: dict[str, Process]
    api_url: str
    ledger: Ledger
    sender: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    acks: set[int] = field(default_factory=set)  # that the API's writes asked for
    _in_facts: set[tuple[str, str]] = field(default_factory=set)

    @property
    def failpoints(self) -> Path:
        return self.folder / "failpoints"

    async def kill_postgres(self) -> None:
        """SIGKILL to the server and every process of it, then a new start."""
        for pid in family(self.postgres.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(self.postgres.kill)
        await asyncio.to_thread(self.postgres.start)

    async def kill_broker(self, down_seconds: float = 0.0) -> None:
        await asyncio.to_thread(self.kafka.kill)
        await asyncio.sleep(down_seconds)
        await asyncio.to_thread(self.kafka.start)

    async def passes(self, point: str, *, dies: bool = True, seconds: float = 60.0) -> int:
        """Waits until a process has passed the armed point, and says which. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid = rigged.passed_by(self.failpoints, point)
            if pid is not None:
                for process in self.processes.values():
                    process.expected |= dies and process.pid == pid
                return pid
            await asyncio.sleep(0.02)
        rigged.disarm(self.failpoints, point)
        raise TimeoutError(f"nobody passed {point!r} within {seconds:.0f} s")

    def by_pid(self, pid: int) -> Process:
        return next(process for process in self.processes.values() if process.pid == pid)

    async def supervise(self) -> None:
        """Starts again what has ended."""
        while True:
            for process in self.processes.values():
                status = None if process.running is None else process.running.poll()
                if status is None or process.held:
                    continue
                if not process.expected:
                    process.ends.append(status)
                process.running = None
                await asyncio.sleep(RESTART_SECONDS)
                process.start()
            await asyncio.sleep(0.05)

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """Past the proxy; raises what asyncpg raises while the server is away."""
        async with self.connection() as connection:
            return list(await connection.fetch(statement, *arguments))

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self.postgres.dsn(DATABASE, driver=None), timeout=5, command_timeout=60)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def recovered(self, since: float) -> float:
        """Waits until everything acknowledged so far is in the facts, and both doors acknowledge again; returns the
        seconds from ``since`` (epoch)."""
        self.ledger.follow()
        wanted = {
            (sent.event.account_id, sent.event.feature)
            for sent in self.ledger.acknowledged
            if isinstance(sent.event, Usage)
        } - self._in_facts
        deadline = time.monotonic() + RECOVERY_SECONDS
        answered = False
        while wanted or not answered:
            hopeless = any(len(process.ends) > TOO_OFTEN for process in self.processes.values())
            if hopeless or time.monotonic() > deadline:
                raise NotRecovered(f"{len(wanted)} events missing, both doors answer: {answered}\n{self.tails()}")
            await asyncio.sleep(0.1)
            if wanted:
                here = await self._of(wanted)
                self._in_facts |= here
                wanted -= here
            self.ledger.follow()
            last = self.ledger.last_acknowledged
            answered = len(last) == 2 and min(last.values()) > since
        return time.time() - since

    async def _of(self, wanted: set[tuple[str, str]]) -> set[tuple[str, str]]:
        try:
            rows = await self.fetch(THERE, *zip(*wanted, strict=True))
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return set()
        return {(row["account_id"], row["feature"]) for row in rows}

    def start_sender(self, seed: str, rate: float, key: str) -> None:
        with (self.folder / "sender.log").open("ab") as log:
            self.sender = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.sender", "--ledger", str(self.ledger.path), "--api", self.api_url,
                 "--bootstrap", f"127.0.0.1:{self.to_broker.port}", "--topic", TOPIC, "--seed", seed,
                 "--rate", str(rate)],
                cwd=ROOT, env={**os.environ, "LEDGER_KEY": key}, stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    async def drained(self) -> Verdict:
        """Lets the clients bring home what is under way and the consumers read to the end; then compares."""
        assert self.sender is not None
        assert self.sender.stdin is not None
        self.sender.stdin.close()
        status = await asyncio.to_thread(self.sender.wait, DRAIN_SECONDS)
        assert status == 0, f"the clients ended with {status}:\n{tail(self.folder / 'sender.log')}"
        await self._read_to_the_end()
        async with self.connection() as connection:
            verdict = await compare(self.ledger, connection)
            dead = await connection.fetchval("SELECT count(*) FROM dead_letters")
            stopped = await connection.fetch("SELECT * FROM stream_offsets WHERE stopped_reason IS NOT NULL")
        verdict.differences += [f"{dead} dead letters"] if dead else []
        verdict.differences += [f"stopped: {dict(row)}" for row in stopped]
        return verdict

    async def _read_to_the_end(self) -> None:
        ends = await asyncio.to_thread(self._ends)
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            rows = await self.fetch("SELECT partition, next_offset FROM stream_offsets WHERE topic = $1", TOPIC)
            if {row["partition"]: row["next_offset"] for row in rows} == ends:
                return
            if time.monotonic() > deadline:
                raise NotRecovered(f"not read to the end: {rows}, ends {ends}\n{self.tails()}")
            await asyncio.sleep(0.2)

    def _ends(self) -> dict[int, int]:
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": "ends", "log_level": 0})
        try:
            return {
                number: consumer.get_watermark_offsets(TopicPartition(TOPIC, number), timeout=30)[1]
                for number in range(PARTITIONS)
            }
        finally:
            consumer.close()

    def tails(self) -> str:
        return "\n".join(f"--- {name}\n{tail(process.log)}" for name, process in self.processes.items())


def family(pid: int) -> list[int]:
    """The process and its children, as far as the system tells."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]
    return [pid]


def tail(path: Path, lines: int = 25) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(nothing)"


@contextlib.asynccontextmanager
async def rigged_road(
    folder: Path, *, seed: str, rate: float = 150.0, settings: dict[str, str] | None = None
) -> AsyncIterator[Rig]:
    """Started, with clients sending; ``settings`` are Postgres'."""
    failpoints = folder / "failpoints"
    await asyncio.to_thread(os.makedirs, failpoints)
    holder: list[Rig] = []
    to_database = Proxy(lambda: holder[0].postgres.port)
    acks: set[int] = set()
    to_broker = Proxy(lambda: holder[0].kafka.port, seen=lambda data: _note_acks(data, acks))
    to_database.start()
    to_broker.start()
    # Whoever asks the broker for its address gets the proxy's, so that nobody goes past it.
    advertised = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{to_broker.port}"}
    rig = Rig(
        folder=folder,
        postgres=EmbeddedPostgres(folder / "postgres", port=free_port(), settings=settings),
        kafka=EmbeddedKafka(folder / "kafka", settings=advertised),
        to_database=to_database,
        to_broker=to_broker,
        processes={},
        api_url="",
        ledger=Ledger(path=folder / "ledger.jsonl"),
        acks=acks,
    )
    holder.append(rig)
    supervising: asyncio.Task[None] | None = None
    try:
        await asyncio.gather(asyncio.to_thread(rig.postgres.start), asyncio.to_thread(rig.kafka.start))
        await asyncio.to_thread(rig.kafka.create_topic, TOPIC, PARTITIONS)
        await asyncio.to_thread(rig.postgres.create_database, DATABASE)
        await asyncio.to_thread(migrate, rig.postgres.dsn(DATABASE))
        key = await _key(rig.postgres.dsn(DATABASE))
        _place_processes(rig)
        for process in rig.processes.values():
            process.start()
        supervising = asyncio.create_task(rig.supervise())
        rig.ledger.path.touch()
        rig.start_sender(seed, rate, key)
        await asyncio.wait_for(rig.recovered(0.0), START_SECONDS)
        yield rig
    finally:
        if supervising is not None:
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
        await asyncio.to_thread(_stop, rig)


def _note_acks(data: bytes, acks: set[int]) -> None:
    found = acks_of(data, b"kizashi-api")
    if found is not None:
        acks.add(found)


def _place_processes(rig: Rig) -> None:
    port = free_port()
    rig.api_url = f"http://127.0.0.1:{port}"
    database = rig.postgres.dsn(DATABASE).replace(f":{rig.postgres.port}/", f":{rig.to_database.port}/")
    rig.environment = {
        "KIZASHI_DATABASE_URL": database,
        "KIZASHI_DATABASE_TIMEOUT_SECONDS": str(DATABASE_TIMEOUT_SECONDS),
        "KIZASHI_KAFKA_BOOTSTRAP": f"127.0.0.1:{rig.to_broker.port}",
        "KIZASHI_EVENTS_TOPICS": f'["{TOPIC}"]',
        "KIZASHI_CONSUMER_GROUP": f"faults-{uuid.uuid4().hex[:8]}",
        "KIZASHI_PORT": str(port),
        "KIZASHI_LOG_FORMAT": "console",
        rigged.FOLDER: str(rig.failpoints),
        rigged.SESSION: str(int(SESSION_SECONDS * 1000)),
    }
    for name in ("api", *CONSUMERS):
        rig.processes[name] = process_of(rig, name)


def process_of(rig: Rig, name: str) -> Process:
    """Another member of the road: ``api`` or ``consumer-…``."""
    role = name.partition("-")[0]
    command = [sys.executable, "-m", "tests.faults.rigged", "serve", "--role", role]
    return Process(name=name, command=command, environment=rig.environment, log=rig.folder / f"{name}.log")


async def _key(url: str) -> str:
    engine = make_engine(url, pool_size=1)
    try:
        async with engine.begin() as conn:
            presented, _ = await auth.create(conn, name="ledger", scopes=auth.SCOPES, expires_at=None, now=utc_now())
    finally:
        await engine.dispose()
    return presented


def _stop(rig: Rig) -> None:
    if rig.sender is not None:
        if rig.sender.stdin is not None and not rig.sender.stdin.closed:
            rig.sender.stdin.close()
        rig.sender.kill()
        rig.sender.wait()
    for process in rig.processes.values():
        process.end()
    steps: list[Callable[[], None]] = [rig.kafka.stop, rig.postgres.stop, rig.to_database.stop, rig.to_broker.stop]
    with contextlib.ExitStack() as all_of_them:
        for step in reversed(steps):
            all_of_them.callback(step)
