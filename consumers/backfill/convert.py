"""A row to its events: by a mapping, or as canonical JSON; then laid onto today. Pure.

A row is taken whole or refused whole, and the verdict depends on nothing but the row, the mapping, the shift and the
import's own start: a resumed import must refuse the same rows, or its numbers would no longer be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from consumers.backfill.mapping import Condition, EventMapping, FileMapping, target_of, template, trait_target
from consumers.backfill.mapping import Mapping as MappingFile
from consumers.backfill.values import Cells, Getter, Unfit, as_instant, as_text, cell
from consumers.events import (
    DEFAULT_SOURCE,
    MAX_EVENT_BYTES,
    BadEvent,
    Event,
    Group,
    Problem,
    check_time,
    decode,
    encode,
)

Convert = Callable[[Any], tuple[Event, ...]]
"""Cells of a row (bytes: a line of JSON) to its events. Raises Refused."""

ROOM_FOR_NUMBERS: Final = 512
"""Bytes that the import's id and number may add to an event."""
_DAY_FIELDS: Final = ("renewal_on", "due_on", "effective_on")
_OUT_OF_RANGE: Final = "give a time from 1970 to 2199"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a row was not taken; ``row`` counts from 1 without the header, ``line`` is where it starts in a text file."""

    file: str
    row: int
    line: int | None
    field: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file} row {self.row}" + (f" (line {self.line})" if self.line is not None else "")
        return f"{place}: {self.field or 'the row'}: {self.problem}; {self.remedy}"


class Refused(Exception):
    """A row that is not taken, with every fault of its first bad event."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{p.field}: {p.problem}" for p in problems))
        self.problems = problems


def refused(field: str, problem: str, remedy: str) -> Refused:
    return Refused((Problem(field, problem, remedy),))


def canonical(source: str | None) -> Convert:
    """Lines that are events already; ``source`` is for those that name none."""

    def convert(line: bytes) -> tuple[Event, ...]:
        event = _decoded(line)
        changes: dict[str, Any] = {"import_id": None, "import_row": None, "received_at": None}
        if source is not None and event.source == DEFAULT_SOURCE:
            changes["source"] = source
        return (msgspec.structs.replace(event, **changes),)

    return convert


def mapped(mapping: MappingFile, entry: FileMapping, source: str) -> Convert:
    """Rows of a file that the entry is for."""
    makers = [_maker(mapping, event, source) for event in entry.events]

    def convert(cells: Cells | bytes) -> tuple[Event, ...]:
        row = _object(cells) if isinstance(cells, bytes) else cells
        made = (maker(row) for maker in makers)
        return tuple(event for event in made if event is not None)

    return convert


def shifted(convert: Convert, shift: timedelta) -> Convert:
    """Lays every instant and day of the events ``shift`` later."""
    if not shift:
        return convert

    def convert_and_shift(cells: Any) -> tuple[Event, ...]:
        return tuple(_shift(event, shift) for event in convert(cells))

    return convert_and_shift


def not_later_than(convert: Convert, now: datetime, tolerance: timedelta) -> Convert:
    """Refuses rows with events in the future."""

    def check(cells: Any) -> tuple[Event, ...]:
        events = convert(cells)
        for event in events:
            bad = check_time(event, now, tolerance)
            if bad is not None:
                raise Refused(bad.problems)
        return events

    return check


def _object(line: bytes) -> Cells:
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refused("", f"not valid JSON: {error}", "write one JSON object per line") from None
    if not isinstance(found, dict):
        raise refused("", "is not a JSON object", "write one JSON object per line")
    return found


def _maker(mapping: MappingFile, event: EventMapping, source: str) -> Callable[[Cells], Event | None]:
    kind = event.kind
    conditions = [_condition(column, condition) for column, condition in event.when.items()]
    instant = _instant(mapping, event)
    fields = [
        (name, _getter(value, target_of(kind, name)))
        for name, value in {
            "event_id": event.event_id, "account_id": event.account_id, "user_id": event.user_id, **event.own
        }.items()
        if value is not None
    ]  # fmt: skip
    traits = [(name, _getter(value, trait_target(kind, name))) for name, value in (event.traits or {}).items()]

    def make(row: Cells) -> Event | None:
        if not all(holds(row) for holds in conditions):
            return None
        values: dict[str, Any] = {"kind": kind, "source": source}
        _put(values, [("timestamp", instant), *fields], row)
        if event.traits is not None:
            values["traits"] = _put({}, traits, row, "traits.")
        try:
            raw = msgspec.json.encode(values)
        except UnicodeEncodeError:
            # Bytes of a text file that its encoding does not know, kept as lone surrogates until here.
            bad = next((name for name, value in values.items() if not _is_text(value)), "traits")
            remedy = "save the file as UTF-8, or give its `encoding`"
            raise refused(bad, "has bytes that are not text", remedy) from None
        return _decoded(raw)

    return make


def _is_text(value: Any) -> bool:
    return not isinstance(value, str) or value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _put(values: dict[str, Any], getters: list[tuple[str, Getter]], row: Cells, within: str = "") -> dict[str, Any]:
    for name, get in getters:
        try:
            value = get(row)
        except Unfit as unfit:
            raise refused(within + name, unfit.problem, unfit.remedy) from None
        if value is not None:
            values[name] = value
    return values


def _getter(value: Any, target: Any) -> Getter:
    if isinstance(value, str):
        return template(value).getter(target)
    return lambda _: value


def _instant(mapping: MappingFile, event: EventMapping) -> Getter:
    given = event.time_of_day or mapping.time_of_day
    zone_name = event.timezone or mapping.timezone
    time_of_day = None if given is None else time.fromisoformat(given)
    zone: tzinfo | None = None if zone_name is None else ZoneInfo(zone_name)
    found = template(event.timestamp)
    get = found.getter("time_or_date")

    def instant(row: Cells) -> datetime | None:
        value = get(row)
        if value is None:
            return None
        try:
            return as_instant(value, time_of_day, zone)
        except Unfit as unfit:
            raise Unfit(f"column {' and '.join(found.columns)} {unfit.problem}: {ascii(as_text(value))[:60]}",
                        unfit.remedy) from None  # fmt: skip

    return instant


def _condition(column: str, condition: Condition) -> Callable[[Cells], bool]:
    wanted = None if condition.equals is None else as_text(condition.equals)
    options = None if condition.one_of is None else {as_text(option) for option in condition.one_of}

    def holds(row: Cells) -> bool:
        value = cell(row, column)
        if condition.present is not None and (value is not None) != condition.present:
            return False
        if wanted is None and options is None:
            return True
        try:
            text = None if value is None else as_text(value)
        except Unfit as unfit:
            raise refused(column, unfit.problem, unfit.remedy) from None
        return (wanted is None or text == wanted) and (options is None or text in options)

    return holds


def _decoded(raw: bytes) -> Event:
    try:
        event = decode(raw, MAX_EVENT_BYTES - ROOM_FOR_NUMBERS)
    except BadEvent as bad:
        raise Refused(bad.problems) from None
    # Written out again it may be longer: times get their offset, texts their escapes.
    size = len(encode(event))
    if size > MAX_EVENT_BYTES - ROOM_FOR_NUMBERS:
        raise refused("", f"makes an event of {size} bytes", f"keep to {MAX_EVENT_BYTES - ROOM_FOR_NUMBERS} bytes")
    return event


def _shift(event: Event, shift: timedelta) -> Event:
    changes: dict[str, Any] = {}
    try:
        changes["timestamp"] = event.timestamp + shift
        for name in _DAY_FIELDS:
            day = getattr(event, name, None)
            if day is not None:
                changes[name] = day + shift
        if isinstance(event, Group):
            changes["traits"] = _shifted_traits(event.traits, shift)
    except OverflowError:
        raise refused("timestamp", "is out of range once it is shifted", _OUT_OF_RANGE) from None
    return msgspec.structs.replace(event, **changes)


def _shifted_traits(traits: Mapping[str, Any], shift: timedelta) -> dict[str, Any]:
    moved = dict(traits)
    for name in ("renewal_on", "started_at"):
        value = moved.get(name)
        if isinstance(value, str):
            is_day = len(value) == len("2026-05-01")
            later = (date.fromisoformat(value) if is_day else datetime.fromisoformat(value)) + shift
            moved[name] = later.isoformat()
    return moved
