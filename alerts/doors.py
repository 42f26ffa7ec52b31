"""The two doors into one evaluation: accounts that were *touched*, and accounts for which it is *time*.

Each function runs inside the caller's transaction and locks what it hands out until that ends. SKIP LOCKED applies
to queue rows and to the due scan only: the accounts named by a queue row are locked sorted and waiting, because
skipping a locked account here would lose its wake-up for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from health.gaps import Observed
from health.source_bits import ANY
from health.tables import accounts, health, touched

EVERYBODY = datetime(1970, 1, 1, tzinfo=UTC)
"""An everyone-marker since this instant means all accounts, also those evaluated at their present facts."""

QUEUE_ROWS = 50
"""Most queue rows taken at once; they are small, the limit on accounts is what counts."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a door hands out: sorted account ids, and since when the oldest event among them waits."""

    account_ids: list[str]
    urgent: frozenset[str] = frozenset()
    arrivals: tuple[datetime, ...] = ()
    found: bool = False


async def take_touched(conn: AsyncConnection, limit: int) -> Work:
    """Accounts named by queue rows, at most ``limit``; the rows (or the part of them taken) are deleted."""
    rows = (
        await conn.execute(
            select(touched)
            .where(touched.c.account_ids.is_not(None))
            .order_by(touched.c.urgent.desc(), touched.c.touched_id)
            .limit(QUEUE_ROWS)
            .with_for_update(skip_locked=True)
        )
    ).all()
    taken: set[str] = set()
    urgent: set[str] = set()
    arrivals: list[datetime] = []
    finished: list[int] = []
    for row in rows:
        room = limit - len(taken)
        if room <= 0:
            break
        part = row.account_ids[:room]
        taken.update(part)
        if row.urgent:
            urgent.update(part)
        if row.oldest_event_at is not None:
            arrivals.append(row.oldest_event_at)
        if len(part) == len(row.account_ids):
            finished.append(row.touched_id)
        else:
            rest = row.account_ids[room:]
            await conn.execute(update(touched).where(touched.c.touched_id == row.touched_id).values(account_ids=rest))
    if finished:
        await conn.execute(delete(touched).where(touched.c.touched_id.in_(finished)))
    return Work(account_ids=sorted(taken), urgent=frozenset(urgent), arrivals=tuple(arrivals), found=bool(rows))


async def take_everyone(conn: AsyncConnection, limit: int) -> Work:
    """The next page of an everyone-marker. Markers on which nobody has begun are merged into the oldest one."""
    markers = (
        await conn.execute(
            select(touched)
            .where(touched.c.everyone_since.is_not(None))
            .order_by(touched.c.after_account_id.nulls_last(), touched.c.everyone_since)
            .with_for_update(skip_locked=True)
        )
    ).all()
    if not markers:
        return Work(account_ids=[])
    current = markers[0]
    if current.after_account_id is None and len(markers) > 1:
        await conn.execute(delete(touched).where(touched.c.touched_id.in_([m.touched_id for m in markers[1:]])))
    query = select(accounts.c.account_id).order_by(accounts.c.account_id).limit(limit)
    if current.after_account_id is not None:
        query = query.where(accounts.c.account_id > current.after_account_id)
    if current.everyone_since > EVERYBODY:
        query = query.outerjoin(health, health.c.account_id == accounts.c.account_id).where(
            accounts.c.changed_at >= current.everyone_since,
            health.c.facts_version.is_distinct_from(accounts.c.version),
        )
    account_ids = list((await conn.scalars(query)).all())
    if len(account_ids) < limit:
        await conn.execute(delete(touched).where(touched.c.touched_id == current.touched_id))
    else:
        await conn.execute(
            update(touched).where(touched.c.touched_id == current.touched_id).values(after_account_id=account_ids[-1])
        )
    last_page = len(account_ids) < limit
    arrivals = (current.oldest_event_at,) if current.oldest_event_at and last_page else ()
    return Work(account_ids=account_ids, arrivals=arrivals, found=True)


async def take_due(conn: AsyncConnection, now: datetime, limit: int) -> Work:
    """Accounts for which it is time. They are locked here, in any order: skipping cannot deadlock."""
    rows = await conn.scalars(
        select(health.c.account_id)
        .where(health.c.due_at <= now)
        .order_by(health.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    account_ids = sorted(rows.all())
    return Work(account_ids=account_ids, found=bool(account_ids))


async def take_missed(conn: AsyncConnection, before: datetime, limit: int) -> Work:
    """The safety net: accounts whose facts are newer than their evaluation and that no door has handed out."""
    rows = await conn.scalars(
        select(accounts.c.account_id)
        .outerjoin(health, health.c.account_id == accounts.c.account_id)
        .where(
            health.c.facts_version.is_distinct_from(accounts.c.version),
            accounts.c.changed_at < before,
            health.c.problem.is_(None),
        )
        .order_by(accounts.c.account_id)
        .limit(limit)
    )
    account_ids = list(rows.all())
    return Work(account_ids=account_ids, found=bool(account_ids))


async def lock_accounts(conn: AsyncConnection, account_ids: Sequence[str], now: datetime) -> dict[str, datetime | None]:
    """Locks the accounts' health rows, sorted and waiting; makes those that are missing. Returns when each was last
    evaluated.

    Whoever reads facts must do so after this: what was written before the lock was granted is then seen.
    """
    wanted = sorted(account_ids)
    locked = await _lock(conn, wanted)
    if missing := [account_id for account_id in wanted if account_id not in locked]:
        rows = [{"account_id": account_id, "created_at": now} for account_id in missing]
        await conn.execute(insert(health).values(rows).on_conflict_do_nothing())
        locked |= await _lock(conn, missing)
    return locked


async def _lock(conn: AsyncConnection, account_ids: Sequence[str]) -> dict[str, datetime | None]:
    rows = await conn.execute(
        select(health.c.account_id, health.c.evaluated_at)
        .where(health.c.account_id.in_(account_ids))
        .order_by(health.c.account_id)
        .with_for_update()
    )
    return {row.account_id: row.evaluated_at for row in rows}


async def postpone(
    conn: AsyncConnection, account_ids: Sequence[str], until: datetime, arrived_at: datetime | None
) -> None:
    """Coalescing: accounts evaluated a moment ago are looked at again by time, which loses no wake-up. How long their
    oldest event has been waiting is kept for the latency figures."""
    if account_ids:
        await conn.execute(
            update(health)
            .where(health.c.account_id.in_(account_ids))
            .values(
                due_at=func.least(health.c.due_at, until),
                waiting_since=func.least(health.c.waiting_since, arrived_at),
            )
        )


async def by_sources(
    conn: AsyncConnection, account_ids: Sequence[str], observed: Observed
) -> list[tuple[Observed, list[str]]]:
    """The accounts in groups for which the same was observed: a gap holds those that its source has sent events of.
    One group as long as no gap is of a single source."""
    if not observed.bits:
        return [(observed, list(account_ids))]
    query = select(accounts.c.account_id, accounts.c.sources).where(accounts.c.account_id.in_(account_ids))
    sources = {row.account_id: row.sources for row in await conn.execute(query)}
    groups: dict[int, list[str]] = {}
    for account_id in account_ids:
        groups.setdefault(sources.get(account_id, ANY) & observed.bits, []).append(account_id)
    return [(observed.seen_from(bits), some) for bits, some in groups.items()]


def split_recent(
    work: Work, evaluated: Mapping[str, datetime | None], now: datetime, coalesce: timedelta
) -> tuple[list[str], list[str]]:
    """(to evaluate now, to postpone): an account at most once in ``coalesce``, but urgent ones at once."""
    due: list[str] = []
    recent: list[str] = []
    for account_id in work.account_ids:
        last = evaluated.get(account_id)
        is_recent = last is not None and now < last + coalesce and account_id not in work.urgent
        (recent if is_recent else due).append(account_id)
    return due, recent
