"""A mapping of one's own: which calls become which events, and where each field is found (JMESPath). Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from consumers.backfill.mapping import Kind, own_fields, target_of, trait_target
from consumers.backfill.values import Target, Unfit, as_boolean, as_day, as_number, as_text
from consumers.events import KINDS
from consumers.webhooks.drafts import Draft, Drafts, Ignored, Path, Unmapped, compiled, found, instant, line, long_text

Cast = Literal["text", "number", "boolean", "date", "epoch_s", "epoch_ms", "line"]
Scalar = str | int | float | bool | None
COMMON: Final = ("event_id", "timestamp", "account_id", "user_id")


class FieldSource(BaseModel):
    """Where a field's value comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="JMESPath into the call; with for_each into {item: …, call: …}")
    cast: Cast | None = Field(default=None, description="What the value is: needed for Unix times")
    values: dict[str, Scalar] = Field(
        default={}, description="What a value there is called here; others stay as they are"
    )
    default: Scalar = Field(default=None, description="Instead of nothing")


class Rule(BaseModel):
    """One event for every call, or every item of it, that ``when`` lets through."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: str | None = Field(default=None, description="JMESPath; true, or anything that is not empty, lets through")
    for_each: str | None = Field(default=None, description="JMESPath to a list: one event for each of its items")
    event: Kind = Field(description="The kind of event")
    fields: dict[str, str | FieldSource] = Field(
        description="Field to JMESPath; traits.<name> of identify and group, properties.<name> of custom"
    )


KEYS: Final = frozenset(name for part in (Rule, FieldSource) for name in part.model_fields)
Fault = tuple[tuple[str | int, ...], str, str | None]
"""Where in a rule, what is wrong, what may have been meant."""


def faults(rule: Rule) -> Iterator[Fault]:
    """What the types cannot say."""
    for name in ("when", "for_each"):
        expression = getattr(rule, name)
        if expression is not None:
            yield from _path_faults((name,), expression)
    known = (*COMMON, *own_fields(rule.event))
    for name, source in rule.fields.items():
        yield from _path_faults(("fields", name), source if isinstance(source, str) else source.path)
        group, dot, inner = name.partition(".")
        if dot and inner and group == _HOLDERS.get(rule.event):
            continue
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            yield ("fields", name), f"{rule.event} has no field {name}", next(iter(nearest), None)
    for name in _required(rule.event):
        if name not in rule.fields and not any(field.startswith(f"{name}.") for field in rule.fields):
            yield ("fields",), f"{rule.event} needs {name}", None


_HOLDERS: Final[Mapping[str, str]] = {"identify": "traits", "group": "traits", "custom": "properties"}


def _path_faults(place: tuple[str | int, ...], expression: str) -> Iterator[Fault]:
    try:
        compiled(expression)
    except ValueError as error:
        yield place, f"{place[-1]} {error}", None


def _required(kind: str) -> list[str]:
    """Beside the account, which the webhook itself may name."""
    fields = msgspec.structs.fields(KINDS[kind])
    names = [field.name for field in fields if field.required and field.name != "account_id"]
    return [*names, "user_id"] if kind == "identify" else names


@dataclass(frozen=True)
class _Source:
    """A field of a rule, ready to be read."""

    name: str
    path: Path
    spec: FieldSource
    convert: Callable[[Any], Any]

    def read(self, scope: Any) -> Any:
        value = found(self.path, scope)
        if isinstance(value, str | int | float | bool) and self.spec.values:
            value = self.spec.values.get(as_text(value), value)
        if value is None or value == "":
            return self.spec.default
        try:
            return self.convert(value)
        except Unfit as unfit:
            raise Unmapped(self.name, unfit.problem, unfit.remedy) from None


def drafts(rules: Sequence[Rule]) -> Callable[[Any], Drafts]:
    """Of rules without ``faults``."""
    makers = [_maker(rule) for rule in rules]

    def make(document: Any) -> Drafts:
        made = [draft for maker in makers for draft in maker(document)]
        return made or Ignored("no rule is for it")

    return make


def _maker(rule: Rule) -> Callable[[Any], Iterator[Draft]]:
    when = None if rule.when is None else compiled(rule.when)
    for_each = None if rule.for_each is None else compiled(rule.for_each)
    sources = [_source(rule.event, name, spec) for name, spec in rule.fields.items()]

    def make(document: Any) -> Iterator[Draft]:
        for scope in [document] if for_each is None else _items(found(for_each, document), document):
            if when is not None and _is_false(found(when, scope)):
                continue
            yield _draft(rule.event, sources, scope)

    return make


def _is_false(value: Any) -> bool:
    """As JMESPath has it: 0 is true."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _items(items: Any, document: Any) -> list[Any]:
    if items is None:
        return []
    if not isinstance(items, list):
        raise Unmapped("", "what for_each names is not a list", "correct for_each in webhooks.yaml")
    return [{"item": item, "call": document} for item in items]


def _draft(kind: str, sources: Sequence[_Source], scope: Any) -> Draft:
    draft: Draft = {"kind": kind}
    if kind in {"identify", "group"}:
        draft["traits"] = {}
    for source in sources:
        value = source.read(scope)
        if value is None:
            continue
        group, dot, inner = source.name.partition(".")
        if dot:
            draft.setdefault(group, {})[inner] = value
        else:
            draft[source.name] = value
    return draft


def _source(kind: str, name: str, given: str | FieldSource) -> _Source:
    spec = FieldSource(path=given) if isinstance(given, str) else given
    group, dot, inner = name.partition(".")
    if dot:
        target = trait_target(kind, inner) if group == "traits" else "any"
    elif name in {*COMMON, "traits", "properties"}:
        target = "any" if name in {"traits", "properties"} else "text"
    else:
        target = target_of(kind, name)
    return _Source(name, compiled(spec.path), spec, _conversion(name, spec.cast, target))


def _conversion(name: str, cast_: Cast | None, target: Target) -> Callable[[Any], Any]:
    if cast_ in {"epoch_s", "epoch_ms"}:
        per_second = 1 if cast_ == "epoch_s" else 1000
        cut = 10 if target == "date" else None
        return lambda value: instant(value, name, per_second=per_second)[:cut]
    if name == "timestamp":
        return _as_timestamp
    if cast_ is not None:
        return _CASTS[cast_]
    long = name in {"comment", "note"}
    if long or name in {"subject", "title"}:
        return long_text if long else line
    return _TARGETS[target]


def _as_timestamp(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit("is a number", "say what it is: {path: …, cast: epoch_s}, or epoch_ms")
    return value


def _as_day(value: Any) -> str:
    found_: date = as_day(value)
    return found_.isoformat()


def _scalar(value: Any) -> Any:
    return value


_CASTS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "text": as_text, "number": as_number, "boolean": as_boolean, "date": _as_day, "line": line,
}  # fmt: skip
_TARGETS: Final = cast(
    "Mapping[str, Callable[[Any], Any]]",
    {"text": as_text, "number": as_number, "date": _as_day, "time_or_date": as_text, "any": _scalar},
)
