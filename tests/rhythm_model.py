"""The rhythm rule as it is written down: one account, walked day by day, with running state."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection
from dataclasses import dataclass

from health import rhythm as r
from health.rhythm import Fleet

BORDERS = r.BIN_BORDERS.tolist()


@dataclass(frozen=True, kw_only=True)
class Walked:
    silence_ratio: float
    usual_pause: float
    tail: float
    log_odds: float

    def ratio(self, fleet: Fleet) -> float:
        return math.exp(self.log_odds) * (1 - fleet.base_rate) / fleet.base_rate


def walk(days: Collection[int], day: int, fleet: Fleet, *, start: int = 0,
         moment: Callable[[int], float] = float) -> Walked:  # fmt: skip
    """At the end of ``day``. ``moment``: the clock at the end of a day."""
    bins, number, total, last, count = [0.0] * r.BINS, 0.0, 0.0, start, 0
    for d in sorted(x for x in days if x <= day):
        if count:
            pause = moment(d) - moment(last)
            bins = [r.DECAY * h for h in bins]
            bins[max(0, bisect_left(BORDERS, pause) - 1)] += 1
            number, total = r.DECAY * number + 1, r.DECAY * total + pause
        last, count = d, count + 1
    silence = max(0.0, moment(day) - moment(last))
    usual = (2 * fleet.mean_pause + total) / (2 + number)
    bucket = r.NEWCOMERS if count < 2 else bisect_left(r.BUCKET_BORDERS.tolist(), usual)
    own = sum(
        h * min(1.0, max(0.0, (high - silence) / (high - low)))
        for h, low, high in zip(bins, BORDERS, BORDERS[1:], strict=False)
    )
    below = min(int(silence), r.HORIZON_DAYS - 1)
    part = min(1.0, silence - below)
    fleets = fleet.tails[bucket, below] * (1 - part) + fleet.tails[bucket, below + 1] * part
    tail = (8 * fleets + own) / (8 + number)
    recent = sum(1 for d in days if day - fleet.recent_days < d <= day)
    z = fleet.intercept - 0.48 * math.log(max(tail, 0.01)) - 0.36 * math.log1p(count) - 0.67 * math.log1p(recent)
    z += math.log(max(silence / fleet.recent_days, 1))
    return Walked(silence_ratio=silence / usual, usual_pause=usual, tail=float(tail), log_odds=float(z))
