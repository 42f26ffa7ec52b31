"""Signals of rhythm: how unusual the silence is for this account, and the odds of its leaving. Pure.

A silence counts whole UTC days that have ended; today counts as soon as the account is active in it. Days that were not
observed do not pass. An account that was never active has been silent since its start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.columns import Facts
from health.gaps import Observed
from health.instants import DAY, NEVER
from health.rhythm import Clock, DaySets, Rhythm, rhythm
from health.signals.view import Definition, View, started

CLOCK_DAYS = 1200
"""How far back days are asked whether they were observed; longer than rhythms look back."""


_COMPUTED: WeakKeyDictionary[View, tuple[Sequence[Rhythm], Bools]] = WeakKeyDictionary()
"""Four signals read the same rhythms; it is by far the most of their work."""


def _signal(part: Callable[[Rhythm], Floats], *, window_days: Callable[[Facts], int] | None = None) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        if view.observed.through is None or not view.t.shape[1]:
            return np.full(view.t.shape, np.nan)
        if view not in _COMPUTED:
            _COMPUTED[view] = _rhythms(view)
        columns, known = _COMPUTED[view]
        return np.where(known, np.stack([part(column) for column in columns], axis=1), np.nan)

    return Definition(values=values, borders=started, window_days=window_days)


def _rhythms(view: View) -> tuple[Sequence[Rhythm], Bools]:
    """The rhythm at each instant, and where it is known (A, T)."""
    facts = view.facts
    fleet = replace(facts.fleet, clock=_observed(facts, view.observed))
    days = DaySets(
        account=facts.active_days.account,
        day=facts.active_days.day,
        start=np.where(facts.start == NEVER, 0, facts.start) // DAY,
    )
    begins = np.minimum(days.start, days.first(np.iinfo(np.int64).max))
    columns, known = [], []
    for place in range(view.t.shape[1]):
        counted, settled = _counted(view, place, days)
        columns.append(rhythm(days, counted, fleet))
        known.append(settled & (begins <= counted) & view.exists[:, place])
    return columns, np.stack(known, axis=1)


def _counted(view: View, place: int, days: DaySets) -> tuple[Ints, Bools]:
    """The last day that counts, and whether that is known: at a day's border nothing of that day has happened; now
    everything known has; in between it is not known."""
    today = view.day_us[:, place] // DAY
    active_today = _has(days, today)
    counted = np.where(active_today & ~view.at_border[:, place], today, today - 1)
    return counted, ~active_today | view.at_border[:, place] | view.live[:, place]


def _has(days: DaySets, today: Ints) -> Bools:
    last = days.last(-1)
    if (last <= today).all():
        return np.asarray(last == today)
    found = np.zeros(len(days), dtype=np.bool_)
    found[days.account[days.day == today[days.account]]] = True
    return found


def _observed(facts: Facts, observed: Observed) -> Clock:
    """The fleet's clock, standing still while nobody looked and on the days after what is known to be complete.

    The day up to which the position has come counts in full: in parts, every second would be a step.
    """
    first = facts.today_us // DAY - CLOCK_DAYS
    complete = observed.through_us - observed.through_us % DAY + DAY
    borders = np.minimum(np.arange(first, first + CLOCK_DAYS + 2) * DAY, complete)
    unseen = np.diff(observed.unobserved_before(borders))
    return facts.fleet.clock.observed(first, np.clip((np.diff(borders) - unseen) / DAY, 0, 1))


def _recent(facts: Facts) -> int:
    # While today is quiet its window ends with yesterday, and so begins a day earlier.
    return facts.fleet.recent_days + 1


SIGNALS: Mapping[str, Definition] = {
    "silence_ratio": _signal(lambda found: found.silence / found.usual_pause),
    "usual_pause": _signal(lambda found: found.usual_pause),
    "pause_tail": _signal(lambda found: found.tail),
    "churn_odds": _signal(lambda found: found.odds, window_days=_recent),
}
