"""Signals by example: each edge that a customer success manager would argue about."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from health.catalogue import SIGNALS, SignalRef
from health.columns import Facts
from health.gaps import Gap, Observed
from health.rhythm import SHIPPED
from health.signals import compute, next_change, steps
from tests.facts import Account, Record, facts

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
OBSERVED = Observed(NOW)


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def value(account: Account, signal: str, *, at: datetime = NOW, observed: Observed = OBSERVED) -> Any:
    return of(facts(NOW, [account]), signal, at=at, observed=observed)


def of(known: Facts, signal: str, *, at: datetime = NOW, observed: Observed = OBSERVED) -> Any:
    ref = SignalRef.parse(signal)
    return compute(known, [at], [ref], observed).row(0)[str(ref)]


def test_days_since_step_exactly_after_whole_days() -> None:
    account = Account(start=ago(100), last_login=ago(14))
    assert value(account, "days_since_login") == 14
    account.last_login = ago(14) + timedelta(microseconds=1)
    assert value(account, "days_since_login") == 13


def test_never_logged_in_counts_from_the_start() -> None:
    assert value(Account(start=ago(14)), "days_since_login") == 14
    assert value(Account(), "days_since_login") is None


def test_before_the_last_login_nothing_is_known_of_the_one_before() -> None:
    account = Account(start=ago(100), last_login=ago(3))
    assert value(account, "days_since_login", at=ago(4)) is None
    assert value(account, "days_since_login", at=ago(1)) == 2


def test_before_its_first_use_a_feature_was_never_used() -> None:
    account = Account(start=ago(60), features={"export": (ago(30), ago(2))})
    assert value(account, "days_since_feature['export']", at=ago(40)) == 20
    assert value(account, "feature_used['export']", at=ago(40)) == 0
    assert value(account, "days_since_feature['export']", at=ago(10)) is None
    assert value(account, "feature_used['export']", at=ago(10)) == 1
    assert value(account, "days_since_feature['export']") == 2
    assert value(account, "days_since_feature['import']") == 60


@pytest.mark.parametrize(("state", "days"), [("lost", 9), ("open", 9), ("refilled", 14)])
def test_days_since_leave_out_open_and_lost_gaps(state: Any, days: int) -> None:
    observed = Observed(NOW, (Gap("app", ago(10), ago(5), state), Gap("web", ago(8), ago(5), state)))
    assert value(Account(start=ago(100), last_login=ago(14)), "days_since_login", observed=observed) == days


def test_days_since_stand_still_while_a_gap_goes_on_and_behind_the_position() -> None:
    account = Account(start=ago(100), last_login=ago(14))
    assert value(account, "days_since_login", observed=Observed(NOW, (Gap(None, ago(2), None, "open"),))) == 12
    assert value(account, "days_since_login", observed=Observed(ago(1.5))) == 12
    assert value(account, "days_since_login", observed=Observed(None)) is None
    assert value(account, "days_since_start", observed=Observed(None)) == 100


def test_windows_end_with_today_and_are_unknown_beyond_the_arrays() -> None:
    account = Account(start=ago(200), logins={0: 1, 6: 2, 7: 4, 27: 8, 28: 16})
    assert value(account, "logins_7d") == 3
    assert value(account, "logins_28d") == 15
    midnight = NOW.replace(hour=0)
    assert value(account, "logins_7d", at=midnight) == 2, "at the border nothing of the day has happened"
    assert value(account, "logins_7d", at=midnight + timedelta(hours=1)) is None, "somewhere within the day it did"
    assert value(account, "logins_28d", at=ago(91)) is None


def test_a_window_that_touches_a_gap_is_unknown_and_says_why() -> None:
    account = Account(start=ago(200), events={3: 5, 40: 5})
    refs = [SignalRef("events_28d"), SignalRef("usage_change_28d"), SignalRef("days_to_renewal")]
    gap = Gap("app", ago(35), ago(34), "lost")
    table = compute(facts(NOW, [account]), [NOW], refs, Observed(NOW, (gap,)))
    assert table.row(0) == {"events_28d": 5, "usage_change_28d": None, "days_to_renewal": None}
    assert {name: bool(flags[0, 0]) for name, flags in table.incomplete.items()} == {
        "events_28d": False,
        "usage_change_28d": True,
    }


def test_what_a_delivery_has_not_brought_yet_makes_no_window_unknown() -> None:
    known = facts(NOW, [Account(start=ago(200), events={3: 5, 40: 5})])
    refs = [
        SignalRef("events_28d"),
        SignalRef("champion_gone"),
        SignalRef("churn_odds"),
        SignalRef("days_since_activity"),
    ]
    awaited = Gap("warehouse", ago(1), None, "awaited")
    table = compute(known, [NOW], refs, Observed(NOW, (awaited,)))
    assert not any(unseen.any() for unseen in table.incomplete.values())
    assert table.row(0)["events_28d"] == 5
    assert table.row(0)["days_since_activity"] == 199, "and its time is no silence"


@pytest.mark.parametrize("recent_days", [28, 112])
def test_the_odds_are_unknown_while_a_gap_touches_the_days_they_count(recent_days: int) -> None:
    known = facts(NOW, [Account(start=ago(300), events={150: 5})], fleet=replace(SHIPPED, recent_days=recent_days))
    midnight = NOW.replace(hour=0)
    for days, unseen in ((recent_days, True), (recent_days + 1, False)):
        lost = Gap("app", midnight - timedelta(days=days), midnight - timedelta(days=days - 0.1), "lost")
        table = compute(known, [NOW], [SignalRef("churn_odds"), SignalRef("usual_pause")], Observed(NOW, (lost,)))
        assert bool(table.incomplete["churn_odds"][0, 0]) is unseen, "of a quiet today yesterday is the last day"
        assert np.isnan(table.columns["churn_odds"][0, 0]) == unseen
        assert table.columns["usual_pause"][0, 0] > 0


def test_a_gap_before_the_account_began_does_not_touch_its_windows() -> None:
    gap = Observed(NOW, (Gap("app", ago(20), ago(15), "lost"),))
    assert value(Account(start=ago(10), events={1: 4}), "events_28d", observed=gap) == 4


def test_usage_change_has_no_value_without_a_base() -> None:
    assert value(Account(start=ago(200), events={1: 5}), "usage_change_28d") is None
    assert value(Account(start=ago(200), events={1: 5, 30: 10}), "usage_change_28d") == -0.5
    weekly = Account(start=ago(200), events=dict.fromkeys(range(7, 35), 2) | dict.fromkeys(range(7), 1))
    assert value(weekly, "usage_change_7d_28d") == -0.5


def test_active_users_and_seats() -> None:
    account = Account(start=ago(90), users=[[1, 2, 3], [27], [28]], attributes={"seats": 4})
    assert value(account, "active_users_28d") == 2
    assert value(account, "seat_utilisation") == 0.5
    account.attributes = {"seats": 0}
    assert value(account, "seat_utilisation") is None


def test_renewal_counts_dates() -> None:
    account = Account(start=ago(90), renewal_on=date(2025, 6, 16))
    assert value(account, "days_to_renewal") == 1
    assert value(account, "days_to_renewal", at=NOW.replace(hour=0)) == 1
    assert value(account, "days_to_renewal", at=NOW + timedelta(days=3)) == -2


def test_tickets_at_an_instant() -> None:
    account = Account(
        start=ago(90),
        tickets=[
            Record(taken={"open": ago(9), "pending": ago(8)}),
            Record(taken={"open": ago(9), "solved": ago(2)}),
            Record(taken={"solved": ago(20), "open": ago(1)}, first_at=ago(30)),
        ],
    )
    assert [value(account, "open_tickets", at=ago(days)) for days in (0, 5, 15, 25, 40)] == [2, 2, 0, None, 0]


def test_a_payment_fails_until_it_is_paid_and_leaves_the_window_by_the_second() -> None:
    account = Account(
        start=ago(90),
        payments=[
            Record(taken={"failed": ago(30) + timedelta(seconds=1)}),
            Record(taken={"overdue": ago(30)}),
            Record(taken={"failed": ago(3), "paid": ago(1)}),
        ],
    )
    assert value(account, "failed_payments") == 2
    assert value(account, "failed_payments_30d") == 1
    assert value(account, "failed_payments_30d", at=ago(2)) == 3
    assert value(account, "failed_payments_30d", at=NOW + timedelta(seconds=1)) == 0


def test_statuses_of_the_same_instant_are_settled_by_the_one_that_stands() -> None:
    for status, count in (("open", 1), ("solved", 0)):
        known = facts(NOW, [Account(start=ago(9), tickets=[Record(taken={"open": ago(1), "solved": ago(1)})])])
        known.tickets.status[0] = status
        assert of(known, "open_tickets") == count


def test_surveys() -> None:
    account = Account(start=ago(90), surveys=[(ago(50), 9.0), (ago(20), 3.0), (ago(5), None)])
    assert value(account, "nps_last") == 3
    assert value(account, "nps_last", at=ago(30)) == 9
    assert value(account, "nps_last", at=ago(60)) is None
    assert value(account, "days_since_survey") == 5
    assert value(Account(start=ago(90)), "days_since_survey") == 90


def test_onboarding() -> None:
    due = (NOW - timedelta(days=1)).date()
    account = Account(
        start=ago(50),
        milestones=[
            Record(taken={"planned": ago(40)}, due_on=due),
            Record(taken={"planned": ago(40), "reached": ago(2)}),
        ],
        goals=[Record(taken={"set": ago(40), "reached": ago(4)}), Record(taken={"set": ago(40)})],
    )
    assert value(account, "milestones_done") == 1
    assert value(account, "onboarding_overdue_milestones") == 1
    assert value(account, "onboarding_overdue_milestones", at=NOW.replace(hour=0) - timedelta(seconds=1)) == 0
    assert value(account, "goals_reached") == 1
    assert value(Account(start=ago(50)), "goals_reached") is None


def test_shares_of_goals() -> None:
    today = NOW.date()
    account = Account(
        start=ago(50),
        goals=[
            Record(taken={"set": ago(40), "reached": ago(4)}, due_on=today - timedelta(days=9)),
            Record(taken={"set": ago(40)}, due_on=today - timedelta(days=1)),
            Record(taken={"set": ago(40)}, due_on=today),
            Record(taken={"set": ago(40)}),
            Record(taken={"set": ago(40), "dropped": ago(3)}),
        ],
    )
    assert value(account, "goals_reached_share") == 0.25
    assert value(account, "goals_on_track") == 0.75, "due today is still in time"
    assert value(Account(start=ago(50)), "goals_on_track") is None
    dropped = Account(start=ago(50), goals=[Record(taken={"dropped": ago(3)})])
    assert value(dropped, "goals_reached_share") is None


def test_overdue_milestones_need_a_plan() -> None:
    assert value(Account(start=ago(50)), "onboarding_overdue_milestones") is None


def test_the_scores_signals_are_left_to_the_evaluator() -> None:
    table = compute(facts(NOW, [Account(start=ago(1))]), [NOW], [SignalRef("score"), SignalRef("band")], OBSERVED)
    assert np.isnan(table.columns["score"]).all()
    assert table.columns["band"].tolist() == [[None]]


@pytest.mark.parametrize(
    ("ref", "problem"),
    [
        (SignalRef("days_since_logn"), "no signal called"),
        (SignalRef("mrr", "x"), "takes no argument"),
        (SignalRef("days_since_feature"), "needs a feature"),
    ],
)
def test_a_wrong_reference_is_refused(ref: SignalRef, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        compute(facts(NOW, []), [NOW], [ref], OBSERVED)


def test_no_account_at_all() -> None:
    refs = [SignalRef(name, "export" if signal.parameter else None) for name, signal in SIGNALS.items()]
    nobody = facts(NOW, [])
    assert {column.shape for column in compute(nobody, [NOW], refs, OBSERVED).columns.values()} == {(0, 1)}
    assert next_change(nobody, NOW, refs, OBSERVED).shape == (0,)
    assert steps(nobody, refs, ago(1), NOW, OBSERVED).shape == (0, 0)


def test_the_facts_of_a_batch_are_let_go_with_it() -> None:
    """Held in a cycle they would fill the memory of an evaluator, which seldom lets the collector look."""
    known = facts(NOW, [Account()])
    gone = weakref.ref(known)
    gc.collect()
    gc.disable()
    try:
        table = compute(known, [NOW], [SignalRef(name) for name, signal in SIGNALS.items() if not signal.parameter],
                        OBSERVED)  # fmt: skip
        del known
        assert gone() is None and table.columns
    finally:
        gc.enable()


def test_a_crossing_is_due_to_the_microsecond_and_retried_until_it_is_observed() -> None:
    known = facts(NOW, [Account(start=ago(100), last_login=ago(13.5))])
    ref = [SignalRef("days_since_login")]

    def due(now: datetime, observed: Observed) -> datetime:
        at: datetime = next_change(known, now, ref, observed)[0].item().replace(tzinfo=UTC)
        return at

    crossing = NOW + timedelta(days=0.5)
    assert due(NOW, OBSERVED) == crossing
    assert due(crossing, Observed(crossing)) == crossing + timedelta(days=1)
    assert due(crossing, Observed(crossing - timedelta(seconds=1))) == crossing + timedelta(seconds=1)
    assert due(crossing, Observed(crossing - timedelta(minutes=9))) == crossing + timedelta(minutes=1)
    at_its_end_everybody_is_looked_at = due(crossing, Observed(crossing - timedelta(hours=1)))
    assert at_its_end_everybody_is_looked_at == crossing + timedelta(days=1)
    a_gap = Observed(NOW, (Gap("app", ago(1), None, "open"),))
    assert due(NOW, a_gap) == NOW + timedelta(days=0.5), "12.5 days are observed, if the gap ended at once"


def test_work_of_day_borders_is_spread_but_a_crossing_is_not() -> None:
    accounts = [Account(account_id=f"a{n}", start=ago(50), events={1: 1}) for n in range(200)]
    known = facts(NOW, accounts)
    midnight = np.datetime64("2025-06-16T00:00:00", "us")
    spread = next_change(known, NOW, [SignalRef("events_28d")], OBSERVED) - midnight
    assert (spread >= np.timedelta64(0)).all()
    assert (spread < np.timedelta64(1, "h")).all()
    assert len(np.unique(spread)) == 200
    plain = next_change(known, NOW, [SignalRef("events_28d")], OBSERVED, spread_borders=False)
    assert (plain == midnight).all()
    crossing = next_change(known, NOW, [SignalRef("days_since_login")], OBSERVED)
    assert (crossing == np.datetime64("2025-06-16T12:00:00", "us")).all()


def test_a_silent_account_has_no_more_day_borders() -> None:
    known = facts(NOW, [Account(start=ago(300), events={80: 5})])
    assert np.isnat(next_change(known, NOW, [SignalRef("usage_change_28d"), SignalRef("plan")], OBSERVED)[0])


def test_of_features_that_nobody_used_a_closer_look_at_some_knows_how_many_they_are() -> None:
    known = facts(NOW, [Account(account_id=f"a{n}", start=ago(5)) for n in range(3)])
    refs = [SignalRef("feature_used", "export")]
    for looked_at in (known, known.take(np.array([1])), known.take(np.array([2, 0])), known):
        assert compute(looked_at, [NOW], refs, OBSERVED).columns[str(refs[0])].tolist() == [[0.0]] * len(looked_at)
