"""What a dead letter's bytes look like to a person, and what a person has changed of them. Pure."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

SHOWN_BYTES: Final = 64 * 1024
HEX_BYTES: Final = 4 * 1024
HEX_COLUMNS: Final = 16
SHOWN_CHARACTERS: Final = 200
PLAIN_SPACES: Final = "\n\t"
INVISIBLE: Final = frozenset({0xFEFF, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x206F)})
"""Printable to nobody: joiners, marks that turn the direction of a line, separators."""

Form = Literal["none", "json", "text", "hex"]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes as text. ``hex`` when they are no UTF-8 or hold what cannot be seen; ``json`` is indented, its numbers and
    texts as they were written."""

    form: Form
    text: str
    cut: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A field of the event that was sent in a letter's place; None: it was or is not there. Values are JSON, cut."""

    field: str
    before: str | None
    after: str | None


def shown(raw: bytes | None) -> Shown:
    if raw is None:
        return Shown(form="none", text="")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _hex(raw)
    if not all(each.isprintable() or each in PLAIN_SPACES + "\r" for each in text) or not INVISIBLE.isdisjoint(
        map(ord, text)
    ):
        return _hex(raw)
    if len(raw) <= SHOWN_BYTES and isinstance(_json(raw), (dict, list)):
        return Shown(form="json", text=msgspec.json.format(raw, indent=2).decode())
    return Shown(form="text", text=text[:SHOWN_BYTES], cut=len(text) > SHOWN_BYTES)


def changes(before: bytes | None, after: bytes) -> tuple[Change, ...]:
    """Field by field, by name; empty when what came was no JSON object, so that all of it was replaced."""
    was, now = _json(before or b""), _json(after)
    if not isinstance(was, dict) or not isinstance(now, dict):
        return ()
    return tuple(
        Change(field=field, before=_cut(was, field), after=_cut(now, field))
        for field in sorted(was.keys() | now.keys())
        if field not in was or field not in now or was[field] != now[field]
    )


def _cut(fields: dict[str, Any], field: str) -> str | None:
    if field not in fields:
        return None
    text = msgspec.json.encode(fields[field]).decode()
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _json(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _hex(raw: bytes) -> Shown:
    lines = []
    for start in range(0, min(len(raw), HEX_BYTES), HEX_COLUMNS):
        part = raw[start : start + HEX_COLUMNS]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{3 * HEX_COLUMNS - 1}}  {letters}")
    return Shown(form="hex", text="\n".join(lines), cut=len(raw) > HEX_BYTES)
