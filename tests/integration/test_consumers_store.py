"""What the store promises when things go wrong: zombies, poison, deadlocks, a database that is away, a lost answer."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import dedup
from consumers.applier import Applier, Limits, read_records
from consumers.broker import Record
from consumers.events import Event, Login, Ticket, Usage, encode
from consumers.offsets import Log, Offsets
from consumers.records import DatabaseAway, LostPartition, Position
from consumers.store import ATTEMPTS, Store
from tests.naive_facts import Connection, differences, naive, stored

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AT = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
LOG = Log(cluster_id="c", topic_id=None, start=0, end=10**6)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    made = await asyncpg.connect(make_url(database).set(drivername="postgresql").render_as_string(hide_password=False))
    yield made
    await made.close()


def login(n: int, account: str = "acme", **more: Any) -> Event:
    return Login(event_id=f"e{n}", account_id=account, timestamp=AT + timedelta(minutes=n), **more)


def polled(events: list[Event], partition: int = 0, first: int = 0) -> dict[tuple[str, int], list[Record]]:
    ms = int(NOW.timestamp() * 1000) - 60_000
    return {
        ("t", partition): [
            Record("t", partition, first + n, ms, e.account_id.encode(), encode(e), ()) for n, e in enumerate(events)
        ]
    }


class Member:
    """A consumer that holds one partition."""

    def __init__(self, engine: AsyncEngine, partition: int = 0) -> None:
        self.engine, self.partition = engine, partition
        self.applier = Applier(engine, "g", Limits())
        self.positions: dict[tuple[str, int], Position] = {}

    async def open(self) -> "Member":
        rows = await Offsets(self.engine, "g").open({("t", self.partition): LOG}, NOW)
        self.positions = {place: row.position for place, row in rows.items()}
        self.applier.forget()
        return self

    async def apply(self, events: list[Event], first: int = 0, *, catching_up: bool = False) -> None:
        batch = polled(events, self.partition, first)
        applied = await self.applier.apply(batch, self.positions, now=NOW, catching_up=catching_up)
        if applied is not None:
            self.positions.update(applied.positions)


async def test_a_zombie_stores_nothing(engine: AsyncEngine, connection: Connection) -> None:
    zombie, owner = await Member(engine).open(), await Member(engine).open()
    await owner.apply([login(1), login(2)])
    with pytest.raises(LostPartition) as caught:
        await zombie.apply(
            [login(1), login(2), Ticket(ticket_id="t", status="open", event_id="x", account_id="acme", timestamp=AT)]
        )
    assert caught.value.partitions == (("t", 0),)
    assert await connection.fetchval("SELECT events FROM accounts") == 2
    for table in ("records", "dead_letters"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert await connection.fetchval("SELECT count(*) FROM touched") == 1
    assert await connection.fetchval("SELECT count(*) FROM dedup_batches") == 1
    # What the zombie had in memory is no reason to drop the same events later.
    await zombie.open()
    await zombie.apply([login(1), login(2), login(3)], first=2)
    assert await connection.fetchval("SELECT events FROM accounts") == 3


async def test_an_erasure_fences_a_batch_in_flight(engine: AsyncEngine, connection: Connection) -> None:
    member = await Member(engine).open()
    await connection.execute("UPDATE stream_offsets SET epoch = epoch + 1")
    with pytest.raises(LostPartition):
        await member.apply([login(1)])
    assert await connection.fetchval("SELECT count(*) FROM accounts") == 0


async def test_records_applied_before_change_nothing_when_they_come_again(
    engine: AsyncEngine, connection: Connection
) -> None:
    """Killed between the commit and the answer to Kafka."""
    events = [login(n) for n in range(5)]
    member = await Member(engine).open()
    await member.apply(events)
    before = await stored(connection)
    again = await Member(engine).open()
    await again.apply(events)
    assert differences(before, await stored(connection)) == []
    assert await connection.fetchval("SELECT sum(version) FROM accounts") == 1


async def test_an_event_that_the_database_refuses_is_set_aside_and_its_neighbours_land(
    engine: AsyncEngine, connection: Connection
) -> None:
    await connection.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE numeric_value_out_of_range USING MESSAGE = 'refused ' || NEW.feature; END $$""")
    await connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON features FOR EACH ROW WHEN (NEW.feature LIKE 'bad%')"
        " EXECUTE FUNCTION refuse()"
    )
    events: list[Event] = [
        Usage(feature="bad" if n in (17, 40) else "good", event_id=f"u{n}", account_id=f"a{n % 9}", timestamp=AT)
        for n in range(60)
    ]
    member = await Member(engine).open()
    await member.apply(events)
    assert await connection.fetchval("SELECT sum(events)::int FROM accounts") == 58
    letters = await connection.fetch("SELECT * FROM dead_letters ORDER BY record_offset")
    assert [(row["record_offset"], row["reason"]) for row in letters] == [(17, "storage"), (40, "storage")]
    assert letters[0]["value"] == encode(events[17])
    assert "refused bad" in letters[0]["errors"]
    assert await connection.fetchval("SELECT next_offset FROM stream_offsets") == 60
    # Once the cause is mended, the same event is not taken for a duplicate.
    await connection.execute("DROP TRIGGER refuse ON features")
    await member.apply([events[17]], first=60)
    assert await connection.fetchval("SELECT sum(events)::int FROM accounts") == 59


@pytest.mark.parametrize(("stamp", "kept"), [(1_760_000_000_000_000, None), (-1, None), (1_000, 1)])
async def test_the_time_of_a_dead_letter_may_be_absurd(
    stamp: int, kept: int | None, engine: AsyncEngine, connection: Connection
) -> None:
    member = await Member(engine).open()
    lot = {("t", 0): [Record("t", 0, 0, stamp, b"k", b"nonsense", ())]}
    assert await member.applier.apply(lot, member.positions, now=NOW, catching_up=False) is not None
    at = await connection.fetchval("SELECT extract(epoch FROM record_timestamp)::int FROM dead_letters")
    assert at == kept


async def test_a_dead_letter_that_the_database_refuses_is_kept_bare_and_its_neighbours_land(
    engine: AsyncEngine, connection: Connection
) -> None:
    await connection.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE untranslatable_character USING MESSAGE = 'refused'; END $$""")
    await connection.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON dead_letters FOR EACH ROW WHEN (NEW.headers <> '[]')"
        " EXECUTE FUNCTION refuse()"
    )
    member = await Member(engine).open()
    lot = polled([login(1)])
    lot["t", 0].append(Record("t", 0, 1, 1_000, b"k", b"nonsense", (("h", b"x"),)))
    assert await member.applier.apply(lot, member.positions, now=NOW, catching_up=False) is not None
    row = await connection.fetchrow("SELECT * FROM dead_letters")
    assert (row["value"], row["headers"], row["record_timestamp"]) == (b"nonsense", "[]", None)
    assert (row["reason"], "details" in row["errors"]) == ("malformed", True)
    assert await connection.fetchval("SELECT events FROM accounts") == 1


async def test_sums_that_overflow_are_the_last_events_fault(engine: AsyncEngine, connection: Connection) -> None:
    member = await Member(engine).open()
    await member.apply([Usage(feature="f", quantity=10**9, event_id="1", account_id="a", timestamp=AT)])
    await connection.execute("UPDATE features SET quantity = 9223372036854775807")
    await member.apply(
        [login(1, "a"), Usage(feature="f", quantity=1, event_id="2", account_id="a", timestamp=AT)], first=1
    )
    assert await connection.fetchval("SELECT record_offset FROM dead_letters") == 2
    assert await connection.fetchval("SELECT logins FROM accounts") == 1


async def test_writers_of_the_same_accounts_neither_deadlock_nor_lose(
    engine: AsyncEngine, connection: Connection
) -> None:
    rng = random.Random(3)
    lots = [
        [[_any(rng, 1000 * partition + 40 * batch + n, partition) for n in range(40)] for batch in range(12)]
        for partition in range(4)
    ]
    members = [await Member(engine, partition).open() for partition in range(4)]

    async def feed(member: Member, batches: list[list[Event]]) -> None:
        for n, events in enumerate(batches):
            rng.shuffle(events)
            await member.apply(events, first=40 * n)

    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await connection.fetchval(deadlocks)
    await asyncio.gather(*(feed(member, batches) for member, batches in zip(members, lots, strict=True)))
    await connection.execute("SELECT pg_stat_force_next_flush()")
    assert await connection.fetchval(deadlocks) == before
    arrived = NOW - timedelta(minutes=1)
    expected = naive([(event, arrived) for batches in lots for events in batches for event in events])
    assert differences(await stored(connection), expected) == []


def _any(rng: random.Random, n: int, partition: int) -> Event:
    make = rng.choice((login, _use))
    return make(n, f"a{rng.randrange(30):02d}", source=f"s{partition}", user_id=f"u{rng.randrange(3)}")


def _use(n: int, account: str, **more: Any) -> Event:
    return Usage(feature=f"f{n % 4}", event_id=f"e{n}", account_id=account, timestamp=AT + timedelta(minutes=n), **more)


class CuttingStore(Store):
    """Loses the connection around the commit of its first attempt."""

    def __init__(self, engine: AsyncEngine, *, committed: bool) -> None:
        super().__init__(engine, "g")
        self.committed, self.cut = committed, 0

    async def _write(self, connection: Any, batch: Any, folded: Any) -> None:
        await super()._write(connection, batch, folded)
        if not self.cut:
            self.cut = 1
            if self.committed:
                await connection.execute("COMMIT")
            raise ConnectionResetError("cut")


@pytest.mark.parametrize("committed", [True, False])
async def test_after_a_lost_answer_the_offsets_decide(
    engine: AsyncEngine, connection: Connection, committed: bool
) -> None:
    member = await Member(engine).open()
    store = CuttingStore(engine, committed=committed)
    member.applier._store = store
    await member.apply([login(1), login(2)])
    assert store.cut == 1
    assert await connection.fetchval("SELECT events FROM accounts") == 2
    await member.apply([login(1), login(3)], first=2)
    assert await connection.fetchval("SELECT events FROM accounts") == 3


async def test_a_database_that_is_away_says_so_and_stores_nothing_twice(
    engine: AsyncEngine, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.store.BACKOFF_SECONDS", 0.001)
    member = await Member(engine).open()
    killed = 0

    class Killing(Store):
        async def _write(self, victim: Any, batch: Any, folded: Any) -> None:
            nonlocal killed
            await super()._write(victim, batch, folded)
            if killed < ATTEMPTS:
                killed += 1
                await connection.execute("SELECT pg_terminate_backend($1)", victim.get_server_pid())

    member.applier._store = Killing(engine, "g")
    with pytest.raises(DatabaseAway):
        await member.apply([login(1)])
    assert await connection.fetchval("SELECT count(*) FROM accounts") == 0
    await member.apply([login(1)])
    assert await connection.fetchval("SELECT events FROM accounts") == 1


async def test_touched_accounts_are_queued_urgent_ones_apart_and_one_marker_while_catching_up(
    engine: AsyncEngine, connection: Connection
) -> None:
    member = await Member(engine).open()
    ticket = Ticket(ticket_id="t", status="open", event_id="t", account_id="b", timestamp=AT)
    await member.apply([login(1, "c"), login(2, "a"), ticket, login(3, "b")])
    rows = await connection.fetch("SELECT * FROM touched ORDER BY touched_id")
    assert [(row["account_ids"], row["urgent"]) for row in rows] == [(["b"], True), (["a", "c"], False)]
    assert {row["oldest_event_at"] for row in rows} == {NOW - timedelta(minutes=1)}
    await connection.execute("TRUNCATE touched")
    await member.apply([login(4)], first=4, catching_up=True)
    await member.apply([login(5)], first=5, catching_up=True)
    (marker,) = await connection.fetch("SELECT * FROM touched")
    assert (marker["account_ids"], marker["everyone_since"]) == (None, NOW)
    # One that an evaluator is working off does not cover what comes now.
    await connection.execute("UPDATE touched SET after_account_id = 'b'")
    await member.apply([login(6)], first=6, catching_up=True)
    assert await connection.fetchval("SELECT count(*) FROM touched") == 2
    # What is only seen again touches nobody.
    await member.apply([login(6)], first=7)
    assert await connection.fetchval("SELECT count(*) FROM touched") == 2


async def test_what_was_seen_is_kept_for_the_window_loaded_on_demand_and_joined(
    engine: AsyncEngine, connection: Connection
) -> None:
    member = await Member(engine).open()
    member.applier._dedup = dedup.Dedup(engine, max_hashes=1)  # every day is dropped and loaded again
    old: list[Event] = [
        Login(event_id=f"o{n}", account_id="a", timestamp=AT - timedelta(days=n % 4)) for n in range(40)
    ]
    for n, event in enumerate(old):
        await member.apply([event], first=n)
    rng = random.Random(1)
    again = rng.sample(old, len(old))
    for n, event in enumerate(again):
        await member.apply([event], first=len(old) + n)
    assert await connection.fetchval("SELECT events FROM accounts") == 40
    assert await connection.fetchval("SELECT count(*) FROM dedup_batches") == 40
    later = NOW + timedelta(hours=2)
    monkey = dedup.COMPACT_ROWS
    dedup.COMPACT_ROWS = 5  # type: ignore[misc]
    try:
        assert await dedup.compact(engine, now=later) == 4
    finally:
        dedup.COMPACT_ROWS = monkey  # type: ignore[misc]
    rows = await connection.fetch("SELECT * FROM dedup_batches")
    assert len(rows) == 4
    assert all(len(row["hashes"]) == 80 for row in rows)
    assert all((np.diff(np.frombuffer(row["hashes"], dtype="<u8").astype(float)) > 0).all() for row in rows)
    await member.open()
    await member.apply(again[:10], first=80)
    assert await connection.fetchval("SELECT events FROM accounts") == 40
    assert await dedup.expire(engine, now=NOW + timedelta(days=14), window_days=14) == 0
    assert await dedup.expire(engine, now=NOW + timedelta(days=14, seconds=1), window_days=14, most=3) == 3
    assert await dedup.expire(engine, now=NOW + timedelta(days=14, seconds=1), window_days=14) == 1


def test_absurd_times_of_records_count_as_now() -> None:
    records = [
        Record("t", 0, n, ms, None, encode(login(n)), ()) for n, ms in enumerate((-1, 2**62, 1, 1_780_000_000_000))
    ]
    reading = read_records(records, {}, NOW, Limits())
    now_us = int(NOW.timestamp()) * 1_000_000
    assert [arrived for _, (_, arrived) in reading.events] == [now_us, now_us, 1_000, 1_780_000_000_000_000]
