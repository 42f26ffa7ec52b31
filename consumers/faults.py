"""Checks of an event that the types of ``consumers/kinds.py`` cannot say: characters, years, decimals, traits. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

import msgspec

from consumers.bad_events import Problem, bad, explain
from consumers.kinds import (
    DOTS,
    KINDS,
    MAX_DEPTH,
    MAX_NUMBER,
    AccountTraits,
    Custom,
    Day,
    EventBase,
    Group,
    Identify,
    Time,
    Usage,
)

# Refused in every text: Postgres takes no NUL, mail and logs no control characters, UTF-8 no lone surrogates.
_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONG_UNCLEAN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_CLEAN_REMEDY: Final = "remove control characters and lone surrogates"
_LONG_FIELDS: Final = frozenset({"comment", "note"})
_SOURCE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NOT_TEXT: Final = frozenset(
    {"source", "timestamp", "received_at", "import_row", "traits", "properties", "quantity", "score", "feature"}
)
_TEXT_FIELDS: Final[Mapping[type[EventBase], tuple[str, ...]]] = {
    struct: tuple(field for field in struct.__struct_fields__ if field not in _NOT_TEXT) for struct in KINDS.values()
}
_DATE_FIELDS: Final = ("due_on", "renewal_on", "effective_on")


@lru_cache(maxsize=1024)
def source_is_good(source: str) -> bool:
    return _SOURCE.fullmatch(source) is not None


def usage_is_good(event: Usage) -> bool:
    quantity = event.quantity
    return event.feature.isprintable() and (type(quantity) is int or round(quantity, 3) == quantity)


def faults(event: EventBase) -> Iterator[Problem]:
    """What the types cannot say."""
    yield from _common_faults(event)
    if isinstance(event, Usage) and not usage_is_good(event):
        yield from _unclean("feature", event.feature, long=False)
        if round(event.quantity, 3) != event.quantity:
            yield Problem("quantity", "has more than 3 decimals", _remedy("quantity"))
    elif isinstance(event, Identify) and event.user_id is None:
        yield Problem("user_id", "is missing", "an identify event says whose traits they are: give `user_id`")
    elif isinstance(event, Custom):
        yield from _property_faults(event.properties, "properties", MAX_DEPTH)
    currency = getattr(event, "currency", None)
    if currency is not None:
        yield from _currency_faults("currency", currency)
    if isinstance(event, (Identify, Group)):
        yield from _trait_faults(event)


def _common_faults(event: EventBase) -> Iterator[Problem]:
    for name in _TEXT_FIELDS[type(event)]:
        value = getattr(event, name)
        if isinstance(value, str) and not value.isprintable():
            yield from _unclean(name, value, long=name in _LONG_FIELDS)
    if event.account_id in DOTS:
        yield Problem("account_id", "means another place in an address", _remedy("account_id"))
    if not source_is_good(event.source):
        yield Problem("source", "has characters that a source may not have", _remedy("source"))
    for name in ("timestamp", "received_at"):
        at = getattr(event, name)
        if at is not None and not 1970 <= at.year <= 2199:
            yield Problem(name, f"lies in the year {at.year}", _remedy(name))
    for name in _DATE_FIELDS:
        day = getattr(event, name, None)
        if day is not None and day.year < 1900:
            yield Problem(name, f"lies in the year {day.year}", "give a date from 1900-01-01 on")
    if (event.import_id is None) != (event.import_row is None):
        name = "import_row" if event.import_row is None else "import_id"
        yield Problem(name, "is missing", _remedy(name))


def _unclean(field: str, value: str, *, long: bool) -> Iterator[Problem]:
    found = (_LONG_UNCLEAN if long else _UNCLEAN).search(value)
    if found:
        yield Problem(field, f"has the character U+{ord(found[0]):04X}", _CLEAN_REMEDY)


def _currency_faults(field: str, currency: str) -> Iterator[Problem]:
    if not (currency.isascii() and currency.isalpha() and currency.isupper()):
        yield Problem(field, "is not a currency code", "give three capital letters (ISO 4217), such as USD or JPY")


def _trait_faults(event: Identify | Group) -> Iterator[Problem]:
    for name, value in event.traits.items():
        yield from _unclean("traits", name, long=False)
        if isinstance(value, str):
            yield from _unclean(f"traits.{name}", value, long=False)
    if not isinstance(event, Group):
        return
    wrong = explain({"kind": "group", **event.traits}, {"group": AccountTraits})
    if wrong is not None:
        for problem in wrong.problems:
            yield Problem(f"traits.{problem.field}", problem.problem, _trait_remedy(problem))
    currency, renewal, started = (event.traits.get(n) for n in ("currency", "renewal_on", "started_at"))
    if isinstance(currency, str) and len(currency) == 3:
        yield from _currency_faults("traits.currency", currency)
    if isinstance(renewal, str) and renewal < "1900":
        yield Problem("traits.renewal_on", "lies before 1900", "give a date from 1900-01-01 on")
    if isinstance(started, str) and start_instant(started) is None:
        yield Problem("traits.started_at", "is neither a date nor an RFC 3339 time with offset",
                      "give 2026-05-01 or 2026-05-01T09:30:00Z")  # fmt: skip


def _trait_remedy(problem: Problem) -> str:
    generic = problem.remedy.startswith("give `")
    return "see the traits of `group` in docs/events.md; null removes a trait" if generic else problem.remedy


def start_instant(text: str) -> datetime | None:
    """The instant that a `started_at` trait names: a time with offset, or a date (midnight UTC). None when neither."""
    for type_ in (Time, Day):
        try:
            value: datetime | date = msgspec.convert(text, type_)
        except msgspec.ValidationError:
            continue
        if isinstance(value, datetime):
            return value if 1970 <= value.year <= 2199 else None
        return datetime(value.year, value.month, value.day, tzinfo=UTC) if value.year >= 1900 else None
    return None


def _property_faults(value: object, path: str, depth: int) -> Iterator[Problem]:
    if isinstance(value, str):
        yield from _unclean(path, value, long=True)
    elif isinstance(value, (int, float)) and not -MAX_NUMBER <= value <= MAX_NUMBER:
        yield Problem(path, "is a number out of range", f"stay within ±{MAX_NUMBER}, or send it as text")
    elif isinstance(value, (dict, list)):
        if depth == 0:
            yield Problem(path, f"is nested more than {MAX_DEPTH} deep", "flatten the properties")
            return
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(name, str):
                yield from _unclean(path, name, long=True)
            yield from _property_faults(inner, f"{path}.{name}"[:100], depth - 1)


def _remedy(field: str) -> str:
    return bad(field, "").problems[0].remedy
