"""Tells a format from its content, for topics and requests that do not say it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consumers.formats.cloudevents import STRUCTURED
from consumers.formats.segment import CALLS
from consumers.sources import Format

_SEGMENT: Final = frozenset(
    {"messageId", "userId", "anonymousId", "originalTimestamp", "sentAt", "writeKey", "context"}
)


def sniff(document: object, headers: Mapping[str, str]) -> Format | None:
    """``headers``: by lower-case name. None when nothing tells."""
    if any(name.startswith(("ce-", "ce_")) for name in headers):
        return "cloudevents"
    if headers.get("content-type", "").lower().startswith(STRUCTURED):
        return "cloudevents"
    if isinstance(document, list):
        return next((sniff(item, {}) for item in document if isinstance(item, dict)), None)
    return _of_object(document) if isinstance(document, dict) else None


def _of_object(found: Mapping[str, object]) -> Format | None:
    keys = found.keys()
    if {"specversion", "id", "source", "type"} <= keys:
        return "cloudevents"
    if {"kind", "event_id"} <= keys:
        return "canonical"
    if "event_type" in keys or isinstance(found.get("events"), list):
        return "amplitude"
    batch = found.get("batch")
    if isinstance(batch, list):
        inner = next((_of_object(item) for item in batch if isinstance(item, dict)), None)
        return inner or ("segment" if keys & _SEGMENT else "posthog")
    if found.get("type") in CALLS and keys & _SEGMENT:
        return "segment"
    if _is_posthog(found):
        return "posthog"
    return None


def _is_posthog(found: Mapping[str, object]) -> bool:
    properties = found.get("properties")
    inner = properties.keys() if isinstance(properties, dict) else set[str]()
    if "event" in found:
        return "distinct_id" in found or "distinct_id" in inner or ("token" in inner)
    return isinstance(found.get("data"), str) and bool(found.keys() & {"distinct_id", "token"})
