"""The facts of a batch of accounts as columns: what signals are computed from. Pure; ``health/facts.py`` reads them.

A accounts, D days (the last is today), rows of a kind sorted by account. Instants are µs (``health/instants.py``).
Day arrays are UTC days for every account: what is counted per day is kept per UTC day. What is kept as instants and
dates goes by the account's own days (``health/days.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

from health.arrays import Bools, Floats, Ints, Texts
from health.custom import NONE, CustomSignal
from health.days import Places
from health.instants import DAY, Instants, from_us
from health.marks import Words, last_of, packed
from health.rhythm import SHIPPED, Fleet

NUMBER_ATTRIBUTES = ("mrr", "seats")
HISTORY_NUMBERS = ("mrr", "seats")
TEXT_ATTRIBUTES = ("plan", "status", "segment", "touch_model", "owner", "name", "currency", "timezone", "country",
                   "parent_account_id")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Facts of which an account has any number; ``account`` (R,) is the place of each row's account, ascending."""

    account: Ints

    @cached_property
    def _codes(self) -> dict[str, tuple[list[Any], Ints]]:
        return {}

    def among(self, column: str, wanted: Collection[Any]) -> Bools:
        """Which rows have one of the ``wanted`` texts in a column; texts are told apart once, then by number. (R,)"""
        if column not in self._codes:
            texts = getattr(self, column).tolist()
            codes = {text: code for code, text in enumerate(dict.fromkeys(texts))}
            self._codes[column] = list(codes), np.fromiter(map(codes.__getitem__, texts), np.int64, len(texts))
        names, code = self._codes[column]
        return np.array([name in wanted for name in names], dtype=np.bool_)[code]

    @cached_property
    def firsts(self) -> Ints:
        """The first row of each account that has any."""
        return np.flatnonzero(np.diff(self.account, prepend=-1))

    def greatest(self, values: Any, size: int, least: int = -1) -> Any:
        """The greatest value (R, …) of each of ``size`` accounts, ``least`` where it has no row. (A, …)"""
        found = np.full((size, *values.shape[1:]), least, dtype=values.dtype)
        if len(self.firsts):
            found[self.account[self.firsts]] = np.maximum.reduceat(values, self.firsts, axis=0)
        return found

    def take(self, index: Ints) -> Any:
        """The rows of the accounts at ``index``, renumbered to their place in it."""
        first, end = np.searchsorted(self.account, np.stack((index, index + 1)))
        counts = end - first
        ends = np.cumsum(counts)
        rows: Ints | slice
        if len(index) == 1:
            rows = slice(int(first[0]), int(end[0]))
        else:
            rows = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts - first, counts)
        values: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            values[name] = {k: v[rows] for k, v in value.items()} if isinstance(value, dict) else value[rows]
        values["account"] = np.repeat(np.arange(len(index)), counts)
        return type(self)(**values)


@dataclass(frozen=True, kw_only=True)
class Marked(Rows):
    """Who or what was active when: ``active`` (R, D'), the last D' <= D of the days."""

    active: Bools

    @cached_property
    def words(self) -> Words:
        """``active`` as bits. (R, W)"""
        return packed(self.active)


@dataclass(frozen=True, kw_only=True)
class Users(Marked):
    """Who was active when."""


@dataclass(frozen=True, kw_only=True)
class ActiveDays(Rows):
    """On which days (since 1970) anybody did anything, ascending per account, as far back as rhythms look."""

    day: Ints

    @classmethod
    def none(cls) -> ActiveDays:
        return cls(account=np.empty(0, dtype=np.int64), day=np.empty(0, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Features(Rows):
    name: Texts
    first_at: Instants
    last_at: Instants

    @cached_property
    def found(self) -> dict[tuple[str | None, int], tuple[Instants, Instants]]:
        """First and last use of single features per account (A,), of those that were asked for; by A, too, since rows
        of nobody may be those of any accounts."""
        return {}


@dataclass(frozen=True, kw_only=True)
class FeatureDays(Marked):
    """Which feature was used when."""

    name: Texts


@dataclass(frozen=True, kw_only=True)
class History(Rows):
    """Every value of the numeric attributes in HISTORY_NUMBERS, in time order per account; NaN for none."""

    attribute: Texts
    at: Instants
    value: Floats


@dataclass(frozen=True, kw_only=True)
class Sessions(Rows):
    """When each session was first attended."""

    at: Instants


@dataclass(frozen=True, kw_only=True)
class Records(Rows):
    """Tickets, payments or milestones.

    ``status_at`` holds per status when it was last taken (NEVER: not seen); ``due_at`` is 00:00 of the due date, or
    NEVER.
    """

    status: Texts
    first_at: Instants
    due_at: Instants
    status_at: Mapping[str, Instants]


@dataclass(frozen=True, kw_only=True)
class Goals(Records):
    """Goals, and what shows how far each has come: ``signal`` by its reference (None: none that can be compared), which
    is to rise to ``target``, or to fall to it if ``at_most``; ``target`` NaN without a signal. ``name`` is for people.
    """

    name: Texts
    signal: Texts
    target: Floats
    at_most: Bools


@dataclass(frozen=True, kw_only=True)
class Surveys(Rows):
    """Answers in time order per account; ``nps`` and ``csat`` are NaN for another survey."""

    at: Instants
    nps: Floats
    csat: Floats


@dataclass(frozen=True, kw_only=True)
class Children(Rows):
    """What each account's children told it, ascending by their id: of themselves and all below them together.

    ``count`` and ``red`` are of accounts; ``score`` is the child's; ``mrr`` and ``at_risk`` NaN when unknown or of
    several currencies; the worst is the worst account of them all (``health/hierarchy.py``). ``cards``: how many
    accounts each scorecard scored.
    """

    count: Ints
    red: Ints
    score: Floats
    mrr: Floats
    at_risk: Floats
    currency: Texts
    mixed: Bools
    incomplete: Bools
    worst_id: Texts
    worst_name: Texts
    worst_score: Floats
    worst_mrr: Floats
    cards: Texts

    @classmethod
    def of(cls, account: Sequence[int], told: Sequence[Mapping[str, Any]]) -> Children:
        """A row per child: the place of its parent, and what it told."""
        worst = [one["worst"] or {"account_id": None, "name": None, "score": None, "mrr": None} for one in told]

        def numbers(values: list[Any]) -> Floats:
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

        def texts(values: list[Any]) -> Texts:
            return np.array([*values, None], dtype=object)[:-1]

        return cls(
            account=np.array(account, dtype=np.int64),
            count=np.array([one["children"] for one in told], dtype=np.int64),
            red=np.array([one["red"] for one in told], dtype=np.int64),
            score=numbers([one["score"] for one in told]),
            mrr=numbers([one["mrr"] for one in told]),
            at_risk=numbers([one["mrr_at_risk"] for one in told]),
            currency=texts([one["currency"] for one in told]),
            mixed=np.array([one["mixed"] for one in told], dtype=np.bool_),
            incomplete=np.array([one["incomplete"] for one in told], dtype=np.bool_),
            worst_id=texts([one["account_id"] for one in worst]),
            worst_name=texts([one["name"] for one in worst]),
            worst_score=numbers([one["score"] for one in worst]),
            worst_mrr=numbers([one["mrr"] for one in worst]),
            cards=texts([one["cards"] for one in told]),
        )

    @classmethod
    def none(cls) -> Children:
        return cls.of((), ())


@dataclass(frozen=True, kw_only=True)
class Chosen(Rows):
    """The events that one signal of configuration is made from, in time order per account; what is kept per day, at
    the day's beginning. ``number`` NaN and ``text`` None: the event does not say."""

    at: Instants
    number: Floats
    text: Texts


@dataclass(frozen=True, kw_only=True)
class Facts:
    """See the module. What no signal in use needs was not read: it is empty, its day arrays are 0, each for itself.

    Tickets, payments, surveys, sessions are complete from ``first_day_us`` on, and in what is open or latest.

    ``known_from`` says per attribute since when its present value stands, where history was read; without it
    attributes count as having been so all along. ``announced`` says per attribute when a value that was announced
    takes effect next (NEVER: none). ``custom`` are the signals of configuration that were read for, ``chosen`` their
    events. ``start`` is started_at, else the first event, else when the account was first
    seen here.
    """

    account_ids: tuple[str, ...]
    now_us: int
    first_day_us: int
    start: Instants
    last_login_at: Instants
    last_activity_at: Instants
    last_contact_at: Instants
    logins: Ints
    events: Ints
    active: Bools
    users: Users
    features: Features
    feature_days: FeatureDays
    tickets: Records
    payments: Records
    milestones: Records
    goals: Goals
    surveys: Surveys
    sessions: Sessions
    history: History
    numbers: Mapping[str, Floats]
    texts: Mapping[str, Texts]
    renewal_at: Instants
    known_from: Mapping[str, Instants]
    announced: Mapping[str, Instants] = field(default_factory=dict)
    active_days: ActiveDays = field(default_factory=ActiveDays.none)
    fleet: Fleet = SHIPPED
    children: Children = field(default_factory=Children.none)
    custom: Mapping[str, CustomSignal] = field(default_factory=lambda: NONE)
    chosen: Mapping[str, Chosen] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.account_ids)

    @cached_property
    def places(self) -> Places:
        """Time zone and country of each account."""
        return Places.of(self.texts["timezone"], self.texts["country"])

    @property
    def now(self) -> datetime:
        return from_us(self.now_us)

    @property
    def days(self) -> int:
        """D, the length of the day arrays."""
        return int(self.events.shape[1])

    @property
    def today_us(self) -> int:
        """00:00 of the last day of the arrays."""
        return self.first_day_us + (self.days - 1) * DAY

    @cached_property
    def last_busy(self) -> Ints:
        """The place among the days of the last on which anything happened, -1 for none. (A,)."""
        busy = np.maximum(last_of(packed((self.events > 0) | (self.logins > 0) | self.active)), -1)
        for rows in (self.users, self.feature_days):
            last = last_of(rows.words) + (self.days - rows.active.shape[1])
            np.maximum(busy, rows.greatest(last, len(self)), out=busy)
        return busy

    def take(self, index: Ints) -> Facts:
        """The accounts at ``index``, in that order: for a closer look at a few of a batch."""
        values: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, Rows):
                value = value.take(index) if len(value.account) else value
            elif isinstance(value, dict):
                value = {k: v.take(index) if isinstance(v, Rows) else v[index] for k, v in value.items()}
            elif isinstance(value, np.ndarray):
                value = value[index]
            values[name] = value
        values["account_ids"] = tuple(self.account_ids[i] for i in index)
        return Facts(**values)
