"""Folds events into facts: one row per key and table, ready to be merged into what is stored. Pure.

``fold`` is the heart of the consumers' half of the road: decode → **fold** → store. Every cell merges commutatively
(sums, maxima, bits, last write by event time), so that the stored facts depend on the set of events alone, never on
their order or batching. Logins and usage are nearly all traffic: their path does no calendar arithmetic per event.

Column names and merges are those of ``health/tables.py``; they are repeated here as plain tuples so that this module
imports no database code, and ``consumers/store.py`` refuses to start when they differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, TypeVar

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
DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
MOST_PLACES: Final = 10_000
_PLACES: Final[dict[int, tuple[int, int]]] = {}
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

K = TypeVar("K")
V = TypeVar("V")
Row = tuple[Any, ...]
"""Times are epoch µs, days ISO 8601; a day array is a dict: place in the month from 0 -> count, zeros left out."""
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


class Month:
    """What the people of an account did in a month. ``users``: [bits of days, last]; ``features``: [quantities by place
    in the month, bits, first, last, total]."""

    __slots__ = ("active_days", "events", "features", "logins", "users")

    def __init__(self) -> None:
        self.logins: dict[int, int] = {}
        self.events: dict[int, int] = {}
        self.active_days = 0
        self.users: dict[str, list[int]] = {}
        self.features: dict[str, list[Any]] = {}


class Account:
    """The account row of a batch, and its months by number since year 0. Times are epoch µs."""

    __slots__ = (
        "events", "first", "imported", "last", "last_activity", "last_contact", "last_login", "late", "logins",
        "months", "sources", "started",
    )  # fmt: skip

    def __init__(self, at: int) -> None:
        self.first = self.last = at
        self.started: int | None = None
        self.last_login: int | None = None
        self.last_activity: int | None = None
        self.last_contact: int | None = None
        self.events = self.logins = 0
        self.imported = False
        self.sources = 0  # health/source_bits.py
        self.months: dict[int, Month] = {}
        self.late: dict[tuple[int, int], list[int]] = {}  # (day, arrival day): [logins, events]


class Source:
    """Of one source: first, last, newest live arrival, events by hour since 1970, live and imported."""

    __slots__ = ("bit", "first", "hours", "imported_hours", "last", "live")

    def __init__(self, name: str, at: int) -> None:
        self.bit = source_bit(name)
        self.first = self.last = at
        self.live: int | None = None
        self.hours: dict[int, int] = {}
        self.imported_hours: dict[int, int] = {}


@dataclass(slots=True)
class State:
    """What a batch has come to so far. Times are epoch µs; days and hours are numbers since 1970 (UTC)."""

    accounts: dict[str, Account] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    records: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)  # [first, last, registers]
    record_events: dict[tuple[str, str, str, int, str], list[Any]] = field(default_factory=dict)
    users: dict[tuple[str, str], list[Any]] = field(default_factory=dict)  # [registers, first]
    attributes: dict[str, Registers] = field(default_factory=dict)
    history: dict[tuple[str, str, int, str], list[Any]] = field(default_factory=dict)  # [value, known at]
    urgent: set[str] = field(default_factory=set)
    kinds: Counter[type[EventBase]] = field(default_factory=Counter)
    oldest: int | None = None


def month_place(day: int) -> tuple[int, int]:
    """(number of the month since year 0, place of the day in it from 0) of a day number."""
    at = date.fromordinal(719163 + day)
    return at.year * 12 + at.month - 1, at.day - 1


def _new_place(day: int) -> tuple[int, int]:
    if len(_PLACES) >= MOST_PLACES:
        _PLACES.clear()
    found = _PLACES[day] = month_place(day)
    return found


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
        self._state = State()
        self._now_us = to_us(now)

    def add(self, arrivals: Sequence[Arrival]) -> None:
        state, add = self._state, _add
        state.kinds.update([type(event) for event, _ in arrivals])
        for event, arrived in arrivals:
            add(state, event, arrived)

    def finish(self) -> Fold:
        return _finish(self._state, self._now_us)


def _add(state: State, event: Event, arrived: int) -> None:
    """Every event: the account's row and its source; then what its kind asks for."""
    since = event.timestamp - EPOCH
    day, seconds = since.days, since.seconds
    at = (day * 86_400 + seconds) * 1_000_000 + since.microseconds
    if state.oldest is None or arrived < state.oldest:
        state.oldest = arrived

    account = state.accounts.get(event.account_id)
    if account is None:
        account = state.accounts[event.account_id] = Account(at)
    elif at > account.last:
        account.last = at
    elif at < account.first:
        account.first = at

    source = state.sources.get(event.source)
    if source is None:
        source = state.sources[event.source] = Source(event.source, at)
    elif at > source.last:
        source.last = at
    elif at < source.first:
        source.first = at
    account.sources |= source.bit
    hour = day * 24 + seconds // 3600
    if event.import_id is None:
        source.hours[hour] = source.hours.get(hour, 0) + 1
        if source.live is None or arrived > source.live:
            source.live = arrived
    else:
        source.imported_hours[hour] = source.imported_hours.get(hour, 0) + 1
        account.imported = True

    kind = type(event)
    handle = _DISCRETE.get(kind)
    if handle is None:  # login, usage
        _activity(event, account, at, day, arrived)
    else:
        handle(state, event, arrived)
        if kind is Session or (kind is Custom and event.user_id is not None):
            _activity(event, account, at, day, arrived)


def _activity(event: Event, account: Account, at: int, day: int, arrived: int) -> None:
    """Something that the account's people did."""
    user_id = event.user_id
    login = type(event) is Login
    number, place = _PLACES.get(day) or _new_place(day)
    bit = 1 << place
    account.events += 1
    if account.last_activity is None or at > account.last_activity:
        account.last_activity = at
    month = account.months.get(number)
    if month is None:
        month = account.months[number] = Month()
    month.events[place] = month.events.get(place, 0) + 1
    month.active_days |= bit
    if login:
        account.logins += 1
        if account.last_login is None or at > account.last_login:
            account.last_login = at
        month.logins[place] = month.logins.get(place, 0) + 1
    elif type(event) is Usage:
        _usage(month, event, at, place, bit)

    if user_id is not None and user_id != ERASED_USER:
        user = month.users.get(user_id)
        if user is None:
            month.users[user_id] = [bit, at]
        else:
            user[0] |= bit
            user[1] = max(user[1], at)

    if arrived >= (day + 1) * DAY_US and event.import_id is None:
        days = (day, arrived // DAY_US)
        late = account.late.get(days)
        if late is None:
            account.late[days] = [1 if login else 0, 1]
        else:
            late[0] += login
            late[1] += 1


def _usage(month: Month, event: Usage, at: int, place: int, bit: int) -> None:
    quantity = event.quantity
    amount = quantity * 1000 if type(quantity) is int else thousandths(quantity)
    used = month.features.get(event.feature)
    if used is None:
        month.features[event.feature] = [{place: amount} if amount else {}, bit, at, at, amount]
        return
    if at > used[3]:
        used[3] = at
    elif at < used[2]:
        used[2] = at
    used[1] |= bit
    if amount:
        used[0][place] = used[0].get(place, 0) + amount
        used[4] += amount


_DISCRETE: Final[Mapping[type[EventBase], Callable[[Any, Any, int], None]]] = {
    **dict.fromkeys(discrete.RECORD_IDS, discrete.record),
    Subscription: discrete.subscription,
    Contact: discrete.contact,
    Custom: discrete.custom,
    Identify: discrete.identify,
    Group: discrete.group,
}


def _finish(state: State, now_us: int) -> Fold:
    accounts = sorted(state.accounts.items())
    rows: dict[str, list[Row]] = {
        "sources": [(name, s.first, s.last, s.live) for name, s in sorted(state.sources.items())],
        "source_hours": _hours(state),
        "late_arrivals": [
            (name, _day(day), _day(arrival), *sums)
            for name, account in accounts
            for (day, arrival), sums in sorted(account.late.items())
        ],
        "record_events": [(*key, *values) for key, values in _sorted(state.record_events)],
        "records": [(*key, first, last, to_json(fields)) for key, (first, last, fields) in _sorted(state.records)],
        "users": [(*key, to_json(fields), first) for key, (fields, first) in _sorted(state.users)],
        "account_history": [(*key, *values) for key, values in _sorted(state.history)],
        "account_attributes": [(name, to_json(fields)) for name, fields in _sorted(state.attributes)],
        "accounts": [
            (name, a.first, a.last, a.started, a.last_login, a.last_activity, a.last_contact, a.events, a.logins, 1,
             now_us, now_us if a.imported else None, a.sources)
            for name, a in accounts
        ],
        **_months(accounts),
    }  # fmt: skip
    return Fold(
        rows=rows,
        accounts=tuple([name for name, _ in accounts]),
        urgent=tuple(sorted(state.urgent)),
        oldest_arrival=None if state.oldest is None else from_us(state.oldest),
        kinds={str(kind.__struct_config__.tag): count for kind, count in state.kinds.items()},
    )


def _sorted(rows: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return sorted(rows.items(), key=_key)


def _key(item: tuple[Any, Any]) -> Any:
    return item[0]


def _hours(state: State) -> list[Row]:
    live = {(name, hour): n for name, source in state.sources.items() for hour, n in source.hours.items()}
    imported = {
        (name + IMPORTED, hour): n
        for name, source in state.sources.items()
        for hour, n in source.imported_hours.items()
    }
    return [(name, hour * HOUR_US, n) for (name, hour), n in sorted({**live, **imported}.items())]


def _months(accounts: Sequence[tuple[str, Account]]) -> dict[str, list[Row]]:
    """Rows of account_months, user_months, feature_months and features."""
    months: list[Row] = []
    users: list[Row] = []
    by_month: list[Row] = []
    features: list[Row] = []
    for name, account in accounts:
        for number, month in _in_order(account.months):
            first = _month(number)
            months.append((name, first, month.logins, month.events, month.active_days))
            users += [(name, first, user, bits, last) for user, (bits, last) in _in_order(month.users)]
            by_month += [(name, first, feature, used[0], used[1]) for feature, used in _in_order(month.features)]
        if len(account.months) == 1:
            features += [(name, feature, used[2], used[3], used[4]) for feature, used in _in_order(month.features)]
        else:
            features += _totals(name, account)
    return {"account_months": months, "user_months": users, "feature_months": by_month, "features": features}


def _in_order(rows: dict[K, V]) -> Collection[tuple[K, V]]:
    """By key; most hold one."""
    return rows.items() if len(rows) == 1 else sorted(rows.items(), key=_key)


def _totals(name: str, account: Account) -> list[Row]:
    """The features of several months, or of none."""
    totals: dict[str, list[int]] = {}
    for _, month in sorted(account.months.items()):
        for feature, (_, _, first, last, amount) in month.features.items():
            total = totals.setdefault(feature, [first, last, 0])
            total[1] = last  # months come in order
            total[2] += amount
    return [(name, feature, *values) for feature, values in sorted(totals.items())]


@lru_cache(maxsize=1024)
def _month(number: int) -> str:
    return date(number // 12, number % 12 + 1, 1).isoformat()


@lru_cache(maxsize=4096)
def _day(number: int) -> str:
    return date.fromordinal(719163 + number).isoformat()
