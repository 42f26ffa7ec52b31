"""Every hostile body before every door: a 4xx in words, nothing taken, and no memory to speak of."""

from __future__ import annotations

import gzip
import io
import json
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import zstandard
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.api import NOW, Api, FakeProducer, api

DOORS = {
    "canonical": "/api/v1/events",
    "events": "/ingest/events",
    "segment": "/ingest/segment/v1/batch",
    "rudderstack": "/ingest/rudderstack/v1/batch/",
    "posthog": "/ingest/posthog/batch/",
    "posthog_v1": "/ingest/posthog/i/v1/analytics/events",
    "amplitude": "/ingest/amplitude/2/httpapi",
    "cloudevents": "/ingest/cloudevents",
}
AT = NOW.isoformat()


def event(door: str, event_id: str = "e1", account: str = "acct_1", **fields: Any) -> dict[str, Any]:
    """One good event in the door's own form."""
    if door in {"canonical", "events"}:
        return {"kind": "usage", "feature": "export", "event_id": event_id, "account_id": account, "timestamp": AT,
                "user_id": "u1", **fields}  # fmt: skip
    if door in {"segment", "rudderstack"}:
        return {"type": "track", "event": "export", "messageId": event_id, "userId": "u1", "timestamp": AT,
                "context": {"groupId": account}, "properties": {}, **fields}  # fmt: skip
    if door.startswith("posthog"):
        return {"event": "export", "uuid": event_id, "distinct_id": "u1", "timestamp": AT,
                "properties": {"$groups": {"company": account}}, **fields}  # fmt: skip
    if door == "amplitude":
        return {"event_type": "export", "insert_id": event_id, "user_id": "u1", "time": int(NOW.timestamp() * 1000),
                "groups": {"company": account}, **fields}  # fmt: skip
    return {"specversion": "1.0", "id": event_id, "source": "/t", "type": "export", "subject": account, "time": AT,
            "data": {"user_id": "u1"}, **fields}  # fmt: skip


def wrapped(door: str, items: list[Any]) -> Any:
    if door in {"segment", "rudderstack", "posthog", "posthog_v1"}:
        return {"batch": items}
    return {"events": items} if door == "amplitude" else items


def body_of(door: str, *items: Any) -> bytes:
    return json.dumps(wrapped(door, list(items))).encode()


def id_field(door: str) -> bytes:
    """The start of the member that holds the account, where hostile values are put."""
    return b'"acct_1"'


def with_account(door: str, raw: bytes) -> bytes:
    return body_of(door, event(door)).replace(id_field(door), raw)


def compressed(size: int, how: str) -> bytes:
    """`size` bytes of blanks, as few bytes as can be."""
    if how == "zstd":
        out = io.BytesIO()
        with zstandard.ZstdCompressor().stream_writer(out, closefd=False) as writer:
            for _ in range(size // 2**20):
                writer.write(b" " * 2**20)
        return out.getvalue()
    bits = {"gzip": 31, "deflate": 15}[how]
    packer = zlib.compressobj(9, wbits=bits)
    return b"".join([*(packer.compress(b" " * 2**20) for _ in range(size // 2**20)), packer.flush()])


HOSTILE: dict[str, Callable[[str], bytes]] = {
    "empty": lambda door: b"",
    "blanks": lambda door: b" \r\n\t ",
    "null": lambda door: b"null",
    "number": lambda door: b"1",
    "text": lambda door: b'"text"',
    "no events": body_of,
    "items that are none": lambda door: body_of(door, None, 1, "x", []),
    "deep arrays": lambda door: b"[" * 200_000,
    "deep closed arrays": lambda door: b"[" * 200_000 + b"]" * 200_000,
    "deep objects": lambda door: b'{"a":' * 200_000,
    "deep within": lambda door: with_account(door, b"[" * 5_000 + b"]" * 5_000),
    "NaN": lambda door: with_account(door, b"NaN"),
    "Infinity": lambda door: with_account(door, b"-Infinity"),
    "5,000 digits": lambda door: with_account(door, b"9" * 5_000),
    "1e999": lambda door: with_account(door, b"1e999"),
    "NUL": lambda door: with_account(door, b'"acct\\u00001"'),
    "raw NUL": lambda door: with_account(door, b'"acct\x001"'),
    "lone surrogate": lambda door: with_account(door, b'"\\ud800"'),
    "invalid UTF-8": lambda door: with_account(door, b'"\xff\xfe"'),
    "overlong UTF-8": lambda door: with_account(door, b'"\xc0\x80"'),
    "UTF-16": lambda door: body_of(door, event(door)).decode().encode("utf-16"),
    "repeated field": lambda door: body_of(door, event(door)).replace(id_field(door), b'"acct_1","x":1,"x":2'),
    "cut off": lambda door: body_of(door, event(door))[:-3],
    "two values": lambda door: body_of(door, event(door)) * 2 if door not in {"canonical", "events"} else b"{}{}",
    "broken gzip": lambda door: gzip.compress(body_of(door, event(door)))[:-12],
    "gzip of rubbish": lambda door: gzip.compress(b"\x00\x01\x02" * 100),
    "gzip head": lambda door: b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "broken zlib": lambda door: zlib.compress(body_of(door, event(door)))[:-5],
    "broken zstd": lambda door: zstandard.ZstdCompressor().compress(body_of(door, event(door)))[:-6],
    "gzip of gzip": lambda door: gzip.compress(gzip.compress(gzip.compress(body_of(door, event(door))))),
    "form of rubbish": lambda door: b"data=%00%01&x=1",
    "form of nothing": lambda door: b"a=1&b=2",
    "form of many fields": lambda door: b"data=1" + b"&data=1" * 100,
    "base64 of rubbish": lambda door: b"QUJDREVGR0g=",
    "html": lambda door: b"<html></html>",
}


@pytest.fixture
def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
async def door_api(engine: AsyncEngine, producer: FakeProducer) -> AsyncIterator[Api]:
    async with api(engine, producer) as made:
        yield made


@pytest.mark.parametrize("door", DOORS)
async def test_a_good_body_is_taken(door_api: Api, producer: FakeProducer, door: str) -> None:
    """Without this, the refusals below would prove nothing."""
    answer = await door_api.client.post(DOORS[door], content=body_of(door, event(door)))
    assert answer.status_code == (202 if door in {"canonical", "events"} else 200), answer.text
    assert [key for key, _ in producer.sent] == [b"acct_1"]


@pytest.mark.parametrize("door", DOORS)
async def test_hostile_bodies(door_api: Api, producer: FakeProducer, door: str) -> None:
    wanted = 422 if door in {"canonical", "events"} else 400
    for name, make in HOSTILE.items():
        answer = await door_api.client.post(DOORS[door], content=make(door))
        found = answer.json()
        told = door == "posthog_v1" and answer.status_code == 200
        assert answer.status_code == wanted or told, (name, answer.status_code, answer.text[:300])
        if told:  # this client gives up single events, by their ids
            assert {each["result"] for each in found["results"].values()} == {"drop"}, name
            continue
        faults = found.get("errors") or [error for item in found["results"] for error in item["errors"]]
        assert faults and all(fault["problem"] and fault["remedy"] for fault in faults), name
        if wanted == 400:
            assert found["code"] == 400 and found["message"] and found["error"] and found["missing_field"], name
    assert producer.sent == []


@pytest.mark.parametrize("door", DOORS)
async def test_one_bad_item_never_fails_its_neighbours(door_api: Api, producer: FakeProducer, door: str) -> None:
    good = [event(door, f"e{number}", f"acct_{number}") for number in range(3)]
    bad = event(door, "bad", "a\x00b")
    answer = await door_api.client.post(DOORS[door], content=body_of(door, good[0], bad, good[1], good[2]))
    assert answer.is_success, answer.text
    assert sorted(key or b"" for key, _ in producer.sent) == [b"acct_0", b"acct_1", b"acct_2"]
    results = answer.json()["results"]
    if door == "posthog_v1":
        assert {name: each["result"] for name, each in results.items()} == {
            "e0": "ok", "bad": "drop", "e1": "ok", "e2": "ok",
        }  # fmt: skip
    else:
        refused = [each for each in results if each["errors"]]
        assert [each["index"] for each in refused] == [1]


@pytest.mark.parametrize("door", DOORS)
async def test_limits_say_which_they_are(engine: AsyncEngine, door: str) -> None:
    async with api(engine, batch_max_events=3, event_max_bytes=2000, body_max_bytes=10_000) as made:
        many = await made.client.post(DOORS[door], content=body_of(door, *[event(door, str(n)) for n in range(4)]))
        large = await made.client.post(DOORS[door], content=body_of(door, event(door, junk="x" * 3000)))
        body = await made.client.post(DOORS[door], content=body_of(door, event(door, junk="x" * 30_000)))
        packed = gzip.compress(body_of(door, event(door, junk="x" * 30_000)))
        inflated = await made.client.post(DOORS[door], content=packed)
    assert many.status_code == 413 and "at most 3 events" in many.json()["detail"]
    assert "2000 bytes" in large.text
    assert large.status_code in {200, 400, 413, 422} and not large.json().get("accepted")
    assert body.status_code == 413 and "10000 bytes" in body.json()["detail"]
    assert inflated.status_code == 413 and "inflates to more than 10000 bytes" in inflated.json()["detail"]


@pytest.mark.parametrize("how", ["gzip", "deflate", "zstd"])
async def test_a_bomb_costs_no_memory(door_api: Api, how: str) -> None:
    bomb = compressed(1024 * 2**20, how)
    assert len(bomb) < 1_200_000
    limit = door_api.deps.settings.body_max_bytes
    await door_api.client.post("/ingest/events", content=b"{}")
    tracemalloc.start()
    started = time.process_time()
    answer = await door_api.client.post("/ingest/events", content=bomb, headers={"Content-Encoding": how})
    took = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.status_code == 413
    assert f"inflates to more than {limit} bytes" in answer.json()["detail"]
    assert peak < 3 * limit, f"{peak / 2**20:.0f} MiB for a bomb of 1 GiB"
    assert took < 5


async def test_a_window_larger_than_ours_is_no_way_to_take_memory(door_api: Api) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = b"".join([*(packer.compress(b" " * 2**20) for _ in range(16)), packer.flush()])
    answer = await door_api.client.post("/ingest/events", content=packed)
    assert answer.status_code == 422
    assert "zstd" in answer.json()["detail"]


@pytest.mark.parametrize("door", DOORS)
async def test_a_body_said_to_be_huge_is_not_waited_for(engine: AsyncEngine, door: str) -> None:
    async with api(engine) as made:
        for length in ("1073741824", "9" * 40):
            answer = await made.client.post(DOORS[door], content=b"{}", headers={"Content-Length": length})
            assert answer.status_code == 413
            assert answer.headers["Connection"] == "close"


async def test_a_chunked_body_without_end_is_cut_off(engine: AsyncEngine) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 100_000

    async with api(engine, body_max_bytes=1_000_000) as made:
        answer = await made.client.post("/ingest/segment/v1/batch", content=endless())
    assert answer.status_code == 413
