"""The loop when its surroundings fail: Postgres killed and restarted, a consumer that has silently stopped reading."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.applier import Applier, Limits
from consumers.broker import Consumer, Partition, Record
from consumers.events import Login, encode
from consumers.loop import Loop, Pace, Status, Stuck
from consumers.offsets import Log, Offsets
from consumers.records import Position
from consumers.tables import stream_offsets
from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka
from embedded.postgres import EmbeddedPostgres
from embedded.process import free_port
from health.tables import accounts
from service.clock import utc_now
from service.db import make_engine, migrate
from tests.conftest import in_thread
from tests.integration.test_consumers_end_to_end import consuming, options, produce, some_events, until


async def test_a_database_that_is_killed_is_waited_for_and_nothing_counts_twice(
    broker: EmbeddedBroker, topic: str, tmp_path: Path
) -> None:
    at = utc_now() - timedelta(hours=1)
    events = some_events(300, at)
    total = select(func.sum(accounts.c.events))
    with EmbeddedPostgres(tmp_path / "postgres", port=free_port()) as postgres:
        in_thread(lambda: migrate(postgres.dsn("postgres")))
        engine = make_engine(postgres.dsn("postgres"), timeout_seconds=5)
        status = Status()
        async with consuming(engine, options(broker, topic), status) as task:
            await produce(broker, topic, events[:100])
            await until(engine, total, 100, task)
            postgres.kill()
            await produce(broker, topic, events[100:200])
            async with asyncio.timeout(20):
                while "the database is away" not in status.problems():  # noqa: ASYNC110  the status is plain data
                    await asyncio.sleep(0.05)
            postgres.start()
            await produce(broker, topic, events[200:])
            await until(engine, total, 300, task)
            assert status.problems() == []
            assert not task.done()
        async with engine.connect() as connection:
            read = (await connection.execute(select(func.sum(stream_offsets.c.records)))).scalar_one()
        await engine.dispose()
    assert read == 300


class DeafConsumer(Consumer):
    """Holds its partitions, answers its broker, and never delivers anything."""

    async def getmany(self, max_records: int, timeout: float) -> dict[Partition, list[Record]]:
        await asyncio.sleep(timeout)
        return {}


async def test_a_consumer_that_reads_nothing_while_the_broker_has_more_ends(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    consumer = DeafConsumer(broker.bootstrap, [topic], group=f"g-{topic}", session_timeout_ms=2_000)
    loop = Loop(
        consumer,
        Applier(engine, "g", Limits()),
        Offsets(engine, "g"),
        clock=utc_now,
        pace=Pace(stuck_seconds=2.0),
        status=Status(),
        incarnation=broker.incarnation,
    )
    await consumer.start()
    stop = asyncio.Event()
    try:
        running = asyncio.create_task(loop.run(stop))
        await asyncio.sleep(4)
        assert not running.done(), "idle is not stuck"
        await produce(broker, topic, some_events(5, utc_now() - timedelta(hours=1)))
        with pytest.raises(Stuck, match="the broker has"):
            await asyncio.wait_for(running, 20)
    finally:
        await consumer.stop()


@pytest.mark.kafka
async def test_the_marker_of_a_transaction_is_neither_lag_nor_stuck(
    kafka: EmbeddedKafka, topic: str, engine: AsyncEngine
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"t-{topic}")
    await producer.start()
    at = utc_now() - timedelta(hours=1)
    async with producer.transaction():
        for n in range(3):
            event = Login(event_id=f"e{n}", account_id="acme", timestamp=at)
            await producer.send_and_wait(topic, encode(event), key=b"acme", partition=1)
    await producer.stop()
    chosen = options(kafka, topic, pace=Pace(stuck_seconds=2.0))
    row = select(stream_offsets.c.next_offset, stream_offsets.c.complete_through).where(stream_offsets.c.partition == 1)
    for _ in range(2):  # once from the records on, once from behind the marker on
        began = utc_now()
        async with consuming(engine, chosen) as task:
            await until(engine, select(func.sum(accounts.c.events)), 3, task)
            await until(engine, select(func.min(stream_offsets.c.complete_through) > began), True, task)
            await asyncio.sleep(4)
            assert not task.done(), "idle is not stuck"
            async with engine.connect() as connection:
                stands_at, through = (await connection.execute(row)).one()
        assert stands_at == 4, "past the marker, where the log ends"
        assert utc_now() - through < timedelta(seconds=5)


class SlowConsumer(Consumer):
    """One record, then none."""

    given = 0

    async def getmany(self, max_records: int, timeout: float) -> dict[Partition, list[Record]]:
        if self.given:
            await asyncio.sleep(timeout)
            return {}
        found = await super().getmany(1, timeout)
        self.given = sum(map(len, found.values()))
        return found


async def test_a_record_stamped_in_the_future_does_not_make_a_lagging_partition_complete(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    at = utc_now() - timedelta(hours=1)
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    for n in range(5):
        event = Login(event_id=f"e{n}", account_id="acme", timestamp=at)
        stamp = int((utc_now() + timedelta(days=1000)).timestamp() * 1000)
        await producer.send_and_wait(topic, encode(event), key=b"acme", partition=1, timestamp_ms=stamp)
    await producer.stop()
    consumer = SlowConsumer(broker.bootstrap, [topic], group=f"g-{topic}", session_timeout_ms=2_000)
    loop = Loop(consumer, Applier(engine, "g", Limits()), Offsets(engine, "g"), clock=utc_now, pace=Pace(),
                status=Status(), incarnation=broker.incarnation)  # fmt: skip
    await consumer.start()
    stop = asyncio.Event()
    running = asyncio.create_task(loop.run(stop))
    try:
        await until(engine, select(func.sum(stream_offsets.c.records)), 1, running)
        complete = select(func.count(stream_offsets.c.complete_through))
        await until(engine, complete, 3, running)  # the other partitions
        await asyncio.sleep(1.5)
        async with engine.connect() as connection:
            assert (await connection.execute(complete)).scalar_one() == 3
    finally:
        stop.set()
        await running
        await consumer.stop()


async def test_a_stop_that_the_database_did_not_take_is_said_again(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    failed = 0

    class Failing(Offsets):
        async def stop(self, position: Position, reason: str, now: datetime) -> None:
            nonlocal failed
            if not failed:
                failed = 1
                raise ConnectionResetError("cut")
            await super().stop(position, reason, now)

    log = Log(cluster_id="another", topic_id=None, start=0, end=9)
    await Offsets(engine, "g").open({(topic, 0): log}, utc_now())
    consumer = Consumer(broker.bootstrap, [topic], group=f"g-{topic}", session_timeout_ms=2_000)
    loop = Loop(consumer, Applier(engine, "g", Limits()), Failing(engine, "g"), clock=utc_now, pace=Pace(),
                status=Status(), incarnation=broker.incarnation)  # fmt: skip
    await consumer.start()
    stop = asyncio.Event()
    running = asyncio.create_task(loop.run(stop))
    try:
        await until(engine, select(func.count(stream_offsets.c.stopped_reason)), 1, running)
    finally:
        stop.set()
        await running
        await consumer.stop()
    assert failed == 1
