"""Courses over time: the timeline of an account, its scores, and activity per day of many accounts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Row, exists, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from health.tables import (
    QUANTITY_SCALE,
    account_history,
    account_months,
    accounts,
    feature_months,
    record_events,
    user_months,
)
from health.tables import score_history as score_history_table
from service.queries import cursors
from service.queries.types import MAX_LIMIT, Activity, ScorePoint, TimelineEntry, TimelinePage

SCOPE = "timeline"
AnyRow = Row[*tuple[Any, ...]]
Place = tuple[datetime, str]
"""Where a line stands: (sort instant, id), both falling."""


async def record_exists(conn: AsyncConnection, account_id: str, kind: str, record_id: str) -> bool:
    """Whether a discrete fact of that id has been applied."""
    table = record_events.c
    place = (table.account_id == account_id, table.kind == kind, table.record_id == record_id)
    return bool(await conn.scalar(select(exists().where(*place))))


async def timeline(conn: AsyncConnection, account_id: str, before: str | None, limit: int) -> TimelinePage:
    """Newest first. The line of a day stands above that day's discrete facts. Raises BadCursorError."""
    limit = min(limit, MAX_LIMIT)
    place: Place | None = None
    if before is not None:
        at, last = cursors.decode(before, SCOPE, datetime)
        if at is None:
            raise cursors.BadCursorError(cursors.BAD_CURSOR)
        place = (at, last)
    found = [
        *await _discrete(conn, account_id, place, limit + 1),
        *await _changes(conn, account_id, place, limit + 1),
        *await _days(conn, account_id, place, limit + 1),
    ]
    found.sort(key=lambda line: line[0], reverse=True)
    page = found[:limit]
    return TimelinePage(
        items=tuple(entry for _, entry in page),
        next_cursor=cursors.encode(SCOPE, *page[-1][0]) if len(found) > limit else None,
    )


async def _discrete(
    conn: AsyncConnection, account_id: str, place: Place | None, limit: int
) -> list[tuple[Place, TimelineEntry]]:
    table = record_events.c
    entry_id = func.concat(table.kind, ":", table.record_id, ":", table.event_key).collate("C").label("entry_id")
    query = select(record_events, entry_id).where(table.account_id == account_id)
    if place is not None:
        # The first half alone bounds the index; the second decides among equals.
        query = query.where(table.at <= place[0], or_(table.at < place[0], entry_id < place[1]))
    rows = await conn.execute(query.order_by(table.at.desc(), entry_id.desc()).limit(limit))
    return [((row.at, row.entry_id), _discrete_entry(row)) for row in rows]


def _discrete_entry(row: AnyRow) -> TimelineEntry:
    return TimelineEntry(
        entry_id=row.entry_id,
        kind=row.kind,
        at=row.at,
        record_id=row.record_id,
        user_id=row.user_id,
        data=row.data,
        day=None,
        count=None,
        last_at=None,
    )


async def _changes(
    conn: AsyncConnection, account_id: str, place: Place | None, limit: int
) -> list[tuple[Place, TimelineEntry]]:
    """Attributes that changed; the history also holds every repetition of the same value."""
    table = account_history.c
    previous = func.lag(table.value).over(partition_by=table.attribute, order_by=(table.valid_from, table.event_key))
    changes = (
        select(
            table.attribute,
            table.value,
            table.valid_from,
            previous.label("previous"),
            func.concat("attribute:", table.attribute, ":", table.event_key).collate("C").label("entry_id"),
        )
        .where(table.account_id == account_id)
        .subquery()
        .c
    )
    query = select(changes.attribute, changes.value, changes.previous, changes.valid_from, changes.entry_id).where(
        changes.value.is_distinct_from(changes.previous)
    )
    if place is not None:
        query = query.where(
            changes.valid_from <= place[0], or_(changes.valid_from < place[0], changes.entry_id < place[1])
        )
    rows = await conn.execute(query.order_by(changes.valid_from.desc(), changes.entry_id.desc()).limit(limit))
    return [((row.valid_from, row.entry_id), _change_entry(row)) for row in rows]


def _change_entry(row: AnyRow) -> TimelineEntry:
    return TimelineEntry(
        entry_id=row.entry_id,
        kind="attribute",
        at=row.valid_from,
        record_id=row.attribute,
        user_id=None,
        data={"value": row.value, "previous": row.previous},
        day=None,
        count=None,
        last_at=None,
    )


async def _days(
    conn: AsyncConnection, account_id: str, place: Place | None, limit: int
) -> list[tuple[Place, TimelineEntry]]:
    table = account_months.c
    query = select(table.month, table.logins, table.events).where(table.account_id == account_id)
    if place is not None:
        # All lines of the place's own month may lie above it: it must not count among the months that fill the page.
        query = query.where(table.month <= place[0].date())
        limit += 1
    # A month row exists only because something happened in it, so that as many months hold at least as many lines.
    months = (await conn.execute(query.order_by(table.month.desc()).limit(limit))).all()
    if not months:
        return []
    first = months[-1].month
    latest = await _latest_times(conn, account_id, first)
    used = await _features_by_day(conn, account_id, first)
    lines: list[tuple[Place, TimelineEntry]] = []
    for month in months:
        for kind, day, count in _day_counts(month):
            at = datetime.combine(day, time.max, UTC)
            entry_id = f"{kind}:{day.isoformat()}"
            if place is None or (at, entry_id) < place:
                lines.append(
                    ((at, entry_id), _day_entry(entry_id, kind, day, count, latest.get((kind, day)), used.get(day)))
                )
    return lines


def _day_counts(month: AnyRow) -> Iterator[tuple[str, date, int]]:
    for index, (logins, events) in enumerate(zip(month.logins, month.events, strict=True)):
        if not logins and not events:
            continue
        day = month.month + timedelta(days=index)
        if logins:
            yield "logins", day, logins
        if events > logins:
            yield "usage", day, events - logins


def _day_entry(
    entry_id: str, kind: str, day: date, count: int, last_at: datetime | None, features: dict[str, float] | None
) -> TimelineEntry:
    return TimelineEntry(
        entry_id=entry_id,
        kind=kind,
        at=last_at or datetime.combine(day, time.max, UTC),
        record_id=None,
        user_id=None,
        data={"features": features} if kind == "usage" and features else {},
        day=day,
        count=count,
        last_at=last_at,
    )


async def _latest_times(conn: AsyncConnection, account_id: str, since: date) -> dict[tuple[str, date], datetime]:
    """The latest known times of days. Facts keep an account's last login and last activity, and each user's last
    activity per month: enough for the newest day of each, not for every day."""
    found: dict[tuple[str, date], datetime] = {}
    last = (
        await conn.execute(
            select(accounts.c.last_login_at, accounts.c.last_activity_at).where(accounts.c.account_id == account_id)
        )
    ).one_or_none()
    if last is not None and last.last_login_at is not None:
        found["logins", last.last_login_at.date()] = last.last_login_at
    if last is not None and last.last_activity_at is not None:
        found["usage", last.last_activity_at.date()] = last.last_activity_at
    query = (
        select(func.max(user_months.c.last_at).label("at"))
        .where(user_months.c.account_id == account_id, user_months.c.month >= since)
        .group_by(func.date_trunc("day", user_months.c.last_at))
    )
    for (at,) in await conn.execute(query):
        found.setdefault(("usage", at.date()), at)
    return found


async def _features_by_day(conn: AsyncConnection, account_id: str, since: date) -> dict[date, dict[str, float]]:
    query = (
        select(feature_months.c.month, feature_months.c.feature, feature_months.c.quantities)
        .where(feature_months.c.account_id == account_id, feature_months.c.month >= since)
        .order_by(feature_months.c.feature)
    )
    found: dict[date, dict[str, float]] = {}
    for row in await conn.execute(query):
        for index, quantity in enumerate(row.quantities):
            if quantity:
                day = row.month + timedelta(days=index)
                found.setdefault(day, {})[row.feature] = quantity / QUANTITY_SCALE
    return found


async def score_history(conn: AsyncConnection, account_id: str, days: int, now: datetime) -> tuple[ScorePoint, ...]:
    """The last score of each day that has one, oldest first, over the last `days` UTC days with today."""
    table = score_history_table.c
    query = select(table.day, table.score, table.band, table.scorecard).where(
        table.account_id == account_id, table.day > now.astimezone(UTC).date() - timedelta(days=days)
    )
    rows = await conn.execute(query.order_by(table.day))
    return tuple(ScorePoint(day=row.day, score=row.score, band=row.band, scorecard=row.scorecard) for row in rows)


async def activity(conn: AsyncConnection, account_ids: Sequence[str], days: int, now: datetime) -> dict[str, Activity]:
    """Logins and events per UTC day over the last `days` days with today, for each of `account_ids`; zeros where
    nothing is known."""
    end = now.astimezone(UTC).date()
    start = end - timedelta(days=days - 1)
    logins = {account_id: [0] * days for account_id in account_ids}
    events = {account_id: [0] * days for account_id in account_ids}
    table = account_months.c
    query = select(table.account_id, table.month, table.logins, table.events).where(
        table.account_id.in_(list(account_ids)), table.month.between(start.replace(day=1), literal(end))
    )
    for row in await conn.execute(query):
        offset = (row.month - start).days
        for counts, target in ((row.logins, logins), (row.events, events)):
            for index in range(max(0, -offset), min(31, days - offset)):
                # Places past the end of a short month are zero, and must not overwrite the next month's first days.
                if counts[index]:
                    target[row.account_id][offset + index] = counts[index]
    return {
        account_id: Activity(start=start, logins=tuple(logins[account_id]), events=tuple(events[account_id]))
        for account_id in account_ids
    }
