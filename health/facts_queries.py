"""The query of ``health/facts.py``: one statement, of a part per kind of fact. Each part gives one row of columns, a
byte string or an array each, that ``health/facts_columns.py`` takes apart. ``$1`` are the accounts, ``$2`` is now.

``health/past.py`` reads with the same one, from tables turned back to a past day.
"""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from health.columns import HISTORY_NUMBERS, NUMBER_ATTRIBUTES, TEXT_ATTRIBUTES
from health.facts_wanted import RHYTHM_DAYS, Wanted

STATUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "ticket": ("open", "pending", "solved", "closed"),
    "payment": ("failed", "overdue", "paid", "refunded"),
    "milestone": ("planned", "reached"),
    "goal": ("set", "reached", "dropped"),
}
KINDS: Final = tuple(STATUSES)
MOST_STATUSES: Final = max(map(len, STATUSES.values()))
KEPT_ATTRIBUTES: Final = ("mrr", "seats", "plan", "status", "segment", "owner", "currency", "renewal_on")

WANTED: Final = "unnest($1::text[]) WITH ORDINALITY AS wanted(account_id, place)"
TODAY: Final = "($2::timestamptz AT TIME ZONE 'UTC')::date"
_PLACE: Final = "string_agg(int4send((wanted.place - 1)::int4), '')"
_LEAST: Final = "(-9223372036854775808)::int8"


@dataclass(frozen=True, kw_only=True)
class Part:
    """``columns``: aggregates by name, over ``rows``."""

    columns: Mapping[str, str]
    rows: str

    @property
    def text(self) -> str:
        columns = ",\n  ".join(f"{value} AS {name}" for name, value in self.columns.items())
        return f"SELECT {columns}\nFROM {self.rows}"


Row = Mapping[str, Any]
Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""``driver.fetch`` on some connection: the rows of a query with its values."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Some parts at once. It is the same text for the same needs: what is prepared once is used again."""

    text: str
    parts: Mapping[str, Part]

    def rows(self, values: Iterable[Any]) -> dict[str, Row]:
        """The values of its one row, by part and column."""
        following = iter(values)
        return {name: {column: next(following) for column in part.columns} for name, part in self.parts.items()}


@lru_cache(64)
def statement(wanted: Wanted) -> Statement:
    parts = {name: part for name, part in _parts(wanted).items() if part is not None}
    rows = "\nCROSS JOIN ".join(f"({part.text}) AS {name}" for name, part in parts.items())
    # Names $2 even where no part does: a statement takes what it names and no more.
    return Statement(text=f"SELECT * FROM {rows}\nWHERE $2::timestamptz IS NOT NULL", parts=parts)


def _parts(wanted: Wanted) -> Mapping[str, Part | None]:
    kinds = [kind for kind in KINDS if f"{kind}s" in wanted.parts]
    return {
        "accounts": _ACCOUNTS,
        "announced": _ANNOUNCED,
        "children": _CHILDREN,
        "months": _months(wanted) if wanted.counts or wanted.rhythm else None,
        "users": _users(wanted.mark_days) if "user_months" in wanted.parts else None,
        "features": _FEATURES if "features" in wanted.parts else None,
        "feature_days": _feature_days(wanted.mark_days) if "feature_months" in wanted.parts else None,
        "records": _records(kinds, wanted.days) if kinds else None,
        "surveys": _surveys(wanted.days) if "surveys" in wanted.parts else None,
        "sessions": _sessions(wanted.days) if "sessions" in wanted.parts else None,
        "numbers": _NUMBERS if "account_history" in wanted.parts else None,
        "known": _KNOWN if wanted.known else None,
    }


def _times(*columns: str) -> dict[str, str]:
    """Of columns with their table; the least instant for none."""
    return {
        column.partition(".")[2]: f"string_agg(coalesce(timestamptz_send({column}), int8send({_LEAST})), '')"
        for column in columns
    }


def _register(attribute: str, part: str = "v") -> str:
    return f"fields->'{attribute}'->>'{part}'"


def _names(names: Iterable[str]) -> str:
    return "'{" + ",".join(names) + "}'::text[]"


def _since(days: int) -> str:
    """The beginning of the first of so many days, of which today is the last."""
    return f"(({TODAY} - {days - 1})::timestamp AT TIME ZONE 'UTC')"


def _within(days: int) -> str:
    """Months that may have one of the last ``days`` days; ``facts_columns.within`` tells them when they have come."""
    return f"m.month BETWEEN {TODAY} - {days + 29} AND {TODAY}"


_ACCOUNTS: Final = Part(
    columns={
        "place": _PLACE,
        **_times("a.started_at", "a.first_event_at", "h.created_at", "a.last_login_at", "a.last_activity_at"),
        **_times("a.last_contact_at"),
        **{name: f"array_agg(t.{_register(name)})" for name in (*NUMBER_ATTRIBUTES, *TEXT_ATTRIBUTES, "renewal_on")},
    },
    rows=f"""{WANTED}
LEFT JOIN accounts a USING (account_id)
LEFT JOIN health h USING (account_id)
LEFT JOIN account_attributes t USING (account_id)""",
)


def _months(wanted: Wanted) -> Part:
    """Counts are most of what is read: of the day arrays' months alone, however far back the rhythm looks."""
    counted = [name for name, is_wanted in (("logins", wanted.logins), ("events", wanted.events)) if is_wanted]
    days = max(RHYTHM_DAYS if wanted.rhythm else 0, wanted.days)
    return Part(
        columns={
            "place": _PLACE,
            "month": "string_agg(date_send(m.month), '')",
            "active": "string_agg(int4send(m.active_days), '')",
            **{name: f"string_agg(array_send(m.{name}), '') FILTER (WHERE {_within(wanted.days)})" for name in counted},
        },
        rows=f"""{WANTED}
JOIN account_months m ON m.account_id = wanted.account_id AND m.month >= {TODAY} - {days + 30}""",
    )


def _users(days: int) -> Part:
    return Part(
        columns={
            "place": _PLACE,
            "month": "string_agg(date_send(m.month), '')",
            "active": "string_agg(int4send(m.active_days), '')",
            "user_hash": "string_agg(int8send(hashtextextended(m.user_id, 0)), '')",
        },
        rows=f"{WANTED}\nJOIN user_months m ON m.account_id = wanted.account_id AND {_within(days)}",
    )


_FEATURE_HASH: Final = "hashtextextended(m.feature, 0)"

FEATURE_NAMES: Final = f"""
SELECT DISTINCT {_FEATURE_HASH} AS hash, m.feature AS name FROM feature_months m
WHERE m.account_id = ANY($1::text[]) AND m.month <= {TODAY} AND {_FEATURE_HASH} = ANY($3::int8[])
"""
"""What features are called that came as a hash."""


def _feature_days(days: int) -> Part:
    return Part(
        columns={
            "place": _PLACE,
            "month": "string_agg(date_send(m.month), '')",
            "active": "string_agg(int4send(m.active_days), '')",
            "feature_hash": f"string_agg(int8send({_FEATURE_HASH}), '')",
        },
        rows=f"{WANTED}\nJOIN feature_months m ON m.account_id = wanted.account_id AND {_within(days)}",
    )


_FEATURES: Final = Part(
    columns={"place": _PLACE, "name": "array_agg(f.feature)", **_times("f.first_at", "f.last_at")},
    rows=f"{WANTED}\nJOIN features f ON f.account_id = wanted.account_id",
)


def _records(kinds: Iterable[str], days: int) -> Part:
    """Those of before the last ``days`` days only where they are open, but for milestones and goals."""
    kinds = list(kinds)
    registers = {kind: [f"{status}_at" for status in STATUSES[kind]] for kind in kinds}
    numbered = ", ".join(
        str((kind, KINDS.index(kind), *(*names, "", "")[:MOST_STATUSES])) for kind, names in registers.items()
    )
    at = {f"at_{n}": f"(r.fields->k.s{n}->>'t')::int8" for n in range(MOST_STATUSES)}
    at["status_at"] = f"(r.{_register('status', 't')})::int8"
    of_goals = {
        "name": f"coalesce(r.{_register('name')}, r.record_id)",
        "signal": f"r.{_register('signal')}",
        "target": f"r.{_register('target')}",
    }
    return Part(
        columns={
            "place": _PLACE,
            "kind": "string_agg(int4send(k.number), '')",
            "status": f"array_agg(r.{_register('status')})",
            "due_on": f"array_agg(r.{_register('due_on')})",
            **{name: f"array_agg({value}) FILTER (WHERE r.kind = 'goal')" for name, value in of_goals.items()},
            **_times("r.first_at"),
            **{name: f"string_agg(int8send(coalesce({value}, {_LEAST})), '')" for name, value in at.items()},
        },
        rows=f"""{WANTED}
JOIN records r ON r.account_id = wanted.account_id AND r.kind = ANY({_names(kinds)})
JOIN (VALUES {numbered}) AS k(kind, number, s0, s1, s2, s3) ON k.kind = r.kind
WHERE r.kind IN ('milestone', 'goal') OR r.last_at >= {_since(days)}
  OR r.{_register("status")} IN ('open', 'pending', 'failed', 'overdue')""",
    )


def _surveys(days: int) -> Part:
    scores = {
        kind: f"CASE WHEN r.{_register('survey')} = '{kind}' AND jsonb_typeof(r.fields->'score'->'v') = 'number' "
        f"THEN (r.{_register('score')})::float8 END"
        for kind in ("nps", "csat")
    }
    return Part(
        columns={
            "place": "string_agg(int4send((place - 1)::int4), '')",
            "at": "string_agg(timestamptz_send(at), '')",
            **{kind: f"string_agg(float8send(coalesce({kind}, 'NaN')), '')" for kind in scores},
        },
        rows=f"""(
  SELECT wanted.place, r.last_at AS at, {", ".join(f"{value} AS {kind}" for kind, value in scores.items())},
    row_number() OVER (PARTITION BY wanted.place, r.{_register("survey")} ORDER BY r.last_at DESC) AS newest
  FROM {WANTED}
  JOIN records r ON r.account_id = wanted.account_id AND r.kind = 'survey'
) answers
WHERE newest = 1 OR at >= {_since(days)}""",
    )


def _sessions(days: int) -> Part:
    return Part(
        columns={"place": _PLACE, **_times("r.first_at")},
        rows=f"""{WANTED}
JOIN records r ON r.account_id = wanted.account_id AND r.kind = 'session' AND r.first_at >= {_since(days)}""",
    )


# No more than one of the same instant counts: ``facts_columns.numbers`` sees to it. As a window function it costs most
# of the query, and the planner, which takes what it keeps for few rows, joins it row by row.
_NUMBERS: Final = Part(
    columns={
        "place": _PLACE,
        "attribute": f"string_agg(int4send(array_position({_names(HISTORY_NUMBERS)}, h.attribute) - 1), '')",
        "value": "array_agg(h.value #>> '{}')",
        "event_key": "array_agg(h.event_key)",
        **_times("h.valid_from"),
    },
    rows=f"""{WANTED}
JOIN account_history h ON h.account_id = wanted.account_id AND h.attribute = ANY({_names(HISTORY_NUMBERS)})
  AND h.valid_from <= $2::timestamptz""",
)

_KNOWN: Final = Part(
    columns={"place": _PLACE, "attribute": "array_agg(attribute)", **_times("wanted.valid_from")},
    rows=f"""(
  SELECT place, attribute, max(valid_from) AS valid_from
  FROM (
    SELECT wanted.place, h.attribute, h.valid_from, h.value,
      lag(h.value) OVER (PARTITION BY wanted.place, h.attribute ORDER BY h.valid_from, h.event_key) AS earlier
    FROM {WANTED}
    JOIN account_history h ON h.account_id = wanted.account_id AND h.attribute = ANY({_names(KEPT_ATTRIBUTES)})
      AND h.valid_from <= $2::timestamptz
  ) changes
  WHERE value IS DISTINCT FROM earlier
  GROUP BY place, attribute
) wanted""",
)

# What was announced (an effective day ahead of its event) is in no register. Only accounts that ever named such a day
# are looked at, and of their history only what is newer than the register.
_ANNOUNCED: Final = Part(
    columns={
        "rows": f"""json_agg(json_build_array(a.place, n.attribute, h.value #>> '{{}}',
    (extract(epoch FROM h.valid_from) * 1000000)::int8, (extract(epoch FROM e.said_at) * 1000000)::int8,
    CASE WHEN t.{_register("status")} = 'ended' THEN (t.{_register("status", "t")})::int8 END
  ) ORDER BY h.valid_from, e.said_at, h.event_key COLLATE "C")::text"""
    },
    rows=f"""(
  SELECT DISTINCT wanted.account_id, (wanted.place - 1)::int4 AS place FROM {WANTED}
  JOIN records r ON r.account_id = wanted.account_id AND r.kind = 'subscription' AND r.fields ? 'effective_on'
) a
LEFT JOIN account_attributes t USING (account_id)
CROSS JOIN unnest({_names(KEPT_ATTRIBUTES)}) AS n(attribute)
JOIN account_history h ON h.account_id = a.account_id AND h.attribute = n.attribute
  AND (h.valid_from, h.event_key COLLATE "C")
    > (coalesce('epoch'::timestamptz + (t.fields->n.attribute->>'t')::int8 * interval '1 microsecond', '-infinity'),
       coalesce(t.fields->n.attribute->>'k', '') COLLATE "C")
LEFT JOIN LATERAL (
  SELECT max(at) AS said_at FROM record_events
  WHERE account_id = a.account_id AND kind = 'subscription' AND event_key = h.event_key
) e ON true""",
)

# By the index for each account: left to itself the planner reads the whole table when many accounts have a parent.
_CHILDREN: Final = Part(
    columns={
        "place": "string_agg(int4send((wanted.place - 1)::int4), '' ORDER BY wanted.place, c.account_id)",
        "told": "array_agg(c.as_child::text ORDER BY wanted.place, c.account_id)",
    },
    rows=f"""{WANTED}
CROSS JOIN LATERAL (
  SELECT account_id, as_child FROM health h
  WHERE h.parent_id = wanted.account_id COLLATE "C" AND h.parent_problem IS NULL AND h.as_child IS NOT NULL OFFSET 0
) c""",
)

DAYS_OF_MONTHS: Final = f"""
SELECT {_PLACE} AS place, string_agg(date_send(m.month), '') AS month,
  string_agg(int4send(m.active_days), '') AS active
FROM {WANTED}
JOIN account_months m ON m.account_id = wanted.account_id AND m.month >= $2::date
"""
"""For ``facts_columns.months_as_days``: the days of activity of some accounts from a month on."""
