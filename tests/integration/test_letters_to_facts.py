"""Dead letters on the whole way: refused by the real consumer, mended over the API, and counted once in the facts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import msgspec
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import Producer
from consumers.tables import dead_letters
from embedded.broker import EmbeddedBroker
from health.tables import record_events
from service import auth
from service.clock import utc_now
from tests.serving import Road, road


@pytest.fixture
async def way(engine: AsyncEngine, broker: EmbeddedBroker, topic: str) -> AsyncIterator[Road]:
    async with road(engine, broker, topic) as made:
        yield made


@pytest.fixture
async def desk(way: Road) -> AsyncIterator[httpx2.AsyncClient]:
    async with way.engine.begin() as conn:
        key, _ = await auth.create(conn, name="ops", scopes=["read", "write"], expires_at=None, now=utc_now())
    async with httpx2.AsyncClient(base_url=way.url, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


def login(event_id: str, **more: Any) -> dict[str, Any]:
    at = (utc_now() - timedelta(hours=1)).isoformat()
    return {"kind": "login", "event_id": event_id, "account_id": "acme", "user_id": "u", "timestamp": at, **more}


async def produce(broker: EmbeddedBroker, topic: str, *events: dict[str, Any]) -> None:
    producer = Producer(broker.bootstrap)
    try:
        await producer.send_many(topic, [(b"acme", msgspec.json.encode(event), ()) for event in events])
    finally:
        await producer.stop()


async def logins(way: Road) -> object:
    return (await way.facts())["acme"]["logins"]


async def test_a_mended_letter_counts_once_however_often_it_is_sent(
    way: Road, desk: httpx2.AsyncClient, broker: EmbeddedBroker, topic: str
) -> None:
    broken = login("l-1", timestamp="yesterday")
    # The producer has sent it twice, as producers do: two letters of one event.
    await produce(broker, topic, login("l-0"), broken, broken)
    await way.applied(3)
    assert await logins(way) == 1
    found = (await desk.get("/api/v1/dead-letters", params={"status": "open"})).json()["items"]
    assert [letter["reason"] for letter in found] == ["bad_value"] * 2
    for letter in found:
        path = f"/api/v1/dead-letters/{letter['dead_letter_id']}/retry"
        assert (await desk.post(path, json={})).status_code == 422, "it is as broken as it was"
        assert (await desk.post(path, json={"value": login("l-1")})).status_code == 200
        assert (await desk.post(path, json={"value": login("l-1")})).status_code == 409
    await way.applied(5)
    assert await logins(way) == 2
    async with way.engine.connect() as conn:
        kept = (await conn.execute(select(dead_letters.c.status, dead_letters.c.closed_by))).all()
    assert kept == [("retried", "key:ops")] * 2


async def test_what_is_sent_again_stands_where_it_belongs_and_arrived_when_it_came(
    way: Road, desk: httpx2.AsyncClient, broker: EmbeddedBroker, topic: str
) -> None:
    ticket = login("t-1", kind="ticket", ticket_id="T1", status="opened")
    came = utc_now()
    await produce(broker, topic, ticket)
    await way.applied(1)
    (letter,) = (await desk.get("/api/v1/dead-letters")).json()["items"]
    later = msgspec.json.encode({**ticket, "status": "open"}).decode()
    answer = await desk.post(f"/api/v1/dead-letters/{letter['dead_letter_id']}/retry", json={"value": later})
    assert answer.status_code == 200, answer.text
    await way.applied(2)
    async with way.engine.connect() as conn:
        row = (await conn.execute(select(record_events))).one()
        retried_at = (await conn.execute(select(dead_letters.c.closed_at))).scalar_one()
    assert (row.account_id, row.record_id, row.data["status"]) == ("acme", "T1", "open")
    assert row.at.isoformat() == ticket["timestamp"]
    assert came - timedelta(seconds=1) <= row.known_at < retried_at


async def test_a_row_of_an_import_counts_though_rows_behind_it_have_passed(
    way: Road, desk: httpx2.AsyncClient, broker: EmbeddedBroker, topic: str
) -> None:
    rows = [login(f"i-{n}", import_id="history", import_row=n) for n in range(3)]
    await produce(broker, topic, rows[0], {**rows[1], "timestamp": "?"}, rows[2])
    await way.applied(3)
    assert await logins(way) == 2
    (letter,) = (await desk.get("/api/v1/dead-letters")).json()["items"]
    path = f"/api/v1/dead-letters/{letter['dead_letter_id']}/retry"
    assert (await desk.post(path, json={"value": rows[1]})).status_code == 200
    await way.applied(4)
    assert await logins(way) == 3
