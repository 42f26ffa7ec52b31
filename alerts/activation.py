"""When each rule's condition went live: what began before that is pre-existing.

A rule whose condition did not change keeps its date over rewording; a changed condition, or a rule that was retired,
starts anew. Every rulebook that ever ran is kept by its content hash, so that an alert can be explained years later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.rules import Rule
from alerts.tables import rule_activations, rulebooks
from health import driver
from health.tables import TZ

NEWEST_VERSION: Final = "SELECT version FROM rulebooks ORDER BY loaded_at DESC, version LIMIT 1"


@dataclass(frozen=True, kw_only=True)
class Activated:
    """When the condition of each rule went live, and when its levels did."""

    live: Mapping[str, datetime] = field(default_factory=dict)
    levels: Mapping[str, datetime] = field(default_factory=dict)


async def activate(
    conn: AsyncConnection, version: str, content: Mapping[str, Any], rules: Sequence[Rule], now: datetime
) -> tuple[Activated, bool]:
    """Records the rulebook that runs now. Returns since when, and whether it differs from the last one.

    Several evaluators may do so at once: the rows decide, whoever comes first.
    """
    last = await newest_version(conn)
    if last != version:
        # Later than any other, also when that one was loaded by a clock that was ahead: the newest alone may evaluate.
        newest = select(func.max(rulebooks.c.loaded_at) + timedelta(microseconds=1)).scalar_subquery()
        loaded_at = func.greatest(literal(now, TZ), newest)
        book = insert(rulebooks).values(version=version, content=dict(content), loaded_at=loaded_at)
        later = book.on_conflict_do_update(index_elements=["version"], set_={"loaded_at": book.excluded.loaded_at})
        await conn.execute(later)
    known = {row.rule_id: row for row in await conn.execute(select(rule_activations).with_for_update())}
    for rule in sorted(rules, key=lambda rule: rule.id):
        row = known.get(rule.id)
        if row is None or row.rule_version != rule.version or row.retired_at is not None:
            await _go_live(conn, rule.id, rule.version, now)
        if row is None or row.levels_version != rule.levels_version:
            await _change_levels(conn, rule, now)
    running = [rule.id for rule in rules]
    retired = [rule_id for rule_id, row in known.items() if rule_id not in running and row.retired_at is None]
    if retired:
        gone = update(rule_activations).where(rule_activations.c.rule_id.in_(retired))
        await conn.execute(gone.values(retired_at=now))
    rows = (await conn.execute(select(rule_activations).where(rule_activations.c.rule_id.in_(running)))).all()
    activated = Activated(
        live={row.rule_id: row.activated_at for row in rows},
        levels={row.rule_id: row.levels_at for row in rows if row.levels_at is not None},
    )
    return activated, last != version


async def _go_live(conn: AsyncConnection, rule_id: str, rule_version: str, now: datetime) -> None:
    values = {"rule_version": rule_version, "activated_at": now, "retired_at": None}
    statement = insert(rule_activations).values(rule_id=rule_id, **values)
    differs = (rule_activations.c.rule_version != rule_version) | rule_activations.c.retired_at.is_not(None)
    await conn.execute(statement.on_conflict_do_update(index_elements=["rule_id"], set_=values, where=differs))


async def _change_levels(conn: AsyncConnection, rule: Rule, now: datetime) -> None:
    """Of a rule that is there; several evaluators may do so at once, and the first one's time stands."""
    differs = rule_activations.c.levels_version.is_distinct_from(rule.levels_version)
    change = update(rule_activations).where(rule_activations.c.rule_id == rule.id, differs)
    await conn.execute(change.values(levels_version=rule.levels_version, levels_at=now))


async def newest_version(conn: AsyncConnection) -> str | None:
    """The rulebook that was put to work last, by whichever evaluator."""
    version: str | None = (await driver.fetchrow(conn, f"SELECT ({NEWEST_VERSION}) AS version"))["version"]
    return version
