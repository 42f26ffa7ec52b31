"""Dates of rules that were found today, so that an event that moves none of them costs no look at the past.

An event of today moves no date that lies before today, unless it moves what the rule's signals were made from at past
midnights: the last login, the counts of past days, and so on; most events touch one of them only. So a date before
today's midnight stays as long as that does, on the same day. Only signals whose print is told here are remembered, so
that in doubt a date is found anew. A memory of one evaluator alone: without it the same dates are found again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np

from alerts.rules import Rule
from health.arrays import Bools, Ints
from health.catalogue import WINDOWS, SignalRef
from health.columns import Facts
from health.custom import CustomSignal
from health.gaps import Observed
from health.instants import from_us

MOST_KEPT: Final = 100_000
"""Some 50 MB."""

Print = Callable[[int], Hashable]
"""What a signal at past midnights is made from, of the account at a place."""
Dates = dict[tuple[str, str], tuple[Hashable, datetime]]
"""By the rule's version and the account, each with a print of what it was made from."""


@dataclass(kw_only=True)
class Memory:
    """The dates of one day (UTC), of one evaluator."""

    day_us: int = 0
    dates: Dates = field(default_factory=dict)

    def on(self, day_us: int) -> Dates:
        if day_us != self.day_us or len(self.dates) > MOST_KEPT:
            self.dates.clear()
            self.day_us = day_us
        return self.dates


LAST: Final = {"days_since_login": "last_login_at", "days_since_activity": "last_activity_at"}
"""Signals that count from one instant, after which alone they are known, and the column that has it."""
_COUNTED: Final = {
    **{f"logins_{days}d": "logins" for days in WINDOWS},
    **{f"events_{days}d": "events" for days in WINDOWS},
    **{f"active_days_{days}d": "active" for days in WINDOWS},
    **dict.fromkeys(("usage_change_28d", "usage_change_7d_28d", "usage_change_28d_year"), "events"),
}
_OF_FEATURE: Final = frozenset({"feature_used", "days_since_feature"})
_OF_CHAMPION: Final = frozenset({"champion_gone", "champion_silent_days"})
_OF_SURVEYS: Final = frozenset({"nps_last", "nps_detractor", "csat_last", "days_since_survey"})


class Remembered:
    """Those dates, as they concern the accounts of ``facts``; ``umbrella`` (A,)."""

    def __init__(
        self, memory: Memory, facts: Facts, umbrella: Bools, observed: Observed, custom: Mapping[str, CustomSignal]
    ) -> None:
        self._memory, self._facts, self._umbrella, self._custom = memory, facts, umbrella, custom
        # At midnight itself, and before the position has passed it, what it shows may still move.
        self._settled = facts.now_us > facts.today_us and observed.through_us >= facts.today_us
        self._same_for_all = hash((observed.gaps, facts.days))  # the gaps themselves would be kept, anew of each batch
        self._parts: dict[str, list[Print] | None] = {}

    def date_of(self, rule: Rule, place: int) -> datetime | None:
        """Of a rule that holds: since when, if that is known and the same still."""
        found = self._dates.get((rule.version, self._facts.account_ids[place])) if self._settled else None
        return found[1] if found is not None and found[0] == self._print(rule, place) else None

    def remember(self, rule: Rule, place: int, at: datetime) -> None:
        if self._settled and at <= from_us(self._facts.today_us):
            printed = self._print(rule, place)
            if printed is not None:
                self._dates[rule.version, self._facts.account_ids[place]] = printed, at

    @property
    def _dates(self) -> Dates:
        return self._memory.on(self._facts.today_us)

    def _print(self, rule: Rule, place: int) -> Hashable:
        if rule.version not in self._parts:
            self._parts[rule.version] = self._parts_of(rule)
        parts = self._parts[rule.version]
        if parts is None:
            return None
        own = tuple(part(place) for part in parts)
        return (self._same_for_all, int(self._facts.start[place]), bool(self._umbrella[place]), own)

    def _parts_of(self, rule: Rule) -> list[Print] | None:
        parts: dict[str, Print] = {}
        for ref in sorted(rule.when.refs, key=str):
            made_from = _COUNTED.get(ref.name, str(ref))
            part = None if ref.name in self._custom else parts.get(made_from) or self._part(ref)
            if part is None:
                return None
            parts[made_from] = part
        return list(parts.values())

    def _part(self, ref: SignalRef) -> Print | None:
        facts = self._facts
        if ref.name == "days_since_start":
            return lambda _: None
        if ref.name in LAST:
            last = getattr(facts, LAST[ref.name])
            return lambda place: int(last[place])
        if ref.name in _COUNTED:
            days = getattr(facts, _COUNTED[ref.name])
            return lambda place: hash(days[place, :-1].tobytes())
        if ref.name in _OF_CHAMPION:
            return _of_users(facts)
        if ref.name in _OF_FEATURE:
            return _rows(
                len(facts), facts.features, facts.features.among("name", (ref.argument,)), "first_at", "last_at"
            )
        if ref.name in _OF_SURVEYS:
            return _rows(len(facts), facts.surveys, slice(None), "at", "nps", "csat")
        return None


def _of_users(facts: Facts) -> Print:
    """Users are read less far back than dates look. But whatever a user did counts among the events of its day, so
    that these tell of a change further back; only an erased user who was last seen before then goes unnoticed for
    today."""

    edges = _edges(facts.users.account, len(facts))

    def part(place: int) -> Hashable:
        if not facts.events[place].any():
            return object()  # like nothing else: counts were not read
        marks = facts.users.active[edges[place] : edges[place + 1], :-1]
        users = hash(tuple(sorted(user.tobytes() for user in marks)))  # they are read in no order
        return users, hash(facts.events[place, :-1].tobytes())

    return part


def _rows(size: int, rows: Any, chosen: Any, *columns: str) -> Print:
    """The ``chosen`` rows of an account."""
    edges = _edges(rows.account[chosen], size)
    values = np.stack([getattr(rows, column)[chosen].view(np.int64) for column in columns], axis=1)
    return lambda place: values[edges[place] : edges[place + 1]].tobytes()


def _edges(account: Ints, size: int) -> list[int]:
    """Where the rows of each account begin, and the end."""
    edges: list[int] = np.searchsorted(account, np.arange(size + 1)).tolist()
    return edges
