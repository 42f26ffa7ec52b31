"""The safety net below both doors: accounts whose facts are newer than their evaluation and that no door handed out.

It goes round all accounts by their ids, a slice a turn, so that a turn costs a fraction of looking at everybody and no
index is needed on the hot account row. A circle takes an hour, or a single turn for as many accounts as fit into the
smallest slice. The evaluators take turns: one slice in ``every``, whoever comes first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import metrics
from alerts.doors import Work
from alerts.ticks import is_time
from health.tables import sweeps

CIRCLE = timedelta(hours=1)
SMALLEST_SLICE = 20_000

_ESTIMATE = text("SELECT reltuples::bigint FROM pg_class WHERE oid = 'accounts'::regclass")
MISSED = text("""
WITH slice AS MATERIALIZED (
    SELECT account_id, version, changed_at FROM accounts
    WHERE account_id > :after COLLATE "C" ORDER BY account_id LIMIT :keys
), missed AS (
    SELECT s.account_id FROM slice s LEFT JOIN health h ON h.account_id = s.account_id
        AND h.account_id > :after COLLATE "C" AND h.account_id <= (SELECT max(account_id) FROM slice)
    WHERE h.facts_version IS DISTINCT FROM s.version AND s.changed_at < :before AND h.problem IS NULL
    ORDER BY s.account_id LIMIT :most
)
SELECT (SELECT count(*) FROM slice) AS keys, (SELECT max(account_id) FROM slice) AS last,
    ARRAY(SELECT account_id FROM missed ORDER BY account_id) AS missed
""")


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A part of a slice: ``left`` of its keys are still to be looked at."""

    work: Work
    left: int


def slice_keys(accounts: int, every: timedelta) -> int:
    """How many accounts a turn looks at, so that a circle takes at most CIRCLE. Pure."""
    return max(SMALLEST_SLICE, math.ceil(max(0, accounts) * min(1.0, every / CIRCLE)))


async def take_turn(conn: AsyncConnection, every: timedelta, now: datetime) -> int:
    """How many accounts to look at now; 0: another evaluator has, or does. Commit it before the work begins."""
    first = {"one": True, "after_account_id": "", "swept_at": now - every, "circle_began_at": now}
    await conn.execute(insert(sweeps).values(first).on_conflict_do_nothing())
    row = (await conn.execute(select(sweeps).with_for_update(skip_locked=True))).one_or_none()
    if row is None:
        return 0
    # A little early is on time: each evaluator has a clock of its own.
    if not is_time(row.swept_at, every * 0.9, now):
        metrics.SWEEP_LAST_SUCCESS.set(row.swept_at.timestamp())
        return 0
    await conn.execute(update(sweeps).values(swept_at=now))
    return slice_keys(int(await conn.scalar(_ESTIMATE) or 0), every)


async def take_missed(conn: AsyncConnection, before: datetime, keys: int, most: int, now: datetime) -> Swept:
    """Missed accounts among the next ``keys``, at most ``most``: whose facts changed before ``before``."""
    row: Any = (await conn.execute(select(sweeps).with_for_update())).one()
    found = (
        await conn.execute(
            MISSED, {"after": row.after_account_id, "keys": keys, "before": before, "most": most}
        )
    ).one()  # fmt: skip
    missed = list(found.missed)
    work = Work(account_ids=missed, found=bool(missed))
    if len(missed) == most:  # there may be more of them: what lies behind the last one is still to be looked at
        await conn.execute(update(sweeps).values(after_account_id=missed[-1]))
        return Swept(work=work, left=keys - most)
    if found.keys < keys:
        metrics.SWEEP_CIRCLE.set((now - row.circle_began_at).total_seconds())
        await conn.execute(update(sweeps).values(after_account_id="", circle_began_at=now))
    else:
        await conn.execute(update(sweeps).values(after_account_id=found.last))
    return Swept(work=work, left=0)
