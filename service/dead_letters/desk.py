"""Works dead letters off: each is locked, tried or discarded, and marked in one transaction, so that two people, or one
who clicks twice, send an event once. Should we die between the broker's answer and the commit, the letter stays open,
and sending it again is recognised by its event id.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from consumers.broker import BrokerError
from consumers.events import BadEvent, Event
from consumers.formats.canonical import Limits as FormatLimits
from consumers.formats.items import Item
from consumers.tables import dead_letters
from service import audit
from service.dead_letters.relaying import items_of, source_of
from service.dead_letters.remapping import WEBHOOK
from service.dead_letters.remapping import events_of as remapped
from service.dead_letters.retrying import Letter, Limits, event_of, first_arrival
from service.deps import Deps
from service.errors import FieldProblem
from service.metrics import DEAD_LETTER_ACTIONS
from service.queries.dead_letters import DeadLetterFilter, conditions

logger = logging.getLogger(__name__)

CHUNK: Final = 100
MOST_AT_ONCE: Final = 1_000

Action = Literal["retry", "discard"]
Said = Literal["retried", "discarded", "refused", "unacknowledged", "not_open", "missing"]

table = dead_letters.c
_LETTER: Final = (table.dead_letter_id, table.value, table.record_timestamp, table.created_at, table.topic,
                 table.partition, table.record_offset, table.headers)  # fmt: skip
_CLOSE: Final = (
    update(dead_letters)
    .where(table.dead_letter_id == bindparam("letter"), table.status == "open")
    .values(
        status=bindparam("status"), closed_at=bindparam("at"), closed_by=bindparam("by"), note=bindparam("note"),
        sent_value=bindparam("sent"),
    )
)  # fmt: skip


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one letter. ``unacknowledged``: the broker did not answer in time, and the letter is still open;
    ``not_open``: somebody was first, and ``status`` says with what."""

    dead_letter_id: int
    outcome: Said
    event_id: str | None = None
    status: str | None = None
    errors: list[FieldProblem] = []


class Bulk(msgspec.Struct, frozen=True, kw_only=True):
    """What became of many. ``left``: letters that still match and are open, the refused ones among them. ``next_after``
    goes on behind the last one looked at; null: there is none."""

    retried: int = 0
    discarded: int = 0
    refused: int = 0
    unacknowledged: int = 0
    left: int = 0
    next_after: int | None = None
    items: list[Outcome] = []


@dataclass(frozen=True, kw_only=True)
class _Tried:
    letter: Letter
    items: tuple[Item, ...] = ()
    error: BadEvent | None = None


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where ``actor`` works; ``now`` is of the request."""

    deps: Deps
    actor: str
    now: datetime

    async def retry(self, dead_letter_id: int, value: bytes | None = None) -> Outcome:
        """Sends the letter's event, or ``value`` in its place."""
        async with self.deps.writing() as conn:
            letter = await self._locked(conn, dead_letter_id)
            if isinstance(letter, Outcome):
                return letter
            (outcome,) = await self._send(conn, [self._read(letter, value)], value)
            if outcome.outcome == "retried":
                await self._note(conn, "dead_letter.retried", str(dead_letter_id), {"edited": value is not None})
        _count("retry", [outcome])
        return outcome

    async def discard(self, dead_letter_id: int, note: str | None = None) -> Outcome:
        async with self.deps.writing() as conn:
            letter = await self._locked(conn, dead_letter_id)
            if isinstance(letter, Outcome):
                return letter
            await self._close(conn, "discarded", [dead_letter_id], note=note)
            await self._note(conn, "dead_letter.discarded", str(dead_letter_id), {})
        outcome = Outcome(dead_letter_id=dead_letter_id, outcome="discarded")
        _count("discard", [outcome])
        return outcome

    async def many(
        self, action: Action, where: DeadLetterFilter, *, limit: int, after: int = 0, note: str | None = None
    ) -> Bulk:
        """Up to ``limit`` open letters that match, from the oldest behind ``after`` on, as they came. Letters that
        somebody else has in hand are passed over. Ends early when the broker acknowledges nothing."""
        where = msgspec.structs.replace(where, statuses=("open",))
        limit = min(limit, MOST_AT_ONCE)
        outcomes: list[Outcome] = []
        exhausted = False
        while len(outcomes) < limit and not exhausted:
            size = min(CHUNK, limit - len(outcomes))
            async with self.deps.writing() as conn:
                letters = await self._chunk(conn, where, after, size)
                done = await self._work(conn, action, letters, note)
                if done:
                    await self._note_many(conn, action, where, done)
            outcomes += done
            exhausted = len(letters) < size
            after = letters[-1].dead_letter_id if letters else after
            if done and all(each.outcome == "unacknowledged" for each in done):
                break
        _count(action, outcomes)
        async with self.deps.reading() as conn:
            left = await conn.scalar(select(func.count()).select_from(dead_letters).where(*conditions(where))) or 0
        said = [each.outcome for each in outcomes]
        return Bulk(
            retried=said.count("retried"), discarded=said.count("discarded"), refused=said.count("refused"),
            unacknowledged=said.count("unacknowledged"), left=left, next_after=None if exhausted else after,
            items=outcomes,
        )  # fmt: skip

    async def _work(
        self, conn: AsyncConnection, action: Action, letters: Sequence[Letter], note: str | None
    ) -> list[Outcome]:
        if not letters:
            return []
        if action == "retry":
            return await self._send(conn, [self._read(letter, None) for letter in letters], None)
        ids = [letter.dead_letter_id for letter in letters]
        await self._close(conn, "discarded", ids, note=note)
        return [Outcome(dead_letter_id=letter_id, outcome="discarded") for letter_id in ids]

    def _read(self, letter: Letter, value: bytes | None) -> _Tried:
        settings = self.deps.settings
        limits = Limits(
            event_max_bytes=settings.event_max_bytes,
            future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
        )
        try:
            if value is None and letter.topic.startswith(WEBHOOK):
                mapped = remapped(
                    letter.topic, letter.value, settings.rules_dir, self.now,
                    event_max_bytes=limits.event_max_bytes, tolerance=limits.future_tolerance,
                )  # fmt: skip
                return _tried(letter, mapped)
            if value is None and (items := self._relayed(letter)) is not None:
                return _Tried(letter=letter, items=items)
            return _tried(letter, (event_of(letter, value, self.now, limits),))
        except BadEvent as error:
            return _Tried(letter=letter, error=error)

    def _relayed(self, letter: Letter) -> tuple[Item, ...] | None:
        settings = self.deps.settings
        limits = FormatLimits(
            event_max_bytes=settings.event_max_bytes,
            batch_max_events=settings.batch_max_events,
            future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
        )
        return items_of(letter, self.deps.sources, self.now, limits)

    async def _send(self, conn: AsyncConnection, tried: Sequence[_Tried], value: bytes | None) -> list[Outcome]:
        outcomes = list(await asyncio.gather(*map(self._produce, tried)))
        sent = [each.dead_letter_id for each in outcomes if each.outcome == "retried"]
        await self._close(conn, "retried", sent, sent_value=value)
        return outcomes

    async def _produce(self, tried: _Tried) -> Outcome:
        letter_id = tried.letter.dead_letter_id
        if tried.error is not None:
            return Outcome(dead_letter_id=letter_id, outcome="refused", errors=_fields(tried.error))
        event_id = next((item.event_id for item in tried.items), None)
        # Stamped with its first arrival, not with ours, and with the source that its door gave what came beside it.
        arrived, source = first_arrival(tried.letter), source_of(tried.letter, self.deps.sources)
        try:
            taken = await self.deps.intake.take(tried.items, source=source, now=arrived)
        except BrokerError as error:
            logger.warning("dead letter %d not sent: %s", letter_id, error)
            return Outcome(dead_letter_id=letter_id, outcome="unacknowledged", event_id=event_id)
        refused = next((each.error for each in taken if each.error is not None), None)
        if refused is not None:
            return Outcome(dead_letter_id=letter_id, outcome="refused", errors=_fields(refused))
        said: Said = "unacknowledged" if any(each.status == "unacknowledged" for each in taken) else "retried"
        return Outcome(dead_letter_id=letter_id, outcome=said, event_id=event_id)

    async def _locked(self, conn: AsyncConnection, dead_letter_id: int) -> Letter | Outcome:
        """The letter, locked while it is open; else why it cannot be worked on."""
        query = select(*_LETTER, table.status).where(table.dead_letter_id == dead_letter_id).with_for_update()
        row = (await conn.execute(query)).one_or_none()
        if row is None:
            return Outcome(dead_letter_id=dead_letter_id, outcome="missing")
        if row.status != "open":
            return Outcome(dead_letter_id=dead_letter_id, outcome="not_open", status=row.status)
        return _letter(row)

    async def _chunk(self, conn: AsyncConnection, where: DeadLetterFilter, after: int, size: int) -> list[Letter]:
        query = select(*_LETTER).where(*conditions(where), table.dead_letter_id > after)
        query = query.order_by(table.dead_letter_id).limit(size).with_for_update(skip_locked=True)
        return [_letter(row) for row in await conn.execute(query)]

    async def _close(
        self,
        conn: AsyncConnection,
        status: str,
        ids: Sequence[int],
        *,
        note: str | None = None,
        sent_value: bytes | None = None,
    ) -> None:
        common = {"status": status, "at": self.now, "by": self.actor, "note": note, "sent": sent_value}
        if ids:
            await conn.execute(_CLOSE, [{"letter": letter_id, **common} for letter_id in ids])

    async def _note_many(
        self, conn: AsyncConnection, action: Action, where: DeadLetterFilter, outcomes: Sequence[Outcome]
    ) -> None:
        """The text searched for stays out: it may name a user, and the audit is kept for ever."""
        counts = Counter(str(each.outcome) for each in outcomes)
        asked: dict[str, Any] = {"reasons": list(where.reasons), "topic": where.topic, "text": where.text is not None}
        done = "retried" if action == "retry" else "discarded"
        await self._note(conn, f"dead_letters.{done}", where.topic or "all", {**asked, **counts})

    async def _note(self, conn: AsyncConnection, action: str, subject: str, detail: Mapping[str, Any]) -> None:
        await audit.note(conn, actor=self.actor, action=action, subject=subject, detail=detail, now=self.now)


def _tried(letter: Letter, events: tuple[Event, ...]) -> _Tried:
    return _Tried(letter=letter, items=(Item(event_id=events[0].event_id, events=events),))


def _letter(row: Any) -> Letter:
    return Letter(**{column.name: getattr(row, column.name) for column in _LETTER})


def _fields(error: BadEvent) -> list[FieldProblem]:
    return [FieldProblem(field=part.field, problem=part.problem, remedy=part.remedy) for part in error.problems]


def _count(action: Action, outcomes: Sequence[Outcome]) -> None:
    for each in outcomes:
        DEAD_LETTER_ACTIONS.labels(action, each.outcome).inc()
