"""Signals of what the customer wants to reach: goals, each with a signal, its target and a date. Pure.

A goal without a signal that can be compared, or whose signal is unknown though everything was observed, goes by its
status and date alone. While a goal's signal is unknown for want of observation, so is what hangs on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from health.arrays import Bools, Floats, Texts
from health.columns import Facts
from health.gaps import Observed
from health.instants import DAY, NEVER
from health.numbers import plain
from health.signals.onboarding import heard_of
from health.signals.view import Definition, Pairs, View, count_in_state, some_due, state_at, status_instants

BEHIND_BY = 0.1
"""How much of the way a goal may lack of an even pace before it is behind: a day's lag is no news."""
NONE_BEHIND = "—"
MOST_OF_NAME = 80


@dataclass(frozen=True, kw_only=True)
class _Course:
    """Each goal at t, all (R, T). ``progress`` NaN: not measured. ``short``: how much of the way it lacks, by its pace
    or, past its date, of the whole; 0 when it is on track or does not stand."""

    reached: Bools
    still_set: Bools
    unknown: Bools
    value: Floats
    progress: Floats
    met: Bools
    behind: Bools
    overdue: Bools
    short: Floats


def _course(view: View) -> _Course:
    return view.once("goals", lambda: _made_course(view))


def _made_course(view: View) -> _Course:
    goals = view.facts.goals
    reached, still_set = state_at(view, goals, ("reached",)), state_at(view, goals, ("set",))
    value, unseen = view.once("measures", lambda: _measured(view))
    target, at_most = goals.target[:, None], goals.at_most[:, None]
    with np.errstate(invalid="ignore"):
        met = np.where(at_most, value <= target, value >= target)
    progress = np.where(met, 1.0, _part(value, target, at_most))
    dates, due = view.date[goals.account], goals.due_at[:, None] // DAY
    dated = (goals.due_at != NEVER)[:, None]
    begun = view.facts.places.dates(goals.first_at, goals.account)[:, None]
    pace = np.where(dated, np.clip((dates - begun) / np.maximum(due - begun, 1), 0, 1), 0)
    open_ = still_set.inside & ~met
    overdue = open_ & dated & (due < dates)
    short = np.where(overdue, 1 - np.nan_to_num(progress), np.nan_to_num(pace - progress))
    behind = open_ & ~overdue & (short >= BEHIND_BY)
    return _Course(
        reached=reached.inside,
        still_set=still_set.inside,
        unknown=reached.unknown | still_set.unknown | (still_set.inside & (unseen | _within_a_day(view, value))),
        value=value,
        progress=progress,
        met=met,
        behind=behind,
        overdue=overdue,
        short=np.where(behind | overdue, short, 0),
    )


def _within_a_day(view: View, value: Floats) -> Bools:
    """Where a past instant between two borders may be all that keeps a goal's signal from being known: day counts do
    not say when within a day. (R, T)."""
    measured = np.array([ref is not None for ref in view.facts.goals.signal], dtype=np.bool_)
    within: Bools = ~(view.at_border | view.live)[view.facts.goals.account]
    return within & measured[:, None] & np.isnan(value)


def _measured(view: View) -> tuple[Floats, Bools]:
    """What the signal of each goal is, NaN for none, and where it is unknown for want of observation. (R, T)."""
    goals = view.facts.goals
    shape = (len(goals.account), view.t.shape[1])
    values, unseen = np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    for ref in dict.fromkeys(goals.signal.tolist()):
        if ref is None:
            continue
        rows = np.flatnonzero(goals.signal == ref)
        found, not_seen = view.other(ref)
        values[rows] = found[goals.account[rows]]
        unseen[rows] = not_seen[goals.account[rows]] & np.isnan(values[rows])
    return values, unseen


def _part(value: Floats, target: Floats, at_most: Bools) -> Floats:
    """How much of the target a value has come to that does not meet it. A target of 0 or less has no parts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(at_most, target / value, value / target)
    return np.where(np.isnan(value), np.nan, np.clip(np.where(target > 0, part, 0), 0, 1))


def _goals_reached(view: View, _: str | None) -> Floats:
    goals = view.facts.goals
    return np.where(heard_of(view, goals) > 0, count_in_state(view, goals, ("reached",)), np.nan)


def _reached_share(view: View, _: str | None) -> Floats:
    goals = view.facts.goals
    reached, still_set = state_at(view, goals, ("reached",)), state_at(view, goals, ("set",))
    return _share(view, reached.inside, reached.inside | still_set.inside, reached.unknown | still_set.unknown)


def _on_track(view: View, _: str | None) -> Floats:
    course = _course(view)
    good = course.reached | (course.still_set & ~course.behind & ~course.overdue)
    return _share(view, good, course.reached | course.still_set, course.unknown)


def _progress(view: View, _: str | None) -> Floats:
    course = _course(view)
    done = np.where(course.reached, 1.0, np.where(course.still_set, np.nan_to_num(course.progress), 0))
    return _share(view, done, course.reached | course.still_set, course.unknown)


def _share(view: View, good: Bools | Floats, standing: Bools, unknown: Bools) -> Floats:
    goals = view.facts.goals
    total, number = np.zeros(view.t.shape), view.count(goals, standing)
    np.add.at(total, goals.account, good)
    return view.known(total / np.where(number > 0, number, 1), (view.count(goals, unknown) == 0) & (number > 0))


def _behind(view: View, _: str | None) -> Floats:
    course = _course(view)
    return _number(view, course.behind, course)


def _overdue(view: View, _: str | None) -> Floats:
    course = _course(view)
    return _number(view, course.overdue, course)


def _number(view: View, chosen: Bools, course: _Course) -> Floats:
    goals = view.facts.goals
    known = (heard_of(view, goals) > 0) & (view.count(goals, course.unknown) == 0)
    return view.known(view.count(goals, chosen), known)


def _most_behind(view: View, _: str | None) -> Texts:
    goals, course = view.facts.goals, _course(view)
    known = view.exists & (heard_of(view, goals) > 0) & (view.count(goals, course.unknown) == 0)
    told = np.full(view.t.shape, None, dtype=object)
    told[known] = NONE_BEHIND
    most = np.zeros(view.t.shape)
    np.maximum.at(most, goals.account, course.short)
    worst = (course.short > 0) & (course.short == most[goals.account]) & known[goals.account]
    for row, instant in zip(*np.nonzero(worst), strict=True):
        account = goals.account[row]
        if told[account, instant] == NONE_BEHIND:
            told[account, instant] = _words(view, int(row), float(course.value[row, instant]))
    return told


def _words(view: View, row: int, value: float) -> str:
    goals = view.facts.goals
    name = str(goals.name[row])[:MOST_OF_NAME]
    if np.isnan(value):
        return name
    target = f"{'≤' if goals.at_most[row] else '≥'} {plain(goals.target[row], 4)}"
    return f"{name}: {plain(value, 2)} ({target})"


def _unseen(view: View) -> Bools:
    goals = view.facts.goals
    _, unseen = view.once("measures", lambda: _measured(view))
    hidden = state_at(view, goals, ("set",)).inside & unseen
    found: Bools = (view.count(goals, hidden) > 0) | (view.observed.through is None)
    return found


def _instants(facts: Facts, _: str | None) -> list[Pairs]:
    return status_instants(facts.goals)


def _some_due(facts: Facts, _: Observed) -> Bools:
    return some_due(facts, facts.goals, "set")


SIGNALS: Mapping[str, Definition] = {
    "goals_reached": Definition(values=_goals_reached, instants=_instants),
    "goals_reached_share": Definition(values=_reached_share, instants=_instants),
    "goals_progress": Definition(values=_progress, instants=_instants, unseen=_unseen, of_goals=True),
    **{
        name: Definition(
            values=values, instants=_instants, borders=_some_due, zoned=True, unseen=_unseen, of_goals=True
        )
        for name, values in (("goals_on_track", _on_track), ("goals_behind", _behind), ("goals_overdue", _overdue),
                             ("goal_most_behind", _most_behind))
    },
}  # fmt: skip
