"""Signals of adoption: how many people and features the account uses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.catalogue import WINDOWS
from health.columns import Facts, FeatureDays, Features, Marked
from health.gaps import Observed
from health.instants import DAY, NEVER, Instants
from health.marks import last_of, within
from health.signals.activity import origin
from health.signals.view import (
    Definition,
    LivelyWithin,
    Pairs,
    View,
    attribute_instants,
    lively,
    past_number,
    window,
)

MONTH_DAYS = 28
WEEK_DAYS = 7
BREADTH_DAYS = 90


def in_window(
    view: View, rows: Marked, days: int, *, shift: int = 0, only: Bools | None = None
) -> tuple[Floats, Floats]:
    """(low, high), for ``settle``: how many rows of each account, of ``only`` some (R,), were active on any of ``days``
    days. (A, T)."""
    if only is not None:
        return _in_window(view, rows, days, shift, only)
    return view.once(("in_window", id(rows), days, shift), lambda: _in_window(view, rows, days, shift, None))


def _in_window(view: View, rows: Marked, days: int, shift: int, only: Bools | None) -> tuple[Floats, Floats]:
    active = rows.active
    before = view.facts.days - active.shape[1]
    day = view.day - before
    if view.only_day is not None and 0 <= view.only_day - before < active.shape[1]:
        return _in_window_now(view, rows, days, view.only_day - before - shift, shift, only)
    low, high = (part > 0 for part in window(view.sums(active), day[rows.account], days, shift=shift))
    if only is not None:
        low, high = low & only[:, None], high & only[:, None]
    reached = day + 1 - shift >= days
    return np.where(reached, view.count(rows, low), np.nan), np.where(reached, view.count(rows, high), np.nan)


def _in_window_now(
    view: View, rows: Marked, days: int, end: int, shift: int, only: Bools | None
) -> tuple[Floats, Floats]:
    """The same at one instant alone: a row counts if its last active day lies in the window that ends with ``end``."""
    if end + 1 < days:
        unknown = np.full(view.t.shape, np.nan)
        return unknown, unknown
    counts = []
    for by in (end,) if shift or view.only_live else (end - 1, end):
        inside = last_active(view, rows, by) > end - days
        chosen = rows.account[inside if only is None else inside & only]
        counts.append(np.bincount(chosen, minlength=len(view.facts))[:, None].astype(np.float64))
    return counts[0], counts[-1]


def last_active(view: View, rows: Marked, by: int) -> Ints:
    """The place of the last day up to ``by`` on which each row (R, D') was active, far in the past for none. (R,)."""
    return view.once(("last", id(rows), by), lambda: last_of(within(rows.words, 0, by)))


def _active_users(days: int) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        return view.settle(*in_window(view, view.facts.users, days))

    return Definition(values=values, borders=LivelyWithin(days), window_days=days)


def _weekly_share(view: View, _: str | None) -> Floats:
    week = in_window(view, view.facts.users, WEEK_DAYS)
    month = in_window(view, view.facts.users, MONTH_DAYS)
    low, high = (part / np.where(whole > 0, whole, np.nan) for part, whole in zip(week, month, strict=True))
    return view.settle(low, high)


def _per_seat(users: Floats, seats: Floats) -> Floats:
    return users / np.where(seats > 0, seats, np.nan)


def _seat_utilisation(view: View, _: str | None) -> Floats:
    users = view.settle(*in_window(view, view.facts.users, MONTH_DAYS))
    return _per_seat(users, view.number("seats"))


def _utilisation_change(view: View, _: str | None) -> Floats:
    now = view.settle(*in_window(view, view.facts.users, MONTH_DAYS))
    _low, before = in_window(view, view.facts.users, MONTH_DAYS, shift=MONTH_DAYS)
    # The last moment of the earlier window, so that its seats change at a day's border alone.
    end = view.day_us - (MONTH_DAYS - 1) * DAY - 1
    return _per_seat(now, view.number("seats")) - _per_seat(before, past_number(view, "seats", end))


def _features_used(days: int) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        return view.settle(*in_window(view, view.facts.feature_days, days))

    return Definition(values=values, borders=LivelyWithin(days), window_days=days)


def _of_the_product(view: View, rows: Features | FeatureDays) -> Bools:
    return rows.among("name", frozenset(view.facts.fleet.features))


def _breadth(view: View, _: str | None) -> Floats:
    used, listed = view.facts.feature_days, len(view.facts.fleet.features)
    return view.settle(*in_window(view, used, BREADTH_DAYS, only=_of_the_product(view, used))) / (listed or np.nan)


def _never_used(view: View, _: str | None) -> Floats:
    features, listed = view.facts.features, len(view.facts.fleet.features)
    used = (features.first_at[:, None] <= view.rows_t(features)) & _of_the_product(view, features)[:, None]
    return view.known(listed - view.count(features, used), np.full(view.t.shape, listed > 0))


def _first_and_last(facts: Facts, feature: str | None) -> tuple[Instants, Instants]:
    """First and last use of one feature per account. (A,), NEVER where it was not used."""
    features, asked = facts.features, (feature, len(facts))
    if asked not in features.found:
        chosen = features.among("name", (feature,))
        first = np.full(len(facts), NEVER, dtype=np.int64)
        last = first.copy()
        first[features.account[chosen]] = features.first_at[chosen]
        last[features.account[chosen]] = features.last_at[chosen]
        features.found[asked] = first, last
    return features.found[asked]


def _feature_used(view: View, feature: str | None) -> Floats:
    first, _ = _first_and_last(view.facts, feature)
    used = (first != NEVER)[:, None] & (first[:, None] <= view.t)
    return view.known(used, view.exists)


def _days_since_feature(view: View, feature: str | None) -> Floats:
    first, last = _first_and_last(view.facts, feature)
    return view.since(last, first)


def _feature_origins(facts: Facts, feature: str | None) -> Iterable[Instants]:
    _, last = _first_and_last(facts, feature)
    return (origin(facts, last), facts.start)


def _feature_instants(facts: Facts, feature: str | None) -> list[Pairs]:
    accounts = np.arange(len(facts))
    return [(accounts, at) for at in _first_and_last(facts, feature)]


def _everybody_with_seats(facts: Facts, observed: Observed) -> Bools:
    """Whose seats changed may cross a border though nobody is active."""
    busy = lively(facts, observed)
    seats = facts.history.among("attribute", ("seats",))
    busy[facts.history.account[seats]] = True
    return busy


def _all_feature_instants(facts: Facts, _: str | None) -> list[Pairs]:
    return [(facts.features.account, facts.features.first_at)]


SIGNALS: Mapping[str, Definition] = {
    **{f"active_users_{days}d": _active_users(days) for days in WINDOWS},
    "weekly_active_share": Definition(values=_weekly_share, borders=LivelyWithin(MONTH_DAYS), window_days=MONTH_DAYS),
    "seat_utilisation": Definition(
        values=_seat_utilisation,
        borders=LivelyWithin(MONTH_DAYS),
        instants=attribute_instants("seats"),
        window_days=MONTH_DAYS,
    ),
    "seat_utilisation_change_28d": Definition(
        values=_utilisation_change,
        borders=_everybody_with_seats,
        instants=attribute_instants("seats"),
        window_days=2 * MONTH_DAYS,
    ),
    **{f"features_used_{days}d": _features_used(days) for days in WINDOWS},
    "feature_breadth_90d": Definition(values=_breadth, borders=LivelyWithin(BREADTH_DAYS), window_days=BREADTH_DAYS),
    "features_never_used": Definition(values=_never_used, instants=_all_feature_instants),
    "feature_used": Definition(values=_feature_used, instants=_feature_instants),
    "days_since_feature": Definition(values=_days_since_feature, origins=_feature_origins, instants=_feature_instants),
}
