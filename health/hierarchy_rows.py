"""Reads what children told their parents and whom accounts name as theirs, and wakes parents. The decisions are in
``health/hierarchy.py``.

Neither locks a row: a parent is touched, as by an event, in the transaction in which a child tells it something else.
So parent and child may be evaluated by two evaluators at once, in any order: what the parent did not see yet touches it
again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from health.columns import Children
from health.hierarchy import DEPTH, PARENT, Link, link
from health.ids import among
from health.tables import health, touched

# By the index for each account: left to itself the planner reads the whole table when many accounts have a parent.
_CHILDREN: Final = text("""
SELECT (wanted.place - 1)::int4 AS place, c.as_child
FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS wanted(account_id, place)
CROSS JOIN LATERAL (
  SELECT account_id, as_child FROM health h
  WHERE h.parent_id = wanted.account_id COLLATE "C" AND h.parent_problem IS NULL AND h.as_child IS NOT NULL OFFSET 0
) c
ORDER BY wanted.place, c.account_id
""")

_UP: Final = text(f"""
WITH RECURSIVE up(account_id, at, depth, passed, again) AS (
  SELECT account_id, parent_id, 1, ARRAY[account_id], false
  FROM unnest(CAST(:ids AS text[]), CAST(:named AS text[])) AS s(account_id, parent_id)
  UNION ALL
  SELECT up.account_id, t.fields->'{PARENT}'->>'v', up.depth + 1, up.passed || up.at,
    t.fields->'{PARENT}'->>'v' = ANY(up.passed || up.at)
  FROM up JOIN account_attributes t ON t.account_id = up.at COLLATE "C"
  WHERE NOT up.again AND up.depth <= :depth AND t.fields->'{PARENT}'->>'v' IS NOT NULL
)
SELECT account_id, bool_or(at = account_id) AS returns, max(depth) AS depth FROM up GROUP BY account_id
""")  # noqa: S608 - put together from constants


async def read_children(conn: AsyncConnection, account_ids: Sequence[str]) -> Children:
    """What the children of these accounts told them, in the order of ``account_ids``."""
    rows = (await conn.execute(_CHILDREN, {"ids": list(account_ids)})).all()
    return Children.of([row.place for row in rows], [row.as_child for row in rows])


async def read_links(conn: AsyncConnection, named: Mapping[str, str]) -> dict[str, Link]:
    """The links of accounts to the parents they have ``named``. Where all parents are named is known from the facts,
    not from what evaluations made of them: so a cycle is the same for everybody on it."""
    others = {account_id: parent for account_id, parent in named.items() if account_id != parent}
    found = {account_id: link(account_id, parent, False, 1) for account_id, parent in named.items()}
    if others:
        values = {"ids": list(others), "named": list(others.values()), "depth": DEPTH}
        for row in await conn.execute(_UP, values):
            found[row.account_id] = link(row.account_id, others[row.account_id], row.returns, row.depth)
    return found


async def without_facts(conn: AsyncConnection, account_ids: Collection[str], before_round: int) -> set[str]:
    """Which of these are only known as parents, and were last evaluated before a round of re-evaluation."""
    query = select(health.c.account_id).where(
        health.c.account_id == among(account_ids), health.c.facts_version == -1, health.c.round < before_round
    )
    return set(await conn.scalars(query))


async def touch(conn: AsyncConnection, account_ids: Collection[str], now: datetime) -> None:
    """Has these parents looked at again."""
    if account_ids:
        await conn.execute(insert(touched).values(account_ids=sorted(account_ids), created_at=now))
