"""Folds events into facts: one row per key and table, ready to be merged into what is stored. Pure.

``fold`` is the heart of the consumers' half of the road: decode → **fold** → store. Every cell merges commutatively
(sums, maxima, bits, last write by event time), so that the stored facts depend on the set of events alone, never on
their order or batching. Logins and usage are nearly all traffic: their path does no calendar arithmetic per event.

Column names and merges are those of ``health/tables.py``; they are repeated here as plain tuples so that this module
imports no database code, and ``consumers/store.py`` refuses to start when they differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from consumers import fold_records as discrete
from consumers.events import (
    Contact,
    Custom,
    Event,
    EventBase,
    Group,
    Identify,
    Login,
    Session,
    Subscription,
    Usage,
    thousandths,
)
from consumers.kinds import ERASED_USER
from consumers.registers import Registers, to_json
from health.source_bits import source_bit

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
IMPORTED: Final = "#import"
"""Behind a source's name in source_hours: its imported events, which say nothing of how much it sends by itself. No
source is named so. As in ``health/volume.py``."""
URGENT_KINDS: Final = frozenset({"payment", "ticket", "survey", "subscription"})

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "sources": ("source", "first_event_at", "last_event_at", "last_live_at"),
    "source_hours": ("source", "hour", "events"),
    "late_arrivals": ("account_id", "event_day", "arrival_day", "logins", "events"),
    "record_events": ("account_id", "kind", "record_id", "at", "event_key", "user_id", "data", "known_at"),
    "records": ("account_id", "kind", "record_id", "first_at", "last_at", "fields"),
    "feature_months": ("account_id", "month", "feature", "quantities", "active_days"),
    "features": ("account_id", "feature", "first_at", "last_at", "quantity"),
    "users": ("account_id", "user_id", "fields", "first_identified_at"),
    "user_months": ("account_id", "month", "user_id", "active_days", "last_at"),
    "account_months": ("account_id", "month", "logins", "events", "active_days"),
    "account_history": ("account_id", "attribute", "valid_from", "event_key", "value", "known_at"),
    "account_attributes": ("account_id", "fields"),
    "accounts": (
        "account_id", "first_event_at", "last_event_at", "started_at", "last_login_at", "last_activity_at",
        "last_contact_at", "events", "logins", "version", "changed_at", "imported_until", "sources",
    ),
}  # fmt: skip

Row = tuple[Any, ...]
"""A day array is a dict: place in the month from 0 -> count, zeros left out."""
Arrival = tuple[Event, int]
"""An event and when it reached us: the door's ``received_at``, else the broker's time; epoch µs."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What a batch adds: per table its rows in the order of ``COLUMNS``, one per key, sorted by key."""

    rows: Mapping[str, list[Row]]
    accounts: tuple[str, ...]  # sorted
    urgent: tuple[str, ...]  # sorted; had a payment, ticket, survey or subscription
    oldest_arrival: datetime | None
    kinds: Mapping[str, int]  # events per kind


@dataclass(slots=True)
class State:
    """What a batch has come to so far. Days and hours are numbers since 1970 (UTC) until the very end."""

    now: datetime
    # account: [first, last, started, last login, last activity, last contact, events, logins, imported, bits]
    accounts: dict[str, list[Any]] = field(default_factory=dict)
    days: dict[tuple[str, int], list[int]] = field(default_factory=dict)  # (account, day): [logins, events]
    user_months: dict[tuple[str, int, str], list[Any]] = field(default_factory=dict)  # month number: [bits, last]
    feature_days: dict[tuple[str, str, int], list[Any]] = field(default_factory=dict)  # [first, last, thousandths]
    late: dict[tuple[str, int, int], list[int]] = field(default_factory=dict)  # (account, day, arrival day)
    sources: dict[str, list[Any]] = field(default_factory=dict)  # [first, last, last live arrival in µs, bit]
    hours: dict[tuple[str, int], int] = field(default_factory=dict)
    records: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)  # [first, last, registers]
    record_events: dict[tuple[str, str, str, datetime, str], list[Any]] = field(default_factory=dict)
    users: dict[tuple[str, str], list[Any]] = field(default_factory=dict)  # [registers, first]
    attributes: dict[str, Registers] = field(default_factory=dict)
    history: dict[tuple[str, str, datetime, str], list[Any]] = field(default_factory=dict)  # [value, known at]
    urgent: set[str] = field(default_factory=set)
    kinds: Counter[type[EventBase]] = field(default_factory=Counter)
    oldest: int | None = None


@lru_cache(maxsize=4096)
def month_place(day: int) -> tuple[int, int]:
    """(number of the month since year 0, place of the day in it from 0) of a day number."""
    at = date.fromordinal(719163 + day)
    return at.year * 12 + at.month - 1, at.day - 1


def from_us(microseconds: int) -> datetime:
    """Exact, unlike ``datetime.fromtimestamp``."""
    return EPOCH + timedelta(microseconds=microseconds)


def to_us(at: datetime) -> int:
    """Epoch µs of an aware datetime, exact."""
    return (at - EPOCH) // timedelta(microseconds=1)


def arrival_us(event: EventBase, broker_ms: int) -> int:
    """When an event reached us: ``received_at`` when the door stamped it, else the broker's time of its record."""
    return broker_ms * 1000 if event.received_at is None else to_us(event.received_at)


def fold(arrivals: Iterable[Arrival], *, now: datetime) -> Fold:
    """Folds new (already deduplicated) events. ``now`` becomes ``changed_at`` and, for imports, ``imported_until``."""
    folding = Folding(now=now)
    folding.add(list(arrivals))
    return folding.finish()


class Folding:
    """The same in pieces of any size."""

    def __init__(self, *, now: datetime) -> None:
        self._state = State(now)

    def add(self, arrivals: Sequence[Arrival]) -> None:
        state, add = self._state, _add
        state.kinds.update([type(event) for event, _ in arrivals])
        for event, arrived in arrivals:
            add(state, event, arrived)

    def finish(self) -> Fold:
        return _finish(self._state)


def _add(state: State, event: Event, arrived: int) -> None:
    """Every event: the account's row and its source; then what its kind asks for."""
    at = event.timestamp
    kind = type(event)
    hour = int(at.timestamp() // 3600)
    if state.oldest is None or arrived < state.oldest:
        state.oldest = arrived

    row = state.accounts.get(event.account_id)
    if row is None:
        row = state.accounts[event.account_id] = [at, at, None, None, None, None, 0, 0, False, 0]
    elif at > row[1]:
        row[1] = at
    elif at < row[0]:
        row[0] = at

    source, hours = event.source, state.hours
    counted = source if event.import_id is None else source + IMPORTED
    hours[counted, hour] = hours.get((counted, hour), 0) + 1
    seen = state.sources.get(source)
    if seen is None:
        seen = state.sources[source] = [at, at, None, source_bit(source)]
    elif at > seen[1]:
        seen[1] = at
    elif at < seen[0]:
        seen[0] = at
    row[9] |= seen[3]
    if event.import_id is not None:
        row[8] = True
    elif seen[2] is None or arrived > seen[2]:
        seen[2] = arrived

    handle = _DISCRETE.get(kind)
    if handle is None:  # login, usage
        _activity(state, event, row, hour // 24, arrived)
    else:
        handle(state, event, arrived)
        if kind is Session or (kind is Custom and event.user_id is not None):
            _activity(state, event, row, hour // 24, arrived)


def _activity(state: State, event: Event, row: list[Any], day: int, arrived: int) -> None:
    """Something that the account's people did."""
    at, account_id, user_id = event.timestamp, event.account_id, event.user_id
    login = 1 if type(event) is Login else 0
    row[6] += 1
    if row[4] is None or at > row[4]:
        row[4] = at
    if login:
        row[7] += 1
        if row[3] is None or at > row[3]:
            row[3] = at

    counts = state.days.get((account_id, day))
    if counts is None:
        state.days[account_id, day] = [login, 1]
    else:
        counts[0] += login
        counts[1] += 1

    if user_id is not None and user_id != ERASED_USER:
        month, place = month_place(day)
        bits = state.user_months.get((account_id, month, user_id))
        if bits is None:
            state.user_months[account_id, month, user_id] = [1 << place, at]
        else:
            bits[0] |= 1 << place
            bits[1] = max(bits[1], at)

    if type(event) is Usage:
        _usage(state, event, day)

    arrival_day = arrived // 86_400_000_000
    if arrival_day > day and event.import_id is None:
        late = state.late.setdefault((account_id, day, arrival_day), [0, 0])
        late[0] += login
        late[1] += 1


def _usage(state: State, event: Usage, day: int) -> None:
    at, place = event.timestamp, (event.account_id, event.feature, day)
    amount = thousandths(event.quantity)
    used = state.feature_days.get(place)
    if used is None:
        state.feature_days[place] = [at, at, amount]
    else:
        used[2] += amount
        if at > used[1]:
            used[1] = at
        elif at < used[0]:
            used[0] = at


_DISCRETE: Final[Mapping[type[EventBase], Callable[[Any, Any, int], None]]] = {
    **dict.fromkeys(discrete.RECORD_IDS, discrete.record),
    Subscription: discrete.subscription,
    Contact: discrete.contact,
    Custom: discrete.custom,
    Identify: discrete.identify,
    Group: discrete.group,
}


def _finish(state: State) -> Fold:
    rows: dict[str, list[Row]] = {
        "sources": [
            (source, first, last, None if live is None else from_us(live))
            for source, (first, last, live, _) in sorted(state.sources.items())
        ],
        "source_hours": [
            (source, from_us(hour * 3_600_000_000), n) for (source, hour), n in sorted(state.hours.items())
        ],
        "late_arrivals": [
            (account, _day(day), _day(arrival), *sums) for (account, day, arrival), sums in sorted(state.late.items())
        ],
        "record_events": [(*key, *values) for key, values in _sorted(state.record_events)],
        "records": [(*key, first, last, to_json(fields)) for key, (first, last, fields) in _sorted(state.records)],
        "users": [(*key, to_json(fields), first) for key, (fields, first) in _sorted(state.users)],
        "user_months": [
            (account, _month(month), user, bits, last)
            for (account, month, user), (bits, last) in sorted(state.user_months.items())
        ],
        "account_months": _account_months(state),
        "account_history": [(*key, *values) for key, values in _sorted(state.history)],
        "account_attributes": [(account, to_json(fields)) for account, fields in _sorted(state.attributes)],
        "accounts": [
            (account, *values[:8], 1, state.now, state.now if values[8] else None, values[9])
            for account, values in _sorted(state.accounts)
        ],
    }
    rows["feature_months"], rows["features"] = _features(state)
    return Fold(
        rows=rows,
        accounts=tuple(row[0] for row in rows["accounts"]),
        urgent=tuple(sorted(state.urgent)),
        oldest_arrival=None if state.oldest is None else from_us(state.oldest),
        kinds={str(kind.__struct_config__.tag): count for kind, count in state.kinds.items()},
    )


def _sorted(rows: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return sorted(rows.items(), key=_key)


def _key(item: tuple[Any, Any]) -> Any:
    return item[0]


def _account_months(state: State) -> list[Row]:
    months: dict[tuple[str, int], list[Any]] = {}
    for (account, day), (logins, events) in _sorted(state.days):
        month, place = month_place(day)
        row = months.get((account, month))
        if row is None:
            row = months[account, month] = [{}, {}, 0]
        if logins:
            row[0][place] = logins
        row[1][place] = events
        row[2] |= 1 << place
    return [(account, _month(month), *values) for (account, month), values in months.items()]


def _features(state: State) -> tuple[list[Row], list[Row]]:
    """Rows of feature_months and of features."""
    months: dict[tuple[str, int, str], list[Any]] = {}
    totals: dict[tuple[str, str], list[Any]] = {}
    for (account, feature, day), (first, last, amount) in _sorted(state.feature_days):
        month, place = month_place(day)
        row = months.get((account, month, feature))
        if row is None:
            row = months[account, month, feature] = [{}, 0]
        if amount:
            row[0][place] = amount
        row[1] |= 1 << place
        total = totals.get((account, feature))
        if total is None:
            totals[account, feature] = [first, last, amount]
        else:  # days come in order
            total[1] = last
            total[2] += amount
    by_month = [(account, _month(month), feature, *v) for (account, month, feature), v in _sorted(months)]
    return by_month, [(*key, *values) for key, values in totals.items()]


@lru_cache(maxsize=1024)
def _month(number: int) -> date:
    return date(number // 12, number % 12 + 1, 1)


@lru_cache(maxsize=4096)
def _day(number: int) -> date:
    return date.fromordinal(719163 + number)
