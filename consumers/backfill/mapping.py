"""The mapping file: per pattern of file names, which events a row becomes. Checked as a whole before anything is read.

Pure but for reading the file.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator
from datetime import date, time
from fnmatch import fnmatchcase
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from consumers.backfill.values import Target, Template, TemplateFault, parse
from consumers.events import KINDS, AccountTraits
from health.yamlfile import FileError, FileProblem, Place, YamlFile, read

Format = Literal["csv", "ndjson", "parquet"]
Kind = Literal[
    "login", "usage", "identify", "group", "milestone", "goal", "ticket", "payment", "survey", "session", "contact",
    "subscription", "custom",
]  # fmt: skip
NOT_MAPPED: Final = frozenset({"import_id", "import_row", "received_at", "source", "properties"})
"""Fields of events that a mapping does not set."""
Value = str | int | float | bool | date


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(_Part):
    """On one column; everything that is said must hold."""

    present: bool | None = Field(default=None, description="true: the cell is not empty; false: it is")
    equals: str | int | float | bool | None = Field(default=None, description="The cell, compared as text")
    one_of: list[str | int | float | bool] | None = Field(default=None, min_length=1)


class EventMapping(BaseModel):
    """One event for each row that ``when`` lets through. Beside these keys: the fields of its kind.

    A value is a constant, or text with ``{column}`` in it.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Kind
    event_id: str = Field(description="The same for the same happening, always: {account_id}:{date}")
    account_id: str
    timestamp: str
    user_id: str | None = None
    time_of_day: str | None = Field(default=None, description="Of times that are only a date: 12:00")
    timezone: str | None = Field(default=None, description="IANA name, for times without an offset")
    when: dict[str, Condition] = Field(default={}, description="Conditions by column; all must hold")
    traits: dict[str, Any] | None = Field(default=None, description="For identify and group")

    @property
    def own(self) -> dict[str, Any]:
        """The fields of its kind."""
        return dict(self.model_extra or {})


class FileMapping(_Part):
    """What the rows of the files become whose names match."""

    match: str = Field(description="Pattern of file names: activity*.csv.gz")
    format: Format | None = Field(default=None, description="By the file's name when left out")
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8"
    events: list[EventMapping] = Field(min_length=1)


class Mapping(_Part):
    """A mapping file."""

    source: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:-]{1,64}$", description="`source` of every event")
    timezone: str | None = Field(default=None, description="IANA name, for times without an offset")
    time_of_day: str | None = Field(default=None, description="Of times that are only a date: 12:00")
    files: list[FileMapping] = Field(min_length=1)

    def for_file(self, name: str) -> FileMapping | None:
        """The first entry that matches."""
        return next((entry for entry in self.files if fnmatchcase(name, entry.match)), None)

    @property
    def digest(self) -> str:
        """Of what is meant: comments and layout do not count."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


_KEYS: Final = frozenset(name for part in (Mapping, FileMapping, EventMapping, Condition) for name in part.model_fields)


def load(path: Path) -> Mapping:
    """Raises FileError with every fault by file, line and column."""
    file = read(path)
    mapping = file.validate(Mapping, _KEYS)
    problems = list(_problems(file, mapping))
    if problems:
        raise FileError(problems)
    return mapping


def template(value: str) -> Template:
    """Of text that ``load`` has checked."""
    return parse(value)


def columns_of(entry: FileMapping) -> Iterator[tuple[str, Place]]:
    """Every column that an entry names, and where in the entry."""
    for number, event in enumerate(entry.events):
        place: Place = ("events", number)
        for column in event.when:
            yield column, (*place, "when", column)
        for key, value in _values(event):
            if isinstance(value, str):
                for column in parse(value).columns:
                    yield column, (*place, *key)


def target_of(kind: str, field: str) -> Target:
    """What a field of an event of that kind is made of."""
    return _target(get_type_hints(KINDS[kind], include_extras=True)[field])


def trait_target(kind: str, trait: str) -> Target:
    if kind != "group":
        return "any"
    if trait == "started_at":
        return "time_or_date"
    hints = get_type_hints(AccountTraits, include_extras=True)
    return _target(hints[trait]) if trait in hints else "any"


def own_fields(kind: str) -> tuple[str, ...]:
    """The fields that a mapping may set beside the common ones."""
    common = {"event_id", "account_id", "timestamp", "user_id", "traits"}
    return tuple(name for name in KINDS[kind].__struct_fields__ if name not in common | NOT_MAPPED)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a mapping file; committed as docs/backfill-mapping.schema.json."""
    schema = Mapping.model_json_schema()
    event = schema["$defs"]["EventMapping"]
    keys = list(event["properties"])
    value = {"type": ["string", "number", "boolean", "null"]}
    event["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {
                "properties": dict.fromkeys(own_fields(kind), value),
                "propertyNames": {"enum": [*keys, *own_fields(kind)]},
                **({"required": required} if (required := _required(kind)) else {}),
            },
        }
        for kind in KINDS
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Kizashi backfill mapping", **schema}


def _target(hint: Any) -> Target:
    types = set(_leaves(hint))
    if types & {int, float}:
        # A goal's target is text or a number: as it stands.
        return "any" if str in types else "number"
    return "date" if date in types else "text"


def _leaves(hint: Any) -> Iterator[Any]:
    origin = get_origin(hint)
    if origin is Annotated:
        yield from _leaves(get_args(hint)[0])
    elif origin in (Union, UnionType):
        for part in get_args(hint):
            yield from _leaves(part)
    else:
        yield hint


def _required(kind: str) -> list[str]:
    fields = {field.name: field for field in msgspec.structs.fields(KINDS[kind])}
    names = [name for name in own_fields(kind) if fields[name].required]
    if "traits" in fields:
        names.append("traits")
    return [*names, "user_id"] if kind == "identify" else names


def _values(event: EventMapping) -> Iterator[tuple[Place, Any]]:
    for name in ("event_id", "account_id", "timestamp", "user_id"):
        value = getattr(event, name)
        if value is not None:
            yield (name,), value
    for name, value in event.own.items():
        yield (name,), value
    for name, value in (event.traits or {}).items():
        yield ("traits", name), value


def _problems(file: YamlFile, mapping: Mapping) -> Iterator[FileProblem]:
    yield from _time_problems(file, (), mapping)
    for number, entry in enumerate(mapping.files):
        place: Place = ("files", number)
        try:
            "".encode(entry.encoding)
        except LookupError:
            yield file.problem((*place, "encoding"), f"there is no encoding {entry.encoding!r}")
        for index, event in enumerate(entry.events):
            yield from _event_problems(file, (*place, "events", index), event)


def _event_problems(file: YamlFile, place: Place, event: EventMapping) -> Iterator[FileProblem]:
    yield from _time_problems(file, place, event)
    known = own_fields(event.kind)
    for name in event.own:
        if name not in known:
            nearest = difflib.get_close_matches(name, [*known, *EventMapping.model_fields], n=1)
            yield file.problem((*place, name), f"{event.kind} has no field {name}", next(iter(nearest), None))
    given = {**event.own, "user_id": event.user_id, "traits": event.traits}
    for name in _required(event.kind):
        if given.get(name) is None:
            yield file.problem(place, f"{event.kind} needs {name}")
    if event.traits is not None and event.kind not in {"identify", "group"}:
        yield file.problem((*place, "traits"), "only identify and group have traits")
    for key, value in _values(event):
        if not isinstance(value, Value):
            yield file.problem((*place, *key), f"{key[-1]} is a constant or text with {{column}} in it")
        elif isinstance(value, str):
            yield from _template_problems(file, (*place, *key), event.kind, value)


def _template_problems(file: YamlFile, place: Place, kind: str, value: str) -> Iterator[FileProblem]:
    try:
        found = parse(value)
    except TemplateFault as fault:
        yield file.problem(place, str(fault))
        return
    name = str(place[-1])
    if not found.columns and name in {"event_id", "account_id", "timestamp"}:
        yield file.problem(place, f"{name} is the same for every row; name a column, such as {{{name}}}")
    elif not found.columns and name in own_fields(kind):
        hint = get_type_hints(KINDS[kind], include_extras=True)[name]
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            choices = [str(part) for leaf in _leaves(hint) for part in get_args(leaf)]
            nearest = difflib.get_close_matches(value, choices, n=1)
            problem = f"{name} is one of {', '.join(choices)}" if choices else f"{name}: {error}"
            yield file.problem(place, problem, next(iter(nearest), None))


def _time_problems(file: YamlFile, place: Place, part: Mapping | EventMapping) -> Iterator[FileProblem]:
    if part.timezone is not None:
        try:
            ZoneInfo(part.timezone)
        except (KeyError, ValueError, OSError):
            yield file.problem((*place, "timezone"), f"there is no time zone {part.timezone!r}; give an IANA name")
    if part.time_of_day is not None:
        try:
            time.fromisoformat(part.time_of_day)
        except ValueError:
            yield file.problem((*place, "time_of_day"), "time_of_day is written 12:00 or 23:59:59")
