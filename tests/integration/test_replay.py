"""Replays rebuild the live facts from Kafka and from the archive, find what differs, mend it, and send nothing."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumers.applier import Limits
from consumers.archive.files import Archive, open_archive
from consumers.archive.reading import files as files_of
from consumers.archive.reading import scan
from consumers.archive.run import Options as ArchiveOptions
from consumers.archive.run import run_archive
from consumers.broker import Producer
from consumers.broker.reading import log_reader
from consumers.events import Event, Group, Login, Ticket, encode
from consumers.replay.reading import Overtaken, ReplayRefused, Scope
from consumers.replay.run import Report, Source, Surroundings, Wishes, replay
from consumers.replay.swapping import Swapped
from consumers.store import raw_connection
from consumers.tables import archive_partitions, dead_letters, stream_offsets
from embedded.broker import EmbeddedBroker
from health.tables import accounts, touched
from service import erasures
from service.clock import utc_now
from service.erasures import Eraser
from tests import canary
from tests.commands import kizashi
from tests.conftest import AnyBroker, in_thread
from tests.event_strategies import busy_events
from tests.integration.test_consumers_end_to_end import PATIENCE, consuming, options, produce, some_events
from tests.world import World

YEARS = timedelta(days=3_000)
"""The workload's events lie safely in the past, whatever the clock says."""
BOTH: tuple[Source, ...] = ("kafka", "archive")
SHARED = {"sources", "source_hours"}
"""What all accounts share: there, an erased account's events have stayed."""
READ = """
SELECT bool_and(coalesce(o.next_offset >= u.until, false))
FROM unnest(CAST(:ps AS int[]), CAST(:ends AS bigint[])) AS u(p, until)
LEFT JOIN stream_offsets o ON o.group_id = :group AND o.topic = :topic AND o.partition = u.p
"""


@dataclass(kw_only=True)
class Road:
    """A topic, its consumers and its archive."""

    engine: AsyncEngine
    broker: AnyBroker
    topic: str
    archive: Archive

    @property
    def group(self) -> str:
        return f"g-{self.topic}"

    @asynccontextmanager
    async def running(self, *, archiving: bool = True) -> AsyncIterator[None]:
        stop = asyncio.Event()
        chosen = options(self.broker, self.topic)
        role = asyncio.create_task(run_archive(self.archive, ArchiveOptions(
            bootstrap=self.broker.bootstrap, topics=[self.topic], group=self.group, flush_seconds=0.2,
            broker_incarnation=chosen.broker_incarnation, session_timeout_ms=chosen.session_timeout_ms,
        ), stop, utc_now)) if archiving else None  # fmt: skip
        async with consuming(self.engine, chosen):
            try:
                yield
            finally:
                stop.set()
                if role is not None:
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait_for(role, PATIENCE)

    async def read(self, *, archiving: bool = True) -> None:
        """Until everything that was produced is applied, and archived."""
        async with log_reader(self.broker.bootstrap) as log:
            extents = await log.extents([(self.topic, p) for p in range(4)])
        ends = {"ps": [p for _, p in extents], "ends": [extent.end for extent in extents.values()]}
        for group in (self.group, f"{self.group}.archive")[: 1 + archiving]:
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with self.engine.connect() as conn:
                        parameters = {**ends, "group": group, "topic": self.topic}
                        if await conn.scalar(text(READ), parameters):
                            break
                    await asyncio.sleep(0.05)

    async def take(self, events: Sequence[Event], *, archiving: bool = True) -> None:
        await self.send([(e.account_id.encode(), encode(e)) for e in events])
        async with self.running(archiving=archiving):
            await self.read(archiving=archiving)

    async def send(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        producer = Producer(self.broker.bootstrap)
        try:
            for start in range(0, len(records), 500):
                await producer.send_many(self.topic, [(*record, ()) for record in records[start : start + 500]])
        finally:
            await producer.stop()

    async def replay(self, **wishes: Any) -> Report:
        around = Surroundings(
            engine=self.engine, bootstrap=self.broker.bootstrap, topics=[self.topic], group=self.group,
            limits=Limits(), clock=utc_now, archive=self.archive,
        )  # fmt: skip
        return await replay(around, Wishes(**wishes))

    async def run(self, statement: str, **parameters: Any) -> int:
        async with self.engine.begin() as conn:
            return (await conn.execute(text(statement), parameters)).rowcount

    async def scalar(self, statement: Any) -> Any:
        async with self.engine.connect() as conn:
            return await conn.scalar(statement)


@pytest.fixture
def road(engine: AsyncEngine, broker: EmbeddedBroker, topic: str, tmp_path: Path) -> Road:
    archive = open_archive(engine, (tmp_path / "archive").as_uri())
    return Road(engine=engine, broker=broker, topic=topic, archive=archive)


def unlike(report: Report) -> set[tuple[str, str | None]]:
    return {(difference.table, difference.column) for difference in report.comparison.shown}


@settings(
    max_examples=2, phases=[Phase.generate],  # each takes seconds: shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(
    events=st.lists(busy_events, min_size=40, max_size=70, unique_by=lambda e: (e.source, e.account_id, e.event_id)),
    seed=st.integers(0, 2**32),
)
async def test_what_was_sent_in_any_order_is_rebuilt_equal(events: list[Event], seed: int, road: Road) -> None:
    rng, now = random.Random(seed), utc_now()
    lot = [replace(event, event_id=f"{seed}-{event.event_id}", timestamp=event.timestamp - YEARS) for event in events]
    for place in rng.sample(range(len(lot)), 20):  # through the door, some of them late
        lot[place] = replace(lot[place], received_at=now - timedelta(hours=rng.randrange(100)))
    history = [
        Login(event_id=f"h{n}", account_id=f"acme-{n % 3}", timestamp=now - timedelta(days=n * 3), user_id="u",
              import_id=f"history-{seed}", import_row=n)
        for n in range(40)
    ]  # fmt: skip
    # Redeliveries of events, an import that is sent again from its middle on.
    lot += rng.choices(lot, k=20)
    rng.shuffle(lot)
    await road.take(lot[:40])
    await road.take([*history, *lot[40:], *history[20:]])
    for source in BOTH:
        report = await road.replay(source=source)
        assert report.comparison.shown == (), source
        assert report.comparison.equal
        assert report.missing is None
        assert len(report.comparison.tables) == 13
        assert report.tally.duplicates >= 40
    assert await road.scalar(text("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'kizashi_replay%'")) == 0


async def test_what_is_sent_again_behind_the_archive_counts_once(road: Road) -> None:
    """Its days lie far behind what a replay keeps in mind."""
    old = utc_now() - timedelta(days=400)
    history = [
        Login(event_id=f"h{n}", account_id=f"acme-{n % 3}", timestamp=old + timedelta(days=3 * n), user_id="u",
              import_id="history", import_row=n)
        for n in range(60)
    ]  # fmt: skip
    late = [Login(event_id="late", account_id="acme-1", timestamp=old, user_id="u")]
    await road.take([*late, *history[:50]])
    await road.take([*late, *history], archiving=False)
    report = await road.replay(source="archive")
    assert report.comparison.shown == ()
    assert (report.tally.events, report.tally.duplicates) == (61, 51)


@pytest.mark.parametrize("source", BOTH)
async def test_a_planted_difference_is_found_and_mended(road: Road, source: Source) -> None:
    at = utc_now() - timedelta(days=40)
    events = some_events(200, at)
    events += [
        Group(event_id="g", account_id="acme-2", timestamp=at, traits={"plan": "pro", "mrr": 100}),
        Ticket(ticket_id="t1", status="open", event_id="t", account_id="acme-3", timestamp=at),
    ]
    await road.take(events)
    await road.run("UPDATE accounts SET events = events + 1, version = version + 7 WHERE account_id = 'acme-1'")
    await road.run(
        """UPDATE account_attributes SET fields = jsonb_set(fields, '{mrr,v}', '99') WHERE account_id = 'acme-2'"""
    )
    await road.run("DELETE FROM record_events WHERE account_id = 'acme-3'")
    await road.run(
        "INSERT INTO features (account_id, feature, first_at, last_at, quantity) "
        "VALUES ('acme-4', 'phantom', now(), now(), 1)"
    )
    await road.run("UPDATE accounts SET sources = -1 WHERE account_id = 'acme-5'")  # as an upgrade from 0002 leaves it
    await road.run("TRUNCATE touched")
    before = await road.scalar(select(accounts.c.version).where(accounts.c.account_id == "acme-1"))
    report = await road.replay(source=source)
    assert unlike(report) == {
        ("accounts", "events"), ("accounts", "sources"), ("account_attributes", "fields"), ("record_events", None),
        ("features", None),
    }  # fmt: skip
    found = next(d for d in report.comparison.shown if d.table == "accounts")
    assert found.key == {"account_id": "acme-1"}
    assert found.live == found.rebuilt + 1
    assert await road.scalar(select(func.count()).select_from(touched)) == 0, "nothing live was touched"

    asked = utc_now()
    swapped = (await road.replay(source=source, swap=True)).swapped
    assert swapped is not None
    assert swapped.accounts == ("acme-1", "acme-2", "acme-3", "acme-4", "acme-5")
    assert (await road.replay(source=source)).comparison.equal
    async with road.engine.connect() as conn:
        rows = {row.account_id: row for row in await conn.execute(select(accounts))}
        queue = (await conn.execute(select(touched))).all()
        epochs = (
            await conn.scalars(select(stream_offsets.c.epoch).where(stream_offsets.c.group_id == road.group))
        ).all()
    assert {name for name, row in rows.items() if row.imported_until is not None} == set(swapped.accounts)
    assert rows["acme-1"].imported_until >= asked
    assert rows["acme-1"].version == before + 1
    assert [(row.account_ids, row.urgent) for row in queue] == [(list(swapped.accounts), False)]
    assert set(epochs) == {1}
    assert rows["acme-5"].sources == rows["acme-1"].sources != -1


async def test_accounts_alone_are_rebuilt_and_mended(road: Road) -> None:
    await road.take(some_events(140, utc_now() - timedelta(days=3)))
    await road.run("UPDATE accounts SET logins = 0 WHERE account_id IN ('acme-1', 'acme-2')")
    only = Scope(accounts=frozenset({"acme-2"}))
    for source in BOTH:
        report = await road.replay(source=source, scope=only)
        assert {d.key["account_id"] for d in report.comparison.shown} == {"acme-2"}
        assert "sources" not in report.comparison.tables
        assert report.tally.events == 20
    swapped = (await road.replay(source="archive", scope=only, swap=True)).swapped
    assert swapped is not None
    assert swapped.accounts == ("acme-2",)
    assert {d.key["account_id"] for d in (await road.replay()).comparison.shown} == {"acme-1"}


@pytest.mark.parametrize("source", BOTH)
async def test_some_days_are_compared_by_what_lies_in_them(road: Road, source: Source) -> None:
    first = datetime(2025, 3, 20, 12, tzinfo=UTC)
    events = [
        replace(event, timestamp=first + timedelta(days=n % 30)) for n, event in enumerate(some_events(300, first))
    ]
    await road.take(events)
    days = Scope(first_day=date(2025, 3, 25), last_day=date(2025, 4, 5))
    report = await road.replay(source=source, scope=days)
    assert report.comparison.equal
    assert report.tally.events == 120
    assert set(report.comparison.tables) == {
        "account_months", "feature_months", "user_months", "late_arrivals", "record_events", "source_hours"
    }  # fmt: skip
    await road.run("UPDATE account_months SET logins[24] = logins[24] + 1 WHERE month = '2025-03-01'")
    await road.run("UPDATE account_months SET active_days = active_days | (1 << 5) WHERE month = '2025-04-01'")
    assert (await road.replay(source=source, scope=days)).comparison.equal, "the 24th of March and the 6th of April"
    await road.run("UPDATE account_months SET logins[25] = logins[25] + 1 WHERE month = '2025-03-01'")
    assert unlike(await road.replay(source=source, scope=days)) == {("account_months", "logins")}
    with pytest.raises(ReplayRefused, match="--swap needs all days"):
        await road.replay(source=source, scope=days, swap=True)
    everything = Scope(first_day=date(2025, 3, 20), last_day=date(2025, 4, 18))
    await road.replay(source=source, scope=everything, swap=True)
    assert (await road.replay(source=source)).comparison.equal


async def test_a_swap_beside_running_consumers_loses_nothing(road: Road) -> None:
    """The ledger: what was sent before, during and after counts once; the planted difference is gone."""
    at = utc_now() - timedelta(days=2)
    events = some_events(20_000, at)
    sent = 0
    done = asyncio.Event()

    async def keep_sending() -> None:
        nonlocal sent
        while not done.is_set() and sent < len(events):
            await produce(road.broker, road.topic, events[sent : sent + 40])
            sent += 40
            await asyncio.sleep(0.05)

    async with road.running():
        await produce(road.broker, road.topic, events[:1_000])
        sent = 1_000
        await road.read()
        sending = asyncio.create_task(keep_sending())
        for source in BOTH:
            await road.run("UPDATE accounts SET events = events + 1000 WHERE account_id = 'acme-5'")
            report = await road.replay(source=source, swap=True)
            assert report.swapped is not None
        done.set()
        await sending
        await road.read()
        report = await road.replay()
    assert sent > 1_000
    assert report.comparison.shown == ()
    assert int(await road.scalar(select(func.sum(accounts.c.events)))) == sent


async def test_a_source_that_does_not_hold_everything_mends_only_what_it_vouches_for(road: Road) -> None:
    old, new = some_events(70, utc_now() - timedelta(days=9)), some_events(70, utc_now() - timedelta(days=2))
    new = [replace(event, event_id=f"n{n}", account_id=f"new-{n % 7}") for n, event in enumerate(new)]
    await road.take(old, archiving=False)
    async with road.engine.begin() as conn:
        for partition in range(4):  # switched on when the log's beginning was gone
            offset = await conn.scalar(
                select(stream_offsets.c.next_offset).where(stream_offsets.c.partition == partition)
            )
            await conn.execute(insert(stream_offsets).values(
                group_id=f"{road.group}.archive", topic=road.topic, partition=partition, next_offset=offset,
                cluster_id=f"volatile:{road.broker.incarnation}", updated_at=utc_now()))  # type: ignore[attr-defined]  # fmt: skip
    await road.take(new)
    await road.run("UPDATE accounts SET events = events + 5 WHERE account_id = 'new-1'")
    await road.run("UPDATE accounts SET events = events - 5 WHERE account_id = 'new-2'")
    report = await road.replay(source="archive")
    assert report.missing is not None
    assert "when the archive was switched on" in report.missing
    assert not report.comparison.equal
    with pytest.raises(ReplayRefused, match=r"does not hold 8 account\(s\) from their first event on \(acme-0, acme-1"):
        await road.replay(source="archive", swap=True)
    mended = await road.replay(source="archive", swap=True, scope=Scope(accounts=frozenset({"new-2"})))
    assert mended.swapped is not None
    assert unlike(await road.replay(source="kafka")) == {("accounts", "events")}
    assert [d.key for d in (await road.replay()).comparison.shown] == [{"account_id": "new-1"}]


async def test_what_the_consumers_refused_is_not_rebuilt(road: Road) -> None:
    now = utc_now()
    good = some_events(20, now - timedelta(hours=1))
    ahead = Login(event_id="ahead", account_id="acme-0", timestamp=now + timedelta(days=1))
    await road.send([*((e.account_id.encode(), encode(e)) for e in good), (b"acme-0", encode(ahead)), (b"x", b"{")])
    async with road.running():
        await road.read()
    assert await road.scalar(select(func.count()).select_from(dead_letters)) == 2
    for source in BOTH:
        report = await road.replay(source=source)
        assert report.comparison.shown == (), source
    assert await road.scalar(select(func.count()).select_from(archive_partitions)) == 4


async def test_an_erasure_that_comes_between_ends_the_replay(road: Road) -> None:
    await road.take(some_events(20, utc_now() - timedelta(hours=1)))
    around = Surroundings(
        engine=road.engine, bootstrap=road.broker.bootstrap, topics=[road.topic], group=road.group, limits=Limits(),
        clock=utc_now,
    )  # fmt: skip
    dsn = road.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)

    async def bump() -> None:
        connection = await asyncpg.connect(dsn, timeout=10)
        await connection.execute("UPDATE stream_offsets SET epoch = epoch + 1")
        await connection.close()

    bumped: list[object] = []

    def on_progress(progress: object) -> None:
        if not bumped:
            bumped.append(progress)
            in_thread(lambda: asyncio.run(bump()))  # has happened when the replay goes on

    noticing = Surroundings(**{**vars(around), "on_progress": on_progress})
    with pytest.raises(Overtaken):
        await replay(noticing, Wishes())
    assert await road.scalar(text("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'kizashi_replay%'")) == 0


@pytest.mark.parametrize("source", BOTH)
async def test_who_was_erased_does_not_come_back(road: Road, source: Source) -> None:
    """Kafka still holds every event of theirs, and the archive never had some of them."""
    account, user, at = "canary-account-7f3a", "canary-user-91c2", utc_now() - timedelta(days=2)
    lot: list[Event] = []
    for n in range(24):
        account_id, user_id = account if n % 2 else "acme", user if n % 3 else "other"
        at_minute = at + timedelta(minutes=n)
        lot.append(Login(event_id=f"e{n}", timestamp=at_minute, account_id=account_id, user_id=user_id))
    lot.append(Group(event_id="g", account_id="acme", timestamp=at, traits={"champion": user}))
    await road.take(lot[:12])
    await road.take(lot[12:], archiving=False)
    work = Eraser(engine=road.engine, pseudonyms=None, archive=road.archive, clock=utc_now, settle_seconds=0)
    for subject in (work.named(account, None), work.named(None, user)):
        async with road.engine.begin() as conn:
            asked = await erasures.request(conn, subject, by="key:tests", now=utc_now())
        await work.run(asked.erasure_id)
    assert await canary.places(road.engine, account, user) == set()
    await road.run("UPDATE accounts SET logins = 77")

    report = await road.replay(source=source, swap=True)
    assert {table for table, _ in unlike(report)} == {"accounts", *SHARED}, "these count events of whomever"
    assert report.swapped is not None
    assert report.swapped.accounts == ("acme",)
    assert await canary.places(road.engine, account, user) == set()
    assert await road.scalar(select(accounts.c.logins)) == 12
    await road.take([Login(event_id="new", account_id=account, timestamp=utc_now(), user_id="new")])
    again = await road.replay(source=source)
    assert set(again.comparison.rows) <= SHARED
    held = [row async for row in scan(road.archive)]
    assert {row.account_id for row in held} == {"acme", account}
    assert [row.event_id for row in held if row.account_id == account] == ["new"]
    assert not [row for row in held if user in str(row)]


async def test_one_at_a_time_and_what_a_killed_run_left_is_dropped(road: Road) -> None:
    await road.take(some_events(20, utc_now() - timedelta(hours=1)))
    await road.run("CREATE SCHEMA kizashi_replay_left")
    await road.run("CREATE TABLE kizashi_replay_left.accounts ()")
    async with raw_connection(road.engine) as connection:
        await connection.execute("SELECT pg_advisory_lock(7450991014)")
        with pytest.raises(ReplayRefused, match="another replay is running"):
            await road.replay()
        await connection.execute("SELECT pg_advisory_unlock(7450991014)")
    assert (await road.replay()).comparison.equal
    assert await road.scalar(text("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'kizashi_replay%'")) == 0


async def test_files_that_come_while_a_replay_looks_wait_for_the_consumers(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapped in before the consumers are as far, they would be counted once more by them."""
    await road.take(some_events(20, utc_now() - timedelta(hours=1)))

    async def amid_a_flush(*args: Any, **scope: Any) -> Any:
        await road.run("UPDATE archive_partitions SET next_offset = next_offset + 5")
        return await files_of(*args, **scope)

    monkeypatch.setattr("consumers.replay.reading.files_of", amid_a_flush)
    monkeypatch.setattr("consumers.replay.run.PATIENCE_SECONDS", 0.3)
    with pytest.raises(ReplayRefused, match="behind the archive"):
        await road.replay(source="archive", swap=True)


async def test_a_swap_that_fails_changes_nothing(road: Road) -> None:
    await road.take(some_events(20, utc_now() - timedelta(hours=1)))
    await road.run("UPDATE accounts SET events = 0")

    async def fail(_: AsyncConnection, swapped: Swapped, __: datetime) -> None:
        assert len(swapped.accounts) == 7
        raise RuntimeError("killed")

    around = Surroundings(
        engine=road.engine, bootstrap=road.broker.bootstrap, topics=[road.topic], group=road.group, limits=Limits(),
        clock=utc_now, on_swap=fail,
    )  # fmt: skip
    with pytest.raises(RuntimeError):
        await replay(around, Wishes(swap=True))
    assert int(await road.scalar(select(func.sum(accounts.c.events)))) == 0
    assert await road.scalar(select(func.max(stream_offsets.c.epoch))) == 0


async def test_a_swap_delivers_nothing(road: Road) -> None:
    """Two companies fell silent weeks ago, and the live facts do not know. Mended by hand, the one makes a noise;
    mended by a swap, the other is on the lists."""
    now = utc_now()
    await road.take([
        Login(event_id=f"{name}-{n}", account_id=name, timestamp=now - timedelta(days=60 - n), user_id="u")
        for name in ("by-hand", "by-swap") for n in range(30)
    ])  # fmt: skip
    planted = "UPDATE accounts SET last_login_at = now(), last_activity_at = now(), last_event_at = now()"
    await road.run(planted)
    world = World(road.engine)
    world.now = utc_now()
    await world.start()
    await road.run("UPDATE rule_activations SET activated_at = now() - interval '1 year'")
    world.boot()
    assert "no-login" not in await world.open("by-swap")
    assert await world.told() == []

    mended = "UPDATE accounts SET last_login_at = :at, version = version + 1 WHERE account_id = 'by-hand'"
    await road.run(mended, at=now - timedelta(days=31))
    await road.run("INSERT INTO touched (account_ids, created_at) VALUES ('{by-hand}', now())")
    world.now = utc_now()
    await world.evaluate()
    assert {told.account for told in await world.told("no-login")} == {"by-hand"}

    swapped = (await road.replay(swap=True, scope=Scope(accounts=frozenset({"by-swap"})))).swapped
    assert swapped is not None
    assert swapped.accounts == ("by-swap",)
    world.now = utc_now()
    await world.evaluate()
    assert (await world.open("by-swap"))["no-login"].pre_existing
    assert {told.account for told in await world.told()} == {"by-hand"}


async def test_the_command_proves_or_shows_what_differs_and_mends(road: Road, database: str, tmp_path: Path) -> None:
    await road.take(some_events(70, utc_now() - timedelta(days=1)))
    assert isinstance(road.broker, EmbeddedBroker)
    environment = {
        "KIZASHI_DATABASE_URL": database, "KIZASHI_KAFKA_BOOTSTRAP": road.broker.bootstrap,
        "KIZASHI_EVENTS_TOPICS": f'["{road.topic}"]', "KIZASHI_CONSUMER_GROUP": road.group,
        "KIZASHI_ARCHIVE_URL": (tmp_path / "archive").as_uri(),
    }  # fmt: skip

    def run(*arguments: str) -> Any:
        return kizashi("replay", *arguments, environment=environment)

    equal = await asyncio.to_thread(run)
    assert equal.exit_code == 0, equal.output
    assert "70 events rebuilt from the archive" in equal.stdout
    assert "Equal: 13 tables, not a row differs." in equal.stdout
    await road.run("UPDATE accounts SET logins = 77 WHERE account_id = 'acme-2'")
    different = await asyncio.to_thread(run)
    assert different.exit_code == 1
    assert "acme-2, logins: live 77, rebuilt 2" in different.stdout
    as_json = json.loads((await asyncio.to_thread(run, "--json", "--source", "kafka")).stdout)
    assert as_json["differences"] == [
        {"table": "accounts", "key": {"account_id": "acme-2"}, "column": "logins", "live": 77, "rebuilt": 2}
    ]
    some_days = await asyncio.to_thread(run, "--to", "2020-01-01", "--swap")
    assert some_days.exit_code == 2
    assert "--swap needs all days" in some_days.output
    mended = await asyncio.to_thread(run, "--account", "acme-2", "--swap", "--json")
    assert mended.exit_code == 0, mended.output
    assert json.loads(mended.stdout)["swapped"] == {"accounts": 1, "rows": 1}
    assert (await asyncio.to_thread(run)).exit_code == 0
    assert await road.scalar(text("SELECT detail FROM audit WHERE action = 'facts.swapped'")) == {
        "accounts": 1, "rows": 1
    }  # fmt: skip
