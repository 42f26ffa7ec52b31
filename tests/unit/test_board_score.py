"""The score's course on the board: where the card changed, and how fast the score moves."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from service.board.score import points_a_week, score_rows
from service.queries import ScorePoint

TODAY = date(2026, 5, 20)


def points(scores: list[float | None], card: str = "default@1") -> list[ScorePoint]:
    """The last is today's."""
    first = TODAY - timedelta(days=len(scores) - 1)
    return [
        ScorePoint(day=first + timedelta(days=n), score=score, band=None, scorecard=card)
        for n, score in enumerate(scores)
    ]


def test_rows_name_the_card_before_a_change() -> None:
    days = [*points([1, 2, 3], "default@1")[:2], *points([3], "default@2")]
    assert [row.before for row in score_rows(days)] == [None, None, "default@1"]


def test_the_slope_is_that_of_least_squares() -> None:
    scores = [90.0, 84.5, 88.0, 80.0, 79.0, 75.0, 71.0, 73.0, 60.0]
    slope = points_a_week(points([*scores]))
    assert slope == pytest.approx(7 * np.polyfit(range(len(scores)), scores, 1)[0])


def test_other_cards_older_days_and_holes_do_not_count() -> None:
    flat = points([50.0] * 40)
    steep = [*points([0.0] * 40, "default@0")[:12], *flat[12:]]
    assert points_a_week(steep) == 0
    assert points_a_week(points([None, *[50.0] * 9])) == 0


@pytest.mark.parametrize("scores", [[], [None], [1.0] * 4, [1.0] * 7, [None] * 20])
def test_too_few_days_make_no_trend(scores: list[float | None]) -> None:
    assert points_a_week(points(scores)) is None
