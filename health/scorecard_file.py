"""What a scorecard file may say, and how it is read. ``docs/scorecards.md`` explains it to its writers.

``load_card`` refuses a file as a whole, with file, line, column, problem and nearest valid name. ``python -m
health.scorecard_file`` writes ``rules/scorecards.schema.json`` anew.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from health.catalogue import SCORE_SIGNALS, Signal, SignalRef, check
from health.custom import NONE, CustomSignal, with_catalogue
from health.yamlfile import FileError, FileProblem, Place, YamlFile, parse, read

Group = Literal["Deployment", "Engagement", "Adoption", "ROI", "Children"]
Band = Literal["green", "yellow", "red"]
Points = Annotated[float, Field(ge=0, le=100)]
Weight = Annotated[float, Field(gt=0, le=1000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]

VALUE = "value"
MOST_PARTS = 100
"""Of measures, of caps, of entries to match, of points of a line: nobody reads more, and each costs everywhere."""
_PLACEHOLDERS = re.compile(r"\{([^}]*)\}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Words(_Part):
    """A text in both languages."""

    en: str = Field(min_length=1, max_length=300)
    ja: str = Field(min_length=1, max_length=300)


class Reason(Words):
    """``{value}`` stands for the signal's value with its unit, ``{other_signal}`` for that of another signal."""

    @model_validator(mode="after")
    def _balanced(self) -> Reason:
        for words in (self.en, self.ja):
            if words.count("{") != words.count("}"):
                raise ValueError("a brace is not closed")
        return self

    @property
    def mentioned(self) -> tuple[str, ...]:
        """The other signals in braces, as they are written."""
        named = [name for words in (self.en, self.ja) for name in _PLACEHOLDERS.findall(words)]
        return tuple(dict.fromkeys(name for name in named if name != VALUE))


class Condition(_Part):
    """On a text signal one of some values, on a number at least or below a value. Unknown meets no condition.

    In a file: ``plan: [pro, enterprise]``, ``plan: pro``, ``days_since_start: {below: 90}``.
    """

    one_of: list[str] | None = Field(default=None, min_length=1)
    at_least: Number | None = None
    below: Number | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"one_of": [value]}
        return {"one_of": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _something(self) -> Condition:
        numeric = self.at_least is not None or self.below is not None
        if numeric == (self.one_of is not None):
            raise ValueError("give either a list of texts, or at_least and below")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        whole = handler.resolve_ref_schema(handler(schema))
        short = [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
        return {"anyOf": [*short, dict(whole)], "description": whole.get("description", "")}


class GroupPart(_Part):
    """What a group counts, and how its measures make its points: by their weights, or as the ``worst`` of them.

    In a file a mere number is the weight.
    """

    weight: Weight
    combine: Literal["weighted", "worst"] = "weighted"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {"weight": value} if number else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        whole = handler.resolve_ref_schema(handler(schema))
        short = {"type": "number", "exclusiveMinimum": 0, "maximum": 1000}
        return {"anyOf": [short, dict(whole)], "description": whole.get("description", "")}


class Bands(_Part):
    """Green from ``green``, yellow from ``yellow``; a better band is entered ``hysteresis`` points above its border."""

    green: Points = 70
    yellow: Points = 40
    hysteresis: Annotated[float, Field(ge=0, le=20)] = 3

    @model_validator(mode="after")
    def _ordered(self) -> Bands:
        if not 0 < self.yellow < self.green:
            raise ValueError("yellow must lie above 0 and below green")
        return self


class AtRisk(_Part):
    """Which part of an account's MRR counts as at risk, per band."""

    red: Annotated[float, Field(ge=0, le=1)] = 1.0
    yellow: Annotated[float, Field(ge=0, le=1)] = 0.5
    green: Annotated[float, Field(ge=0, le=1)] = 0.0


class Measure(_Part):
    """Maps a signal to 0..100 points: by a ``line`` through [value, points], or by ``steps`` [from value, points]."""

    id: Identifier
    group: Group
    signal: str
    weight: Weight
    line: list[tuple[Number, Points]] | None = Field(default=None, min_length=2, max_length=MOST_PARTS)
    steps: list[tuple[Number, Points]] | None = Field(default=None, min_length=2, max_length=MOST_PARTS)
    reason: Reason

    @model_validator(mode="after")
    def _one_ascending(self) -> Measure:
        if (self.line is None) == (self.steps is None):
            raise ValueError("give either line or steps")
        values = [value for value, _ in self.mapping]
        if any(later <= earlier for earlier, later in pairwise(values)):
            raise ValueError("the values of line or steps must ascend")
        return self

    @property
    def mapping(self) -> list[tuple[float, float]]:
        return self.line or self.steps or []


class Cap(_Part):
    """While the signal is at least ``at_least`` (or below ``below``), the score is at most ``limit``: points or a
    band."""

    id: Identifier
    signal: str
    at_least: Number | None = None
    below: Number | None = None
    limit: Points | Literal["yellow", "red"]
    reason: Reason

    @model_validator(mode="after")
    def _one_condition(self) -> Cap:
        if (self.at_least is None) == (self.below is None):
            raise ValueError("give either at_least or below")
        return self


Match = dict[str, Condition]


def _one_or_many(schema: dict[str, Any]) -> None:
    many = next(option for option in schema["anyOf"] if option.get("type") == "array")
    schema["anyOf"].insert(0, many["items"])


class Card(_Part):
    """A scorecard file. ``match``: whose card it is; an account must meet every condition of one of its entries, one
    entry going without a list. The card without ``match`` is everybody else's.
    """

    scorecard: Identifier
    title: Words
    match: list[Match] | None = Field(default=None, min_length=1, max_length=MOST_PARTS, json_schema_extra=_one_or_many)
    bands: Bands = Bands()
    minimum_confidence: Annotated[float, Field(ge=0, le=1)] = 0.4
    mrr_at_risk: AtRisk = AtRisk()
    groups: dict[Group, GroupPart] = Field(min_length=1)
    measures: list[Measure] = Field(min_length=1, max_length=MOST_PARTS)
    caps: list[Cap] = Field(default=[], max_length=MOST_PARTS)

    @field_validator("match", mode="before")
    @classmethod
    def _one(cls, match: Any) -> Any:
        return [match] if isinstance(match, dict) else match

    @field_validator("match")
    @classmethod
    def _conditions(cls, match: list[Match] | None) -> list[Match] | None:
        if match is not None and not all(match):
            raise ValueError("an entry without conditions would match everybody: leave match out for that")
        return match


_PARTS = (Card, Measure, Cap, Reason, Bands, AtRisk, GroupPart, Condition)
_KEYS = frozenset(name for part in _PARTS for name in part.model_fields)
OVERRIDE = "override"
FULL_MARK = "full_mark"
WORST_OF = "worst-of-"
"""Names of the lines that are no measure's and no cap's; the last is followed by the group."""


def load_card(path: Path, declared: Mapping[str, CustomSignal] = NONE) -> tuple[Card, str]:
    """A card and its version: a hash of what it says and of what it uses of the signals ``declared`` in configuration,
    so that comments and layout do not count. Raises FileError."""
    return _checked(read(path), declared)


def parse_card(text: str, name: str, declared: Mapping[str, CustomSignal] = NONE) -> tuple[Card, str]:
    """The same from a text that ``name`` stands for in what is said of it."""
    return _checked(parse(text, name), declared)


def used(card: Card, declared: Mapping[str, CustomSignal]) -> Mapping[str, CustomSignal]:
    """The signals of configuration that a card speaks of."""
    parts: list[Measure | Cap] = [*card.measures, *card.caps]
    named = [*(part.signal for part in parts), *(name for part in parts for name in part.reason.mentioned)]
    named += [name for entry in card.match or [] for name in entry]
    return {name: declared[name] for name in sorted(set(named)) if name in declared}


def _checked(file: YamlFile, declared: Mapping[str, CustomSignal]) -> tuple[Card, str]:
    card = file.validate(Card, _KEYS)
    if problems := list(_problems(file, card, with_catalogue(declared))):
        raise FileError(problems)
    content = card.model_dump()
    if ours := used(card, declared):
        content["signals"] = {name: signal.content for name, signal in ours.items()}
    told = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return card, hashlib.sha256(told.encode()).hexdigest()[:12]


def _problems(file: YamlFile, card: Card, catalogue: Mapping[str, Signal]) -> Iterator[FileProblem]:
    seen: set[str] = set()
    place: Place
    parts: list[tuple[Place, Measure | Cap]] = [
        *((("measures", place), measure) for place, measure in enumerate(card.measures)),
        *((("caps", place), cap) for place, cap in enumerate(card.caps)),
    ]
    for place, part in parts:
        if part.id in seen:
            yield file.problem((*place, "id"), f"the id {part.id} is used twice")
        if part.id == OVERRIDE or part.id.startswith(WORST_OF):
            yield file.problem((*place, "id"), f"the id {part.id} is kept for a line of our own; choose another")
        seen.add(part.id)
        yield from _signal_problems(file, (*place, "signal"), part.signal, catalogue)
        for name in part.reason.mentioned:
            yield from _signal_problems(file, (*place, "reason"), name, catalogue, measured=False)
        if isinstance(part, Measure) and part.group not in card.groups:
            yield file.problem((*place, "group"), f"groups gives no weight for {part.group}")
    for group in card.groups:
        if all(measure.group != group for measure in card.measures):
            yield file.problem(("groups", group), f"no measure belongs to {group}; remove the group or add one")
    for number, entry in enumerate(card.match or []):
        for name, condition in entry.items():
            place = ("match", name) if isinstance(file.values["match"], dict) else ("match", number, name)
            yield from _match_problems(file, place, name, condition, catalogue)


def _match_problems(
    file: YamlFile, place: Place, name: str, condition: Condition, catalogue: Mapping[str, Signal]
) -> Iterator[FileProblem]:
    found = list(_signal_problems(file, place, name, catalogue, measured=False))
    yield from found
    if found:
        return
    entry = catalogue[SignalRef.parse(name).name]
    if entry.absence:
        words = "may be missing for want of data; whose card is whose must not hang on it"
        yield file.problem(place, f"{name} {words}")
    elif (entry.type == "text") != (condition.one_of is not None):
        words = "give the texts it may be" if entry.type == "text" else "give at_least or below"
        yield file.problem(place, f"{name} is a {entry.type}; {words}")
    elif entry.type == "date":
        yield file.problem(place, f"{name} is a date; use a signal that counts days")


def _signal_problems(
    file: YamlFile, place: Place, signal: str, catalogue: Mapping[str, Signal], *, measured: bool = True
) -> Iterator[FileProblem]:
    try:
        ref = SignalRef.parse(signal)
        entry = check(ref, catalogue)
    except ValueError as error:
        name = signal.split("[", maxsplit=1)[0]
        known = catalogue if measured else [VALUE, *catalogue]
        nearest: Any = None if name in catalogue else next(iter(difflib.get_close_matches(name, known, n=1)), None)
        yield file.problem(place, str(error), nearest)
        return
    if ref.name in SCORE_SIGNALS:
        yield file.problem(place, f"{ref.name} comes from the scorecard and cannot go into it")
    elif measured and entry.type not in {"number", "boolean"}:
        yield file.problem(place, f"{ref.name} is a {entry.type}; a scorecard takes numbers and booleans")


def schema_text() -> str:
    """JSON Schema (2020-12) of a scorecard file; committed as rules/scorecards.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Card.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    target = Path(__file__).resolve().parent.parent / "rules" / "scorecards.schema.json"
    target.write_text(schema_text(), encoding="utf-8")
