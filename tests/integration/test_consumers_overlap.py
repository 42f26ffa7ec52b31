"""The next batch is prepared while one is being written: whatever becomes of that one, every event counts once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.applier import Applier, Limits
from consumers.broker import Consumer, Producer
from consumers.dedup import Dedup
from consumers.events import Event, Login, Usage, encode
from consumers.loop import Loop, Pace, Status
from consumers.offsets import Log, Offsets
from consumers.poison import PoisonLimits
from consumers.records import Batch, DatabaseAway, LostPartition
from consumers.store import Facts, Store
from consumers.tables import dead_letters, stream_offsets
from embedded.broker import EmbeddedBroker
from health.tables import accounts
from service.clock import utc_now
from tests.integration.test_consumers_end_to_end import produce, some_events, until
from tests.integration.test_consumers_store import AT, NOW, connection, login, polled
from tests.naive_facts import Connection

__all__ = ["connection"]
LOG = Log(cluster_id="c", topic_id=None, start=0, end=10**6)
PLACE = ("t", 0)
EVENTS = "SELECT coalesce(sum(events), 0)::int FROM accounts"


class Pair:
    """A consumer with two batches: both are prepared before the first is stored."""

    def __init__(self, engine: AsyncEngine, applier: Applier | None = None) -> None:
        self.engine = engine
        self.applier = applier or Applier(engine, "g", Limits())

    async def prepare(self, first: list[Event], second: list[Event]) -> tuple[Any, Any]:
        rows = await Offsets(self.engine, "g").open({PLACE: LOG}, NOW)
        position = {PLACE: rows[PLACE].position}
        one = await self.applier.prepare(polled(first), position, now=NOW, catching_up=False)
        assert one is not None
        behind = polled(second, first=one.positions[PLACE].next_offset)
        other = await self.applier.prepare(behind, one.positions, now=NOW, catching_up=False)
        assert other is not None
        return one, other


async def test_the_batch_behind_knows_what_the_one_before_it_has(engine: AsyncEngine, connection: Connection) -> None:
    pair = Pair(engine)
    one, other = await pair.prepare([login(1), login(2)], [login(2), login(3)])
    assert other.duplicates == 1
    for prepared in (one, other):
        await pair.applier.store(prepared)
    assert await connection.fetchval(EVENTS) == 3


async def test_it_knows_it_even_when_the_memory_had_no_room(engine: AsyncEngine, connection: Connection) -> None:
    """The days are dropped and read again, from a database that does not have the first batch yet."""
    pair = Pair(engine, Applier(engine, "g", Limits(), dedup=Dedup(engine, max_hashes=1)))
    yesterday: Event = Login(event_id="y", account_id="acme", timestamp=AT - timedelta(days=1))
    one, other = await pair.prepare([yesterday, login(1)], [yesterday, login(1), login(2)])
    for prepared in (one, other):
        await pair.applier.store(prepared)
    assert await connection.fetchval(EVENTS) == 3


async def test_an_event_that_was_refused_is_no_duplicate_for_the_batch_behind(
    engine: AsyncEngine, connection: Connection
) -> None:
    await connection.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE numeric_value_out_of_range USING MESSAGE = 'refused'; END $$""")
    await connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON features FOR EACH ROW WHEN (NEW.feature = 'bad')"
        " EXECUTE FUNCTION refuse()"
    )
    pair = Pair(engine)
    bad: Event = Usage(feature="bad", event_id="u", account_id="acme", timestamp=AT)
    one, other = await pair.prepare([login(1), bad], [bad, login(1), login(2)])
    assert (await pair.applier.store(one)).duplicates == 0
    assert await connection.fetchval("SELECT count(*) FROM dead_letters") == 1
    await connection.execute("DROP TRIGGER refuse ON features")
    assert (await pair.applier.store(other)).duplicates == 1
    assert await connection.fetchval(EVENTS) == 3
    assert await connection.fetchval("SELECT quantity FROM features") == 1000


async def test_a_lost_batch_takes_the_one_behind_it_along(engine: AsyncEngine, connection: Connection) -> None:
    pair = Pair(engine)
    one, other = await pair.prepare([login(1)], [login(2)])
    await connection.execute("UPDATE stream_offsets SET epoch = epoch + 1")
    for prepared in (one, other):
        with pytest.raises(LostPartition):
            await pair.applier.store(prepared)
    assert await connection.fetchval(EVENTS) == 0
    for prepared in await pair.prepare([login(1)], [login(1), login(2)]):
        await pair.applier.store(prepared)
    assert await connection.fetchval(EVENTS) == 2


async def test_the_batch_behind_never_comes_first(engine: AsyncEngine, connection: Connection) -> None:
    pair = Pair(engine)
    one, other = await pair.prepare([login(1)], [login(2)])
    with pytest.raises(LostPartition):
        await pair.applier.store(other)
    await pair.applier.store(one)
    assert await connection.fetchval(EVENTS) == 1


async def test_a_batch_is_tried_again_and_the_one_behind_it_follows(
    engine: AsyncEngine, connection: Connection
) -> None:
    class Away(Store):
        tries = 0

        async def write(self, batch: Batch, facts: Facts) -> None:
            self.tries += 1
            if self.tries < 3:
                raise DatabaseAway("away")
            await super().write(batch, facts)

    pair = Pair(engine)
    one, other = await pair.prepare([login(1), login(2)], [login(2), login(3)])
    pair.applier._store = Away(engine, "g")
    for _ in range(2):
        with pytest.raises(DatabaseAway):
            await pair.applier.store(one)
    for prepared in (one, other):
        await pair.applier.store(prepared)
    assert await connection.fetchval(EVENTS) == 3


class Gated(Store):
    """Writes nothing until the gate is opened; says how many wait at it."""

    def __init__(self, engine: AsyncEngine, group: str) -> None:
        super().__init__(engine, group)
        self.gate, self.arrived = asyncio.Event(), asyncio.Event()
        self.inside = self.most = 0

    async def write(self, batch: Batch, facts: Facts) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.arrived.set()
        try:
            await self.gate.wait()
            await super().write(batch, facts)
        finally:
            self.inside -= 1


class Counting(Applier):
    """Knows how many batches were prepared."""

    prepared = 0

    async def prepare(self, *args: Any, **more: Any) -> Any:
        found = await super().prepare(*args, **more)
        self.prepared += found is not None
        return found


@asynccontextmanager
async def looping(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine, **more: Any
) -> AsyncIterator[tuple[asyncio.Task[None], Counting, Gated]]:
    """A loop of small batches whose writes wait at a gate."""
    group = f"g-{topic}"
    consumer = Consumer(broker.bootstrap, [topic], group=group, session_timeout_ms=2_000)
    applier, store = Counting(engine, group, Limits()), Gated(engine, group)
    applier._store = store
    loop = Loop(
        consumer,
        applier,
        Offsets(engine, group),
        clock=utc_now,
        pace=Pace(live_records=20, behind_records=20, linger_seconds=0.01),
        status=Status(),
        incarnation=broker.incarnation,
        **more,
    )
    await consumer.start()
    stop = asyncio.Event()
    task = asyncio.create_task(loop.run(stop))
    try:
        yield task, applier, store
    finally:
        stop.set()
        store.gate.set()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)
        await consumer.stop()


async def prepared(applier: Counting, count: int) -> None:
    async with asyncio.timeout(20):
        while applier.prepared < count:  # noqa: ASYNC110  plain data
            await asyncio.sleep(0.02)


TOTAL = select(func.coalesce(func.sum(accounts.c.events), 0))


async def test_one_batch_is_written_at_a_time_and_one_more_prepared(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    await produce(broker, topic, some_events(100, utc_now() - timedelta(hours=1)))
    async with looping(broker, topic, engine) as (task, applier, store):
        await prepared(applier, 2)
        await asyncio.sleep(0.5)
        assert (applier.prepared, store.inside) == (2, 1)
        store.gate.set()
        await until(engine, TOTAL, 100, task)
    assert store.most == 1


async def test_killed_with_a_batch_in_flight_and_one_behind_it_nothing_is_lost_or_counts_twice(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    await produce(broker, topic, some_events(100, utc_now() - timedelta(hours=1)))
    async with looping(broker, topic, engine) as (task, applier, _):
        await prepared(applier, 2)
        task.cancel()
    async with engine.connect() as connection:
        assert (await connection.execute(TOTAL)).scalar_one() == 0
    async with looping(broker, topic, engine) as (task, _, store):
        store.gate.set()
        await until(engine, TOTAL, 100, task)


async def test_a_partition_lost_with_a_batch_in_flight_is_opened_anew(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    await produce(broker, topic, some_events(100, utc_now() - timedelta(hours=1)))
    async with looping(broker, topic, engine) as (task, applier, store):
        await prepared(applier, 2)
        async with engine.begin() as connection:
            await connection.execute(update(stream_offsets).values(epoch=stream_offsets.c.epoch + 1))
        store.gate.set()
        await until(engine, TOTAL, 100, task)
        records = select(func.sum(stream_offsets.c.records))
        await until(engine, records, 100, task)


async def test_a_partition_stopped_over_poison_keeps_what_was_prepared_behind_it(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    """Two partitions: what the poisoned one still has in the batch behind is not applied, what the other has is."""
    at = utc_now() - timedelta(hours=1)
    events = [Login(event_id=f"e{n}", account_id=f"a{n % 40}", timestamp=at) for n in range(200)]
    producer = Producer(broker.bootstrap)
    places = await producer.send_many(topic, [(e.account_id.encode(), encode(e), ()) for e in events])
    ill = places[0][0]
    poison: list[tuple[bytes, bytes, Any]] = [(events[0].account_id.encode(), b"poison", ())] * 30
    await producer.send_many(topic, poison)
    late = [Login(event_id=f"l{n}", account_id=f"a{n % 40}", timestamp=at) for n in range(200)]
    after = await producer.send_many(topic, [(e.account_id.encode(), encode(e), ()) for e in late])
    await producer.stop()
    healthy = sum(place[0] != ill for place in (*places, *after))
    async with looping(broker, topic, engine, poison=PoisonLimits(in_a_row=10)) as (task, _, store):
        store.gate.set()
        stopped = select(func.count()).where(stream_offsets.c.stopped_reason.is_not(None))
        await until(engine, stopped, 1, task)
        others = select(func.sum(stream_offsets.c.records)).where(stream_offsets.c.partition != ill)
        await until(engine, others, healthy, task)
        await asyncio.sleep(0.5)
        async with engine.connect() as connection:
            row = (await connection.execute(select(stream_offsets).where(stream_offsets.c.partition == ill))).one()
            letters = (await connection.execute(select(func.max(dead_letters.c.record_offset)))).scalar_one()
            total = (await connection.execute(TOTAL)).scalar_one()
    before_poison = sum(place[0] == ill for place in places)
    assert before_poison <= letters < row.next_offset < before_poison + 30 + 20
    applied_late = max(row.next_offset - before_poison - 30, 0)
    assert total == healthy + before_poison + applied_late
