"""Where every door ends: translated items go to the events topic, and each is told what became of it.

HTTP, relay, webhooks, uploads and the retry of dead letters all hand over here. Accepted means durable: in the topic,
on all in-sync replicas, or, while the account of its user is not known, in the table of waiting events.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import repeat
from typing import Final, Literal, Protocol

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import door_metrics as metrics
from consumers.broker import BrokerError, BrokerUnavailable, RecordTooLarge
from consumers.events import DEFAULT_SOURCE, BadEvent, Event, bad, encode
from consumers.formats.items import UNPLACED, Binding, Item
from consumers.pseudonyms import Pseudonyms
from consumers.store import TRANSIENT
from consumers.waiting import FULL, Waiting, WaitingLimits

logger = logging.getLogger(__name__)

CHUNK_EVENTS: Final = 100
"""Events given to the broker at once; what becomes of them is known together."""
UPKEEP_SECONDS: Final = 30.0

Status = Literal["accepted", "waiting", "ignored", "refused", "unacknowledged"]
_WORST_FIRST: Final[tuple[Status, ...]] = ("unacknowledged", "refused", "waiting", "accepted")
_TOO_LARGE: Final = bad("", "is larger than the broker takes", "send a smaller event", "too_large")


class EventProducer(Protocol):
    """The part of `consumers.broker.Producer` that is needed here."""

    async def send_many(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes, Sequence[tuple[str, bytes]]]]
    ) -> list[tuple[int, int]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What became of one item. ``waiting``: stored until its user's account is known. ``unacknowledged``: the broker
    did not say in time; send it again as it is."""

    status: Status
    event_id: str | None = None
    error: BadEvent | None = None


@dataclass(kw_only=True, slots=True)
class _Fate:
    """One event on its way. ``status`` None: still to be produced."""

    event: Event
    status: Status | None = None
    error: BadEvent | None = None


class Intake:
    """Shared by all requests of a process. ``door`` labels the metrics."""

    def __init__(
        self,
        producer: EventProducer,
        engine: AsyncEngine,
        *,
        topic: str,
        door: str = "http",
        pseudonyms: Pseudonyms | None = None,
        waiting: WaitingLimits | None = None,
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._door = door
        self._pseudonyms = pseudonyms
        self._waiting = Waiting(engine, waiting or WaitingLimits())
        self._left_over = asyncio.Event()

    async def take(
        self, items: Sequence[Item], *, source: str, now: datetime, arrived: Sequence[datetime] | None = None
    ) -> list[Taken]:
        """One answer per item, in order. Events that name no source get ``source``; all are stamped as received now, or
        when each item ``arrived``.

        Sending again what was not acknowledged is always safe. An item of several events is as well off as its worst.
        The database is asked only for events without an account, and for bindings; while it is away they are not
        acknowledged, and the others are. Raises BrokerError when nothing was acknowledged for a reason that waiting
        does not mend.
        """
        items = items if self._pseudonyms is None else [_under_pseudonyms(item, self._pseudonyms) for item in items]
        times = repeat(now) if arrived is None else arrived
        if all(map(_is_plain, items)):
            events = [_stamped(item.events[0], source, at) for item, at in zip(items, times, strict=False)]
            answers = [
                Taken(status=status, event_id=item.event_id, error=_TOO_LARGE if status == "refused" else None)
                for item, status in zip(items, await self._produce(events), strict=True)
            ]
            self._count(items, answers)
            return answers
        fates = [
            [_Fate(event=_stamped(event, source, at)) for event in item.events]
            for item, at in zip(items, times, strict=arrived is not None)
        ]
        flat = [fate for of_item in fates for fate in of_item]
        bindings = [item.binding for item in items if item.binding is not None]
        unplaced = [fate for fate in flat if fate.event.account_id == UNPLACED]
        bound, decided = True, 0
        if bindings or unplaced:
            bound, decided = await self._settle(bindings, unplaced, now)
        await self._carry([fate for fate in flat if fate.status is None])
        if decided:
            await self._release(now)
        answers = [_taken(item, of_item, bound=bound) for item, of_item in zip(items, fates, strict=True)]
        self._count(items, answers)
        return answers

    async def upkeep(self, clock: Callable[[], datetime], seconds: float = UPKEEP_SECONDS) -> None:
        """For ever: releases what was left behind by a crash or a broker that was away, ends what waited too long, and
        counts the rest. Any number of processes may do it."""
        while True:
            try:
                await self.tidy(clock())
            except (BrokerError, *TRANSIENT) as error:
                logger.warning("waiting events are looked at later: %r", error)
            try:
                await asyncio.wait_for(self._left_over.wait(), seconds)
            except TimeoutError:
                continue
            self._left_over.clear()

    async def tidy(self, now: datetime) -> None:
        """Once what `upkeep` does. Raises BrokerError and what SQLAlchemy raises."""
        while await self._release_some(now):
            pass
        expired = await self._waiting.expire(now)
        if expired:
            metrics.EXPIRED.inc(expired)
            logger.warning("%d events waited too long for an account and are dead letters now", expired)
        metrics.WAITING.set(await self._waiting.count())

    async def _settle(self, bindings: Sequence[Binding], unplaced: Sequence[_Fate], now: datetime) -> tuple[bool, int]:
        """Whether the bindings are stored, and how many waiting events have their account now."""
        try:
            settled = await self._waiting.settle(bindings, [fate.event for fate in unplaced], now)
        except TRANSIENT as error:
            logger.warning("the accounts of users are not known: %r", error)
            for fate in unplaced:
                fate.status = "unacknowledged"
            return False, 0
        for place, fate in enumerate(unplaced):
            if place in settled.parked:
                fate.status = "waiting"
            elif place in settled.full:
                fate.status, fate.error = "refused", FULL
            else:
                account_id = settled.accounts[str(fate.event.user_id)]
                fate.event = msgspec.structs.replace(fate.event, account_id=account_id)
        metrics.PARKED.inc(len(settled.parked))
        return True, settled.decided

    async def _release(self, now: datetime) -> None:
        """What the bindings of a request have decided; the request itself is stored already, so nothing fails here."""
        try:
            more = await self._release_some(now)
        except (BrokerError, *TRANSIENT) as error:
            logger.warning("waiting events are released later: %r", error)
            more = True
        if more:
            self._left_over.set()

    async def _release_some(self, now: datetime) -> bool:
        """Produces, then deletes; True when there may be more that can be released now."""
        found = await self._waiting.decided(now)
        if not found:
            return False
        statuses = await self._produce([event for _, event in found])
        done = [row for (row, _), status in zip(found, statuses, strict=True) if status == "accepted"]
        await self._waiting.delete(done)
        for (row, _), status in zip(found, statuses, strict=True):
            if status == "refused":
                await self._waiting.bury(row, _TOO_LARGE, now)
        metrics.RELEASED.inc(len(done))
        return "unacknowledged" not in statuses

    async def _carry(self, fates: Sequence[_Fate]) -> None:
        for fate, status in zip(fates, await self._produce([fate.event for fate in fates]), strict=True):
            fate.status = status
            if status == "refused":
                fate.error = _TOO_LARGE

    async def _produce(self, events: Sequence[Event]) -> list[Status]:
        records = [(event.account_id.encode(), encode(event)) for event in events]
        chunks = [records[start : start + CHUNK_EVENTS] for start in range(0, len(records), CHUNK_EVENTS)]
        if len(chunks) == 1:
            answers = [await self._produce_chunk(chunks[0])]
        else:
            answers = await asyncio.gather(*(self._produce_chunk(chunk) for chunk in chunks))
        failures = [answer for answer in answers if isinstance(answer, BrokerError)]
        if failures and not any("accepted" in answer for answer in answers if not isinstance(answer, BrokerError)):
            raise failures[0]
        statuses: list[Status] = []
        for chunk, answer in zip(chunks, answers, strict=True):
            statuses += ["unacknowledged"] * len(chunk) if isinstance(answer, BrokerError) else answer
        accepted = (event.__struct_config__.tag for event, s in zip(events, statuses, strict=True) if s == "accepted")
        for kind, count in Counter(accepted).items():
            metrics.EVENTS_ACCEPTED.labels(str(kind)).inc(count)
        metrics.EVENTS_UNACKNOWLEDGED.inc(statuses.count("unacknowledged"))
        return statuses

    async def _produce_chunk(self, chunk: Sequence[tuple[bytes, bytes]]) -> list[Status] | BrokerError:
        try:
            await self._producer.send_many(self._topic, [(key, value, ()) for key, value in chunk])
        except RecordTooLarge:
            if len(chunk) == 1:
                return ["refused"]
            # One of them is: the others must not wait for it for ever.
            statuses: list[Status] = []
            for alone in await asyncio.gather(*(self._produce_chunk([record]) for record in chunk)):
                statuses += ["unacknowledged"] if isinstance(alone, BrokerError) else alone
            return statuses
        except BrokerUnavailable:
            return ["unacknowledged"] * len(chunk)
        except BrokerError as error:
            return error
        return ["accepted"] * len(chunk)

    def _count(self, items: Sequence[Item], answers: Sequence[Taken]) -> None:
        for reason, count in Counter(each.error.reason for each in answers if each.error is not None).items():
            metrics.EVENTS_REFUSED.labels(self._door, reason).inc(count)
        for ignored, count in Counter(item.ignored for item in items if item.ignored is not None).items():
            metrics.EVENTS_IGNORED.labels(self._door, ignored).inc(count)


def _is_plain(item: Item) -> bool:
    """One event of a known account: nearly all traffic."""
    return (
        len(item.events) == 1
        and item.binding is None
        and item.ignored is None
        and item.error is None
        and item.events[0].account_id != UNPLACED
    )


def _under_pseudonyms(item: Item, pseudonyms: Pseudonyms) -> Item:
    binding = item.binding
    if binding is not None:
        binding = replace(binding, user_id=pseudonyms.of(binding.user_id))
    return replace(item, events=tuple(map(pseudonyms.event, item.events)), binding=binding)


def _stamped(event: Event, source: str, now: datetime) -> Event:
    if event.source == DEFAULT_SOURCE:
        return msgspec.structs.replace(event, received_at=now, source=source)
    return msgspec.structs.replace(event, received_at=now)


def _taken(item: Item, fates: Sequence[_Fate], *, bound: bool) -> Taken:
    if item.error is not None:
        return Taken(status="refused", event_id=item.event_id, error=item.error)
    if item.binding is not None and not bound:
        return Taken(status="unacknowledged", event_id=item.event_id)
    statuses = {fate.status for fate in fates}
    status: Status = next((status for status in _WORST_FIRST if status in statuses), "accepted")
    if status == "refused":
        error = next(fate.error for fate in fates if fate.status == "refused")
        return Taken(status=status, event_id=item.event_id, error=error)
    if item.ignored is not None:
        return Taken(status="ignored", event_id=item.event_id)
    return Taken(status=status, event_id=item.event_id)
