"""Reads the events that signals of configuration are made from: one query per signal in use."""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from health.columns import Chosen
from health.custom import CustomSignal
from health.instants import to_us
from health.tables import QUANTITY_SCALE

_WANTED: Final = "unnest(CAST(:ids AS text[])) WITH ORDINALITY AS wanted(account_id, place)"
_DAYS: Final = "WITH ORDINALITY AS u(value, day)"
_MONTHS: Final = "BETWEEN CAST(:first AS date) AND CAST(:today AS date)"

_LOGINS: Final = text(f"""
SELECT wanted.place - 1 AS place, (m.month + (u.day - 1)::int)::timestamp AT TIME ZONE 'UTC' AS at,
  u.value::float8 AS number, NULL AS text
FROM {_WANTED} JOIN account_months m ON m.account_id = wanted.account_id AND m.month {_MONTHS}
CROSS JOIN LATERAL unnest(m.logins) {_DAYS} WHERE u.value <> 0
""")

# A day counts as one of use by its bit: a quantity may be 0, or be taken back.
_USAGE: Final = text(f"""
SELECT wanted.place - 1 AS place, (m.month + (u.day - 1)::int)::timestamp AT TIME ZONE 'UTC' AS at,
  u.value::float8 / {QUANTITY_SCALE} AS number,
  CASE WHEN :of = 'feature' THEN m.feature ELSE (m.month + (u.day - 1)::int)::text END AS text
FROM {_WANTED} JOIN feature_months m ON m.account_id = wanted.account_id AND m.month {_MONTHS}
CROSS JOIN LATERAL unnest(m.quantities) {_DAYS}
WHERE (CAST(:features AS text[]) IS NULL OR m.feature = ANY(CAST(:features AS text[])))
  AND CASE WHEN :of = 'quantity' THEN u.value <> 0 ELSE (m.active_days >> (u.day - 1)::int) & 1 = 1 END
""")

_ATTRIBUTE: Final = text(f"""
SELECT wanted.place - 1 AS place, 'epoch'::timestamptz AS at,
  CASE WHEN jsonb_typeof(t.value) = 'number' THEN (t.value #>> '{{}}')::float8 END AS number,
  t.value #>> '{{}}' AS text
FROM {_WANTED} JOIN LATERAL (
  SELECT fields->CAST(:of AS text)->'v' AS value FROM account_attributes a WHERE a.account_id = wanted.account_id
) t ON true
WHERE t.value IS NOT NULL
""")

_EVENT_FIELDS: Final = {"user": "e.user_id", "record": "e.record_id"}
"""What is kept beside an event's own fields."""


async def choose(
    conn: AsyncConnection, ids: Sequence[str], custom: CustomSignal, *, now: datetime, since: datetime
) -> Chosen:
    """The events of ``ids`` that the signal is made from, in time order per account, none before ``since`` but for the
    last of all."""
    query, values = _query(custom, now, since)
    rows = (await conn.execute(query, {"ids": list(ids), **values})).all()
    rows = sorted(rows, key=lambda row: (row.place, row.at))
    texts = np.empty(len(rows), dtype=object)
    texts[:] = [row.text for row in rows]
    return Chosen(
        account=np.array([row.place for row in rows], dtype=np.int64),
        at=np.array([to_us(row.at) for row in rows], dtype=np.int64),
        number=np.array([np.nan if row.number is None else row.number for row in rows], dtype=np.float64),
        text=texts,
    )


def _query(custom: CustomSignal, now: datetime, since: datetime) -> tuple[TextClause, Mapping[str, Any]]:
    spec = custom.spec
    months = {"first": since.date().replace(day=1), "today": now.date()}
    if spec.measure == "attribute":
        return _ATTRIBUTE, {"of": spec.of}
    if spec.event == "login":
        return _LOGINS, months
    if spec.event == "usage":
        features = spec.where.get("feature")
        listed = features if isinstance(features, list) or features is None else [features]
        return _USAGE, {**months, "of": spec.of, "features": None if listed is None else [str(f) for f in listed]}
    return _events(custom, now, since)


def _events(custom: CustomSignal, now: datetime, since: datetime) -> tuple[TextClause, Mapping[str, Any]]:
    spec = custom.spec
    values: dict[str, Any] = {"kind": spec.event, "now": now, "of": (spec.of or "").split(".")}
    conditions = []
    for number, (name, wanted) in enumerate(spec.where.items()):
        values[f"path{number}"] = name.split(".")
        values[f"value{number}"] = json.dumps(wanted if isinstance(wanted, list) else [wanted])
        conditions.append(
            f"AND CAST(:value{number} AS jsonb) @> jsonb_build_array(e.data #> CAST(:path{number} AS text[]))"
        )
    if spec.days is not None:
        values["since"] = since
        conditions.append("AND e.at > CAST(:since AS timestamptz)")
    field = "(e.data #> CAST(:of AS text[]))"
    beside = _EVENT_FIELDS.get(spec.of or "")
    query = f"""
SELECT wanted.place - 1 AS place, e.at,
  CASE WHEN jsonb_typeof({field}) = 'number' THEN ({field} #>> '{{}}')::float8 END AS number,
  {beside or f"{field} #>> '{{}}'"} AS text
FROM {_WANTED} JOIN record_events e ON e.account_id = wanted.account_id AND e.kind = CAST(:kind AS text)
  AND e.at <= CAST(:now AS timestamptz) {" ".join(conditions)}
ORDER BY wanted.place, e.at, e.event_key COLLATE "C"
"""
    return text(query), values
