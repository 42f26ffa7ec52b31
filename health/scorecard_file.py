"""What a scorecard file may say, and how it is read. ``docs/scorecards.md`` explains it to its writers.

``load`` refuses a file as a whole, with file, line, column, problem and nearest valid name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from health.catalogue import SCORE_SIGNALS, SIGNALS, SignalRef, check
from health.yamlfile import FileError, FileProblem, Place, YamlFile, read

Group = Literal["Deployment", "Engagement", "Adoption", "ROI"]
Band = Literal["green", "yellow", "red"]
Points = Annotated[float, Field(ge=0, le=100)]
Weight = Annotated[float, Field(gt=0, le=1000)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]

_PLACEHOLDERS = re.compile(r"\{([^}]*)\}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Words(_Part):
    """A text in both languages; ``{value}`` stands for the signal's value with its unit."""

    en: str = Field(min_length=1, max_length=300)
    ja: str = Field(min_length=1, max_length=300)

    @model_validator(mode="after")
    def _only_value(self) -> Words:
        for words in (self.en, self.ja):
            unknown = [name for name in _PLACEHOLDERS.findall(words) if name != "value"]
            if unknown or words.count("{") != words.count("}"):
                raise ValueError("only {value} may stand in braces")
        return self


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
    line: list[tuple[float, Points]] | None = Field(default=None, min_length=2)
    steps: list[tuple[float, Points]] | None = Field(default=None, min_length=2)
    reason: Words

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
    at_least: float | None = None
    below: float | None = None
    limit: Points | Literal["yellow", "red"]
    reason: Words

    @model_validator(mode="after")
    def _one_condition(self) -> Cap:
        if (self.at_least is None) == (self.below is None):
            raise ValueError("give either at_least or below")
        return self


class Card(_Part):
    """A scorecard file."""

    scorecard: Identifier
    title: Words
    bands: Bands = Bands()
    minimum_confidence: Annotated[float, Field(ge=0, le=1)] = 0.4
    mrr_at_risk: AtRisk = AtRisk()
    groups: dict[Group, Weight]
    measures: list[Measure] = Field(min_length=1)
    caps: list[Cap] = []


_KEYS = frozenset(name for part in (Card, Measure, Cap, Words, Bands, AtRisk) for name in part.model_fields)


def load_card(path: Path) -> tuple[Card, str]:
    """A card and its version: a hash of what it says, so that comments and layout do not count. Raises FileError."""
    file = read(path)
    card = file.validate(Card, _KEYS)
    if problems := list(_problems(file, card)):
        raise FileError(problems)
    content = json.dumps(card.model_dump(), sort_keys=True, ensure_ascii=False)
    return card, hashlib.sha256(content.encode()).hexdigest()[:12]


def _problems(file: YamlFile, card: Card) -> Iterator[FileProblem]:
    seen: set[str] = set()
    parts: list[tuple[Place, Measure | Cap]] = [
        *((("measures", place), measure) for place, measure in enumerate(card.measures)),
        *((("caps", place), cap) for place, cap in enumerate(card.caps)),
    ]
    for place, part in parts:
        if part.id in seen:
            yield file.problem((*place, "id"), f"the id {part.id} is used twice")
        seen.add(part.id)
        yield from _signal_problems(file, (*place, "signal"), part.signal)
        if isinstance(part, Measure) and part.group not in card.groups:
            yield file.problem((*place, "group"), f"groups gives no weight for {part.group}")
    for group in card.groups:
        if all(measure.group != group for measure in card.measures):
            yield file.problem(("groups", group), f"no measure belongs to {group}; remove the group or add one")


def _signal_problems(file: YamlFile, place: Place, signal: str) -> Iterator[FileProblem]:
    try:
        ref = SignalRef.parse(signal)
        entry = check(ref)
    except ValueError as error:
        name = signal.split("[", maxsplit=1)[0]
        nearest: Any = None if name in SIGNALS else next(iter(difflib.get_close_matches(name, SIGNALS, n=1)), None)
        yield file.problem(place, str(error), nearest)
        return
    if ref.name in SCORE_SIGNALS:
        yield file.problem(place, f"{ref.name} comes from the scorecard and cannot go into it")
    elif entry.type not in {"number", "boolean"}:
        yield file.problem(place, f"{ref.name} is a {entry.type}; a scorecard takes numbers and booleans")
