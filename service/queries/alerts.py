"""Alerts with their transitions, deliveries with their attempts, and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.ingestion import NO_ACCOUNT
from alerts.tables import deliveries as deliveries_table
from alerts.tables import delivery_attempts, episodes, transitions
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
    DeliveryFilter,
    DeliveryItem,
    DeliveryPage,
    Transition,
)


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
    # Operations' own alert is of no account.
    conditions: list[ColumnElement[bool]] = [episodes.c.account_id != NO_ACCOUNT]
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
