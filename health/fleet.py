"""What the fleet says together (``health/rhythm.py``), learnt at the close of each UTC day and kept: a score can be
reproduced with the fleet of its day.

Whoever closes a day does it beside the evaluations, which go on with the fleet before it. Pauses, clock and features
are learnt from a sample, read by pages and held as the bits they are stored in; cancellations are counted among all
accounts, by the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from health import driver
from health.arrays import Ints
from health.facts_columns import months_as_days
from health.facts_queries import DAYS_OF_MONTHS
from health.instants import DAY, from_us
from health.learning import STANDS, Page, learn_clock, learn_fleet
from health.rhythm import (
    DEFAULT_BASE_RATE,
    HORIZON_DAYS,
    RECENT_DAYS,
    SHIPPED,
    Clock,
    DaySets,
    Fleet,
)
from health.tables import fleets

SAMPLE_ACCOUNTS: Final = 20_000
PAGE_ACCOUNTS: Final = 500
COUNTED_ACCOUNTS: Final = 20_000
"""Statements go over so many accounts at a time, each far shorter than a statement may take."""
LOOK_BACK_DAYS: Final = 1100
CANCELLATION_DAYS: Final = 364
PERIOD_DAYS: Final = 28
UNSAID_DAYS: Final = 90
"""Of an account without any status nobody will say that it has ended: it counts as a customer for so long after it was
last seen."""
FEATURE_DAYS: Final = 90
FEATURE_SHARE: Final = 0.05
"""Of the accounts active in FEATURE_DAYS: as many use what counts as a feature of the product."""
MOST_FEATURES: Final = 200
PRIOR_PERIODS: Final = 200.0
"""How many account-periods of 28 days the default base rate weighs."""
RATE_LIMITS: Final = (0.0005, 0.5)
DIGITS: Final = 5
CLOSING_LOCK: Final = 7450991031

# The same accounts each day, so that one day's fleet differs from the next by what happened alone.
_SAMPLE = text("""
SELECT account_id FROM accounts ORDER BY hashtextextended(account_id, 0) LIMIT :most
""")
_SPANS = text("""
SELECT array_agg(floor(extract(epoch FROM coalesce(a.started_at, a.first_event_at, a.changed_at)) / 86400)::bigint
    ORDER BY wanted.place) AS start,
  array_agg(s.status ORDER BY wanted.place) AS status,
  array_agg(floor(extract(epoch FROM s.valid_from) / 86400)::bigint ORDER BY wanted.place) AS since
FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS wanted(account_id, place) JOIN accounts a USING (account_id)
LEFT JOIN LATERAL (
  SELECT h.value #>> '{}' AS status, h.valid_from FROM account_history h
  WHERE h.account_id = wanted.account_id AND h.attribute = 'status' AND h.valid_from < :until
  ORDER BY h.valid_from DESC, h.event_key COLLATE "C" DESC LIMIT 1
) s ON true
""")
_UP_TO = text("""
SELECT account_id FROM accounts WHERE account_id > :after ORDER BY account_id OFFSET :most - 1 LIMIT 1
""")
# A cancellation is a customer's end; that a trial became nothing is none. Time lived is a customer's time, too.
_CANCELLATIONS = text("""
WITH statuses AS (
  SELECT account_id, value #>> '{}' AS status, valid_from,
    lag(value #>> '{}') OVER of_account AS earlier, lead(valid_from) OVER of_account AS next_from
  FROM account_history
  WHERE account_id > :after AND (CAST(:upto AS text) IS NULL OR account_id <= :upto)
    AND attribute = 'status' AND valid_from < :until
  WINDOW of_account AS (PARTITION BY account_id ORDER BY valid_from, event_key COLLATE "C")
), said AS (
  SELECT account_id, count(*) FILTER (WHERE status = 'ended' AND valid_from >= :since
    AND coalesce(earlier, 'active') NOT IN ('ended', 'trial')) AS left_times
  FROM statuses GROUP BY account_id
), lived AS (
  SELECT a.account_id, said.left_times,
    greatest(coalesce(a.started_at, a.first_event_at, a.changed_at), :since) AS begin,
    least(:until, CASE WHEN said.account_id IS NULL THEN coalesce(a.last_activity_at, a.started_at, a.first_event_at,
      a.changed_at) + CAST(:unsaid AS interval) END) AS until
  FROM accounts a LEFT JOIN said USING (account_id)
  WHERE a.account_id > :after AND (CAST(:upto AS text) IS NULL OR a.account_id <= :upto)
), away AS (
  SELECT sum(extract(epoch FROM least(coalesce(s.next_from, :until), l.until) - greatest(s.valid_from, l.begin)))
      / 86400 AS days
  FROM statuses s JOIN lived l USING (account_id)
  WHERE s.status IN ('ended', 'paused', 'trial')
    AND greatest(s.valid_from, l.begin) < least(coalesce(s.next_from, :until), l.until)
)
SELECT coalesce(sum(left_times), 0)::bigint AS leaving,
  (coalesce(sum(extract(epoch FROM until - begin)) FILTER (WHERE until > begin), 0) / 86400
    - coalesce((SELECT days FROM away), 0))::float8 AS days
FROM lived
""")
_FEATURES = text("""
WITH used AS (SELECT account_id, feature FROM features WHERE account_id = ANY(:ids) AND first_at < :until
    AND last_at >= :since)
SELECT feature FROM used GROUP BY feature
HAVING count(*) >= :share * (SELECT count(DISTINCT account_id) FROM used)
ORDER BY count(*) DESC, feature LIMIT :most
""")
_SIZE = text("SELECT count(*) FROM (SELECT FROM accounts LIMIT :most) AS few")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A fleet that was kept: of which day, learnt when, and from how many accounts."""

    day: date
    learnt_at: datetime
    accounts: int


async def newest(conn: AsyncConnection, now: datetime) -> Kept | None:
    """The newest fleet of a day that has ended by ``now``."""
    return await _kept(conn, _last_day(now))


async def of_day(conn: AsyncConnection, day: date) -> Fleet:
    """As it was known at the end of ``day``; before the first one was learnt, what ships."""
    query = select(fleets.c.payload).where(fleets.c.day <= day).order_by(fleets.c.day.desc()).limit(1)
    payload = await conn.scalar(query)
    return SHIPPED if payload is None else of_json(payload)


async def close_day(engine: AsyncEngine, now: datetime) -> bool:
    """Learns and keeps the fleet of the last UTC day that has ended, unless it is there or somebody else is at it;
    whether it was learnt. Of a house without any activity none is kept.

    While a house is being filled, a fleet is learnt anew each time the accounts have doubled.
    """
    day = _last_day(now)
    async with engine.connect() as plain:
        conn = await plain.execution_options(isolation_level="AUTOCOMMIT")
        if not await _wanted(conn, day) or not await conn.scalar(select(func.pg_try_advisory_lock(CLOSING_LOCK))):
            return False
        try:
            if not await _wanted(conn, day):
                return False
            sample = await read(conn, day)
            if sample is None:
                return False
            payload = as_json(await asyncio.to_thread(sample.learn)) | {"accounts": len(sample.starts)}
            row = {"day": day, "payload": payload, "learnt_at": now}
            upsert = insert(fleets).values(row).on_conflict_do_update(index_elements=["day"], set_=row)
            await conn.execute(upsert)
            return True
        finally:
            await conn.execute(select(func.pg_advisory_unlock(CLOSING_LOCK)))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a fleet is learnt from: month rows as they came from the database, page by page; the rest per account."""

    day: int
    months: Sequence[Mapping[str, Any]]
    starts: Ints
    status: Sequence[str | None]
    since: Sequence[int | None]
    features: tuple[str, ...]
    base_rate: float

    def learn(self) -> Fleet:
        first = max(self.day - LOOK_BACK_DAYS, min(int(p.active.day.min()) for p in self.pages() if len(p.active.day)))
        clock = learn_clock(self.pages, first, self.day)
        learnt = learn_fleet(self.pages, self.day, base_rate=self.base_rate, clock=clock)
        return replace(learnt, features=self.features)

    def pages(self) -> Iterator[Page]:
        for number, months in enumerate(self.months):
            account, day = months_as_days(months)
            mine = slice(number * PAGE_ACCOUNTS, (number + 1) * PAGE_ACCOUNTS)
            known = day <= self.day
            active = DaySets(account=account[known], day=day[known], start=self.starts[mine])
            yield Page(active=active, ends=_ends(active, self.status[mine], self.since[mine]))


async def read(conn: AsyncConnection, day: date) -> Sample | None:
    """Of at most SAMPLE_ACCOUNTS accounts and what they did until the end of ``day``; None if nobody ever did
    anything."""
    last = (day - date(1970, 1, 1)).days
    ids = list(await conn.scalars(_SAMPLE, {"most": SAMPLE_ACCOUNTS}))
    first = (day - timedelta(days=LOOK_BACK_DAYS)).replace(day=1)
    until = _at(last + 1)
    months: list[Mapping[str, Any]] = []
    starts, status, since = [np.empty(0, dtype=np.int64)], list[str | None](), list[int | None]()
    for some in _paged(ids):
        months.append(dict(await driver.fetchrow(conn, DAYS_OF_MONTHS, some, first)))
        row = (await conn.execute(_SPANS, {"ids": some, "until": until})).one()
        starts.append(np.array(row.start, dtype=np.int64))
        status += row.status
        since += row.since
    if not any(page["place"] for page in months):
        return None
    span = {"since": _at(last + 1 - FEATURE_DAYS), "until": until}
    used = await conn.scalars(_FEATURES, {"ids": ids, "share": FEATURE_SHARE, "most": MOST_FEATURES, **span})
    return Sample(
        day=last,
        months=months,
        starts=np.concatenate(starts),
        status=status,
        since=since,
        features=tuple(sorted(used)),
        base_rate=await read_base_rate(conn, day),
    )


async def read_base_rate(conn: AsyncConnection, day: date) -> float:
    """Of a customer leaving within 28 days, from the CANCELLATION_DAYS up to the end of ``day``."""
    last = (day - date(1970, 1, 1)).days
    values = {
        "since": _at(last + 1 - CANCELLATION_DAYS),
        "until": _at(last + 1),
        "unsaid": timedelta(days=UNSAID_DAYS),
    }
    leaving, days, after = 0, 0.0, ""
    while True:
        upto = await conn.scalar(_UP_TO, {"after": after, "most": COUNTED_ACCOUNTS})
        row = (await conn.execute(_CANCELLATIONS, {"after": after, "upto": upto, **values})).one()
        leaving, days = leaving + row.leaving, days + row.days
        if upto is None:
            return base_rate(leaving, days)
        after = upto


def base_rate(leaving: int, days: float) -> float:
    """``leaving`` among the 28-day periods in the ``days`` that customers lived, steadied by DEFAULT_BASE_RATE.
    Without any recorded cancellation it says nothing: then the default stands."""
    if leaving == 0:
        return DEFAULT_BASE_RATE
    rate = (leaving + PRIOR_PERIODS * DEFAULT_BASE_RATE) / (days / PERIOD_DAYS + PRIOR_PERIODS)
    return float(np.clip(rate, *RATE_LIMITS))


def as_json(fleet: Fleet) -> dict[str, Any]:
    return {
        "tails": np.round(fleet.tails, DIGITS).tolist(),
        "mean_pause": fleet.mean_pause,
        "base_rate": fleet.base_rate,
        "intercept": fleet.intercept,
        "recent_days": fleet.recent_days,
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
        recent_days=payload.get("recent_days", RECENT_DAYS),
        features=tuple(payload.get("features", ())),
        clock=Clock(first=clock["first"], passed=np.array(clock["passed"], dtype=np.float64)),
    )


def _ends(active: DaySets, status: Sequence[str | None], since: Sequence[int | None]) -> Ints:
    """The day on which each account stopped being a customer. (A,)."""
    seen = active.start.copy()
    np.maximum.at(seen, active.account, active.day)
    said = np.array([STANDS if day is None or word not in {"ended", "paused"} else day
                     for word, day in zip(status, since, strict=True)], dtype=np.int64)  # fmt: skip
    unsaid = np.array([word is None for word in status], dtype=np.bool_)
    return np.where(unsaid, seen + UNSAID_DAYS, said)


async def _wanted(conn: AsyncConnection, day: date) -> bool:
    kept = await _kept(conn, day)
    if kept is None or kept.day != day:
        return True
    size = await conn.scalar(_SIZE, {"most": SAMPLE_ACCOUNTS}) if kept.accounts < SAMPLE_ACCOUNTS else 0
    return (size or 0) >= 2 * kept.accounts


async def _kept(conn: AsyncConnection, day: date) -> Kept | None:
    accounts = fleets.c.payload["accounts"].as_integer()
    query = select(fleets.c.day, fleets.c.learnt_at, func.coalesce(accounts, SAMPLE_ACCOUNTS).label("accounts"))
    row = (await conn.execute(query.where(fleets.c.day <= day).order_by(fleets.c.day.desc()).limit(1))).one_or_none()
    return None if row is None else Kept(**row._mapping)


def _paged(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[begin : begin + PAGE_ACCOUNTS] for begin in range(0, len(ids), PAGE_ACCOUNTS))


def _last_day(now: datetime) -> date:
    return (now - timedelta(days=1)).date()


def _at(day: int) -> datetime:
    return from_us(day * DAY)
