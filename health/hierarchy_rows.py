"""Reads whom accounts name as their parents, and wakes parents. What children told theirs is read with the other facts
(``health/facts_queries.py``); the decisions are in ``health/hierarchy.py``.

Neither locks a row: a parent is touched, as by an event, in the transaction in which a child tells it something else.
So parent and child may be evaluated by two evaluators at once, in any order: what the parent did not see yet touches it
again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from health import driver
from health.hierarchy import DEPTH, PARENT, Link, link
from health.tables import touched

_UP: Final = f"""
WITH RECURSIVE up(account_id, at, depth, passed, again) AS (
  SELECT account_id, parent_id, 1, ARRAY[account_id], false
  FROM unnest($1::text[], $2::text[]) AS s(account_id, parent_id)
  UNION ALL
  SELECT up.account_id, t.fields->'{PARENT}'->>'v', up.depth + 1, up.passed || up.at,
    t.fields->'{PARENT}'->>'v' = ANY(up.passed || up.at)
  FROM up JOIN account_attributes t ON t.account_id = up.at COLLATE "C"
  WHERE NOT up.again AND up.depth <= {DEPTH} AND t.fields->'{PARENT}'->>'v' IS NOT NULL
)
SELECT account_id, bool_or(at = account_id) AS returns, max(depth) AS depth FROM up GROUP BY account_id
"""  # noqa: S608 - put together from constants
_WITHOUT_FACTS: Final = """
SELECT account_id FROM health WHERE account_id = ANY($1::text[]) AND facts_version = -1 AND round < $2
"""


async def read_links(conn: AsyncConnection, named: Mapping[str, str]) -> dict[str, Link]:
    """The links of accounts to the parents they have ``named``. Where all parents are named is known from the facts,
    not from what evaluations made of them: so a cycle is the same for everybody on it."""
    others = {account_id: parent for account_id, parent in named.items() if account_id != parent}
    found = {account_id: link(account_id, parent, False, 1) for account_id, parent in named.items()}
    if others:
        for account_id, returns, depth in await driver.fetch(conn, _UP, list(others), list(others.values())):
            found[account_id] = link(account_id, others[account_id], returns, depth)
    return found


async def without_facts(conn: AsyncConnection, account_ids: Collection[str], before_round: int) -> set[str]:
    """Which of these are only known as parents, and were last evaluated before a round of re-evaluation."""
    return {row[0] for row in await driver.fetch(conn, _WITHOUT_FACTS, list(account_ids), before_round)}


async def touch(conn: AsyncConnection, account_ids: Collection[str], now: datetime) -> None:
    """Has these parents looked at again."""
    if account_ids:
        await conn.execute(insert(touched).values(account_ids=sorted(account_ids), created_at=now))
