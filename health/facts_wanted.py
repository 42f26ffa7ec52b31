"""Which facts some signals need, and how many days of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from health.catalogue import SIGNALS, WINDOWS, Signal, SignalRef
from health.custom import NONE, CustomSignal
from health.signals.table import defined
from health.signals.view import Definition

LOOK_BACK_DAYS: Final = 36
"""Room in the day arrays before the longest window, to look back for when an episode began."""
LIVE_DAYS: Final = 2
"""Room where nothing is dated: whether a window can still change is told by the days just before it, too."""
LEAST_DAYS: Final = 92
"""Of the day arrays, and of how far back surveys, tickets and payments are complete."""
RHYTHM_DAYS: Final = 1100
"""How far back days of activity are read for the rhythm: three years, after which a pause hardly weighs any more."""

Known = tuple[Signal, Definition | None]

_MARKS: Final = frozenset({"user_months", "feature_months"})
_OF_LOGINS: Final = frozenset(f"logins_{days}d" for days in WINDOWS)
_OF_MARKED_DAYS: Final = frozenset(f"active_days_{days}d" for days in WINDOWS)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """``parts`` are words of the catalogue's ``needs``; ``days`` those of the day arrays. Of what has a row a user or
    feature, which is much, no more than ``mark_days`` are read, as their own signals look back. ``counts``: whether
    the months are read, with which of their columns ``logins`` and ``events``; ``rhythm``: whether their active days
    are, as far back as rhythms look. ``known``: since when attributes stand, too.
    """

    parts: frozenset[str]
    days: int
    mark_days: int
    counts: bool
    logins: bool
    events: bool
    rhythm: bool
    known: bool

    @classmethod
    def of(
        cls,
        refs: frozenset[SignalRef],
        custom: Mapping[str, CustomSignal] = NONE,
        *,
        days: int = 0,
        history: bool = False,
        rhythm: bool = True,
    ) -> Wanted:
        """What ``refs`` need, and at least ``days`` of it. With ``history`` all goes as far back as the day arrays."""
        if any(ref.name in custom for ref in refs):
            return _of([defined(ref, custom) for ref in refs], days, history, rhythm)
        return _of_catalogue(refs, days, history, rhythm)


@lru_cache(64)
def _of_catalogue(refs: frozenset[SignalRef], days: int, history: bool, rhythm: bool) -> Wanted:
    return _of([defined(ref, NONE) for ref in refs], days, history, rhythm)


def _of(chosen: Sequence[Known], days: int, history: bool, rhythm: bool) -> Wanted:
    days = max(days, _reach(d for _, d in chosen))
    counted = [s for s, _ in chosen if "account_months" in s.needs and "fleets" not in s.needs]
    columns = {s.name for s in counted if SIGNALS.get(s.name) is s}  # those of configuration read their own days
    return Wanted(
        parts=frozenset(part for signal, _ in chosen for part in signal.needs),
        days=days,
        mark_days=days if history else _reach((d for s, d in chosen if not _MARKS.isdisjoint(s.needs)), LIVE_DAYS),
        counts=bool(counted),
        logins=not columns.isdisjoint(_OF_LOGINS),
        events=not columns <= _OF_LOGINS | _OF_MARKED_DAYS,
        rhythm=rhythm and any({"account_months", "fleets"} <= set(signal.needs) for signal, _ in chosen),
        known=history,
    )


def _reach(definitions: Iterable[Definition | None], room: int = LOOK_BACK_DAYS) -> int:
    reach = max((d.days_read for d in definitions if d is not None), default=0)
    return max(LEAST_DAYS, reach + room)
