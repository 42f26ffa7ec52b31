"""Signals of configuration: ``rules/signals.yaml``, derived from facts that are kept anyway.

Nothing is counted for them in advance: they are as right for the past as the facts are, back to the first event.
``python -m health.custom`` writes ``rules/signals.schema.json`` anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from health.catalogue import SIGNALS, Signal
from health.yamlfile import FileError, FileProblem, YamlFile, read

FILE: Final = "signals.yaml"
SCHEMA: Final = Path(__file__).resolve().parent.parent / "rules" / "signals.schema.json"
MOST_SIGNALS: Final = 100

Measure = Literal["count", "sum", "last", "distinct", "attribute"]
RecordKind = Literal["ticket", "payment", "survey", "milestone", "goal", "session", "contact", "subscription", "custom"]
Scalar = str | bool | float
FIELD: Final = r"^[^.\s]+(\.[^.\s]+){0,3}$"
KEPT_PER_DAY: Final = ("login", "usage")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Meaning(_Part):
    en: str = Field(min_length=1, max_length=300, pattern=r"^[^|]*$")
    ja: str = Field(min_length=1, max_length=300, pattern=r"^[^|]*$")


class SignalSpec(_Part):
    """One signal. ``of``: the field of the event that is summed, told apart or taken, or the attribute's name."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    measure: Measure
    event: Literal["login", "usage"] | RecordKind | None = None
    of: str | None = Field(default=None, pattern=FIELD)
    where: dict[Annotated[str, Field(pattern=FIELD)], Scalar | list[Scalar]] = Field(default_factory=dict)
    days: int | None = Field(default=None, ge=1, le=365)
    type: Literal["number", "text"] = "number"
    unit: str = Field(default="", max_length=30)
    meaning: Meaning


class SignalsFile(_Part):
    """Signals of our own."""

    signals: list[SignalSpec] = Field(max_length=MOST_SIGNALS)


@dataclass(frozen=True, kw_only=True)
class CustomSignal:
    signal: Signal
    spec: SignalSpec

    @property
    def by_day(self) -> bool:
        """Made from what is kept per UTC day, not from single events."""
        return self.spec.event in KEPT_PER_DAY

    @property
    def content(self) -> dict[str, Any]:
        """As it counts for the version of whatever uses it."""
        return self.spec.model_dump(mode="json")

    @property
    def counted(self) -> dict[str, Any]:
        """What its values depend on: all but its wording."""
        return self.spec.model_dump(mode="json", exclude={"unit", "meaning"})


NONE: Final[Mapping[str, CustomSignal]] = MappingProxyType({})


def with_catalogue(declared: Mapping[str, CustomSignal]) -> Mapping[str, Signal]:
    """All signals that may be spoken of."""
    return {**SIGNALS, **{name: each.signal for name, each in declared.items()}} if declared else SIGNALS


def load(rules_dir: Path) -> Mapping[str, CustomSignal]:
    """The signals of ``rules_dir``/signals.yaml; none without the file. Raises FileError with every fault."""
    path = rules_dir / FILE
    if not path.is_file():
        return NONE
    file = read(path)
    keys = {*SignalSpec.model_fields, *SignalsFile.model_fields, *Meaning.model_fields}
    specs = file.validate(SignalsFile, keys).signals
    problems = list(_problems(file, specs))
    if problems:
        raise FileError(problems)
    return MappingProxyType({spec.name: CustomSignal(signal=_entry(spec), spec=spec) for spec in specs})


def _problems(file: YamlFile, specs: list[SignalSpec]) -> Iterator[FileProblem]:
    seen: set[str] = set()
    for number, spec in enumerate(specs):
        if spec.name in SIGNALS:
            yield file.problem(("signals", number, "name"), f"{spec.name} is a signal of the catalogue; choose another")
        if spec.name in seen:
            yield file.problem(("signals", number, "name"), f"{spec.name} is declared twice; remove one")
        seen.add(spec.name)
        fault = _fault(spec)
        if fault is not None:
            yield file.problem(("signals", number, fault[0]), f"{spec.name}: {fault[1]}")


def _fault(spec: SignalSpec) -> tuple[str, str] | None:
    """(key, problem with its remedy) of the first thing that cannot be."""
    if spec.measure == "attribute":
        return _fault_of_attribute(spec)
    if spec.event is None:
        return "measure", f"{spec.measure} needs an event; add event: with its kind"
    if spec.measure in {"count", "sum", "distinct"}:
        if spec.days is None:
            return "measure", f"{spec.measure} needs a window; add days:"
        if spec.type == "text":
            return "type", f"{spec.measure} gives a number; remove type"
    if spec.measure != "count" and spec.of is None:
        return "measure", f"{spec.measure} needs of: the field it is made from"
    if spec.measure == "count" and spec.of is not None:
        return "of", "count counts events; remove of, or use sum or distinct"
    if spec.event == "login" and (spec.measure != "count" or spec.where):
        return "event", "of logins only their number per day is kept; use measure: count without where"
    return _fault_of_usage(spec) if spec.event == "usage" else None


def _fault_of_attribute(spec: SignalSpec) -> tuple[str, str] | None:
    if spec.of is None:
        return "measure", "attribute needs of: the name of the account's attribute"
    if spec.of in SIGNALS:
        return "of", f"{spec.of} is a signal already; write {spec.of} in the rule"
    for key in ("event", "days", "where"):
        if getattr(spec, key):
            return key, f"an attribute has no {key}; remove it"
    return None


def _fault_of_usage(spec: SignalSpec) -> tuple[str, str] | None:
    unknown = next((name for name in spec.where if name != "feature"), None)
    if unknown is not None:
        return "where", f"of usage only feature and quantity are kept, not {unknown}; send it as a custom event"
    if (spec.measure, spec.of) not in {("sum", "quantity"), ("distinct", "day"), ("distinct", "feature")}:
        return "measure", (
            "usage is kept as quantities per day and feature; use sum of quantity, distinct of day or distinct of "
            "feature (for the time since the last use: days_since_feature['…'])"
        )
    return None


def kept(contents: Iterable[Mapping[str, Any]]) -> Mapping[str, CustomSignal]:
    """The signals from their ``content``, as a rulebook keeps them."""
    specs = [SignalSpec.model_validate(content) for content in contents]
    return {spec.name: CustomSignal(signal=_entry(spec), spec=spec) for spec in specs}


def _entry(spec: SignalSpec) -> Signal:
    by_day = spec.event in KEPT_PER_DAY
    needs = {"login": "account_months", "usage": "feature_months"}.get(spec.event or "", "record_events")
    past = {
        "en": "exact back to the first event",
        "ja": "最初のイベントまでさかのぼって正確",
    }
    present = {
        "en": "as the attribute stands now; its earlier values are not kept",
        "ja": "現在の値のみ(過去の値は保存されない)",
    }
    attribute = spec.measure == "attribute"
    return Signal(
        name=spec.name,
        type=spec.type,
        unit=spec.unit,
        meaning=MappingProxyType({"en": spec.meaning.en, "ja": spec.meaning.ja}),
        needs=("account_attributes",) if attribute else (needs, "gaps") if spec.days else (needs,),
        absence=spec.days is not None,
        day_border="utc" if by_day else "",
        valid=MappingProxyType(present if attribute else past),
    )


def schema_text() -> str:
    """The JSON Schema as it is kept in the repository."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **SignalsFile.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
