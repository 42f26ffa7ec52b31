"""What is agreed with each source of foreign events: ``rules/sources.yaml``. ``docs/sources.md`` explains it.

Without the file, and for sources it does not name, the defaults of the formats hold. Pure but for reading the file.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from fnmatch import translate
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from consumers.backfill.mapping import own_fields
from consumers.events import KINDS, AccountTraits
from consumers.formats.paths import Path, PathFault
from health.yamlfile import FileError, FileProblem, Place, YamlFile, read

FILE_NAME: Final = "sources.yaml"
DEFAULT: Final = "default"
"""The entry for sources that have none of their own."""
ACCOUNT_TYPES: Final = ("account", "company", "organization", "organisation", "org", "workspace", "team", "tenant")
"""Types of group that are accounts, in the order in which they are looked for."""
SAID_BY_THE_CALL: Final[Mapping[str, str]] = {"usage": "feature", "custom": "name", "milestone": "milestone"}
"""Per kind, the field that is the event's name when nothing else is said."""
REMEMBERED_NAMES: Final = 4096

Format = Literal["segment", "rudderstack", "posthog", "amplitude", "cloudevents", "canonical"]
RuleKind = Literal[
    "login", "usage", "identify", "group", "milestone", "goal", "ticket", "payment", "survey", "session", "contact",
    "subscription", "custom", "ignore",
]  # fmt: skip
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Constant = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What events of a name become. ``kind`` None: nothing."""

    kind: str | None
    constants: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One source, ready to be asked. ``account``: where its account ids stand, instead of the usual places."""

    name: str = DEFAULT
    format: Format | None = None
    group_types: tuple[str, ...] = ACCOUNT_TYPES
    account: tuple[Path, ...] = ()
    traits: Mapping[str, str] = field(default_factory=dict)
    events: tuple[tuple[tuple[str, ...], Rule], ...] = ()
    cadence: timedelta | None = None
    """How often it delivers, when it does not send as things happen."""
    rule: Callable[[str], Rule | None] = field(init=False, repr=False)
    """The first rule for events of this name; None: the defaults hold."""
    id_names: Mapping[str, int] = field(init=False, repr=False)
    """Names of properties that hold an account's id, with their rank."""

    def __post_init__(self) -> None:
        compiled = [(re.compile("|".join(map(translate, names)), re.IGNORECASE), rule) for names, rule in self.events]

        def rule(name: str) -> Rule | None:
            return next((rule for pattern, rule in compiled if pattern.match(name)), None)

        object.__setattr__(self, "rule", lru_cache(REMEMBERED_NAMES)(rule) if compiled else lambda _: None)
        names = [name for type_ in self.group_types for name in (f"{type_}_id", f"{type_}Id", f"{type_}ID")]
        ranks = {name: rank for rank, name in enumerate([*names, "group_id", "groupId"])}
        object.__setattr__(self, "id_names", ranks)


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A topic in a foreign format. ``format`` None: told from each record."""

    topic: str
    source: str
    format: Format | None = None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All that the file says."""

    named: Mapping[str, Source] = field(default_factory=dict)
    topics: tuple[Topic, ...] = ()

    @property
    def cadences(self) -> Mapping[str, timedelta]:
        """How often each source delivers that says so."""
        return {name: source.cadence for name, source in self.named.items() if source.cadence is not None}

    def of(self, name: str) -> Source:
        """The source of that name, else the default one under that name. Never fails."""
        found = self.named.get(name)
        if found is None:
            found = _adopted(self.named.get(DEFAULT, _PLAIN), name)
        return found


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventEntry(BaseModel):
    """What events of these names become. Beside these keys: fields of the kind, as constants."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    match: str | list[str] = Field(description="Names of events; * and ? stand for any text; case does not count")
    kind: RuleKind = Field(description="The kind of our event; ignore: keep nothing")
    from_: dict[str, str] = Field(
        default={}, alias="from", description="Fields of the kind by JMESPath on the vendor's item: properties.count"
    )

    @property
    def names(self) -> tuple[str, ...]:
        return (self.match,) if isinstance(self.match, str) else tuple(self.match)

    @property
    def constants(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class SourceEntry(_Part):
    """One source. Everything may be left out."""

    format: Format | None = Field(default=None, description="Told from the request or record when left out")
    group_type: str | None = Field(
        default=None, min_length=1, max_length=100, description="The type of group that is an account; else the usual"
    )
    account: list[str] = Field(default=[], description="JMESPath of the account's id, tried in order: context.groupId")
    traits: dict[str, str] = Field(default={}, description="The vendor's trait of an account: the attribute it is here")
    events: list[EventEntry] = Field(default=[], description="The first entry that matches counts")
    cadence: str | None = Field(
        default=None,
        pattern=r"^[1-9]\d{0,3}[dhm]$",
        description="How often it delivers what others send as it happens: 24h. Then its silence is none until a "
        "delivery is overdue by a quarter of that",
    )


class TopicEntry(_Part):
    """A Kafka topic that the role `relay` reads."""

    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    source: SourceName
    format: Format | None = Field(default=None, description="Told from each record when left out")


class SourcesFile(_Part):
    """The file ``sources.yaml``."""

    sources: dict[SourceName, SourceEntry] = {}
    topics: list[TopicEntry] = []


_KEYS: Final = frozenset(
    [*(name for part in (SourcesFile, SourceEntry, TopicEntry, EventEntry) for name in part.model_fields), "from"]
)
_PLAIN: Final = Source()
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}


def load(path: FilePath) -> Sources:
    """The file's meaning; the defaults when there is no such file. Raises FileError with every fault."""
    if not path.exists():
        return Sources()
    file = read(path)
    parsed = file.validate(SourcesFile, _KEYS)
    if problems := list(_problems(file, parsed)):
        raise FileError(problems)
    named = {name: _source(name, entry) for name, entry in parsed.sources.items()}
    topics = tuple(Topic(topic=each.topic, source=each.source, format=each.format) for each in parsed.topics)
    return Sources(named=named, topics=topics)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file; committed as rules/sources.schema.json."""
    schema = SourcesFile.model_json_schema(by_alias=True)
    entry = schema["$defs"]["EventEntry"]
    keys = list(entry["properties"])
    constant = {"type": ["string", "number", "boolean"]}
    entry["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {
                "properties": {**dict.fromkeys(_settable(kind), constant), "from": _paths_schema(kind)},
                "propertyNames": {"enum": [*keys, *_constants_of(kind)]},
            },
        }
        for kind in get_args(RuleKind)
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Kizashi sources"}


def schema_text() -> str:
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


@lru_cache(256)
def _adopted(source: Source, name: str) -> Source:
    return replace(source, name=name)


def _source(name: str, entry: SourceEntry) -> Source:
    return Source(
        name=name,
        format=entry.format,
        group_types=ACCOUNT_TYPES if entry.group_type is None else (entry.group_type,),
        account=tuple(map(Path, entry.account)),
        traits=entry.traits,
        events=tuple((event.names, _rule(event)) for event in entry.events),
        cadence=None if entry.cadence is None else _duration(entry.cadence),
    )


def _duration(text: str) -> timedelta:
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})


def _rule(entry: EventEntry) -> Rule:
    paths = {name: Path(text) for name, text in entry.from_.items()}
    return Rule(kind=None if entry.kind == "ignore" else entry.kind, constants=entry.constants, paths=paths)


def _settable(kind: str) -> tuple[str, ...]:
    """What a rule may say beside the names and the kind."""
    if kind == "ignore":
        return ()
    more = {"identify": ("traits",), "group": ("traits",), "custom": ("properties",)}.get(kind, ())
    return (*own_fields(kind), *more, "account_id", "user_id")


def _constants_of(kind: str) -> list[str]:
    return [name for name in _settable(kind) if name not in {"traits", "properties", "account_id", "user_id"}]


def _paths_schema(kind: str) -> dict[str, Any]:
    return {"propertyNames": {"enum": list(_settable(kind))}}


def _problems(file: YamlFile, parsed: SourcesFile) -> Iterator[FileProblem]:
    attributes = AccountTraits.__struct_fields__
    for name, source in parsed.sources.items():
        place: Place = ("sources", name)
        for number, text in enumerate(source.account):
            yield from _path_problems(file, (*place, "account", number), text)
        for trait, attribute in source.traits.items():
            if attribute not in attributes:
                nearest = difflib.get_close_matches(attribute, attributes, n=1)
                words = f"{attribute} is none of {', '.join(attributes)}; others keep their names by themselves"
                yield file.problem((*place, "traits", trait), words, next(iter(nearest), None))
        for number, event in enumerate(source.events):
            yield from _event_problems(file, (*place, "events", number), event)
    seen: set[str] = set()
    for number, topic in enumerate(parsed.topics):
        if topic.topic in seen:
            yield file.problem(("topics", number, "topic"), f"{topic.topic} is named twice")
        seen.add(topic.topic)


def _event_problems(file: YamlFile, place: Place, event: EventEntry) -> Iterator[FileProblem]:
    settable = _settable(event.kind)
    for name in event.constants:
        if name not in _constants_of(event.kind):
            nearest = difflib.get_close_matches(name, [*settable, *EventEntry.model_fields], n=1)
            words = f"give {name} in `from`" if name in settable else f"{event.kind} has no field {name}"
            yield file.problem((*place, name), words, next(iter(nearest), None))
        else:
            yield from _constant_problems(file, (*place, name), event.kind, event.constants[name])
    for name, text in event.from_.items():
        if name not in settable:
            nearest = difflib.get_close_matches(name, settable, n=1)
            yield file.problem((*place, "from", name), f"{event.kind} has no field {name}", next(iter(nearest), None))
        yield from _path_problems(file, (*place, "from", name), text)
        if name in event.constants:
            yield file.problem((*place, "from", name), f"{name} is given twice: as a constant and in `from`")
    given = {*event.constants, *event.from_, SAID_BY_THE_CALL.get(event.kind, ""), "traits", "user_id"}
    if event.kind != "ignore":
        for needed in msgspec.structs.fields(KINDS[event.kind]):
            if needed.required and needed.name in settable and needed.name not in {*given, "account_id"}:
                yield file.problem(place, f"{event.kind} needs {needed.name}: as a constant or in `from`")


def _constant_problems(file: YamlFile, place: Place, kind: str, value: object) -> Iterator[FileProblem]:
    name = str(place[-1])
    hint = get_type_hints(KINDS[kind], include_extras=True)[name]
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        options = [str(option) for part in (hint, *get_args(hint)) for option in get_args(part) if get_args(part)]
        nearest = difflib.get_close_matches(str(value), options, n=1)
        yield file.problem(place, f"{name}: {error}", next(iter(nearest), None))


def _path_problems(file: YamlFile, place: Place, text: str) -> Iterator[FileProblem]:
    try:
        Path(text)
    except PathFault as fault:
        yield file.problem(place, f"{text!r} is not JMESPath: {fault}")


if __name__ == "__main__":
    target = FilePath(__file__).resolve().parent.parent / "rules" / "sources.schema.json"
    target.write_text(schema_text(), encoding="utf-8")
