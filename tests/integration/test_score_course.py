"""Changes and trend of the score: of one scorecard's days alone, without those set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from health import score_course
from health.scorecards import Scores
from health.tables import score_history

NOW = datetime(2026, 5, 1, 9, tzinfo=UTC)
ALL = ("score_change_7d", "score_change_28d", "score_trend")
Day = tuple[int, float | None, str, bool]
"""Days ago, score, scorecard, set by hand."""


async def course(engine: AsyncEngine, days: Sequence[Day], *, score: float = 50, **kinds: bool) -> list[float | None]:
    """The three signals, twice: the account alone, and a neighbour without a past."""
    rows = [
        {
            "account_id": "acme", "day": (NOW - timedelta(days=ago)).date(), "score": value, "scorecard": card,
            "contributions": [{"measure": "override" if by_hand else "login"}],
        }
        for ago, value, card, by_hand in days
    ]  # fmt: skip
    scores = Scores(
        score=np.array([score, score]), band=["yellow"] * 2, contributions=[[], []], scorecard=["a@1", "a@1"],
        confidence=np.ones(2), incomplete=np.array([kinds.get("incomplete", False)] * 2),
        overridden=np.array([kinds.get("overridden", False)] * 2), at_risk=np.zeros(2),
    )  # fmt: skip
    async with engine.begin() as conn:
        if rows:
            await conn.execute(insert(score_history), rows)
        past = await score_course.read(conn, ["acme", "new"], scores.scorecard, NOW, ALL)
        await conn.rollback()
    made = score_course.changes(past, scores, ALL)
    assert all(np.isnan(made[name][1, 0]) for name in ALL)
    return [None if np.isnan(made[name][0, 0]) else float(made[name][0, 0]) for name in ALL]


def days(first: int, last: int, card: str = "a@1", *, at: float = 0, slope: float = 1) -> list[Day]:
    """From ``first`` to ``last`` days ago, with 50 + slope per day before today."""
    return [(ago, 50 + at + slope * ago, card, False) for ago in range(first, last - 1, -1)]


async def test_a_steady_fall(engine: AsyncEngine) -> None:
    assert await course(engine, days(40, 1)) == [-7, -28, -7]
    assert await course(engine, [*days(40, 1), (0, 3, "a@1", False)]) == [-7, -28, -7], "today's own row is replaced"


async def test_a_gap_in_the_days_is_bridged_by_the_day_before(engine: AsyncEngine) -> None:
    assert (await course(engine, [(30, 80, "a@1", False), (10, 60, "a@1", False)]))[:2] == [-10, -30]


async def test_another_card_is_not_compared(engine: AsyncEngine) -> None:
    changed = [*days(40, 10, "a@0"), *days(9, 1)]
    assert await course(engine, changed) == [-7, None, -7]
    assert await course(engine, [*days(40, 5, "a@0"), *days(4, 1)]) == [None, None, None]


async def test_by_hand_or_incomplete_is_not_compared(engine: AsyncEngine) -> None:
    by_hand: list[Day] = [(ago, 90, "a@1", True) for ago in range(8, 5, -1)]
    found = await course(engine, [*days(40, 9), *by_hand, *days(5, 1)])
    assert found == [None, -28, -7]
    assert await course(engine, days(40, 1), overridden=True) == [None, None, None]
    assert await course(engine, days(40, 1), incomplete=True) == [None, None, None]


@pytest.mark.parametrize(("known", "trend"), [([1, 2, 3, 8], -7), ([1, 2, 8], None), ([1, 2, 3, 4, 5, 6], None)])
async def test_few_days_make_no_trend(engine: AsyncEngine, known: Sequence[int], trend: float | None) -> None:
    assert (await course(engine, [(ago, 50 + ago, "a@1", False) for ago in known]))[2] == trend


async def test_nothing_is_read_that_nobody_asks_for(engine: AsyncEngine) -> None:
    async with engine.connect() as conn:
        past = await score_course.read(conn, ["acme"], ["a@1"], NOW, ["score", "mrr"])
    assert np.isnan(past.week).all()
