"""Where each client puts its key: in `Authorization`, or in the body. Which it is, the key's own form says."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any, Final

OURS: Final = "kz_"
"""How every key of ours begins; a vendor's own tokens in the same places are none of ours."""


def in_header(authorization: bytes) -> str | None:
    """`Bearer kz_…`, or Basic with the key as the user's name and nothing behind the colon."""
    scheme, _, rest = authorization.decode("latin-1").partition(" ")
    presented = rest.strip()
    if scheme.lower() == "basic":
        try:
            presented = base64.b64decode(presented, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return None
    elif scheme.lower() != "bearer":
        return None
    return presented if presented.startswith(OURS) else None


def in_document(document: Any) -> str | None:
    """`writeKey` (Segment), `api_key` (PostHog, Amplitude), `token` (PostHog's browser client), in the body or, where
    a browser sends a bare list, in its first item."""
    for place in _places(document):
        for name in ("writeKey", "api_key", "token", "write_key"):
            value = place.get(name)
            if isinstance(value, str) and value.startswith(OURS):
                return value
    return None


def _places(document: Any) -> Iterator[dict[str, Any]]:
    for item in (document, _first(document)):
        if not isinstance(item, dict):
            continue
        yield item
        if isinstance(item.get("properties"), dict):
            yield item["properties"]
        first = _first(item.get("batch"))
        if isinstance(first, dict):
            yield first
            if isinstance(first.get("properties"), dict):
                yield first["properties"]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None
