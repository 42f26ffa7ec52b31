"""Alerts with their transitions, deliveries with their attempts, and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.tables import deliveries as deliveries_table
from alerts.tables import delivery_attempts, episodes, transitions
from consumers.tables import dead_letters as dead_letters_table
from health.tables import health
from service.queries import cursors
from service.queries.owners import owned_by, owner_name
from service.queries.types import (
    MAX_LIMIT,
    AlertDetail,
    AlertFilter,
    AlertItem,
    AlertPage,
    Attempt,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterPage,
    DeliveryFilter,
    DeliveryItem,
    DeliveryPage,
    Transition,
)

DEAD_LETTER_PREVIEW_BYTES = 2048


async def alerts(conn: AsyncConnection, where: AlertFilter, cursor: str | None, limit: int) -> AlertPage:
    """Newest first. Raises BadCursorError."""
    limit = min(limit, MAX_LIMIT)
    query = _alert_query().where(*await _alert_conditions(conn, where))
    if cursor is not None:
        query = query.where(_before(cursor, "alerts", episodes.c.opened_at, episodes.c.episode_id))
    query = query.order_by(episodes.c.opened_at.desc(), episodes.c.episode_id.desc()).limit(limit + 1)
    rows = (await conn.execute(query)).all()
    page = rows[:limit]
    following = cursors.encode("alerts", page[-1].opened_at, str(page[-1].episode_id)) if len(rows) > limit else None
    return AlertPage(items=tuple(_alert_item(row) for row in page), next_cursor=following)


async def count_alerts(conn: AsyncConnection, where: AlertFilter) -> int:
    """How many `alerts` would list in all."""
    conditions = await _alert_conditions(conn, where)
    return await conn.scalar(select(func.count()).select_from(episodes).where(*conditions)) or 0


async def open_alerts(conn: AsyncConnection, account_id: str) -> tuple[AlertItem, ...]:
    """All open ones of an account, newest first."""
    query = _alert_query().where(episodes.c.account_id == account_id, episodes.c.state == "open")
    rows = await conn.execute(query.order_by(episodes.c.opened_at.desc(), episodes.c.episode_id.desc()))
    return tuple(_alert_item(row) for row in rows)


async def alert(conn: AsyncConnection, episode_id: UUID) -> AlertDetail | None:
    row = (await conn.execute(_alert_query().where(episodes.c.episode_id == episode_id))).one_or_none()
    if row is None:
        return None
    steps = await conn.execute(
        select(transitions).where(transitions.c.episode_id == episode_id).order_by(transitions.c.transition_id)
    )
    sent = await conn.execute(
        _delivery_query()
        .where(deliveries_table.c.episode_id == episode_id)
        .order_by(deliveries_table.c.created_at, deliveries_table.c.delivery_id)
    )
    return AlertDetail(
        alert=_alert_item(row),
        rule_version=row.rule_version,
        scorecard=row.scorecard,
        signals=row.signals,
        contributions=row.contributions or [],
        transitions=tuple(
            Transition(**{name: getattr(step, name) for name in Transition.__struct_fields__}) for step in steps
        ),
        deliveries=await _with_attempts(conn, sent.all()),
    )


def _alert_query() -> Select[Any]:
    return select(
        episodes,
        health.c.name.label("account_name"),
        health.c.currency,
        health.c.plan,
        health.c.renewal_on,
        health.c.band,
        owner_name(episodes.c.owner),
    ).select_from(episodes.outerjoin(health, health.c.account_id == episodes.c.account_id))


async def _alert_conditions(conn: AsyncConnection, where: AlertFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for column, values in (
        (episodes.c.state, where.states),
        (episodes.c.severity, where.severities),
        (episodes.c.rule_id, where.rules),
        (episodes.c.outcome, where.outcomes),
    ):
        if values:
            conditions.append(column.in_(values))
    if where.owners:
        conditions.append(await owned_by(conn, episodes.c.owner, where.owners))
    if where.account_id is not None:
        conditions.append(episodes.c.account_id == where.account_id)
    if where.pre_existing is not None:
        conditions.append(episodes.c.pre_existing.is_(where.pre_existing))
    for column, wanted in ((episodes.c.acknowledged_at, where.acknowledged), (episodes.c.snoozed_until, where.snoozed)):
        if wanted is not None:
            conditions.append(column.is_not(None) if wanted else column.is_(None))
    return conditions


def _alert_item(row: Row[Any]) -> AlertItem:
    values = {name: getattr(row, name) for name in AlertItem.__struct_fields__}
    values["score"] = None if row.score is None else float(row.score)
    return AlertItem(**values)


def _before(cursor: str, scope: str, at: ColumnElement[datetime], key: ColumnElement[UUID]) -> ColumnElement[bool]:
    value, text = cursors.decode(cursor, scope, datetime)
    try:
        row_id = UUID(text)
    except ValueError:
        raise cursors.BadCursorError(cursors.BAD_CURSOR) from None
    if value is None:
        raise cursors.BadCursorError(cursors.BAD_CURSOR)
    return tuple_(at, key) < tuple_(value, row_id)


async def deliveries(conn: AsyncConnection, where: DeliveryFilter, cursor: str | None, limit: int) -> DeliveryPage:
    """Newest first, each with its attempts. Raises BadCursorError."""
    limit = min(limit, MAX_LIMIT)
    table = deliveries_table.c
    query = _delivery_query()
    if where.statuses:
        query = query.where(table.status.in_(where.statuses))
    if where.channels:
        query = query.where(table.channel.in_(where.channels))
    if where.account_id is not None:
        query = query.where(table.account_id == where.account_id)
    if where.episode_id is not None:
        query = query.where(table.episode_id == where.episode_id)
    if cursor is not None:
        query = query.where(_before(cursor, "deliveries", table.created_at, table.delivery_id))
    query = query.order_by(table.created_at.desc(), table.delivery_id.desc()).limit(limit + 1)
    rows = (await conn.execute(query)).all()
    page = rows[:limit]
    following = (
        cursors.encode("deliveries", page[-1].created_at, str(page[-1].delivery_id)) if len(rows) > limit else None
    )
    return DeliveryPage(items=await _with_attempts(conn, page), next_cursor=following)


async def delivery(conn: AsyncConnection, delivery_id: UUID) -> DeliveryItem | None:
    rows = (await conn.execute(_delivery_query().where(deliveries_table.c.delivery_id == delivery_id))).all()
    return next(iter(await _with_attempts(conn, rows)), None)


def _delivery_query() -> Select[Any]:
    return select(
        deliveries_table,
        transitions.c.kind.label("transition"),
        episodes.c.rule_id,
        health.c.name.label("account_name"),
    ).select_from(
        deliveries_table.join(transitions, transitions.c.transition_id == deliveries_table.c.transition_id)
        .join(episodes, episodes.c.episode_id == deliveries_table.c.episode_id)
        .outerjoin(health, health.c.account_id == deliveries_table.c.account_id)
    )


async def _with_attempts(conn: AsyncConnection, rows: Sequence[Row[Any]]) -> tuple[DeliveryItem, ...]:
    found: dict[UUID, list[Attempt]] = {}
    query = select(delivery_attempts).where(delivery_attempts.c.delivery_id.in_([row.delivery_id for row in rows]))
    for row in await conn.execute(query.order_by(delivery_attempts.c.delivery_id, delivery_attempts.c.attempt)):
        attempt = Attempt(**{name: getattr(row, name) for name in Attempt.__struct_fields__})
        found.setdefault(row.delivery_id, []).append(attempt)
    own = [name for name in DeliveryItem.__struct_fields__ if name != "attempts"]
    return tuple(
        DeliveryItem(**{name: getattr(row, name) for name in own}, attempts=tuple(found.get(row.delivery_id, ())))
        for row in rows
    )


async def dead_letters(
    conn: AsyncConnection, where: DeadLetterFilter, cursor: str | None, limit: int
) -> DeadLetterPage:
    """Newest first, values cut to DEAD_LETTER_PREVIEW_BYTES. Raises BadCursorError."""
    limit = min(limit, MAX_LIMIT)
    table = dead_letters_table.c
    query = _dead_letter_query(func.substr(table.value, 1, DEAD_LETTER_PREVIEW_BYTES))
    if where.statuses:
        query = query.where(table.status.in_(where.statuses))
    if where.reasons:
        query = query.where(table.reason.in_(where.reasons))
    if where.topic is not None:
        query = query.where(table.topic == where.topic)
    if cursor is not None:
        _, last = cursors.decode(cursor, "dead-letters", str, int)
        query = query.where(table.dead_letter_id < last)
    rows = (await conn.execute(query.order_by(table.dead_letter_id.desc()).limit(limit + 1))).all()
    page = rows[:limit]
    following = cursors.encode("dead-letters", None, page[-1].dead_letter_id) if len(rows) > limit else None
    return DeadLetterPage(items=tuple(_dead_letter(row) for row in page), next_cursor=following)


async def dead_letter(conn: AsyncConnection, dead_letter_id: int) -> DeadLetter | None:
    """With its whole value."""
    query = _dead_letter_query(dead_letters_table.c.value).where(dead_letters_table.c.dead_letter_id == dead_letter_id)
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else _dead_letter(row)


def _dead_letter_query(value: ColumnElement[Any]) -> Select[Any]:
    kept = [column for column in dead_letters_table.c if column.name != "value"]
    length = func.coalesce(func.octet_length(dead_letters_table.c.value), 0).label("value_bytes")
    return select(*kept, value.label("value"), length)


def _dead_letter(row: Row[Any]) -> DeadLetter:
    return DeadLetter(**{name: getattr(row, name) for name in DeadLetter.__struct_fields__})
