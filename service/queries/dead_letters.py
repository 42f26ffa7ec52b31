"""Reads the dead letters: records, calls and webhooks that could not be taken."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, LargeBinary, Row, Select, Text, cast, func, null, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from consumers.tables import dead_letters as dead_letters_table
from service.queries import cursors
from service.queries.types import MAX_LIMIT

DEAD_LETTER_PREVIEW_BYTES = 2048

table = dead_letters_table.c


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Joined by AND. ``text`` is looked for in the bytes as they are, and in the faults without regard to case."""

    statuses: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    topic: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    ids: tuple[int, ...] = ()


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    dead_letter_id: int
    topic: str
    partition: int
    record_offset: int
    record_timestamp: datetime | None
    key: bytes | None
    value: bytes | None  # the record as it came; lists cut it (`value_bytes` is its whole length)
    value_bytes: int
    headers: list[Any]
    errors: list[dict[str, Any]]
    reason: str
    status: str
    created_at: datetime
    closed_at: datetime | None
    closed_by: str | None
    note: str | None
    sent_value: bytes | None  # what was sent in its place; null: the value as it came. Lists leave it out


class DeadLetterPage(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[DeadLetter, ...]
    next_cursor: str | None


class LetterCount(msgspec.Struct, frozen=True, kw_only=True):
    """Open letters of one kind."""

    reason: str
    topic: str
    letters: int


async def dead_letters(
    conn: AsyncConnection, where: DeadLetterFilter, cursor: str | None, limit: int
) -> DeadLetterPage:
    """Newest first, values cut to DEAD_LETTER_PREVIEW_BYTES. Raises BadCursorError."""
    limit = min(limit, MAX_LIMIT)
    query = _select(func.substr(table.value, 1, DEAD_LETTER_PREVIEW_BYTES), whole=False).where(*conditions(where))
    if cursor is not None:
        _, last = cursors.decode(cursor, "dead-letters", str, int)
        query = query.where(table.dead_letter_id < last)
    rows = (await conn.execute(query.order_by(table.dead_letter_id.desc()).limit(limit + 1))).all()
    page = rows[:limit]
    following = cursors.encode("dead-letters", None, page[-1].dead_letter_id) if len(rows) > limit else None
    return DeadLetterPage(items=tuple(map(_letter, page)), next_cursor=following)


async def dead_letter(conn: AsyncConnection, dead_letter_id: int) -> DeadLetter | None:
    """With its whole value."""
    query = _select(table.value, whole=True).where(table.dead_letter_id == dead_letter_id)
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else _letter(row)


async def open_dead_letters(conn: AsyncConnection) -> tuple[LetterCount, ...]:
    """How many wait, by reason and topic, the most first."""
    count = func.count().label("letters")
    query = select(table.reason, table.topic, count).where(table.status == "open").group_by(table.reason, table.topic)
    rows = await conn.execute(query.order_by(count.desc(), table.reason, table.topic).limit(MAX_LIMIT))
    return tuple(LetterCount(**row) for row in rows.mappings())


def conditions(where: DeadLetterFilter) -> Sequence[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if where.statuses:
        found.append(table.status.in_(where.statuses))
    if where.reasons:
        found.append(table.reason.in_(where.reasons))
    if where.topic is not None:
        found.append(table.topic == where.topic)
    if where.since is not None:
        found.append(table.created_at >= where.since)
    if where.until is not None:
        found.append(table.created_at < where.until)
    if where.text:
        inside = func.pg_catalog.position(table.value, where.text.encode()) > 0
        found.append(or_(inside, cast(table.errors, Text).icontains(where.text, autoescape=True)))
    if where.ids:
        found.append(table.dead_letter_id.in_(where.ids))
    return found


def _select(value: ColumnElement[Any], *, whole: bool) -> Select[Any]:
    kept = [column for column in dead_letters_table.c if column.name not in {"value", "sent_value"}]
    length = func.coalesce(func.octet_length(table.value), 0).label("value_bytes")
    sent = table.sent_value if whole else cast(null(), LargeBinary).label("sent_value")
    return select(*kept, value.label("value"), length, sent)


def _letter(row: Row[Any]) -> DeadLetter:
    return DeadLetter(**{name: getattr(row, name) for name in DeadLetter.__struct_fields__})
