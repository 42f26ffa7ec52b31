"""Reads the events that signals of configuration are made from: one query per signal in use."""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np

from health.columns import Chosen
from health.custom import CustomSignal
from health.facts_queries import TODAY, WANTED, Fetch
from health.instants import to_us
from health.tables import QUANTITY_SCALE

_DAYS: Final = "WITH ORDINALITY AS u(value, day)"
_MONTHS: Final = f"BETWEEN $3::date AND {TODAY}"

_LOGINS: Final = f"""
SELECT wanted.place - 1 AS place, (m.month + (u.day - 1)::int)::timestamp AT TIME ZONE 'UTC' AS at,
  u.value::float8 AS number, NULL AS text
FROM {WANTED} JOIN account_months m ON m.account_id = wanted.account_id AND m.month {_MONTHS}
CROSS JOIN LATERAL unnest(m.logins) {_DAYS} WHERE u.value <> 0
"""

# A day counts as one of use by its bit: a quantity may be 0, or be taken back.
_USAGE: Final = f"""
SELECT wanted.place - 1 AS place, (m.month + (u.day - 1)::int)::timestamp AT TIME ZONE 'UTC' AS at,
  u.value::float8 / {QUANTITY_SCALE} AS number,
  CASE WHEN $4::text = 'feature' THEN m.feature ELSE (m.month + (u.day - 1)::int)::text END AS text
FROM {WANTED} JOIN feature_months m ON m.account_id = wanted.account_id AND m.month {_MONTHS}
CROSS JOIN LATERAL unnest(m.quantities) {_DAYS}
WHERE ($5::text[] IS NULL OR m.feature = ANY($5::text[]))
  AND CASE WHEN $4::text = 'quantity' THEN u.value <> 0 ELSE (m.active_days >> (u.day - 1)::int) & 1 = 1 END
"""

# Names $2, as all that may be turned back to a past day do.
_ATTRIBUTE: Final = f"""
SELECT wanted.place - 1 AS place, 'epoch'::timestamptz AS at,
  CASE WHEN jsonb_typeof(t.value) = 'number' THEN (t.value #>> '{{}}')::float8 END AS number,
  t.value #>> '{{}}' AS text
FROM {WANTED} JOIN LATERAL (
  SELECT fields->$3::text->'v' AS value FROM account_attributes a WHERE a.account_id = wanted.account_id
) t ON true
WHERE t.value IS NOT NULL AND $2::timestamptz IS NOT NULL
"""

_EVENT_FIELDS: Final = {"user": "e.user_id", "record": "e.record_id"}
"""What is kept beside an event's own fields."""


async def choose(fetch: Fetch, ids: Sequence[str], custom: CustomSignal, *, now: datetime, since: datetime) -> Chosen:
    """The events of ``ids`` that the signal is made from, in time order per account, none before ``since`` but for the
    last of all."""
    query, values = _query(custom, since)
    rows = sorted(await fetch(query, list(ids), now, *values), key=lambda row: (row["place"], row["at"]))
    numbers = [row["number"] for row in rows]
    return Chosen(
        account=np.array([row["place"] for row in rows], dtype=np.int64),
        at=np.array([to_us(row["at"]) for row in rows], dtype=np.int64),
        number=np.array([np.nan if number is None else number for number in numbers], dtype=np.float64),
        text=np.fromiter((row["text"] for row in rows), dtype=object, count=len(rows)),
    )


def _query(custom: CustomSignal, since: datetime) -> tuple[str, Sequence[Any]]:
    """The values are those from $3 on."""
    spec = custom.spec
    first = since.date().replace(day=1)
    if spec.measure == "attribute":
        return _ATTRIBUTE, [spec.of]
    if spec.event == "login":
        return _LOGINS, [first]
    if spec.event == "usage":
        features = spec.where.get("feature")
        listed = features if isinstance(features, list) or features is None else [features]
        return _USAGE, [first, spec.of, None if listed is None else [str(f) for f in listed]]
    return _events(custom, since)


def _events(custom: CustomSignal, since: datetime) -> tuple[str, Sequence[Any]]:
    spec = custom.spec
    values: list[Any] = [spec.event, (spec.of or "").split(".")]
    conditions = []
    for name, wanted in spec.where.items():
        values += [name.split("."), json.dumps(wanted if isinstance(wanted, list) else [wanted])]
        path, value = len(values) + 1, len(values) + 2
        conditions.append(f"AND ${value}::jsonb @> jsonb_build_array(e.data #> ${path}::text[])")
    if spec.days is not None:
        values.append(since)
        conditions.append(f"AND e.at > ${len(values) + 2}::timestamptz")
    field = "(e.data #> $4::text[])"
    beside = _EVENT_FIELDS.get(spec.of or "")
    query = f"""
SELECT wanted.place - 1 AS place, e.at,
  CASE WHEN jsonb_typeof({field}) = 'number' THEN ({field} #>> '{{}}')::float8 END AS number,
  {beside or f"{field} #>> '{{}}'"} AS text
FROM {WANTED} JOIN record_events e ON e.account_id = wanted.account_id AND e.kind = $3::text
  AND e.at <= $2::timestamptz {" ".join(conditions)}
ORDER BY wanted.place, e.at, e.event_key COLLATE "C"
"""
    return query, values
