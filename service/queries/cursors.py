"""Opaque page cursors: which list they belong to, the sort value and the id of the last row shown."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

MAX_CURSOR = 2048
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


BAD_CURSOR = "not a cursor of this list in this order: leave it out to start from the first page"


class BadCursorError(ValueError):
    """Not a cursor of this list and this order: start again without one."""


Value = float | Decimal | datetime | date | int | str | None


def encode(scope: str, value: Value, row_id: str | int) -> str:
    """`scope` names list and order, so that a cursor cannot be carried from one to another."""
    raw = msgspec.json.encode([scope, _tag(value), _plain(value), row_id])
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(cursor: str, scope: str, kind: type, id_kind: type = str) -> tuple[Any, Any]:
    """(sort value or None, id). `kind` is the type of the sort value. Raises BadCursorError."""
    try:
        return _decode(cursor, scope, kind, id_kind)
    except (UnicodeError, binascii.Error, msgspec.MsgspecError, TypeError, ValueError, ArithmeticError) as error:
        raise BadCursorError(BAD_CURSOR) from error


def _decode(cursor: str, scope: str, kind: type, id_kind: type) -> tuple[Any, Any]:
    if len(cursor) > MAX_CURSOR:
        raise BadCursorError
    raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    found, tag, plain, row_id = msgspec.json.decode(raw, type=tuple[str, str, float | int | str | None, int | str])
    if found != scope or type(row_id) is not id_kind or not _storable(row_id):
        raise BadCursorError
    value = None if tag == "none" else _parse(plain, kind)
    if tag != _tag(value):
        raise BadCursorError
    return value, row_id


def microseconds(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND


def _tag(value: Value) -> str:
    return "none" if value is None else type(value).__name__.lower()


def _plain(value: Value) -> Any:
    if isinstance(value, datetime):
        return microseconds(value)
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _parse(plain: Any, kind: type) -> Value:
    if kind is datetime and type(plain) is int:
        return EPOCH + timedelta(microseconds=plain)
    if kind is date and type(plain) is str:
        return date.fromisoformat(plain)
    if kind is Decimal and type(plain) is str:
        return _decimal(plain)
    if kind in {float, int, str} and type(plain) is kind and _storable(plain):
        return plain
    raise BadCursorError


def _decimal(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise BadCursorError from None
    exponent = value.as_tuple().exponent
    # No column holds more, and a huge exponent would be a huge number to Postgres.
    if not isinstance(exponent, int) or abs(exponent) > 20 or len(text) > 40:
        raise BadCursorError
    return value


def _storable(value: str | float) -> bool:
    """Whether Postgres takes it: no NUL in text, no integer beyond 64 bits."""
    if isinstance(value, str):
        return "\x00" not in value
    return not isinstance(value, int) or -(2**63) <= value < 2**63
