"""Recognises events that were applied before: by hash within the window, by row number for imports.

Per partition and event day the hashes of (source, account, event id) are kept as sorted 64-bit numbers: 8 bytes an
event in the database (a row per batch and day) and in memory. Days are loaded when an event asks for them and dropped
again, longest unused first, so that memory is bounded; in steady state the last two days stay. What a batch adds joins
the memory when it is screened, ahead of its transaction, so that the batch behind it can be screened meanwhile; when
it is not stored after all, everything is forgotten and read again.

Imports outlive any window: a partition remembers the last row of each import that it applied. Rows of an import must
therefore rise within a partition, one event a row number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import Partition
from consumers.events import Event, EventBase
from consumers.fold import Arrival
from consumers.records import Mark, SeenDay
from consumers.store import raw_connection

Hashes = NDArray[np.uint64]
DayKey = tuple[str, int, int]
"""Topic, partition, day number since 1970."""
MarkKey = tuple[str, str, int]
"""Import, topic, partition."""

MAX_HASHES_IN_MEMORY: Final = 32_000_000  # 256 MB
MAX_RUNS: Final = 8
COMPACT_AFTER: Final = timedelta(hours=1)
COMPACT_ROWS: Final = 16
_LITTLE: Final = np.dtype("<u8")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

LOAD_DAYS: Final = """
SELECT d.topic, d.partition, d.event_day, d.hashes FROM dedup_batches d
JOIN unnest($1::text[], $2::int[], $3::date[]) AS u(topic, partition, day)
    ON d.topic = u.topic AND d.partition = u.partition AND d.event_day = u.day
"""
LOAD_MARKS: Final = """
SELECT m.import_id, m.topic, m.partition, m.last_row FROM import_marks m
JOIN unnest($1::text[], $2::text[], $3::int[]) AS u(import_id, topic, partition)
    ON m.import_id = u.import_id AND m.topic = u.topic AND m.partition = u.partition
"""
EXPIRE: Final = """
DELETE FROM dedup_batches WHERE dedup_id IN
    (SELECT dedup_id FROM dedup_batches WHERE created_at < $1 ORDER BY created_at LIMIT $2)
"""
CROWDED: Final = """
SELECT topic, partition, event_day, (created_at AT TIME ZONE 'UTC')::date AS created_day FROM dedup_batches
WHERE created_at < $1 GROUP BY 1, 2, 3, 4 HAVING count(*) >= $2 ORDER BY 1, 2, 3, 4 LIMIT $3
"""
TAKE: Final = """
DELETE FROM dedup_batches WHERE topic = $1 AND partition = $2 AND event_day = $3
    AND (created_at AT TIME ZONE 'UTC')::date = $4 AND created_at < $5 RETURNING hashes, created_at
"""
PUT: Final = "INSERT INTO dedup_batches (topic, partition, event_day, hashes, created_at) VALUES ($1, $2, $3, $4, $5)"


def event_hash(event: EventBase) -> int:
    """64 bits of (source, account, event id). A false match among 10^8 events of a day has odds of 1 in 3,000."""
    return int.from_bytes(_digest(event), "little")


def _digest(event: EventBase) -> bytes:
    return blake2b(f"{event.source}\0{event.account_id}\0{event.event_id}".encode(), digest_size=8).digest()


class DayHashes:
    """The hashes of one day as a few sorted runs; each merge at least doubles a run, so adding stays cheap."""

    def __init__(self, runs: Iterable[Hashes] = ()) -> None:
        self._runs = [run for run in runs if len(run)]
        if len(self._runs) > MAX_RUNS:
            self._runs = [np.sort(np.concatenate(self._runs))]

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    @property
    def highest(self) -> int:
        """-1 when there is none."""
        return max((int(run[-1]) for run in self._runs), default=-1)

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of ``hashes`` were added before."""
        found = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, hashes)
            places[places == len(run)] = 0
            found |= run[places] == hashes
        return found

    def add(self, hashes: Hashes) -> None:
        """``hashes`` must be sorted."""
        while self._runs and len(self._runs[-1]) <= 2 * len(hashes):
            hashes = np.sort(np.concatenate((self._runs.pop(), hashes)), kind="stable")
        self._runs.append(hashes)


@dataclass(frozen=True, kw_only=True)
class Screened:
    """``fresh``: which of the arrivals are new. ``days`` and ``marks`` are to be stored with them."""

    fresh: list[bool]
    days: dict[DayKey, Hashes] = field(default_factory=dict)
    marks: dict[MarkKey, int] = field(default_factory=dict)

    def seen_days(self) -> tuple[SeenDay, ...]:
        return tuple(
            SeenDay(topic=topic, partition=partition, day=_date(day), hashes=hashes.astype(_LITTLE).tobytes())
            for (topic, partition, day), hashes in sorted(self.days.items(), key=lambda item: item[0])
        )

    def import_marks(self) -> tuple[Mark, ...]:
        return tuple(
            Mark(import_id=import_id, topic=topic, partition=partition, last_row=row)
            for (import_id, topic, partition), row in sorted(self.marks.items())
        )


class Dedup:
    """What the partitions held by this consumer have applied. ``load`` what a batch needs, ``screen`` and ``remember``
    it, store it, ``settle`` it. ``forget`` everything when partitions come or go, and after a batch that was not
    stored."""

    def __init__(self, engine: AsyncEngine, *, max_hashes: int = MAX_HASHES_IN_MEMORY) -> None:
        self._engine = engine
        self._max_hashes = max_hashes
        self._days: OrderedDict[DayKey, DayHashes] = OrderedDict()
        self._marks: dict[MarkKey, int] = {}
        self._unsettled: list[Screened] = []

    def forget(self) -> None:
        self._days.clear()
        self._marks.clear()
        self._unsettled.clear()

    async def load(self, batch: Sequence[tuple[Partition, Arrival]]) -> None:
        """Brings the days and marks that ``batch`` asks for into memory."""
        # Noted before the database is asked: what is settled meanwhile may be missing in its answer.
        unsettled = list(self._unsettled)
        marks, days = set(), set(_by_day(batch))
        for (topic, partition), (event, _) in batch:
            if event.import_id is not None:
                marks.add((event.import_id, topic, partition))
        absent_days, absent_marks = sorted(days - self._days.keys()), sorted(marks - self._marks.keys())
        if not absent_days and not absent_marks:
            return
        async with raw_connection(self._engine) as connection:
            if absent_days:
                self._days.update(await _read_days(connection, absent_days))
            if absent_marks:
                rows = await connection.fetch(LOAD_MARKS, *zip(*absent_marks, strict=True))
                self._marks.update(dict.fromkeys(absent_marks, -1))
                self._marks.update({(r["import_id"], r["topic"], r["partition"]): r["last_row"] for r in rows})
        for screened in unsettled:
            for day in screened.days.keys() & set(absent_days):
                self._days[day].add(screened.days[day])
            for mark in screened.marks.keys() & set(absent_marks):
                self._marks[mark] = max(self._marks[mark], screened.marks[mark])

    def screen(self, batch: Sequence[tuple[Partition, Arrival]]) -> Screened:
        """Which events are new; everything needed must have been loaded."""
        fresh = [True] * len(batch)
        marks: dict[MarkKey, int] = {}
        for index, ((topic, partition), (event, _)) in enumerate(batch):
            if event.import_id is not None and event.import_row is not None:
                mark = (event.import_id, topic, partition)
                fresh[index] = event.import_row > marks.get(mark, self._marks[mark])
                if fresh[index]:
                    marks[mark] = event.import_row
        days: dict[DayKey, Hashes] = {}
        for day, places in _by_day(batch).items():
            self._days.move_to_end(day)
            digests = b"".join([_digest(batch[index][1][0]) for index in places])
            unique, first = np.unique(np.frombuffer(digests, dtype=_LITTLE), return_index=True)
            new = ~self._days[day].contains(unique)
            for index in places:
                fresh[index] = False
            for place in first[new].tolist():
                fresh[places[place]] = True
            if new.any():
                days[day] = unique[new]
        return Screened(fresh=fresh, days=days, marks=marks)

    def remember(self, screened: Screened) -> None:
        """Counts as seen from now on, though it is yet to be stored. Drops the longest unused days beyond the bound."""
        self._unsettled.append(screened)
        for day, hashes in screened.days.items():
            self._days[day].add(hashes)
        self._marks.update(screened.marks)
        held = sum(map(len, self._days.values()))
        while held > self._max_hashes and len(self._days) > 1:
            _, dropped = self._days.popitem(last=False)
            held -= len(dropped)

    def settle(self, screened: Screened) -> None:
        """After the commit: from now on the database knows it."""
        self._unsettled = [other for other in self._unsettled if other is not screened]


async def _read_days(connection: Any, days: Sequence[DayKey]) -> dict[DayKey, DayHashes]:
    asked = [(topic, partition, _date(day)) for topic, partition, day in days]
    runs: dict[tuple[str, int, date], list[Hashes]] = {key: [] for key in asked}
    for row in await connection.fetch(LOAD_DAYS, *zip(*asked, strict=True)):
        runs[row["topic"], row["partition"], row["event_day"]].append(np.frombuffer(row["hashes"], dtype=_LITTLE))
    return {day: DayHashes(runs[key]) for day, key in zip(days, asked, strict=True)}


async def expire(engine: AsyncEngine, *, now: datetime, window_days: int, most: int = 10_000) -> int:
    """Deletes at most ``most`` rows whose events were applied longer than the window ago; returns how many."""
    async with raw_connection(engine) as connection:
        status: str = await connection.execute(EXPIRE, now - timedelta(days=window_days), most)
    return int(status.rpartition(" ")[2])


async def compact(engine: AsyncEngine, *, now: datetime, most: int = 200) -> int:
    """Joins the many small rows that live batches leave, per partition, event day and day of arrival.

    Returns the number of groups joined. Safe beside writers and other compactors: what was taken is put back as one row
    in the same transaction.
    """
    before = now - COMPACT_AFTER
    async with raw_connection(engine) as connection:
        groups = await connection.fetch(CROWDED, before, COMPACT_ROWS, most)
        for group in groups:
            async with connection.transaction():
                taken = await connection.fetch(TAKE, *group, before)
                if taken:
                    joined = np.unique(np.frombuffer(b"".join(row["hashes"] for row in taken), dtype=_LITTLE))
                    created = max(row["created_at"] for row in taken)
                    await connection.execute(PUT, *list(group)[:3], joined.tobytes(), created)
    return len(groups)


def _by_day(batch: Sequence[tuple[Partition, Arrival]]) -> dict[DayKey, list[int]]:
    """The places in ``batch`` of what no import numbers."""
    found: dict[DayKey, list[int]] = {}
    at: tuple[Partition, int] | None = None
    places: list[int] = []
    for index, (partition, (event, _)) in enumerate(batch):
        if event.import_id is None:
            day = _day(event)
            if at is None or day != at[1] or partition != at[0]:  # most follow one of the same day
                at = partition, day
                places = found.setdefault((*partition, day), [])
            places.append(index)
    return found


def _day(event: Event) -> int:
    return (event.timestamp - _EPOCH).days


def _date(day: int) -> date:
    return (_EPOCH + timedelta(days=day)).date()
