"""Rows of an upload as accounts and people: every value in the form that events and the API take. Pure.

An empty cell leaves a value alone; ``NULL`` takes it away.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from consumers.backfill.mapping import trait_target
from consumers.backfill.values import Unfit, as_day, as_number
from consumers.events import BadEvent, decode
from service.api.people import PersonBody
from service.errors import invalid
from service.uploads.columns import Columns
from service.uploads.sheet import Line, Sheet

EMPTY: Final = "NULL"


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is not taken; `row` counts as a spreadsheet does, the header being row 1."""

    row: int
    field: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Row:
    """``values``: only those that the row has."""

    row: int
    key: str
    values: Mapping[str, Any]


class RowFault(Exception):
    """Why a row is not taken."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem, self.remedy = field, problem, remedy


def accounts(sheet: Sheet, columns: Columns) -> Iterator[Row | Refused]:
    yield from _rows(sheet, columns, "account_id", _account)


def people(sheet: Sheet, columns: Columns) -> Iterator[Row | Refused]:
    """Values are checked one by one here; the person as a whole once what is stored is known."""
    yield from _rows(sheet, columns, "person_id", _person)


def _rows(sheet: Sheet, columns: Columns, key: str, convert: Any) -> Iterator[Row | Refused]:
    first: dict[str, int] = {}
    for line in sheet.lines:
        try:
            given = _cells(line, columns)
            name = _named(given.pop(key, ""), key, first)
            first[name] = line.row
            yield Row(line.row, name, convert(name, given))
        except RowFault as fault:
            yield Refused(row=line.row, field=fault.field, problem=fault.problem, remedy=fault.remedy)


def _named(name: str, key: str, first: Mapping[str, int]) -> str:
    if not name or name == EMPTY:
        raise RowFault(key, "is empty", "say which one the row is about")
    if name in first:
        raise RowFault(key, f"is in row {first[name]} already", "keep one row of the two")
    return name


def _cells(line: Line, columns: Columns) -> dict[str, str]:
    if any(line.cells[len(columns.fields) :]):
        raise RowFault("", "has more cells than the header", "put a text with separators into quotes")
    pairs = zip(columns.fields, line.cells, strict=False)
    return {field: cell for field, cell in pairs if field is not None and cell}


# Accounts

_STATUSES: Final[Mapping[str, str]] = {
    "有効": "active", "契約中": "active", "利用中": "active", "トライアル": "trial", "試用": "trial", "休止": "paused",
    "一時停止": "paused", "停止中": "paused", "解約": "ended", "解約済": "ended", "終了": "ended",
}  # fmt: skip
_AMOUNT: Final = re.compile(r"[¥$€£]?\s*([+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[+-]?\d+(?:\.\d+)?)\s*円?")
_SLASHED: Final = re.compile(r"(\d{4})[/.年](\d{1,2})[/.月](\d{1,2})日?(?=$|[T\s])")


def _account(account_id: str, cells: Mapping[str, str]) -> dict[str, Any]:
    traits = {name: _trait(name, cell) for name, cell in cells.items()}
    draft = {
        "kind": "group", "event_id": "upload", "account_id": account_id, "timestamp": datetime(2000, 1, 1, tzinfo=UTC),
        "traits": traits,
    }  # fmt: skip
    try:
        decode(msgspec.json.encode(draft))
    except BadEvent as error:
        first = error.problems[0]
        raise RowFault(first.field.removeprefix("traits."), first.problem, first.remedy) from None
    return traits


def _trait(name: str, cell: str) -> Any:
    if cell == EMPTY:
        return None
    target = trait_target("group", name)
    try:
        if target == "number":
            return as_number(_number(cell))
        if target == "date":
            return as_day(_date(cell)).isoformat()
        if target == "time_or_date":
            return _date(cell)
    except Unfit as unfit:
        remedy = unfit.remedy if target == "number" else "write it as 2026-05-01 or 2026/5/1"
        raise RowFault(name, f"{unfit.problem}: {cell[:60]!r}", remedy) from None
    if name == "currency":
        return unicodedata.normalize("NFKC", cell).upper()
    if name == "status":
        return _STATUSES.get(unicodedata.normalize("NFKC", cell), cell.lower())
    return cell


def _number(cell: str) -> str:
    """Amounts as spreadsheets show them: with a sign of the currency, separators of thousands, or in wide digits."""
    text = unicodedata.normalize("NFKC", cell).strip()
    found = _AMOUNT.fullmatch(text)
    return found[1].replace(",", "") if found else text


def _date(cell: str) -> str:
    text = unicodedata.normalize("NFKC", cell).strip()
    return _SLASHED.sub(lambda m: f"{m[1]}-{int(m[2]):02d}-{int(m[3]):02d}", text, count=1)


# People

_LANGUAGES: Final[Mapping[str, str]] = {"english": "en", "英語": "en", "japanese": "ja", "日本語": "ja"}
_ROLES: Final[Mapping[str, str]] = {
    "カスタマーサクセス": "csm", "マネージャー": "manager", "管理者": "manager", "営業": "sales", "営業担当": "sales",
}  # fmt: skip


def _person(_person_id: str, cells: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {name: None if cell == EMPTY else cell for name, cell in cells.items()}
    for name, words in (("language", _LANGUAGES), ("role", _ROLES)):
        if isinstance(values.get(name), str):
            values[name] = words.get(values[name].lower(), values[name].lower())
    for name in ("name", "language", "timezone", "role"):
        if name in values and values[name] is None:
            raise RowFault(name, "cannot be taken away", "give a value, or leave the cell empty to keep it")
    return values


def whole_person(row: Row, stored: Mapping[str, Any] | None, ids: frozenset[str]) -> PersonBody:
    """The person that the row would make of the stored one. Raises RowFault; ``ids``: everybody there would be."""
    merged = {**(stored or {}), **row.values}
    if not merged.get("name"):
        raise RowFault("name", "is missing", "a new person needs a name")
    try:
        person = PersonBody.model_validate(merged, strict=False)
    except ValidationError as error:
        first = invalid(error.errors(include_url=False, include_input=False)).errors[0]
        raise RowFault(first.field, first.problem, first.remedy) from None
    for field in ("manager", "stand_in"):
        other = row.values.get(field)
        if other is not None and other == row.key:
            raise RowFault(field, "is the person", "name somebody else")
        if other is not None and other not in ids:
            raise RowFault(field, f"names {other!r}, who is neither stored nor in this file", "add them, or correct it")
    return person
