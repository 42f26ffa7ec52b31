"""Splits a request body into canonical events: one object, an array, or a line each (NDJSON). Pure.

The form is told from the content, never from a label. One bad item never fails its neighbours: where the strict parser
gives up, a scanner that only knows strings and brackets finds the borders of the items.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

import msgspec

from consumers.events import MAX_EVENT_BYTES, BadEvent, Event, bad, check_time, decode

T = TypeVar("T")
Item = tuple[int, Event | BadEvent, int]
"""Place in the body (from 0), the event or what is wrong with it, its length in bytes."""

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n"
_raw_list: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)
_OBJECT_LINE: Final = re.compile(rb"^[ \t]*\{", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may hold, and how far ahead of us its events may lie."""

    event_max_bytes: int = MAX_EVENT_BYTES
    batch_max_events: int = 2500
    future_tolerance: timedelta = timedelta(minutes=5)


def split(body: bytes, *, now: datetime, limits: Limits) -> list[Item]:
    """Every item of the body with its verdict. Raises like ``cut``."""
    return [(index, _verdict(raw, now, limits), len(raw)) for index, raw in enumerate(cut(body, limits))]


def cut(body: bytes, limits: Limits) -> list[bytes]:
    """Every item of the body as it is. Raises BadEvent when the body as a whole cannot be taken: empty, or with more
    events than allowed. The body's own size is bounded by the caller, before it is read."""
    text = body.removeprefix(_BOM).strip(_BLANK)
    if not text:
        raise bad("", "the body is empty", "send an event, a list of events, or an event per line", "malformed")
    items = _items(text, limits.batch_max_events + 1)
    if len(items) > limits.batch_max_events:
        remedy = f"send at most {limits.batch_max_events} events per request"
        raise bad("", "the body has too many events", remedy, "too_large")
    return items


def _verdict(raw: bytes, now: datetime, limits: Limits) -> Event | BadEvent:
    try:
        event = decode(raw, limits.event_max_bytes)
    except BadEvent as problem:
        return problem
    return check_time(event, now, limits.future_tolerance) or event


def _items(text: bytes, most: int) -> list[bytes]:
    if text.startswith(b"["):
        try:
            return [bytes(raw) for raw in _raw_list.decode(text)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _first(_scan_list(text), most)
    # An object printed over several lines has one line that starts with a brace: its first.
    if b"\n" in text and len(_first(_OBJECT_LINE.finditer(text), 2)) > 1:
        if _is_one_value(text):
            return [text]
        return _first((line for line in map(bytes.strip, text.split(b"\n")) if line), most)
    return [text]


def _is_one_value(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _scan_list(text: bytes) -> Iterator[bytes]:
    """The items of a list that is not JSON as a whole; what follows its end, or an unfinished item, is an item too."""
    depth, start = 0, 1
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif (mark == b"," and depth == 1) or (mark in (b"]", b"}") and depth == 1):
            item = text[start : token.start()].strip(_BLANK)
            if item or mark == b",":
                yield item
            start = token.end()
            depth -= mark != b","
        elif mark in (b"]", b"}"):
            depth -= 1
        if depth == 0:
            break
    rest = text[start:].strip(_BLANK)
    if rest:
        yield rest


def _first(values: Iterator[T], most: int) -> list[T]:
    return list(islice(values, most))
