"""The queries of ``health/facts.py``. Each gives one row of columns, a byte string or an array each, that
``health/facts_columns.py`` takes apart.

``health/past.py`` reads with the same ones, from tables turned back to a past day.
"""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import text

from health.columns import NUMBER_ATTRIBUTES, TEXT_ATTRIBUTES

STATUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "ticket": ("open", "pending", "solved", "closed"),
    "payment": ("failed", "overdue", "paid", "refunded"),
    "milestone": ("planned", "reached"),
    "goal": ("set", "reached", "dropped"),
}
KEPT_ATTRIBUTES: Final = ("mrr", "seats", "plan", "status", "segment", "owner", "currency", "renewal_on")

_WANTED = "unnest(CAST(:ids AS text[])) WITH ORDINALITY AS wanted(account_id, place)"
_PLACE = "string_agg(int4send((wanted.place - 1)::int4), '') AS place"


def _bytes(name: str, send: str, value: str, otherwise: str = "int8send((-9223372036854775808)::int8)") -> str:
    return f"string_agg(coalesce({send}({value}), {otherwise}), '') AS {name}"


def _register(attribute: str, part: str = "v") -> str:
    return f"fields->'{attribute}'->>'{part}'"


ACCOUNTS: Final = text(f"""
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

MONTHS: Final = text(f"""
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

USERS: Final = text(f"""
SELECT {_PLACE},
  string_agg(date_send(m.month), '') AS month,
  string_agg(int8send(hashtextextended(m.user_id, 0)), '') AS user_hash,
  string_agg(int4send(m.active_days), '') AS active
FROM {_WANTED}
JOIN user_months m ON m.account_id = wanted.account_id AND m.month BETWEEN CAST(:first AS date) AND CAST(:today AS date)
""")

FEATURE_DAYS: Final = text(f"""
SELECT {_PLACE}, array_agg(m.feature) AS name,
  string_agg(date_send(m.month), '') AS month,
  string_agg(int4send(m.active_days), '') AS active
FROM {_WANTED}
JOIN feature_months m ON m.account_id = wanted.account_id
  AND m.month BETWEEN CAST(:first AS date) AND CAST(:today AS date)
""")

FEATURES: Final = text(f"""
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

RECORDS: Final = text(f"""
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

GOAL_SIGNALS: Final = text(f"""
SELECT DISTINCT r.{_register("signal")} AS signal FROM records r
WHERE r.account_id = ANY(CAST(:ids AS text[])) AND r.kind = 'goal' AND r.fields ? 'signal' AND r.fields ? 'target'
""")

SURVEYS: Final = text(f"""
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

SESSIONS: Final = text(f"""
SELECT {_PLACE}, string_agg(timestamptz_send(r.first_at), '') AS at
FROM {_WANTED}
JOIN records r ON r.account_id = wanted.account_id AND r.kind = 'session'
  AND r.first_at >= CAST(:since AS timestamptz)
""")

# No more than one of the same instant counts: ``facts_columns.numbers`` sees to it. As a window function it costs most
# of the query, and the planner, which takes what it keeps for few rows, joins it row by row.
NUMBERS: Final = text(f"""
SELECT {_PLACE}, array_agg(h.attribute) AS attribute, array_agg(h.value #>> '{{}}') AS value,
  string_agg(timestamptz_send(h.valid_from), '') AS at, array_agg(h.event_key) AS event_key
FROM {_WANTED}
JOIN account_history h ON h.account_id = wanted.account_id AND h.attribute = ANY(CAST(:attributes AS text[]))
  AND h.valid_from <= CAST(:now AS timestamptz)
""")

HISTORY: Final = text(f"""
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
ANNOUNCED: Final = text(f"""
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
