"""The account above and the accounts below, as the last evaluations found them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from health.tables import health
from service.queries.types import BelowItem, ParentAccount, RollUp, WorstAccount

MOST_SHOWN = 50


async def parent_of(conn: AsyncConnection, row: Any) -> ParentAccount | None:
    """Whom the account of a health row names."""
    if row is None or row.parent_id is None:
        return None
    name = await conn.scalar(select(health.c.name).where(health.c.account_id == row.parent_id))
    return ParentAccount(account_id=row.parent_id, name=name, problem=row.parent_problem)


def rollup_of(kept: Mapping[str, Any] | None) -> RollUp | None:
    """What a health row keeps of the accounts below."""
    if kept is None:
        return None
    worst = kept["worst"]
    values = {name: kept[name] for name in RollUp.__struct_fields__ if name != "worst"}
    return RollUp(**values, worst=None if worst is None else WorstAccount(**worst))


async def children_of(conn: AsyncConnection, account_id: str) -> tuple[BelowItem, ...]:
    """Its own children, worst first, at most MOST_SHOWN; those without a score last, then those that have ended."""
    told = health.c.as_child["score"].as_float()
    gone = health.c.status.in_(("ended", "paused"))
    query = (
        select(health)
        .where(health.c.parent_id == account_id, health.c.parent_problem.is_(None))
        .order_by(gone, told.asc().nulls_last(), health.c.mrr.desc().nulls_last(), health.c.account_id)
        .limit(MOST_SHOWN)
    )
    return tuple(_child(row) for row in await conn.execute(query))


def _child(row: Any) -> BelowItem:
    same = {name: getattr(row, name) for name in BelowItem.__struct_fields__ if name != "rollup"}
    return BelowItem(**same, rollup=rollup_of(row.rollup))
