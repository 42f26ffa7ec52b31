"""Signals of activity: when the account was last seen, and how much it does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from health.arrays import Floats
from health.columns import Facts
from health.instants import NEVER, Instants
from health.signals.view import Definition, View, lively, running, window


def origin(facts: Facts, last: Instants) -> Instants:
    """From where whole days are counted: the last time, else the start. (A,)."""
    return np.where(last == NEVER, facts.start, last)


def since_last(last: Callable[[Facts], Instants]) -> Definition:
    """Whole observed days since an instant of the account row."""

    def values(view: View, _: str | None) -> Floats:
        return view.since(last(view.facts))

    def origins(facts: Facts, _: str | None) -> Sequence[Instants]:
        return (origin(facts, last(facts)),)

    return Definition(values=values, origins=origins)


def _count(days: Callable[[Facts], npt.NDArray[Any]], length: int) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        return view.settle(*window(running(days(view.facts)), view.day, length))

    return Definition(values=values, borders=lively, window_days=length)


def _usage_change(recent_days: int, base_days: int) -> Definition:
    """Events of the last ``recent_days`` against as many days at the mean of the ``base_days`` before them."""

    def values(view: View, _: str | None) -> Floats:
        sums = running(view.facts.events)
        low, high = window(sums, view.day, recent_days)
        base, _high = window(sums, view.day, base_days, shift=recent_days)
        usual = np.where(base > 0, base, np.nan) * (recent_days / base_days)
        return view.settle((low - usual) / usual, (high - usual) / usual)

    return Definition(values=values, borders=lively, window_days=recent_days + base_days)


SIGNALS: Mapping[str, Definition] = {
    "days_since_login": since_last(lambda facts: facts.last_login_at),
    "days_since_activity": since_last(lambda facts: facts.last_activity_at),
    "logins_7d": _count(lambda facts: facts.logins, 7),
    "logins_28d": _count(lambda facts: facts.logins, 28),
    "events_28d": _count(lambda facts: facts.events, 28),
    "active_days_28d": _count(lambda facts: facts.active, 28),
    "usage_change_28d": _usage_change(28, 28),
    "usage_change_7d_28d": _usage_change(7, 28),
}
