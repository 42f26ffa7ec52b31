"""How far a partition is complete, told without any producer's clock. Pure.

A record's time is its producer's and may lie anywhere. What we know ourselves is where the log ended when we asked:
once that end is reached, everything that the broker had at that moment is applied.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Final

MOST_ENDS: Final = 900
"""Ends kept of a partition that is far behind: a quarter of an hour. Later ones are left out until these come."""


class Reach:
    """The ends of one partition's log that were seen and are not reached yet."""

    def __init__(self) -> None:
        self._ends: deque[tuple[int, datetime]] = deque()  # (end, asked at), both rising

    def seen(self, end: int, asked_at: datetime) -> None:
        """The log ended at ``end`` when it was asked, which was not before ``asked_at``."""
        if self._ends and self._ends[-1][0] >= end:
            end, _ = self._ends.pop()
        if len(self._ends) < MOST_ENDS:
            self._ends.append((end, asked_at))

    def complete_through(self, reached: int) -> datetime | None:
        """Everything below ``reached`` is applied: until when that is everything. None: no later than was said."""
        through = None
        while self._ends and self._ends[0][0] <= reached:
            _, through = self._ends.popleft()
        return through
