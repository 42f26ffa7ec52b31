"""Signals of the account's life: its start, milestones, the stage it is in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np

from health.arrays import Bools, Floats, Ints, Texts
from health.columns import Facts, Records
from health.gaps import Observed
from health.instants import DAY, NEVER, Instants
from health.signals.view import (
    Definition,
    Pairs,
    View,
    attribute_instants,
    count_in_state,
    some_due,
    started,
    state_at,
    status_instants,
)

ONBOARDING_DAYS = 90
RENEWAL_DAYS = 90
STAGES_BY_STATUS = ("paused", "ended", "trial")
_STAGES = np.array(["onboarding", "renewal", "adoption"], dtype=object)


def _days_since_start(view: View, _: str | None) -> Floats:
    return view.elapsed_days(view.facts.start[:, None], observed=False)


def _start(facts: Facts, _: str | None) -> Iterable[Instants]:
    return (facts.start,)


def _onboarding_day(view: View, _: str | None) -> Floats:
    start = view.facts.start
    day = view.date - view.dates(start)[:, None] + 1
    return view.known(day, (start[:, None] <= view.t) & (day >= 1) & (day <= ONBOARDING_DAYS))


def _start_instants(facts: Facts, _: str | None) -> list[Pairs]:
    return [(np.arange(len(facts)), facts.start)]


def _onboarding(facts: Facts, _: Observed) -> Bools:
    begun: Bools = (facts.start != NEVER) & (facts.start >= facts.now_us - (ONBOARDING_DAYS + 2) * DAY)
    return begun


def _stage(view: View, _: str | None) -> Texts:
    start = view.facts.start[:, None]
    renewal = view.facts.renewal_at[:, None]
    days_left = np.where(renewal == NEVER, RENEWAL_DAYS + 1, renewal // DAY - view.date)
    young = view.date - view.dates(view.facts.start)[:, None] < ONBOARDING_DAYS
    stage = _STAGES[np.where(young, 0, np.where(days_left <= RENEWAL_DAYS, 1, 2))]
    for status in STAGES_BY_STATUS:
        stage[view.facts.texts["status"] == status] = status
    known = view.exists & (start <= view.t) & view.stands("status") & view.stands("renewal_on")
    stage[~known] = None
    return stage


def _stage_instants(facts: Facts, _: str | None) -> list[Pairs]:
    of_attributes = (attribute_instants(name)(facts, None) for name in ("status", "renewal_on"))
    return [*chain.from_iterable(of_attributes), *_start_instants(facts, None)]


def _milestones_done(view: View, _: str | None) -> Floats:
    return count_in_state(view, view.facts.milestones, ("reached",))


def _overdue_milestones(view: View, _: str | None) -> Floats:
    """Overdue from the day after the due date."""
    milestones = view.facts.milestones
    state = state_at(view, milestones, ("planned",))
    due = milestones.due_at[:, None]
    late = state.inside & (due != NEVER) & (due // DAY < view.date[milestones.account])
    known = (view.count(milestones, state.unknown) == 0) & (heard_of(view, milestones) > 0)
    return view.known(view.count(milestones, late), known)


def heard_of(view: View, records: Records) -> Ints:
    return view.count(records, records.first_at[:, None] <= view.rows_t(records))


def _milestone_instants(facts: Facts, _: str | None) -> list[Pairs]:
    return status_instants(facts.milestones)


def _something_due(facts: Facts, _: Observed) -> Bools:
    return some_due(facts, facts.milestones, "planned")


SIGNALS: Mapping[str, Definition] = {
    "days_since_start": Definition(values=_days_since_start, origins=_start, observed=False),
    "onboarding_day": Definition(values=_onboarding_day, instants=_start_instants, borders=_onboarding, zoned=True),
    "lifecycle_stage": Definition(values=_stage, instants=_stage_instants, borders=started, zoned=True),
    "milestones_done": Definition(values=_milestones_done, instants=_milestone_instants),
    "onboarding_overdue_milestones": Definition(
        values=_overdue_milestones, instants=_milestone_instants, borders=_something_due, zoned=True
    ),
}
