"""Events per second and CPU per event of the whole consumer, beside a raw consume and three peers, in one run.

    python -m bench.ingest --events 100000 --rounds 3

Every way is a process of its own (two for "two processes"), on one Apache Kafka (the embedded broker when Java or its
jars are missing) and one PostgreSQL over TCP with fsync, which share the machine with it. Rates run from the first
record to the last durable write, CPU is the consumer's alone, and PostgreSQL's CPU stands beside it where /proc tells.
Each way begins with empty tables; what it leaves in them is compared with what the events say. Medians of the rounds;
in a round the ways take turns. bench/README.md says what each peer does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from bench.peers import facts as model
from bench.workload import records
from consumers.broker import Producer
from consumers.tables import dead_letters, dedup_batches, import_marks, stream_offsets
from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka, available
from embedded.postgres import EmbeddedPostgres
from health.tables import FACT_TABLES, touched
from service.db import migrate

ROOT: Final = Path(__file__).resolve().parent.parent
PARTITIONS: Final = 32
CHUNK: Final = 2_000
GIVE_UP_SECONDS: Final = 300.0
EVALUATOR_START_SECONDS: Final = 5.0
PER_EVENT: Final = 1_000
"""Events of the per-event loop, which would take minutes for all."""
PEER_TABLE: Final = """
CREATE TABLE peer_accounts (account_id text PRIMARY KEY, first_event_at timestamptz, last_event_at timestamptz,
    last_login_at timestamptz, events bigint NOT NULL, logins bigint NOT NULL, facts jsonb NOT NULL)
    WITH (fillfactor = 80)
"""
EVALUATED: Final = ("health", "score_history", "episodes", "reevaluations", "sweeps")
HOT: Final = """
SELECT n_tup_hot_upd::float8 / nullif(n_tup_upd, 0) FROM pg_stat_user_tables WHERE relname = 'accounts'
"""
WRITTEN_TOO: Final = (stream_offsets, dedup_batches, import_marks, dead_letters, touched)
TICKS: Final = os.sysconf("SC_CLK_TCK")


Command = Callable[[str, int], list[str]]
"""From the group and the number of the process to its arguments."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one way to consume ``events`` events."""

    events: int
    seconds: float
    cpu_seconds: float
    postgres_seconds: float | None = None
    wal_bytes: int = 0
    rows: int = 0
    batches: int = 0
    verdict: str = ""
    steps: dict[str, float] = field(default_factory=dict)
    hot: float = float("nan")
    """Share of the account row's updates that touched no index."""

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def cpu(self) -> float:
        """µs an event."""
        return self.cpu_seconds / self.events * 1e6

    @property
    def postgres(self) -> float:
        """µs an event; NaN where it is not known."""
        return float("nan") if self.postgres_seconds is None else self.postgres_seconds / self.events * 1e6


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all ways share."""

    url: str
    postmaster: int
    bootstrap: str
    incarnation: str | None
    folder: Path
    peers: Path | None  # the interpreter of the peers' environment


@dataclass(frozen=True, kw_only=True)
class Way:
    name: str
    topic: str
    command: Command
    events: int
    processes: int = 1
    peer: bool = False
    bare: bool = False  # writes nothing
    evaluator: bool = False  # an evaluator works beside it


def postgres_cpu(postmaster: int) -> float | None:
    """CPU seconds of the server and all its processes, those that have ended included; None where /proc tells none."""
    total = 0
    try:
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                total += _ticks(folder, postmaster)
    except OSError:
        return None
    return total / TICKS if total else None


def _ticks(folder: Path, postmaster: int) -> int:
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0
    own = int(fields[11]) + int(fields[12])
    if int(folder.name) == postmaster:
        return own + int(fields[13]) + int(fields[14])
    return own if int(fields[1]) == postmaster else 0


async def produce(bootstrap: str, topic: str, count: int, until: datetime, *, scattered: bool = False) -> float:
    """Bytes of a value on average. ``scattered``: with other keys, so that every account is in every partition."""
    producer = Producer(bootstrap, linger_ms=5, timeout_seconds=30)
    size = 0
    try:
        stream = records(count, until=until)
        while chunk := list(itertools.islice(stream, CHUNK)):
            size += sum(len(value) for _, value in chunk)
            lot = [(str(n).encode() if scattered else key, value, ()) for n, (key, value) in enumerate(chunk)]
            await producer.send_many(topic, lot)
    finally:
        await producer.stop()
    return size / count


async def clear(connection: Any) -> None:
    tables = [table.name for table in (*FACT_TABLES, *WRITTEN_TOO)]
    await connection.execute(f"TRUNCATE {', '.join(tables)}, peer_accounts, {', '.join(EVALUATED)} CASCADE")
    await connection.execute("SELECT pg_stat_reset_single_table_counters('accounts'::regclass)")


async def ours(connection: Any) -> dict[str, model.Facts]:
    """Our tables in the shape of the peers' model."""
    found: dict[str, model.Facts] = {}
    for row in await connection.fetch("SELECT * FROM accounts"):
        facts = found[row["account_id"]] = model.new()
        for name in ("first_event_at", "last_event_at", "last_login_at"):
            facts[name] = model.instant(row[name])
        facts["events"], facts["logins"] = row["events"], row["logins"]
    for row in await connection.fetch("SELECT * FROM account_months"):
        found[row["account_id"]]["months"][f"{row['month']:%Y-%m}"] = {
            "logins": _days(row["logins"]), "events": _days(row["events"]), "active_days": row["active_days"],
        }  # fmt: skip
    for row in await connection.fetch("SELECT * FROM user_months"):
        users = found[row["account_id"]]["users"].setdefault(f"{row['month']:%Y-%m}", {})
        users[row["user_id"]] = [row["active_days"], model.instant(row["last_at"])]
    for row in await connection.fetch("SELECT * FROM features"):
        found[row["account_id"]]["features"][row["feature"]] = [
            model.instant(row["first_at"]), model.instant(row["last_at"]), row["quantity"],
        ]  # fmt: skip
    for row in await connection.fetch("SELECT * FROM feature_months"):
        used = found[row["account_id"]]["feature_months"].setdefault(f"{row['month']:%Y-%m}", {})
        used[row["feature"]] = {"quantities": _days(row["quantities"]), "active_days": row["active_days"]}
    for row in await connection.fetch("SELECT * FROM late_arrivals"):
        arrival = row["arrival_day"].toordinal() - 719_163
        found[row["account_id"]]["late"][f"{row['event_day']}/{arrival}"] = [row["logins"], row["events"]]
    return found


def _days(counts: Sequence[int]) -> dict[str, int]:
    return {str(day): count for day, count in enumerate(counts, 1) if count}


async def theirs(connection: Any) -> dict[str, model.Facts]:
    found: dict[str, model.Facts] = {}
    for row in await connection.fetch("SELECT * FROM peer_accounts"):
        facts = found[row["account_id"]] = {**model.new(), **json.loads(row["facts"])}
        facts["events"], facts["logins"] = row["events"], row["logins"]
        for name in ("first_event_at", "last_event_at", "last_login_at"):
            facts[name] = model.instant(row[name])
    return found


def run_way(way: Way) -> list[dict[str, Any]]:
    """The figures that its processes print last. None leaves its group before all are done: the others would have to
    take over."""
    group = f"{way.topic}-{uuid.uuid4().hex[:8]}"
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(way.command(group, n), cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        for n in range(way.processes)
    ]
    try:
        with ThreadPoolExecutor(way.processes) as pool:
            figures = list(pool.map(_figures, started, timeout=GIVE_UP_SECONDS))
        for process in started:
            process.communicate(timeout=GIVE_UP_SECONDS)
    finally:
        for process in started:
            process.kill()
    return figures


def _figures(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise RuntimeError(f"{process.args!r} ended without figures")


async def measure(setting: Setting, way: Way, expected: dict[str, model.Facts] | None) -> Figures:
    connection = await asyncpg.connect(setting.url)
    try:
        await clear(connection)
        await connection.execute("CHECKPOINT")
        began, wal = postgres_cpu(setting.postmaster), await _wal(connection)
        with evaluator(setting) if way.evaluator else nullcontext():
            parts = await asyncio.to_thread(run_way, way)
        ended = postgres_cpu(setting.postmaster)
        hot = await connection.fetchval(HOT)
        wal = await _wal(connection) - wal
        verdict = ""
        if expected is not None and not way.bare:
            found = await (theirs if way.peer else ours)(connection)
            wrong = sum(found.get(account) != expected.get(account) for account in found.keys() | expected.keys())
            verdict = "exact" if not wrong else f"WRONG: {wrong} accounts"
    finally:
        await connection.close()
    steps = [part["steps"] for part in parts if part.get("steps")]
    return Figures(
        events=sum(part["events"] for part in parts),
        seconds=max(part["ended"] for part in parts) - min(part["began"] for part in parts),
        cpu_seconds=sum(part["cpu_seconds"] for part in parts),
        postgres_seconds=None if began is None or ended is None or way.bare else ended - began,
        wal_bytes=wal,
        rows=sum(part["rows"] for part in parts),
        batches=sum(part["batches"] for part in parts),
        verdict=verdict,
        steps=steps[0] if steps else {},
        hot=float("nan") if hot is None else hot,
    )


@contextmanager
def evaluator(setting: Setting) -> Iterator[None]:
    """The role, from when it works until it is told to stop."""
    environment = {
        "KIZASHI_DATABASE_URL": setting.url,
        "KIZASHI_EVENTS_TOPICS": '["none"]',
        "KIZASHI_LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "service.cli", "serve", "--role", "evaluator"]
    role = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL)
    try:
        time.sleep(EVALUATOR_START_SECONDS)
        if role.poll() is not None:
            raise RuntimeError(f"the evaluator ended with {role.returncode}")
        yield
    finally:
        role.terminate()
        role.wait()


async def _wal(connection: Any) -> int:
    return int(await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


def consumer(
    setting: Setting, topic: str, batch: int, *more: str, processes: int = 1
) -> Callable[[str, int], list[str]]:
    def command(group: str, _: int) -> list[str]:
        incarnation = [] if setting.incarnation is None else ["--incarnation", setting.incarnation]
        return [
            sys.executable, "-m", "bench.consuming", "--url", setting.url.replace("postgresql:", "postgresql+asyncpg:"),
            "--bootstrap", setting.bootstrap, "--topic", topic, "--group", group, "--batch", str(batch),
            "--partitions", str(PARTITIONS // processes), *incarnation, *more,
        ]  # fmt: skip

    return command


def peer(setting: Setting, module: str, topic: str, events: int) -> Command:
    def command(group: str, _: int) -> list[str]:
        state = setting.folder / f"{module}-{group}"
        state.mkdir()
        return [
            str(setting.peers), "-m", f"bench.peers.{module}", "--bootstrap", setting.bootstrap, "--topic", topic,
            "--group", group, "--dsn", setting.url, "--events", str(events), "--folder", str(state),
        ]  # fmt: skip

    return command


def ways(setting: Setting, topic: str, scattered: str, arguments: argparse.Namespace) -> Iterator[Way]:
    count: int = arguments.events
    raw = consumer(setting, topic, 1, "--raw", str(count))
    yield Way(name="raw aiokafka consume", topic=topic, command=raw, events=count, bare=True)
    for batch in arguments.batches:
        command = consumer(setting, topic, batch, "--sample")
        yield Way(name=f"Kizashi, {batch:,}", topic=topic, command=command, events=count)
    largest = max(arguments.batches)
    if "dedup" in arguments.parts:
        command = consumer(setting, topic, largest, "--no-dedup", "--sample")
        yield Way(name=f"Kizashi, {largest:,}, no dedup", topic=topic, command=command, events=count)
    if "health" in arguments.parts:
        command = consumer(setting, topic, largest, "--no-wakeups")
        yield Way(name=f"Kizashi, {largest:,}, no wake-ups", topic=topic, command=command, events=count)
        command = consumer(setting, topic, largest)
        title = f"Kizashi, {largest:,}, evaluator"
        yield Way(name=title, topic=topic, command=command, events=count, evaluator=True)
    if "two" in arguments.parts:
        for name, of in (("own accounts", topic), ("shared accounts", scattered)):
            for processes in (1, 2):
                if processes == 1 and of == topic:
                    continue  # measured above
                command = consumer(setting, of, largest, processes=processes)
                title = f"{processes} process{'es' * (processes > 1)}, {name}"
                yield Way(name=title, topic=of, command=command, events=count, processes=processes)
    if "peers" in arguments.parts and setting.peers is not None:
        for name, module, events in (
            ("Quix Streams, changelog", "quix", count),
            ("Bytewax, recovery", "bytewax_peer", count),
            ("SQLAlchemy, event by event", "per_event", min(PER_EVENT, count)),
        ):
            command = peer(setting, module, topic, events)
            yield Way(name=name, topic=topic, command=command, events=events, peer=True)


def median(found: Sequence[Figures], value: Callable[[Figures], float]) -> float:
    return statistics.median(map(value, found))


def report(results: dict[str, list[Figures]]) -> None:
    heads = ("events/s", "CPU µs/event", "Postgres µs", "WAL B/event", "rows/event", "batches")
    print(f"{'':<30}" + "".join(f"{head:>14}" for head in heads))
    for name, found in results.items():
        rates = sorted(one.rate for one in found)
        print(
            f"{name:<30}{median(found, lambda f: f.rate):>14,.0f}{median(found, lambda f: f.cpu):>14.1f}"
            f"{median(found, lambda f: f.postgres):>14.1f}{median(found, lambda f: f.wal_bytes / f.events):>14,.0f}"
            f"{median(found, lambda f: f.rows / f.events):>14.2f}{found[0].batches:>14,}   {found[-1].verdict}"
            f"   ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        )
    for name, found in results.items():
        if found[-1].steps:
            print(f"CPU of {name}: " + ", ".join(f"{step} {share:.0%}" for step, share in found[-1].steps.items()))


def ratios(results: dict[str, list[Figures]], batches: Sequence[int]) -> Iterator[str]:
    """Of each round, then the median: the machine is not the same from round to round."""

    def ratio(over: str, under: str, value: Callable[[Figures], float]) -> float:
        pairs = zip(results[over], results[under], strict=True)
        return statistics.median(value(a) / value(b) for a, b in pairs)

    def both(figures: Figures) -> float:
        return figures.cpu if figures.postgres_seconds is None else figures.cpu + figures.postgres

    largest = f"Kizashi, {max(batches):,}"
    for name in results:
        for batch in batches:
            mine = f"Kizashi, {batch:,}"
            if name.startswith(("Quix", "Bytewax", "SQLAlchemy")):
                yield (
                    f"{mine} over {name}: {ratio(mine, name, lambda f: f.rate):.1f} times the events/s, "
                    f"{ratio(name, mine, lambda f: f.cpu):.1f} times less CPU an event"
                )
    for two, one in (("own", largest), ("shared", "1 process, shared accounts")):
        name = f"2 processes, {two} accounts"
        if name in results:
            yield (
                f"{name}, over one: CPU {ratio(name, one, lambda f: f.cpu):.2f}, with Postgres' "
                f"{ratio(name, one, both):.2f}, events/s {ratio(name, one, lambda f: f.rate):.2f}"
            )
    if f"{largest}, no wake-ups" in results:
        for way, name in (
            ("wake-ups of the evaluator cost", largest),
            ("with it at work beside", f"{largest}, evaluator"),
        ):
            pairs = (name, f"{largest}, no wake-ups")
            hot = statistics.median(figures.hot for figures in results[name])
            yield (
                f"{way}: {ratio(*pairs, lambda f: f.cpu):.2f} times the CPU of the consumer, "
                f"{1 / ratio(*pairs, lambda f: f.rate):.2f} times as long; HOT share of the account row {hot:.3f}"
            )
    without = f"{largest}, no dedup"
    if without in results:
        yield (
            f"dedup costs {ratio(largest, without, both) - 1:+.0%} CPU with Postgres', "
            f"{ratio(without, largest, lambda f: f.rate) - 1:+.0%} of the rate"
        )


async def run(setting: Setting, topic: str, scattered: str, arguments: argparse.Namespace) -> None:
    count: int = arguments.events
    until = datetime.now(UTC)
    size = await produce(setting.bootstrap, topic, count, until)
    if "two" in arguments.parts:
        await produce(setting.bootstrap, scattered, count, until, scattered=True)
    print(
        f"# {count:,} events of {size:.0f} bytes, {PARTITIONS} partitions, lz4; {arguments.rounds} rounds", flush=True
    )
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    events = (decode(value) for _, value in records(count, until=until))
    expected = model.expected(events, int(until.timestamp() * 1000))
    results: dict[str, list[Figures]] = {}
    for _ in range(arguments.rounds):
        for way in ways(setting, topic, scattered, arguments):
            found = await measure(setting, way, expected if way.events == count else None)
            results.setdefault(way.name, []).append(found)
            print(f"# {way.name}: {found.rate:,.0f} events/s, {found.cpu:.1f} µs; {found.verdict}", flush=True)
    report(results)
    for line in ratios(results, arguments.batches):
        print(line)


def start_broker(stack: ExitStack, folder: Path, topics: Sequence[str], which: str) -> tuple[str, str | None, str]:
    """(bootstrap, incarnation, name)."""
    usable, reason = available()
    if which == "kafka" or (which == "auto" and usable):
        kafka = stack.enter_context(EmbeddedKafka(folder / "kafka", settings={"group.initial.rebalance.delay.ms": "0"}))
        for topic in topics:
            kafka.create_topic(topic, PARTITIONS)
        return kafka.bootstrap, None, "Apache Kafka"
    print(f"# no Apache Kafka: {reason}" if not usable else "# the embedded broker, as asked")
    broker = stack.enter_context(EmbeddedBroker(dict.fromkeys(topics, PARTITIONS)))
    return broker.bootstrap, broker.incarnation, "embedded broker"


def peers_python(folder: Path) -> Path | None:
    """The interpreter of the environment that ``make peers`` makes."""
    python = folder / "bin" / "python"
    if python.exists():
        return python
    print(f"# no peers: {folder} is not there (make peers)")
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1_000, 20_000], help="largest batches to try")
    parts = ["peers", "two", "dedup", "health"]
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts, help="what to measure beside the consumer")
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    parser.add_argument("--peers-venv", type=Path, default=ROOT / ".venv-peers", help="made by `make peers`")
    chosen = parser.parse_args(arguments)
    name = uuid.uuid4().hex[:8]
    topic, scattered = f"bench.{name}", f"bench.{name}.scattered"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-bench-")))
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", settings={"shared_buffers": "512MB"}))
        postgres.create_database("bench")
        migrate(postgres.dsn("bench"))
        bootstrap, incarnation, broker = start_broker(stack, folder, [topic, scattered], chosen.broker)
        print(f"# {broker}; PostgreSQL over TCP, fsync on", flush=True)
        setting = Setting(
            url=postgres.dsn("bench").replace("+asyncpg", ""),
            postmaster=int(next((folder / "postgres").rglob("postmaster.pid")).read_text().split()[0]),
            bootstrap=bootstrap,
            incarnation=incarnation,
            folder=folder,
            peers=peers_python(chosen.peers_venv) if "peers" in chosen.parts else None,
        )
        asyncio.run(prepared(setting.url))
        asyncio.run(run(setting, topic, scattered, chosen))


async def prepared(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(PEER_TABLE)
    await connection.close()


if __name__ == "__main__":
    main()
