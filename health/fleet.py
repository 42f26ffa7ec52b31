"""What the fleet says together (``health/rhythm.py``), learnt once a UTC day from a sample and kept: a score can be
reproduced with the fleet of its day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from health.arrays import Ints
from health.facts import DAYS_OF_MONTHS, months_as_days
from health.instants import DAY, from_us
from health.rhythm import (
    DEFAULT_BASE_RATE,
    HORIZON_DAYS,
    SHIPPED,
    Clock,
    DaySets,
    Fleet,
    learn_fleet,
    population_clock,
)
from health.tables import fleets

SAMPLE_ACCOUNTS: Final = 20_000
LOOK_BACK_DAYS: Final = 1100
CANCELLATION_DAYS: Final = 364
PERIOD_DAYS: Final = 28
FEATURE_DAYS: Final = 90
FEATURE_SHARE: Final = 0.05
"""Of the accounts active in FEATURE_DAYS: as many use what counts as a feature of the product."""
MOST_FEATURES: Final = 200
PRIOR_PERIODS: Final = 200.0
"""How many account-periods of 28 days the default base rate weighs."""
DIGITS: Final = 5

# The same accounts each day, so that one day's fleet differs from the next by what happened alone.
_SAMPLE = text("""
SELECT account_id FROM accounts ORDER BY hashtextextended(account_id, 0) LIMIT :most
""")
_STARTS = text("""
SELECT array_agg(floor(extract(epoch FROM coalesce(a.started_at, a.first_event_at, a.changed_at)) / 86400)::bigint
    ORDER BY wanted.place) AS start
FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS wanted(account_id, place) JOIN accounts a USING (account_id)
""")
_LEAVING = text("""
SELECT count(DISTINCT e.account_id) FROM record_events e
WHERE e.kind = 'subscription' AND e.data->>'change' IN ('ended', 'not_renewed')
    AND e.at BETWEEN CAST(:since AS timestamptz) AND CAST(:until AS timestamptz) AND e.account_id = ANY(:ids)
""")

_FEATURES = text("""
WITH used AS (SELECT account_id, feature FROM features WHERE account_id = ANY(:ids) AND first_at < :until
    AND last_at >= :since)
SELECT feature FROM used GROUP BY feature
HAVING count(*) >= :share * (SELECT count(DISTINCT account_id) FROM used)
ORDER BY count(*) DESC, feature LIMIT :most
""")


async def current(conn: AsyncConnection, now: datetime) -> Fleet:
    """The fleet as of the last UTC day that has ended; whoever asks first on a day learns it. Two that do at once learn
    the same, and one of them is kept."""
    day = (now - timedelta(days=1)).date()
    known = await _read(conn, day)
    if known is None:
        learnt = await learn(conn, day)
        row = {"day": day, "payload": as_json(learnt), "learnt_at": now}
        await conn.execute(insert(fleets).values(row).on_conflict_do_nothing())
        known = await _read(conn, day)
    assert known is not None
    return known


async def learn(conn: AsyncConnection, day: date) -> Fleet:
    """From a sample of accounts and what they did until the end of ``day``; SHIPPED without any."""
    last = (day - date(1970, 1, 1)).days
    ids = list(await conn.scalars(_SAMPLE, {"most": SAMPLE_ACCOUNTS}))
    if not ids:
        return SHIPPED
    first = day - timedelta(days=LOOK_BACK_DAYS)
    row = (await conn.execute(DAYS_OF_MONTHS, {"ids": ids, "first": first.replace(day=1)})).mappings().one()
    starts = np.array(await conn.scalar(_STARTS, {"ids": ids}), dtype=np.int64)
    account, active = months_as_days(row)
    started = starts[account] <= active
    seen = (active <= last) & started
    days = DaySets(account=account[seen], day=active[seen], start=starts)
    if not len(days.day):
        return SHIPPED
    leaving = await conn.scalar(
        _LEAVING,
        {"ids": ids, "since": _at(last + 1 - CANCELLATION_DAYS), "until": _at(last + 1)},
    )
    learnt = learn_fleet(days, last, base_rate=base_rate(int(leaving or 0), starts, last), clock=_clock(days, last))
    span = {"since": _at(last + 1 - FEATURE_DAYS), "until": _at(last + 1)}
    used = await conn.scalars(_FEATURES, {"ids": ids, "share": FEATURE_SHARE, "most": MOST_FEATURES, **span})
    return replace(learnt, features=tuple(sorted(used)))


def base_rate(leaving: int, starts: Ints, last: int) -> float:
    """Of an account leaving within 28 days: those who left within the last CANCELLATION_DAYS among the periods lived,
    steadied by DEFAULT_BASE_RATE. Without any recorded cancellation it says nothing: then the default stands."""
    if leaving == 0:
        return DEFAULT_BASE_RATE
    periods = float(np.clip(last + 1 - starts, 0, CANCELLATION_DAYS).sum()) / PERIOD_DAYS
    rate = (leaving + PRIOR_PERIODS * DEFAULT_BASE_RATE) / (periods + PRIOR_PERIODS)
    return min(rate, 0.5)


def _clock(days: DaySets, last: int) -> Clock:
    first = int(days.day.min())
    return population_clock(np.bincount(days.day - first, minlength=last - first + 1), first)


def as_json(fleet: Fleet) -> dict[str, Any]:
    return {
        "tails": np.round(fleet.tails, DIGITS).tolist(),
        "mean_pause": fleet.mean_pause,
        "base_rate": fleet.base_rate,
        "intercept": fleet.intercept,
        "features": list(fleet.features),
        "clock": {"first": fleet.clock.first, "passed": np.round(fleet.clock.passed, DIGITS).tolist()},
    }


def of_json(payload: Mapping[str, Any]) -> Fleet:
    tails = np.array(payload["tails"], dtype=np.float64)
    if tails.shape != (SHIPPED.tails.shape[0], HORIZON_DAYS + 1):
        raise ValueError(f"a fleet with tails of {tails.shape} is of another release")
    clock = payload["clock"]
    return Fleet(
        tails=tails,
        mean_pause=payload["mean_pause"],
        base_rate=payload["base_rate"],
        intercept=payload["intercept"],
        features=tuple(payload.get("features", ())),
        clock=Clock(first=clock["first"], passed=np.array(clock["passed"], dtype=np.float64)),
    )


async def _read(conn: AsyncConnection, day: date) -> Fleet | None:
    payload = await conn.scalar(select(fleets.c.payload).where(fleets.c.day == day))
    return None if payload is None else of_json(payload)


def _at(day: int) -> datetime:
    return from_us(day * DAY)
