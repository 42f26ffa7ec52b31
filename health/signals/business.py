"""Counting business days, by each account's time zone and country. Pure."""

from __future__ import annotations

import numpy as np

from health import days
from health.arrays import Bools, Floats, Ints
from health.gaps import Observed
from health.instants import NEVER, Instants
from health.signals.view import View

FURTHEST_DAYS = 5 * 366
"""Dates further ahead are not counted to: calendars of holidays are not known so far."""


def since(view: View, last: Instants) -> Floats:
    """Business days that have ended since the date of ``last`` (A,), else of the start, without those of which a part
    was not observed. The day up to which the position has come counts. (A, T)."""
    origin = np.where(last == NEVER, view.facts.start, last)
    if view.observed.through is None:
        return np.full(view.t.shape, np.nan)
    begin = np.where(last == NEVER, view.dates(view.facts.start), view.dates(last))[:, None]
    known = (origin != NEVER)[:, None] & (origin[:, None] <= view.t)
    first = np.where(known, np.minimum(begin + 1, view.date), view.date)
    return view.known(_between(view, first, view.date, observed=view.observed), known)


def until(view: View, date: Ints, known: Bools) -> Floats:
    """Business days from the date of t to the day before ``date`` (A, 1); negative when that is past. (A, T)."""
    near = known & (np.abs(date - view.date) <= FURTHEST_DAYS)
    return view.known(_between(view, view.date, np.where(near, date, view.date), observed=None), near)


def _between(view: View, first: Ints, end: Ints, *, observed: Observed | None) -> Ints:
    """Business days among the dates [first, end), negative if end < first; all (A, T)."""
    if observed is None or not observed.has_gaps:
        return _without_gaps(view, first, end, observed=observed)
    counts = np.zeros(view.t.shape, dtype=np.int64)
    asked = view.t != NEVER
    for zone, country, rows in view.facts.places.groups():
        inside = asked[rows]
        if not inside.any():
            continue
        low = int(min(first[rows][inside].min(), end[rows][inside].min()))
        high = int(max(first[rows][inside].max(), end[rows][inside].max()))
        counted = days.business(country, low, high)
        if observed is not None:
            counted = counted & _observed(zone, low, high, observed)
        sums = np.concatenate([[0], np.cumsum(counted)])
        begins, ends = (np.where(inside, dates[rows] - low, 0) for dates in (first, end))
        counts[rows] = sums[ends] - sums[begins]
    return counts


def _without_gaps(view: View, first: Ints, end: Ints, *, observed: Observed | None) -> Ints:
    """The same where nothing but what is to come is not observed: that is left off, and zones do not matter."""
    asked = view.t != NEVER
    if not asked.any():
        return np.zeros(view.t.shape, dtype=np.int64)
    if observed is not None:
        through = view.once("through", lambda: _through(view, observed)) + 1
        first, end = np.minimum(first, through), np.minimum(end, through)
    nothing = end[asked][0]
    first, end = np.where(asked, first, nothing), np.where(asked, end, nothing)
    low, high = int(min(first.min(), end.min())), int(max(first.max(), end.max()))
    countries, code = view.facts.places.countries
    sums = np.stack([days.business_before(country, low, high) for country in countries])
    return np.asarray(sums[code[:, None], end - low] - sums[code[:, None], first - low], dtype=np.int64)


def _through(view: View, observed: Observed) -> Ints:
    """The date by each account's zone up to which the position has come. (A, 1)"""
    return view.facts.places.dates_at(np.array([observed.through_us]))


def _observed(zone: str, low: int, high: int, observed: Observed) -> Bools:
    begins = days.borders(zone, low, high + 1)
    through = int(np.searchsorted(begins, observed.through_us, "right")) - 1
    unseen = np.diff(observed.unobserved_before(begins)) > 0
    return ~unseen & (np.arange(len(unseen)) <= through)
