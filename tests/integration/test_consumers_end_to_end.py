"""From a record in Kafka to facts in Postgres, on the embedded broker and on Apache Kafka."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import progress
from consumers.broker import Producer
from consumers.events import Event, Login, Payment, Ticket, Usage, encode
from consumers.loop import Pace, Status
from consumers.offsets import RESENT
from consumers.run import Options, run_consumer
from consumers.tables import dead_letters, stream_offsets
from embedded.broker import EmbeddedBroker
from health.tables import account_months, accounts, features, gaps, records, touched
from service.clock import utc_now
from tests.conftest import AnyBroker

PATIENCE = 30.0


def options(broker: AnyBroker, topic: str, **changes: Any) -> Options:
    embedded = isinstance(broker, EmbeddedBroker)
    values: dict[str, Any] = {
        # A rebalance of the embedded broker takes the session time-out less a second; Kafka allows no less than 6 s.
        "session_timeout_ms": 2_000 if embedded else 10_000,
        "bootstrap": broker.bootstrap,
        "topics": [topic],
        "group": f"g-{topic}",
        "broker_incarnation": broker.incarnation if isinstance(broker, EmbeddedBroker) else None,
    }
    return Options(**{**values, **changes})


@asynccontextmanager
async def consuming(
    engine: AsyncEngine, chosen: Options, status: Status | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    task = asyncio.create_task(run_consumer(engine, chosen, stop, utc_now, status))
    try:
        yield task
    finally:
        stop.set()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)


async def until(engine: AsyncEngine, statement: Any, wanted: Any, task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            async with engine.connect() as connection:
                found = (await connection.execute(statement)).scalar()
            if found == wanted:
                return
            if task.done():
                task.result()
                pytest.fail(f"the consumer ended; {found!r} instead of {wanted!r}")
            await asyncio.sleep(0.05)


async def produce(broker: AnyBroker, topic: str, events: list[Event]) -> None:
    producer = Producer(broker.bootstrap)
    try:
        await producer.send_many(topic, [(e.account_id.encode(), encode(e), ()) for e in events])
    finally:
        await producer.stop()


def some_events(count: int, at: datetime) -> list[Event]:
    found: list[Event] = []
    for n in range(count):
        common: dict[str, Any] = {
            "event_id": f"e{n}", "account_id": f"acme-{n % 7}", "user_id": f"u{n % 3}",
            "timestamp": at + timedelta(seconds=n),
        }  # fmt: skip
        found.append(Login(**common) if n % 5 == 0 else Usage(feature="export", quantity=1.5, **common))
    return found


async def test_events_become_facts_and_a_second_consumer_adds_nothing(
    any_broker: AnyBroker, topic: str, engine: AsyncEngine
) -> None:
    at = utc_now() - timedelta(hours=1)
    events = some_events(200, at)
    urgent: list[Event] = [
        Payment(payment_id="p1", status="failed", amount=12.5, event_id="p", account_id="acme-0", timestamp=at),
        Ticket(ticket_id="t1", status="open", event_id="t", account_id="acme-1", timestamp=at),
    ]
    await produce(any_broker, topic, [*events, *urgent, *events[:50]])
    chosen = options(any_broker, topic)
    total = select(func.sum(stream_offsets.c.records)).where(stream_offsets.c.topic == topic)
    async with consuming(engine, chosen) as task:
        await until(engine, total, 252, task)
    async with engine.connect() as connection:
        sums = (await connection.execute(select(func.sum(accounts.c.events), func.sum(accounts.c.logins)))).one()
        used = (await connection.execute(select(func.sum(features.c.quantity)))).scalar_one()
        months = (await connection.execute(text("SELECT sum(n) FROM account_months, unnest(events) AS n"))).scalar_one()
        kinds = (await connection.execute(select(records.c.kind).order_by(records.c.kind))).scalars().all()
        urgent_rows = (await connection.execute(select(touched.c.account_ids).where(touched.c.urgent))).scalars().all()
        known = (await connection.execute(select(func.count()).select_from(account_months))).scalar_one()
    assert tuple(map(int, sums)) == (200, 40)
    assert used == 160 * 1500
    assert months == 200
    assert kinds == ["payment", "ticket"]
    assert {account for row in urgent_rows for account in row} == {"acme-0", "acme-1"}
    assert known in (7, 14)

    # Once more, with some that were sent before.
    await produce(any_broker, topic, events[:30])
    async with consuming(engine, chosen) as task:
        await until(engine, total, 282, task)
        through = select(func.min(stream_offsets.c.complete_through)).where(stream_offsets.c.topic == topic)
        async with asyncio.timeout(PATIENCE):
            while True:
                async with engine.connect() as connection:
                    found = await progress.read(connection, chosen.group, [topic])
                    first = (await connection.execute(through)).scalar_one()
                if found.complete_through is not None and found.complete_through > utc_now() - timedelta(seconds=5):
                    break
                await asyncio.sleep(0.1)
        assert found.complete_through == first
        assert found.stopped == ()
    async with engine.connect() as connection:
        assert int((await connection.execute(select(func.sum(accounts.c.events)))).scalar_one()) == 200


async def test_poison_is_kept_with_its_bytes_while_its_neighbours_land(
    any_broker: AnyBroker, topic: str, engine: AsyncEngine
) -> None:
    at = utc_now() - timedelta(hours=1)
    good = some_events(3, at)
    poison = b'{"kind":"login","event_id":"\\u0000","account_id":7}'
    future = encode(Login(event_id="later", account_id="acme-1", timestamp=datetime(2099, 1, 1, tzinfo=UTC)))
    producer = Producer(any_broker.bootstrap)
    lot = [(b"k", encode(good[0]), ()), (b"k", poison, [("trace", b"\xff\x00")]), (b"k", encode(good[1]), ()),
           (b"k", future, ()), (b"k", None, ()), (b"k", encode(good[2]), ())]  # fmt: skip
    places = await producer.send_many(topic, [r for r in lot if r[1] is not None])  # type: ignore[misc]
    await producer.stop()
    async with consuming(engine, options(any_broker, topic)) as task:
        await until(engine, select(func.sum(accounts.c.events)), 3, task)
        await until(engine, select(func.count()).select_from(dead_letters), 2, task)
    async with engine.connect() as connection:
        rows = (await connection.execute(select(dead_letters).order_by(dead_letters.c.record_offset))).all()
    assert [(r.reason, r.value, (r.partition, r.record_offset)) for r in rows] == [
        ("missing_field", poison, places[1]),
        ("future", future, places[3]),
    ]
    assert rows[0].headers == [["trace", "\\xff\ufffd"]]
    assert {error["field"] for error in rows[0].errors} == {"account_id", "timestamp"}
    assert all(error["problem"] and error["remedy"] for error in rows[0].errors)
    assert rows[0].status == "open"


async def test_a_truncated_or_recreated_topic_stops_the_partition(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    """The embedded broker under a constant incarnation stands for a cluster whose topic was deleted and made anew."""
    at = utc_now() - timedelta(hours=1)
    await produce(broker, topic, some_events(200, at))
    chosen = options(broker, topic, broker_incarnation="the-same")
    total = select(func.sum(stream_offsets.c.records)).where(stream_offsets.c.topic == topic)
    async with consuming(engine, chosen) as task:
        await until(engine, total, 200, task)
    broker.delete_topic(topic)
    broker.create_topic(topic, 4)
    events = some_events(600, at + timedelta(minutes=20))
    await produce(broker, topic, [e for e in events if e.account_id == "acme-0"])
    status = Status()
    async with consuming(engine, chosen, status) as task:
        stopped = select(func.count()).select_from(stream_offsets).where(stream_offsets.c.stopped_reason.is_not(None))
        held = select(func.count()).select_from(stream_offsets).where(stream_offsets.c.last_offset.is_not(None))
        async with engine.connect() as connection:
            wanted = (await connection.execute(held)).scalar_one()
        await until(engine, stopped, wanted, task)
        assert len(status.problems()) >= wanted
    async with engine.connect() as connection:
        reasons = (await connection.execute(select(stream_offsets.c.stopped_reason))).scalars().all()
        assert (await connection.execute(total)).scalar_one() == 200
    assert all("made anew" in reason for reason in reasons if reason is not None)


@pytest.mark.parametrize(("resent", "state"), [("", "lost"), (RESENT, "refilled")])
async def test_a_volatile_log_that_is_gone_starts_anew_and_leaves_a_gap(
    resent: str, state: str, broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    at = utc_now() - timedelta(hours=1)
    await produce(broker, topic, some_events(50, at))
    total = select(func.sum(accounts.c.events))
    complete = select(func.count(stream_offsets.c.complete_through))
    async with consuming(engine, options(broker, topic, broker_incarnation=f"{resent}one")) as task:
        await until(engine, total, 50, task)
        await until(engine, complete, 4, task)
    broker.delete_topic(topic)
    broker.create_topic(topic, 4)
    async with engine.begin() as connection:
        known_until = (await connection.execute(select(func.min(stream_offsets.c.complete_through)))).scalar_one()
        await connection.execute(delete(touched))
    await produce(broker, topic, some_events(70, at))  # 50 of them were applied before
    began = utc_now()
    async with consuming(engine, options(broker, topic, broker_incarnation=f"{resent}two")) as task:
        await until(engine, total, 70, task)
    async with engine.connect() as connection:
        epochs = (await connection.execute(select(stream_offsets.c.epoch, stream_offsets.c.cluster_id))).all()
        gap = (await connection.execute(select(gaps))).one()
        everyone = select(func.count()).select_from(touched).where(touched.c.everyone_since.is_not(None))
        looked_again = (await connection.execute(everyone)).scalar_one()
    assert {tuple(row) for row in epochs} == {(1, f"volatile:{resent}two")}
    assert (gap.source, gap.from_at, gap.state) == (None, known_until, state)
    assert began < gap.until_at < utc_now()
    assert looked_again == (state == "lost")


async def test_two_consumers_share_the_partitions_and_one_takes_over(
    any_broker: AnyBroker, topic: str, engine: AsyncEngine
) -> None:
    at = utc_now() - timedelta(hours=1)
    events = some_events(400, at)
    chosen = options(any_broker, topic, pace=Pace(live_records=10, linger_seconds=0.02))
    total = select(func.sum(accounts.c.events))
    async with consuming(engine, chosen) as first:
        await produce(any_broker, topic, events[:100])
        async with consuming(engine, chosen) as second:
            await produce(any_broker, topic, events[100:300])
            await until(engine, total, 300, second)
        await produce(any_broker, topic, events[300:])
        await until(engine, total, 400, first)
