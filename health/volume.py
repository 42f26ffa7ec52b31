"""The guard's decisions: does a source send as much as it usually does, is a delivery overdue, and did a gap's data
come later. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.festive import StandIn
from health.instants import HOUR, from_us, to_us

ENOUGH_EXPECTED = 30.0
WINDOW_HOURS = (*range(2, 26), *(24 * days + 1 for days in range(2, 8)))
"""Lengths of window that are tried in turn, the begun hour among them: up to a day, then whole days up to a week for
sources of a few events a day."""
HELD_BELOW = 0.10
REFILLED_FROM = 0.50
WEEKS = 4
WEEKS_BACK = 8
"""How far to go back for four weeks that were observed: an outage of weeks must not become what is usual."""
FEWEST_WEEKS = 2
WEEK_HOURS = 7 * 24
HISTORY_HOURS = (WEEKS_BACK + 1) * WEEK_HOURS
OVERDUE_AFTER = 1.25
"""A delivery is overdue when it is late by a quarter of what was agreed."""
IMPORTED = "#import"
"""Behind a source's name in source_hours: its imported events. As in ``consumers/fold.py``."""


@dataclass(frozen=True, kw_only=True)
class HourCounts:
    """Events of one source per UTC hour, the last being the hour of now. (H,).

    ``seen`` are those that the source sent by itself, ``imported`` those that were loaded: they fill a gap, and say
    nothing of what is usual. ``usable`` marks hours that may count as usual: observed, and after the source's first
    live hour. ``festive``: hours of a public holiday are compared with Sundays.
    """

    seen: Floats
    usable: Bools
    imported: Floats | float = 0.0
    festive: tuple[StandIn, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``judged`` is false when too little is expected, or too little is known, to tell; then nothing is held."""

    held: bool
    judged: bool
    expected: float
    seen: float
    window_hours: int
    reason: str


def judge_volume(counts: HourCounts, now: datetime) -> Verdict:
    """Whether a source has fallen silent.

    Compares with the median of the same hours of the four latest observed weeks, over the current hour so far and at
    least one full hour before it, grown back until ``ENOUGH_EXPECTED`` events are expected, at most a week.
    """
    size = len(counts.seen)
    weight = _weight(counts, now)

    def expect(window: int) -> float | None:
        hours = np.arange(size - window, size)
        return usual(counts, hours, weight[hours])

    window = WINDOW_HOURS[-1]
    expected = expect(window)
    if expected is None or expected >= ENOUGH_EXPECTED:  # else no shorter one has more
        for window in WINDOW_HOURS:
            expected = expect(window)
            if expected is None or expected >= ENOUGH_EXPECTED:
                break
    seen = float(counts.seen[size - window :].sum())
    if expected is None or expected < ENOUGH_EXPECTED:
        few = f"only {expected or 0:.0f} events are expected"
        reason = "fewer than two past weeks are known" if expected is None else few
        return Verdict(
            held=False, judged=False, expected=expected or 0.0, seen=seen, window_hours=window - 1, reason=reason
        )
    held = seen < HELD_BELOW * expected
    reason = f"{seen:.0f} events in the last {window - 1} hours, where {expected:.0f} are usual"
    return Verdict(held=held, judged=True, expected=expected, seen=seen, window_hours=window - 1, reason=reason)


def judge_delivery(last_at: datetime, cadence: timedelta, now: datetime) -> Verdict:
    """Whether a source that sends once in ``cadence`` and sent ``last_at`` (arrival) is overdue."""
    late = now - last_at > cadence * OVERDUE_AFTER
    hours = int((now - last_at) / timedelta(hours=1))
    reason = f"nothing was delivered for {hours} hours, where {cadence / timedelta(hours=1):g} are agreed"
    return Verdict(held=late, judged=True, expected=1.0, seen=float(not late), window_hours=hours, reason=reason)


def as_of(counts: HourCounts, hours_back: int) -> HourCounts:
    """What was counted when the hour that lies ``hours_back`` (1 or more) before the last one had just begun; its
    marks of what is usual are those of ``counts`` itself."""
    size = len(counts.seen) - hours_back
    seen = counts.seen[:size].copy()
    seen[-1] = 0
    return HourCounts(seen=seen, usable=counts.usable[:size], festive=tuple(each.part(size) for each in counts.festive))


def _weight(counts: HourCounts, now: datetime) -> Floats:
    """How much of each hour is over."""
    weight = np.ones(len(counts.seen))
    weight[-1] = (to_us(now) % HOUR) / HOUR
    return weight


def judge_refill(counts: HourCounts, now: datetime, from_at: datetime, until_at: datetime) -> tuple[bool, str]:
    """Whether the data of a gap that ended has come after all, with the reason.

    It has when the full hours within the gap hold at least half of what is usual; of a gap without a full hour, when
    the hours that it touches do.
    """
    size = len(counts.seen)
    hour_of_now = to_us(now) // HOUR
    first = -(-to_us(from_at) // HOUR) - hour_of_now + size - 1
    last = to_us(until_at) // HOUR - hour_of_now + size - 1
    hours = np.arange(max(first, 0), min(last, size))
    if not len(hours):
        floor = to_us(from_at) // HOUR - hour_of_now + size - 1
        hours = np.arange(max(floor, 0), min(last + 1, size))
    expected = usual(counts, hours, _weight(counts, now)[hours]) if len(hours) else None
    if not expected:
        return False, "what is usual for that time is not known"
    seen = float((counts.seen + counts.imported)[hours].sum())
    words = f"{seen:.0f} events lie in the gap, where {expected:.0f} are usual"
    return seen >= REFILLED_FROM * expected, words


def usual(counts: HourCounts, hours: Ints, weight: Floats) -> float | None:
    """The median over past weeks of the weighted sum over the same hours; None when too few weeks are known."""
    moved = [
        (hours - each.back[hours], weight * each.weight[hours]) for each in counts.festive if each.weight[hours].any()
    ]
    plain = weight - sum(share for _, share in moved) if moved else weight
    sums: list[float] = []
    for week in range(1, WEEKS_BACK + 1):
        found = [_sum(counts, places - week * WEEK_HOURS, share) for places, share in [(hours, plain), *moved]]
        known = [part for part in found if part is not None]
        if len(known) == len(found):
            sums.append(sum(known))
        if len(sums) == WEEKS:
            break
    return float(np.median(sums)) if len(sums) >= FEWEST_WEEKS else None


def _sum(counts: HourCounts, places: Ints, share: Floats) -> float | None:
    """None when an hour among them is not known or not usual."""
    if places.min() < 0 or not counts.usable[places].all():
        return None
    return float((counts.seen[places] * share).sum())


def first_hour(now: datetime) -> datetime:
    """The hour that the first of ``HISTORY_HOURS`` places of an ``HourCounts`` stands for."""
    return hour_of(now) - timedelta(hours=HISTORY_HOURS - 1)


def hour_of(at: datetime) -> datetime:
    """The beginning of its UTC hour."""
    return from_us(to_us(at) // HOUR * HOUR)
