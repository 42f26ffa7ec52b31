"""Signals of adoption: how many people and features the account uses. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.columns import Facts
from health.gaps import Observed
from health.instants import DAY, NEVER, Instants
from health.signals.activity import origin
from health.signals.view import Definition, View, attribute_instants, lively, running, window

WINDOW_DAYS = 28


def _active_users(view: View, _: str | None) -> Floats:
    users = view.facts.users
    low, high = window(running(users.active), view.day[users.account], WINDOW_DAYS)
    reached = view.day + 1 >= WINDOW_DAYS
    return view.settle(
        np.where(reached, view.count(users, low > 0), np.nan), np.where(reached, view.count(users, high > 0), np.nan)
    )


def _seat_utilisation(view: View, argument: str | None) -> Floats:
    seats = view.number("seats")
    return _active_users(view, argument) / np.where(seats > 0, seats, np.nan)


def _features_used(view: View, _: str | None) -> Floats:
    """A feature keeps its first and last use: between them, the latest use before t is not known."""
    features = view.facts.features
    t = view.rows_t(features)
    begin = (view.day_us - (WINDOW_DAYS - 1) * DAY)[features.account]
    first, last = features.first_at[:, None], features.last_at[:, None]
    used = ((last >= begin) & (last <= t)) | ((first >= begin) & (first <= t))
    unsure = (first < begin) & (last > t)
    return view.known(view.count(features, used), view.count(features, unsure) == 0)


def _first_and_last(facts: Facts, feature: str | None) -> tuple[Instants, Instants]:
    """First and last use of one feature per account. (A,), NEVER where it was not used."""
    chosen = facts.features.name == feature
    first = np.full(len(facts), NEVER, dtype=np.int64)
    last = first.copy()
    first[facts.features.account[chosen]] = facts.features.first_at[chosen]
    last[facts.features.account[chosen]] = facts.features.last_at[chosen]
    return first, last


def _feature_used(view: View, feature: str | None) -> Floats:
    first, _ = _first_and_last(view.facts, feature)
    used = (first != NEVER)[:, None] & (first[:, None] <= view.t)
    return view.known(used, view.exists)


def _days_since_feature(view: View, feature: str | None) -> Floats:
    first, last = _first_and_last(view.facts, feature)
    return view.since(last, first)


def _feature_origins(facts: Facts, feature: str | None) -> Sequence[Instants]:
    _, last = _first_and_last(facts, feature)
    return (origin(facts, last), facts.start)


def _feature_instants(facts: Facts, feature: str | None) -> tuple[Ints, Instants]:
    first, last = _first_and_last(facts, feature)
    accounts = np.arange(len(facts))
    return np.tile(accounts, 2), np.concatenate([first, last])


def _all_feature_instants(facts: Facts, _: str | None) -> tuple[Ints, Instants]:
    features = facts.features
    return np.tile(features.account, 2), np.concatenate([features.first_at, features.last_at])


def _features_lively(facts: Facts, observed: Observed) -> Bools:
    busy = lively(facts, observed)
    recent = facts.features.last_at >= facts.today_us - (WINDOW_DAYS + 1) * DAY
    busy[facts.features.account[recent]] = True
    return busy


SIGNALS: Mapping[str, Definition] = {
    "active_users_28d": Definition(values=_active_users, borders=lively, window_days=WINDOW_DAYS),
    "seat_utilisation": Definition(
        values=_seat_utilisation, borders=lively, instants=attribute_instants("seats"), window_days=WINDOW_DAYS
    ),
    "features_used_28d": Definition(
        values=_features_used, borders=_features_lively, instants=_all_feature_instants, window_days=WINDOW_DAYS
    ),
    "feature_used": Definition(values=_feature_used, instants=_feature_instants),
    "days_since_feature": Definition(values=_days_since_feature, origins=_feature_origins, instants=_feature_instants),
}
