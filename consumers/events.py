"""The events: what a product service says happened. Every door (Kafka, HTTP, import) decodes with this module. Pure.

An event is flat JSON, a union told apart by ``kind``. ``decode`` either gives an event that every later stage may
trust, or raises ``BadEvent`` with all its faults. Whether the timestamp lies in the future is asked apart, by
``check_time``, because only that needs a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from consumers.bad_events import BadEvent, Problem, Reason, bad, explain, unreadable
from consumers.faults import faults, source_is_good, start_instant, usage_is_good
from consumers.kinds import (
    DEFAULT_SOURCE,
    DOTS,
    KINDS,
    LONG_CLEAN_PATTERN,
    MAX_DEPTH,
    MAX_NUMBER,
    AccountTraits,
    Contact,
    Custom,
    Event,
    EventBase,
    Goal,
    Group,
    Identify,
    Login,
    Milestone,
    Payment,
    Session,
    Subscription,
    Survey,
    Ticket,
    Usage,
)

MAX_EVENT_BYTES: Final = 32 * 1024

_decoder: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
_encoder: Final = msgspec.json.Encoder(order="deterministic")
_WIDE: Final = frozenset({Custom, Identify, Group})
"""Kinds with fields of any number; the others are short by the bounds of their fields."""


def decode(raw: bytes, max_bytes: int = MAX_EVENT_BYTES) -> Event:
    """Gives the event in ``raw`` or raises BadEvent naming every fault. Unknown fields are ignored; of a field given
    twice, the last counts."""
    if len(raw) > max_bytes:
        raise bad("", f"is {len(raw)} bytes long", f"send at most {max_bytes} bytes per event", "too_large")
    try:
        event = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _why(raw, error) from None
    if _plainly_good(event):
        return event
    problems = tuple(faults(event))
    if problems:
        raise BadEvent(problems, "bad_value")
    return event


def made(fields: Mapping[str, object], max_bytes: int = MAX_EVENT_BYTES) -> Event:
    """The event of these fields (``kind`` among them, times as ``datetime`` or text), checked as by ``decode``.

    For what was translated from another format. Raises BadEvent.
    """
    try:
        event: Event = msgspec.convert(fields, Event)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _explained(fields, error) from None
    if _plainly_good(event):
        return event
    problems = tuple(faults(event))
    if problems:
        raise BadEvent(problems, "bad_value")
    if type(event) in _WIDE and len(encode(event)) > max_bytes:
        raise bad("", "makes an event that is too long", f"keep to {max_bytes} bytes per event", "too_large")
    return event


def encode(event: Event) -> bytes:
    """Canonical JSON: times as RFC 3339, defaults left out, keys of objects sorted."""
    return _encoder.encode(event)


def check_time(event: EventBase, now: datetime, tolerance: timedelta) -> BadEvent | None:
    """A fault when the event says that it happens later than ``now`` plus ``tolerance``: it would hide churn."""
    if event.timestamp <= now + tolerance:
        return None
    ahead = str(event.timestamp - now).split(".", maxsplit=1)[0]
    remedy = "check the producer's clock and time zone"
    return bad("timestamp", f"lies {ahead} in the future", remedy, "future")


def thousandths(quantity: float) -> int:
    """A quantity as stored: whole thousandths, exact for what ``decode`` let through."""
    return quantity * 1000 if type(quantity) is int else round(quantity * 1000)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one event; committed as docs/events.schema.json."""
    schema = msgspec.json.schema(Event)
    definitions: dict[str, Any] = schema["$defs"]
    traits = msgspec.json.schema(AccountTraits)["$defs"]["AccountTraits"]["properties"]
    definitions["Group"]["properties"]["traits"]["properties"] = {
        name: {key: value for key, value in field.items() if key != "default"} for name, field in traits.items()
    }
    for definition in definitions.values():
        definition["allOf"] = [
            _needs("import_id", "string", "import_row", "integer"),
            _needs("import_row", "integer", "import_id", "string"),
        ]
    identify = definitions["Identify"]
    identify["required"] = [*identify["required"], "user_id"]
    user_id = identify["properties"]["user_id"]["anyOf"]
    identify["properties"]["user_id"] = next(part for part in user_id if part["type"] == "string")
    properties = definitions["Custom"]["properties"]["properties"]["anyOf"]
    next(part for part in properties if part["type"] == "object").update(_nested(definitions))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Kizashi event",
        "description": "One event of a product, as it is sent to Kafka or to POST /api/v1/events.",
        **schema,
    }


def _plainly_good(event: Event) -> bool:
    """A quick yes for nearly all traffic; no means: look closely."""
    if type(event) is not Login and not (type(event) is Usage and usage_is_good(event)):
        return False
    user_id, import_id, received_at = event.user_id, event.import_id, event.received_at
    return (
        event.event_id.isprintable()
        and event.account_id.isprintable()
        and event.account_id not in DOTS
        and (user_id is None or user_id.isprintable())
        and 1970 <= event.timestamp.year <= 2199
        and (received_at is None or 1970 <= received_at.year <= 2199)
        and source_is_good(event.source)
        and (
            event.import_row is None if import_id is None else event.import_row is not None and import_id.isprintable()
        )
    )


def _why(raw: bytes, error: Exception) -> BadEvent:
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as unread:
        return unreadable(unread)
    return _explained(data, error)


def _explained(data: object, error: Exception) -> BadEvent:
    if isinstance(error, RecursionError):
        return unreadable(error)
    return explain(data, KINDS) or bad("", str(error))


def _needs(field: str, type_: str, other: str, other_type: str) -> dict[str, Any]:
    return {
        "if": {"required": [field], "properties": {field: {"type": type_}}},
        "then": {"required": [other], "properties": {other: {"type": other_type}}},
    }


def _nested(definitions: dict[str, Any]) -> dict[str, Any]:
    """The values of ``properties``: one definition per level, since a schema cannot count."""
    scalar: list[dict[str, Any]] = [
        {"type": ["null", "boolean"]},
        {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER},
        {"type": "string", "pattern": LONG_CLEAN_PATTERN},
    ]
    names = {"propertyNames": {"pattern": LONG_CLEAN_PATTERN}}
    definitions["Value0"] = {"anyOf": scalar}
    for level in range(1, MAX_DEPTH):
        inner = {"$ref": f"#/$defs/Value{level - 1}"}
        object_ = {"type": "object", "additionalProperties": inner, **names}
        definitions[f"Value{level}"] = {"anyOf": [*scalar, {"type": "array", "items": inner}, object_]}
    return {"additionalProperties": {"$ref": f"#/$defs/Value{MAX_DEPTH - 1}"}, **names}


__all__ = [
    "DEFAULT_SOURCE", "KINDS", "MAX_EVENT_BYTES", "AccountTraits", "BadEvent", "Contact", "Custom", "Event",
    "EventBase", "Goal", "Group", "Identify", "Login", "Milestone", "Payment", "Problem", "Reason", "Session",
    "Subscription", "Survey", "Ticket", "Usage", "bad", "check_time", "decode", "encode", "json_schema",
    "made", "start_instant", "thousandths",
]  # fmt: skip
