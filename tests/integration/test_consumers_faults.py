"""The loop when its surroundings fail: Postgres killed and restarted, a consumer that has silently stopped reading."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.applier import Applier, Limits
from consumers.broker import Consumer, Partition, Record
from consumers.loop import Loop, Pace, Status, Stuck
from consumers.offsets import Offsets
from consumers.tables import stream_offsets
from embedded.broker import EmbeddedBroker
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
