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
LEAST_DAYS: Final = 92
"""Of the day arrays, and of how far back surveys, tickets and payments are complete."""
RHYTHM_DAYS: Final = 1100
"""How far back days of activity are read for the rhythm: three years, after which a pause hardly weighs any more."""

Known = tuple[Signal, Definition | None]
Spans = tuple[tuple[int, int], ...]
"""Days back, from (today: 0) and to, excluded: of which a column of counts is read. Disjoint, newest first."""

_MARKS: Final = frozenset({"user_months", "feature_months"})
_RECORDS: Final = frozenset({"tickets", "payments", "surveys", "sessions"})
_OF_LOGINS: Final = frozenset(f"logins_{days}d" for days in WINDOWS)
_OF_MARKED_DAYS: Final = frozenset(f"active_days_{days}d" for days in WINDOWS)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """``parts`` are words of the catalogue's ``needs``; ``days`` those of the day arrays. What has a row a user,
    feature, ticket, … is much, so no more of it than its own signals look back: ``mark_days`` of users and features,
    ``record_days`` of tickets and the like. ``counts``: whether the months are read, ``logins`` and ``events`` of which
    days; ``rhythm``: whether their active days are, as far back as rhythms look. ``known``: since when attributes
    stand, too.
    """

    parts: frozenset[str]
    days: int
    mark_days: int
    record_days: int
    counts: bool
    logins: Spans
    events: Spans
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
        """What ``refs`` need. With ``history`` all of it goes as far back as the day arrays, at least ``days``."""
        if any(ref.name in custom for ref in refs):
            return _of([defined(ref, custom) for ref in refs], days, history, rhythm)
        return _of_catalogue(refs, days, history, rhythm)


@lru_cache(64)
def _of_catalogue(refs: frozenset[SignalRef], days: int, history: bool, rhythm: bool) -> Wanted:
    return _of([defined(ref, NONE) for ref in refs], days, history, rhythm)


def _of(chosen: Sequence[Known], days: int, history: bool, rhythm: bool) -> Wanted:
    days = max(days, _reach(d for _, d in chosen))
    counted = [(signal, d) for signal, d in chosen if "account_months" in signal.needs and "fleets" not in signal.needs]
    of_catalogue = [(signal, d) for signal, d in counted if SIGNALS.get(signal.name) is signal]
    logins = [d for signal, d in of_catalogue if signal.name in _OF_LOGINS]
    events = [d for signal, d in of_catalogue if signal.name not in _OF_LOGINS | _OF_MARKED_DAYS]
    return Wanted(
        parts=frozenset(part for signal, _ in chosen for part in signal.needs),
        days=days,
        mark_days=days if history else _reach(d for signal, d in chosen if not _MARKS.isdisjoint(signal.needs)),
        record_days=days if history else _reach(d for signal, d in chosen if not _RECORDS.isdisjoint(signal.needs)),
        counts=bool(counted),
        logins=_spans(logins, days if history else 0),
        events=_spans(events, days if history else 0),
        rhythm=rhythm and any({"account_months", "fleets"} <= set(signal.needs) for signal, _ in chosen),
        known=history,
    )


def _reach(definitions: Iterable[Definition | None]) -> int:
    reach = max((d.days_read for d in definitions if d is not None), default=0)
    return max(LEAST_DAYS, reach + LOOK_BACK_DAYS)


def _spans(definitions: Iterable[Definition | None], least: int) -> Spans:
    """The days of their windows, each with room before it; at least the last ``least`` days if there is any."""
    spans: list[tuple[int, int]] = []
    for definition in definitions:
        if definition is not None:
            length = definition.days_read if callable(definition.window_days) else definition.window_days or 0
            windows = ((length, 0), *definition.earlier)
            spans += [(before, before + days + LOOK_BACK_DAYS) for days, before in windows]
    if spans and least:
        spans.append((0, least))
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))
    return tuple(merged)
