"""Events per second and CPU per event of the whole consumer, beside a raw aiokafka consume of the same topic.

    python -m bench.ingest --events 200000

One process consumes; the broker (Apache Kafka when Java and its jars are at hand, else the embedded one) and Postgres
run beside it on loopback, and share the machine. Rates run from the first record delivered to the last durable write;
CPU is this process's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.workload import records
from consumers.applier import Applied, Applier, Limits
from consumers.broker import Consumer, Partition, Producer, Record
from consumers.loop import Loop, Pace, Status
from consumers.offsets import Offsets
from consumers.records import Position
from consumers.run import relax_collector
from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka, available
from embedded.postgres import EmbeddedPostgres
from service.clock import utc_now
from service.db import make_engine, migrate

PARTITIONS = 32
CHUNK = 2_000
GIVE_UP_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one way to consume ``events`` events."""

    events: int
    seconds: float
    cpu_seconds: float
    batches: int = 0

    def line(self, name: str) -> str:
        rate, cpu = self.events / self.seconds, self.cpu_seconds / self.events * 1e6
        return f"{name:<24}{rate:>12,.0f}{cpu:>16.1f}{self.seconds:>10.2f}{self.batches or '':>10}"


class TimedApplier(Applier):
    """Notes when the first record came and when the last was durable."""

    def __init__(self, engine: AsyncEngine, group: str, expected: int, stop: asyncio.Event) -> None:
        super().__init__(engine, group, Limits())
        self.expected, self.stop = expected, stop
        self.done = self.batches = 0
        self.began: tuple[float, float] | None = None
        self.ended = (0.0, 0.0)

    async def apply(
        self,
        polled: Mapping[Partition, Sequence[Record]],
        positions: Mapping[Partition, Position],
        *,
        now: datetime,
        catching_up: bool,
    ) -> Applied | None:
        self.began = self.began or (time.perf_counter(), time.process_time())
        applied = await super().apply(polled, positions, now=now, catching_up=catching_up)
        self.done += sum(map(len, polled.values()))
        self.batches += 1
        self.ended = (time.perf_counter(), time.process_time())
        if self.done >= self.expected:
            self.stop.set()
        return applied


async def produce(bootstrap: str, topic: str, count: int) -> float:
    """Bytes of a value on average."""
    producer = Producer(bootstrap, linger_ms=5, timeout_seconds=30)
    size = 0
    try:
        stream = records(count, until=datetime.now(UTC))
        while chunk := list(itertools.islice(stream, CHUNK)):
            size += sum(len(value) for _, value in chunk)
            await producer.send_many(topic, [(key, value, ()) for key, value in chunk])
    finally:
        await producer.stop()
    return size / count


async def raw_consume(bootstrap: str, topic: str, count: int) -> Figures:
    """aiokafka itself, its group member reading everything and looking at nothing."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=f"raw-{topic}", auto_offset_reset="earliest",
        enable_auto_commit=False,
    )  # fmt: skip
    await consumer.start()
    try:
        seen = 0
        began: tuple[float, float] | None = None
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while seen < count:
                fetched = await consumer.getmany(timeout_ms=200, max_records=20_000)
                if fetched:
                    began = began or (time.perf_counter(), time.process_time())
                    seen += sum(map(len, fetched.values()))
        assert began is not None
        return Figures(events=seen, seconds=time.perf_counter() - began[0], cpu_seconds=time.process_time() - began[1])
    finally:
        await consumer.stop()


async def pipeline(
    engine: AsyncEngine, bootstrap: str, topic: str, count: int, incarnation: str | None, pace: Pace
) -> Figures:
    """The consumer role as it runs in production, until the topic is read to its end."""
    relax_collector()
    group, stop = f"bench-{topic}-{pace.behind_records}", asyncio.Event()
    consumer = Consumer(bootstrap, [topic], group=group)
    applier = TimedApplier(engine, group, count, stop)
    loop = Loop(
        consumer, applier, Offsets(engine, group), clock=utc_now, pace=pace, status=Status(), incarnation=incarnation
    )
    await consumer.start()
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            await loop.run(stop)
    finally:
        await consumer.stop()
    assert applier.began is not None
    return Figures(
        events=applier.done,
        seconds=applier.ended[0] - applier.began[0],
        cpu_seconds=applier.ended[1] - applier.began[1],
        batches=applier.batches,
    )


async def check(engine: AsyncEngine, count: int) -> str:
    """The facts against what was sent."""
    async with engine.connect() as connection:
        events = (await connection.execute(text("SELECT sum(events)::bigint FROM accounts"))).scalar_one()
        months = (
            await connection.execute(text("SELECT sum(n)::bigint FROM account_months, unnest(events) AS n"))
        ).scalar_one()
    return "exact" if events == months == count else f"WRONG: {events} and {months} of {count}"


async def clear(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        names = (
            await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        ).scalars()
        tables = ", ".join(f'"{name}"' for name in names if name != "alembic_version")
        await connection.execute(text(f"TRUNCATE {tables}"))


def start_broker(stack: ExitStack, folder: Path, topic: str, which: str) -> tuple[str, str | None, str]:
    """(bootstrap, incarnation, name)."""
    usable, reason = available()
    if which == "kafka" or (which == "auto" and usable):
        kafka = stack.enter_context(EmbeddedKafka(folder / "kafka", settings={"group.initial.rebalance.delay.ms": "0"}))
        kafka.create_topic(topic, PARTITIONS)
        return kafka.bootstrap, None, "Apache Kafka"
    print(f"# no Apache Kafka: {reason}" if not usable else "# the embedded broker, as asked")
    broker = stack.enter_context(EmbeddedBroker({topic: PARTITIONS}))
    return broker.bootstrap, broker.incarnation, "embedded broker"


async def run(bootstrap: str, incarnation: str | None, topic: str, url: str, arguments: argparse.Namespace) -> None:
    count: int = arguments.events
    size = await produce(bootstrap, topic, count)
    print(f"# {count:,} events of {size:.0f} bytes, {PARTITIONS} partitions, lz4")
    engine = make_engine(url, timeout_seconds=60, application_name="kizashi-bench")
    raw = await raw_consume(bootstrap, topic, count)
    print(f"{'':<24}{'events/s':>12}{'CPU µs/event':>16}{'s':>10}{'batches':>10}")
    print(raw.line("raw aiokafka consume"))
    for size_of_batch in arguments.batches:
        pace = Pace(behind_records=size_of_batch, behind_from=0)
        await clear(engine)
        found = await pipeline(engine, bootstrap, topic, count, incarnation, pace)
        verdict = await check(engine, count)
        share = (found.events / found.seconds) / (raw.events / raw.seconds)
        print(found.line(f"pipeline, {size_of_batch:,}") + f"   {share:.2f} of raw, facts {verdict}")
    await engine.dispose()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[1_000, 20_000], help="largest batches to try")
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    parser.add_argument("--profile", type=Path, help="write cProfile statistics of the pipeline runs here")
    chosen = parser.parse_args(arguments)
    topic = f"bench.{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-bench-")))
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", settings={"shared_buffers": "512MB"}))
        postgres.create_database("bench")
        migrate(postgres.dsn("bench"))
        bootstrap, incarnation, name = start_broker(stack, folder, topic, chosen.broker)
        print(f"# {name}; PostgreSQL over TCP, fsync on")
        work: Any = run(bootstrap, incarnation, topic, postgres.dsn("bench"), chosen)
        if chosen.profile is None:
            asyncio.run(work)
            return
        import cProfile

        profile = cProfile.Profile()
        profile.runcall(asyncio.run, work)
        profile.dump_stats(chosen.profile)


if __name__ == "__main__":
    main()
