"""What all accounts say together (``health/rhythm.py``), learnt at the close of a day. Pure.

In passes over pages of accounts: what is held at once is a page, and a few numbers per account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.rhythm import (
    BUCKETS,
    DEFAULT_BASE_RATE,
    DEFAULT_MEAN_PAUSE,
    HORIZON_DAYS,
    NEWCOMERS,
    PRIOR_TAIL,
    RECENT_DAYS,
    RECENT_DAYS_OF_SLOW,
    Clock,
    DaySets,
    Fleet,
    Pauses,
    bucket_of,
    population_clock,
    rhythm,
)

SLOW_PAUSE: Final = 10.0
"""Where accounts usually pause for longer, in the median, 28 days hold too few of their days to tell them apart."""
STANDS: Final = np.iinfo(np.int64).max
"""For ``Page.ends``: the account has not ended."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some accounts with their days of activity; ``ends`` (A,): the day on which each stopped being a customer."""

    active: DaySets
    ends: Ints

    def standing(self, day: int) -> Bools:
        """Whose leaving is asked about at the end of ``day``. (A,)."""
        stands: Bools = (self.begins <= day) & (self.ends > day)
        return stands

    @property
    def begins(self) -> Ints:
        """Its start, or its first active day where that came before. (A,)."""
        begins = self.active.start.copy()
        np.minimum.at(begins, self.active.account, self.active.day)
        return begins

    def until(self, day: int) -> Page:
        return replace(self, active=self.active.until(np.full(len(self.ends), day)))


Pages = Callable[[], Iterable[Page]]
"""The same pages each time."""


def learn_clock(pages: Pages, first: int, last: int) -> Clock:
    """From how many of the standing accounts were active on each day from ``first`` to ``last``."""
    days = last - first + 1
    active, change = np.zeros(days, dtype=np.int64), np.zeros(days + 1, dtype=np.int64)
    for page in pages():
        inside = (page.active.day >= first) & (page.active.day <= last)
        active += np.bincount(page.active.day[inside] - first, minlength=days)
        begins, ends = np.clip(page.begins - first, 0, days), np.clip(page.ends - first, 0, days)
        change += np.bincount(begins, minlength=days + 1)
        change -= np.bincount(np.maximum(begins, ends), minlength=days + 1)
    return population_clock(active, np.cumsum(change)[:-1], first)


def learn_fleet(pages: Pages, day: int, *, base_rate: float = DEFAULT_BASE_RATE, clock: Clock | None = None) -> Fleet:
    """The tails and the mean pause of all accounts up to ``day``, and the intercept for ``base_rate`` among those in
    use at its end.

    Where a bucket has few pauses the tail of all of them stands in, by as many as PRIOR_TAIL.
    """
    clock = clock or Clock.plain()

    def known() -> Iterable[Page]:
        return (page.until(day) for page in pages())

    mean = _mean_pause(known, clock)
    longer, usual = np.zeros((BUCKETS, HORIZON_DAYS + 1)), [np.empty(0)]
    for page in known():
        spans = Pauses.of(page.active, clock)
        longer += _outlasting(spans, mean)
        usual.append(spans.usual(mean)[page.standing(day)])
    slow = float(np.median(np.concatenate([*usual, [0.0]]))) > SLOW_PAUSE
    draft = Fleet(
        tails=_tails(longer, mean),
        mean_pause=mean,
        base_rate=base_rate,
        intercept=0.0,
        clock=clock,
        recent_days=RECENT_DAYS_OF_SLOW if slow else RECENT_DAYS,
    )
    seen = [_log_odds(page, day, draft) for page in known()]
    return calibrated(draft, np.concatenate([np.empty(0), *seen]))


def calibrated(fleet: Fleet, log_odds: Floats) -> Fleet:
    """With the intercept that makes the mean probability over ``log_odds``, which know of none, the fleet's base rate.
    Bisection to 1e-9."""
    low, high = -30.0, 30.0
    while len(log_odds) and high - low > 1e-9:
        middle = (low + high) / 2
        too_low = np.mean(1 / (1 + np.exp(-log_odds - middle))) < fleet.base_rate
        low, high = (middle, high) if too_low else (low, middle)
    nobody = np.log(fleet.base_rate / (1 - fleet.base_rate))
    return replace(fleet, intercept=(low + high) / 2 if len(log_odds) else float(nobody))


def _mean_pause(pages: Pages, clock: Clock) -> float:
    total, number = 0.0, 0
    for page in pages():
        lengths = Pauses.of(page.active, clock).length
        total, number = total + float(lengths.sum()), number + len(lengths)
    return total / number if number else DEFAULT_MEAN_PAUSE


def _outlasting(spans: Pauses, mean: float) -> Floats:
    """How many pauses of each bucket were longer than 0, 1, 2 … days. (BUCKETS, HORIZON_DAYS + 1)."""
    bucket = np.where(spans.number == 0, NEWCOMERS, bucket_of(spans.usual_before(mean)))
    steps = HORIZON_DAYS + 2
    length = np.clip(np.ceil(spans.length), 0, steps - 1).astype(np.int64)
    counts = np.bincount(bucket * steps + length, minlength=BUCKETS * steps).reshape(BUCKETS, steps)
    longer: Floats = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:].astype(np.float64)
    return longer


def _tails(longer: Floats, mean: float) -> Floats:
    """Pauses last longer than 0 days, all of them: so the first column says how many there are."""
    number = longer[:, :1]
    steps = np.arange(HORIZON_DAYS + 1)
    everybody = longer.sum(axis=0) / number.sum() if number.sum() else np.exp(-steps / mean)
    tails: Floats = (longer + PRIOR_TAIL * everybody) / (number + PRIOR_TAIL)
    return tails


def _log_odds(page: Page, day: int, fleet: Fleet) -> Floats:
    """Without an intercept, of those that stand at the end of ``day`` and were seen in the recent days: who pays but
    has not come for months is not what others are compared with."""
    found = rhythm(page.active, np.full(len(page.ends), day), fleet)
    return sum(found.parts.values(), np.zeros(len(page.ends)))[page.standing(day) & (found.recent_days > 0)]
