"""The relay: topics in foreign formats, as `sources.yaml` lists them, become events in our own topic.

It is a member of a group of its own, with the loop and the offsets of the consumers: positions in Postgres, a log in
doubt stops, poison pauses. A batch of records is translated, given to the intake, and only when all of it is
acknowledged its offsets move, together with the dead letters of what could not be translated. A crash in between sends
the batch again with the same event ids, and the consumers drop the second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import metrics
from consumers.applier import Applied, AtOnce, Polled, steps
from consumers.bad_events import Problem, unreadable
from consumers.broker import SESSION_TIMEOUT_MS, BrokerError, Consumer, Partition, Record
from consumers.door_metrics import EVENTS_REFUSED
from consumers.erasure import tombstones
from consumers.erasure.tombstones import Tombstones
from consumers.events import BadEvent, bad, check_time, decode
from consumers.fold import fold, to_us
from consumers.formats import cloudevents
from consumers.formats.canonical import Limits, cut
from consumers.formats.items import UNPLACED, Item
from consumers.formats.making import Origin
from consumers.formats.sniff import sniff
from consumers.formats.vendors import TRANSLATE
from consumers.intake import Intake, Taken
from consumers.loop import Loop, Pace, Status
from consumers.offsets import Offsets
from consumers.poison import PoisonLimits
from consumers.progress import RELAY_SUFFIX
from consumers.records import Batch, DatabaseAway, DeadLetter, PoisonBatch, Position
from consumers.run import read_on, relax_collector
from consumers.sources import Sources, Topic
from consumers.store import TRANSIENT, Facts, Store, raw_connection

logger = logging.getLogger(__name__)

DOOR: Final = "relay"
HEADER_PREFIX: Final = "ce_"
MOST_PROBLEMS: Final = 20
"""Faults that a dead letter of many items names."""


class NotAcknowledged(DatabaseAway):
    """The events of a batch are not all stored yet: it is taken again."""

    waits = "the events topic is away"


class NotSettled(DatabaseAway):
    """The same, of events whose account had to be looked up: which of the two is away is not told."""

    waits = "the events topic or the database is away"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of the role; ``group`` is that of the consumers."""

    bootstrap: str
    sources: Sources
    group: str
    broker_incarnation: str | None = None
    limits: Limits = field(default_factory=Limits)
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    pace: Pace = field(default_factory=lambda: Pace(behind_records=5_000))
    poison: PoisonLimits = field(default_factory=PoisonLimits)


def relay_group(group: str) -> str:
    """The consumer group of the relay beside the consumers' own."""
    return f"{group}{RELAY_SUFFIX}"


def translated(record: Record, topic: Topic, sources: Sources, now: datetime, limits: Limits) -> tuple[Item, ...]:
    """What a record says. Pure. Raises BadEvent when it cannot be read as a whole."""
    headers = {name.lower(): value.decode("utf-8", "replace") for name, value in record.headers}
    source = sources.of(topic.source)
    format_ = topic.format or source.format
    if format_ == "canonical":
        return _canonical(_value(record), now, limits)
    if format_ in (None, "cloudevents"):
        binary = cloudevents.assembled(headers.items(), record.value, prefix=HEADER_PREFIX, percent=False)
        document = _decoded(_value(record)) if binary is None else binary
    else:
        document = _decoded(_value(record))
    format_ = format_ or sniff(document, headers)
    if format_ == "canonical":
        return _canonical(_value(record), now, limits)
    if format_ is None:
        remedy = "name the format of the topic in sources.yaml, or send one of those it lists"
        raise bad("", "is in no format that is known", remedy, "malformed")
    # A topic that is made anew uses its offsets again.
    place = f"{record.topic}/{record.partition}/{record.offset}@{max(record.timestamp_ms, 0)}"
    origin = Origin(id=place, at=arrival(record, now))
    return TRANSLATE[format_](document, call="", source=source, now=now, limits=limits, origin=origin).items


def arrival(record: Record, now: datetime) -> datetime:
    """When the record came into its topic; now, when its producer's clock says nothing that can be."""
    try:
        at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return now
    return at if record.timestamp_ms > 0 and at <= now else now


@dataclass(kw_only=True, slots=True)
class _Reading:
    """A record on its way: its items, and what is wrong with it."""

    record: Record
    items: tuple[Item, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    reasons: list[BadEvent] = field(default_factory=list)

    def refuse(self, error: BadEvent, index: int | None = None) -> None:
        where = "" if index is None else f"[{index}]"
        self.problems += [
            Problem(f"{where}.{part.field}".strip(".") if where else part.field, part.problem, part.remedy)
            for part in error.problems
        ]
        self.reasons.append(error)

    @property
    def letter(self) -> DeadLetter | None:
        if not self.reasons:
            return None
        error = BadEvent(self.problems[:MOST_PROBLEMS], self.reasons[0].reason)
        return DeadLetter(record=self.record, error=error)


class Relay:
    """What the loop brings its records to."""

    def __init__(self, engine: AsyncEngine, intake: Intake, options: Options) -> None:
        self._engine = engine
        self._erased: Tombstones | None = None
        self._intake = intake
        self._store = Store(engine, relay_group(options.group))
        self._sources = options.sources
        self._topics = {topic.topic: topic for topic in options.sources.topics}
        self._limits = options.limits

    def forget(self) -> None:
        """When partitions come or go, and when somebody was erased."""
        self._erased = None

    async def apply(
        self, polled: Polled, positions: Mapping[Partition, Position], *, now: datetime, catching_up: bool
    ) -> Applied | None:
        """Takes what is new in ``polled``; None when nothing is. Raises LostPartition, and DatabaseAway when the events
        or the offsets are not stored: then it may be tried again."""
        new = steps(polled, positions)
        if not new:
            return None
        erased = await self._read_erased()
        readings = [self._read(record, now, erased) for _, records in new for record in records]
        await self._take(readings, now)
        letters = tuple(letter for reading in readings if (letter := reading.letter) is not None)
        batch = Batch(
            advances=tuple(step for step, _ in new), arrivals=(), dead_letters=letters, catching_up=catching_up, now=now
        )
        nothing = Facts(fold=fold([], now=now), statements=())
        try:
            await self._store.write(batch, nothing)
        except PoisonBatch:
            await self._store.write(replace(batch, bare_letters=True), nothing)
        for letter in letters:
            metrics.DEAD_LETTERS.labels(letter.error.reason).inc()
        return Applied(
            positions={step.after.place: step.after for step, _ in new},
            fold=nothing.fold,
            dead_letters=letters,
            duplicates=0,
        )

    async def _read_erased(self) -> Tombstones:
        if self._erased is None:
            try:
                async with raw_connection(self._engine) as connection:
                    self._erased = await tombstones.read(connection)
            except TRANSIENT as error:
                raise DatabaseAway(f"who was erased cannot be read: {error!r}") from error
        return self._erased

    def _read(self, record: Record, now: datetime, erased: Tombstones) -> _Reading:
        reading = _Reading(record=record)
        try:
            reading.items = translated(record, self._topics[record.topic], self._sources, now, self._limits)
            if erased:
                arrived = to_us(arrival(record, now))
                reading.items = tuple(erased.item(item, arrived) for item in reading.items)
        except BadEvent as error:
            if erased and erased.named_in((record.key, record.value), to_us(arrival(record, now))):
                metrics.ERASED.inc()
                return reading
            reading.refuse(error)
            EVENTS_REFUSED.labels(DOOR, error.reason).inc()
        return reading

    async def _take(self, readings: Sequence[_Reading], now: datetime) -> None:
        by_source: dict[str, list[_Reading]] = {}
        for reading in readings:
            if reading.items:
                by_source.setdefault(self._topics[reading.record.topic].source, []).append(reading)
        for source, chosen in by_source.items():
            items = [item for reading in chosen for item in reading.items]
            arrived = [arrival(reading.record, now) for reading in chosen for _ in reading.items]
            try:
                taken = iter(await self._intake.take(items, source=source, now=now, arrived=arrived))
            except BrokerError as error:
                raise NotAcknowledged(f"the broker takes no events: {error}") from error
            for reading in chosen:
                self._judge(reading, [next(taken) for _ in reading.items])

    @staticmethod
    def _judge(reading: _Reading, taken: Sequence[Taken]) -> None:
        unsettled = False
        for index, each in enumerate(taken):
            if each.status == "unacknowledged":
                item = reading.items[index]
                if item.binding is None and all(event.account_id != UNPLACED for event in item.events):
                    raise NotAcknowledged("not all events were acknowledged in time")
                unsettled = True
            if each.error is not None:
                reading.refuse(each.error, index if len(taken) > 1 else None)
        if unsettled:
            raise NotSettled("not all users' events and accounts are stored")


async def run_relay(
    engine: AsyncEngine,
    intake: Intake,
    options: Options,
    stop: asyncio.Event,
    clock: Callable[[], datetime],
    status: Status | None = None,
) -> None:
    """Until ``stop``. Raises ``loop.Stuck`` and BrokerError, on which the process should end and be started again."""
    relax_collector()
    status = status or Status()
    consumer = Consumer(
        options.bootstrap,
        [topic.topic for topic in options.sources.topics],
        group=relay_group(options.group),
        client_id="kizashi-relay",
        on_assigned=lambda held: loop.on_assigned(held),  # noqa: PLW0108  the loop is made below
        on_revoked=lambda lost: loop.on_revoked(lost),  # noqa: PLW0108
        session_timeout_ms=options.session_timeout_ms,
    )
    loop = Loop(
        consumer,
        AtOnce(Relay(engine, intake, options)),
        Offsets(engine, relay_group(options.group)),
        clock=clock,
        pace=options.pace,
        status=status,
        incarnation=options.broker_incarnation,
        poison=options.poison,
    )
    await read_on(consumer, loop, stop, status, intake.upkeep(clock))


def _canonical(value: bytes, now: datetime, limits: Limits) -> tuple[Item, ...]:
    return tuple(_our_item(raw, now, limits) for raw in cut(value, limits))


def _our_item(raw: bytes, now: datetime, limits: Limits) -> Item:
    try:
        event = decode(raw, limits.event_max_bytes)
        if event.import_id is not None:
            raise bad("import_id", "is for `kizashi backfill` alone", "leave import_id and import_row out")
        if (ahead := check_time(event, now, limits.future_tolerance)) is not None:
            raise ahead
    except BadEvent as error:
        return Item(error=error)
    return Item(event_id=event.event_id, events=(event,))


def _value(record: Record) -> bytes:
    if record.value is None:
        raise bad("", "the record has no value", "send the event as the record's value", "malformed")
    return record.value


def _decoded(value: bytes) -> object:
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None
