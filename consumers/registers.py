"""Registers: fields that keep the value of the last write by (event time, event key). Pure.

The same comparison as ``kizashi_merge_registers`` in the database, so that it does not matter where two writes meet.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

Register = tuple[int, str, Any]
"""(event time in epoch µs, event key, value); null is a value."""
Registers = dict[str, Register]

_encode: Final = msgspec.json.Encoder().encode


def write(registers: Registers, name: str, value: Any, at_us: int, key: str) -> None:
    """Keeps the greater of what is there and this, by (time, key); code point order is Postgres's "C"."""
    present = registers.get(name)
    if present is None or (at_us, key) > present[:2]:
        registers[name] = (at_us, key, value)
    elif (at_us, key) == present[:2] and as_compared(value) > as_compared(present[2]):
        # Two values under one event key: only a producer that reuses an id does this, and then any rule will do,
        # as long as it does not depend on the order.
        registers[name] = (at_us, key, value)


def as_compared(value: Any) -> bytes:
    """A scalar as the database compares it: the register's text as jsonb prints it, from the value to the brace that
    closes it. Numbers are written out there, and lose the sign of nought."""
    if isinstance(value, float):
        return f"{Decimal(repr(value + 0.0)):f}}}".encode()
    return _encode(value) + b"}"


def to_json(registers: Registers) -> str:
    """As stored: {"field": {"v": value, "t": µs, "k": key}}."""
    return _encode({name: {"v": value, "t": at, "k": key} for name, (at, key, value) in registers.items()}).decode()
