"""The two doors into one evaluation: accounts that were *touched*, and accounts for which it is *time*.

Each function runs inside the caller's transaction and locks what it hands out until that ends. SKIP LOCKED applies
to queue rows and to the due scan only: the accounts named by a queue row are locked sorted and waiting, because
skipping a locked account here would lose its wake-up for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from health import driver
from health.gaps import Observed
from health.source_bits import ANY
from health.tables import touched

EVERYBODY = datetime(1970, 1, 1, tzinfo=UTC)
"""An everyone-marker since this instant means all accounts, also those evaluated at their present facts: it asks for a
round of ``reevaluation``."""

QUEUE_ROWS = 50
"""Most queue rows taken at once; they are small, the limit on accounts is what counts."""

SCANNED = 20_000
"""Accounts that a page of an everyone-marker looks at."""

_CHANGED = text("""
WITH slice AS MATERIALIZED (
    SELECT account_id, version, changed_at FROM accounts
    WHERE account_id > :after COLLATE "C" ORDER BY account_id LIMIT :scanned
), changed AS (
    SELECT s.account_id FROM slice s LEFT JOIN health h ON h.account_id = s.account_id
    WHERE s.changed_at >= :since AND h.facts_version IS DISTINCT FROM s.version
    ORDER BY s.account_id LIMIT :most
)
SELECT (SELECT count(*) FROM slice) AS scanned, (SELECT max(account_id) FROM slice) AS last,
    ARRAY(SELECT account_id FROM changed ORDER BY account_id) AS changed
""")


# By the first of each index: whether there is any at all would be worth reading a whole table to the planner, who takes
# a third of it to be due.
_LOOK: Final = """
SELECT (SELECT touched_id FROM touched WHERE account_ids IS NOT NULL ORDER BY urgent DESC, touched_id LIMIT 1) AS first,
    (SELECT min(due_at) FROM health) AS due_at,
    (SELECT min(everyone_since) FROM touched) AS least_since, (SELECT max(everyone_since) FROM touched) AS most_since,
    EXISTS (SELECT FROM reevaluations WHERE state = 'running') AS running
"""
_QUEUED: Final = """
SELECT touched_id, account_ids, urgent, oldest_event_at FROM touched WHERE account_ids IS NOT NULL
ORDER BY urgent DESC, touched_id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_TAKEN: Final = "DELETE FROM touched WHERE touched_id = ANY($1::bigint[])"
_LEFT: Final = "UPDATE touched SET account_ids = $2::text[] WHERE touched_id = $1"
_LONGEST: Final = """
SELECT account_id FROM health WHERE due_at <= $1 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_NEWEST: Final = """
SELECT account_id FROM health WHERE due_at <= $1 ORDER BY due_at DESC LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_LOCK: Final = """
SELECT account_id, evaluated_at, round FROM health WHERE account_id = ANY($1::text[]) ORDER BY account_id FOR UPDATE
"""
_MAKE: Final = """
INSERT INTO health (account_id, created_at) SELECT unnest($1::text[]), $2::timestamptz ON CONFLICT DO NOTHING
"""
_POSTPONE: Final = """
UPDATE health SET due_at = least(due_at, $2::timestamptz), waiting_since = least(waiting_since, $3::timestamptz)
WHERE account_id = ANY($1::text[])
"""
_SOURCES: Final = "SELECT account_id, sources FROM accounts WHERE account_id = ANY($1::text[])"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Which doors have work, and whether a round of re-evaluation goes on or is ``asked`` for."""

    touched: bool
    due: bool
    everyone: bool
    asked: bool
    running: bool


async def look(conn: AsyncConnection, now: datetime) -> Waiting:
    """At all doors at once, taking nothing: what comes after is seen at the next look."""
    row = await driver.fetchrow(conn, _LOOK, begin=False)
    return Waiting(
        touched=row["first"] is not None,
        due=row["due_at"] is not None and row["due_at"] <= now,
        everyone=row["most_since"] is not None and row["most_since"] > EVERYBODY,
        asked=row["least_since"] is not None and row["least_since"] <= EVERYBODY,
        running=row["running"],
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a door hands out: sorted account ids, and since when the oldest event among them waits."""

    account_ids: list[str]
    urgent: frozenset[str] = frozenset()
    arrivals: tuple[datetime, ...] = ()
    found: bool = False


async def take_touched(conn: AsyncConnection, limit: int) -> Work:
    """Accounts named by queue rows, at most ``limit``; the rows (or the part of them taken) are deleted."""
    rows = await driver.fetch(conn, _QUEUED, QUEUE_ROWS)
    taken: set[str] = set()
    urgent: set[str] = set()
    arrivals: list[datetime] = []
    finished: list[int] = []
    for touched_id, account_ids, is_urgent, oldest_event_at in rows:
        room = limit - len(taken)
        if room <= 0:
            break
        part = account_ids[:room]
        taken.update(part)
        if is_urgent:
            urgent.update(part)
        if oldest_event_at is not None:
            arrivals.append(oldest_event_at)
        if len(part) == len(account_ids):
            finished.append(touched_id)
        else:
            await driver.execute(conn, _LEFT, touched_id, account_ids[room:])
    if finished:
        await driver.execute(conn, _TAKEN, finished)
    return Work(account_ids=sorted(taken), urgent=frozenset(urgent), arrivals=tuple(arrivals), found=bool(rows))


async def take_everyone(conn: AsyncConnection, limit: int) -> Work:
    """The next page of a marker "everyone changed since". Markers on which nobody has begun are merged into the oldest
    one. A page may be empty: it looks at so many accounts and no more."""
    markers = (
        await conn.execute(
            select(touched)
            .where(touched.c.everyone_since > EVERYBODY)
            .order_by(touched.c.after_account_id.nulls_last(), touched.c.everyone_since)
            .with_for_update(skip_locked=True)
        )
    ).all()
    if not markers:
        return Work(account_ids=[])
    current = markers[0]
    if current.after_account_id is None and len(markers) > 1:
        await conn.execute(delete(touched).where(touched.c.touched_id.in_([m.touched_id for m in markers[1:]])))
    parameters = {
        "after": current.after_account_id or "", "since": current.everyone_since, "scanned": SCANNED, "most": limit,
    }  # fmt: skip
    found = (await conn.execute(_CHANGED, parameters)).one()
    account_ids = list(found.changed)
    last_page = len(account_ids) < limit and found.scanned < SCANNED
    if last_page:
        await conn.execute(delete(touched).where(touched.c.touched_id == current.touched_id))
    else:
        after = account_ids[-1] if len(account_ids) == limit else found.last
        await conn.execute(
            update(touched).where(touched.c.touched_id == current.touched_id).values(after_account_id=after)
        )
    arrivals = (current.oldest_event_at,) if current.oldest_event_at and last_page else ()
    return Work(account_ids=account_ids, arrivals=arrivals, found=True)


async def take_due(conn: AsyncConnection, now: datetime, limit: int) -> Work:
    """Accounts for which it is time. They are locked here, in any order: skipping cannot deadlock.

    Half of them are those that have just become due, half those that wait the longest: after an outage, or at a day
    border, a crossing that comes now does not stand behind all that is overdue, and nobody waits for ever.
    """
    half = (limit + 1) // 2
    longest = [row[0] for row in await driver.fetch(conn, _LONGEST, now, half)]
    if len(longest) < half or limit == 1:
        return Work(account_ids=sorted(longest), found=bool(longest))
    newest = [row[0] for row in await driver.fetch(conn, _NEWEST, now, limit // 2)]
    return Work(account_ids=sorted({*longest, *newest}), found=True)


class Last(NamedTuple):
    """An account's evaluation before this one."""

    evaluated_at: datetime | None
    round: int


async def lock_accounts(conn: AsyncConnection, account_ids: Sequence[str], now: datetime) -> dict[str, Last]:
    """Locks the accounts' health rows, sorted and waiting; makes those that are missing. Returns the last evaluation of
    each.

    Whoever reads facts must do so after this: what was written before the lock was granted is then seen.
    """
    wanted = sorted(account_ids)
    locked = await _lock(conn, wanted)
    if missing := [account_id for account_id in wanted if account_id not in locked]:
        await driver.execute(conn, _MAKE, missing, now)
        locked |= await _lock(conn, missing)
    return locked


async def _lock(conn: AsyncConnection, account_ids: Sequence[str]) -> dict[str, Last]:
    rows = await driver.fetch(conn, _LOCK, account_ids)
    return {account_id: Last(evaluated_at, number) for account_id, evaluated_at, number in rows}


async def postpone(
    conn: AsyncConnection, account_ids: Sequence[str], until: datetime, arrived_at: datetime | None
) -> None:
    """Coalescing: accounts evaluated a moment ago are looked at again by time, which loses no wake-up. How long their
    oldest event has been waiting is kept for the latency figures."""
    if account_ids:
        await driver.execute(conn, _POSTPONE, account_ids, until, arrived_at)


async def by_sources(
    conn: AsyncConnection, account_ids: Sequence[str], observed: Observed
) -> list[tuple[Observed, list[str]]]:
    """The accounts in groups for which the same was observed: a gap holds those that its source has sent events of.
    One group as long as no gap is of a single source."""
    if not observed.bits:
        return [(observed, list(account_ids))]
    sources: dict[str, int] = {row[0]: row[1] for row in await driver.fetch(conn, _SOURCES, account_ids)}
    groups: dict[int, list[str]] = {}
    for account_id in account_ids:
        groups.setdefault(sources.get(account_id, ANY) & observed.bits, []).append(account_id)
    return [(observed.seen_from(bits), some) for bits, some in groups.items()]


def split_recent(
    work: Work, evaluated: Mapping[str, Last], now: datetime, coalesce: timedelta
) -> tuple[list[str], list[str]]:
    """(to evaluate now, to postpone): an account at most once in ``coalesce``, but urgent ones at once."""
    due: list[str] = []
    recent: list[str] = []
    for account_id in work.account_ids:
        last = evaluated[account_id].evaluated_at if account_id in evaluated else None
        is_recent = last is not None and now < last + coalesce and account_id not in work.urgent
        (recent if is_recent else due).append(account_id)
    return due, recent
