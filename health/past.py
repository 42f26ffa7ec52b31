"""The facts as of a past instant, by what is known now: read as ``health/facts.py`` reads the present, from tables that
are turned back to that instant.

What came later by event time is left out. Of what is kept as a single latest value, the value of then is put together
from what is kept in full: attributes from their history, tickets, payments, … from their events, last times from the
days of the months, at the end of their day. Attributes without a history stay as they are now (``undated``).
"""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from health import driver
from health import facts as reading
from health.catalogue import SignalRef
from health.columns import TEXT_ATTRIBUTES, Facts
from health.custom import NONE, CustomSignal
from health.facts_queries import TODAY
from health.rhythm import Fleet
from health.tables import (
    HISTORY_ATTRIBUTES,
    account_attributes,
    account_months,
    accounts,
    feature_months,
    features,
    health,
    records,
    user_months,
)

_AT: Final = "$2::timestamptz"
_DAY: Final = TODAY
_THIS_MONTH: Final = f"month = date_trunc('month', {_DAY})::date"
_PLACE: Final = f"extract(day FROM {_DAY})::int"
_KEPT: Final = ", ".join(f"'{name}'" for name in HISTORY_ATTRIBUTES)
UNDATED: Final = tuple(name for name in TEXT_ATTRIBUTES if name not in HISTORY_ATTRIBUTES)
"""Attributes that signals and cards may name and that have no history."""


def _turned_back(table: Table, otherwise: Mapping[str, str], where: str, *, alias: str) -> str:
    """A table of the same name with some columns told ``otherwise``."""
    columns = ", ".join(
        f"{otherwise[column.name]} AS {column.name}" if column.name in otherwise else f"{alias}.{column.name}"
        for column in table.columns
    )
    return f"{table.name} AS NOT MATERIALIZED (SELECT {columns} FROM {table.name} {alias} WHERE {where})"


def _days(name: str) -> str:
    cut = f"{name}[1:{_PLACE}] || array_fill(0::bigint, ARRAY[31 - {_PLACE}])"
    return f"CASE WHEN {_THIS_MONTH} THEN {cut} ELSE {name} END"


_BITS: Final = f"CASE WHEN {_THIS_MONTH} THEN active_days & ((1::bigint << {_PLACE}) - 1)::int ELSE active_days END"


def _last_day(month_table: str, days: str, where: str) -> str:
    """The last moment of the last day that ``days`` (n, day from 0) of the month rows ``where`` tell."""
    return f"""(SELECT (m.month + d.day::int + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 microsecond'
    FROM {month_table} m CROSS JOIN LATERAL {days} WHERE {where} ORDER BY m.month DESC, d.day DESC LIMIT 1)"""


_LOGIN_DAYS: Final = "(SELECT u.n, u.day - 1 AS day FROM unnest(m.logins) WITH ORDINALITY u(n, day) WHERE u.n > 0) d"
_ACTIVE_DAYS: Final = "(SELECT day FROM generate_series(0, 30) day WHERE (m.active_days >> day) & 1 = 1) d"

_REGISTERS: Final = f"""(SELECT coalesce(jsonb_object_agg(h.attribute, jsonb_build_object('v', h.value,
    't', (extract(epoch FROM h.valid_from) * 1000000)::bigint, 'k', h.event_key)), '{{}}')
  FROM (
    SELECT DISTINCT ON (h.attribute) h.attribute, h.value, h.valid_from, h.event_key FROM account_history h
    WHERE h.account_id = t.account_id AND h.valid_from <= {_AT} AND NOT EXISTS (
      SELECT FROM record_events e WHERE e.account_id = h.account_id AND e.kind = 'subscription'
        AND e.event_key = h.event_key AND e.at < h.valid_from)
    ORDER BY h.attribute, h.valid_from DESC, h.event_key COLLATE "C" DESC
  ) h)"""

# As the fold writes it: a register per field, and one per status of when it was last taken.
_FIELDS: Final = f"""(SELECT jsonb_object_agg(f.name, jsonb_build_object('v', f.value,
    't', (extract(epoch FROM f.at) * 1000000)::bigint, 'k', f.event_key))
  FROM (
    SELECT DISTINCT ON (d.name) d.name, d.value, e.at, e.event_key
    FROM record_events e CROSS JOIN LATERAL (
      SELECT key AS name, value FROM jsonb_each(e.data)
      UNION ALL
      SELECT e.data->>s.name || '_at', to_jsonb(e.at)
      FROM (SELECT CASE WHEN e.kind = 'subscription' THEN 'change' ELSE 'status' END AS name) s
      WHERE e.data->>s.name IS NOT NULL
    ) d
    WHERE e.account_id = r.account_id AND e.kind = r.kind AND e.record_id = r.record_id AND e.at <= {_AT}
    ORDER BY d.name, e.at DESC, e.event_key COLLATE "C" DESC
  ) f)"""
_NEWEST: Final = f"""(SELECT max(e.at) FROM record_events e WHERE e.account_id = r.account_id AND e.kind = r.kind
    AND e.record_id = r.record_id AND e.at <= {_AT})"""

# Who is below whom is known of today alone; what the children scored is known of every day.
_AS_CHILD: Final = f"""(SELECT jsonb_build_object('score', s.score, 'red', coalesce((s.band = 'red')::int, 0),
    'worst', jsonb_build_object('account_id', h.account_id, 'name', h.name, 'score', s.score, 'mrr', h.mrr))
  FROM (VALUES (1)) one LEFT JOIN LATERAL (
    SELECT score, band FROM score_history WHERE account_id = h.account_id AND day <= {_DAY} ORDER BY day DESC LIMIT 1
  ) s ON true)"""

# What is looked up several times per account is put together once: OFFSET keeps it from being written out again.
_ONCE: Final = "OFFSET 0"
_OF_THESE: Final = "account_id = ANY($1::text[])"

_TABLES: Final = ",\n".join(
    [
        _turned_back(
            account_months,
            {"logins": _days("logins"), "events": _days("events"), "active_days": _BITS},
            f"month <= {_DAY}",
            alias="am",
        ),
        _turned_back(user_months, {"active_days": _BITS, "last_at": f"least(last_at, {_AT})"}, f"month <= {_DAY}",
                     alias="um"),
        _turned_back(feature_months, {"quantities": _days("quantities"), "active_days": _BITS}, f"month <= {_DAY}",
                     alias="fm"),
        _turned_back(
            features,
            {
                "last_at": f"CASE WHEN last_at <= {_AT} THEN last_at ELSE greatest(first_at, "
                + _last_day("feature_months", _ACTIVE_DAYS, "m.account_id = f.account_id AND m.feature = f.feature")
                + ") END"
            },
            f"first_at <= {_AT}",
            alias="f",
        ),
        _turned_back(
            accounts,
            {
                "last_event_at": f"least(last_event_at, {_AT})",
                "last_login_at": f"CASE WHEN last_login_at <= {_AT} THEN last_login_at ELSE "
                + _last_day("account_months", _LOGIN_DAYS, "m.account_id = a.account_id")
                + " END",
                "last_activity_at": f"CASE WHEN last_activity_at <= {_AT} THEN last_activity_at ELSE "
                + _last_day("account_months", _ACTIVE_DAYS, "m.account_id = a.account_id")
                + " END",
                "last_contact_at": "(SELECT max(e.at) FROM record_events e WHERE e.account_id = a.account_id "
                f"AND e.kind = 'contact' AND e.at <= {_AT})",
            },
            f"first_event_at <= {_AT}",
            alias="a",
        ),
        _turned_back(health, {"as_child": f"h.as_child || {_AS_CHILD}"}, f"created_at <= {_AT}", alias="h"),
        _turned_back(
            account_attributes, {"fields": f"(t.fields - ARRAY[{_KEPT}]) || {_REGISTERS}"}, f"t.{_OF_THESE} {_ONCE}",
            alias="t",
        ),
        f"account_history AS NOT MATERIALIZED (SELECT * FROM account_history WHERE valid_from <= {_AT})",
        _turned_back(
            records,
            {
                "last_at": f"CASE WHEN last_at <= {_AT} THEN last_at ELSE {_NEWEST} END",
                "fields": f"CASE WHEN last_at <= {_AT} THEN fields ELSE {_FIELDS} END",
            },
            f"r.{_OF_THESE} AND first_at <= {_AT} {_ONCE}",
            alias="r",
        ),
    ]
)  # fmt: skip


def turned_back(query: str) -> str:
    """A query of the accounts ``$1`` in which names of fact tables stand for what they held at ``$2``."""
    if _WITH.match(query):
        raise TypeError("a clause of the query's own would stand beside these tables, or take them for itself")
    return f"WITH {_TABLES}\n{query}"


_WITH: Final = re.compile(r"\s*WITH\b", re.IGNORECASE)


async def read(
    conn: AsyncConnection,
    account_ids: Sequence[str],
    *,
    at: datetime,
    refs: Iterable[SignalRef],
    fleet: Fleet,
    custom: Mapping[str, CustomSignal] = NONE,
) -> Facts:
    """As ``facts.read`` would have told at ``at``, the last moment of a UTC day. Raises ValueError for a naive one."""

    async def fetch(query: str, *values: Any) -> Sequence[Any]:
        return await driver.fetch(conn, turned_back(query), *values)

    return await reading.read_by(fetch, account_ids, now=at, refs=refs, fleet=fleet, custom=custom)


_UNDATED: Final = text("""
SELECT DISTINCT n.name FROM account_attributes t CROSS JOIN unnest(CAST(:names AS text[])) AS n(name)
WHERE t.account_id = :account_id AND (t.fields->n.name->>'t')::bigint > :at ORDER BY 1
""")


async def undated(conn: AsyncConnection, account_id: str, at_us: int) -> list[str]:
    """Attributes without a history that were set after ``at``: what they were then is not known."""
    found = await conn.scalars(_UNDATED, {"account_id": account_id, "names": list(UNDATED), "at": at_us})
    return list(found)
