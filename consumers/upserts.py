"""The SQL that merges folded rows into the fact tables, generated from the merge marks in ``health/tables.py``.

One statement per table: arrays in, ``INSERT … SELECT FROM unnest … ON CONFLICT DO UPDATE`` with the merge of each
column. Every array travels as the literal that Postgres itself reads ("{1,2}"), times as whole microseconds: asyncpg's
own array encoding looks at each element several times in Python and took 3.5 µs a row of five columns where this takes
1.0, at no cost to the server. Day arrays are literals within the literal, nearly always one place among zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, Column, Date, Integer, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from consumers.fold import COLUMNS
from health.tables import FACT_TABLES

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
    """``sql`` takes one array literal per column, in the order of ``fold.COLUMNS``."""

    table: str
    sql: str
    encoders: tuple[Callable[[Sequence[Any]], str], ...]

    def arguments(self, rows: Sequence[tuple[Any, ...]]) -> list[str]:
        """Turns rows into the statement's arrays."""
        columns = zip(*rows, strict=True)
        return [encode(values) for values, encode in zip(columns, self.encoders, strict=True)]


def day_array(places: Mapping[int, int]) -> str:
    """The Postgres literal of a day array given by its places that are not zero."""
    return "{" + ",".join(str(places.get(place, 0)) for place in range(PLACES)) + "}"


def _day_arrays(column: Sequence[Mapping[int, int]]) -> str:
    literals: list[str] = []
    for places in column:
        if len(places) == 1:
            for place, value in places.items():
                literals.append(_BEFORE[place] + str(value) + _AFTER[place])
        else:
            literals.append(day_array(places) if places else _ZEROS)
    return '{"' + '","'.join(literals) + '"}'


def _numbers(column: Sequence[int]) -> str:
    return "{" + ",".join(map(str, column)) + "}"


def _days(column: Sequence[str]) -> str:
    return "{" + ",".join(column) + "}"


def _times(column: Sequence[int | None]) -> str:
    """Whole microseconds since 1970."""
    return "{" + ",".join(map(str, column)).replace("None", "NULL") + "}"


def text_array(column: Sequence[str | None]) -> str:
    """The literal of a text array; quotes and backslashes escaped, None becomes NULL."""
    try:
        joined = '","'.join(column)  # type: ignore[arg-type]
        if joined.count('"') == 2 * (len(column) - 1) and "\\" not in joined:
            return '{"' + joined + '"}'
    except TypeError:  # some are None
        pass
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in column]) + "}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, kw_only=True)
class _Carrier:
    """How a column travels: the SQL type of its array, the SQL that makes the value of an element, the encoder."""

    array: str
    value: str
    encode: Callable[[Sequence[Any]], str]


_SINCE_EPOCH: Final = "'epoch'::timestamptz + {} * interval '1 microsecond'"
_CARRIERS: Final = (
    (ARRAY, _Carrier(array="text[]", value="{}::bigint[]", encode=_day_arrays)),
    (JSONB, _Carrier(array="text[]", value="{}::jsonb", encode=text_array)),
    (
        TIMESTAMP,
        _Carrier(array="bigint[]", value="'epoch'::timestamptz + {} * interval '1 microsecond'", encode=_times),
    ),
    (Date, _Carrier(array="date[]", value="{}", encode=_days)),
    (BigInteger, _Carrier(array="bigint[]", value="{}", encode=_numbers)),
    (Integer, _Carrier(array="integer[]", value="{}", encode=_numbers)),
    (Text, _Carrier(array="text[]", value="{}", encode=text_array)),
)


def _carrier(column: Column[Any]) -> _Carrier:
    for type_, carrier in _CARRIERS:
        if isinstance(column.type, type_):
            return carrier
    raise TypeError(f"no way to send {column}")


def build(table: Table) -> Upsert:
    """Refuses a table whose columns the fold does not know, or whose columns carry no merge."""
    columns = list(table.columns)
    if tuple(column.name for column in columns) != COLUMNS.get(table.name):
        raise TypeError(f"consumers/fold.py does not give the columns of {table.name} in their order")
    merges: dict[str, str] = {column.name: column.info["merge"] for column in columns}
    names = ", ".join(merges)
    keys = ", ".join(name for name, merge in merges.items() if merge == "key")
    changes = {name: _MERGES[merge].format(c=name) for name, merge in merges.items() if merge not in {"key", "once"}}
    carriers = [_carrier(column) for column in columns]
    parameters = ", ".join(f"${n}::text::{carrier.array}" for n, carrier in enumerate(carriers, 1))
    values = ", ".join(carrier.value.format(f"u.{name}") for name, carrier in zip(merges, carriers, strict=True))
    # Where nothing but a minimum can change, a row merged before is left alone.
    rarely = set(merges.values()) <= {"key", "once", "min"}
    where = " OR ".join(f"excluded.{name} < t.{name}" for name in changes) if rarely else ""
    sql = (
        f"INSERT INTO {table.name} AS t ({names})\n"
        f"SELECT {values}\n"
        f"FROM unnest({parameters}) AS u({names})\n"
        f"ON CONFLICT ({keys}) DO UPDATE SET {', '.join(f'{name} = {sql}' for name, sql in changes.items())}"
        + (f"\nWHERE {where}" if where else "")
    )
    return Upsert(table=table.name, sql=sql, encoders=tuple(carrier.encode for carrier in carriers))


UPSERTS: Final = tuple(build(table) for table in FACT_TABLES)
