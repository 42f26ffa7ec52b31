"""Our own form at the HTTP door: each item checked by itself, and strictly. Pure."""

from __future__ import annotations

from datetime import datetime

from consumers.events import BadEvent, bad, check_time, decode
from consumers.formats.canonical import Limits, cut
from consumers.formats.items import Item
from service.ingest import strict


def items(body: bytes, *, now: datetime, limits: Limits) -> list[Item]:
    """The events of a body: one, a list, or one a line. Raises BadEvent for a body that holds none, or too many."""
    plain = strict.is_plain(body)
    return [_item(raw, plain, now, limits) for raw in cut(body, limits)]


def _item(raw: bytes, plain: bool, now: datetime, limits: Limits) -> Item:
    try:
        event = decode(raw, limits.event_max_bytes)
        if not plain:
            strict.read(raw)
    except BadEvent as fault:
        return Item(error=fault)
    if event.import_id is not None:
        # Rows of an import are recognised by their order, which requests over HTTP do not keep.
        return Item(error=bad("import_id", "is for `kizashi backfill` alone", "leave import_id and import_row out"))
    ahead = check_time(event, now, limits.future_tolerance)
    return Item(error=ahead) if ahead is not None else Item(event_id=event.event_id, events=(event,))
