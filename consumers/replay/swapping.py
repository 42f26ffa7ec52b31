"""Puts the rebuilt facts in the place of the live ones: of the rows that differ, in one transaction.

The transaction holds the consumers' positions, so that no batch lands meanwhile, and moves their epochs, so that one
that is in flight is undone and read again. Accounts whose facts have changed count as imported just now: whatever the
rules find in their past is on the lists, and nobody is told.
"""

# ruff: noqa: S608 - the names are of our own tables, and every value is an argument

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Table

from consumers.replay.comparing import compared_columns, keys
from consumers.replay.shadow import LONG_SECONDS
from health.tables import FACT_TABLES

AT_ONCE: Final = 1_000
"""Accounts per row of the queue."""

LOCK: Final = """
SELECT topic, partition, next_offset, epoch, cluster_id, topic_id FROM stream_offsets
WHERE group_id = $1 AND topic = ANY($2::text[]) ORDER BY topic, partition FOR UPDATE
"""
FENCE: Final = """
UPDATE stream_offsets SET epoch = epoch + 1, updated_at = $3 WHERE group_id = $1 AND topic = ANY($2::text[])
"""
CHANGED: Final = """
UPDATE accounts SET version = version + 1, changed_at = GREATEST(changed_at, $2), imported_until = $2
WHERE account_id = ANY($1::text[])
"""
TOUCH: Final = """
INSERT INTO touched (account_ids, urgent, created_at) VALUES ($1::text[], false, $2)
"""
# An account that the source holds from its first event on; whatever else it has, it has at least as much.
UNPROVEN: Final = """
SELECT l.account_id, count(*) OVER () AS total
FROM accounts l LEFT JOIN {schema}.accounts s ON s.account_id = l.account_id
WHERE ($1::text[] IS NULL OR l.account_id = ANY($1))
    AND (s.account_id IS NULL OR s.first_event_at > l.first_event_at OR s.events < l.events)
ORDER BY l.account_id LIMIT 10
"""


@dataclass(frozen=True, kw_only=True)
class Swapped:
    """``accounts``: whose facts have changed, sorted. ``rows``: how many, of all tables."""

    accounts: tuple[str, ...]
    rows: int


async def unproven(connection: Any, schema: str, accounts: Sequence[str] | None) -> tuple[int, list[str]]:
    """How many accounts have something live that the rebuilt facts cannot vouch for, and the first ones."""
    rows = await connection.fetch(UNPROVEN.format(schema=schema), accounts, timeout=LONG_SECONDS)
    return (rows[0]["total"] if rows else 0), [row["account_id"] for row in rows]


async def swap(
    connection: Any, schema: str, *, group: str, topics: Sequence[str], accounts: Sequence[str] | None,
    sources: bool, now: datetime,
) -> Swapped:  # fmt: skip
    """Within a transaction that holds ``LOCK`` and whose positions are those that were rebuilt. ``sources``: whether
    the tables that all accounts share are swapped, too."""
    touched: set[str] = set()
    count = 0
    await connection.execute(FENCE, group, list(topics), now)
    for table in FACT_TABLES:
        of_accounts = "account_id" in table.c
        if not of_accounts and not sources:
            continue
        for sql in (_delete(table, schema), _merge(table, schema)):
            rows = await connection.fetch(sql, accounts if of_accounts else None, timeout=LONG_SECONDS)
            count += len(rows)
            touched.update(row["who"] for row in rows if of_accounts)
    changed = sorted(touched)
    await connection.execute(CHANGED, changed, now, timeout=LONG_SECONDS)
    for start in range(0, len(changed), AT_ONCE):
        await connection.execute(TOUCH, changed[start : start + AT_ONCE], now)
    return Swapped(accounts=tuple(changed), rows=count)


def _scope(table: Table, alias: str) -> str:
    return f"($1::text[] IS NULL OR {alias}.account_id = ANY($1))" if "account_id" in table.c else "$1::text[] IS NULL"


def _who(table: Table, alias: str) -> str:
    return f"{alias}.account_id" if "account_id" in table.c else f"{alias}.source"


def _delete(table: Table, schema: str) -> str:
    same = " AND ".join(f"s.{key} = l.{key}" for key in keys(table))
    return (
        f"DELETE FROM {table.name} AS l WHERE {_scope(table, 'l')} "
        f"AND NOT EXISTS (SELECT FROM {schema}.{table.name} AS s WHERE {same}) RETURNING {_who(table, 'l')} AS who"
    )


def _merge(table: Table, schema: str) -> str:
    """Rows that are missing or different. What no comparison looks at is kept where there is a row."""
    columns = compared_columns(table)
    every = [column.name for column in table.columns]
    same = " AND ".join(f"s.{key} = l.{key}" for key in keys(table))
    left, right = (f"ROW({', '.join(f'{alias}.{name}' for name in columns)})" for alias in "ls")
    return (
        f"INSERT INTO {table.name} AS t ({', '.join(every)}) "
        f"SELECT {', '.join(f's.{name}' for name in every)} FROM {schema}.{table.name} AS s "
        f"WHERE {_scope(table, 's')} AND NOT EXISTS (SELECT FROM {table.name} AS l WHERE {same} "
        f"AND {left} IS NOT DISTINCT FROM {right}) "
        f"ON CONFLICT ({', '.join(keys(table))}) DO UPDATE SET "
        f"{', '.join(f'{name} = excluded.{name}' for name in columns)} RETURNING {_who(table, 't')} AS who"
    )
