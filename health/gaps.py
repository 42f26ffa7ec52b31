"""Observed time: absence is only believed for time during which we looked. Pure.

``observed`` time is everything up to ``through`` but for the gaps that are open or lost; a refilled gap counts as
observed. A gap counts for the accounts that its source has ever sent events of (``seen_from``); one of every source for
all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from health.instants import ENDLESS, NEVER, Instants, to_us
from health.source_bits import ANY, source_bit

GapState = Literal["open", "refilled", "lost", "awaited"]
"""``awaited``, never stored: since the newest event of a source that delivers now and then, until its next delivery.
That time counts as silence for nobody, but holds nothing and leaves windows as they are."""

TOLERANCE = timedelta(seconds=120)
"""How old the position may be before absence rules are held."""


@dataclass(frozen=True)
class Gap:
    """Time during which ``source`` (None: every source) was not observed; ``until_at`` None: it goes on."""

    source: str | None
    from_at: datetime
    until_at: datetime | None
    state: GapState

    def __post_init__(self) -> None:
        to_us(self.from_at)
        if self.until_at is not None and to_us(self.until_at) < to_us(self.from_at):
            raise ValueError(f"the gap ends at {self.until_at} before it begins at {self.from_at}")


@dataclass(frozen=True)
class Observed:
    """What was observed: up to ``through`` (None: nobody can say), without the gaps."""

    through: datetime | None
    gaps: tuple[Gap, ...] = ()

    def __post_init__(self) -> None:
        if self.through is not None:
            to_us(self.through)

    @cached_property
    def through_us(self) -> int:
        """``NEVER`` when unknown."""
        return NEVER if self.through is None else to_us(self.through)

    @cached_property
    def _spans(self) -> tuple[Instants, Instants, Instants]:
        """Starts, lengths, and lengths before each start of the united open and lost gaps, in time order."""
        return _united([gap for gap in self.gaps if gap.state != "refilled"])

    def seen_from(self, sources: int) -> Observed:
        """As it matters to accounts with these ``sources`` (``source_bits``): without the gaps of all others."""
        if sources == ANY or all(gap.source is None for gap in self.gaps):
            return self
        return Observed(
            self.through, tuple(gap for gap in self.gaps if gap.source is None or source_bit(gap.source) & sources)
        )

    @cached_property
    def bits(self) -> int:
        """Those of all sources that have a gap."""
        bits = 0
        for gap in self.gaps:
            bits |= 0 if gap.source is None else source_bit(gap.source)
        return bits

    @cached_property
    def delivered(self) -> Observed:
        """The same as if no delivery were awaited."""
        if all(gap.state != "awaited" for gap in self.gaps):
            return self
        return Observed(self.through, tuple(gap for gap in self.gaps if gap.state != "awaited"))

    @cached_property
    def edges_us(self) -> Instants:
        """Starts and ends of the open and lost gaps."""
        starts, lengths, _ = self._spans
        return np.concatenate([starts, starts + lengths])

    @property
    def has_gaps(self) -> bool:
        return len(self._spans[0]) > 0

    @cached_property
    def ongoing_from_us(self) -> int | None:
        """Where the gap that still goes on begins, or None."""
        starts, lengths, _ = self._spans
        return int(starts[-1]) if len(starts) and lengths[-1] >= ENDLESS // 2 else None

    def held_since(self, now: datetime, *, tolerance: timedelta = TOLERANCE) -> datetime | None:
        """Since when the data is incomplete at ``now``; None while it is complete.

        The earliest of the gaps that go on and of a position older than ``tolerance``. A position that nobody can tell
        holds from ``now``.
        """
        causes = [gap.from_at for gap in self.gaps if gap.state == "open" and gap.until_at is None]
        if self.through is None:
            causes.append(now)
        elif now - self.through > tolerance:
            causes.append(self.through)
        return min(causes, default=None)

    @property
    def silent_sources(self) -> tuple[str, ...]:
        """Those whose gap goes on, by name."""
        going_on = {gap.source for gap in self.gaps if gap.state == "open" and gap.until_at is None}
        return tuple(sorted(source for source in going_on if source is not None))

    def unobserved_before(self, at: Instants) -> Instants:
        """Microseconds of gaps before each instant, whatever ``through`` is. Same shape as ``at``."""
        starts, lengths, before = self._spans
        if not len(starts):
            return np.zeros_like(at)
        place = np.searchsorted(starts, at, side="right") - 1
        inside = np.minimum(at - starts[place], lengths[place])
        return np.where(place < 0, 0, before[place] + inside)

    def instant_of(self, observed_position: Instants) -> Instants:
        """The first instant before which so much time lies outside of gaps (counted from the epoch); ENDLESS within
        the gap that goes on."""
        starts, lengths, before = self._spans
        if not len(starts):
            return observed_position
        passed = np.searchsorted(starts - before, observed_position, side="left")
        length_before = np.concatenate([before, before[-1:] + lengths[-1:]])[passed]
        at: Instants = np.minimum(observed_position + length_before, ENDLESS)
        return at

    def first_span_touching(self, start: int, end: int) -> bool:
        """Whether any open or lost gap has a part in (start, end)."""
        starts, lengths, _ = self._spans
        return bool(((starts < end) & (starts + lengths > start)).any())


def observed_microseconds(start: Instants, end: Instants, observed: Observed) -> Instants:
    """Observed time between ``start`` and ``end``, element by element, never negative; shapes broadcast."""
    until = np.minimum(end, observed.through_us)
    start, until = np.broadcast_arrays(start, until)
    elapsed = until - start - (observed.unobserved_before(until) - observed.unobserved_before(start))
    return np.where(until > start, elapsed, 0)


def observed_seconds(start: Instants, end: Instants, observed: Observed) -> npt.NDArray[np.float64]:
    """As ``observed_microseconds``, in seconds."""
    seconds: npt.NDArray[np.float64] = observed_microseconds(start, end, observed) / 1e6
    return seconds


def _united(gaps: Sequence[Gap]) -> tuple[Instants, Instants, Instants]:
    spans: list[tuple[int, int]] = []
    for start, end in sorted(
        (to_us(gap.from_at), ENDLESS if gap.until_at is None else to_us(gap.until_at)) for gap in gaps
    ):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        elif end > start:
            spans.append((start, end))
    starts = np.array([start for start, _ in spans], dtype=np.int64)
    lengths = np.array([end - start for start, end in spans], dtype=np.int64)
    return starts, lengths, np.cumsum(lengths) - lengths
