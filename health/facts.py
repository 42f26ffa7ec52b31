"""Reads the facts of a batch of accounts into columns (``health/columns.py``): in one statement, no row per fact.

The statement is in ``health/facts_queries.py``, which facts are needed is told by ``health/facts_wanted.py``, and what
makes columns of its row is in ``health/facts_columns.py``. Read after the account's health row is locked, so that
nothing applied before is missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from health import driver
from health import facts_columns as columns_of
from health.catalogue import GOAL_TARGET_SIGNALS, SIGNALS, SignalRef
from health.columns import ActiveDays, Facts
from health.custom import NONE, CustomSignal
from health.custom_facts import choose
from health.facts_columns import NOTHING, Span
from health.facts_queries import FEATURE_NAMES, Fetch, Row, statement
from health.facts_wanted import LOOK_BACK_DAYS, RHYTHM_DAYS, Wanted
from health.goals import comparable
from health.instants import DAY, from_us, to_us
from health.rhythm import Fleet

__all__ = ["ALL_REFS", "LOOK_BACK_DAYS", "read", "read_by"]

ALL_REFS: Final = frozenset(SignalRef(name, signal.parameter) for name, signal in SIGNALS.items())
"""Every signal; what its argument is does not matter to what is read."""


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
    kept value of those accounts, so ask for it for a few. The day arrays have at least ``days`` days. Signals of rhythm
    need the ``fleet``, with which the days of activity of RHYTHM_DAYS are read. ``custom``: the configured signals that
    ``refs`` may name. Raises ValueError for a naive ``now``.
    """
    return await read_by(
        partial(driver.fetch, conn), account_ids, now=now, refs=refs, history=history, days=days, fleet=fleet,
        custom=custom,
    )  # fmt: skip


async def read_by(
    fetch: Fetch,
    account_ids: Sequence[str],
    *,
    now: datetime,
    refs: Iterable[SignalRef] | None = None,
    history: bool = False,
    days: int = 0,
    fleet: Fleet | None = None,
    custom: Mapping[str, CustomSignal] = NONE,
) -> Facts:
    """``read``, wherever the rows come from."""
    ids, now_us = list(account_ids), to_us(now)
    names = frozenset(SignalRef(name) for name in custom) | ALL_REFS if refs is None else frozenset(refs)
    wanted_for = partial(Wanted.of, custom=custom, days=days, history=history, rhythm=fleet is not None)
    wanted = wanted_for(names)
    rows = await _rows(fetch, ids, now, wanted)
    if any(ref.name in GOAL_TARGET_SIGNALS for ref in names):
        names |= _measures(rows["records"], custom)
        if wanted != (wanted := wanted_for(names)):
            rows = await _rows(fetch, ids, now, wanted)
    called = await _feature_names(fetch, ids, now, rows["feature_days"])
    today = date(1970, 1, 1) + timedelta(days=now_us // DAY)
    span, marked = Span.until(today, wanted.days), Span.until(today, wanted.mark_days)
    first_us = now_us - now_us % DAY - (wanted.days - 1) * DAY
    in_use = {ref.name: custom[ref.name] for ref in names if ref.name in custom}
    columns = columns_of.account_columns(rows["accounts"])
    if fleet is not None:
        columns |= {"fleet": fleet, "active_days": _active_days(rows["months"], wanted, today)}
    return Facts(
        account_ids=tuple(ids),
        now_us=now_us,
        first_day_us=first_us,
        **columns,
        **columns_of.day_columns(rows["months"] if wanted.counts else NOTHING, len(ids), span, wanted),
        users=columns_of.users(rows["users"], marked),
        features=columns_of.features(rows["features"]),
        feature_days=columns_of.feature_days(rows["feature_days"], marked, called),
        **columns_of.records(rows["records"], custom),
        surveys=columns_of.surveys(rows["surveys"]),
        sessions=columns_of.sessions(rows["sessions"]),
        history=columns_of.numbers(rows["numbers"]),
        known_from=columns_of.known_from(rows["known"], len(ids)) if wanted.known else {},
        announced=columns_of.announced(rows["announced"], columns, now_us),
        children=columns_of.children(rows["children"]),
        custom=MappingProxyType(in_use),
        chosen={
            name: await choose(fetch, ids, signal, now=now, since=from_us(first_us)) for name, signal in in_use.items()
        },
    )


async def _rows(fetch: Fetch, ids: list[str], now: datetime, wanted: Wanted) -> dict[str, Row]:
    """By part; what is not wanted is not asked for and comes out empty."""
    asked = statement(wanted)
    (values,) = await fetch(asked.text, ids, now)
    return dict.fromkeys(_PARTS, NOTHING) | asked.rows(values)


_PARTS: Final = ("months", "users", "features", "feature_days", "records", "surveys", "sessions", "numbers", "known")
"""Those that may not be wanted."""


_CALLED: Final[dict[int, str]] = {}
"""Features by the hash of their name: a product has dozens, and they are the same in every batch."""
_MOST_CALLED: Final = 100_000


async def _feature_names(fetch: Fetch, ids: list[str], now: datetime, row: Row) -> Mapping[int, str]:
    """What the features of ``row`` are called: those are asked for that were never met."""
    hashes = columns_of.feature_hashes(row)
    called = {number: _CALLED[number] for number in hashes if number in _CALLED}
    if len(called) < len(hashes):
        unknown = [number for number in hashes if number not in called]
        found = dict(await fetch(FEATURE_NAMES, ids, now, unknown))
        if len(_CALLED) > _MOST_CALLED:
            _CALLED.clear()
        _CALLED.update(found)
        called |= found
    return called


def _measures(records: Row, custom: Mapping[str, CustomSignal]) -> set[SignalRef]:
    """The signals that the goals of these accounts are measured by: they are computed, too, so their facts are
    read."""
    named = {signal for signal, target in zip(records["signal"] or (), records["target"] or (), strict=True) if target}
    return {ref for name in named if (ref := comparable(name, custom)) is not None}


def _active_days(months: Row, wanted: Wanted, today: date) -> ActiveDays:
    first = (today - timedelta(days=RHYTHM_DAYS)).replace(day=1)
    return columns_of.active_days(months if wanted.rhythm else NOTHING, first)
