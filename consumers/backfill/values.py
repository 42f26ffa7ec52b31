"""Cells of a history file as values of events: templates over columns, numbers, days and instants. Pure.

A template is text with ``{column}`` in it: ``{date}``, ``{account_id}:{date}``, ``{amount:number}``. A cell that is
empty leaves the whole value out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final, Literal

Cells = Mapping[str, Any]
Getter = Callable[[Cells], Any]
"""The value for one row; None: leave it out. Raises Unfit."""
Target = Literal["text", "number", "date", "time_or_date", "any"]

CASTS: Final = ("text", "number", "boolean", "date", "epoch_s", "epoch_ms")
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}:]*)(?::([^{}]*))?\}|[{}]")
_WHOLE: Final = re.compile(r"[+-]?\d{1,18}")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Unfit(ValueError):
    """A cell that cannot become what it should; ``remedy`` says what would."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class TemplateFault(ValueError):
    """A template that cannot be read; ``nearest``: what may have been meant."""


@dataclass(frozen=True)
class Placeholder:
    """``{column}`` or ``{column:cast}``."""

    column: str
    cast: str | None = None


@dataclass(frozen=True)
class Template:
    """Text and placeholders in turn."""

    parts: tuple[str | Placeholder, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(part.column for part in self.parts if isinstance(part, Placeholder))

    def getter(self, target: Target) -> Getter:
        """A template that is one placeholder keeps the type of its cell; any other makes text."""
        if not self.columns:
            text = "".join(str(part) for part in self.parts)
            return lambda _: text
        if len(self.parts) == 1 and isinstance(only := self.parts[0], Placeholder):
            convert = _conversion(only.cast, target)
            return lambda row: _convert(row, only.column, convert)
        convert = _conversion(None, target)
        return lambda row: None if (text := _compose(self.parts, row)) is None else convert(text)


def parse(text: str) -> Template:
    """Raises TemplateFault. ``{{`` and ``}}`` stand for braces."""
    parts: list[str | Placeholder] = []
    end = 0
    for token in _TOKEN.finditer(text):
        parts.append(text[end : token.start()])
        end = token.end()
        if token[0] in {"{{", "}}"}:
            parts.append(token[0][0])
        elif token[1] is None:
            brace = token[0]
            raise TemplateFault(f"a single {brace} at character {token.start() + 1}; write {brace * 2} for a brace")
        elif not token[1]:
            raise TemplateFault("{} names no column")
        else:
            parts.append(Placeholder(token[1], _known_cast(token[2])))
    parts.append(text[end:])
    return Template(tuple(part for part in parts if part != ""))


def _known_cast(cast: str | None) -> str | None:
    if cast is None or cast in CASTS or cast.startswith("%"):
        return cast
    raise TemplateFault(f"{cast!r} is none of the conversions {', '.join(CASTS)}, nor a time format such as %d/%m/%Y")


def cell(row: Cells, column: str) -> Any:
    """None for what is absent or empty. ``a.b`` reaches into objects where no column has that very name."""
    value = row.get(column)
    if value is None and "." in column and column not in row:
        inner: Any = row
        for name in column.split("."):
            inner = inner.get(name) if isinstance(inner, Mapping) else None
        value = inner
    return None if value == "" else value


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, date):  # datetimes too
        return value.isoformat()
    raise Unfit(f"holds {type(value).__name__}, not a single value", "name a part of it, such as {user.id}")


def as_number(value: Any) -> int | float:
    if isinstance(value, str):
        text = value.strip()
        if _WHOLE.fullmatch(text):
            return int(text)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
    elif isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unfit("is not a number", "write it as 1234.5, without unit, currency or separators")
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def as_boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = as_text(value).strip().lower()
    if word in {"true", "t", "yes", "y", "1"}:
        return True
    if word in {"false", "f", "no", "n", "0"}:
        return False
    raise Unfit("is neither true nor false", "write true or false")


def as_day(value: Any) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    text = as_text(value).strip()
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else datetime.fromisoformat(text).date()
    except ValueError:
        raise Unfit("is not a date", "write 2026-05-01, or give its format: {column:%d/%m/%Y}") from None


def as_instant(value: Any, time_of_day: time | None, zone: tzinfo | None) -> datetime:
    """An aware instant from an instant, a day or their text; what is missing comes from the mapping."""
    if isinstance(value, str):
        value = _from_text(value.strip())
    if not isinstance(value, date):
        raise Unfit("is not a time", "write 2026-05-01T09:30:00Z, or say {column:epoch_s} or {column:%d/%m/%Y %H:%M}")
    if not isinstance(value, datetime):
        if time_of_day is None:
            raise Unfit("is a date without a time", "give `time_of_day` in the mapping, such as 12:00")
        value = datetime.combine(value, time_of_day)
    if value.tzinfo is None:
        if zone is None:
            raise Unfit("has no offset from UTC", "give `timezone` in the mapping, such as UTC or Asia/Tokyo")
        value = value.replace(tzinfo=zone)
    try:
        instant: datetime = value.astimezone(UTC)
        return instant
    except OverflowError:
        raise Unfit("is out of range", "give a time from 1970 to 2199") from None


def _from_text(text: str) -> date:
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else datetime.fromisoformat(text)
    except ValueError:
        remedy = "write 2026-05-01T09:30:00Z, or give its format: {column:%d/%m/%Y %H:%M}"
        raise Unfit("is not a time", remedy) from None


def _epoch(microseconds: int) -> Callable[[Any], datetime]:
    def convert(value: Any) -> datetime:
        try:
            since: int = round(as_number(value) * microseconds)
            return _EPOCH + timedelta(microseconds=since)
        except OverflowError:
            raise Unfit("is out of range", "give a time from 1970 to 2199") from None

    return convert


def _formatted(form: str) -> Callable[[Any], date]:
    has_time = re.search(r"%[HIMSfpXcs]", form) is not None

    def convert(value: Any) -> date:
        try:
            found = datetime.strptime(as_text(value).strip(), form)  # noqa: DTZ007  the zone is added by as_instant
        except ValueError:
            raise Unfit(f"does not have the form {form}", "correct the cell, or the format in the mapping") from None
        return found if has_time else found.date()

    return convert


def _any(value: Any) -> Any:
    """For traits of no known type: the scalar as it is."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | Decimal):
        return as_number(value)
    return as_text(value)


def _time_or_date(value: Any) -> Any:
    return value if isinstance(value, date) else as_text(value)


_TO_TARGET: Final[Mapping[Target, Callable[[Any], Any]]] = {
    "text": as_text,
    "number": as_number,
    "date": as_day,
    "time_or_date": _time_or_date,
    "any": _any,
}


def _conversion(cast: str | None, target: Target) -> Callable[[Any], Any]:
    to_target = _TO_TARGET[target]
    if cast is None:
        return to_target
    if cast.startswith("%"):
        first: Callable[[Any], Any] = _formatted(cast)
    else:
        casts: Mapping[str, Callable[[Any], Any]] = {
            "text": as_text, "number": as_number, "boolean": as_boolean, "date": as_day,
            "epoch_s": _epoch(1_000_000), "epoch_ms": _epoch(1_000),
        }  # fmt: skip
        first = casts[cast]
    return lambda value: to_target(first(value))


def _convert(row: Cells, column: str, convert: Callable[[Any], Any]) -> Any:
    value = cell(row, column)
    if value is None:
        return None
    try:
        return convert(value)
    except Unfit as unfit:
        raise Unfit(f"column {column} {unfit.problem}: {_shown(value)}", unfit.remedy) from None


def _compose(parts: tuple[str | Placeholder, ...], row: Cells) -> str | None:
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        value = _convert(row, part.column, _conversion(part.cast, "text"))
        if value is None:
            return None
        texts.append(value)
    return "".join(texts)


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:60] + "…"
