"""Erases from what the alerts keep: an account's health, episodes and messages, and its name where its parents were
told of it; a user's names within those of others.

Locks in the one order: health, episodes, outbox. A message that waits is gone with its episode; one that a sender has
taken out already is beyond our reach, and what becomes of it is no longer noted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Table, delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.tables import deliveries, delivery_attempts, episodes, transitions
from health.tables import health, score_history, score_overrides, touched

Counts = dict[str, int]
Clean = Callable[[AsyncConnection, Table, str, Any], Awaitable[int]]
"""Takes a user's names out of a column of the rows that fit; returns in how many."""

CLEANED: Final[tuple[tuple[Table, str], ...]] = (
    (health, "signals"),
    (health, "contributions"),
    (health, "problem"),
    (health, "name"),
    (health, "owner"),
    (health, "as_child"),
    (health, "rollup"),
    (score_history, "contributions"),
    (score_overrides, "reason"),
    (episodes, "reason"),
    (episodes, "signals"),
    (episodes, "contributions"),
    (episodes, "owner"),
    (transitions, "reason"),
    (transitions, "data"),
    (deliveries, "message"),
    (delivery_attempts, "detail"),
)


_ABOVE: Final = """
WITH RECURSIVE above(account_id) AS (
    SELECT parent_id FROM health WHERE account_id = ANY(CAST(:ids AS text[])) AND parent_id IS NOT NULL
    UNION SELECT h.parent_id FROM above a JOIN health h USING (account_id) WHERE h.parent_id IS NOT NULL
)
SELECT account_id FROM above
"""


async def lock(conn: AsyncConnection, account_ids: Collection[str]) -> None:
    """Their health rows, sorted: no evaluation and no action goes on meanwhile."""
    rows = select(health.c.account_id).where(health.c.account_id.in_(account_ids)).order_by(health.c.account_id)
    await conn.execute(rows.with_for_update())


async def above(conn: AsyncConnection, account_ids: Collection[str]) -> tuple[str, ...]:
    """The parents of these accounts and theirs, who were told of them."""
    found = await conn.scalars(text(_ABOVE), {"ids": list(account_ids)})
    return tuple(sorted(set(found) - set(account_ids)))


async def title(conn: AsyncConnection, account_id: str) -> str | None:
    """By what name its parents were told of it."""
    name: str | None = await conn.scalar(select(health.c.name).where(health.c.account_id == account_id))
    return name


async def clean_above(
    conn: AsyncConnection, account_ids: Collection[str], clean: Clean, now: datetime | None
) -> Counts:
    """After ``lock``: what the accounts above were told of one that goes; they are looked at again. ``now`` None: only
    counts."""
    if not account_ids:
        return {}
    if now is not None:
        await conn.execute(insert(touched).values(account_ids=sorted(account_ids), created_at=now))
    return await clean_user(conn, account_ids, clean)


async def erase_account(conn: AsyncConnection, account_id: str, *, change: bool = True) -> Counts:
    """After ``lock``. Without ``change`` only counts."""
    places = _places([account_id])
    order = (delivery_attempts, deliveries, transitions, episodes, score_overrides, score_history, health)
    return {table.name: await _remove(conn, table, places[table], change) for table in order}


async def clean_user(conn: AsyncConnection, account_ids: Collection[str], clean: Clean) -> Counts:
    """After ``lock``: the names of a user of these accounts."""
    places = _places(account_ids)
    counts: Counts = {}
    for table, column in CLEANED:
        counts[table.name] = counts.get(table.name, 0) + await clean(conn, table, column, places[table])
    return counts


def _places(account_ids: Collection[str]) -> dict[Table, Any]:
    """Which rows of each table are of these accounts."""
    ids = list(account_ids)
    of_episodes = select(episodes.c.episode_id).where(episodes.c.account_id.in_(ids))
    of_deliveries = select(deliveries.c.delivery_id).where(deliveries.c.account_id.in_(ids))
    return {
        health: health.c.account_id.in_(ids),
        score_history: score_history.c.account_id.in_(ids),
        score_overrides: score_overrides.c.account_id.in_(ids),
        episodes: episodes.c.account_id.in_(ids),
        transitions: transitions.c.episode_id.in_(of_episodes),
        deliveries: deliveries.c.account_id.in_(ids),
        delivery_attempts: delivery_attempts.c.delivery_id.in_(of_deliveries),
    }


async def _remove(conn: AsyncConnection, table: Table, where: Any, change: bool) -> int:
    if not change:
        return int(await conn.scalar(select(func.count()).select_from(table).where(where)) or 0)
    return int((await conn.execute(delete(table).where(where))).rowcount)
