"""What presets and mappings make of a call: drafts of events, or why there are none; and the words they share. Pure.

A draft is a canonical event as plain values, without account and source: those are added, and everything is checked,
in ``consumers/webhooks/translate.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError

from consumers.backfill.values import Unfit, as_number, as_text
from consumers.bad_events import Problem

Draft = dict[str, Any]
Path = Any
"""A compiled JMESPath expression."""


@dataclass(frozen=True)
class Ignored:
    """Nothing of it is kept; ``why`` is for the log."""

    why: str


Drafts = Sequence[Draft] | Ignored


class Unmapped(Exception):
    """A call that is genuine, of a kind that is asked for, and of another shape than expected."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.problem = Problem(field, problem, remedy)


def compiled(expression: str) -> Path:
    """Raises ValueError naming what is wrong with the expression."""
    try:
        return jmespath.compile(expression)
    except JMESPathError as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"is not JMESPath: {words}") from None


def found(path: Path, scope: Any) -> Any:
    """What the expression finds; None for nothing. Raises Unmapped where a function of it is given a wrong type."""
    try:
        return path.search(scope)
    except JMESPathError as error:
        words = " ".join(str(error).split())[:200]
        raise Unmapped(
            "", f"the mapping cannot be applied: {words}", "correct the expression in webhooks.yaml"
        ) from None


def at(scope: Any, *names: str | int) -> Any:
    """A value within objects and lists; None where any part of the way is missing."""
    for name in names:
        if isinstance(name, int):
            scope = scope[name] if isinstance(scope, list) and len(scope) > name else None
        else:
            scope = scope.get(name) if isinstance(scope, Mapping) else None
    return scope


def need(scope: Any, *names: str | int) -> Any:
    """Like ``at``, raising Unmapped for what is missing."""
    value = at(scope, *names)
    if value is None or value == "":
        raise Unmapped(".".join(str(name) for name in names), "is missing", "look at the call: its shape has changed")
    return value


def text_of(value: Any, field: str) -> str:
    """Raises Unmapped for what is not one value."""
    try:
        return as_text(value)
    except Unfit as unfit:
        raise Unmapped(field, unfit.problem, unfit.remedy) from None


def number_of(value: Any, field: str) -> int | float:
    try:
        return as_number(value)
    except Unfit as unfit:
        raise Unmapped(field, unfit.problem, unfit.remedy) from None


def instant(value: Any, field: str, *, per_second: int = 1) -> str:
    """RFC 3339 of a Unix time. Raises Unmapped."""
    number = number_of(value, field)
    try:
        return datetime.fromtimestamp(number / per_second, UTC).isoformat()
    except (OverflowError, OSError, ValueError):
        raise Unmapped(field, "is out of range", "give a time from 1970 to 2199") from None


def day(value: Any, field: str) -> str:
    """The UTC day of a Unix time in seconds. Raises Unmapped."""
    return instant(value, field)[:10]


_TAG: Final = re.compile(r"<[^<>]{0,500}>")
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_LONG_UNCLEAN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]+")


def line(value: Any, most: int = 500) -> str | None:
    """A text of one line as events take it: without tags and control characters, cut. None for no text."""
    if not isinstance(value, str):
        return None
    text = " ".join(_UNCLEAN.sub(" ", _TAG.sub(" ", value)).split())
    return text[: most - 1] + "…" if len(text) > most else text or None


def long_text(value: Any, most: int = 4000) -> str | None:
    """Like ``line``, with its line breaks."""
    if not isinstance(value, str):
        return None
    text = _LONG_UNCLEAN.sub(" ", value.replace("\r\n", "\n").replace("\r", "\n")).strip()
    return text[: most - 1] + "…" if len(text) > most else text or None


def trimmed(draft: Draft) -> Draft:
    """Without fields that are unknown."""
    return {name: value for name, value in draft.items() if value is not None}
