"""Holds the rebuilt facts against the live ones, in SQL, within one transaction."""

# ruff: noqa: S608 - the names are of our own tables, and every value is an argument

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import msgspec
from sqlalchemy import Table

from consumers.replay.reading import Scope
from consumers.replay.shadow import LONG_SECONDS
from health.tables import FACT_TABLES

WALL_CLOCK: Final[Mapping[str, frozenset[str]]] = {"accounts": frozenset({"version", "changed_at", "imported_until"})}
"""When and in how many batches facts were written: not a matter of the events."""

_IN_DAYS: Final = (
    "({month} + (d.n - 1)::int BETWEEN coalesce($2::date, '-infinity') AND coalesce($3::date, 'infinity'))"
)
_MASK: Final = (
    "(SELECT coalesce(bit_or(1 << (d.n - 1)::int), 0) FROM generate_series(1, 31) AS d(n) WHERE "
    + _IN_DAYS.format(month="x.month")
    + ")"
)
_COUNTS: Final = (
    "(SELECT array_agg(CASE WHEN "
    + _IN_DAYS.format(month="x.month")
    + " THEN d.v ELSE 0 END ORDER BY d.n) FROM unnest(x.{c}) WITH ORDINALITY AS d(v, n))"
)
_BITS: Final = f"(x.active_days & {_MASK})"
_BETWEEN: Final = "x.{c} >= coalesce($2::date, '-infinity'::date) AND x.{c} < coalesce($3::date + 1, 'infinity'::date)"
_ALL: Final = "($2::date IS NULL AND $3::date IS NULL)"
_OF_ACCOUNTS: Final = "($1::text[] IS NULL OR x.account_id = ANY($1))"


@dataclass(frozen=True, kw_only=True)
class View:
    """What of a table is compared: its keys, expressions over a row ``x``, and which rows."""

    table: str
    keys: tuple[str, ...]
    columns: Mapping[str, str]
    where: str

    def of(self, schema: str) -> str:
        """The rows of the table in that schema ("" : the live one)."""
        named = [f"x.{key}" for key in self.keys] + [f"{sql} AS {name}" for name, sql in self.columns.items()]
        place = f"{schema}.{self.table}" if schema else self.table
        return f"SELECT true AS present, {', '.join(named)} FROM {place} AS x WHERE {self.where}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A column of a row; ``column`` is None where the whole row is on one side only."""

    table: str
    key: Mapping[str, Any]
    column: str | None
    live: Any
    rebuilt: Any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``rows``: how many rows differ, per table; ``shown``: the columns of the first ones."""

    rows: Mapping[str, int]
    shown: tuple[Difference, ...]
    tables: tuple[str, ...]  # those that were compared

    @property
    def equal(self) -> bool:
        return not any(self.rows.values())


def compared_columns(table: Table) -> tuple[str, ...]:
    wall = WALL_CLOCK.get(table.name, frozenset())
    return tuple(c.name for c in table.columns if c.info["merge"] != "key" and c.name not in wall)


def keys(table: Table) -> tuple[str, ...]:
    return tuple(c.name for c in table.columns if c.info["merge"] == "key")


def views(scope: Scope) -> list[View]:
    """All tables; of a range of days what can be told apart by day: the other facts span all time. Pure."""
    found = []
    for table in FACT_TABLES:
        of_accounts = "account_id" in table.c
        if scope.accounts is not None and not of_accounts:
            continue
        columns = {name: f"x.{name}" for name in compared_columns(table)}
        where = f"{_OF_ACCOUNTS if of_accounts else '$1::text[] IS NULL'} AND "
        if scope.all_days:
            where += _ALL
        elif table.name in _BY_DAY:
            changed, condition = _BY_DAY[table.name]
            columns = {**columns, **changed} if table.name != "user_months" else dict(changed)
            where += condition
        else:
            continue
        found.append(View(table=table.name, keys=keys(table), columns=columns, where=where))
    return found


_BY_DAY: Final[Mapping[str, tuple[Mapping[str, str], str]]] = {
    "account_months": (
        {"logins": _COUNTS.format(c="logins"), "events": _COUNTS.format(c="events"), "active_days": _BITS},
        f"{_BITS} <> 0",
    ),
    "feature_months": ({"quantities": _COUNTS.format(c="quantities"), "active_days": _BITS}, f"{_BITS} <> 0"),
    "user_months": ({"active_days": _BITS}, f"{_BITS} <> 0"),
    "late_arrivals": ({}, _BETWEEN.format(c="event_day")),
    "record_events": ({}, _BETWEEN.format(c="at")),
    "source_hours": ({}, _BETWEEN.format(c="hour")),
}
"""Columns that are cut to the days, and which rows have anything in them."""


async def compare(connection: Any, schema: str, scope: Scope, *, shown: int) -> Comparison:
    """Within the caller's transaction; at most ``shown`` differing rows a table are looked at closely."""
    rows: dict[str, int] = {}
    differences: list[Difference] = []
    chosen = views(scope)
    for view in chosen:
        found = await connection.fetch(_sql(view, schema), *arguments(scope), shown, timeout=LONG_SECONDS)
        rows[view.table] = found[0]["total"] if found else 0
        for row in found:
            differences += _differences(view, row)
    return Comparison(
        rows={table: count for table, count in rows.items() if count},
        shown=tuple(differences),
        tables=tuple(view.table for view in chosen),
    )


def arguments(scope: Scope) -> tuple[list[str] | None, date | None, date | None]:
    accounts = None if scope.accounts is None else sorted(scope.accounts)
    return accounts, scope.first_day, scope.last_day


def _sql(view: View, schema: str) -> str:
    both = " AND ".join(f"l.{key} = s.{key}" for key in view.keys)
    named = ", ".join(f"coalesce(l.{key}, s.{key})" for key in view.keys)
    shown = ", ".join(f"'{key}', coalesce(l.{key}, s.{key})" for key in view.keys)
    left, right = (_row(alias, view.columns) for alias in "ls")
    objects = [", ".join(f"'{name}', {alias}.{name}" for name in view.columns) for alias in "ls"]
    return (
        f"SELECT count(*) OVER () AS total, jsonb_build_object({shown})::text AS key, "
        f"CASE WHEN l.present THEN jsonb_build_object({objects[0]})::text END AS live, "
        f"CASE WHEN s.present THEN jsonb_build_object({objects[1]})::text END AS rebuilt "
        f"FROM ({view.of('')}) AS l FULL JOIN ({view.of(schema)}) AS s ON {both} "
        f"WHERE l.present IS DISTINCT FROM s.present OR {left} IS DISTINCT FROM {right} "
        f"ORDER BY {named} LIMIT $4"
    )


def _row(alias: str, columns: Sequence[str] | Mapping[str, str]) -> str:
    return f"ROW({', '.join(f'{alias}.{name}' for name in columns)})"


def _differences(view: View, row: Any) -> list[Difference]:
    decode = msgspec.json.decode
    key = decode(row["key"])
    live, rebuilt = (None if row[side] is None else decode(row[side]) for side in ("live", "rebuilt"))
    if live is None or rebuilt is None:
        return [Difference(table=view.table, key=key, column=None, live=live, rebuilt=rebuilt)]
    return [
        Difference(table=view.table, key=key, column=name, live=live[name], rebuilt=rebuilt[name])
        for name in view.columns
        if live[name] != rebuilt[name]
    ]
