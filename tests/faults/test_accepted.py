"""Accepted means durable: what was answered with 202 is in the log, whatever happens to the API in the next moment."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.history_run import Stage
from consumers.events import decode
from embedded.kafka import EmbeddedKafka
from embedded.process import free_port
from service import auth
from service.clock import utc_now
from tests.conftest import TOPIC_PARTITIONS

pytestmark = pytest.mark.kafka
START_SECONDS = 90.0
KILLS = 2


class Door:
    """An API as a process."""

    def __init__(self, stage: Stage, port: int, key: str) -> None:
        self.stage, self.port = stage, port
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def start(self) -> None:
        self.stage.role("api")
        async with asyncio.timeout(START_SECONDS), httpx2.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{self.port}/livez")).status_code == 200:
                        return
                except httpx2.HTTPError:
                    await asyncio.sleep(0.1)

    async def post(self, events: list[dict[str, Any]]) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.post(
                f"http://127.0.0.1:{self.port}/api/v1/events", content=json.dumps(events), headers=self.headers
            )

    async def leave(self, events: list[dict[str, Any]], share: float) -> None:
        """Sends that share of the body and resets the connection."""
        body = json.dumps(events).encode()
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        head = f"POST /api/v1/events HTTP/1.1\r\nHost: door\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.encode() + body[: int(len(body) * share)])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await asyncio.sleep(0)


def logins(*ids: str) -> list[dict[str, Any]]:
    at = utc_now().isoformat()
    return [{"kind": "login", "event_id": one, "account_id": f"acct-{one}", "timestamp": at} for one in ids]


async def in_the_log(kafka: EmbeddedKafka, topic: str) -> Counter[str]:
    """How often each event id stands there, up to its end now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    found: Counter[str] = Counter()
    try:
        places = [TopicPartition(topic, number) for number in range(TOPIC_PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        await consumer.seek_to_beginning(*places)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found.update(decode(record.value).event_id for record in records)
    finally:
        await consumer.stop()
    return found


@pytest.fixture
async def door(
    kafka: EmbeddedKafka, topic: str, database: str, engine: AsyncEngine, tmp_path: Path
) -> AsyncIterator[Door]:
    async with engine.begin() as conn:
        key, _ = await auth.create(conn, name="door", scopes=("ingest",), expires_at=None, now=utc_now())
    port = free_port()
    environment = {
        "KIZASHI_DATABASE_URL": database,
        "KIZASHI_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "KIZASHI_EVENTS_TOPICS": json.dumps([topic]),
        "KIZASHI_PORT": str(port),
    }
    stage = Stage(folder=tmp_path, environment=environment)
    made = Door(stage, port, key)
    try:
        await made.start()
        yield made
    finally:
        await asyncio.to_thread(stage.stop)


async def test_an_api_killed_right_after_its_answer_has_lost_nothing(
    door: Door, kafka: EmbeddedKafka, topic: str
) -> None:
    sent: list[str] = []
    for number in range(KILLS):
        ids = [f"k{number}-{n}" for n in range(50)]
        answer = await door.post(logins(*ids))
        door.stage.kill("api")
        assert answer.status_code == 202
        sent += [result["event_id"] for result in answer.json()["results"] if result["status"] == "accepted"]
        if number + 1 < KILLS:
            await door.start()
    assert len(sent) == 50 * KILLS
    assert await in_the_log(kafka, topic) == dict.fromkeys(sent, 1)


async def test_a_client_that_leaves_in_the_middle_and_comes_again_is_safe(
    door: Door, kafka: EmbeddedKafka, topic: str
) -> None:
    half, whole = logins("a", "b", "c"), logins("d", "e")
    await door.leave(half, 0.6)
    await door.leave(whole, 1.0)
    for events in (half, whole):
        assert (await door.post(events)).status_code == 202
    found = await in_the_log(kafka, topic)
    assert {event_id: found[event_id] for event_id in "abc"} == {"a": 1, "b": 1, "c": 1}, "half a body is none"
    assert {found["d"], found["e"]} <= {1, 2}, "the consumer drops the second"
    assert "Traceback" not in door.stage.log("api"), "a client that leaves is no error of ours"
