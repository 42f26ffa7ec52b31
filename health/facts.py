"""Reads the facts of a batch of accounts into columns (``health/columns.py``): a few set-based queries, no row per
fact.

The queries are in ``health/facts_queries.py``, and what makes columns of their rows in ``health/facts_columns.py``.
Read after the account's health row is locked, so that nothing applied before is missed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import RowMapping, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection

from health import facts_columns as columns_of
from health import facts_queries as queries
from health.catalogue import GOAL_TARGET_SIGNALS, SIGNALS, Signal, SignalRef
from health.columns import HISTORY_NUMBERS, ActiveDays, Chosen, Facts
from health.custom import NONE, CustomSignal
from health.custom_facts import choose
from health.facts_columns import Row
from health.goals import comparable
from health.hierarchy_rows import read_children
from health.instants import DAY, from_us, to_us
from health.rhythm import Fleet
from health.signals.table import defined
from health.signals.view import Definition

LOOK_BACK_DAYS: Final = 36
"""Room in the day arrays before the longest window, to look back for when an episode began."""
LEAST_DAYS: Final = 92
"""Of the day arrays, and of how far back surveys, tickets and payments are complete."""

ALL_REFS: Final = frozenset(SignalRef(name, signal.parameter) for name, signal in SIGNALS.items())
"""Every signal; what its argument is does not matter to what is read."""

RHYTHM_DAYS: Final = 1100
"""How far back days of activity are read for the rhythm: three years, after which a pause hardly weighs any more."""


async def read(
    conn: AsyncConnection,
    account_ids: Sequence[str],
    *,
    now: datetime,
    refs: Iterable[SignalRef] | None = None,
    history: bool = False,
    days: int = 0,
    fleet: Fleet | None = None,
    custom: Mapping[str, CustomSignal] = NONE,
) -> Facts:
    """The facts of ``account_ids`` (distinct), in that order, as they stand in the database.

    Only what the signals ``refs`` need is read (None: every signal), and as many days as they look back. An account
    without any row has no start, and its signals are unknown. With ``history`` the columns tell since when the present
    value of plan, MRR, … stands, so that signals at past instants are not computed from later values; that reads every
    kept value of those accounts, so ask for it for a few. The day arrays have at least ``days``
    days. Signals of rhythm need the ``fleet``, with which the days of
    activity of RHYTHM_DAYS are read. ``custom``: the signals of configuration that ``refs`` may name. Raises ValueError
    for a naive ``now``.
    """
    names = {SignalRef(name) for name in custom} | ALL_REFS if refs is None else set(refs)
    if any(ref.name in GOAL_TARGET_SIGNALS for ref in names):
        names |= await _goal_signals(conn, account_ids, custom)
    wanted = Wanted.of([defined(ref, custom) for ref in names], days=days, history=history)
    in_use = {ref.name: custom[ref.name] for ref in names if ref.name in custom}
    reading = _Reading(conn, list(account_ids), now, wanted)
    columns = columns_of.account_columns(await reading.accounts())
    named = {"ids": reading.ids, "attributes": list(queries.KEPT_ATTRIBUTES)}
    announcements = (await conn.execute(queries.ANNOUNCED, named)).all()
    known = await _one(conn, queries.HISTORY, {**named, "now": now}) if history else None
    if fleet is not None:
        columns |= {"fleet": fleet, "active_days": await reading.active_days()}
    records = await reading.records()
    return Facts(
        account_ids=tuple(reading.ids),
        now_us=reading.now_us,
        first_day_us=reading.first_us,
        **columns,
        **columns_of.day_columns(await reading.months(), len(reading.ids), reading.span),
        users=columns_of.users(await reading.users(), reading.row_span),
        features=columns_of.features(await reading.features()),
        feature_days=columns_of.feature_days(await reading.feature_days(), reading.row_span),
        tickets=columns_of.records(records, "ticket"),
        payments=columns_of.records(records, "payment"),
        milestones=columns_of.records(records, "milestone"),
        goals=columns_of.goals(records, custom),
        surveys=columns_of.surveys(await reading.surveys()),
        sessions=columns_of.sessions(await reading.sessions()),
        history=columns_of.numbers(await reading.numbers()),
        known_from=columns_of.known_from(known, len(reading.ids)) if known is not None else {},
        announced=columns_of.announced(announcements, columns, reading.now_us),
        children=await read_children(conn, reading.ids),
        custom=MappingProxyType(in_use),
        chosen={name: await reading.chosen(signal) for name, signal in in_use.items()},
    )


async def _goal_signals(
    conn: AsyncConnection, ids: Sequence[str], custom: Mapping[str, CustomSignal]
) -> set[SignalRef]:
    """The signals that the goals of these accounts are measured by: they are computed, too, so their facts are
    read."""
    named = (await conn.scalars(queries.GOAL_SIGNALS, {"ids": list(ids)})).all()
    return {ref for name in named if (ref := comparable(name, custom)) is not None}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which facts some signals need: ``parts`` are words of the catalogue's ``needs``; ``days`` of the day arrays, and
    ``row_days`` of those that have a row a user or feature: they are many, so no more than their own signals look back.
    """

    parts: frozenset[str]
    days: int
    row_days: int
    rhythm: bool
    counts: bool

    @classmethod
    def of(cls, signals: Iterable[tuple[Signal, Definition | None]], *, days: int = 0, history: bool = False) -> Wanted:
        chosen = list(signals)
        counted = [signal for signal, _ in chosen if "account_months" in signal.needs]
        days = max(days, _reach(d for _, d in chosen))
        rows = _reach(d for signal, d in chosen if not _OF_ROWS.isdisjoint(signal.needs))
        return cls(
            parts=frozenset(part for signal, _ in chosen for part in signal.needs),
            days=days,
            row_days=days if history else rows,
            rhythm=any("fleets" in signal.needs for signal in counted),
            counts=any("fleets" not in signal.needs for signal in counted),
        )


_OF_ROWS: Final = frozenset({"user_months", "feature_months"})


def _reach(definitions: Iterable[Definition | None]) -> int:
    reach = max((d.days_read for d in definitions if d is not None), default=0)
    return max(LEAST_DAYS, reach + LOOK_BACK_DAYS)


_NOTHING: Final[dict[str, None]] = defaultdict(lambda: None)


class _Reading:
    """The queries of one batch; what is not wanted is not asked for and comes out empty."""

    def __init__(self, conn: AsyncConnection, ids: list[str], now: datetime, wanted: Wanted) -> None:
        self._conn = conn
        self._now = now
        self._wanted = wanted
        self.ids = ids
        self.now_us = to_us(now)
        today_us = self.now_us - self.now_us % DAY
        self.first_us = today_us - (wanted.days - 1) * DAY
        self._today = date(1970, 1, 1) + timedelta(days=today_us // DAY)
        first_day = self._today - timedelta(days=wanted.days - 1)
        self.span = columns_of.Span(first_day=first_day, days=wanted.days)
        self._months = {"ids": ids, "first": first_day.replace(day=1), "today": self._today}
        row_day = self._today - timedelta(days=wanted.row_days - 1)
        self.row_span = columns_of.Span(first_day=row_day, days=wanted.row_days)
        self._row_months = {**self._months, "first": row_day.replace(day=1)}
        self._recent = {"ids": ids, "since": from_us(self.first_us)}

    async def accounts(self) -> Row:
        return await _one(self._conn, queries.ACCOUNTS, {"ids": self.ids})

    async def active_days(self) -> ActiveDays:
        first = (self._today - timedelta(days=RHYTHM_DAYS)).replace(day=1)
        row = await self._if(self._wanted.rhythm, queries.DAYS_OF_MONTHS, {"ids": self.ids, "first": first})
        account, day = columns_of.months_as_days(row)
        return ActiveDays(account=account, day=day)

    async def months(self) -> Row:
        return await self._if(self._wanted.counts, queries.MONTHS, self._months)

    async def users(self) -> Row:
        return await self._if("user_months" in self._wanted.parts, queries.USERS, self._row_months)

    async def features(self) -> Row:
        return await self._if("features" in self._wanted.parts, queries.FEATURES, {"ids": self.ids})

    async def feature_days(self) -> Row:
        return await self._if("feature_months" in self._wanted.parts, queries.FEATURE_DAYS, self._row_months)

    async def records(self) -> Row:
        kinds = [kind for kind in queries.STATUSES if f"{kind}s" in self._wanted.parts]
        return await self._if(bool(kinds), queries.RECORDS, {**self._recent, "kinds": kinds})

    async def surveys(self) -> Row:
        return await self._if("surveys" in self._wanted.parts, queries.SURVEYS, self._recent)

    async def sessions(self) -> Row:
        return await self._if("sessions" in self._wanted.parts, queries.SESSIONS, self._recent)

    async def numbers(self) -> Row:
        values = {"ids": self.ids, "attributes": list(HISTORY_NUMBERS), "now": self._now}
        return await self._if("account_history" in self._wanted.parts, queries.NUMBERS, values)

    async def chosen(self, signal: CustomSignal) -> Chosen:
        return await choose(self._conn, self.ids, signal, now=self._now, since=from_us(self.first_us))

    async def _if(self, wanted: bool, query: TextClause, values: Mapping[str, Any]) -> Row:
        return await _one(self._conn, query, values) if wanted else _NOTHING


async def _one(conn: AsyncConnection, query: TextClause, parameters: Mapping[str, Any]) -> RowMapping:
    return (await conn.execute(query, parameters)).mappings().one()
