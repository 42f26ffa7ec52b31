"""Applies a poll: records → events → new ones → one transaction.

In two steps, so that a batch can be made ready while the one before it is being written: ``prepare`` decodes, screens
and folds, ``store`` writes. A record that cannot be taken becomes a dead letter in the same transaction, with its
bytes, and its neighbours land.

What a prepared batch adds counts as seen from then on, for the batch behind it. When a batch is not stored as it was
prepared (poison, a partition lost, the database away), all that was remembered is dropped, and whatever was prepared
before that moment is screened again before it is stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import metrics
from consumers.broker import Partition, Record
from consumers.dedup import Dedup, Screened
from consumers.erasure import tombstones
from consumers.erasure.tombstones import Tombstones
from consumers.events import MAX_EVENT_BYTES, BadEvent, bad, check_time, decode
from consumers.fold import Arrival, Fold, Folding, to_us
from consumers.pseudonyms import Pseudonyms
from consumers.records import Advance, Batch, DatabaseAway, DeadLetter, PoisonBatch, Position, fingerprint
from consumers.store import TRANSIENT, Facts, Statement, Store, raw_connection, statements

Place = tuple[str, int, int]
"""Topic, partition, offset."""
Polled = Mapping[Partition, Sequence[Record]]

SHOWN_CHARACTERS: Final = 300
SLICE: Final = 256
"""Records between two looks at what else there is to do: the write of the batch before goes on meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one event may be."""

    event_max_bytes: int = MAX_EVENT_BYTES
    future_tolerance: timedelta = timedelta(minutes=5)


@dataclass(kw_only=True)
class Reading:
    """What the records of a poll say: events with where they came from, and what could not be read."""

    events: list[tuple[Partition, Arrival]] = field(default_factory=list)
    origins: list[Record] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    erased: int = 0  # dropped: of accounts and users who were erased after it had arrived


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A batch that only needs to be written, and what it was made of."""

    records: Sequence[Record]
    batch: Batch
    facts: Facts
    origins: Sequence[Record]  # of the batch's arrivals
    screened: Screened
    duplicates: int
    erased: int
    memory: int  # the state of what was seen before, by which it was screened
    began: float

    @property
    def positions(self) -> dict[Partition, Position]:
        """Where its partitions stand once it is stored."""
        return {step.after.place: step.after for step in self.batch.advances}


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A stored batch: where its partitions stand now."""

    positions: Mapping[Partition, Position]
    fold: Fold
    dead_letters: tuple[DeadLetter, ...]
    duplicates: int


class Ready(Protocol):
    """What ``prepare`` hands to ``store``."""

    @property
    def positions(self) -> Mapping[Partition, Position]:
        """Where its partitions stand once it is stored."""
        ...


R = TypeVar("R", bound=Ready)


class Applies(Protocol[R]):
    """What the loop brings its records to: the facts (``Applier``), or, behind ``AtOnce``, the archive."""

    def forget(self) -> None: ...

    async def prepare(
        self, polled: Polled, positions: Mapping[Partition, Position], *, now: datetime, catching_up: bool
    ) -> R | None: ...

    async def store(self, prepared: R) -> Applied: ...


class AppliesAtOnce(Protocol):
    """What does everything in one step."""

    def forget(self) -> None: ...

    async def apply(
        self, polled: Polled, positions: Mapping[Partition, Position], *, now: datetime, catching_up: bool
    ) -> Applied | None: ...


@dataclass(frozen=True, kw_only=True)
class Unprepared:
    """The arguments of ``apply``, and where it leads."""

    polled: Polled
    before: Mapping[Partition, Position]
    now: datetime
    catching_up: bool
    positions: Mapping[Partition, Position]


class AtOnce:
    """For the loop: nothing is prepared, everything is done when it is stored."""

    def __init__(self, inner: AppliesAtOnce) -> None:
        self._inner = inner

    def forget(self) -> None:
        self._inner.forget()

    async def prepare(
        self, polled: Polled, positions: Mapping[Partition, Position], *, now: datetime, catching_up: bool
    ) -> Unprepared | None:
        after = {step.after.place: step.after for step, _ in steps(polled, positions)}
        if not after:
            return None
        return Unprepared(polled=polled, before=positions, now=now, catching_up=catching_up, positions=after)

    async def store(self, prepared: Unprepared) -> Applied:
        applied = await self._inner.apply(
            prepared.polled, prepared.before, now=prepared.now, catching_up=prepared.catching_up
        )
        assert applied is not None
        return applied


def read_records(
    records: Sequence[Record],
    refused: Mapping[Place, BadEvent],
    now: datetime,
    limits: Limits,
    *,
    erased: Tombstones | None = None,
    pseudonyms: Pseudonyms | None = None,
    into: Reading | None = None,
) -> Reading:
    """Decodes the records; those in ``refused`` are known to be bad. Adds to ``into``, if that is given."""
    reading = into or Reading()
    latest, now_us = now + limits.future_tolerance, to_us(now)
    events, origins, letters = reading.events, reading.origins, reading.dead_letters
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
            if erased and erased.named_in((record.key, record.value), max(record.timestamp_ms, 0) * 1000):
                reading.erased += 1
            else:
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
                reading.erased += 1
                continue
            event = left
        events.append(((record.topic, record.partition), (event, arrived)))
        origins.append(record)
    return reading


def steps(polled: Polled, positions: Mapping[Partition, Position]) -> list[tuple[Advance, list[Record]]]:
    """What is new in ``polled``, by partition in order: records below a partition's position, and partitions without
    one, are passed over. Pure."""
    found = []
    for place in sorted(positions.keys() & polled.keys()):
        new = [record for record in polled[place] if record.offset >= positions[place].next_offset]
        if new:
            found.append((advance(positions[place], new), new))
    return found


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
        self._screening = asyncio.Lock()
        self._memory = 0

    def forget(self) -> None:
        """When partitions come or go, and when somebody was erased: then the epochs have moved. Not while a batch is
        being prepared or stored."""
        self._dedup.forget()
        self._erased = None
        self._memory += 1

    async def apply(
        self, polled: Polled, positions: Mapping[Partition, Position], *, now: datetime, catching_up: bool
    ) -> Applied | None:
        """Stores what is new in ``polled``; None when nothing is. Raises LostPartition, DatabaseAway."""
        prepared = await self.prepare(polled, positions, now=now, catching_up=catching_up)
        return None if prepared is None else await self.store(prepared)

    async def prepare(
        self, polled: Polled, positions: Mapping[Partition, Position], *, now: datetime, catching_up: bool
    ) -> Prepared | None:
        """Makes a batch of what is new in ``polled``; None when nothing is. Raises DatabaseAway.

        Records below a partition's position, and partitions without one, are passed over. ``positions`` are those that
        stand once the batches prepared before are stored, which must happen first.
        """
        began = time.perf_counter()
        new = steps(polled, positions)
        if not new:
            return None
        records = [record for _, lot in new for record in lot]
        memory = self._memory
        reading = await self._reading(records, {}, now)
        batch = Batch(
            advances=tuple(step for step, _ in new),
            arrivals=(),
            dead_letters=tuple(reading.dead_letters),
            catching_up=catching_up,
            now=now,
        )
        async with self._screening:
            screened = await self._screen(reading)
        return await self._prepared(records, reading, screened, batch, memory, began)

    async def store(self, prepared: Prepared) -> Applied:
        """Writes it. Raises LostPartition, DatabaseAway; after the latter it may be tried again."""
        try:
            if prepared.memory != self._memory:
                prepared = await self._again(prepared, {})
            try:
                await self._store.write(prepared.batch, prepared.facts)
            except PoisonBatch:
                async with self._screening:
                    prepared = await self._without_poison(prepared)
        except BaseException:
            async with self._screening:
                self.forget()
            raise
        self._dedup.settle(prepared.screened)
        metrics.BATCH_SECONDS.observe(time.perf_counter() - prepared.began)
        applied = Applied(
            positions=prepared.positions,
            fold=prepared.facts.fold,
            dead_letters=prepared.batch.dead_letters,
            duplicates=prepared.duplicates,
        )
        _count(applied, prepared.erased)
        return applied

    async def _without_poison(self, prepared: Prepared) -> Prepared:
        """Stores it without the events that the database refuses; what was stored."""
        refused: dict[Place, BadEvent] = {}
        while True:
            try:
                index, reason = await self._culprit(prepared.batch)
            except PoisonBatch:
                if prepared.batch.bare_letters or not prepared.batch.dead_letters:
                    raise
                prepared = replace(prepared, batch=replace(prepared.batch, bare_letters=True))
            else:
                origin = prepared.origins[index]
                place = (origin.topic, origin.partition, origin.offset)
                remedy = "see the problem; the other events of the batch were stored"
                refused[place] = bad("", f"the database refuses it: {reason[:SHOWN_CHARACTERS]}", remedy, "storage")
                prepared = await self._screened_again(prepared, refused)
            try:
                await self._store.write(prepared.batch, prepared.facts)
            except PoisonBatch:
                continue
            return prepared

    async def _again(self, prepared: Prepared, refused: Mapping[Place, BadEvent]) -> Prepared:
        async with self._screening:
            return await self._screened_again(prepared, refused)

    async def _screened_again(self, prepared: Prepared, refused: Mapping[Place, BadEvent]) -> Prepared:
        """From its records, with what the database says was seen before. Whatever was prepared behind it is stale."""
        self.forget()
        batch = prepared.batch
        reading = await self._reading(prepared.records, refused, batch.now)
        screened = await self._screen(reading)
        batch = replace(batch, dead_letters=tuple(reading.dead_letters))
        return await self._prepared(prepared.records, reading, screened, batch, self._memory, prepared.began)

    async def _reading(self, records: Sequence[Record], refused: Mapping[Place, BadEvent], now: datetime) -> Reading:
        reading, erased = Reading(), await self._read_erased()
        for start in range(0, len(records), SLICE):
            lot = records[start : start + SLICE]
            read_records(lot, refused, now, self._limits, erased=erased, pseudonyms=self._pseudonyms, into=reading)
            await asyncio.sleep(0)
        return reading

    async def _read_erased(self) -> Tombstones:
        """Read after the positions: an erasure that comes later moves their epochs, and the batch is undone."""
        if self._erased is not None:
            return self._erased
        memory = self._memory
        try:
            async with raw_connection(self._engine) as connection:
                erased = await tombstones.read(connection)
        except TRANSIENT as error:
            raise DatabaseAway(f"who was erased cannot be read: {error!r}") from error
        if memory == self._memory:
            self._erased = erased
        return erased

    async def _screen(self, reading: Reading) -> Screened:
        """What is new, and remembers it. Nothing comes between: two batches never both take an event for new."""
        try:
            await self._dedup.load(reading.events)
        except TRANSIENT as error:
            raise DatabaseAway(f"what was seen before cannot be read: {error!r}") from error
        screened = self._dedup.screen(reading.events)
        self._dedup.remember(screened)
        return screened

    async def _prepared(
        self,
        records: Sequence[Record],
        reading: Reading,
        screened: Screened,
        batch: Batch,
        memory: int,
        began: float,
    ) -> Prepared:
        fresh = [index for index, new in enumerate(screened.fresh) if new]
        arrivals = [reading.events[index][1] for index in fresh]
        folding = Folding(now=batch.now)
        for start in range(0, len(arrivals), SLICE):
            folding.add(arrivals[start : start + SLICE])
            await asyncio.sleep(0)
        folded = folding.finish()
        made: list[Statement] = []
        for statement in statements(folded):
            made.append(statement)
            await asyncio.sleep(0)
        return Prepared(
            records=records,
            batch=replace(batch, arrivals=arrivals, seen=screened.seen_days(), marks=screened.import_marks()),
            facts=Facts(fold=folded, statements=made),
            origins=[reading.origins[index] for index in fresh],
            screened=screened,
            duplicates=len(reading.events) - len(fresh),
            erased=reading.erased,
            memory=memory,
            began=began,
        )

    async def _culprit(self, batch: Batch) -> tuple[int, str]:
        try:
            return await self._store.culprit(batch.arrivals, batch)
        except TRANSIENT as error:
            raise DatabaseAway(f"no culprit found: {error!r}") from error


def _count(applied: Applied, erased: int) -> None:
    metrics.ERASED.inc(erased)
    for kind, count in applied.fold.kinds.items():
        metrics.INGESTED.labels(kind).inc(count)
    for letter in applied.dead_letters:
        metrics.DEAD_LETTERS.labels(letter.error.reason).inc()
    metrics.DUPLICATES.inc(applied.duplicates)
