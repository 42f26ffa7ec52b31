"""Made-up companies for the rhythm: when each of their accounts was active, and on which day it left for good."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.learning import STANDS, Page, Pages
from health.rhythm import DaySets

DAYS = 400


class Company:
    """A accounts over DAYS; ``leaves`` (A,): the day from which each is gone. Who is gone says nothing."""

    def __init__(self, active: Bools, leaves: Ints) -> None:
        days = np.arange(DAYS)
        self.grid: Bools = active & (days < leaves[:, None])
        self.leaves = leaves
        account, day = np.nonzero(self.grid)
        self.days = DaySets(account=account, day=day, start=np.zeros(len(leaves), dtype=np.int64))

    def pages(self, day: int = DAYS) -> Pages:
        ends = np.full(len(self.leaves), STANDS)
        page = Page(active=self.days.until(np.full(len(ends), day)), ends=ends)
        return lambda: [page]

    def silence(self, day: int) -> Ints:
        seen = self.days.until(np.full(len(self.leaves), day))
        last = np.zeros(len(self.leaves), dtype=np.int64)
        np.maximum.at(last, seen.account, seen.day)
        return day - last


def company(
    seed: int, accounts: int, chance: Callable[[np.random.Generator], Floats], *, monthly_loss: float | Floats
) -> Company:
    """``chance(random)``: of each account being active on each day, (A, DAYS) or (A, 1)."""
    random = np.random.default_rng(seed)
    of_day = np.broadcast_to(chance(random), (accounts, DAYS))
    leaves = random.geometric(np.maximum(monthly_loss, 1e-9) / 28, accounts)
    return Company(random.random((accounts, DAYS)) < of_day, leaves)


def weekdays_only() -> Bools:
    """(DAYS,): five days of seven."""
    return np.arange(DAYS) % 7 < 5
