"""What every family of signals computes with: the facts seen from T instants, and how a signal is defined. Pure.

Shapes: A accounts, T instants, R rows of a kind; ``view.t`` is (A, T). A value that cannot be known is NaN (None for
texts).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from health.arrays import Bools, Floats, Ints, Texts
from health.columns import Facts, Records, Rows
from health.gaps import Observed, observed_microseconds
from health.hierarchy import RollUp, roll_up, umbrellas
from health.instants import DAY, HOUR, NEVER, Instants

Made = TypeVar("Made")
Pairs = tuple[Ints, Instants]
"""Accounts and instants, pair by pair."""

WINDOW_TOLERANCE_US = HOUR
"""Windows count as incomplete when the position is older than this. Less than the rules' own tolerance would make
every short lag reshuffle the scores, and an hour is little against the shortest window of 7 days."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """How a signal is computed, and when it may change by time alone.

    ``values(view, argument)`` gives (A, T). The rest says where its steps are: ``origins``, instants (A,) from which
    whole days are counted, in observed time if ``observed``, the first in force now, the others only in the past;
    ``borders`` (A,), whether day borders can change it, those of the account's own days if ``zoned``; ``instants`` of
    single rows, as (account, instant) pairs. ``window_days``: it looks at that many days (a function: at as many as the
    facts say), and is unknown if a gap touches them; or the ``earlier`` windows, each (days, how many days before).
    ``reach_days``: how far back else it looks; the facts must go back as far. ``unseen``: where it is unknown for want
    of observation in another way. ``of_goals``: it also changes when a signal does by which a goal is measured.
    """

    values: Callable[[View, str | None], npt.NDArray[Any]]
    origins: Callable[[Facts, str | None], Iterable[Instants]] | None = None
    observed: bool = True
    borders: Callable[[Facts, Observed], Bools] | None = None
    zoned: bool = False
    instants: Callable[[Facts, str | None], Iterable[Pairs]] | None = None
    window_days: int | Callable[[Facts], int] | None = None
    earlier: tuple[tuple[int, int], ...] = ()
    reach_days: int = 0
    unseen: Callable[[View], Bools] | None = None
    of_goals: bool = False

    def window(self, facts: Facts) -> int | None:
        """How many days it looks at; None: it has no window."""
        return self.window_days(facts) if callable(self.window_days) else self.window_days

    @property
    def days_read(self) -> int:
        """Of how many days the day arrays must tell it. What the facts alone say is not of these arrays."""
        return max(0 if self.window_days is None or callable(self.window_days) else self.window_days, self.reach_days)


class View:
    """The facts at the instants ``t`` (A, T)."""

    def __init__(self, facts: Facts, t: Instants, observed: Observed) -> None:
        self.facts = facts
        self.observed = observed
        self.t = t
        self.live = t >= facts.now_us
        self.day_us = t - t % DAY
        self.at_border = t == self.day_us
        self.day = (self.day_us - facts.first_day_us) // DAY
        self.exists = (facts.start != NEVER)[:, None] & (t != NEVER)
        self.nowhere = np.zeros(t.shape, dtype=np.bool_)
        """What holds at no instant."""
        self._made: dict[Hashable, Any] = {}
        self.other: Callable[[str], tuple[npt.NDArray[Any], Bools]] = _nothing
        """Another signal by its reference: its values, and where they are unknown because time was not observed; both
        (A, T). ``compute`` gives it."""

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What several signals are made from, made by the first of them. A key that speaks of an array of the facts
        names it by its ``id``: it lives as long as they do."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def sums(self, days: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """``running`` of a day array of the facts."""
        return self.once(("sums", id(days)), lambda: running(days))

    def window(self, days: npt.NDArray[Any], length: int, *, shift: int = 0) -> tuple[Floats, Floats]:
        """``window`` of a day array of the facts (A, D)."""
        if self.only_day is None:
            return window(self.sums(days), self.day, length, shift=shift)
        end = self.only_day + 1 - shift
        if end < length:
            unknown = np.full(self.t.shape, np.nan)
            return unknown, unknown
        high = self._total(days, end - length, end)
        return high if shift or self.only_live else self._total(days, end - length, end - 1), high

    def _total(self, days: npt.NDArray[Any], first: int, end: int) -> Floats:
        """Of the days [first, end). (A, 1)"""
        return self.once(
            ("total", id(days), first, end),
            lambda: days[:, first:end].sum(axis=1, dtype=np.int64, keepdims=True).astype(np.float64),
        )

    def dates(self, at: Instants) -> Ints:
        """The dates of ``start`` or a last time of the facts (A,) by each account's time zone. (A,)"""
        facts = self.facts
        several = (facts.start, facts.last_login_at, facts.last_activity_at, facts.last_contact_at)
        dates = self.once("dates", lambda: facts.places.dates(np.stack(several, axis=1)))
        return dates[:, next(place for place, own in enumerate(several) if own is at)]

    @cached_property
    def only_live(self) -> bool:
        return bool(self.live.all())

    @cached_property
    def rollup(self) -> RollUp:
        """What is below each account now; (A,) each."""
        return roll_up(self.facts.children, len(self.facts))

    @cached_property
    def umbrella(self) -> Bools:
        """Accounts with others below them that were never used themselves. (A,)"""
        return umbrellas(self.facts.children, self.facts.last_login_at, self.facts.last_activity_at)

    @cached_property
    def has_umbrellas(self) -> bool:
        return bool(self.umbrella.any())

    @cached_property
    def only_day(self) -> int | None:
        """The day of t, where there is one instant that lies on the same day for all; live it is so."""
        same = self.day.shape[1] == 1 and len(self.day) and (self.day == self.day[0]).all()
        return int(self.day[0, 0]) if same else None

    @cached_property
    def date(self) -> Ints:
        """The date at t by the account's time zone, in days since 1970. (A, T)."""
        places = self.facts.places
        return places.dates(self.t) if self.common is None else places.dates_at(self.common)

    @cached_property
    def common(self) -> Instants | None:
        """The instants (T,) where they are the same for all accounts."""
        return self.t[0] if len(self.t) and (self.t == self.t[0]).all() else None

    def known(self, values: npt.NDArray[Any], where: Bools) -> Floats:
        return np.where(where & self.exists, values, np.nan)

    def settle(self, low: npt.NDArray[Any], high: npt.NDArray[Any]) -> Floats:
        """The value of a window of days between ``low``, without anything of the day of t, and ``high``, with all of
        it.

        Day counts do not say when within a day: at its border nothing of the day has happened, now everything known
        has, and in between it is known only if it makes no difference.
        """
        if self.only_live:
            return self.known(high, np.isfinite(high))
        past = np.where(self.at_border | (low == high), low, np.nan)
        return self.known(np.where(self.live, high, past), np.isfinite(high))

    def incomplete(self, days: int, *, before: int = 0) -> Bools:
        """Whether the window of ``days`` days that ends with t, or ``before`` days earlier, holds time that was not
        observed. (A, T)."""
        known = self.observed.delivered  # what the next delivery brings makes no window unknown
        if not known.has_gaps:
            return self.once(("ahead", before), lambda: self._ahead(before))
        return self.once(("incomplete", days, before), lambda: self._incomplete(known, days, before))

    def _incomplete(self, known: Observed, days: int, before: int) -> Bools:
        end = self.t if not before else self.day_us - (before - 1) * DAY
        begin = np.maximum(self.day_us - (before + days - 1) * DAY, self.facts.start[:, None])
        gap = known.unobserved_before(end) > known.unobserved_before(np.minimum(begin, end))
        return gap | self._ahead(before)

    def _ahead(self, before: int) -> Bools:
        """Whether a window that ends so many days before t goes beyond what the position has come to."""
        end = self.t if not before else self.day_us - (before - 1) * DAY
        ahead: Bools = end > self.observed.through_us + WINDOW_TOLERANCE_US
        return ahead if ahead.any() else self.nowhere

    def elapsed_days(self, origin: Instants, *, observed: bool = True) -> Floats:
        """Whole days from ``origin`` (A, 1) or (A, T) to t; NaN before it, and where there is no origin."""
        passed = observed_microseconds(origin, self.t, self.observed) if observed else self.t - origin
        known = (origin != NEVER) & (origin <= self.t)
        if observed and self.observed.through is None:
            known = np.zeros_like(known)
        return self.known(passed // DAY, known)

    def since(self, last: Instants, first: Instants | None = None) -> Floats:
        """Whole observed days since ``last`` (A,), else since the start. Before ``last``, the time before is not known,
        unless t is before the ``first`` one too."""
        never = (last == NEVER)[:, None] | (False if first is None else self.t < first[:, None])
        return self.elapsed_days(np.where(never, self.facts.start[:, None], last[:, None]))

    def rows_t(self, rows: Rows) -> Instants:
        """The instants of each row's account. (R, T)."""
        if self.common is None:
            return self.t[rows.account]
        row = self.common
        return self.once(("t", id(rows)), lambda: np.broadcast_to(row, (len(rows.account), len(row))))

    def count(self, rows: Rows, chosen: npt.NDArray[Any]) -> Ints:
        """How many of ``chosen`` (R, T) each account has. (A, T)."""
        if chosen.shape[1] == 1:
            return np.bincount(rows.account[chosen[:, 0]], minlength=len(self.facts))[:, None]
        running = np.zeros((len(rows.account) + 1, chosen.shape[1]), dtype=np.int64)
        np.cumsum(chosen, axis=0, out=running[1:])
        edges = np.searchsorted(rows.account, np.arange(len(self.facts) + 1))
        return running[edges[1:]] - running[edges[:-1]]

    def number(self, attribute: str) -> Floats:
        """A numeric attribute at t. (A, T)."""
        return self.known(self.facts.numbers[attribute][:, None], self.stands(attribute))

    def text(self, attribute: str) -> Texts:
        texts = np.repeat(self.facts.texts[attribute][:, None], self.t.shape[1], axis=1)
        texts[~(self.stands(attribute) & self.exists)] = None
        return texts

    def stands(self, attribute: str) -> Bools:
        """Whether the present value of an attribute is known to have been so at t. (A, T)."""
        known_from = self.facts.known_from.get(attribute)
        if known_from is None:
            return np.ones(self.t.shape, dtype=np.bool_)
        stands: Bools = self.t >= known_from[:, None]
        return stands


def _nothing(ref: str) -> tuple[npt.NDArray[Any], Bools]:
    raise LookupError(f"{ref}: this view is not of a computation")


def running(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Running sums along the days, beginning with 0: (R, D) gives (R, D + 1). Marks are summed in 16 bits: they are
    many."""
    dtype = np.int16 if values.dtype == np.bool_ else np.int64
    sums = np.zeros((values.shape[0], values.shape[1] + 1), dtype=dtype)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def window(sums: npt.NDArray[Any], day: Ints, days: int, *, shift: int = 0) -> tuple[Floats, Floats]:
    """(low, high) sums over the window of ``days`` days that ends ``shift`` days before ``day`` (R, T), for ``settle``.

    ``sums`` (R, D + 1) as of ``running``. NaN where the window reaches before the first day. Both (R, T).
    """
    size = sums.shape[1] - 1
    end = day + 1 - shift
    before = np.take_along_axis(sums, np.clip(end - days, 0, size), axis=1)
    high = np.take_along_axis(sums, np.clip(end, 0, size), axis=1) - before
    low = high if shift else np.take_along_axis(sums, np.clip(end - 1, 0, size), axis=1) - before
    inside = end - days >= 0
    return np.where(inside, low, np.nan), np.where(inside, high, np.nan)


@dataclass(frozen=True, kw_only=True)
class StateAt:
    """The state of records at t, each (R, T): in one of the wanted statuses, not knowable, and since when (NEVER:
    not)."""

    inside: Bools
    unknown: Bools
    since: Instants


def state_at(view: View, records: Records, wanted: Sequence[str]) -> StateAt:
    """Which records stood in one of the ``wanted`` statuses at t.

    A record keeps per status the *last* time it was taken. Its state at t is the one taken last by then; before all of
    them, but after it was first heard of, the state is unknown.
    """
    return view.once(("state", id(records), tuple(wanted)), lambda: _state_at(view, records, wanted))


def _state_at(view: View, records: Records, wanted: Sequence[str]) -> StateAt:
    t, taken = view.rows_t(records), view.once(("taken", id(records)), lambda: _taken(view, records))
    never = view.once(("never", id(records)), lambda: np.full(t.shape, NEVER, dtype=np.int64))
    inside, outside = (
        reduce(np.maximum, [at for status, at in taken.items() if (status in wanted) is side], never)
        for side in (True, False)
    )
    holds, same = inside > outside, inside == outside
    unknown = same & (inside == NEVER) & (records.first_at[:, None] <= t)
    # Statuses taken at the same instant: the one that stands won by its event's key.
    tied = (same & (inside != NEVER)).any(axis=1)
    holds |= same & (inside != NEVER) & in_status(records, wanted, tied)[:, None]
    return StateAt(inside=holds, unknown=unknown, since=np.where(holds, inside, NEVER))


def _taken(view: View, records: Records) -> dict[str, Instants]:
    """When each status was last taken by t, as far as is known. (R, T)"""
    t = view.rows_t(records)

    def by_t(at: Instants) -> Instants:
        reached = at[:, None] <= t
        return at[:, None] if t.shape[1] == 1 and reached.all() else np.where(reached, at[:, None], NEVER)

    return {status: by_t(at) for status, at in records.status_at.items()}


def in_status(records: Records, wanted: Collection[str], some: Bools) -> Bools:
    """Which records, of ``some`` (R,), stand in one of the ``wanted`` statuses now. (R,). One by one: ask of few."""
    found = some.copy()
    found[some] = [status in wanted for status in records.status[some].tolist()]
    return found


def count_in_state(view: View, records: Records, wanted: Sequence[str]) -> Floats:
    """How many records stood in one of the ``wanted`` statuses at t. (A, T)."""
    state = state_at(view, records, wanted)
    return view.known(view.count(records, state.inside), view.count(records, state.unknown) == 0)


def status_instants(records: Records) -> list[Pairs]:
    """Every instant at which a record is known to have changed."""
    return [(records.account, at) for at in (records.first_at, *records.status_at.values())]


@cache
def attribute_instants(attribute: str) -> Callable[[Facts, str | None], Iterable[Pairs]]:
    """When the present value of an attribute came to stand, for a definition's ``instants``."""

    def instants(facts: Facts, _: str | None) -> list[Pairs]:
        at = facts.known_from.get(attribute)
        return [] if at is None else [(np.arange(len(facts)), at)]

    return instants


def latest(view: View, rows: Rows, at: Instants, chosen: Bools, by: Instants) -> Ints:
    """Place of the last of the ``chosen`` (R,) rows, in time order per account, that had happened ``by`` (A, T); -1
    for none. (A, T)."""
    by_then = chosen[:, None] & (at[:, None] <= by[rows.account])
    found: Ints = rows.greatest(np.where(by_then, np.arange(len(at))[:, None], -1), len(view.facts))
    return found


def past_number(view: View, attribute: str, by: Instants) -> Floats:
    """What a numeric attribute was at the instants ``by`` (A, T), as its history tells; NaN before it."""
    history = view.facts.history
    place = latest(view, history, history.at, history.among("attribute", (attribute,)), by)
    return np.append(history.value, np.nan)[place]


def started(facts: Facts, _: Observed) -> Bools:
    """For ``borders``: every account that has begun."""
    begun: Bools = facts.start != NEVER
    return begun


def some_due(facts: Facts, records: Records, status: str) -> Bools:
    """For ``borders``: who has a record in this status whose due date is to come, or has just passed. (A,)."""
    ahead = (records.due_at != NEVER) & (records.due_at >= facts.today_us - 2 * DAY)
    found = np.zeros(len(facts), dtype=np.bool_)
    found[records.account[in_status(records, (status,), ahead)]] = True
    return found


@dataclass(frozen=True, order=True)
class LivelyWithin:
    """For ``borders`` of a signal that looks back so many days. Who is lively within fewer is so within more."""

    days: int

    def __call__(self, facts: Facts, observed: Observed) -> Bools:
        return lively(facts, observed, days=self.days + 2)


def lively(facts: Facts, observed: Observed, *, days: int = 58) -> Bools:
    """The accounts whose windows of days can still change by time alone: something happened, or a gap lies, in them."""
    observed = observed.delivered
    if observed.has_gaps and observed.first_span_touching(facts.today_us - days * DAY, facts.now_us):
        return np.ones(len(facts), dtype=np.bool_)
    busy: Bools = facts.last_busy >= max(0, facts.days - days)
    return busy
