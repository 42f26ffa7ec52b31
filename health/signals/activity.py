"""Signals of activity: when the account was last seen, and how much it does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from health.arrays import Floats
from health.catalogue import WINDOWS
from health.columns import Facts
from health.instants import NEVER, Instants
from health.signals import business
from health.signals.view import Definition, LivelyWithin, View, started


def origin(facts: Facts, last: Instants) -> Instants:
    """From where whole days are counted: the last time, else the start. (A,)."""
    return np.where(last == NEVER, facts.start, last)


def since_last(last: Callable[[Facts], Instants]) -> Definition:
    """Whole observed days since an instant of the account row."""

    def values(view: View, _: str | None) -> Floats:
        return view.since(last(view.facts))

    def origins(facts: Facts, _: str | None) -> Iterable[Instants]:
        return (origin(facts, last(facts)),)

    return Definition(values=values, origins=origins)


def business_days_since(last: Callable[[Facts], Instants]) -> Definition:
    """Whole observed business days that have ended since the date of an instant of the account row."""

    def values(view: View, _: str | None) -> Floats:
        return business.since(view, last(view.facts))

    return Definition(values=values, borders=started, zoned=True)


def _count(days: Callable[[Facts], npt.NDArray[Any]], length: int) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        return view.settle(*view.window(days(view.facts), length))

    return Definition(values=values, borders=LivelyWithin(length), window_days=length)


def _usage_change(recent_days: int, base_days: int) -> Definition:
    """Events of the last ``recent_days`` against as many days at the mean of the ``base_days`` before them."""

    def values(view: View, _: str | None) -> Floats:
        low, high = view.window(view.facts.events, recent_days)
        base, _high = view.window(view.facts.events, base_days, shift=recent_days)
        usual = np.where(base > 0, base, np.nan) * (recent_days / base_days)
        return view.settle((low - usual) / usual, (high - usual) / usual)

    reach = recent_days + base_days
    return Definition(values=values, borders=LivelyWithin(reach), window_days=reach)


def _against_last_year(view: View, _: str | None) -> Floats:
    low, high = view.window(view.facts.events, MONTH_DAYS)
    then, _high = view.window(view.facts.events, MONTH_DAYS, shift=YEAR_DAYS)
    usual = np.where(then > 0, then, np.nan)
    return view.settle((low - usual) / usual, (high - usual) / usual)


YEAR_DAYS = 364
"""Whole weeks, so that weekdays meet their like."""
MONTH_DAYS = 28
_YEAR_REACH = YEAR_DAYS + MONTH_DAYS

SIGNALS: Mapping[str, Definition] = {
    "days_since_login": since_last(lambda facts: facts.last_login_at),
    "days_since_activity": since_last(lambda facts: facts.last_activity_at),
    "business_days_since_login": business_days_since(lambda facts: facts.last_login_at),
    "business_days_since_activity": business_days_since(lambda facts: facts.last_activity_at),
    **{f"logins_{n}d": _count(lambda facts: facts.logins, n) for n in WINDOWS},
    **{f"events_{n}d": _count(lambda facts: facts.events, n) for n in WINDOWS},
    **{f"active_days_{n}d": _count(lambda facts: facts.active, n) for n in WINDOWS},
    "usage_change_28d": _usage_change(28, 28),
    "usage_change_7d_28d": _usage_change(7, 28),
    "usage_change_28d_year": Definition(
        values=_against_last_year,
        borders=LivelyWithin(_YEAR_REACH),
        window_days=MONTH_DAYS,
        earlier=((MONTH_DAYS, YEAR_DAYS),),
        reach_days=_YEAR_REACH,
    ),
}
