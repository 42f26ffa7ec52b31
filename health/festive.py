"""Public holidays of the fleet: on one, a source is compared with Sundays, lest a holiday look like an outage.

Pure: the guard (``health/observed.py``) reads where a sample of the accounts is, once a UTC day. Accounts without a
known country keep no holidays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

import numpy as np

from health.arrays import Floats, Ints
from health.days import Places, business, known_country, known_zone
from health.instants import HOUR, to_us

LEAST_SHARE: Final = 0.01
"""Places of fewer accounts are left out."""
EPOCH_WEEKDAY: Final = 3
"""1970 began on a Thursday."""
SATURDAY: Final = 5

Share = tuple[str, str, float]
"""Country, time zone, and the share of accounts that are there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StandIn:
    """For a share of the accounts, hours of a holiday stand for those of the Sunday before: ``weight`` (H,) is that
    share, 0 outside of holidays; ``back`` (H,) how many hours to go back."""

    weight: Floats
    back: Ints

    def part(self, size: int) -> StandIn:
        """Of the first ``size`` hours."""
        return StandIn(weight=self.weight[:size], back=self.back[:size])


def shares(counted: Sequence[tuple[str | None, str | None, int]]) -> tuple[Share, ...]:
    """(country, zone, accounts) as shares of all, without places whose holidays are not known."""
    total = sum(accounts for _, _, accounts in counted)
    held: dict[tuple[str, str], int] = {}
    for country, zone, accounts in counted:
        if code := known_country(country):
            place = (code, known_zone(zone))
            held[place] = held.get(place, 0) + accounts
    return tuple(
        (country, zone, accounts / total)
        for (country, zone), accounts in sorted(held.items())
        if accounts >= LEAST_SHARE * total
    )


@lru_cache(maxsize=8)
def stand_ins(where: tuple[Share, ...], begin: datetime, size: int) -> tuple[StandIn, ...]:
    """For the ``size`` hours from ``begin``; places without a holiday among them are left out."""
    at = to_us(begin) + np.arange(size, dtype=np.int64) * HOUR
    made = []
    for country, zone, share in where:
        one = Places.of(np.array([zone], dtype=object), np.array([country], dtype=object))
        dates = one.dates(at[None, :])[0]
        weekday = (dates + EPOCH_WEEKDAY) % 7
        works = business(country, int(dates[0]), int(dates[-1]))[dates - dates[0]]
        off = (weekday < SATURDAY) & ~works
        if off.any():
            made.append(StandIn(weight=np.where(off, share, 0.0), back=(weekday + 1) % 7 * 24))
    return tuple(made)
