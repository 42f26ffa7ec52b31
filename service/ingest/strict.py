"""JSON, read strictly: what two readers could understand differently is refused. Pure.

msgspec refuses NaN, numbers out of range, lone surrogates, broken UTF-8. It does not see that a field is there twice.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from consumers.bad_events import bad, unreadable

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_KEY_END: Final = b'":'


class _RepeatedError(ValueError):
    pass


def read(raw: bytes) -> Any:
    """The document. Raises BadEvent for what is no JSON, is nested beyond use, or has a field twice in an object."""
    try:
        document = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None
    _refuse_repeated(raw, document)
    return document


def is_plain(raw: bytes) -> bool:
    """A quick yes: one JSON value in which nothing is there twice. No means: look closely."""
    try:
        return _is_plain(raw, _decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _is_plain(raw: bytes, document: Any) -> bool:
    """Written anew, a document without repeated fields has as many ends of keys as before. Only escapes of the two
    signs, and blanks before a colon, could hide one."""
    return not _hides(raw) and raw.count(_KEY_END) == _encode(document).count(_KEY_END)


def _refuse_repeated(raw: bytes, document: Any) -> None:
    try:
        if not _is_plain(raw, document):
            json.loads(raw, object_pairs_hook=_once)
    except _RepeatedError as repeated:
        raise bad(str(repeated), "is there twice", "give each field of an object once", "malformed") from None
    except RecursionError as error:
        raise unreadable(error) from None
    except ValueError:
        raise bad("", "not valid JSON", "send JSON with numbers of a sensible length", "malformed") from None


def _hides(raw: bytes) -> bool:
    # One byte is found many times faster than two, and most bodies have none of these.
    return (b"\\" in raw and b"\\u00" in raw) or any(
        blank in raw and blank + b":" in raw for blank in (b" ", b"\n", b"\t", b"\r")
    )


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) == len(pairs):
        return
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise _RepeatedError(name[:80])
        seen.add(name)
