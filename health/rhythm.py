"""The rhythm of an account: how unusual its silence is, and the odds of its leaving. Pure.

Derived from the *set* of days on which the account was active, never kept as a running state: a day that arrives late
changes the set, and so the answer, as if it had come in time. Each active day costs O(1).

Per account, over its pauses (days between one active day and the next), newer ones weighing more by ``DECAY`` each:
how long its pauses usually are, and what share of them outlasted the present silence. Both are steadied by the pauses
of all accounts of a similar rhythm (``Fleet``), which alone speak for a new account. With how long and how often the
account has been active this gives the odds of leaving within 28 days, and a score on which every doubling of the odds
costs 30 points.

Time is that of the fleet's clock: a day counts as much as it was used by everybody, against the 56 days before
(``population_clock``), so that a public holiday is no silence of anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from health.arrays import Bools, Floats, Ints

DECAY: Final = 0.97
PRIOR_PAUSES: Final = 2.0
"""How many pauses the fleet's mean weighs in an account's usual pause."""
PRIOR_TAIL: Final = 8.0
"""How many pauses the fleet's tail weighs in an account's own."""
TAIL_FLOOR: Final = 0.01
BIN_BORDERS: Final[Floats] = np.array(
    [0, 1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 28, 37, 50, 67, 90, 120, 180, 270, 400, 800, 3000], dtype=np.float64
)
"""Pauses are counted in the bins (border, next border], in days."""
BINS: Final = len(BIN_BORDERS) - 1
BUCKET_BORDERS: Final[Floats] = np.array([1.3, 1.8, 2.5, 3.5, 5, 7, 10, 15, 22, 32, 50, 80, 130], dtype=np.float64)
"""Accounts are alike whose usual pause lies between the same two of these, in days."""
NEWCOMERS: Final = len(BUCKET_BORDERS) + 1
"""The bucket of accounts with less than two active days."""
BUCKETS: Final = NEWCOMERS + 1
RECENT_DAYS: Final = 28
RECENT_DAYS_OF_SLOW: Final = 112
"""Of a product whose accounts come once or twice a month, or less."""
CLOCK_DAYS: Final = 56
CLOCK_PRIOR: Final = 10.0
CLOCK_LIMITS: Final = (0.1, 2.0)
"""A day counts at least and at most so much: a day of no traffic at all is not to stop the clock for good."""
TAIL_WEIGHT, AGE_WEIGHT, RECENT_WEIGHT = 0.48, -0.36, -0.67
LONG_SILENCE_WEIGHT: Final = 1.0
"""Of the logarithm of how many times as long as the recent days a silence lasts. By then no pause was so long and no
recent day is left to tell one long silence from another, but who was gone for three years returns more rarely than who
was for one."""
POINTS_PER_DOUBLING: Final = 30.0
POINTS_AT_BASE: Final = 70.0
DEFAULT_BASE_RATE: Final = 0.05
"""Of leaving within 28 days, until cancellations are recorded."""
DEFAULT_MEAN_PAUSE: Final = 3.0
HORIZON_DAYS: Final = 400
"""Up to where tails are kept; a longer silence counts as one of so many days."""


@dataclass(frozen=True, kw_only=True)
class DaySets:
    """The sets of active days: N rows of (account, day), ascending, each once; days count from any common origin.

    ``start`` (A,): the day on which each account began; silence counts from there when it was never active.
    """

    account: Ints
    day: Ints
    start: Ints

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def edges(self) -> Ints:
        """Where the rows of each account begin, and where the last one's end. (A + 1,)"""
        return np.searchsorted(self.account, np.arange(len(self.start) + 1)).astype(np.int64)

    @cached_property
    def count(self) -> Ints:
        return np.diff(self.edges)

    def first(self, none: int) -> Ints:
        """The first active day of each account, ``none`` where there is none. (A,)"""
        return self._at(self.edges[:-1], none)

    def last(self, none: int) -> Ints:
        """The last active day of each account, ``none`` where there is none. (A,)"""
        return self._at(self.edges[1:] - 1, none)

    def _at(self, place: Ints, none: int) -> Ints:
        if not len(self.day):
            return np.full(len(self), none, dtype=np.int64)
        return np.where(self.count > 0, self.day.take(place, mode="clip"), none)

    def until(self, day: Ints) -> DaySets:
        """As it was known at the end of each account's ``day`` (A,)."""
        if (self.last(_LONG_AGO) <= day).all():
            return self
        seen = self.day <= day[self.account]
        return DaySets(account=self.account[seen], day=self.day[seen], start=self.start)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How much time had passed for the fleet by the end of each day from ``first`` on; before and after it a day is a
    day."""

    first: int
    passed: Floats

    @classmethod
    def plain(cls) -> Clock:
        return cls(first=0, passed=np.zeros(1))

    def at(self, day: Ints) -> Floats:
        """The fleet's time at the end of ``day``; same shape."""
        if day.size > _MANY:
            low, high = int(day.min()), int(day.max())
            if high - low < day.size - 1:  # else it is the table
                return np.asarray(self.at(np.arange(low, high + 1)).take(day - low), dtype=np.float64)
        place = np.clip(day - self.first, 0, len(self.passed) - 1)
        moment: Floats = self.passed[place] + (day - self.first - place)
        return moment

    def observed(self, first: int, share: Floats) -> Clock:
        """The same clock, but a day from ``first`` on passes only as far as it was observed (0 to 1 each)."""
        days = np.arange(first - 1, first + len(share))
        return Clock(first=first, passed=self.at(days[:1]) + np.cumsum(np.diff(self.at(days)) * share))


def population_clock(active: Ints, standing: Ints, first: int) -> Clock:
    """From how many accounts were ``active``, of how many ``standing``, on each of D days from day ``first`` on.

    A day counts its active share against that of the CLOCK_DAYS days before it; the first of them count in full.
    Shares, so that newly won accounts do not hurry the clock. A steady weekly pattern, like quiet Sundays, moves it as
    well: a Sunday's silence says less than a Monday's. Where few are active on a day their number says little, and
    least of all may an account stop the clock by its own silence: CLOCK_PRIOR accounts that are as active as ever are
    counted with them.
    """
    actives = np.concatenate([[0.0], np.cumsum(active, dtype=np.float64)])
    stood = np.concatenate([[0.0], np.cumsum(standing, dtype=np.float64)])
    days = np.arange(len(active))
    begin = np.maximum(days - CLOCK_DAYS, 0)
    usual = (actives[days] - actives[begin]) / np.maximum(stood[days] - stood[begin], 1.0)
    share = (active + CLOCK_PRIOR) / (usual * standing + CLOCK_PRIOR)
    return Clock(first=first, passed=np.cumsum(np.where(days < CLOCK_DAYS, 1.0, np.clip(share, *CLOCK_LIMITS))))


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What all accounts say together, fixed at the close of a day: versioned, so that a score can be reproduced.

    ``tails`` (BUCKETS, H): share of the pauses of that bucket that outlasted 0, 1, 2 … days. ``mean_pause`` in days,
    ``base_rate`` of leaving within 28 days, ``intercept`` the number that makes the mean probability equal to it.
    ``recent_days``: over how many days active days are counted. ``features`` are those in use: what an account could
    have used, too.
    """

    tails: Floats
    mean_pause: float
    base_rate: float
    intercept: float
    clock: Clock = field(default_factory=Clock.plain)
    recent_days: int = RECENT_DAYS
    features: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """One entry per account, at the end of a day.

    ``silence`` and ``usual_pause`` in days of the fleet's clock; ``tail`` the chance that a pause of this account
    outlasts the silence; ``probability`` of leaving within 28 days; ``odds`` against the average account's; ``score``
    0 to 100, 70 at average odds. ``parts`` are what the odds are made of: contributions to their logarithm.
    """

    silence: Floats
    usual_pause: Floats
    tail: Floats
    active_days: Ints
    recent_days: Ints
    probability: Floats
    odds: Floats
    score: Floats
    parts: Mapping[str, Floats]


def _shipped() -> Fleet:
    """Pauses that fall off evenly from DEFAULT_MEAN_PAUSE on, slower in the buckets of slower rhythms; an account of
    that rhythm with ten active days of the last 28 stands at average odds."""
    usual = np.array([1, *BUCKET_BORDERS, DEFAULT_MEAN_PAUSE])
    tails = np.exp(-np.arange(HORIZON_DAYS + 1) / usual[:, None])
    typical = AGE_WEIGHT * np.log1p(60) + RECENT_WEIGHT * np.log1p(10)
    logit = np.log(DEFAULT_BASE_RATE / (1 - DEFAULT_BASE_RATE))
    return Fleet(
        tails=tails, mean_pause=DEFAULT_MEAN_PAUSE, base_rate=DEFAULT_BASE_RATE, intercept=float(logit - typical)
    )


SHIPPED: Final = _shipped()
"""Until a fleet has been learnt."""


def rhythm(active: DaySets, day: Ints, fleet: Fleet) -> Rhythm:
    """The rhythm of each account at the end of its ``day`` (A,), from what happened until then."""
    seen = active.until(day)
    count, recent = seen.count, _recent(seen, day - fleet.recent_days, fleet.recent_days)
    silence = _silence(seen, day, fleet.clock)
    usual, own, weight = _weighed(seen, fleet, silence)
    bucket = np.where(count < 2, NEWCOMERS, bucket_of(usual))
    tail = (PRIOR_TAIL * _tail(fleet.tails, bucket, silence) + own) / (PRIOR_TAIL + weight)
    beyond = np.log(np.maximum(silence / fleet.recent_days, 1.0))
    parts = {
        "silence": TAIL_WEIGHT * -np.log(np.maximum(tail, TAIL_FLOOR)) + LONG_SILENCE_WEIGHT * beyond,
        "age": AGE_WEIGHT * np.log1p(count),
        "recent": RECENT_WEIGHT * np.log1p(recent),
    }
    z = fleet.intercept + sum(parts.values())
    ratio = np.exp(z) * (1 - fleet.base_rate) / fleet.base_rate
    return Rhythm(
        silence=silence,
        usual_pause=usual,
        tail=tail,
        active_days=count,
        recent_days=recent,
        probability=1 / (1 + np.exp(-z)),
        odds=ratio,
        score=np.clip(POINTS_AT_BASE - POINTS_PER_DOUBLING * np.log2(ratio), 0, 100),
        parts=parts,
    )


def bucket_of(usual: Floats) -> Ints:
    """The bucket of accounts with such a usual pause, once they have two active days."""
    return np.searchsorted(BUCKET_BORDERS, usual).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """The pauses between active days, P rows ascending by account and time. ``number``: how many came before it;
    ``of`` (A,): how many the account has."""

    account: Ints
    length: Floats
    number: Ints
    total: Ints

    @classmethod
    def of(cls, active: DaySets, clock: Clock) -> Pauses:
        same = active.account[1:] == active.account[:-1]
        account = active.account[1:][same]
        moments = clock.at(active.day)
        total = np.bincount(account, minlength=len(active))
        first = np.cumsum(total) - total
        return cls(
            account=account,
            length=(moments[1:] - moments[:-1])[same],
            number=np.arange(len(account)) - first[account],
            total=total,
        )

    @property
    def weight(self) -> Floats:
        return np.asarray(DECAY ** (self.total[self.account] - 1 - self.number), dtype=np.float64)

    def usual(self, mean: float) -> Floats:
        """The usual pause of each account. (A,)."""
        weight = np.bincount(self.account, weights=self.weight, minlength=len(self.total))
        length = np.bincount(self.account, weights=self.weight * self.length, minlength=len(self.total))
        usual: Floats = (PRIOR_PAUSES * mean + length) / (PRIOR_PAUSES + weight)
        return usual

    def usual_before(self, mean: float) -> Floats:
        """The usual pause of each pause's account as it was before it. (P,)."""
        length, weight = np.zeros(len(self.account)), np.zeros(len(self.account))
        order = np.argsort(-self.total, kind="stable")
        number = self.total[order]
        place = (np.cumsum(self.total) - self.total)[order]
        # Pause by pause of all accounts at once: sums that grow by 1 / DECAY each lose all digits in long histories.
        for step in range(1, int(number[0]) if len(number) else 0):
            now = place[: np.searchsorted(-number, -step)] + step
            length[now] = DECAY * length[now - 1] + self.length[now - 1]
            weight[now] = DECAY * weight[now - 1] + 1
        usual: Floats = (PRIOR_PAUSES * mean + length) / (PRIOR_PAUSES + weight)
        return usual


_LONG_AGO: Final = -(10**6)
_FAR_AHEAD: Final = 10**6
_PART: Final = 16_384
_MANY: Final = 4096
"""From so many on, a table of what stands on each day costs less than to work it out for each."""


def _weighed(seen: DaySets, fleet: Fleet, silence: Floats) -> tuple[Floats, Floats, Floats]:
    """The usual pause of each account, the weight of its pauses that were longer than its ``silence``, and the weight
    of all of them. All (A,)."""
    powers: Floats = np.power(DECAY, np.arange(int(seen.count.max(initial=1)), dtype=np.float64))
    everything = np.append(0.0, np.cumsum(powers))[np.maximum(seen.count - 1, 0)]
    if not len(seen.day):
        return np.full(len(seen), fleet.mean_pause), np.zeros(len(seen)), everything
    outlasting = _Outlasting.of(silence)
    total, own = np.zeros(len(seen)), np.where(outlasting.always, outlasting.share * everything, 0.0)
    low = int(seen.first(_FAR_AHEAD).min())
    moments = fleet.clock.at(np.arange(low, int(seen.last(_LONG_AGO).max()) + 1))
    begin = 0
    while begin < len(seen):  # a part at a time, so that what is made of its days stays in the processor's cache
        end = int(np.searchsorted(seen.edges, seen.edges[begin] + _PART, "right")) - 1
        some = slice(begin, min(max(end, begin + 1), len(seen)))
        rows, weight, length = _pauses(seen, some, powers, moments, low)
        begun = np.flatnonzero(seen.count[some])
        total[some][begun] = np.add.reduceat(weight * length, (seen.edges[some] - rows.start)[begun])
        longer = np.flatnonzero(length > np.repeat(outlasting.edge[some], seen.count[some]))
        account = seen.account[rows][longer]
        counted = weight[longer] * outlasting.shares(account, length[longer])
        own[some] += np.bincount(account - begin, weights=counted, minlength=some.stop - begin)
        begin = some.stop
    return (PRIOR_PAUSES * fleet.mean_pause + total) / (PRIOR_PAUSES + everything), own, everything


def _pauses(seen: DaySets, some: slice, powers: Floats, moments: Floats, low: int) -> tuple[slice, Floats, Floats]:
    """The rows of some accounts, and what each active day says of the pause that it ended: its weight and length. An
    account's first one ended none, and weighs nothing."""
    edges, count = seen.edges[some.start : some.stop + 1], seen.count[some]
    rows = slice(int(edges[0]), int(edges[-1]))
    edges = edges - rows.start
    weight = powers.take(np.repeat(edges[1:] - 1, count) - np.arange(edges[-1]))
    at = moments.take(seen.day[rows] - low)
    length = np.empty_like(at)
    np.subtract(at[1:], at[:-1], out=length[1:])
    firsts = edges[:-1][count > 0]
    weight[firsts] = length[firsts] = 0
    return rows, weight, length


@dataclass(frozen=True, kw_only=True)
class _Outlasting:
    """How far pauses count as longer than a silence, all (A,). Within the silence's own bin they count by ``share``, as
    if they were spread over it evenly, and in full when longer than ``high``. In the first bin all are, at least: of
    them (``always``) the share needs no look. Up to ``edge`` no pause adds anything."""

    share: Floats
    high: Floats
    always: Bools
    edge: Floats

    @classmethod
    def of(cls, silence: Floats) -> _Outlasting:
        place = np.searchsorted(BIN_BORDERS, silence, side="right") - 1
        low, high = BIN_BORDERS[np.minimum(place, BINS - 1)], BIN_BORDERS[np.minimum(place + 1, BINS)]
        share = np.clip((high - silence) / (high - low), 0, 1)
        high = np.where(place >= BINS - 1, np.inf, high)  # the last bin has no end
        edge = np.where(place == 0, np.where(share < 1, high, np.inf), np.where(place < BINS, low, np.inf))
        return cls(share=share, high=high, always=place == 0, edge=edge)

    def shares(self, account: Ints, length: Floats) -> Floats:
        """Of pauses above the edge."""
        share = self.share[account]
        return np.where(self.always[account], 1 - share, np.where(length > self.high[account], 1.0, share))


def _recent(seen: DaySets, after: Ints, most: int) -> Ints:
    """How many active days each account has ``after`` a day (A,); they can be ``most``. (A,)"""
    back = np.arange(min(most, int(seen.count.max(initial=0))))
    days = seen.day.take(seen.edges[1:, None] - 1 - back, mode="clip") if len(back) else np.zeros((len(seen), 0))
    return np.asarray(((back < seen.count[:, None]) & (days > after[:, None])).sum(axis=1), dtype=np.int64)


def _silence(seen: DaySets, day: Ints, clock: Clock) -> Floats:
    last = np.where(seen.count > 0, seen.last(0), seen.start)
    passed: Floats = np.maximum(clock.at(day) - clock.at(last), 0.0)
    return passed


def _tail(tails: Floats, bucket: Ints, silence: Floats) -> Floats:
    """Between whole days by line; beyond the last one as there."""
    low = np.minimum(silence.astype(np.int64), tails.shape[1] - 2)
    part = np.clip(silence - low, 0, 1)
    between: Floats = tails[bucket, low] * (1 - part) + tails[bucket, low + 1] * part
    return between
