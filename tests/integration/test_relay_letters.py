"""Dead letters of foreign formats and of users without an account, tried as they came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.events import Login, decode, encode
from consumers.formats.items import Binding, Item
from consumers.sources import Sources, Topic
from consumers.tables import dead_letters
from consumers.waiting import LETTER_TOPIC
from tests.api import DAY, NOW, Api, FakeProducer, api

TOPICS = (
    Topic(topic="segment.events", source="web", format="segment"),
    Topic(topic="own.events", source="shop", format="canonical"),
)


@pytest.fixture
def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
async def service(engine: AsyncEngine, producer: FakeProducer) -> AsyncIterator[Api]:
    async with api(engine, producer) as made:
        made.deps.sources = Sources(topics=TOPICS)
        yield made


async def letter_of(engine: AsyncEngine, topic: str, value: bytes, reason: str) -> int:
    values: dict[str, Any] = {
        "topic": topic, "partition": 3, "record_offset": 7, "record_timestamp": NOW - DAY, "value": value, "errors": [],
        "reason": reason, "created_at": NOW,
    }  # fmt: skip
    async with engine.begin() as conn:
        made = await conn.execute(insert(dead_letters).values(values).returning(dead_letters.c.dead_letter_id))
        return int(made.scalar_one())


async def test_a_foreign_record_is_translated_once_more(
    service: Api, engine: AsyncEngine, producer: FakeProducer
) -> None:
    call = {"type": "track", "event": "Signed In", "userId": "u", "context": {"groupId": "acme"}}
    good = await letter_of(engine, "segment.events", msgspec.json.encode(call), "bad_value")
    assert (await service.post(f"/api/v1/dead-letters/{good}/retry")).status_code == 200
    [event] = [msgspec.json.decode(value) for _, value in producer.sent]
    place = f"segment.events/3/7@{int((NOW - DAY).timestamp() * 1000)}"
    assert (event["event_id"], event["source"]) == (place, "web"), "as the relay names it"
    assert event["timestamp"] == "2026-04-30T12:00:00Z", "that of the record"


@pytest.mark.parametrize(("topic", "source"), [("own.events", "shop"), ("webhook:crm", "crm"), ("events", "default")])
async def test_what_names_no_source_has_that_of_its_door(
    service: Api, engine: AsyncEngine, producer: FakeProducer, topic: str, source: str
) -> None:
    """Else the neighbours in the record, which the relay has taken with its source, would count a second time."""
    events = [Login(event_id=f"l{n}", account_id="acme", timestamp=NOW - DAY) for n in range(2)]
    record = b"[" + b",".join(map(encode, events)) + b"]"
    letter = await letter_of(engine, topic, record if topic == "own.events" else b"{", "bad_value")
    mended = None if topic == "own.events" else encode(events[0]).decode()
    answer = await service.post(f"/api/v1/dead-letters/{letter}/retry", {"value": mended})
    assert answer.status_code == 200
    sent = [decode(value) for _, value in producer.sent]
    assert {event.source for event in sent} == {source}
    if topic == "own.events":
        assert [event.event_id for event in sent] == ["l0", "l1"]


async def test_what_is_still_bad_is_told(service: Api, engine: AsyncEngine, producer: FakeProducer) -> None:
    bad = await letter_of(engine, "segment.events", b'{"type": "track", "userId": "u"}', "missing_field")
    answer = await service.post(f"/api/v1/dead-letters/{bad}/retry")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "event"
    assert producer.sent == []


async def test_who_waited_too_long_gets_the_account_known_by_now(
    service: Api, engine: AsyncEngine, producer: FakeProducer
) -> None:
    waited = msgspec.structs.replace(
        Login(event_id="l", account_id="x", user_id="u", timestamp=NOW - DAY), account_id=""
    )
    letter = await letter_of(engine, LETTER_TOPIC, encode(waited), "no_account")
    binding = Binding(user_id="u", account_id="acme", at=NOW, event_id="g")
    await service.deps.intake.take([Item(event_id="g", binding=binding)], source="web", now=NOW)
    assert (await service.post(f"/api/v1/dead-letters/{letter}/retry")).status_code == 200
    assert [key for key, _ in producer.sent] == [b"acme"]
