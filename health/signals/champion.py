"""The champion: the user with the most active days of the last 90; among equals, who was active last. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.instants import DAY
from health.marks import number, within
from health.signals.adoption import in_window, last_active
from health.signals.view import Definition, LivelyWithin, View, window

CHAMPION_DAYS = 90
GONE_DAYS = 28


def _last_active(view: View, *, today: bool) -> Ints:
    """The place among the days of when each account's champion was last active by t, with or without t's own day; -1
    where nobody was within the window. (A, T)."""
    return view.once(("champion", today), lambda: _found_last_active(view, today=today))


def _found_last_active(view: View, *, today: bool) -> Ints:
    users = view.facts.users
    before = view.facts.days - users.active.shape[1]
    day = view.day[users.account] - before
    if view.only_day is not None and CHAMPION_DAYS <= view.only_day - before + 1 <= users.active.shape[1]:
        return _found_now(view, view.only_day - before, today=today)
    low, high = window(view.sums(users.active), day, CHAMPION_DAYS)
    count = np.nan_to_num(high if today else low, nan=0).astype(np.int64)
    most = users.greatest(count, len(view.facts))
    last = np.take_along_axis(view.once("user days", lambda: _last_days(users.active)), np.clip(
        day - (0 if today else 1), 0, max(users.active.shape[1] - 1, 0)), axis=1) + before  # fmt: skip
    chosen = np.where((count > 0) & (count == most[users.account]), last, -1)
    return np.asarray(users.greatest(chosen, len(view.facts)))


def _found_now(view: View, day: int, *, today: bool) -> Ints:
    """The same at one instant alone, on the last of ``day`` + 1 days of the rows. (A, 1)"""
    users, last_day = view.facts.users, day if today else day - 1
    count = number(within(users.words, day - CHAMPION_DAYS + 1, last_day))
    most = users.greatest(count, len(view.facts))
    last = last_active(view, users, last_day) + (view.facts.days - users.active.shape[1])
    found = users.greatest(np.where((count > 0) & (count == most[users.account]), last, -1), len(view.facts))
    return np.asarray(found)[:, None]


def _last_days(active: Bools) -> Ints:
    """By each day the place of the last one on which the row was active, -1 for none. (R, D')."""
    places = np.where(active, np.arange(active.shape[1], dtype=np.int16), np.int16(-1))
    return np.asarray(np.maximum.accumulate(places, axis=1), dtype=np.int64)


def _silent(view: View, last: Ints) -> Floats:
    """Whole days from the end of the day ``last`` until that of t began, as far as they were observed. The day up to
    which the position has come counts."""
    complete = view.observed.through_us - view.observed.through_us % DAY + DAY
    begin = view.facts.first_day_us + (last + 1) * DAY
    end = np.minimum(view.day_us, complete)
    passed = end - begin - (view.observed.unobserved_before(end) - view.observed.unobserved_before(begin))
    return np.where(last >= 0, np.where(end > begin, passed // DAY, 0), np.nan)


def _silent_days(view: View, _: str | None) -> Floats:
    low, high = (_reached(view, _silent(view, _last_active(view, today=today))) for today in _days(view))
    return view.settle(low, high)


def _gone(view: View, _: str | None) -> Floats:
    others = in_window(view, view.facts.users, GONE_DAYS)
    both = []
    for today, present in zip(_days(view), others, strict=True):
        last = _last_active(view, today=today)
        gone = (view.day - last >= GONE_DAYS) & (present > 0)
        both.append(_reached(view, np.where(last >= 0, gone, np.nan)))
    return view.settle(*both)


def _days(view: View) -> tuple[bool, bool]:
    """Without the day of t and with it; live what is without it does not matter."""
    return view.only_live, True


def _reached(view: View, values: Floats) -> Floats:
    whole: Bools = view.day - (view.facts.days - view.facts.users.active.shape[1]) + 1 >= CHAMPION_DAYS
    return np.where(whole, values, np.nan)


SIGNALS: Mapping[str, Definition] = {
    "champion_silent_days": Definition(
        values=_silent_days, borders=LivelyWithin(CHAMPION_DAYS), window_days=CHAMPION_DAYS
    ),
    "champion_gone": Definition(values=_gone, borders=LivelyWithin(CHAMPION_DAYS), window_days=CHAMPION_DAYS),
}
