"""Imports on a real Postgres and the embedded broker: paced by the consumers, resumed, never doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import Producer
from consumers.events import Usage
from consumers.importing import ImportRow, Progress, send_import
from consumers.run import Options, run_consumer
from embedded.broker import EmbeddedBroker
from health.tables import accounts, features, imports
from service.clock import utc_now
from tests.conftest import TOPIC_PARTITIONS

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
EVENTS = 6_000
GROUP = "importing"


class Crash(Exception):
    """Stands for the end of the sending process."""


def rows(crash_after: int | None = None, refused: frozenset[int] = frozenset()) -> Iterator[ImportRow]:
    for number in range(EVENTS):
        if number == crash_after:
            raise Crash
        if number in refused:
            yield None
            continue
        at = START + timedelta(minutes=number)
        yield (
            Usage(
                event_id=f"e{number}", account_id=f"a{number % 7}", timestamp=at, source="import", feature="report",
            ),
        )  # fmt: skip


async def test_an_import_cut_off_twice_ends_in_the_same_facts(engine: AsyncEngine) -> None:
    told: list[Progress] = []
    with EmbeddedBroker({"events": TOPIC_PARTITIONS}) as broker:
        stop, consuming = _consume(engine, broker)
        for crash_after in (2_500, 4_100):
            with pytest.raises(Crash):
                await _send(engine, broker, rows(crash_after), told.append)
        stored = await _row(engine)
        assert 0 < stored.rows_sent < 4_100 and stored.finished_at is None
        done = await _send(engine, broker, rows(), told.append)
        again = await _send(engine, broker, rows(), told.append)
        await _until(engine)
        stop.set()
        await consuming
    assert done.finished and done.events_sent == EVENTS and again == done
    assert (await _row(engine)).finished_at is not None
    async with engine.connect() as conn:
        per_account = {row.account_id: row.events for row in await conn.execute(select(accounts))}
        quantity = await conn.scalar(select(func.sum(features.c.quantity)))
    assert per_account == {f"a{n}": len(range(n, EVENTS, 7)) for n in range(7)}
    assert quantity == EVENTS * 1000
    assert [p.events_sent for p in told if not p.waiting_for][-1] == EVENTS


async def test_what_a_volatile_broker_lost_unread_is_sent_again(engine: AsyncEngine) -> None:
    with EmbeddedBroker({"events": TOPIC_PARTITIONS}) as broker:
        stop, consuming = _consume(engine, broker)
        with pytest.raises(Crash):
            await _send(engine, broker, rows(2_000), lambda _: None)
        stop.set()
        await consuming
        # Acknowledged, and gone with the broker.
        with pytest.raises(Crash):
            await _send(engine, broker, rows(4_000), lambda _: None, max_unread_bytes=None)
    with EmbeddedBroker({"events": TOPIC_PARTITIONS}) as broker:
        stop, consuming = _consume(engine, broker)
        await _send(engine, broker, rows(), lambda _: None)
        assert await _sum(engine) == EVENTS
        stop.set()
        await consuming


async def test_no_more_than_the_bound_is_ever_unread(engine: AsyncEngine) -> None:
    with EmbeddedBroker({"events": TOPIC_PARTITIONS}) as broker:
        stop, consuming = _consume(engine, broker)
        waited_for: list[str | None] = []

        def note(progress: Progress) -> None:
            waited_for.append(progress.waiting_for)
            if len(waited_for) == 30:
                stop.set()

        sending = asyncio.create_task(_send(engine, broker, rows(), note, max_unread_bytes=200_000))
        await _until_true(lambda: len(waited_for) > 100)
        stored = await _row(engine)
        assert not sending.done()
        assert stored.rows_sent < EVENTS
        assert set(waited_for[-20:]) == {"the consumers"}
        stop, consuming = _consume(engine, broker)
        assert (await sending).rows_sent == EVENTS
        stop.set()
        await consuming


async def test_refused_rows_are_counted_and_take_no_number(engine: AsyncEngine) -> None:
    with EmbeddedBroker({"events": TOPIC_PARTITIONS}) as broker:
        stop, consuming = _consume(engine, broker)
        done = await _send(engine, broker, rows(refused=frozenset({3, 5_000})), lambda _: None)
        stop.set()
        await consuming
    assert (done.rows_sent, done.events_sent, done.rows_refused) == (EVENTS, EVENTS - 2, 2)
    assert await _sum(engine) == EVENTS - 2


def _consume(engine: AsyncEngine, broker: EmbeddedBroker) -> tuple[asyncio.Event, asyncio.Task[None]]:
    stop = asyncio.Event()
    options = Options(bootstrap=broker.bootstrap, topics=["events"], group=GROUP, broker_incarnation=broker.incarnation)
    return stop, asyncio.create_task(run_consumer(engine, options, stop, utc_now))


async def _send(
    engine: AsyncEngine,
    broker: EmbeddedBroker,
    some: Iterable[ImportRow],
    note: Callable[[Progress], None],
    max_unread_bytes: int | None = 1_000_000,
) -> Progress:
    producer = Producer(broker.bootstrap)
    try:
        return await send_import(
            engine, producer, topic="events", group=GROUP, import_id="i1", source="import", rows=some, total=EVENTS,
            clock=utc_now, on_progress=note, max_unread_bytes=max_unread_bytes,
        )  # fmt: skip
    finally:
        await producer.stop()


async def _row(engine: AsyncEngine) -> Row[Any]:
    async with engine.connect() as conn:
        return (await conn.execute(select(imports))).one()


async def _sum(engine: AsyncEngine) -> int:
    async with engine.connect() as conn:
        return int(await conn.scalar(select(func.coalesce(func.sum(accounts.c.events), 0))) or 0)


async def _until(engine: AsyncEngine) -> None:
    for _ in range(600):
        if await _sum(engine) == EVENTS:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the consumers did not apply everything in time")


async def _until_true(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the condition did not come true in time")
