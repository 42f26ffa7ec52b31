"""The rhythm rule, held to a plain model that walks one account day by day, as the rule is written down."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from health import rhythm as r
from health.learning import STANDS, Page, Pages, learn_fleet
from health.rhythm import Clock, DaySets, Fleet, population_clock, rhythm
from tests.rhythm_model import walk

LAST = 120
DAY_SETS = st.lists(st.frozensets(st.integers(0, LAST), max_size=60), min_size=1, max_size=6)


def fleet(clock: Clock | None = None, seed: int = 1) -> Fleet:
    falls = np.sort(np.random.default_rng(seed).random((r.BUCKETS, 401)), axis=1)[:, ::-1]
    return Fleet(tails=falls, mean_pause=3.0, base_rate=0.05, intercept=-2.0, clock=clock or Clock.plain())


def active_days(sets: list[frozenset[int]], start: int = 0) -> DaySets:
    pairs = [(account, day) for account, days in enumerate(sets) for day in sorted(days)]
    return DaySets(
        account=np.array([a for a, _ in pairs], dtype=np.int64),
        day=np.array([d for _, d in pairs], dtype=np.int64),
        start=np.full(len(sets), start, dtype=np.int64),
    )


def one_page(days: DaySets) -> Pages:
    return lambda: [Page(active=days, ends=np.full(len(days), STANDS))]


@given(DAY_SETS, st.integers(0, LAST))
def test_it_is_the_rule_as_written_whatever_the_order_of_arrival(sets: list[frozenset[int]], day: int) -> None:
    of = fleet()
    found = rhythm(active_days(sets), np.full(len(sets), day), of)
    for place, days in enumerate(sets):
        expected = walk(days, day, of)
        assert found.tail[place] == pytest.approx(expected.tail)
        assert found.probability[place] == pytest.approx(1 / (1 + math.exp(-expected.log_odds)))


@pytest.mark.parametrize("silence", [0, 1, 2, 3, 5, 6, 7, 8, 399, 400, 401, 799, 800, 801, 2999, 3000, 3001])
def test_a_silence_at_the_border_of_a_bin_is_outlasted_by_what_the_rule_says(silence: int) -> None:
    days = frozenset(accumulate([0, 1, 1, 2, 5, 6, 7, 8, 400, 401, 800, 801, 2999, 3000, 1]))
    day, of = max(days) + silence, fleet()
    found = rhythm(active_days([days]), np.array([day]), of)
    assert found.tail[0] == pytest.approx(walk(days, day, of).tail)


@given(DAY_SETS, st.integers(0, LAST))
def test_each_account_by_itself_and_in_company_are_the_same(sets: list[frozenset[int]], day: int) -> None:
    of = fleet()
    together = rhythm(active_days(sets), np.full(len(sets), day), of)
    for place, days in enumerate(sets):
        alone = rhythm(active_days([days]), np.array([day]), of)
        assert together.score[place] == pytest.approx(alone.score[0])


@given(DAY_SETS, st.integers(0, LAST - 1))
def test_silence_never_lowers_the_odds(sets: list[frozenset[int]], day: int) -> None:
    known = [frozenset(d for d in days if d <= day) for days in sets]
    of = fleet()
    now = rhythm(active_days(known), np.full(len(sets), day), of)
    later = rhythm(active_days(known), np.full(len(sets), day + 1), of)
    assert (later.odds >= now.odds - 1e-9).all()
    assert (later.score <= now.score + 1e-9).all()


def test_every_doubling_of_the_odds_costs_thirty_points() -> None:
    found = rhythm(active_days([frozenset(range(60)), frozenset({0, 1})]), np.array([60, 60]), fleet())
    inside = (found.score > 0) & (found.score < 100)
    assert inside.any()
    assert found.score[inside] == pytest.approx(70 - 30 * np.log2(found.odds[inside]))


def test_a_holiday_of_everybody_is_nobodys_silence() -> None:
    counts = np.full(120, 1000)
    counts[100:110] = 20
    clock = population_clock(counts, np.full(120, 1500), 0)
    days = active_days([frozenset(range(100))])
    with_clock = rhythm(days, np.array([109]), fleet(clock))
    without = rhythm(days, np.array([109]), fleet())
    assert with_clock.silence[0] < 2 < without.silence[0] == 10
    assert with_clock.odds[0] < without.odds[0]


def test_the_clock_runs_on_before_and_after_what_was_counted() -> None:
    clock = population_clock(np.array([4, 4, 4]), np.full(3, 5), 10)
    assert np.diff(clock.at(np.arange(0, 30))) == pytest.approx(np.ones(29))


def test_the_fleet_is_calibrated_to_its_base_rate() -> None:
    rng = np.random.default_rng(7)
    sets = [frozenset(np.flatnonzero(rng.random(200) < rng.random()).tolist()) for _ in range(300)]
    days = active_days(sets)
    learnt = learn_fleet(one_page(days), 199, base_rate=0.08)
    found = rhythm(days, np.full(300, 199), learnt)
    assert found.probability[found.recent_days > 0].mean() == pytest.approx(0.08, abs=1e-6)
    assert (np.diff(learnt.tails, axis=1) <= 1e-12).all()


def test_an_empty_fleet_speaks_from_what_is_shipped() -> None:
    nobody = DaySets(account=np.empty(0, np.int64), day=np.empty(0, np.int64), start=np.empty(0, np.int64))
    learnt = learn_fleet(one_page(nobody), 0)
    found = rhythm(active_days([frozenset()]), np.array([30]), learnt)
    assert 0 < found.probability[0] < 1
    assert learnt.mean_pause == r.DEFAULT_MEAN_PAUSE
