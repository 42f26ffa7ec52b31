"""What is sent when a dead letter is tried again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from consumers.events import Event, bad, check_time, decode
from consumers.kinds import Time

RETRIED: Final = "retried"
MAX_ID: Final = 200


@dataclass(frozen=True, kw_only=True)
class Letter:
    """As much of a dead letter as trying it again needs."""

    dead_letter_id: int
    value: bytes | None
    record_timestamp: datetime | None
    created_at: datetime
    topic: str = ""
    partition: int = 0
    record_offset: int = 0
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    event_max_bytes: int
    future_tolerance: timedelta


def event_of(letter: Letter, value: bytes | None, now: datetime, limits: Limits) -> Event:
    """The event in ``value``, or in the letter itself, by the decoder of every door. Raises BadEvent with all faults.

    A row of an import comes late, behind rows with higher numbers, and the consumers would take it for one that they
    have had. So it becomes an import of its own, named by import and row: it is still history, and however often it is
    sent again, or its letter comes a second time, it counts once.
    """
    raw = letter.value if value is None else value
    if raw is None:
        raise bad("", "the record has no value", "give the event to send in its place", "malformed")
    event = decode(raw, limits.event_max_bytes)
    if (early := check_time(event, now, limits.future_tolerance)) is not None:
        raise early
    if event.import_id is None or event.import_row is None:
        return event
    suffix = f"/{event.import_row}/{RETRIED}"
    if event.import_id.endswith(suffix):
        return event
    name = event.import_id[: MAX_ID - len(suffix)] + suffix
    return msgspec.structs.replace(event, import_id=name)


def first_arrival(letter: Letter) -> datetime:
    """When we first had it: as the door stamped it, else as its producer stamped the record, but never later than it
    became a letter. An erasure, and what was known on a day, go by this and not by when it was mended."""
    stamped = _received_at(letter.value) or letter.record_timestamp or letter.created_at
    return min(stamped, letter.created_at)


def _received_at(value: bytes | None) -> datetime | None:
    try:
        return msgspec.json.decode(value or b"", type=_Stamped).received_at
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Stamped(msgspec.Struct, frozen=True):
    received_at: Time | None = None
