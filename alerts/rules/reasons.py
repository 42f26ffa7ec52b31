"""The sentence that explains an alert: a template over signals, filled in for one account, in English and Japanese.

``{days_since_login:days}`` is a signal and a format; ``{-usage_change_28d:percent}`` shows the negative, so that a fall
reads as a fall. A value that is not known reads "unknown" and never stops an alert.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from babel.dates import format_date
from babel.numbers import format_currency, format_decimal

from health.catalogue import Signal, SignalRef

UNKNOWN = {"en": "unknown", "ja": "不明"}

PLACE = re.compile(r"\{(?P<negative>-?)(?P<signal>[^{}:\[]*(?:\[(?:'[^'{}]*')+\])?)(?::(?P<format>[^{}]*))?\}")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place to be filled. ``format`` is a key of FORMATS."""

    ref: SignalRef
    format: str
    negative: bool


@dataclass(frozen=True, kw_only=True)
class Template:
    """Texts and places in turn."""

    source: str
    parts: tuple[str | Slot, ...]

    @property
    def refs(self) -> frozenset[SignalRef]:
        return frozenset(part.ref for part in self.parts if isinstance(part, Slot))


@dataclass(frozen=True, kw_only=True)
class TemplateProblem:
    """What is wrong with a template, at a character of its text."""

    offset: int
    problem: str
    nearest: str | None = None


def parse_template(source: str, catalogue: Mapping[str, Signal]) -> Template | TemplateProblem:
    """Check a template; a problem is returned as a value."""
    parts: list[str | Slot] = []
    end = 0
    for match in PLACE.finditer(source):
        slot = _slot(match, catalogue)
        if isinstance(slot, TemplateProblem):
            return slot
        parts += [source[end : match.start()], slot]
        end = match.end()
    parts.append(source[end:])
    outside = PLACE.sub(lambda match: " " * len(match[0]), source)
    if stray := re.search(r"[{}]", outside):
        return TemplateProblem(offset=stray.start(), problem="a brace without its partner")
    return Template(source=source, parts=tuple(part for part in parts if part))


def _slot(match: re.Match[str], catalogue: Mapping[str, Signal]) -> Slot | TemplateProblem:
    offset = match.start("signal")
    name = match["signal"].strip()
    try:
        ref = SignalRef.parse(name)
    except ValueError as error:
        return TemplateProblem(offset=offset, problem=str(error))
    signal = catalogue.get(ref.name)
    if signal is None:
        nearest = difflib.get_close_matches(ref.name, catalogue, n=1)
        return TemplateProblem(
            offset=offset, problem=f"no signal is called {ref.name!r}", nearest=next(iter(nearest), None)
        )
    if (signal.parameter is None) != (ref.argument is None):
        right = ref.name if signal.parameter is None else f"{ref.name}['…']"
        return TemplateProblem(offset=offset, problem=f"signal {ref.name} is written differently", nearest=right)
    format_ = (match["format"] or {"number": "number", "date": "date"}.get(signal.type, "text")).strip()
    if format_ not in FORMATS:
        nearest = difflib.get_close_matches(format_, FORMATS, n=1)
        problem = f"there is no format {format_!r}; there are {', '.join(FORMATS)}"
        return TemplateProblem(offset=match.start("format"), problem=problem, nearest=next(iter(nearest), None))
    numeric = format_ in NUMBER_FORMATS
    if numeric != (signal.type == "number") and format_ != "text":
        return TemplateProblem(
            offset=offset, problem=f"signal {ref} is a {signal.type} and cannot be shown as {format_}"
        )
    if match["negative"] and not numeric:
        return TemplateProblem(offset=offset, problem=f"only a number has a negative, and {ref} is shown as {format_}")
    return Slot(ref=ref, format=format_, negative=bool(match["negative"]))


def fill(template: Template, row: Mapping[str, Any], language: str, currency: str | None = None) -> str:
    """The sentence for one account; ``row`` is keyed by ``str(ref)``, and what it lacks is unknown."""
    words = []
    for part in template.parts:
        if isinstance(part, str):
            words.append(part)
            continue
        value = row.get(str(part.ref))
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            words.append(UNKNOWN[language])
        else:
            words.append(FORMATS[part.format](-value if part.negative else value, language, currency))
    return "".join(words)


def _days(value: Any, language: str, _currency: str | None) -> str:
    days = math.floor(value)
    text = format_decimal(days, locale=language)
    return f"{text}日間" if language == "ja" else f"{text} {'day' if days == 1 else 'days'}"


def _percent(value: Any, language: str, _currency: str | None) -> str:
    return f"{format_decimal(round(value * 100), locale=language)}%"


def _whole(value: Any, language: str, _currency: str | None) -> str:
    return str(format_decimal(round(value), locale=language))


def _number(value: Any, language: str, _currency: str | None) -> str:
    return str(format_decimal(round(value, 2), locale=language, format="#,##0.##"))


def _money(value: Any, language: str, currency: str | None) -> str:
    if currency is None:
        return _whole(value, language, None)
    whole = float(value).is_integer()
    return str(
        format_currency(value, currency, format="¤#,##0" if whole else None, locale=language, currency_digits=not whole)
    )


def _date(value: Any, language: str, _currency: str | None) -> str:
    day = value if isinstance(value, date) else datetime.fromisoformat(str(value)).date()
    return str(format_date(day, format="long", locale=language))


def _text(value: Any, language: str, _currency: str | None) -> str:
    if isinstance(value, bool):
        return {"en": ("no", "yes"), "ja": ("いいえ", "はい")}[language][value]
    return str(value)


def _band(value: Any, language: str, _currency: str | None) -> str:
    return {"green": "緑", "yellow": "黄", "red": "赤"}.get(value, value) if language == "ja" else str(value)


FORMATS: Mapping[str, Callable[[Any, str, str | None], str]] = {
    "days": _days,
    "percent": _percent,
    "int": _whole,
    "number": _number,
    "money": _money,
    "date": _date,
    "text": _text,
    "band": _band,
}
NUMBER_FORMATS = frozenset({"days", "percent", "int", "number", "money"})
