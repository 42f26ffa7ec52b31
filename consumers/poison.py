"""When to stop a partition because too much of it cannot be read: a producer that was deployed broken floods the dead
letters, and every one of them is an event that people would have to mend by hand. Pure.

Two signs: so many dead letters in a row, or a share of the last records. The share is judged over a window of at least
``window`` records, so that one bad record in a quiet partition stops nothing. What was seen is kept in memory only. A
consumer that starts anew forgets it, and so does a partition that is released: at most one more window, or one more
run, becomes dead letters before the partition stops again, and each of them is kept with its bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

POISON: Final = "poison: "
"""Begins the reason of a partition stopped for this: it stays stopped until somebody releases it, whoever holds it."""

WINDOW: Final = 1_000
SHARE: Final = 0.01
IN_A_ROW: Final = 100


@dataclass(frozen=True, kw_only=True)
class PoisonLimits:
    """A partition stops at ``in_a_row`` dead letters in a row, or above ``share`` of the last ``window`` records."""

    share: float = SHARE
    window: int = WINDOW
    in_a_row: int = IN_A_ROW


@dataclass(kw_only=True)
class _Seen:
    """Batches of (records, dead letters), the newest last, that together hold the window or more; sums of both."""

    batches: deque[tuple[int, int]] = field(default_factory=deque)
    records: int = 0
    letters: int = 0
    run: int = 0  # dead letters since the last record that could be read


class Poison:
    """One partition's recent past, batch by batch."""

    def __init__(self, limits: PoisonLimits) -> None:
        self._limits = limits
        self._seen = _Seen()

    def saw(self, records: int, letters: Sequence[int]) -> str | None:
        """A stored batch of so many records; ``letters``: the places among them, rising, of those that became dead
        letters. The reason to stop the partition, or None."""
        longest = self._longest_run(records, letters)
        seen = self._seen
        seen.batches.append((records, len(letters)))
        seen.records += records
        seen.letters += len(letters)
        while seen.records - seen.batches[0][0] >= self._limits.window:
            past_records, past_letters = seen.batches.popleft()
            seen.records -= past_records
            seen.letters -= past_letters
        if longest >= self._limits.in_a_row:
            return f"{POISON}{longest} records in a row became dead letters"
        if seen.records >= self._limits.window and seen.letters > self._limits.share * seen.records:
            share = 100 * seen.letters / seen.records
            return f"{POISON}{seen.letters} of the last {seen.records} records ({share:.1f} %) became dead letters"
        return None

    def _longest_run(self, records: int, letters: Sequence[int]) -> int:
        """Of dead letters in a row, that of the batches before included."""
        longest = run = self._seen.run
        after = 0  # the place after the last dead letter
        for place in letters:
            run = run + 1 if place == after else 1
            longest = max(longest, run)
            after = place + 1
        self._seen.run = run if after == records else 0
        return longest if letters else 0


def places(offsets: Sequence[int], bad: Collection[int]) -> list[int]:
    """The places in ``offsets`` of those in ``bad``."""
    return [place for place, offset in enumerate(offsets) if offset in bad] if bad else []
