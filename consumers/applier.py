"""Applies a poll: records → events → new ones → one transaction.

A record that cannot be taken becomes a dead letter in the same transaction, with its bytes, and its neighbours land.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import metrics
from consumers.broker import Partition, Record
from consumers.dedup import Dedup, Screened
from consumers.erasure import tombstones
from consumers.erasure.tombstones import Tombstones
from consumers.events import MAX_EVENT_BYTES, BadEvent, bad, check_time, decode
from consumers.fold import Arrival, Fold, to_us
from consumers.pseudonyms import Pseudonyms
from consumers.records import Advance, Batch, DatabaseAway, DeadLetter, PoisonBatch, Position, fingerprint
from consumers.store import TRANSIENT, Store, raw_connection

Place = tuple[str, int, int]
"""Topic, partition, offset."""

SHOWN_CHARACTERS: Final = 300


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one event may be."""

    event_max_bytes: int = MAX_EVENT_BYTES
    future_tolerance: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the records of a poll say: events with where they came from, and what could not be read."""

    events: list[tuple[Partition, Arrival]]
    origins: list[Record]
    dead_letters: list[DeadLetter]
    erased: int = 0  # dropped: of accounts and users who were erased after it had arrived


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A stored batch: where its partitions stand now."""

    positions: Mapping[Partition, Position]
    fold: Fold
    dead_letters: tuple[DeadLetter, ...]
    duplicates: int


def read_records(
    records: Sequence[Record],
    refused: Mapping[Place, BadEvent],
    now: datetime,
    limits: Limits,
    *,
    erased: Tombstones | None = None,
    pseudonyms: Pseudonyms | None = None,
) -> Reading:
    """Decodes the records; those in ``refused`` are known to be bad. Pure."""
    dropped = 0
    latest, now_us = now + limits.future_tolerance, to_us(now)
    events: list[tuple[Partition, Arrival]] = []
    origins: list[Record] = []
    letters: list[DeadLetter] = []
    for record in records:
        try:
            if refused and (problem := refused.get((record.topic, record.partition, record.offset))) is not None:
                raise problem
            if record.value is None:
                raise bad("", "the record has no value", "send the event as the record's value", "malformed")
            event = decode(record.value, limits.event_max_bytes)
            if event.timestamp > latest and (problem := check_time(event, now, limits.future_tolerance)) is not None:
                raise problem
        except BadEvent as error:
            letters.append(DeadLetter(record=record, error=error))
            continue
        # A record's time is its producer's: not known (-1) or ahead of us, it says nothing about the arrival.
        stamped = record.timestamp_ms * 1000 if event.received_at is None else to_us(event.received_at)
        known = 0 <= stamped <= now_us
        arrived = stamped if known else now_us
        if pseudonyms is not None:
            event = pseudonyms.event(event)
        if erased:
            # Where the arrival is not known, an event that happened before the erasure is taken to have come before it.
            left = erased.apply(event, arrived if known else to_us(event.timestamp))
            if left is None:
                dropped += 1
                continue
            event = left
        events.append(((record.topic, record.partition), (event, arrived)))
        origins.append(record)
    return Reading(events=events, origins=origins, dead_letters=letters, erased=dropped)


def advance(position: Position, records: Sequence[Record]) -> Advance:
    """The step of a partition over ``records``, which are in order and not empty. Pure."""
    last = records[-1]
    after = replace(
        position,
        next_offset=last.offset + 1,
        last_offset=last.offset,
        last_timestamp_ms=last.timestamp_ms,
        last_crc=fingerprint(last),
    )
    return Advance(before=position, after=after, records=len(records))


class Applier:
    """Holds the memory of what was applied (dedup) and of who was erased beside the store."""

    def __init__(
        self,
        engine: AsyncEngine,
        group: str,
        limits: Limits,
        *,
        dedup: Dedup | None = None,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._engine = engine
        self._pseudonyms = pseudonyms
        self._erased: Tombstones | None = None
        self._dedup = dedup or Dedup(engine)
        self._store = Store(engine, group)
        self._limits = limits

    def forget(self) -> None:
        """When partitions come or go, and when somebody was erased: then the epochs have moved."""
        self._dedup.forget()
        self._erased = None

    async def apply(
        self,
        polled: Mapping[Partition, Sequence[Record]],
        positions: Mapping[Partition, Position],
        *,
        now: datetime,
        catching_up: bool,
    ) -> Applied | None:
        """Stores what is new in ``polled``; None when nothing is. Raises LostPartition, DatabaseAway.

        Records below a partition's position, and partitions without one, are passed over.
        """
        advances: list[Advance] = []
        records: list[Record] = []
        for place in sorted(positions.keys() & polled.keys()):
            new = [record for record in polled[place] if record.offset >= positions[place].next_offset]
            if new:
                advances.append(advance(positions[place], new))
                records += new
        if not advances:
            return None
        with metrics.BATCH_SECONDS.time():
            applied = await self._apply(tuple(advances), records, now, catching_up)
        _count(applied)
        return applied

    async def _apply(
        self, advances: tuple[Advance, ...], records: Sequence[Record], now: datetime, catching_up: bool
    ) -> Applied:
        refused: dict[Place, BadEvent] = {}
        bare = False
        erased = await self._read_erased()
        while True:
            reading = read_records(records, refused, now, self._limits, erased=erased, pseudonyms=self._pseudonyms)
            screened = await self._screen(reading)
            fresh = [index for index, new in enumerate(screened.fresh) if new]
            batch = Batch(
                advances=advances,
                arrivals=[reading.events[index][1] for index in fresh],
                seen=screened.seen_days(),
                marks=screened.import_marks(),
                dead_letters=tuple(reading.dead_letters),
                bare_letters=bare,
                catching_up=catching_up,
                now=now,
            )
            try:
                folded = await self._store.write(batch)
            except PoisonBatch:
                try:
                    index, reason = await self._culprit(batch)
                except PoisonBatch:
                    if bare or not batch.dead_letters:
                        raise
                    bare = True
                    continue
                origin = reading.origins[fresh[index]]
                place = (origin.topic, origin.partition, origin.offset)
                remedy = "see the problem; the other events of the batch were stored"
                refused[place] = bad("", f"the database refuses it: {reason[:SHOWN_CHARACTERS]}", remedy, "storage")
                continue
            self._dedup.remember(screened)
            metrics.ERASED.inc(reading.erased)
            return Applied(
                positions={step.after.place: step.after for step in advances},
                fold=folded,
                dead_letters=batch.dead_letters,
                duplicates=len(reading.events) - len(fresh),
            )

    async def _read_erased(self) -> Tombstones:
        """Read after the positions: an erasure that comes later moves their epochs, and the batch is undone."""
        if self._erased is None:
            try:
                async with raw_connection(self._engine) as connection:
                    self._erased = await tombstones.read(connection)
            except TRANSIENT as error:
                raise DatabaseAway(f"who was erased cannot be read: {error!r}") from error
        return self._erased

    async def _screen(self, reading: Reading) -> Screened:
        try:
            await self._dedup.load(reading.events)
        except TRANSIENT as error:
            raise DatabaseAway(f"what was seen before cannot be read: {error!r}") from error
        return self._dedup.screen(reading.events)

    async def _culprit(self, batch: Batch) -> tuple[int, str]:
        try:
            return await self._store.culprit(batch.arrivals, batch)
        except TRANSIENT as error:
            raise DatabaseAway(f"no culprit found: {error!r}") from error


def _count(applied: Applied) -> None:
    for kind, count in applied.fold.kinds.items():
        metrics.INGESTED.labels(kind).inc(count)
    for letter in applied.dead_letters:
        metrics.DEAD_LETTERS.labels(letter.error.reason).inc()
    metrics.DUPLICATES.inc(applied.duplicates)
