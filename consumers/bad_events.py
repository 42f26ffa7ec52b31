"""Says what is wrong with an event that could not be decoded: which field, what the problem is, what to do about it.

The decoder stops at the first fault. Only then does this module look again, field by field, so that a producer is told
everything at once and the good events never pay for it. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, get_args, get_type_hints

import msgspec

Reason = Literal[
    "malformed", "too_large", "too_deep", "unknown_kind", "missing_field", "bad_value", "future", "storage",
    "no_account",
]  # fmt: skip
"""Why an event was refused, coarsely: the label of the metrics and the ``reason`` of a dead letter."""

SHOWN_CHARACTERS: Final = 80

REMEDIES: Final[Mapping[str, str]] = {
    "kind": "set `kind` to one of the event kinds",
    "event_id": "give an id of 1 to 200 printable characters that is the same on every retry",
    "account_id": "give the account's id: 1 to 200 printable characters, not `.` or `..` alone",
    "user_id": "give the user's id as 1 to 200 printable characters, or leave it out",
    "timestamp": "give the time of the event as RFC 3339 with offset, such as 2026-05-01T09:30:00Z, in 1970 to 2199",
    "received_at": "leave it out; the HTTP door stamps it",
    "source": "use 1 to 64 of the characters A-Z a-z 0-9 _ . : -",
    "import_id": "give `import_id` and `import_row` together, or neither",
    "import_row": "give the row number (0 or more) together with `import_id`, or neither",
    "quantity": "give a number from 0 to 1000000000 with at most 3 decimals",
    "traits": "give an object of at most 100 traits whose values are text, numbers, true, false or null",
}


class Problem(msgspec.Struct, frozen=True):
    """One fault: the field (empty for the whole event), what is wrong with it, how to mend it."""

    field: str
    problem: str
    remedy: str


class BadEvent(ValueError):
    """An event that cannot be taken, with every fault found."""

    def __init__(self, problems: Iterable[Problem], reason: Reason) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.reason: Reason = reason
        super().__init__("; ".join(f"{p.field or 'event'}: {p.problem} ({p.remedy})" for p in self.problems))


def bad(field: str, problem: str, remedy: str = "", reason: Reason = "bad_value") -> BadEvent:
    return BadEvent((Problem(field, problem, remedy or REMEDIES.get(field, "correct the value")),), reason)


def unreadable(error: Exception) -> BadEvent:
    """For bytes that are not JSON at all, or nested beyond any use."""
    if isinstance(error, RecursionError):
        return bad("", "nested too deeply", "flatten the event", "too_deep")
    if isinstance(error, UnicodeDecodeError):
        return bad("", f"not UTF-8 (byte {error.start} of a text)", "encode the event as UTF-8", "malformed")
    text = str(error).removeprefix("JSON is malformed: ")
    return bad("", f"not valid JSON: {text}", "send one JSON object; lone surrogates and NaN are not JSON", "malformed")


def explain(data: object, kinds: Mapping[str, type[msgspec.Struct]]) -> BadEvent | None:
    """Every fault of an event that is JSON but does not fit its kind; None when each field by itself is fine."""
    if not isinstance(data, dict):
        return bad("", f"expected an object, got {_type_word(data)}", "send one JSON object per event", "malformed")
    kind = data.get("kind")
    struct = kinds.get(kind) if isinstance(kind, str) else None
    if struct is None:
        return _unknown_kind(data, kinds)
    hints = get_type_hints(struct, include_extras=True)
    problems, missing = [], False
    for field in msgspec.structs.fields(struct):
        if field.encode_name not in data:
            if field.required:
                missing = True
                problems.append(Problem(field.name, "is missing", _remedy(field.name, hints[field.name])))
            continue
        try:
            msgspec.convert(data[field.encode_name], hints[field.name])
        except msgspec.ValidationError as error:
            problems.append(_field_problem(field.name, hints[field.name], data[field.encode_name], str(error)))
    if not problems:
        return None
    return BadEvent(problems, "missing_field" if missing else "bad_value")


def _unknown_kind(data: Mapping[str, object], kinds: Mapping[str, object]) -> BadEvent:
    known = ", ".join(sorted(kinds))
    if "kind" not in data:
        return bad("kind", "is missing", f"set `kind` to one of {known}", "missing_field")
    kind = data["kind"]
    if not isinstance(kind, str):
        return bad("kind", f"expected text, got {_type_word(kind)}", f"set `kind` to one of {known}", "unknown_kind")
    nearest = difflib.get_close_matches(kind[:SHOWN_CHARACTERS].lower(), kinds, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}? " if nearest else ""
    return bad("kind", f"unknown kind {_shown(kind)}", f"{remedy}Kinds: {known}", "unknown_kind")


def _field_problem(name: str, hint: object, value: object, message: str) -> Problem:
    """Translates the decoder's message; ``message`` ends with a path below the field when the fault lies deeper."""
    text, _, path = message.partition(" - at `")
    path = re.sub(r"^(key in )?\$", "", path.rstrip("`")).replace("[...]", "[…]")
    choices = _choices(hint)
    if choices and isinstance(value, str):
        nearest = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.5)
        remedy = (f"did you mean {nearest[0]!r}? " if nearest else "") + f"Use one of {', '.join(choices)}"
        return Problem(name, f"unknown value {_shown(value)}", remedy)
    return Problem(name + path, _in_words(text), _remedy(name, hint))


def _in_words(text: str) -> str:
    for pattern, words in (
        (r"Expected `(.+)`, got `(.+)`$", None),
        (r"Expected `str` of length >= (\d+)", r"is shorter than \1 character(s)"),
        (r"Expected `str` of length <= (\d+)", r"is longer than \1 characters"),
        (r"Expected `object` of length <= (\d+)", r"has more than \1 entries"),
        (r"Expected `(?:int|float)` >= (.+)", r"is less than \1"),
        (r"Expected `(?:int|float)` <= (.+)", r"is greater than \1"),
        (r"Expected `datetime` with a timezone component", "has no offset from UTC"),
        (r"Invalid RFC3339 encoded datetime", "is not an RFC 3339 time"),
        (r"Invalid RFC3339 encoded date", "is not a date (YYYY-MM-DD)"),
    ):
        found = re.match(pattern, text)
        if found and words is None:
            return f"expected {_words(found[1])}, got {_words(found[2])}"
        if found and words is not None:
            return found.expand(words)
    return text[:1].lower() + text[1:]


_WORDS: Final = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "null",
                 "object": "an object", "array": "a list"}  # fmt: skip


def _words(types: str) -> str:
    names = [_WORDS.get(name.strip(), name.strip()) for name in types.split("|")]
    return " or ".join(dict.fromkeys("a number" if "int" in types and n == "a whole number" and "float" in types else n
                                     for n in names))  # fmt: skip


def _remedy(name: str, hint: object) -> str:
    choices = _choices(hint)
    if choices:
        return f"use one of {', '.join(choices)}"
    return REMEDIES.get(name, f"give `{name}` as the schema of the events says")


def _choices(hint: Any) -> tuple[str, ...]:
    """The values of a Literal, also inside a union with None."""
    for part in (hint, *get_args(hint)):
        args = get_args(part)
        if args and all(isinstance(value, str) for value in args):
            return args
    return ()


def _shown(value: str) -> str:
    """Repr of at most a few characters, so that a hostile value neither floods a log nor carries control characters."""
    return ascii(value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "…")


def _type_word(value: object) -> str:
    if value is None:
        return "null"
    words = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
    return words.get(type(value), type(value).__name__)
