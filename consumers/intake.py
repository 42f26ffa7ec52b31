"""Where every door ends: translated items go to the events topic, and each is told what became of it.

HTTP, relay, webhooks, uploads and the retry of dead letters all hand over here. Accepted means durable: in the topic,
on all in-sync replicas.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import door_metrics as metrics
from consumers.broker import BrokerError, BrokerUnavailable, RecordTooLarge
from consumers.events import DEFAULT_SOURCE, BadEvent, Event, bad, encode
from consumers.formats.items import Item

CHUNK_EVENTS: Final = 100
"""Events given to the broker at once; what becomes of them is known together."""

Status = Literal["accepted", "waiting", "ignored", "refused", "unacknowledged"]
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


class Intake:
    """Shared by all requests of a process. ``door`` labels the metrics."""

    def __init__(self, producer: EventProducer, engine: AsyncEngine, *, topic: str, door: str = "http") -> None:
        self._producer = producer
        self._engine = engine
        self._topic = topic
        self._door = door

    async def take(self, items: Sequence[Item], *, source: str, now: datetime) -> list[Taken]:
        """One answer per item, in order. Events that name no source get ``source``; all are stamped with ``now``.

        Sending again what was not acknowledged is always safe. An item of several events is as well off as its worst.
        Raises BrokerError when nothing was acknowledged for a reason that waiting does not mend.
        """
        events = [_stamped(event, source, now) for item in items for event in item.events]
        statuses = iter(await self._produce(events) if events else ())
        answers = [_taken(item, [next(statuses) for _ in item.events]) for item in items]
        for reason, count in Counter(each.error.reason for each in answers if each.error is not None).items():
            metrics.EVENTS_REFUSED.labels(self._door, reason).inc(count)
        return answers

    async def _produce(self, events: Sequence[Event]) -> list[Status]:
        records = [(event.account_id.encode(), encode(event)) for event in events]
        chunks = [records[start : start + CHUNK_EVENTS] for start in range(0, len(records), CHUNK_EVENTS)]
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


def _stamped(event: Event, source: str, now: datetime) -> Event:
    if event.source == DEFAULT_SOURCE:
        return msgspec.structs.replace(event, received_at=now, source=source)
    return msgspec.structs.replace(event, received_at=now)


def _taken(item: Item, statuses: Sequence[Status]) -> Taken:
    if item.error is not None:
        return Taken(status="refused", event_id=item.event_id, error=item.error)
    if "unacknowledged" in statuses:
        return Taken(status="unacknowledged", event_id=item.event_id)
    if "refused" in statuses:
        return Taken(status="refused", event_id=item.event_id, error=_TOO_LARGE)
    if item.ignored is not None:
        return Taken(status="ignored", event_id=item.event_id)
    return Taken(status="accepted", event_id=item.event_id)
