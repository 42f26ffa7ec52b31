"""The rhythm of made-up companies: properties that any product may expect of it. No claim of accuracy: that is what
`bench/rhythm.py` measures on histories nobody here made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.rhythm import auc
from health import rhythm as r
from health.arrays import Bools, Floats
from health.learning import STANDS, Page, calibrated, learn_clock, learn_fleet
from health.rhythm import RECENT_DAYS, RECENT_DAYS_OF_SLOW, Clock, DaySets, Fleet, Rhythm, rhythm
from tests.rhythm_fleets import DAYS, Company, company, weekdays_only

SEEDS = range(4)


def learnt(made: Company, day: int, base_rate: float = 0.05) -> Fleet:
    return learn_fleet(made.pages(day), day, base_rate=base_rate, clock=learn_clock(made.pages(day), 0, day))


def seen(made: Company, day: int, fleet: Fleet) -> Rhythm:
    return rhythm(made.days, np.full(len(made.leaves), day), fleet)


def every(steps: list[int], day: int, silent: int) -> Company:
    """Accounts active every so many days, all silent for the last ``silent`` days before the end of ``day``."""
    days = np.arange(DAYS)
    grid = np.stack([(days % step == (day - silent) % step) & (days <= day - silent) for step in steps])
    return Company(grid, np.full(len(steps), 10**6))


def gain(made: Company, days: list[int]) -> float:
    """AUC above plain silence, of who is gone 28 days on, among those seen within the recent days."""
    leaves, score, plain = [], [], []
    for day in days:
        fleet = learnt(made, day)
        silence = made.silence(day)
        recent = silence < fleet.recent_days
        leaves.append((made.leaves <= day + 28)[recent])
        score.append(seen(made, day, fleet).odds[recent])
        plain.append(silence[recent])
    gone = np.concatenate(leaves)
    return auc(gone, np.concatenate(score)) - auc(gone, np.concatenate(plain).astype(np.float64))


@pytest.mark.parametrize("silent", [4, 5, 6])
def test_the_same_silence_says_more_of_who_comes_daily_than_of_who_comes_weekly(silent: int) -> None:
    mixed = company(1, 200, lambda random: np.where(np.arange(200) < 100, 0.9, 1 / 7)[:, None], monthly_loss=0.02)
    fleet = learnt(mixed, 300)
    pair = every([1, 7], 300, silent)
    found = rhythm(pair.days, np.array([300, 300]), fleet)
    assert found.silence[0] == found.silence[1]
    assert found.tail[0] < found.tail[1] / 10
    assert found.odds[0] > found.odds[1]
    assert found.score[0] < found.score[1]


def loyal(random: np.random.Generator, accounts: int = 600) -> tuple[Floats, Floats]:
    """(chance of a day, monthly loss): the more often, the more loyal, as in every real history we know."""
    often = np.minimum(random.lognormal(-2, 1, accounts), 0.95)
    return often, np.minimum(0.02 / often, 0.5)


@pytest.mark.parametrize("working", [np.ones(DAYS, dtype=np.bool_), weekdays_only()], ids=["all days", "weekdays only"])
def test_where_rhythms_differ_it_ranks_better_than_silence(working: Bools) -> None:
    gains = []
    for seed in SEEDS:
        often, loss = loyal(np.random.default_rng(seed))
        made = company(seed, 600, lambda _, often=often: often[:, None] * working, monthly_loss=loss)  # type: ignore[misc]
        gains.append(gain(made, [150, 220, 290]))
    assert np.mean(gains) > 0.01
    assert min(gains) > -0.01


@pytest.mark.parametrize("often", [0.9, 1 / 7, 1 / 30], ids=["daily", "weekly", "monthly"])
def test_where_rhythms_do_not_differ_it_ranks_about_as_silence_does(often: float) -> None:
    """Engagement then says nothing, and costs a little."""
    gains = [gain(company(seed, 600, lambda _: np.full((600, 1), often), monthly_loss=0.05), [150, 220, 290])
             for seed in SEEDS]  # fmt: skip
    assert np.mean(gains) > -0.06


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.4])
@pytest.mark.parametrize("accounts", [5, 400])
def test_the_mean_probability_is_the_base_rate_in_any_fleet(accounts: int, rate: float) -> None:
    made = company(3, accounts, lambda random: random.random((accounts, 1)), monthly_loss=0.1)
    found = seen(made, 200, learnt(made, 200, rate))
    assert found.probability[found.recent_days > 0].mean() == pytest.approx(rate, rel=1e-4)
    assert np.isfinite(found.score).all()
    assert ((found.score >= 0) & (found.score <= 100)).all()


def test_who_has_ended_does_not_say_what_is_average() -> None:
    made = company(4, 200, lambda _: np.full((200, 1), 0.5), monthly_loss=0.0)
    gone = Company(made.grid & ((np.arange(200) < 100)[:, None] | (np.arange(DAYS) < 100)), made.leaves)
    ends = np.where(np.arange(200) < 100, STANDS, 100)
    stands = learn_fleet(lambda: [Page(active=gone.days, ends=ends)], 300)
    assert seen(gone, 300, stands).probability[:100].mean() == pytest.approx(stands.base_rate, rel=1e-4)


def test_who_pays_but_came_no_more_for_months_is_not_what_others_are_compared_with() -> None:
    made = company(10, 300, lambda _: np.full((300, 1), 0.8), monthly_loss=0.0)
    days = np.arange(DAYS)
    empty = np.arange(300) < 100  # paid for, not used since day 50
    made = Company(made.grid & (~empty[:, None] | (days < 50)) & ((np.arange(300) != 299)[:, None] | (days < 286)),
                   made.leaves)  # fmt: skip
    found = seen(made, 300, learnt(made, 300))
    assert found.score[299] < 40, "silent for two weeks, who came nearly daily"
    assert (found.score[:100] == 0).all()
    assert np.median(found.score[100:]) > 60


def test_one_account_that_falls_silent_does_not_stop_the_clock() -> None:
    days = np.arange(DAYS)[None, :] < 300
    small = Company(days & np.ones((1, DAYS), dtype=np.bool_), np.array([10**6]))
    found = seen(small, 330, learnt(small, 330))
    assert found.silence[0] > 25


def test_a_holiday_of_a_small_house_is_not_read_as_a_farewell() -> None:
    """Forty accounts, all away for ten days."""
    made = company(5, 40, lambda _: np.full((40, 1), 0.9) * ~((np.arange(DAYS) >= 290) & (np.arange(DAYS) < 300)),
                   monthly_loss=0.0)  # fmt: skip
    found = seen(made, 299, learnt(made, 299))
    without = seen(made, 299, replace(learnt(made, 299), clock=Clock.plain()))
    assert found.silence.max() < 5
    assert without.silence.min() >= 10


def test_new_accounts_by_the_hundred_do_not_hurry_the_clock() -> None:
    """Five times as many from day 200 on: a day of the first ones stays a day."""
    begins = np.where(np.arange(500) < 100, 0, 200)
    grid = np.random.default_rng(6).random((500, DAYS)) < 0.5
    made = Company(grid & (np.arange(DAYS) >= begins[:, None]), np.full(500, 10**6))
    page = Page(active=DaySets(account=made.days.account, day=made.days.day, start=begins), ends=np.full(500, STANDS))
    clock = learn_clock(lambda: [page], 0, 299)
    assert clock.at(np.array([299]))[0] - clock.at(np.array([199]))[0] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("day", [299, 300, 301, 302], ids=["Saturday", "Sunday", "Monday", "Tuesday"])
def test_a_weekend_is_nobodys_silence_where_all_work_on_weekdays(day: int) -> None:
    assert [299 % 7, 300 % 7] == [5, 6]
    made = company(7, 300, lambda _: np.full((300, 1), 0.97) * weekdays_only(), monthly_loss=0.0)
    fleet = learnt(made, day)
    friday = seen(made, 298, fleet)
    assert np.median(seen(made, day, fleet).score) > np.median(friday.score) - 10


@pytest.mark.parametrize(
    ("often", "expected"), [(0.5, RECENT_DAYS), (1 / 7, RECENT_DAYS), (1 / 25, RECENT_DAYS_OF_SLOW)]
)
def test_products_that_are_used_seldom_are_looked_at_over_a_longer_time(often: float, expected: int) -> None:
    made = company(8, 300, lambda _: np.full((300, 1), often), monthly_loss=0.02)
    assert learnt(made, 350).recent_days == expected


def test_who_pauses_each_summer_is_less_suspect_in_the_second_one() -> None:
    """Two years of days, a long pause in each; beside it one that never paused before."""
    days = np.arange(800)
    often = days % 2 == 0
    paused = often & ~((days >= 150) & (days < 200)) & (days < 515)
    steady = often & (days < 515)
    account, day = np.nonzero(np.stack([paused, steady]))
    both = DaySets(account=account, day=day, start=np.zeros(2, dtype=np.int64))
    found = rhythm(both, np.array([535, 535]), r.SHIPPED)
    assert found.tail[0] > found.tail[1]


def test_a_longer_absence_is_never_better_however_long() -> None:
    made = every([3], 100, 0)
    scores = [rhythm(made.days, np.array([100 + gone]), r.SHIPPED).odds[0] for gone in (0, 10, 30, 100, 400, 2000)]
    assert scores == sorted(scores)
    assert scores[-1] > 3 * scores[-2], "three years are more than one"


def test_pages_of_any_size_teach_the_same() -> None:
    made = company(9, 60, lambda random: random.random((60, 1)), monthly_loss=0.05)
    whole = learnt(made, 300)

    def one_by_one() -> list[Page]:
        return [
            Page(
                active=DaySets(
                    account=np.zeros(int((made.days.account == n).sum()), dtype=np.int64),
                    day=made.days.day[made.days.account == n],
                    start=np.zeros(1, dtype=np.int64),
                ),
                ends=np.array([STANDS]),
            )
            for n in range(60)
        ]

    alone = learn_fleet(one_by_one, 300, clock=learn_clock(one_by_one, 0, 300))
    np.testing.assert_allclose(alone.tails, whole.tails)
    np.testing.assert_allclose(alone.clock.passed, whole.clock.passed)
    assert alone.mean_pause == pytest.approx(whole.mean_pause)
    assert alone.intercept == pytest.approx(whole.intercept, abs=1e-6)


def test_the_usual_pause_is_exact_after_thousands_of_days() -> None:
    """One account of each day for eight years, one after it that came three times."""
    account = np.concatenate([np.zeros(3000, dtype=np.int64), np.ones(3, dtype=np.int64)])
    day = np.concatenate([np.arange(3000), [0, 10, 30]])
    spans = r.Pauses.of(DaySets(account=account, day=day, start=np.zeros(2, dtype=np.int64)), Clock.plain())
    expected = [3.0, (2 * 3.0 + 10) / 3]
    np.testing.assert_allclose(spans.usual_before(3.0)[-2:], expected)
    assert spans.usual_before(3.0)[2998] == pytest.approx(1.0, abs=0.2)


def test_the_calibrated_fleet_differs_in_its_intercept_alone() -> None:
    fleet = calibrated(r.SHIPPED, np.array([0.0, 1.0]))
    assert replace(fleet, intercept=r.SHIPPED.intercept) == r.SHIPPED
    assert np.mean(1 / (1 + np.exp(-fleet.intercept - np.array([0.0, 1.0])))) == pytest.approx(fleet.base_rate)
