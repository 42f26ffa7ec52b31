"""Signals of the account's beginning and of what it wants to reach: start, milestones, goals. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.columns import Facts, Records
from health.gaps import Observed
from health.instants import DAY, NEVER, Instants
from health.signals.view import Definition, View, count_in_state, state_at, status_instants

ONBOARDING_DAYS = 90


def _days_since_start(view: View, _: str | None) -> Floats:
    return view.elapsed_days(view.facts.start[:, None], observed=False)


def _start(facts: Facts, _: str | None) -> Sequence[Instants]:
    return (facts.start,)


def _onboarding_day(view: View, _: str | None) -> Floats:
    start = view.facts.start
    day = view.date - view.facts.places.dates(start)[:, None] + 1
    return view.known(day, (start[:, None] <= view.t) & (day >= 1) & (day <= ONBOARDING_DAYS))


def _start_instants(facts: Facts, _: str | None) -> tuple[Ints, Instants]:
    return np.arange(len(facts)), facts.start


def _onboarding(facts: Facts, _: Observed) -> Bools:
    begun: Bools = (facts.start != NEVER) & (facts.start >= facts.now_us - (ONBOARDING_DAYS + 2) * DAY)
    return begun


def _milestones_done(view: View, _: str | None) -> Floats:
    return count_in_state(view, view.facts.milestones, ("reached",))


def _overdue_milestones(view: View, _: str | None) -> Floats:
    """Overdue from the day after the due date."""
    milestones = view.facts.milestones
    state = state_at(view, milestones, ("planned",))
    due = milestones.due_at[:, None]
    late = state.inside & (due != NEVER) & (due // DAY < view.date[milestones.account])
    known = (view.count(milestones, state.unknown) == 0) & (_heard_of(view, milestones) > 0)
    return view.known(view.count(milestones, late), known)


def _goals_reached(view: View, _: str | None) -> Floats:
    goals = view.facts.goals
    return np.where(_heard_of(view, goals) > 0, count_in_state(view, goals, ("reached",)), np.nan)


def _goals_share(view: View, *, on_the_way: bool) -> Floats:
    """Of the goals that stand (set or reached): those reached, with those ``on_the_way`` whose due date is to come."""
    goals = view.facts.goals
    reached, still_set = state_at(view, goals, ("reached",)), state_at(view, goals, ("set",))
    in_time = (goals.due_at == NEVER)[:, None] | (goals.due_at[:, None] // DAY >= view.date[goals.account])
    good = reached.inside | (still_set.inside & in_time if on_the_way else np.zeros_like(in_time))
    standing = view.count(goals, reached.inside | still_set.inside)
    known = (view.count(goals, reached.unknown | still_set.unknown) == 0) & (standing > 0)
    return view.known(view.count(goals, good) / np.where(standing > 0, standing, 1), known)


def _goals_reached_share(view: View, _: str | None) -> Floats:
    return _goals_share(view, on_the_way=False)


def _goals_on_track(view: View, _: str | None) -> Floats:
    return _goals_share(view, on_the_way=True)


def _heard_of(view: View, records: Records) -> Ints:
    return view.count(records, records.first_at[:, None] <= view.rows_t(records))


def _milestone_instants(facts: Facts, _: str | None) -> tuple[Ints, Instants]:
    return status_instants(facts.milestones)


def _something_due(facts: Facts, _: Observed) -> Bools:
    return _ahead(facts, facts.milestones, "planned")


def _some_goal_due(facts: Facts, _: Observed) -> Bools:
    return _ahead(facts, facts.goals, "set")


def _ahead(facts: Facts, records: Records, status: str) -> Bools:
    ahead = (records.due_at != NEVER) & (records.due_at >= facts.today_us - 2 * DAY)
    found = np.zeros(len(facts), dtype=np.bool_)
    found[records.account[ahead & (records.status == status)]] = True
    return found


def _goal_instants(facts: Facts, _: str | None) -> tuple[Ints, Instants]:
    return status_instants(facts.goals)


SIGNALS: Mapping[str, Definition] = {
    "days_since_start": Definition(values=_days_since_start, origins=_start, observed=False),
    "onboarding_day": Definition(values=_onboarding_day, instants=_start_instants, borders=_onboarding, zoned=True),
    "milestones_done": Definition(values=_milestones_done, instants=_milestone_instants),
    "onboarding_overdue_milestones": Definition(
        values=_overdue_milestones, instants=_milestone_instants, borders=_something_due, zoned=True
    ),
    "goals_reached": Definition(values=_goals_reached, instants=_goal_instants),
    "goals_reached_share": Definition(values=_goals_reached_share, instants=_goal_instants),
    "goals_on_track": Definition(values=_goals_on_track, instants=_goal_instants, borders=_some_goal_due, zoned=True),
}
