"""Reads the facts of a batch of accounts into columns (``health/columns.py``): a few set-based queries, no row per
fact.

Each query gives one row of byte strings: Postgres' own binary form of a column (``int8send``, ``timestamptz_send``,
``array_send``), which numpy takes as it is. Decoding value by value would cost more than all the signals.
Read after the account's health row is locked, so that nothing applied before is missed.
"""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from health.arrays import Bools, Floats, Ints, Texts
from health.columns import (
    NUMBER_ATTRIBUTES,
    TEXT_ATTRIBUTES,
    ActiveDays,
    Facts,
    Features,
    Records,
    Surveys,
    Users,
)
from health.instants import DAY, NEVER, Instants, from_us, to_us
from health.rhythm import Fleet

DEFAULT_DAYS: Final = 92
"""Length of the day arrays: the longest window of 56 days, and room to look back for when an episode began."""

RHYTHM_DAYS: Final = 1100
"""How far back days of activity are read for the rhythm: three years, after which a pause hardly weighs any more."""

STATUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "ticket": ("open", "pending", "solved", "closed"),
    "payment": ("failed", "overdue", "paid", "refunded"),
    "milestone": ("planned", "reached"),
    "goal": ("set", "reached", "dropped"),
}
_HISTORY_ATTRIBUTES: Final = ("mrr", "seats", "plan", "status", "segment", "owner", "currency", "renewal_on")
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
  {_bytes("score_28d_ago", "float8send", "s.score", "float8send('NaN')")},
  {
    ", ".join(
        f"array_agg(t.{_register(name)}) AS {name}" for name in (*NUMBER_ATTRIBUTES, *TEXT_ATTRIBUTES, "renewal_on")
    )
}
FROM {_WANTED}
LEFT JOIN accounts a USING (account_id)
LEFT JOIN health h USING (account_id)
LEFT JOIN account_attributes t USING (account_id)
LEFT JOIN LATERAL (
  SELECT score FROM score_history WHERE score_history.account_id = wanted.account_id AND day <= CAST(:score_day AS date)
  ORDER BY day DESC LIMIT 1
) s ON true
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
  string_agg(timestamptz_send(r.first_at), '') AS first_at,
  {_bytes("status_at", "int8send", f"(r.{_register('status', 't')})::int8")},
  {", ".join(_bytes(f"at_{n}", "int8send", f"(r.fields->k.s{n}->>'t')::int8") for n in range(4))}
FROM {_WANTED}
JOIN records r ON r.account_id = wanted.account_id
JOIN (VALUES {_KINDS}) AS k(kind, s0, s1, s2, s3) ON k.kind = r.kind
WHERE r.kind IN ('milestone', 'goal') OR r.last_at >= CAST(:since AS timestamptz)
  OR r.{_register("status")} IN ('open', 'pending', 'failed', 'overdue')
""")

_SURVEYS = text(f"""
SELECT string_agg(int4send((place - 1)::int4), '') AS place,
  string_agg(timestamptz_send(at), '') AS at,
  string_agg(float8send(coalesce(nps, 'NaN')), '') AS nps
FROM (
  SELECT wanted.place, r.last_at AS at,
    CASE WHEN r.{_register("survey")} = 'nps' AND jsonb_typeof(r.fields->'score'->'v') = 'number'
      THEN (r.{_register("score")})::float8 END AS nps,
    row_number() OVER (PARTITION BY wanted.place, r.{_register("survey")} ORDER BY r.last_at DESC) AS newest
  FROM {_WANTED}
  JOIN records r ON r.account_id = wanted.account_id AND r.kind = 'survey'
) answers
WHERE newest = 1 OR at >= CAST(:since AS timestamptz)
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
    days: int = DEFAULT_DAYS,
    history: bool = False,
    fleet: Fleet | None = None,
) -> Facts:
    """The facts of ``account_ids`` (distinct), in that order, as they stand in the database.

    An account without any row has no start, and its signals are unknown. With ``history`` the columns tell since when
    the present value of plan, MRR, … stands, so that signals at past instants are not computed from later values;
    that reads every kept value of those accounts, so ask for it for a few. Signals of rhythm need the ``fleet``, with
    which the days of activity of RHYTHM_DAYS are read. Raises ValueError for a naive ``now``.
    """
    now_us = to_us(now)
    today_us = now_us - now_us % DAY
    first_us = today_us - (days - 1) * DAY
    today = date(1970, 1, 1) + timedelta(days=today_us // DAY)
    first_day = today - timedelta(days=days - 1)
    ids = list(account_ids)
    window = {"ids": ids, "first": first_day.replace(day=1), "today": today}
    recent = {"ids": ids, "since": from_us(first_us)}
    accounts = await _one(conn, _ACCOUNTS, {"ids": ids, "score_day": today - timedelta(days=28)})
    months = await _one(conn, _MONTHS, window)
    users = await _one(conn, _USERS, window)
    features = await _one(conn, _FEATURES, {"ids": ids})
    records = await _one(conn, _RECORDS, recent)
    surveys = await _one(conn, _SURVEYS, recent)
    named = {"ids": ids, "attributes": list(_HISTORY_ATTRIBUTES)}
    announcements = (await conn.execute(_ANNOUNCED, named)).all()
    known = await _one(conn, _HISTORY, {**named, "now": now}) if history else None
    span = _Span(first_day=first_day, days=days)
    columns = _account_columns(accounts)
    if fleet is not None:
        rhythm_from = (today - timedelta(days=RHYTHM_DAYS)).replace(day=1)
        row = await _one(conn, DAYS_OF_MONTHS, {"ids": ids, "first": rhythm_from})
        account, day = months_as_days(row)
        columns |= {"fleet": fleet, "active_days": ActiveDays(account=account, day=day)}
    return Facts(
        account_ids=tuple(ids),
        now_us=now_us,
        first_day_us=first_us,
        **columns,
        **_day_columns(months, len(ids), span),
        users=_users(users, span),
        features=_features(features),
        tickets=_records(records, "ticket"),
        payments=_records(records, "payment"),
        milestones=_records(records, "milestone"),
        goals=_records(records, "goal"),
        surveys=_surveys(surveys),
        known_from=_known_from(known, len(ids)) if known is not None else {},
        announced=_announced(announcements, columns, now_us),
    )


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


def _account_columns(row: RowMapping) -> dict[str, Any]:
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
        "score_28d_ago": _float64(row["score_28d_ago"])[order],
        "numbers": {name: np.array([_number(v) for v in row[name] or ()])[order] for name in NUMBER_ATTRIBUTES},
        "texts": {name: _object(row[name])[order] for name in TEXT_ATTRIBUTES},
        "renewal_at": renewal[order],
    }


def _day_columns(row: RowMapping, size: int, span: _Span) -> dict[str, Any]:
    place, month = _int32(row["place"]), _int32(row["month"])
    return {
        "logins": span.scatter(place, month, _day_arrays(row["logins"]), size),
        "events": span.scatter(place, month, _day_arrays(row["events"]), size),
        "active": span.scatter(place, month, _bits(row["active"]), size),
    }


def months_as_days(row: RowMapping) -> tuple[Ints, Ints]:
    """(account, day since 1970) of the row of DAYS_OF_MONTHS, ascending: a row per account and active day."""
    bits = _int32(row["active"]).astype(np.uint32)
    month, place_in_month = np.nonzero((bits[:, None] >> np.arange(_MONTH_DAYS, dtype=np.uint32)) & 1)
    first = _int32(row["month"]) + (_PG_EPOCH - date(1970, 1, 1)).days
    account, day = _int32(row["place"])[month], first[month] + place_in_month
    order = np.lexsort((day, account))
    return account[order], day[order]


def _users(row: RowMapping, span: _Span) -> Users:
    """Users are told apart by 64 bits of their id within the account."""
    place, user = _int32(row["place"]), _int64(row["user_hash"])
    order = np.lexsort((user, place))
    place, user = place[order], user[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (place[1:] != place[:-1]) | (user[1:] != user[:-1])
    number = np.cumsum(first) - 1
    active = span.scatter(number, _int32(row["month"])[order], _bits(row["active"])[order], int(first.sum()))
    return Users(account=place[first], active=active)


def _features(row: RowMapping) -> Features:
    place = _int32(row["place"])
    order = np.argsort(place, kind="stable")
    return Features(
        account=place[order],
        name=_object(row["name"])[order],
        first_at=_time(row["first_at"])[order],
        last_at=_time(row["last_at"])[order],
    )


def _records(row: RowMapping, kind: str) -> Records:
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


def _surveys(row: RowMapping) -> Surveys:
    place, at = _int32(row["place"]), _time(row["at"])
    order = np.lexsort((at, place))
    return Surveys(account=place[order], at=at[order], nps=_float64(row["nps"])[order])


def _known_from(row: RowMapping, size: int) -> dict[str, Instants]:
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
