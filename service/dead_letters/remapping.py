"""Dead letters of webhooks, tried again: the call is mapped anew, by `webhooks.yaml` as it is now."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

from consumers.events import Event, bad
from consumers.formats.canonical import Limits
from consumers.webhooks.file import WEBHOOKS_FILE, Webhooks, load
from consumers.webhooks.translate import translate
from health.yamlfile import FileError

WEBHOOK: Final = "webhook:"
"""Before the webhook's name: the topic of its letters."""
_GIVE: Final = "give the event to send in its place, or discard the letter"


def events_of(
    topic: str, raw: bytes | None, rules_dir: Path, now: datetime, *, event_max_bytes: int, tolerance: timedelta
) -> tuple[Event, ...]:
    """What the call now becomes. Raises BadEvent with what still stands in the way."""
    path = rules_dir / WEBHOOKS_FILE
    try:
        stat = path.stat()
        hook = _loaded(path, stat.st_mtime_ns, stat.st_size).get(topic.removeprefix(WEBHOOK))
    except OSError:
        hook = None
    except FileError:
        raise bad("", f"{WEBHOOKS_FILE} has faults", "correct it first: `kizashi rules check` names them") from None
    if hook is None:
        raise bad("", "there is no such webhook any more", _GIVE)
    limits = Limits(event_max_bytes=event_max_bytes, future_tolerance=tolerance)
    items = [part.item for part in translate(hook, raw or b"", now=now, limits=limits)]
    for item in items:
        if item.error is not None:
            raise item.error
    events = tuple(event for item in items for event in item.events)
    if not events:
        raise bad("", f"nothing in it is asked for ({items[0].ignored if items else 'it is empty'})", _GIVE)
    return events


@lru_cache(maxsize=2)
def _loaded(path: Path, _changed_ns: int, _size: int) -> Webhooks:
    return load(path)
