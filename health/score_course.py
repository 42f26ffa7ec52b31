"""The score against its own past: changes and trend, of what the same scorecard made and nobody set by hand.

Another card, another version of it, or a person moves a score without the account having done anything: then there is
no change of behaviour to speak of, and the signals are unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from health.arrays import Floats
from health.scorecards import Scores

TREND_DAYS = 28
TREND_POINTS = 5
"""Fewer daily scores make no trend, nor do those of less than a week."""
WEEK = 7

_COMPARABLE = """s.scorecard = wanted.card AND s.score IS NOT NULL
    AND NOT coalesce(s.contributions @> '[{"measure": "override"}]', false)"""

_QUERY = text(f"""
SELECT week.score AS week, month.score AS month, course.*
FROM unnest(CAST(:ids AS text[]), CAST(:cards AS text[])) WITH ORDINALITY AS wanted(account_id, card, place)
LEFT JOIN LATERAL (
  SELECT CASE WHEN {_COMPARABLE} THEN s.score END AS score FROM score_history s
  WHERE s.account_id = wanted.account_id AND s.day <= CAST(:week AS date) ORDER BY s.day DESC LIMIT 1
) week ON CAST(:of_week AS boolean)
LEFT JOIN LATERAL (
  SELECT CASE WHEN {_COMPARABLE} THEN s.score END AS score FROM score_history s
  WHERE s.account_id = wanted.account_id AND s.day <= CAST(:month AS date) ORDER BY s.day DESC LIMIT 1
) month ON CAST(:of_month AS boolean)
LEFT JOIN LATERAL (
  SELECT count(*) AS n, sum(x)::float8 AS x, sum(x * x)::float8 AS xx, sum(y) AS y, sum(x * y) AS xy, min(x) AS oldest
  FROM (
    SELECT s.day - CAST(:today AS date) AS x, s.score AS y FROM score_history s
    WHERE s.account_id = wanted.account_id AND s.day > CAST(:month AS date) AND s.day < CAST(:today AS date)
      AND {_COMPARABLE}
  ) days
) course ON CAST(:of_trend AS boolean)
ORDER BY wanted.place
""")  # noqa: S608 - made of the words above


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
    of_week, of_month, of_trend = (name in wanted for name in ("score_change_7d", "score_change_28d", "score_trend"))
    if not (of_week or of_month or of_trend):
        return Past.none(len(account_ids))
    today = now.date()
    parameters = {
        "ids": list(account_ids), "cards": list(cards), "today": today, "week": today - timedelta(days=WEEK),
        "month": today - timedelta(days=TREND_DAYS), "of_week": of_week, "of_month": of_month, "of_trend": of_trend,
    }  # fmt: skip
    rows = (await conn.execute(_QUERY, parameters)).mappings().all()
    return Past(
        **{
            name: np.array([np.nan if row[name] is None else float(row[name]) for row in rows], dtype=np.float64)
            for name in Past.__dataclass_fields__
        }
    )


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
