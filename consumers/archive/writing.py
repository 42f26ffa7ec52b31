"""Writes what was accepted into the archive: records → events → files → one transaction with the archive's offsets.

The archive is a consumer group of its own, and stores no facts. Its files count from the transaction on that moves its
offsets by the same compare-and-set as the consumers'; after a crash the records come again and go into new files.

What was accepted is told as the consumers tell it. Only one of their verdicts depends on when they looked: whether an
event lies in the future. For such an event the archive waits until they have passed it, and asks the dead letters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import polars as pl
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import metrics
from consumers.applier import Applied, Limits, Place, advance, read_records
from consumers.archive.files import Archive, StoreAway, list_files
from consumers.archive.layout import SCHEMA, ArchiveFile, described, frame_of, split, to_parquet
from consumers.broker import Partition, Record
from consumers.erasure import tombstones
from consumers.erasure.tombstones import Tombstones
from consumers.events import BadEvent, encode
from consumers.fold import fold, to_us
from consumers.offsets import BEGAN_ANEW, Log, Offsets, Stored
from consumers.pseudonyms import Pseudonyms
from consumers.records import Advance, DatabaseAway, LostPartition, Position
from consumers.store import CLAIM, TRANSIENT, raw_connection

AT_ONCE: Final = 4
NEVER_TOO_LATE: Final = timedelta(days=366 * 300)

VERDICTS: Final = """
SELECT d.topic, d.partition, d.record_offset, d.value FROM dead_letters d
JOIN unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS u(topic, partition, first, last)
    ON d.topic = u.topic AND d.partition = u.partition AND d.record_offset BETWEEN u.first AND u.last
"""
JUDGED: Final = "SELECT topic, partition, next_offset FROM stream_offsets WHERE group_id = $1"
MOVE: Final = """
UPDATE archive_partitions a SET next_offset = u.after,
    missing = coalesce(a.missing, CASE WHEN a.next_offset <> u.before
        THEN 'offsets ' || a.next_offset || ' to ' || u.before - 1 || ' were passed over' END)
FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) AS u(topic, partition, before, after)
WHERE a.topic = u.topic AND a.partition = u.partition
"""
BEGIN: Final = """
INSERT INTO archive_partitions (topic, partition, first_offset, next_offset, cluster_id, topic_id, missing)
SELECT u.topic, u.partition, u.next_offset, u.next_offset, u.cluster_id, u.topic_id,
    CASE WHEN u.next_offset > 0 THEN 'the log began at ' || u.next_offset || ' when the archive was switched on'
         WHEN o.cluster_id <> u.cluster_id OR o.topic_id <> u.topic_id THEN 'the consumers have read another log before'
         WHEN u.cluster_id LIKE 'volatile:%' AND o.epoch > 0 THEN 'the consumers have read another log before'
    END
FROM unnest($2::text[], $3::int[], $4::bigint[], $5::text[], $6::text[])
    AS u(topic, partition, next_offset, cluster_id, topic_id)
LEFT JOIN stream_offsets o ON o.group_id = $1 AND o.topic = u.topic AND o.partition = u.partition
ON CONFLICT (topic, partition) DO UPDATE SET cluster_id = excluded.cluster_id, topic_id = excluded.topic_id,
    missing = coalesce(archive_partitions.missing, CASE
        WHEN archive_partitions.cluster_id <> excluded.cluster_id THEN 'the log began anew'
        WHEN archive_partitions.topic_id <> excluded.topic_id THEN 'the topic was made anew' END)
"""
ANEW: Final = """
UPDATE stream_offsets SET next_offset = $4, epoch = epoch + 1, cluster_id = $5, topic_id = $6, last_offset = NULL,
    last_timestamp_ms = NULL, last_crc = NULL, stopped_reason = NULL, updated_at = $7
WHERE group_id = $1 AND topic = $2 AND partition = $3 AND epoch = $8
"""
STEPPED: Final = """
UPDATE archive_partitions SET next_offset = $3 WHERE topic = $1 AND partition = $2 AND next_offset = $4
"""


def archive_group(group: str) -> str:
    """The consumer group of the archive beside the consumers' own."""
    return f"{group}.archive"


class Undecided(DatabaseAway):
    """The consumers have not judged an event yet, and their verdict depends on when they do."""

    waits = "the consumers have not read as far yet"


class FilesNotStored(DatabaseAway):
    """The archive's store took not all of the files: none counts."""

    waits = "the archive's store is away"


class ArchiveOffsets(Offsets):
    """The archive's rows of ``stream_offsets``, and from where to where each partition is archived. A log that began
    anew is no gap in what was observed: the consumers say that."""

    def __init__(self, engine: AsyncEngine, group: str) -> None:
        super().__init__(engine, archive_group(group))
        self._of_consumers = group

    async def open(self, logs: Mapping[Partition, Log], now: datetime) -> dict[Partition, Stored]:
        stored = await super().open(logs, now)
        rows = [
            (*place, stored[place].position.next_offset, logs[place].cluster_id, logs[place].topic_id)
            for place in sorted(stored)
        ]
        if rows:
            async with raw_connection(self._engine) as connection:
                await connection.execute(BEGIN, self._of_consumers, *zip(*rows, strict=True))
        return stored

    async def step_over(self, reached: Mapping[Partition, tuple[Position, int]], now: datetime) -> set[Partition]:
        moved = await super().step_over(reached, now)
        if moved:
            steps = [(*place, reached[place][1], reached[place][0].next_offset) for place in sorted(moved)]
            async with raw_connection(self._engine) as connection:
                await connection.executemany(STEPPED, steps)
        return moved

    async def start_anew(
        self,
        begun: Mapping[Partition, tuple[Stored, Log]],
        now: datetime,
        *,
        why: str = BEGAN_ANEW,  # noqa: ARG002 - no gap, no reason for it
    ) -> list[Position]:
        positions: list[Position] = []
        for place in sorted(begun):
            p, log = begun[place][0].position, begun[place][1]
            async with raw_connection(self._engine) as connection:
                await connection.execute(
                    ANEW, self._group, *place, log.start, log.cluster_id, log.topic_id, now, p.epoch
                )
            positions.append(Position(topic=p.topic, partition=p.partition, next_offset=log.start, epoch=p.epoch + 1))
        return positions


class Archivist:
    """Applies what was read to the archive, as ``Applier`` does to the facts."""

    def __init__(self, archive: Archive, group: str, limits: Limits, *, pseudonyms: Pseudonyms | None = None) -> None:
        self._pseudonyms = pseudonyms
        self._archive = archive
        self._of_consumers = group
        self._group = archive_group(group)
        self._limits = limits

    def forget(self) -> None:
        """When partitions come or go: nothing is remembered from batch to batch."""

    async def apply(
        self,
        polled: Mapping[Partition, Sequence[Record]],
        positions: Mapping[Partition, Position],
        *,
        now: datetime,
        catching_up: bool,  # noqa: ARG002 - as the loop says it
    ) -> Applied | None:
        """Raises LostPartition and DatabaseAway; nothing counts then."""
        steps: list[Advance] = []
        records: list[Record] = []
        for place in sorted(positions.keys() & polled.keys()):
            new = [record for record in polled[place] if record.offset >= positions[place].next_offset]
            if new:
                steps.append(advance(positions[place], new))
                records += new
        if not steps:
            return None
        with metrics.ARCHIVE_SECONDS.time():
            files = await self._write(steps, records, now)
        metrics.ARCHIVED.inc(sum(file.rows for file in files))
        return Applied(
            positions={step.after.place: step.after for step in steps},
            fold=fold([], now=now),
            dead_letters=(),
            duplicates=0,
        )

    async def _write(self, steps: Sequence[Advance], records: Sequence[Record], now: datetime) -> list[ArchiveFile]:
        verdicts = await self._verdicts(steps, records)
        frame, undecided = await asyncio.to_thread(_accepted, records, verdicts, now, self._limits, self._pseudonyms)
        if undecided is not None:
            raise Undecided(f"the consumers have not read {undecided} yet, which lies in the future")
        try:
            files = await self._put(frame, now)
        except StoreAway as error:
            raise FilesNotStored(f"the archive's store: {error}") from error
        try:
            await self._commit(steps, files, now)
        except TRANSIENT as error:
            # Whether it took place, the offsets tell: they are read again.
            raise LostPartition([step.before.place for step in steps]) from error
        return files

    async def _verdicts(self, steps: Sequence[Advance], records: Sequence[Record]) -> _Verdicts:
        ranges = [(*s.before.place, s.before.next_offset, s.after.next_offset) for s in steps]
        try:
            async with raw_connection(self._archive.engine) as connection:
                judged = await connection.fetch(JUDGED, self._of_consumers)  # before what they judged
                letters = await connection.fetch(VERDICTS, *zip(*ranges, strict=True))
                erased = await tombstones.read(connection)
        except TRANSIENT as error:
            raise DatabaseAway(f"the verdicts of the consumers cannot be read: {error!r}") from error
        return _Verdicts(
            refused=refused_of(records, letters),
            judged={(row["topic"], row["partition"]): row["next_offset"] for row in judged},
            erased=erased,
        )

    async def _put(self, frame: pl.DataFrame, now: datetime) -> list[ArchiveFile]:
        room = asyncio.Semaphore(AT_ONCE)

        async def put(slot: Any, part: pl.DataFrame) -> ArchiveFile:
            async with room:
                raw = await asyncio.to_thread(to_parquet, part)
                path = slot.new_path()
                await self._archive.put(path, raw)
                return described(path, slot, part, len(raw), now)

        return await asyncio.gather(*[put(slot, part) for slot, part in split(frame)])

    async def _commit(self, steps: Sequence[Advance], files: Sequence[ArchiveFile], now: datetime) -> None:
        rows = [
            (s.after.topic, s.after.partition, s.before.next_offset, s.before.epoch, s.after.next_offset,
             s.after.last_offset, s.after.last_timestamp_ms, s.after.last_crc, s.records)
            for s in steps
        ]  # fmt: skip
        moves = [(*s.before.place, s.before.next_offset, s.after.next_offset) for s in steps]
        async with raw_connection(self._archive.engine) as connection, connection.transaction():
            claimed = await connection.fetch(CLAIM, self._group, *zip(*rows, strict=True), now)
            if len(claimed) != len(rows):
                raise LostPartition([s.before.place for s in steps])
            await connection.execute(MOVE, *zip(*moves, strict=True))
            await list_files(connection, files)


@dataclass(frozen=True, kw_only=True)
class _Verdicts:
    """The records that are dead letters, how far the consumers have judged, and who was erased."""

    refused: Mapping[Place, BadEvent]
    judged: Mapping[Partition, int]
    erased: Tombstones


def _accepted(
    records: Sequence[Record], verdicts: _Verdicts, now: datetime, limits: Limits, pseudonyms: Pseudonyms | None
) -> tuple[pl.DataFrame, Place | None]:
    """The events of ``records`` that the consumers accepted, as columns; the first one of which that is not known."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    timeless = Limits(event_max_bytes=limits.event_max_bytes, future_tolerance=NEVER_TOO_LATE)
    reading = read_records(records, verdicts.refused, now, timeless, erased=verdicts.erased, pseudonyms=pseudonyms)
    tolerance = limits.future_tolerance // timedelta(microseconds=1)
    for (_, (event, arrived)), record in zip(reading.events, reading.origins, strict=True):
        at = to_us(event.timestamp)
        place = (record.topic, record.partition, record.offset)
        if at > arrived + tolerance and record.offset >= verdicts.judged.get(place[:2], 0):
            return frame_of({name: [] for name in SCHEMA}), place
        values = (
            event.account_id, event.user_id, event.event_id, event.source, event.kind, at, arrived, *place,
            event.import_id, event.import_row, encode(event),
        )  # fmt: skip
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return frame_of(columns), None


def refused_of(records: Collection[Record], letters: Collection[Any]) -> dict[Place, BadEvent]:
    """The records that are dead letters. A topic that was made anew uses its offsets again: then the letter is of
    another record. Pure."""
    dead = {(row["topic"], row["partition"], row["record_offset"]): row["value"] for row in letters}
    return {
        (r.topic, r.partition, r.offset): BadEvent((), "bad_value")
        for r in records
        if r.value is not None and dead.get((r.topic, r.partition, r.offset)) == r.value
    }
