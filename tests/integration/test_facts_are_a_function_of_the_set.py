"""The facts depend on the set of events alone: any order, batching, repetition and restart gives the same rows."""

import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.applier import Applier, Limits, Prepared
from consumers.broker import Partition, Record
from consumers.events import Event, Login, Usage, encode
from consumers.offsets import Log, Offsets
from consumers.records import Position
from consumers.registers import Registers, to_json, write
from tests.event_strategies import START, event_sets, scalars
from tests.naive_facts import Connection, clear, differences, naive, stored

GROUP, TOPIC, PARTITIONS = "g", "events", 3
NOW = datetime(2027, 6, 1, tzinfo=UTC)
AWKWARD = (
    0.0,
    -0.0,
    1.0,
    10**16,
    1e16,
    1e-7,
    123456789.5,
    1e300,
    5e-324,
    "1",
    "12",
    "é",
    "\U0001f600",
    '"',
    "\\",
    "a\tb\n",
)
slow = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def arrival_ms(event: Event) -> int:
    """The same on every redelivery: minutes to days after the event."""
    late = crc32(f"{event.source}{event.event_id}".encode()) % (3 * 86_400_000)
    return int(event.timestamp.timestamp() * 1000) + late


def partition(event: Event) -> int:
    return crc32(event.account_id.encode()) % PARTITIONS


def as_records(events: Sequence[Event], first: dict[int, int] | None = None) -> dict[Partition, list[Record]]:
    following = dict(first or {})
    found: dict[Partition, list[Record]] = {}
    for event in events:
        place = partition(event)
        offset = following.get(place, 0)
        following[place] = offset + 1
        record = Record(TOPIC, place, offset, arrival_ms(event), event.account_id.encode(), encode(event), ())
        found.setdefault((TOPIC, place), []).append(record)
    return found


class Feed:
    """Applies records as a consumer would, without a broker."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.applier = Applier(engine, GROUP, Limits())
        self.positions: dict[Partition, Position] = {}
        self.waiting: Prepared | None = None

    async def open(self) -> None:
        self.waiting = None
        logs = {(TOPIC, p): Log(cluster_id="c", topic_id=None, start=0, end=10**6) for p in range(PARTITIONS)}
        rows = await Offsets(self.engine, GROUP).open(logs, NOW)
        self.positions = {place: row.position for place, row in rows.items()}
        self.applier.forget()

    async def apply(self, polled: dict[Partition, list[Record]]) -> None:
        await self.apply_ahead(polled)
        await self.settle()

    async def apply_ahead(self, polled: dict[Partition, list[Record]]) -> None:
        """Prepares the batch, stores the one that was prepared before it."""
        before = {} if self.waiting is None else self.waiting.positions
        prepared = await self.applier.prepare(polled, {**self.positions, **before}, now=NOW, catching_up=False)
        await self.settle()
        self.waiting = prepared

    async def settle(self) -> None:
        if self.waiting is not None:
            applied = await self.applier.store(self.waiting)
            self.positions.update(applied.positions)
            self.waiting = None

    async def apply_in_pieces(
        self, events: Sequence[Event], rng: random.Random, first: dict[int, int] | None = None
    ) -> None:
        """In batches of any size, one prepared ahead; now and then the last batch comes again, the consumer starts
        anew, or what was seen is forgotten."""
        left = as_records(events, first)
        while any(left.values()):
            batch = {}
            for place, records in left.items():
                size = rng.choice((0, 1, 2, 5, 100))
                batch[place], left[place] = records[:size], records[size:]
            await self.apply_ahead(batch)
            if rng.random() < 0.3:
                await self.apply_ahead(batch)  # redelivered: the answer to Kafka was lost
            if rng.random() < 0.2:
                await self.settle()
                await self.open()
            if rng.random() < 0.1:
                self.applier.forget()
        await self.settle()


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    dsn = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    made = await asyncpg.connect(dsn)
    yield made
    await made.close()


@slow
@given(events=event_sets(), seed=st.integers(0, 2**32))
async def test_any_order_batching_and_repetition_gives_the_facts_of_the_naive_model(
    events: list[Event], seed: int, engine: AsyncEngine, connection: Connection
) -> None:
    expected = naive([(e, datetime.fromtimestamp(arrival_ms(e) / 1000, UTC)) for e in events])
    rng = random.Random(seed)
    for _ in range(2):
        await clear(connection)
        lot = [*events, *rng.choices(events, k=len(events) // 2)]
        rng.shuffle(lot)
        feed = Feed(engine)
        await feed.open()
        await feed.apply_in_pieces(lot, rng)
        assert differences(await stored(connection), expected) == []


@given(left=scalars | st.sampled_from(AWKWARD), right=scalars | st.sampled_from(AWKWARD))
@example(left=1, right=12)
@slow
async def test_registers_of_one_time_and_key_merge_alike_here_and_in_the_database(
    left: Any, right: Any, connection: Connection
) -> None:
    """A reused event id: in one batch Python merges its values, in two Postgres does, in either order."""
    one, other = ({"f": (7, "k", value)} for value in (left, right))
    here: Registers = dict(one)
    write(here, "f", right, 7, "k")
    for a, b in ((one, other), (other, one)):
        merged = "SELECT kizashi_merge_registers($1::text::jsonb, $2::text::jsonb) = $3::text::jsonb"
        assert await connection.fetchval(merged, to_json(a), to_json(b), to_json(here)), (left, right)


async def test_an_import_that_is_run_again_adds_nothing(engine: AsyncEngine, connection: Connection) -> None:
    rng = random.Random(7)
    events: list[Event] = [
        Login(event_id=f"r{n}", account_id=f"acme-{n % 5}", timestamp=START + timedelta(minutes=n), user_id="u",
              import_id="history-1", import_row=n)
        if n % 3 else
        Usage(feature="export", event_id=f"r{n}", account_id=f"acme-{n % 5}", timestamp=START + timedelta(minutes=n),
              import_id="history-1", import_row=n)
        for n in range(120)
    ]  # fmt: skip
    feed = Feed(engine)
    await feed.open()
    await feed.apply_in_pieces(events[:80], rng)
    once = {p: feed.positions[TOPIC, p].next_offset for p in range(PARTITIONS)}
    # Killed, and started again from an earlier row: what was sent before comes again, under new offsets.
    await feed.apply_in_pieces(events[40:], rng, once)
    expected = naive([(e, datetime.fromtimestamp(arrival_ms(e) / 1000, UTC)) for e in events])
    assert differences(await stored(connection), expected) == []
    assert (await stored(connection))["late_arrivals"] == {}
    assert (await stored(connection))["sources"][("default",)]["last_live_at"] is None
    # Long after: the marks outlive the window.
    await connection.execute("TRUNCATE dedup_batches")
    await feed.open()
    twice = {p: feed.positions[TOPIC, p].next_offset for p in range(PARTITIONS)}
    await feed.apply_in_pieces(events, rng, twice)
    assert differences(await stored(connection), expected) == []
    until = await connection.fetchval("SELECT max(imported_until) FROM accounts")
    assert until == NOW
