"""Where a replay's events come from: the archive and behind it Kafka, or Kafka alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.applier import Limits, Place, Reading, read_records
from consumers.archive.files import Archive
from consumers.archive.layout import ArchiveFile, rows_of
from consumers.archive.reading import files as files_of
from consumers.archive.reading import matching, may_hold, read
from consumers.archive.writing import NEVER_TOO_LATE, VERDICTS, refused_of
from consumers.broker import Partition, Record
from consumers.broker.reading import LogReader
from consumers.erasure import tombstones
from consumers.erasure.tombstones import Tombstones
from consumers.events import BadEvent
from consumers.fold import Arrival, to_us
from consumers.offsets import VOLATILE
from consumers.pseudonyms import Pseudonyms
from consumers.replay.shadow import Rebuilder
from consumers.store import raw_connection

BATCH: Final = 20_000
WINDOW_DAYS: Final = 45
"""Kept in mind while the archive is read, of what happened or arrived since: Kafka may repeat it behind it."""

POSITIONS: Final = """
SELECT topic, partition, next_offset, epoch, cluster_id, topic_id FROM stream_offsets
WHERE group_id = $1 AND topic = ANY($2::text[]) ORDER BY topic, partition
"""
ARCHIVED: Final = """
SELECT topic, partition, next_offset, cluster_id, topic_id, missing FROM archive_partitions
WHERE topic = ANY($1::text[]) ORDER BY topic, partition
"""


class ReplayRefused(Exception):
    """It cannot be done as asked; says why, and what to do."""


class Overtaken(ReplayRefused):
    """An erasure, another swap, or a release of a partition came between."""

    def __init__(self) -> None:
        super().__init__("an erasure, a swap or a decision over a partition came between: run the replay again")


@dataclass(frozen=True, kw_only=True)
class Held:
    """A partition as the consumers have it."""

    next_offset: int
    epoch: int
    cluster_id: str | None
    topic_id: str | None


Positions = Mapping[Partition, Held]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which events: of whole UTC days, both included, and of these accounts; None: all."""

    first_day: date | None = None
    last_day: date | None = None
    accounts: frozenset[str] | None = None

    @property
    def since(self) -> datetime | None:
        return None if self.first_day is None else datetime.combine(self.first_day, time(), UTC)

    @property
    def until(self) -> datetime | None:
        return None if self.last_day is None else datetime.combine(self.last_day, time(), UTC) + timedelta(days=1)

    @property
    def all_days(self) -> bool:
        return self.first_day is None and self.last_day is None

    def wants(self, arrival: Arrival) -> bool:
        event, _ = arrival
        return (
            (self.accounts is None or event.account_id in self.accounts)
            and (self.since is None or event.timestamp >= self.since)
            and (self.until is None or event.timestamp < self.until)
        )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """``files``: what is read of the archive. ``base``: from where on each partition is read from Kafka. ``missing``:
    why that is not everything that the consumers ever applied; None: it is. ``within``: the files hold nothing from
    there on; until the consumers are as far, the files know more than the facts."""

    files: tuple[ArchiveFile, ...]
    base: Mapping[Partition, int]
    missing: str | None
    within: Mapping[Partition, int]


async def positions(connection: Any, group: str, topics: Sequence[str]) -> dict[Partition, Held]:
    rows = await connection.fetch(POSITIONS, group, list(topics))
    return {
        (row["topic"], row["partition"]): Held(
            next_offset=row["next_offset"], epoch=row["epoch"], cluster_id=row["cluster_id"], topic_id=row["topic_id"]
        )
        for row in rows
    }


async def of_kafka(log: LogReader, held: Positions) -> Origin:
    """Raises ReplayRefused, BrokerUnavailable."""
    await _same_topics(log, held)
    extents = await log.extents(held)
    missing = [f"the log of {t}[{p}] begins at {extents[t, p].start}" for t, p in held if extents[t, p].start > 0]
    missing += [
        f"the broker's log is volatile, and {topic}[{partition}] has begun anew before"
        for (topic, partition), at in held.items()
        if (at.cluster_id or "").startswith(VOLATILE) and at.epoch > 0
    ]
    base = {place: extents[place].start for place in held}
    return Origin(files=(), base=base, missing=missing[0] if missing else None, within={})


async def of_archive(archive: Archive, log: LogReader, held: Positions, scope: Scope) -> Origin:
    """Raises ReplayRefused, BrokerUnavailable."""
    await _same_topics(log, held)
    topics = sorted({topic for topic, _ in held})
    # Read before the files: what comes between is read twice and counted once.
    archived = await _archived(archive, topics)
    rows = list(archived.values())
    for place, row in archived.items():
        at = held.get(place)
        if at is not None and (_differ(at.cluster_id, row["cluster_id"]) or _differ(at.topic_id, row["topic_id"])):
            raise ReplayRefused(f"archive and consumers read different logs of {place[0]}[{place[1]}]: is one away?")
    extents = await log.extents(held)
    base, missing = {}, [f"{row['topic']}[{row['partition']}]: {row['missing']}" for row in rows if row["missing"]]
    for place in held:
        known = archived.get(place)
        base[place] = start = extents[place].start if known is None else known["next_offset"]
        if start < extents[place].start:
            gone = f"{place[0]}[{place[1]}] is archived up to {start}, and the log begins at {extents[place].start}"
            missing.append(gone)
            base[place] = extents[place].start
        elif known is None and start > 0:
            missing.append(f"{place[0]}[{place[1]}] is not archived, and the log begins at {start}")
    found = await files_of(archive, since=scope.since, until=scope.until)
    within = {place: row["next_offset"] for place, row in (await _archived(archive, topics)).items() if place in held}
    accounts = scope.accounts
    wanted = tuple(file for file in found if accounts is None or may_hold(file, accounts))
    return Origin(files=wanted, base=base, missing=missing[0] if missing else None, within=within)


async def _archived(archive: Archive, topics: Sequence[str]) -> dict[Partition, Any]:
    async with raw_connection(archive.engine) as connection:
        return {(row["topic"], row["partition"]): row for row in await connection.fetch(ARCHIVED, topics)}


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


async def _same_topics(log: LogReader, held: Positions) -> None:
    ids = await log.topic_ids({topic for topic, _ in held})
    for (topic, partition), at in held.items():
        if _differ(at.topic_id, ids.get(topic)):
            raise ReplayRefused(f"the topic {topic} was made anew since the consumers read {topic}[{partition}]")


class Feed:
    """Reads what an origin names, as the consumers would, and brings it to the rebuilder."""

    def __init__(
        self,
        engine: AsyncEngine,
        rebuilder: Rebuilder,
        scope: Scope,
        *,
        limits: Limits,
        pseudonyms: Pseudonyms | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._rebuilder = rebuilder
        self._scope = scope
        # What lay in the future was refused when it came; that is asked of the dead letters.
        self._limits = Limits(event_max_bytes=limits.event_max_bytes, future_tolerance=NEVER_TOO_LATE)
        self._pseudonyms = pseudonyms
        self._clock = clock
        self._erased: Tombstones | None = None
        self.reached: dict[Partition, int] = {}

    async def open(self) -> bool:
        """Whether anybody was erased."""
        async with raw_connection(self._engine) as connection:
            self._erased = await tombstones.read(connection)
        return bool(self._erased)

    async def archived(self, archive: Archive, files: Sequence[ArchiveFile], on_rows: Callable[[int], None]) -> None:
        """Raises StoreAway, ArchiveChanged."""
        lately = self._clock().astimezone(UTC) - timedelta(days=WINDOW_DAYS)
        keep_from, arrived_before = lately.date(), to_us(lately)
        done = 0
        for file in files:
            frame = await read(archive, file)
            wanted = matching(
                frame, since=self._scope.since, until=self._scope.until, accounts=self._scope.accounts
            )  # fmt: skip
            for part in wanted.iter_slices(BATCH):
                await self._rebuilder.add(await asyncio.to_thread(self._of_rows, part))
            done += file.rows
            on_rows(done)
            self._rebuilder.seen.forget(min(file.slot.first_day - timedelta(days=31), keep_from), arrived_before)

    def _of_rows(self, part: Any) -> list[tuple[Partition, Arrival]]:
        found: list[tuple[Partition, Arrival]] = []
        for row in rows_of(part):
            event = row.decoded()
            left = self._erased.apply(event, row.arrived_us) if self._erased else event
            if left is None:
                self._rebuilder.tally.erased += 1
            else:
                found.append(((row.topic, row.partition), (left, row.arrived_us)))
        return found

    async def follow(
        self,
        log: LogReader,
        until: Mapping[Partition, int],
        on_records: Callable[[int], None] = lambda _: None,
        connection: Any = None,
    ) -> None:
        """Reads every partition from where it was left up to ``until``. Raises BrokerUnavailable, OffsetOutOfRange."""
        ranges = {place: (self.reached[place], end) for place, end in until.items() if place in self.reached}
        done = 0
        async for records in log.read(ranges, most=BATCH):
            refused = await self._dead(records)
            reading = await asyncio.to_thread(self._of_records, records, refused)
            self._rebuilder.tally.erased += reading.erased
            self._rebuilder.tally.refused += len(reading.dead_letters)
            wanted = [(place, arrival) for place, arrival in reading.events if self._scope.wants(arrival)]
            await self._rebuilder.add(wanted, connection)
            done += len(records)
            on_records(done)
        self.reached.update({place: max(end, self.reached[place]) for place, (_, end) in ranges.items()})

    def _of_records(self, records: Sequence[Record], refused: Mapping[Place, BadEvent]) -> Reading:
        return read_records(
            records, refused, self._clock(), self._limits, erased=self._erased, pseudonyms=self._pseudonyms
        )

    async def _dead(self, records: Sequence[Record]) -> dict[Place, BadEvent]:
        spans: dict[Partition, list[int]] = {}
        for record in records:
            spans.setdefault((record.topic, record.partition), []).append(record.offset)
        ranges = [(*place, min(offsets), max(offsets)) for place, offsets in spans.items()]
        async with raw_connection(self._engine) as connection:
            letters = await connection.fetch(VERDICTS, *zip(*ranges, strict=True))
        return refused_of(records, letters)
