"""Letters of the relay and of users without an account, tried as they came: translated once more, by what
``sources.yaml`` says now; or given to the account that the user has by now. Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from consumers.broker import Record
from consumers.events import DEFAULT_SOURCE
from consumers.formats.canonical import Limits
from consumers.formats.items import Item
from consumers.relay import translated
from consumers.sources import Sources
from consumers.waiting import LETTER_TOPIC, unplaced
from service.dead_letters.remapping import WEBHOOK
from service.dead_letters.retrying import Letter

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def items_of(letter: Letter, sources: Sources, now: datetime, limits: Limits) -> tuple[Item, ...] | None:
    """What the letter says; None for one that holds an event of ours. Raises BadEvent while any of it is still bad."""
    if letter.topic == LETTER_TOPIC:
        event = unplaced(letter.value)
        return (Item(event_id=event.event_id, events=(event,)),)
    topic = next((each for each in sources.topics if each.topic == letter.topic), None)
    if topic is None:
        return None
    items = translated(_record(letter), topic, sources, now, limits)
    for item in items:
        if item.error is not None:
            raise item.error
    return items


def source_of(letter: Letter, sources: Sources) -> str:
    """Of an event that names none: what its door stamps. Another one would make a second event of what the door has
    taken already, such as the good neighbours in one record."""
    if letter.topic.startswith(WEBHOOK):
        return letter.topic.removeprefix(WEBHOOK)
    return next((each.source for each in sources.topics if each.topic == letter.topic), DEFAULT_SOURCE)


def _record(letter: Letter) -> Record:
    at = letter.record_timestamp
    return Record(
        letter.topic,
        letter.partition,
        letter.record_offset,
        -1 if at is None else (at - _EPOCH) // timedelta(milliseconds=1),
        None,
        letter.value,
        tuple((name, value.encode()) for name, value in letter.headers),
    )
