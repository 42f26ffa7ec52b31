"""The HTTP door: what is taken, what is refused and how it is told, and what happens while the broker is away."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import socket
import time
import uuid
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
import zstandard
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import Consumer, Producer
from consumers.events import decode
from embedded.broker import EmbeddedBroker
from tests.api import NOW, Api, FakeProducer, api


def login(event_id: str = "e1", **fields: Any) -> dict[str, Any]:
    return {
        "kind": "login",
        "event_id": event_id,
        "account_id": "acct_1",
        "user_id": "u1",
        "timestamp": NOW.isoformat(),
        **fields,
    }


@pytest.fixture
def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
async def door(engine: AsyncEngine, producer: FakeProducer) -> AsyncIterator[Api]:
    async with api(engine, producer) as made:
        yield made


async def test_one_event_is_stamped_keyed_and_acknowledged(door: Api, producer: FakeProducer) -> None:
    answer = await door.post("/api/v1/events", login(received_at="2020-01-01T00:00:00Z"))
    assert answer.status_code == 202
    assert answer.json() == {
        "accepted": 1,
        "refused": 0,
        "unacknowledged": 0,
        "results": [{"index": 0, "status": "accepted", "event_id": "e1", "errors": []}],
    }
    [(key, value)] = producer.sent
    event = decode(value)
    assert key == b"acct_1"
    assert event.received_at == NOW
    assert event.source == "tests"


async def test_a_source_of_ones_own_is_kept(door: Api, producer: FakeProducer) -> None:
    await door.post("/api/v1/events", login(source="shop"))
    assert decode(producer.sent[0][1]).source == "shop"


async def test_an_array_answers_item_by_item(door: Api, producer: FakeProducer) -> None:
    future = (NOW + timedelta(minutes=6)).isoformat()
    events = [
        login("a"),
        {"kind": "logni", "event_id": "b"},
        login("c", timestamp=future),
        login("d", import_id="i", import_row=1),
        login("e"),
    ]
    answer = await door.post("/api/v1/events", events)
    assert answer.status_code == 202
    results = answer.json()["results"]
    assert [result["status"] for result in results] == ["accepted", "refused", "refused", "refused", "accepted"]
    assert results[1]["errors"][0]["field"] == "kind"
    assert "login" in json.dumps(results[1]["errors"])
    assert results[2]["errors"][0]["field"] == "timestamp"
    assert results[3]["errors"][0]["field"] == "import_id"
    assert all(error["remedy"] for result in results for error in result["errors"])
    assert len(producer.sent) == 2


async def test_one_line_per_event(door: Api, producer: FakeProducer) -> None:
    lines = "\n".join(json.dumps(login(f"n{number}")) for number in range(3)) + "\n{broken\n"
    answer = await door.client.post(
        "/api/v1/events", content=lines.encode(), headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.status_code == 202
    assert (answer.json()["accepted"], answer.json()["refused"]) == (3, 1)


async def test_nothing_taken_is_422_with_the_same_results(door: Api, producer: FakeProducer) -> None:
    answer = await door.post("/api/v1/events", [{"kind": "login"}])
    assert answer.status_code == 422
    assert answer.json()["accepted"] == 0
    assert {error["field"] for error in answer.json()["results"][0]["errors"]} >= {
        "event_id",
        "account_id",
        "timestamp",
    }
    assert producer.sent == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"kind":"login","event_id":"e","account_id":"a","timestamp":NaN}',
        b'{"kind":"usage","event_id":"e","account_id":"a","timestamp":"2026-05-01T00:00:00Z","feature":"f","quantity":'
        + b"9" * 5000
        + b"}",
        b'{"kind":"login","event_id":"e","account_id":"a\\u0000b","timestamp":"2026-05-01T00:00:00Z"}',
        b'{"kind":"login","event_id":"e","account_id":"\\ud800","timestamp":"2026-05-01T00:00:00Z"}',
        b'{"kind":"login","event_id":"e","account_id":"\xff\xfe","timestamp":"2026-05-01T00:00:00Z"}',
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        b"null",
        b'"text"',
        b"[]",
    ],
    ids=[
        "empty",
        "deep-array",
        "deep-object",
        "nan",
        "digits",
        "nul",
        "surrogate",
        "utf8",
        "gzip",
        "null",
        "text",
        "none",
    ],
)
async def test_hostile_bodies_are_refused_in_words(door: Api, producer: FakeProducer, body: bytes) -> None:
    answer = await door.client.post("/api/v1/events", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert producer.sent == []
    found = answer.json()
    errors = found.get("errors") or [error for result in found["results"] for error in result["errors"]]
    assert found.get("code") == 422 or (errors and all(error["problem"] and error["remedy"] for error in errors))


async def test_a_repeated_field_is_refused_alone(door: Api, producer: FakeProducer) -> None:
    twice = json.dumps(login("a"))[:-1] + ', "account_id": "acct_2"}'
    hidden = json.dumps(login("b"))[:-1] + ', "account\\u005fid" : "acct_2"}'
    nested = json.dumps(login("c"))[:-1] + ', "properties": {"x": {"y": 1, "y": 2}}}'
    body = f"[{twice},{hidden},{nested},{json.dumps(login('d'))}]"
    answer = await door.client.post(
        "/api/v1/events", content=body.encode(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 202
    results = answer.json()["results"]
    assert [result["status"] for result in results] == ["refused", "refused", "refused", "accepted"]
    assert [result["errors"][0]["field"] for result in results[:3]] == ["account_id", "account_id", "y"]
    assert "twice" in results[0]["errors"][0]["problem"]
    assert [decode(value).event_id for _, value in producer.sent] == ["d"]


async def test_too_many_events_say_which_limit(engine: AsyncEngine) -> None:
    async with api(engine, batch_max_events=3) as door:
        answer = await door.post("/api/v1/events", [login(str(number)) for number in range(4)])
    assert answer.status_code == 413
    assert "at most 3 events" in answer.json()["detail"]


async def test_a_single_event_too_large_is_refused_alone(engine: AsyncEngine) -> None:
    async with api(engine, event_max_bytes=1000) as door:
        answer = await door.post("/api/v1/events", [login("a"), login("b", properties={"text": "x" * 2000})])
    assert [result["status"] for result in answer.json()["results"]] == ["accepted", "refused"]
    assert "at most 1000 bytes" in answer.json()["results"][1]["errors"][0]["remedy"]


async def test_a_body_too_large_declared_or_chunked(engine: AsyncEngine) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 500

    async with api(engine, body_max_bytes=1000) as door:
        json_type = {"Content-Type": "application/json"}
        declared = await door.client.post("/api/v1/events", content=b" " * 1500, headers=json_type)
        lied = await door.client.post(
            "/api/v1/events", content=b"{}", headers={**json_type, "Content-Length": "1000000000000000000000"}
        )
        chunked = await door.client.post("/api/v1/events", content=pieces(), headers=json_type)
    for answer in (declared, lied, chunked):
        assert answer.status_code == 413
        assert "1000 bytes" in answer.json()["detail"]
        assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "zstd", "none"])
@pytest.mark.parametrize("label", ["right", "missing"])
async def test_compressed_bodies_are_told_by_their_content(
    door: Api, producer: FakeProducer, encoding: str, label: str
) -> None:
    body = json.dumps(login()).encode()
    raw = zlib.compressobj(wbits=-15)
    compressed = {
        "gzip": gzip.compress(body[:10]) + gzip.compress(body[10:]),
        "deflate": zlib.compress(body),
        "raw deflate": raw.compress(body) + raw.flush(),
        "zstd": zstandard.ZstdCompressor().compress(body),
        "none": body,
    }[encoding]
    said = {"raw deflate": "deflate", "none": "gzip"}.get(encoding, encoding)
    headers = {"Content-Encoding": said} if label == "right" else {}
    answer = await door.client.post("/api/v1/events", content=compressed, headers=headers)
    if encoding == "raw deflate" and label == "missing":
        assert answer.status_code == 422  # nothing tells what it is
        return
    assert answer.status_code == 202, answer.text
    assert len(producer.sent) == 1


async def test_an_encoding_that_is_not_taken_is_415(door: Api) -> None:
    answer = await door.client.post("/api/v1/events", content=b"x", headers={"Content-Encoding": "br"})
    assert answer.status_code == 415
    assert "gzip" in answer.json()["detail"]


async def test_the_type_that_a_body_is_labelled_with_does_not_matter(door: Api) -> None:
    body = json.dumps(login()).encode()
    for label in ("text/plain", "application/xml", "application/x-www-form-urlencoded", ""):
        answer = await door.client.post("/api/v1/events", content=body, headers={"Content-Type": label})
        assert answer.status_code == 202, label


async def test_without_an_acknowledgement_there_is_no_202(door: Api, producer: FakeProducer) -> None:
    producer.away = True
    answer = await door.post("/api/v1/events", [login("a"), {"kind": "nonsense"}])
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_what_was_not_acknowledged_is_named(door: Api, producer: FakeProducer) -> None:
    producer.refuse = {b"other"}
    events = [login(str(number)) for number in range(100)] + [login("late", account_id="other")]
    answer = await door.post("/api/v1/events", events)
    assert answer.status_code == 202
    assert (answer.json()["accepted"], answer.json()["unacknowledged"]) == (100, 1)
    assert answer.json()["results"][100]["status"] == "unacknowledged"
    assert "Retry-After" in answer.headers


async def test_a_dropped_client_does_not_stop_the_write(engine: AsyncEngine) -> None:
    class SlowProducer(FakeProducer):
        async def send_many(self, topic: str, records: Any) -> list[tuple[int, int]]:
            await asyncio.sleep(0.2)
            return await super().send_many(topic, records)

    producer = SlowProducer()
    async with api(engine, producer) as door:
        await door.get("/api/v1/signals")  # the key is known now
        call = asyncio.create_task(door.post("/api/v1/events", [login()]))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.3)
    assert len(producer.sent) == 1


async def test_events_reach_the_broker(engine: AsyncEngine, broker: EmbeddedBroker, topic: str) -> None:
    producer = Producer(broker.bootstrap, timeout_seconds=5)
    async with api(engine, producer, events_topics=[topic]) as door:
        events = [login(str(number), account_id=f"acct_{number % 7}") for number in range(250)]
        answer = await door.post("/api/v1/events", events)
        ready = await door.get("/readyz")
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 250
    assert "4 partitions" in ready.json()["checks"]["broker"]
    found = await _read_all(broker.bootstrap, topic, 250)
    assert sorted(decode(value).event_id for _, value in found) == sorted(str(number) for number in range(250))
    assert all(key == decode(value).account_id.encode() for key, value in found)


async def _read_all(bootstrap: str, topic: str, wanted: int) -> list[tuple[bytes, bytes]]:
    consumer = Consumer(bootstrap, [topic], group=uuid.uuid4().hex)
    await consumer.start()
    found: list[tuple[bytes, bytes]] = []
    positioned: set[tuple[str, int]] = set()
    try:
        async with asyncio.timeout(20):
            while len(found) < wanted:
                for name, partition in consumer.assignment - positioned:
                    if consumer.seek(name, partition, 0):
                        positioned.add((name, partition))
                for records in (await consumer.getmany(1000, 0.2)).values():
                    found += [(record.key or b"", record.value or b"") for record in records]
    finally:
        await consumer.stop()
    return found


async def test_a_broker_that_was_never_there_is_503_in_time(engine: AsyncEngine) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        producer = Producer(f"127.0.0.1:{unused.getsockname()[1]}", timeout_seconds=1)
        async with api(engine, producer) as door:
            started = time.monotonic()
            answer = await door.post("/api/v1/events", login())
            assert time.monotonic() - started < 2
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers


async def test_a_broker_that_hangs_is_503_in_time_and_recovers(engine: AsyncEngine) -> None:
    with EmbeddedBroker({"hanging": 1}) as broker:
        producer = Producer(broker.bootstrap, timeout_seconds=1)
        async with api(engine, producer, events_topics=["hanging"]) as door:
            assert (await door.post("/api/v1/events", login("before"))).status_code == 202
            broker.signal(signal.SIGSTOP)
            await asyncio.sleep(0.1)  # until all its threads stand still
            started = time.monotonic()
            stalled: httpx2.Response = await door.post("/api/v1/events", login("during"))
            took = time.monotonic() - started
            broker.signal(signal.SIGCONT)
            assert stalled.status_code == 503
            assert took < 2
            async with asyncio.timeout(15):
                while (await door.post("/api/v1/events", login("after"))).status_code != 202:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
