"""The archive: what goes in comes out, in a folder and in an S3 store; crashes, erasures and joins lose nothing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.applier import Limits
from consumers.archive.compaction import compact, plan
from consumers.archive.files import REPLAY_LOCK, Archive, StoreAway, open_archive
from consumers.archive.layout import Row, Slot, frame_of_rows, split
from consumers.archive.reading import scan
from consumers.archive.rewriting import rewrite
from consumers.archive.run import Options, run_archive, upkeep
from consumers.archive.writing import ArchiveOffsets, Archivist, Undecided, archive_group
from consumers.broker import Partition, Record
from consumers.events import Event, Login, Usage, decode, encode
from consumers.loop import Status
from consumers.offsets import Log
from consumers.records import DatabaseAway, LostPartition, Position
from consumers.store import raw_connection
from consumers.tables import archive_files, archive_partitions, dead_letters, stream_offsets
from embedded.broker import EmbeddedBroker
from health.tables import accounts
from service.clock import utc_now
from tests.integration.test_consumers_end_to_end import consuming, options, produce, some_events, until

GROUP, TOPIC, PARTITIONS = "g", "events", 3
NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return (tmp_path / "archive of events").as_uri()
    endpoint = request.getfixturevalue("s3")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    bucket = f"b{crc32(str(tmp_path).encode())}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/kizashi"


@pytest.fixture
def archive(engine: AsyncEngine, tmp_path: Path) -> Archive:
    return open_archive(engine, (tmp_path / "archive").as_uri())


def logins(count: int, *, first: int = 0, at: datetime = NOW - DAY, **changes: Any) -> list[Event]:
    return [
        Login(**{"event_id": f"e{n}", "account_id": f"acme-{n % 7}", "user_id": f"u{n % 5}",
                 "timestamp": at + timedelta(seconds=n), **changes})
        for n in range(first, first + count)
    ]  # fmt: skip


def records(events: Sequence[Event], next_offset: dict[int, int] | None = None) -> dict[Partition, list[Record]]:
    following = {} if next_offset is None else next_offset
    found: dict[Partition, list[Record]] = {}
    for event in events:
        partition = crc32(event.account_id.encode()) % PARTITIONS
        offset = following.get(partition, 0)
        following[partition] = offset + 1
        stamp = int(event.timestamp.timestamp() * 1000) + 1500
        record = Record(TOPIC, partition, offset, stamp, event.account_id.encode(), encode(event), ())
        found.setdefault((TOPIC, partition), []).append(record)
    return found


class Feed:
    """An archivist and its positions, without a broker."""

    def __init__(self, archive: Archive) -> None:
        self.archivist = Archivist(archive, GROUP, Limits())
        self.offsets = ArchiveOffsets(archive.engine, GROUP)
        self.positions: dict[Partition, Position] = {}

    async def open(self) -> Feed:
        logs = {(TOPIC, p): Log(cluster_id="c", topic_id=None, start=0, end=10**6) for p in range(PARTITIONS)}
        self.positions = {place: row.position for place, row in (await self.offsets.open(logs, NOW)).items()}
        return self

    async def apply(self, polled: dict[Partition, list[Record]]) -> None:
        applied = await self.archivist.apply(polled, self.positions, now=NOW, catching_up=False)
        if applied is not None:
            self.positions.update(applied.positions)


async def held(archive: Archive, **filters: Any) -> list[Row]:
    return [row async for row in scan(archive, **filters)]


def ids(rows: Sequence[Row]) -> Counter[str]:
    return Counter(row.event_id for row in rows)


async def test_what_goes_in_comes_out(engine: AsyncEngine, address: str) -> None:
    archive = open_archive(engine, address)
    feed = await Feed(archive).open()
    usage = Usage(
        feature="レポート", quantity=1.5, event_id="x", account_id="acme-0", timestamp=NOW - 3 * DAY, import_id="i",
        import_row=4, received_at=NOW - DAY,
    )  # fmt: skip
    events = [*logins(50), usage]
    await feed.apply(records(events))
    rows = await held(archive)
    assert sorted((row.decoded() for row in rows), key=lambda e: e.event_id) == sorted(events, key=lambda e: e.event_id)
    assert rows == await held(archive), "the order is stable"
    by_id = {row.event_id: row for row in rows}
    used = by_id["x"]
    assert (used.kind, used.import_id, used.import_row, used.arrived_at) == ("usage", "i", 4, NOW - DAY)
    assert by_id["e3"].arrived_at == by_id["e3"].timestamp + timedelta(milliseconds=1500)
    assert ids(await held(archive, kinds=["usage"])) == Counter(["x"])
    assert set(ids(await held(archive, accounts=["acme-3"]))) == {f"e{n}" for n in range(50) if n % 7 == 3}
    assert set(ids(await held(archive, users=["u2"]))) == {f"e{n}" for n in range(50) if n % 5 == 2}
    since, until_ = NOW - DAY + timedelta(seconds=10), NOW - DAY + timedelta(seconds=12)
    assert ids(await held(archive, since=since, until=until_)) == Counter(["e10", "e11"])
    assert set(await archive.stored()) == {file.path for file in await archive.files()}


async def test_a_store_that_is_away_is_waited_for(engine: AsyncEngine, archive: Archive, tmp_path: Path) -> None:
    feed = await Feed(archive).open()
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    (tmp_path / "archive").write_text("in the way")
    with pytest.raises(DatabaseAway, match="the archive's store"):
        await feed.apply(records(logins(3)))
    with pytest.raises(StoreAway):
        await archive.get("events/none.parquet")
    (tmp_path / "archive").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "archive")
    await feed.apply(records(logins(3)))
    assert sum(ids(await held(archive)).values()) == 3


@pytest.mark.parametrize("seed", range(4))
async def test_a_crash_at_any_point_neither_doubles_nor_loses(engine: AsyncEngine, archive: Archive, seed: int) -> None:
    """The ledger: every event once, whatever fails: a put, the transaction, its answer."""
    rng = random.Random(seed)
    events = logins(700, at=NOW - 5 * DAY)
    left = records(events)
    put, commit = archive.put, Archivist._commit

    class Crash(Exception):
        pass

    async def failing_put(path: str, content: bytes) -> None:
        if rng.random() < 0.2:
            raise Crash
        await put(path, content)
        if rng.random() < 0.2:
            raise Crash

    class Fragile(Archivist):
        async def _commit(self, *arguments: Any) -> None:
            if rng.random() < 0.2:
                raise Crash
            await commit(self, *arguments)
            if rng.random() < 0.2:
                raise Crash

    archive.put = failing_put  # type: ignore[method-assign]
    crashes = 0
    feed = await Feed(archive).open()
    feed.archivist = Fragile(archive, GROUP, Limits())
    while any(left[place][feed.positions[place].next_offset :] for place in left):
        lot = {
            place: left[place][(at := feed.positions[place].next_offset) : at + rng.choice((0, 1, 7, 20))]
            for place in left
        }
        try:
            await feed.apply({place: some for place, some in lot.items() if some})
        except Crash:
            crashes += 1
            await feed.open()
    assert crashes > 3
    assert ids(await held(archive)) == Counter(event.event_id for event in events)
    archive.put = put  # type: ignore[method-assign]
    listed = {file.path for file in await archive.files()}
    left_over = set(await archive.stored()) - listed
    assert left_over
    assert await archive.sweep(utc_now() + DAY) == len(left_over)
    assert set(await archive.stored()) == listed
    async with engine.connect() as conn:
        assert (await conn.scalars(select(archive_partitions.c.missing))).all() == [None] * PARTITIONS


async def test_a_zombie_writes_nothing_that_counts(archive: Archive) -> None:
    one, zombie = await Feed(archive).open(), await Feed(archive).open()
    lot = records(logins(20))
    await one.apply(lot)
    with pytest.raises(LostPartition):
        await zombie.apply(lot)
    assert ids(await held(archive)) == Counter(f"e{n}" for n in range(20))


async def test_an_erasure_fences_a_flush_that_is_under_way(engine: AsyncEngine, archive: Archive) -> None:
    feed = await Feed(archive).open()
    async with engine.begin() as conn:
        await conn.execute(update(stream_offsets).values(epoch=stream_offsets.c.epoch + 1))
    with pytest.raises(LostPartition):
        await feed.apply(records(logins(5)))
    assert await held(archive) == []


async def test_only_what_the_consumers_take_is_archived(engine: AsyncEngine, archive: Archive) -> None:
    feed = await Feed(archive).open()
    good, ahead, poison = logins(3)
    ahead = Login(event_id="ahead", account_id=good.account_id, timestamp=NOW + DAY)
    lot = {(TOPIC, 0): [
        Record(TOPIC, 0, n, int((NOW - DAY).timestamp() * 1000), b"k", value, ())
        for n, value in enumerate((encode(good), b"{", None, encode(ahead), encode(poison)))
    ]}  # fmt: skip
    with pytest.raises(Undecided, match="not read"):
        await feed.apply(lot)
    letters = [{"record_offset": 3, "value": encode(ahead)}, {"record_offset": 4, "value": b"of an older log"}]
    async with engine.begin() as conn:
        await conn.execute(
            insert(stream_offsets).values(group_id=GROUP, topic=TOPIC, partition=0, next_offset=5, updated_at=NOW)
        )
        for letter in letters:
            await conn.execute(insert(dead_letters).values(
                topic=TOPIC, partition=0, errors=[], reason="future", created_at=NOW, **letter))  # fmt: skip
    await feed.apply(lot)
    assert set(ids(await held(archive))) == {good.event_id, poison.event_id}
    assert feed.positions[TOPIC, 0].next_offset == 5


async def test_an_erasure_rewrites_every_file_and_leaves_nothing_behind(engine: AsyncEngine, address: str) -> None:
    archive = open_archive(engine, address)
    feed, offsets = await Feed(archive).open(), dict[int, int]()
    for lot in range(3):
        await feed.apply(records(logins(70, first=70 * lot, at=NOW - (5 - lot) * DAY), offsets))
    before = set(await archive.stored())

    def change(row: Row) -> Row | None:
        if row.account_id == "acme-1":
            return None
        if row.user_id != "u4":
            return row
        event = decode(row.event)
        anonymous = Login(event_id=event.event_id, account_id=event.account_id, timestamp=event.timestamp)
        return Row(**{**{name: getattr(row, name) for name in row.__struct_fields__}, "user_id": None,
                      "event": encode(anonymous)})  # fmt: skip

    done = await rewrite(archive, change, now=NOW, accounts=["acme-1"], users=["u4"])
    assert (done.files, done.erased, done.changed) == (3, 30, 36)
    rows = await held(archive)
    assert len(rows) == 180
    assert not any(row.account_id == "acme-1" or row.user_id == "u4" for row in rows)
    assert all(b"u4" not in row.event for row in rows)
    stored = set(await archive.stored())
    assert stored.isdisjoint(before)
    assert stored == {file.path for file in await archive.files()}
    again = await rewrite(archive, change, now=NOW, accounts=["acme-1"], users=["u4"])
    assert (again.files, again.erased, again.changed) == (0, 0, 0)


@pytest.mark.parametrize("at", ["put", "replace", "purge"])
async def test_an_erasure_that_crashes_is_completed_by_the_next_one(archive: Archive, at: str) -> None:
    feed = await Feed(archive).open()
    await feed.apply(records(logins(70)))
    original = getattr(archive, at)

    async def crash_after(*arguments: Any) -> Any:
        await original(*arguments)
        raise RuntimeError("killed")

    setattr(archive, at, crash_after)
    with pytest.raises(RuntimeError):
        await rewrite(archive, lambda row: None, now=NOW, accounts=["acme-2"])
    setattr(archive, at, original)
    rows = await held(archive)
    assert len(rows) in (60, 70)
    assert len(set(ids(rows))) == len(rows), "nothing twice"
    await rewrite(archive, lambda row: None, now=NOW, accounts=["acme-2"])
    await archive.sweep(utc_now() + DAY)
    assert len(await held(archive)) == 60
    assert set(await archive.stored()) == {file.path for file in await archive.files()}


async def test_small_files_are_joined_and_nothing_is_lost_to_an_erasure_beside(archive: Archive) -> None:
    feed, offsets = await Feed(archive).open(), dict[int, int]()
    for lot in range(9):
        await feed.apply(records(logins(20, first=20 * lot, at=NOW - DAY), offsets))
    assert len(await archive.files()) == 9
    await asyncio.gather(
        compact(archive, NOW + timedelta(minutes=1)),
        rewrite(archive, lambda row: None, now=NOW, accounts=["acme-6"]),
    )
    await compact(archive, NOW + timedelta(minutes=1))
    found = await held(archive)
    assert ids(found) == Counter(f"e{n}" for n in range(180) if n % 7 != 6)
    later = NOW + 60 * DAY
    await upkeep(archive, later)
    assert [file.slot.folder for file in await archive.files()] == ["2026-06-14"]
    await feed.apply(records(logins(7, first=180, at=NOW - 3 * DAY), offsets))
    await upkeep(archive, later)
    assert [file.slot.folder for file in await archive.files()] == ["2026-06"]
    assert (await archive.files())[0].rows == len(found) + 7
    async with raw_connection(archive.engine) as replaying:
        await replaying.execute("SELECT pg_advisory_lock($1)", REPLAY_LOCK)
        await upkeep(archive, later + timedelta(hours=2))
        assert len(await archive.stored()) > 1, "a replay may read for longer than other readers"
        await replaying.execute("SELECT pg_advisory_unlock($1)", REPLAY_LOCK)
    await upkeep(archive, later + timedelta(hours=2))
    assert len(await archive.stored()) == 1, "those that were joined are deleted when nobody can be reading them"
    assert ids(await held(archive)) == ids(found) + Counter(f"e{n}" for n in range(180, 187))
    assert plan(await archive.files(), later) == []


def test_a_history_of_many_days_makes_few_files() -> None:
    events = [Login(event_id=f"e{n}", account_id="a", timestamp=NOW - n * DAY) for n in range(700)]
    rows = [
        Row(account_id="a", user_id=None, event_id=e.event_id, source="s", kind="login", timestamp=e.timestamp,
            arrived_at=NOW, topic="t", partition=0, offset=n, import_id=None, import_row=None, event=encode(e))
        for n, e in enumerate(events)
    ]  # fmt: skip
    parts = split(frame_of_rows(rows))
    assert len(parts) == 24
    assert sum(part.height for _, part in parts) == 700
    assert all(part["timestamp"].dt.date().is_between(slot.first_day, slot.last_day).all() for slot, part in parts)
    few = split(frame_of_rows(rows[:2]))
    assert [slot for slot, _ in few] == [
        Slot(first_day=day.date(), last_day=day.date(), kind="login") for day in (NOW - DAY, NOW)
    ]


async def test_the_role_beside_the_consumer(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine, archive: Archive
) -> None:
    at = utc_now() - timedelta(hours=1)
    chosen = Options(
        bootstrap=broker.bootstrap, topics=[topic], group=f"g-{topic}", broker_incarnation=broker.incarnation,
        session_timeout_ms=2_000, flush_seconds=0.5, upkeep_seconds=0.2,
    )  # fmt: skip
    status = Status()
    total = select(func.coalesce(func.sum(archive_files.c.rows), 0))

    async def archived_until(wanted: int, produced: list[Event]) -> None:
        stop = asyncio.Event()
        role = asyncio.create_task(run_archive(archive, chosen, stop, utc_now, status))
        await produce(broker, topic, produced)
        await until(engine, total, wanted, role)
        assert status.problems() == []
        stop.set()
        await role

    async with consuming(engine, options(broker, topic)) as task:
        await archived_until(200, some_events(200, at))
        await archived_until(300, some_events(300, at)[200:])
        await until(engine, select(func.sum(accounts.c.events)), 300, task)
    assert ids(await held(archive)) == Counter(f"e{n}" for n in range(300))
    async with engine.connect() as conn:
        reached = (await conn.execute(text(
            "SELECT a.next_offset = o.next_offset AS ours, a.next_offset = c.next_offset AS theirs, a.missing "
            "FROM archive_partitions a JOIN stream_offsets o USING (topic, partition) "
            "JOIN stream_offsets c USING (topic, partition) WHERE o.group_id = :archive AND c.group_id = :group"),
            {"archive": archive_group(chosen.group), "group": chosen.group})).all()  # fmt: skip
    assert len(reached) == 4
    assert all(row.ours and row.theirs and row.missing is None for row in reached)
