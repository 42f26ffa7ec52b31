"""What differs between two scores of an account."""

from __future__ import annotations

from typing import Any

from health.explaining import line_changes


def line(measure: str, contribution: float, points: float | None = 50.0, words: str = "as it is") -> dict[str, Any]:
    return {
        "measure": measure, "signal": "nps_last", "points": points, "weight": 0.1, "contribution": contribution,
        "reason": {"en": words, "ja": words},
    }  # fmt: skip


def test_the_largest_difference_comes_first_and_what_stays_is_left_out() -> None:
    before = [line("a", -1.0), line("b", -2.0), line("gone", -3.0)]
    after = [line("a", -1.5), line("b", -2.0), line("new", -9.0)]
    found = [(change.measure, change.before, change.after) for change in line_changes(before, after)]
    assert found == [("new", 0.0, -9.0), ("gone", -3.0, 0.0), ("a", -1.0, -1.5)]


def test_a_line_that_lost_its_data_says_of_what() -> None:
    (change,) = line_changes([line("nps", -4.0)], [line("nps", 0.0, None, "no data")])
    assert change.reason == {"en": "nps: no data", "ja": "nps: no data"}
