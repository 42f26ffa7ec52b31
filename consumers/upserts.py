"""The SQL that merges folded rows into the fact tables, generated from the merge marks in ``health/tables.py``.

One statement per table: arrays in, ``INSERT … SELECT FROM unnest … ON CONFLICT DO UPDATE`` with the merge of each
column. Day arrays and JSON travel as text: for Postgres to read a literal is cheaper than to slice a flat array
(85 against 130 ms for 5,000 rows), and a day array is nearly always one place among zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, Column, Date, Integer, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from consumers.fold import COLUMNS
from health.tables import FACT_TABLES, source_hours, sources

# Rows that every consumer shares are written last: held from the first statement on, they would let the consumers
# write only one after the other. Any order does, as long as all use the same one.
WRITE_ORDER: Final = (*(table for table in FACT_TABLES if table not in {sources, source_hours}), sources, source_hours)

PLACES: Final = 31
_BEFORE: Final = tuple("{" + "0," * place for place in range(PLACES))
_AFTER: Final = tuple(",0" * (PLACES - 1 - place) + "}" for place in range(PLACES))
_ZEROS: Final = "{" + ",".join("0" * PLACES) + "}"

_MERGES: Final[Mapping[str, str]] = {
    "max": "GREATEST(t.{c}, excluded.{c})",
    "min": "LEAST(t.{c}, excluded.{c})",
    "add": "t.{c} + excluded.{c}",
    "or": "t.{c} | excluded.{c}",
    "add_days": "kizashi_add_days(t.{c}, excluded.{c})",
    "registers": "kizashi_merge_registers(t.{c}, excluded.{c})",
}


@dataclass(frozen=True, kw_only=True)
class Upsert:
    """``sql`` takes one array per column, in the order of ``fold.COLUMNS``."""

    table: str
    sql: str
    encoders: tuple[Callable[[Sequence[Any]], Sequence[Any]] | None, ...]

    def arguments(self, rows: Sequence[tuple[Any, ...]]) -> list[Sequence[Any]]:
        """Turns rows into the statement's arrays."""
        columns = zip(*rows, strict=True)
        return [
            values if encode is None else encode(values) for values, encode in zip(columns, self.encoders, strict=True)
        ]


def day_array(places: Mapping[int, int]) -> str:
    """The Postgres literal of a day array given by its places that are not zero."""
    if len(places) == 1:
        ((place, value),) = places.items()
        return f"{_BEFORE[place]}{value}{_AFTER[place]}"
    if not places:
        return _ZEROS
    return "{" + ",".join(str(places.get(place, 0)) for place in range(PLACES)) + "}"


def _day_arrays(column: Sequence[Mapping[int, int]]) -> list[str]:
    return [day_array(places) for places in column]


def _array_type(column: Column[Any]) -> str:
    """The SQL type of the array that carries the column."""
    for type_, name in (
        (ARRAY, "text"),
        (JSONB, "text"),
        (TIMESTAMP, "timestamptz"),
        (Date, "date"),
        (BigInteger, "bigint"),
        (Integer, "integer"),
        (Text, "text"),
    ):
        if isinstance(column.type, type_):
            return f"{name}[]"
    raise TypeError(f"no array type for {column}")


def _selected(column: Column[Any]) -> str:
    casts = {ARRAY: "::bigint[]", JSONB: "::jsonb"}
    return f"u.{column.name}{next((cast for type_, cast in casts.items() if isinstance(column.type, type_)), '')}"


def build(table: Table) -> Upsert:
    """Refuses a table whose columns the fold does not know, or whose columns carry no merge."""
    columns = list(table.columns)
    if tuple(column.name for column in columns) != COLUMNS.get(table.name):
        raise TypeError(f"consumers/fold.py does not give the columns of {table.name} in their order")
    merges: dict[str, str] = {column.name: column.info["merge"] for column in columns}
    names = ", ".join(merges)
    keys = ", ".join(name for name, merge in merges.items() if merge == "key")
    changes = {name: _MERGES[merge].format(c=name) for name, merge in merges.items() if merge not in {"key", "once"}}
    parameters = ", ".join(f"${n}::{_array_type(column)}" for n, column in enumerate(columns, 1))
    # Where nothing but a minimum can change, a row merged before is left alone.
    rarely = set(merges.values()) <= {"key", "once", "min"}
    where = " OR ".join(f"excluded.{name} < t.{name}" for name in changes) if rarely else ""
    sql = (
        f"INSERT INTO {table.name} AS t ({names})\n"
        f"SELECT {', '.join(map(_selected, columns))}\n"
        f"FROM unnest({parameters}) AS u({names})\n"
        f"ON CONFLICT ({keys}) DO UPDATE SET {', '.join(f'{name} = {sql}' for name, sql in changes.items())}"
        + (f"\nWHERE {where}" if where else "")
    )
    encoders = tuple(_day_arrays if isinstance(column.type, ARRAY) else None for column in columns)
    return Upsert(table=table.name, sql=sql, encoders=encoders)


UPSERTS: Final = tuple(build(table) for table in WRITE_ORDER)
