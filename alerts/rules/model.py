"""What a rules file may say (pydantic, at the door) and what a checked rule is (frozen, inside)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

from alerts.rules.expression import Compiled
from alerts.rules.reasons import Template, fill
from alerts.rules.routes import Routes
from health.catalogue import SignalRef
from health.custom import NONE, CustomSignal

Severity = Literal["critical", "warning", "info"]
Expected = Literal["fires", "silent", "unknown"]

RULE_ID = r"^[a-z0-9]+(-[a-z0-9]+)*$"
DURATION = r"^[0-9]{1,4}[dhm]$"

Duration = Annotated[
    str,
    StringConstraints(pattern=DURATION),
    Field(description="A whole number of days, hours or minutes: 7d, 12h, 30m", examples=["0d", "7d", "12h"]),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, strip_whitespace=True)]
Item = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^'\"\\${}\x00-\x1f]+$")]


def _one_or_list(value: Any) -> str:
    return "list" if isinstance(value, list) else "one"


OneOrList = Annotated[
    Annotated[str, Tag("one")] | Annotated[list[Item], Field(max_length=50), Tag("list")], Discriminator(_one_or_list)
]


def duration(text: str) -> timedelta:
    """``7d``, ``12h`` or ``30m`` as a length of time."""
    unit = {"d": "days", "h": "hours", "m": "minutes"}[text[-1]]
    return timedelta(**{unit: int(text[:-1])})


class FileModel(BaseModel):
    """Unknown keys are refused: a misspelt one would otherwise be ignored in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Words(FileModel):
    """A text in every language that alerts are written in."""

    en: Text
    ja: Text


class LevelSpec(FileModel):
    """One line of a severity that depends on the account; the first whose condition holds is taken."""

    level: Severity
    when: str | None = Field(default=None, description="SQL condition over signals; the last line has none")


class CaseSpec(FileModel):
    """A rule's own test: an account with these signals, all others unknown."""

    given: dict[str, float | bool | str | None] = Field(description="Signals and their values")
    expect: Expected
    severity: Severity | None = None
    reason: Annotated[dict[Literal["en", "ja"], str] | None, Field(description="The exact sentence")] = None


class RuleSpec(FileModel):
    """One rule as it is written."""

    id: Annotated[str, StringConstraints(pattern=RULE_ID, max_length=80)]
    title: Words
    when: str = Field(description="SQL condition over signals, e.g. days_since_login >= 14")
    severity: Annotated[
        Annotated[Severity, Tag("one")] | Annotated[list[LevelSpec], Field(min_length=1, max_length=10), Tag("list")],
        Discriminator(_one_or_list),
    ]
    for_: Duration = Field(default="0d", alias="for", description="How long it must hold before it is an alert")
    cooldown: Duration = Field(default="7d", description="How long an account is left alone after its alert was closed")
    renotify: Duration | None = Field(default=None, description="Remind while it stays open; null: never")
    notify_resolved: bool = Field(default=False, description="Tell the reader when it is over")
    reason: Words = Field(description="The sentence an alert opens with, e.g. No login for {days_since_login:days}")
    suggestion: Words = Field(description="The next step for the reader")
    tags: Annotated[list[str], Field(max_length=20)] = []
    enabled: bool = True
    for_each: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], OneOrList] | None,
        Field(
            min_length=1, max_length=1, description="One rule per item: {feature: core_features} or {feature: [a, b]}"
        ),
    ] = None
    tests: list[CaseSpec] = []


class RulesFile(FileModel):
    """A file of the rules directory."""

    lists: Annotated[
        dict[str, Annotated[list[Item], Field(max_length=50)]],
        Field(description="Lists of names that for_each of this file's rules repeats a rule over"),
    ] = {}
    rules: list[RuleSpec]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where something stands; lines and columns count from 1."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, kw_only=True)
class Level:
    level: Severity
    when: Compiled | None


@dataclass(frozen=True, kw_only=True)
class RuleCase:
    """A rule's own test, with its place for reporting."""

    given: Mapping[str, float | bool | str | None]
    expect: Expected
    severity: Severity | None
    reason: Mapping[str, str]
    place: Place


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A checked rule. ``refs`` are all signals it needs, those of its wording included. ``version`` is of its
    condition, ``levels_version`` of its severity."""

    id: str
    title: Mapping[str, str]
    when: Compiled
    levels: tuple[Level, ...]
    for_: timedelta
    cooldown: timedelta
    renotify: timedelta | None
    notify_resolved: bool
    reason: Mapping[str, Template]
    suggestion: Mapping[str, str]
    tags: tuple[str, ...]
    version: str
    levels_version: str
    refs: frozenset[SignalRef]
    absence: bool
    names_status: bool
    place: Place
    tests: tuple[RuleCase, ...] = field(default=(), repr=False)

    def severity_for(self, row: Mapping[str, Any]) -> Severity:
        """The level of one account, its signals keyed by ``str(ref)``; a condition that is unknown does not match."""
        for level in self.levels:
            if level.when is None or level.when.holds(row):
                return level.level
        return self.levels[-1].level


def render_reason(rule: Rule, row: Mapping[str, Any], language: str, currency: str | None = None) -> str:
    """The sentence that explains a rule's alert for one account, "en" or "ja"; what ``row`` lacks reads "unknown"."""
    return fill(rule.reason[language], row, language, currency)


@dataclass(frozen=True, kw_only=True)
class RuleBook:
    """All enabled rules and the routes; ``version`` is the hash of ``content``, which can be kept as JSON."""

    version: str
    rules: tuple[Rule, ...]
    routes: Routes
    content: Mapping[str, Any] = field(repr=False)
    custom: Mapping[str, CustomSignal] = field(default_factory=lambda: NONE, repr=False)

    @property
    def refs(self) -> frozenset[SignalRef]:
        """Every signal that some rule needs."""
        return frozenset[SignalRef]().union(*(rule.refs for rule in self.rules))


def content_hash(content: Any) -> str:
    """SHA-256 of the canonical JSON, so that spaces, comments and the order of keys do not count."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
