"""What the archive adds to the timeline: the events behind the lines of days. Bounded; without an archive, nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.events import Event, Login, Usage
from service.archive import archive_of
from service.queries.types import TimelineEntry, TimelinePage
from service.settings import Settings

if TYPE_CHECKING:
    from consumers.archive.files import Archive

log = structlog.get_logger("kizashi.timeline")

MOST_BYTES: Final = 32 * 1024 * 1024
MOST_SECONDS: Final = 2.0
MOST_EVENTS: Final = 20
ACTIVITY: Final = ("custom", "login", "session", "usage")


async def with_events(settings: Settings, engine: AsyncEngine, account_id: str, page: TimelinePage) -> TimelinePage:
    """The page, with the newest events of each day line in its ``data`` and the exact time of the last one.

    Days are looked up from the newest on, as long as their files are small enough to be read at once. An archive that
    is away, or slow, adds nothing.
    """
    days = sorted({entry.day for entry in page.items if entry.day is not None}, reverse=True)
    if settings.archive_url is None or not days:
        return page
    from consumers.archive.files import ArchiveError
    from consumers.store import TRANSIENT

    try:
        archive = archive_of(settings, engine)
        assert archive is not None
        async with asyncio.timeout(MOST_SECONDS):
            found = await _events(archive, account_id, days)
    except (ArchiveError, ValueError, *TRANSIENT) as error:
        log.warning("the timeline does without the archive", problem=type(error).__name__)
        return page
    return replace(page, items=tuple(_entry(entry, found) for entry in page.items))


async def _events(archive: Archive, account_id: str, days: Sequence[date]) -> Mapping[date, Sequence[Event]]:
    """By day, newest first, each once."""
    from consumers.archive.layout import rows_of
    from consumers.archive.reading import files, matching, may_hold, read

    since, until = datetime.combine(days[-1], time(), UTC), datetime.combine(days[0], time(), UTC) + timedelta(days=1)
    listed = await files(archive, since=since, until=until, kinds=ACTIVITY)
    left = MOST_BYTES
    found: defaultdict[date, dict[str, Event]] = defaultdict(dict)
    for file in reversed([file for file in listed if may_hold(file, [account_id])]):
        left -= file.size
        if left < 0:
            # This day and all before it stay as they were: half of a day's events would be a wrong answer.
            for day in [day for day in found if day <= file.slot.last_day]:
                del found[day]
            break
        frame = matching(await read(archive, file, [account_id]), since=since, until=until)
        for row in rows_of(frame):
            found[row.timestamp.date()][f"{row.source}:{row.event_id}"] = row.decoded()
    return {
        day: sorted(events.values(), key=lambda event: event.timestamp, reverse=True) for day, events in found.items()
    }


def _entry(entry: TimelineEntry, found: Mapping[date, Sequence[Event]]) -> TimelineEntry:
    if entry.day is None or entry.day not in found:
        return entry
    logins = entry.kind == "logins"
    events = [event for event in found[entry.day] if isinstance(event, Login) == logins]
    if not events:
        return entry
    newest = events[0].timestamp.astimezone(UTC)
    shown = [_shown(event) for event in events[:MOST_EVENTS]]
    return replace(entry, at=newest, last_at=newest, data={**entry.data, "events": shown})


def _shown(event: Event) -> dict[str, Any]:
    shown: dict[str, Any] = {"at": event.timestamp, "kind": event.kind, "user_id": event.user_id}
    if isinstance(event, Usage):
        shown |= {"feature": event.feature, "quantity": event.quantity}
    return shown
