"""Reads the facts of a batch of accounts into columns (``health/columns.py``): a few set-based queries, no row per
fact.

Each query gives one row of byte strings: Postgres' own binary form of a column (``int8send``, ``timestamptz_send``,
``array_send``), which numpy takes as it is. Decoding value by value would cost more than all the signals.
Read after the account's health row is locked, so that nothing applied before is missed.
"""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from health.arrays import Bools, Floats, Ints, Texts
from health.catalogue import GOAL_TARGET_SIGNALS, SIGNALS, Signal, SignalRef
from health.columns import (
    HISTORY_NUMBERS,
    NUMBER_ATTRIBUTES,
    TEXT_ATTRIBUTES,
    ActiveDays,
    Chosen,
    Facts,
    FeatureDays,
    Features,
    Goals,
    History,
    Records,
    Sessions,
    Surveys,
    Users,
)
from health.custom import NONE, CustomSignal
from health.custom_facts import choose
from health.goals import comparable, target_of
from health.hierarchy_rows import read_children
from health.instants import DAY, NEVER, Instants, from_us, to_us
from health.rhythm import Fleet
from health.signals.table import defined
from health.signals.view import Definition

Row = RowMapping | Mapping[str, Any]

LOOK_BACK_DAYS: Final = 36
"""Room in the day arrays before the longest window, to look back for when an episode began."""
LEAST_DAYS: Final = 92
"""Of the day arrays, and of how far back surveys, tickets and payments are complete."""

ALL_REFS: Final = frozenset(SignalRef(name, signal.parameter) for name, signal in SIGNALS.items())
"""Every signal; what its argument is does not matter to what is read."""

RHYTHM_DAYS: Final = 1100
"""How far back days of activity are read for the rhythm: three years, after which a pause hardly weighs any more."""

STATUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "ticket": ("open", "pending", "solved", "closed"),
    "payment": ("failed", "overdue", "paid", "refunded"),
    "milestone": ("planned", "reached"),
    "goal": ("set", "reached", "dropped"),
}
_HISTORY_ATTRIBUTES: Final = ("mrr", "seats", "plan", "status", "segment", "owner", "currency", "renewal_on")
_NUMBERED: Final = np.array(sorted(HISTORY_NUMBERS))
_PG_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01: binary timestamps count from there
_PG_EPOCH: Final = date(2000, 1, 1)
_MONTH_DAYS: Final = 31
_ARRAY_BYTES: Final = 20 + _MONTH_DAYS * 12  # header, then length and int64 per element

_WANTED = "unnest(CAST(:ids AS text[])) WITH ORDINALITY AS wanted(account_id, place)"
_PLACE = "string_agg(int4send((wanted.place - 1)::int4), '') AS place"


def _bytes(name: str, send: str, value: str, otherwise: str = "int8send((-9223372036854775808)::int8)") -> str:
    return f"string_agg(coalesce({send}({value}), {otherwise}), '') AS {name}"


def _register(attribute: str, part: str = "v") -> str:
    return f"fields->'{attribute}'->>'{part}'"


_ACCOUNTS = text(f"""
SELECT {_PLACE},
  {_bytes("started_at", "timestamptz_send", "a.started_at")},
  {_bytes("first_event_at", "timestamptz_send", "a.first_event_at")},
  {_bytes("created_at", "timestamptz_send", "h.created_at")},
  {_bytes("last_login_at", "timestamptz_send", "a.last_login_at")},
  {_bytes("last_activity_at", "timestamptz_send", "a.last_activity_at")},
  {_bytes("last_contact_at", "timestamptz_send", "a.last_contact_at")},
  {
    ", ".join(
        f"array_agg(t.{_register(name)}) AS {name}" for name in (*NUMBER_ATTRIBUTES, *TEXT_ATTRIBUTES, "renewal_on")
    )
}
FROM {_WANTED}
LEFT JOIN accounts a USING (account_id)
LEFT JOIN health h USING (account_id)
LEFT JOIN account_attributes t USING (account_id)
""")

_MONTHS = text(f"""
SELECT {_PLACE},
  string_agg(date_send(m.month), '') AS month,
  string_agg(array_send(m.logins), '') AS logins,
  string_agg(array_send(m.events), '') AS events,
  string_agg(int4send(m.active_days), '') AS active
FROM {_WANTED}
JOIN account_months m ON m.account_id = wanted.account_id AND m.month BETWEEN CAST(:first AS date) AND CAST(:today AS
date) """)

DAYS_OF_MONTHS: Final = text(f"""
SELECT {_PLACE},
  string_agg(date_send(m.month), '') AS month,
  string_agg(int4send(m.active_days), '') AS active
FROM {_WANTED}
JOIN account_months m ON m.account_id = wanted.account_id AND m.month >= CAST(:first AS date)
""")
"""For ``months_as_days``: the days of activity of some accounts from a month on."""

_USERS = text(f"""
SELECT {_PLACE},
  string_agg(date_send(m.month), '') AS month,
  string_agg(int8send(hashtextextended(m.user_id, 0)), '') AS user_hash,
  string_agg(int4send(m.active_days), '') AS active
FROM {_WANTED}
JOIN user_months m ON m.account_id = wanted.account_id AND m.month BETWEEN CAST(:first AS date) AND CAST(:today AS date)
""")

_FEATURE_DAYS = text(f"""
SELECT {_PLACE}, array_agg(m.feature) AS name,
  string_agg(date_send(m.month), '') AS month,
  string_agg(int4send(m.active_days), '') AS active
FROM {_WANTED}
JOIN feature_months m ON m.account_id = wanted.account_id
  AND m.month BETWEEN CAST(:first AS date) AND CAST(:today AS date)
""")

_FEATURES = text(f"""
SELECT {_PLACE}, array_agg(f.feature) AS name,
  string_agg(timestamptz_send(f.first_at), '') AS first_at,
  string_agg(timestamptz_send(f.last_at), '') AS last_at
FROM {_WANTED}
JOIN features f ON f.account_id = wanted.account_id
""")

_KINDS = ", ".join(
    "(" + ", ".join(f"'{part}'" for part in (kind, *(f"{status}_at" for status in (*statuses, "", "")[:4]))) + ")"
    for kind, statuses in STATUSES.items()
)

_RECORDS = text(f"""
SELECT {_PLACE}, array_agg(r.kind) AS kind, array_agg(r.{_register("status")}) AS status,
  array_agg(r.{_register("due_on")}) AS due_on,
  array_agg(CASE WHEN r.kind = 'goal' THEN coalesce(r.{_register("name")}, r.record_id) END) AS name,
  array_agg(CASE WHEN r.kind = 'goal' THEN r.{_register("signal")} END) AS signal,
  array_agg(CASE WHEN r.kind = 'goal' THEN r.{_register("target")} END) AS target,
  string_agg(timestamptz_send(r.first_at), '') AS first_at,
  {_bytes("status_at", "int8send", f"(r.{_register('status', 't')})::int8")},
  {", ".join(_bytes(f"at_{n}", "int8send", f"(r.fields->k.s{n}->>'t')::int8") for n in range(4))}
FROM {_WANTED}
JOIN records r ON r.account_id = wanted.account_id
JOIN (VALUES {_KINDS}) AS k(kind, s0, s1, s2, s3) ON k.kind = r.kind
WHERE r.kind = ANY(CAST(:kinds AS text[])) AND (
  r.kind IN ('milestone', 'goal') OR r.last_at >= CAST(:since AS timestamptz)
  OR r.{_register("status")} IN ('open', 'pending', 'failed', 'overdue'))
""")

_GOAL_SIGNALS = text(f"""
SELECT DISTINCT r.{_register("signal")} AS signal FROM records r
WHERE r.account_id = ANY(CAST(:ids AS text[])) AND r.kind = 'goal' AND r.fields ? 'signal' AND r.fields ? 'target'
""")

_SURVEYS = text(f"""
SELECT string_agg(int4send((place - 1)::int4), '') AS place,
  string_agg(timestamptz_send(at), '') AS at,
  string_agg(float8send(coalesce(nps, 'NaN')), '') AS nps,
  string_agg(float8send(coalesce(csat, 'NaN')), '') AS csat
FROM (
  SELECT wanted.place, r.last_at AS at,
    {
    ", ".join(
        f"CASE WHEN r.{_register('survey')} = '{kind}' AND jsonb_typeof(r.fields->'score'->'v') = 'number' "
        f"THEN (r.{_register('score')})::float8 END AS {kind}"
        for kind in ("nps", "csat")
    )
},
    row_number() OVER (PARTITION BY wanted.place, r.{_register("survey")} ORDER BY r.last_at DESC) AS newest
  FROM {_WANTED}
  JOIN records r ON r.account_id = wanted.account_id AND r.kind = 'survey'
) answers
WHERE newest = 1 OR at >= CAST(:since AS timestamptz)
""")

_SESSIONS = text(f"""
SELECT {_PLACE}, string_agg(timestamptz_send(r.first_at), '') AS at
FROM {_WANTED}
JOIN records r ON r.account_id = wanted.account_id AND r.kind = 'session'
  AND r.first_at >= CAST(:since AS timestamptz)
""")

# No more than one of the same instant counts (``_numbers``): as a window function that costs most of the query, and the
# planner, which takes what it keeps for few rows, joins it row by row.
_NUMBERS = text(f"""
SELECT {_PLACE}, array_agg(h.attribute) AS attribute, array_agg(h.value #>> '{{}}') AS value,
  string_agg(timestamptz_send(h.valid_from), '') AS at, array_agg(h.event_key) AS event_key
FROM {_WANTED}
JOIN account_history h ON h.account_id = wanted.account_id AND h.attribute = ANY(CAST(:attributes AS text[]))
  AND h.valid_from <= CAST(:now AS timestamptz)
""")

_HISTORY = text(f"""
SELECT {_PLACE}, array_agg(attribute) AS attribute, string_agg(timestamptz_send(valid_from), '') AS valid_from
FROM (
  SELECT place, attribute, max(valid_from) AS valid_from
  FROM (
    SELECT wanted.place, h.attribute, h.valid_from, h.value,
      lag(h.value) OVER (PARTITION BY wanted.place, h.attribute ORDER BY h.valid_from, h.event_key) AS earlier
    FROM {_WANTED}
    JOIN account_history h ON h.account_id = wanted.account_id AND h.attribute = ANY(CAST(:attributes AS text[]))
      AND h.valid_from <= CAST(:now AS timestamptz)
  ) changes
  WHERE value IS DISTINCT FROM earlier
  GROUP BY place, attribute
) wanted
""")

# What was announced (an effective day ahead of its event) is in no register. Only accounts that ever named such a day
# are looked at, and of their history only what is newer than the register.
_ANNOUNCED = text(f"""
SELECT a.place, n.attribute, h.value #>> '{{}}' AS value, h.valid_from, e.said_at,
  CASE WHEN t.{_register("status")} = 'ended' THEN (t.{_register("status", "t")})::int8 END AS ended_us
FROM (
  SELECT DISTINCT wanted.account_id, (wanted.place - 1)::int4 AS place FROM {_WANTED}
  JOIN records r ON r.account_id = wanted.account_id AND r.kind = 'subscription' AND r.fields ? 'effective_on'
) a
LEFT JOIN account_attributes t USING (account_id)
CROSS JOIN unnest(CAST(:attributes AS text[])) AS n(attribute)
JOIN account_history h ON h.account_id = a.account_id AND h.attribute = n.attribute
  AND (h.valid_from, h.event_key COLLATE "C")
    > (coalesce('epoch'::timestamptz + (t.fields->n.attribute->>'t')::int8 * interval '1 microsecond', '-infinity'),
       coalesce(t.fields->n.attribute->>'k', '') COLLATE "C")
LEFT JOIN LATERAL (
  SELECT max(at) AS said_at FROM record_events
  WHERE account_id = a.account_id AND kind = 'subscription' AND event_key = h.event_key
) e ON true
ORDER BY h.valid_from, e.said_at, h.event_key COLLATE "C"
""")


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
    columns = _account_columns(await reading.accounts())
    named = {"ids": reading.ids, "attributes": list(_HISTORY_ATTRIBUTES)}
    announcements = (await conn.execute(_ANNOUNCED, named)).all()
    known = await _one(conn, _HISTORY, {**named, "now": now}) if history else None
    if fleet is not None:
        columns |= {"fleet": fleet, "active_days": await reading.active_days()}
    records = await reading.records()
    return Facts(
        account_ids=tuple(reading.ids),
        now_us=reading.now_us,
        first_day_us=reading.first_us,
        **columns,
        **_day_columns(await reading.months(), len(reading.ids), reading.span),
        users=_users(await reading.users(), reading.row_span),
        features=_features(await reading.features()),
        feature_days=_feature_days(await reading.feature_days(), reading.row_span),
        tickets=_records(records, "ticket"),
        payments=_records(records, "payment"),
        milestones=_records(records, "milestone"),
        goals=_goals(records, custom),
        surveys=_surveys(await reading.surveys()),
        sessions=_sessions(await reading.sessions()),
        history=_numbers(await reading.numbers()),
        known_from=_known_from(known, len(reading.ids)) if known is not None else {},
        announced=_announced(announcements, columns, reading.now_us),
        children=await read_children(conn, reading.ids),
        custom=MappingProxyType(in_use),
        chosen={name: await reading.chosen(signal) for name, signal in in_use.items()},
    )


async def _goal_signals(
    conn: AsyncConnection, ids: Sequence[str], custom: Mapping[str, CustomSignal]
) -> set[SignalRef]:
    """The signals that the goals of these accounts are measured by: they are computed, too, so their facts are
    read."""
    named = (await conn.scalars(_GOAL_SIGNALS, {"ids": list(ids)})).all()
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
        self.span = _Span(first_day=first_day, days=wanted.days)
        self._months = {"ids": ids, "first": first_day.replace(day=1), "today": self._today}
        row_day = self._today - timedelta(days=wanted.row_days - 1)
        self.row_span = _Span(first_day=row_day, days=wanted.row_days)
        self._row_months = {**self._months, "first": row_day.replace(day=1)}
        self._recent = {"ids": ids, "since": from_us(self.first_us)}

    async def accounts(self) -> Row:
        return await _one(self._conn, _ACCOUNTS, {"ids": self.ids})

    async def active_days(self) -> ActiveDays:
        first = (self._today - timedelta(days=RHYTHM_DAYS)).replace(day=1)
        row = await self._if(self._wanted.rhythm, DAYS_OF_MONTHS, {"ids": self.ids, "first": first})
        account, day = months_as_days(row)
        return ActiveDays(account=account, day=day)

    async def months(self) -> Row:
        return await self._if(self._wanted.counts, _MONTHS, self._months)

    async def users(self) -> Row:
        return await self._if("user_months" in self._wanted.parts, _USERS, self._row_months)

    async def features(self) -> Row:
        return await self._if("features" in self._wanted.parts, _FEATURES, {"ids": self.ids})

    async def feature_days(self) -> Row:
        return await self._if("feature_months" in self._wanted.parts, _FEATURE_DAYS, self._row_months)

    async def records(self) -> Row:
        kinds = [kind for kind in STATUSES if f"{kind}s" in self._wanted.parts]
        return await self._if(bool(kinds), _RECORDS, {**self._recent, "kinds": kinds})

    async def surveys(self) -> Row:
        return await self._if("surveys" in self._wanted.parts, _SURVEYS, self._recent)

    async def sessions(self) -> Row:
        return await self._if("sessions" in self._wanted.parts, _SESSIONS, self._recent)

    async def numbers(self) -> Row:
        values = {"ids": self.ids, "attributes": list(HISTORY_NUMBERS), "now": self._now}
        return await self._if("account_history" in self._wanted.parts, _NUMBERS, values)

    async def chosen(self, signal: CustomSignal) -> Chosen:
        return await choose(self._conn, self.ids, signal, now=self._now, since=from_us(self.first_us))

    async def _if(self, wanted: bool, query: TextClause, values: Mapping[str, Any]) -> Row:
        return await _one(self._conn, query, values) if wanted else _NOTHING


@dataclass(frozen=True, kw_only=True)
class _Span:
    """The days of the arrays."""

    first_day: date
    days: int

    def scatter(self, row: Ints, month: Ints, values: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
        """Month rows as one day array per ``row``: ``values`` (N, 31) of months given as days since 2000-01-01."""
        begin = month - (self.first_day - _PG_EPOCH).days
        day = begin[:, None] + np.arange(_MONTH_DAYS)
        months = (np.datetime64(_PG_EPOCH) + month.astype("timedelta64[D]")).astype("datetime64[M]")
        length = ((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64)
        inside = (day >= 0) & (day < self.days) & (np.arange(_MONTH_DAYS) < length[:, None])
        grid = np.zeros((rows, self.days), dtype=values.dtype)
        grid[np.broadcast_to(row[:, None], day.shape)[inside], day[inside]] = values[inside]
        return grid


async def _one(conn: AsyncConnection, query: TextClause, parameters: Mapping[str, Any]) -> RowMapping:
    return (await conn.execute(query, parameters)).mappings().one()


def _int32(value: bytes | None) -> Ints:
    return np.frombuffer(value or b"", dtype=">i4").astype(np.int64)


def _int64(value: bytes | None) -> Ints:
    return np.frombuffer(value or b"", dtype=">i8").astype(np.int64)


def _float64(value: bytes | None) -> Floats:
    return np.frombuffer(value or b"", dtype=">f8").astype(np.float64)


def _time(value: bytes | None) -> Instants:
    """Binary timestamps count from 2000-01-01; the least is -infinity, which stands for none."""
    at = _int64(value)
    return np.where(at == NEVER, NEVER, at + _PG_EPOCH_US)


def _object(values: Sequence[Any] | None) -> Texts:
    column = np.empty(len(values or ()), dtype=object)
    column[:] = list(values or ())
    return column


@lru_cache(maxsize=8192)
def _date(value: str | None) -> int:
    """00:00 UTC of an ISO date; NEVER for none and for what is not a date."""
    if value is None:
        return NEVER
    try:
        return (date.fromisoformat(value[:10]) - date(1970, 1, 1)).days * DAY
    except ValueError:
        return NEVER


def _number(value: str | None) -> float:
    """A number from a trait; NaN for none and for what is not a number."""
    if value is None:
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def _day_arrays(value: bytes | None) -> Ints:
    """(N, 31) from arrays as ``array_send`` writes them: a header, then 4 bytes of length and 8 of value per
    element."""
    raw = np.frombuffer(value or b"", dtype=np.uint8)
    if len(raw) % _ARRAY_BYTES:
        raise ValueError(f"a day array does not hold {_MONTH_DAYS} numbers; rebuild account_months from the events")
    elements = raw.reshape(-1, _ARRAY_BYTES)[:, 20:].reshape(-1, _MONTH_DAYS, 12)[:, :, 4:]
    return np.ascontiguousarray(elements).view(">i8")[:, :, 0].astype(np.int64)


def _bits(value: bytes | None) -> Bools:
    """(N, 31) from masks whose bit d - 1 stands for day d."""
    return ((_int32(value)[:, None] >> np.arange(_MONTH_DAYS)) & 1).astype(np.bool_)


def _account_columns(row: Row) -> dict[str, Any]:
    order = np.argsort(_int32(row["place"]))
    times = {
        name: _time(row[name])[order]
        for name in (
            "started_at",
            "first_event_at",
            "created_at",
            "last_login_at",
            "last_activity_at",
            "last_contact_at",
        )
    }
    start = times.pop("started_at")
    for otherwise in (times.pop("first_event_at"), times.pop("created_at")):
        start = np.where(start == NEVER, otherwise, start)
    renewal = np.array([_date(value) for value in row["renewal_on"] or ()], dtype=np.int64)
    return {
        **times,
        "start": start,
        "numbers": {name: np.array([_number(v) for v in row[name] or ()])[order] for name in NUMBER_ATTRIBUTES},
        "texts": {name: _object(row[name])[order] for name in TEXT_ATTRIBUTES},
        "renewal_at": renewal[order],
    }


def _day_columns(row: Row, size: int, span: _Span) -> dict[str, Any]:
    place, month = _int32(row["place"]), _int32(row["month"])
    return {
        "logins": span.scatter(place, month, _day_arrays(row["logins"]), size),
        "events": span.scatter(place, month, _day_arrays(row["events"]), size),
        "active": span.scatter(place, month, _bits(row["active"]), size),
    }


def months_as_days(row: Row) -> tuple[Ints, Ints]:
    """(account, day since 1970) of the row of DAYS_OF_MONTHS, ascending: a row per account and active day."""
    place, first = _int32(row["place"]), _int32(row["month"])
    order = np.lexsort((first, place))
    place, first = place[order], first[order] + (_PG_EPOCH - date(1970, 1, 1)).days
    bits = _int32(row["active"])[order].astype(np.uint32)
    month, place_in_month = np.nonzero((bits[:, None] >> np.arange(_MONTH_DAYS, dtype=np.uint32)) & 1)
    return place[month], first[month] + place_in_month


def _users(row: Row, span: _Span) -> Users:
    """Users are told apart by 64 bits of their id within the account."""
    account, _, active = _rows_of_months(row, _int64(row["user_hash"]), span)
    return Users(account=account, active=active)


def _rows_of_months(row: Row, key: Ints, span: _Span) -> tuple[Ints, Ints, Bools]:
    """Month rows as one row per account and ``key``, ascending: (account, key, active)."""
    place = _int32(row["place"])
    order = np.lexsort((key, place))
    place, key = place[order], key[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (place[1:] != place[:-1]) | (key[1:] != key[:-1])
    number = np.cumsum(first) - 1
    active = span.scatter(number, _int32(row["month"])[order], _bits(row["active"])[order], int(first.sum()))
    return place[first], key[first], active


def _feature_days(row: Row, span: _Span) -> FeatureDays:
    names = row["name"] or ()
    listed = sorted(set(names))
    numbers = {name: number for number, name in enumerate(listed)}
    number = np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))
    account, number, active = _rows_of_months(row, number, span)
    return FeatureDays(account=account, name=_object(listed)[number], active=active)


def _features(row: Row) -> Features:
    place = _int32(row["place"])
    order = np.argsort(place, kind="stable")
    return Features(
        account=place[order],
        name=_object(row["name"])[order],
        first_at=_time(row["first_at"])[order],
        last_at=_time(row["last_at"])[order],
    )


def _records(row: Row, kind: str) -> Records:
    chosen = np.flatnonzero(_object(row["kind"]) == kind)
    place = _int32(row["place"])[chosen]
    chosen = chosen[np.argsort(place, kind="stable")]
    status = _object(row["status"])[chosen]
    stands_since = _int64(row["status_at"])[chosen]
    status_at = {name: _int64(row[f"at_{n}"])[chosen] for n, name in enumerate(STATUSES[kind])}
    for name, at in status_at.items():
        at[:] = np.where(status == name, np.maximum(at, stands_since), at)
    return Records(
        account=_int32(row["place"])[chosen],
        status=status,
        first_at=_time(row["first_at"])[chosen],
        due_at=np.array([_date(value) for value in _object(row["due_on"])[chosen]], dtype=np.int64),
        status_at=status_at,
    )


def _goals(row: Row, custom: Mapping[str, CustomSignal]) -> Goals:
    chosen = np.flatnonzero(_object(row["kind"]) == "goal")
    chosen = chosen[np.argsort(_int32(row["place"])[chosen], kind="stable")]
    named = zip(_object(row["signal"])[chosen], _object(row["target"])[chosen], strict=True)
    found = [(comparable(signal, custom), target_of(target)) for signal, target in named]
    measured = [(str(ref), target) if ref is not None and target is not None else None for ref, target in found]
    return Goals(
        **vars(_records(row, "goal")),
        name=_object(row["name"])[chosen],
        signal=_object([each and each[0] for each in measured]),
        target=np.array([math.nan if each is None else each[1].value for each in measured], dtype=np.float64),
        at_most=np.array([each is not None and each[1].at_most for each in measured], dtype=np.bool_),
    )


def _surveys(row: Row) -> Surveys:
    place, at = _int32(row["place"]), _time(row["at"])
    order = np.lexsort((at, place))
    return Surveys(
        account=place[order], at=at[order], nps=_float64(row["nps"])[order], csat=_float64(row["csat"])[order]
    )


def _sessions(row: Row) -> Sessions:
    place, at = _int32(row["place"]), _time(row["at"])
    order = np.lexsort((at, place))
    return Sessions(account=place[order], at=at[order])


def _numbers(row: Row) -> History:
    """Of several values of the same instant the one with the greatest event key, by bytes."""
    place, at = _int32(row["place"]), _time(row["at"])
    attribute = _object(row["attribute"])
    number = np.searchsorted(_NUMBERED, attribute.astype(np.str_)) if len(place) else place
    order = np.lexsort((at, number, place))
    sorted_by = np.stack((place, number, at))[:, order]
    if len(place) and (sorted_by[:, 1:] == sorted_by[:, :-1]).all(axis=0).any():
        keys = [key.encode() for key in row["event_key"] or ()]
        newest = {(place[n], number[n], at[n]): n for n in sorted(range(len(keys)), key=keys.__getitem__)}
        order = np.array(sorted(newest.values()), dtype=np.int64)
    order = order[np.lexsort((at[order], place[order]))]
    value = np.array([_number(value) for value in row["value"] or ()], dtype=np.float64)
    return History(account=place[order], attribute=attribute[order], at=at[order], value=value[order])


def _known_from(row: Row, size: int) -> dict[str, Instants]:
    place, attribute, valid_from = _int32(row["place"]), _object(row["attribute"]), _time(row["valid_from"])
    known: dict[str, Instants] = {}
    for name in _HISTORY_ATTRIBUTES:
        known[name] = np.full(size, NEVER, dtype=np.int64)
        chosen = attribute == name
        known[name][place[chosen]] = valid_from[chosen]
    return known


def _announced(rows: Sequence[Any], columns: Mapping[str, Any], now_us: int) -> dict[str, Instants]:
    """Puts what has taken effect by now into ``columns``; returns when the next of each attribute will.

    An end voids what was announced before it was said, for a later day: who renewed for July and left in June does not
    come back in July.
    """
    ends = [
        (row.place, to_us(row.valid_from), to_us(row.said_at))
        for row in rows
        if row.attribute == "status" and row.value == "ended" and row.said_at is not None
    ]
    ends += {(row.place, row.ended_us, row.ended_us) for row in rows if row.ended_us is not None}
    following: dict[str, Instants] = {}
    for row in rows:
        at = to_us(row.valid_from)
        said = at if row.said_at is None else to_us(row.said_at)
        if any(place == row.place and ended <= at and said < end_said for place, ended, end_said in ends):
            continue
        if at <= now_us:
            _take_effect(columns, row)
            continue
        found = following.setdefault(row.attribute, np.full(len(columns["start"]), NEVER, dtype=np.int64))
        if found[row.place] == NEVER:  # rows come in the order of their day
            found[row.place] = at
    return following


def _take_effect(columns: Mapping[str, Any], row: Any) -> None:
    if row.attribute == "renewal_on":
        columns["renewal_at"][row.place] = _date(row.value)
    elif row.attribute in columns["numbers"]:
        columns["numbers"][row.attribute][row.place] = _number(row.value)
    else:
        columns["texts"][row.attribute][row.place] = row.value
