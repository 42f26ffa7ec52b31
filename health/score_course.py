"""The score against its own past: changes and trend, of what the same scorecard made and nobody set by hand.

Another card, another version of it, or a person moves a score without the account having done anything: then there is
no change of behaviour to speak of, and the signals are unknown.
"""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Final

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from health import driver
from health.arrays import Floats
from health.scorecards import Scores

TREND_DAYS = 28
TREND_POINTS = 5
"""Fewer daily scores make no trend, nor do those of less than a week."""
WEEK = 7

_COMPARABLE: Final = """s.scorecard = wanted.card AND s.score IS NOT NULL
    AND NOT coalesce(s.contributions @> '[{"measure": "override"}]', false)"""


def _score_before(days: int) -> str:
    return f"""SELECT CASE WHEN {_COMPARABLE} THEN s.score END AS score FROM score_history s
  WHERE s.account_id = wanted.account_id AND s.day <= $3::date - {days} ORDER BY s.day DESC LIMIT 1"""


_TREND: Final = f"""
  SELECT count(*)::float8 AS n, sum(x)::float8 AS x, sum(x * x)::float8 AS xx, sum(y) AS y, sum(x * y) AS xy,
    min(x)::float8 AS oldest
  FROM (
    SELECT s.day - $3::date AS x, s.score AS y FROM score_history s
    WHERE s.account_id = wanted.account_id AND s.day > $3::date - {TREND_DAYS} AND s.day < $3::date
      AND {_COMPARABLE}
  ) days"""

_SOURCES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "score_change_7d": (_score_before(WEEK), {"week": "score"}),
    "score_change_28d": (_score_before(TREND_DAYS), {"month": "score"}),
    "score_trend": (_TREND, {name: name for name in ("n", "x", "xx", "y", "xy", "oldest")}),
}
"""What each signal is read from, and which of it is what of ``Past``."""


@lru_cache(8)
def _query(wanted: tuple[str, ...]) -> tuple[str, Sequence[str]]:
    """One row, of a byte string per column: the places, then those of the names."""
    names, columns, joins = [], ["string_agg(int4send((wanted.place - 1)::int4), '')"], []
    for signal in wanted:
        source, told = _SOURCES[signal]
        joins.append(f"LEFT JOIN LATERAL ({source}) AS {signal} ON true")
        columns += [f"string_agg(float8send(coalesce({signal}.{column}, 'NaN')), '')" for column in told.values()]
        names += list(told)
    query = f"""SELECT {", ".join(columns)}
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(account_id, card, place) {" ".join(joins)}"""
    return query, names


@dataclass(frozen=True, kw_only=True)
class Past:
    """Of each account (A,), NaN for what is not known or not comparable: the scores a week and 28 days ago, and of the
    days before today their number, sums and products (x: days from today, y: score)."""

    week: Floats
    month: Floats
    n: Floats
    x: Floats
    xx: Floats
    y: Floats
    xy: Floats
    oldest: Floats

    @classmethod
    def none(cls, size: int) -> Past:
        unknown = np.full(size, np.nan)
        return cls(**dict.fromkeys(cls.__dataclass_fields__, unknown))


async def read(
    conn: AsyncConnection, account_ids: Sequence[str], cards: Sequence[str], now: datetime, wanted: Collection[str]
) -> Past:
    """``cards``: the name@version by which each account is scored now. Reads for the signals in ``wanted`` only."""
    compared = tuple(name for name in _SOURCES if name in wanted)
    unknown = Past.none(len(account_ids))
    if not compared or not account_ids:
        return unknown
    query, names = _query(compared)
    place, *columns = await driver.fetchrow(conn, query, list(account_ids), list(cards), now.date())
    order = np.argsort(np.frombuffer(place, dtype=">i4"))
    found = {name: np.frombuffer(each, dtype=">f8")[order] for name, each in zip(names, columns, strict=True)}
    return replace(unknown, **{name: column.astype(np.float64) for name, column in found.items()})


def changes(past: Past, scores: Scores, wanted: Collection[str]) -> Mapping[str, Floats]:
    """The signals of ``wanted`` that compare, each (A, 1)."""
    score = np.where(scores.incomplete | scores.overridden, np.nan, scores.score)
    made = {
        "score_change_7d": score - past.week,
        "score_change_28d": score - past.month,
        "score_trend": _trend(past, score),
    }
    return {name: np.round(made[name], 2)[:, None] for name in made if name in wanted}


def _trend(past: Past, score: Floats) -> Floats:
    """Points a week by least squares through the days before and today's ``score``, at x = 0."""
    n, y = past.n + 1, past.y + score
    spread = n * past.xx - past.x**2
    enough = (n >= TREND_POINTS) & (past.oldest <= -WEEK) & (spread > 0)
    slope = np.divide(n * past.xy - past.x * y, spread, where=enough, out=np.full(len(score), np.nan))
    return np.where(enough, slope * WEEK, np.nan)
