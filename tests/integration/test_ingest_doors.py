"""The vendors' doors: where keys may be, browsers, limits of keys and addresses, overload, what is told and counted."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import BrokerUnavailable
from consumers.events import Usage, decode
from tests.api import NOW, Api, FakeProducer, api

TRACK: dict[str, Any] = {
    "type": "track", "event": "export", "messageId": "m1", "userId": "u1", "timestamp": NOW.isoformat(),
    "context": {"groupId": "acct_1"},
}  # fmt: skip
CAPTURE: dict[str, Any] = {
    "event": "export", "uuid": "p1", "distinct_id": "u1", "timestamp": NOW.isoformat(),
    "properties": {"$groups": {"company": "acct_1"}},
}  # fmt: skip
AMPLITUDE: dict[str, Any] = {
    "event_type": "export", "insert_id": "a1", "user_id": "u1", "groups": {"company": "acct_1"},
}  # fmt: skip


@pytest.fixture
def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
async def door(engine: AsyncEngine, producer: FakeProducer) -> AsyncIterator[Api]:
    async with api(engine, producer) as made:
        del made.client.headers["Authorization"]
        yield made


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_each_vendor_puts_the_key_elsewhere(door: Api, producer: FakeProducer) -> None:
    key, post = door.key, door.client.post
    capture = {**CAPTURE, "properties": {**CAPTURE["properties"], "token": key}}
    encoded = base64.b64encode(json.dumps(capture).encode()).decode()
    answers = [
        await post("/ingest/segment/v1/batch", json={"batch": [TRACK]}, headers=basic(key)),
        await post("/ingest/segment/v1/batch", json={"batch": [TRACK], "writeKey": key}),
        await post("/ingest/segment/v1/batch", json={"batch": [TRACK]}, headers={"Authorization": f"Bearer {key}"}),
        await post("/ingest/segment/v1/t", content=json.dumps({**TRACK, "writeKey": key}).encode()),
        await post("/ingest/rudderstack/v1/track", json=TRACK, headers=basic(key)),
        await post("/ingest/posthog/batch/", json={"batch": [CAPTURE], "api_key": key}),
        await post("/ingest/posthog/e/?ip=1&compression=base64", content=urlencode({"data": encoded}).encode()),
        await post("/ingest/posthog/i/v0/e/", json={**CAPTURE, "api_key": key}),
        await post("/ingest/posthog/capture", json=[capture]),
        await post("/ingest/amplitude/2/httpapi", json={"events": [AMPLITUDE], "api_key": key}),
        await post("/ingest/amplitude/batch", json={"events": [AMPLITUDE], "api_key": key}),
        await post(
            "/ingest/amplitude/httpapi", content=urlencode({"api_key": key, "event": json.dumps(AMPLITUDE)}).encode()
        ),
    ]
    for answer in answers:
        assert answer.status_code == 200, (answer.request.url, answer.text)
        assert answer.json() == {"success": True, "status": 1, "code": 200, "message": "ok"}
    events = [decode(value) for _, value in producer.sent]
    assert len(events) == len(answers)
    for event in events:
        assert isinstance(event, Usage)
        assert (event.feature, event.account_id, event.user_id) == ("export", "acct_1", "u1")
        assert (event.source, event.received_at) == ("tests", NOW)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/ingest/segment/v1/batch", {"batch": [TRACK]}),
        ("/ingest/rudderstack/v1/batch", {"batch": [TRACK]}),
        ("/ingest/posthog/batch/", {"batch": [CAPTURE], "api_key": "phc_of_somebody_else"}),
        ("/ingest/amplitude/2/httpapi", {"events": [AMPLITUDE], "api_key": ""}),
        ("/ingest/cloudevents", []),
        ("/ingest/events", []),
    ],
)
async def test_without_a_key_nothing_is_taken(door: Api, producer: FakeProducer, path: str, body: Any) -> None:
    unknown = {"Authorization": f"Bearer kz_{'0' * 10}_{'x' * 43}"}
    reader = await door.key_with("read")
    missing, wrong, scope = [
        await door.client.post(path, json=body, headers=headers) for headers in ({}, unknown, reader)
    ]
    assert (missing.status_code, wrong.status_code, scope.status_code) == (401, 401, 403)
    for answer in (missing, wrong):
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["code"] == 401
        if path not in {"/ingest/events", "/ingest/cloudevents"}:
            assert answer.json()["error"].startswith("Invalid API key:")
    assert "`ingest`" in scope.json()["detail"]
    assert producer.sent == []


async def test_a_key_in_the_head_is_checked_before_the_body_is_read(door: Api) -> None:
    pieces: list[bytes] = []

    async def read() -> AsyncIterator[bytes]:
        pieces.append(b"{")
        yield b"{"

    unknown = {"Authorization": f"Bearer kz_{'0' * 10}_{'x' * 43}"}
    answer = await door.client.post("/ingest/segment/v1/batch", content=read(), headers=unknown)
    assert answer.status_code == 401
    assert pieces == []


async def test_browsers_may_send_from_any_page(door: Api, producer: FakeProducer) -> None:
    origin = {"Origin": "https://app.example.com"}
    asked = await door.client.options(
        "/ingest/segment/v1/t",
        headers={**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
    )
    assert asked.status_code == 204
    assert asked.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert asked.headers["Access-Control-Allow-Headers"] == "content-type"
    body = json.dumps({**TRACK, "writeKey": door.key}).encode()
    sent = await door.client.post(
        "/ingest/segment/v1/t", content=body, headers={**origin, "Content-Type": "text/plain"}
    )
    assert sent.status_code == 200
    assert sent.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert "origin" in sent.headers["Vary"].lower()
    refused = await door.client.post("/ingest/segment/v1/t", content=b"{", headers=origin)
    assert refused.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    api_asked = await door.client.options("/api/v1/events", headers={**origin, "Access-Control-Request-Method": "POST"})
    assert api_asked.status_code == 405
    for path in ("/api/v1/events", "/api/v1/accounts"):
        assert "Access-Control-Allow-Origin" not in (await door.client.get(path, headers=origin)).headers


async def test_other_methods_are_told_which_to_use(door: Api) -> None:
    answer = await door.client.get("/ingest/posthog/e/")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "POST, OPTIONS"


async def test_what_posthog_asks_for_by_itself_is_answered(door: Api) -> None:
    flags = await door.client.post("/ingest/posthog/flags/?v=4", json={"token": "kz_x"})
    decide = await door.client.post("/ingest/posthog/decide/?v=3", content=b"data=x")
    config = await door.client.get("/ingest/posthog/array/kz_abc/config", headers={"Origin": "https://a.example"})
    script = await door.client.get("/ingest/posthog/array/kz_abc/config.js")
    asked = await door.client.options("/ingest/posthog/flags/", headers={"Origin": "https://a.example"})
    assert {answer.status_code for answer in (flags, decide, config, script, asked)} == {200}
    assert flags.json()["featureFlags"] == decide.json()["featureFlags"] == {}
    assert flags.json()["errorsWhileComputingFlags"] is False
    assert config.json()["sessionRecording"] is False
    assert config.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert script.headers["Content-Type"] == "application/javascript"


async def test_what_is_not_acknowledged_is_503_for_the_whole_batch(door: Api, producer: FakeProducer) -> None:
    producer.refuse = {b"other"}
    tracks = [{**TRACK, "messageId": str(number)} for number in range(100)]
    late = {**TRACK, "messageId": "late", "context": {"groupId": "other"}}
    segment = await door.client.post(
        "/ingest/segment/v1/batch", json={"batch": [*tracks, late]}, headers=basic(door.key)
    )
    assert segment.status_code == 503
    assert int(segment.headers["Retry-After"]) > 0
    assert segment.json()["code"] == 503
    captures = [{**CAPTURE, "uuid": str(number)} for number in range(100)]
    other = {**CAPTURE, "uuid": "late", "properties": {"$groups": {"company": "other"}}}
    posthog = await door.client.post(
        "/ingest/posthog/i/v1/analytics/events", json={"batch": [*captures, other]},
        headers={"Authorization": f"Bearer {door.key}"},
    )  # fmt: skip
    assert posthog.status_code == 200
    results = posthog.json()["results"]
    assert results.pop("late") == {"result": "retry"}
    assert {each["result"] for each in results.values()} == {"ok"}


async def test_a_key_sends_so_many_events_and_then_waits(engine: AsyncEngine) -> None:
    before = sample("kizashi_ingest_throttled_total", why="key")
    async with api(engine, ingest_events_per_second=0.5, ingest_burst_events=10) as made:
        headers = await made.key_with("ingest")
        batch = {"batch": [{**TRACK, "messageId": str(number)} for number in range(12)]}
        first = await made.client.post("/ingest/segment/v1/batch", json=batch, headers=headers)
        second = await made.client.post("/ingest/segment/v1/batch", json=batch, headers=headers)
        own = await made.client.post("/api/v1/events", content=b"[]", headers=headers)
        other = await made.client.post("/ingest/segment/v1/batch", json=batch)
    assert (first.status_code, other.status_code) == (200, 200)
    for answer in (second, own):
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 7
        assert "send again after" in answer.json()["detail"]
    assert sample("kizashi_ingest_throttled_total", why="key") == before + 2


async def test_an_address_with_wrong_keys_waits_and_keys_known_from_there_do_not(engine: AsyncEngine) -> None:
    wrong = {"Authorization": f"Bearer kz_{'0' * 10}_{'x' * 43}"}
    async with api(engine, ingest_bad_keys_per_minute=3) as made:
        known = {"Authorization": f"Bearer {made.key}"}
        path, body = "/ingest/segment/v1/batch", {"batch": [TRACK]}
        assert (await made.client.post(path, json=body, headers=known)).status_code == 200
        statuses = [(await made.client.post(path, json=body, headers=wrong)).status_code for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        new = await made.client.post(path, json=body, headers=await made.key_with("ingest"))
        assert new.status_code == 429
        assert int(new.headers["Retry-After"]) > 0
        assert (await made.client.post(path, json=body, headers=known)).status_code == 200


class Stuck(FakeProducer):
    """A broker that does not answer until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def send_many(self, topic: str, records: Any) -> list[tuple[int, int]]:
        await self.go.wait()
        return await super().send_many(topic, records)


async def test_too_many_at_once_are_refused_at_once(engine: AsyncEngine) -> None:
    producer = Stuck()
    async with api(engine, producer, ingest_max_requests=20) as made:
        post = made.client.post
        waiting = [asyncio.create_task(post("/ingest/segment/v1/batch", json={"batch": [TRACK]})) for _ in range(20)]
        while made_load(made).requests < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        took = []
        for _ in range(200):
            started = time.perf_counter()
            answer = await post("/ingest/segment/v1/batch", json={"batch": [TRACK]})
            took.append(time.perf_counter() - started)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
        assert made_load(made).requests == 20
        producer.go.set()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
        assert (made_load(made).requests, made_load(made).bytes) == (0, 0)
    assert sorted(took)[int(len(took) * 0.99)] < 0.5
    assert len(producer.sent) == 20


async def test_the_bytes_held_at_once_are_bounded(engine: AsyncEngine) -> None:
    producer = Stuck()
    body = json.dumps({"batch": [{**TRACK, "properties": {"text": "x" * 20_000}}]}).encode()
    async with api(engine, producer, ingest_max_bytes=100_000) as made:
        calls = [asyncio.create_task(made.client.post("/ingest/segment/v1/batch", content=body)) for _ in range(10)]
        while sum(call.done() for call in calls) < 6:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert made_load(made).bytes <= 100_000
        producer.go.set()
        statuses = sorted([(await call).status_code for call in calls])
    assert statuses == [200] * 4 + [503] * 6


def made_load(made: Api) -> Any:
    return made.client._transport.app.door.load  # type: ignore[attr-defined]


async def test_skew_is_shown_by_source_and_nothing_is_corrected(door: Api, producer: FakeProducer) -> None:
    def seen(le: str) -> float:
        return sample("kizashi_ingest_skew_seconds_bucket", source="tests", le=le)

    hour, all_ = seen("3600.0"), seen("+Inf")
    sent_at = NOW - timedelta(hours=2)
    body = {"batch": [TRACK], "sentAt": sent_at.isoformat(), "writeKey": door.key}
    assert (await door.client.post("/ingest/segment/v1/batch", json=body)).status_code == 200
    assert (seen("3600.0"), seen("+Inf")) == (hour, all_ + 1)
    event = decode(producer.sent[0][1])
    assert (event.timestamp, event.received_at) == (NOW, NOW)


async def test_the_broker_away_is_503_in_every_dialect(engine: AsyncEngine) -> None:
    class Away(FakeProducer):
        async def send_many(self, topic: str, records: Any) -> list[tuple[int, int]]:
            raise BrokerUnavailable("away")

    async with api(engine, Away()) as made:
        for path, body in (
            ("/ingest/segment/v1/batch", {"batch": [TRACK]}),
            ("/ingest/posthog/i/v1/analytics/events", {"batch": [CAPTURE]}),
            ("/ingest/amplitude/2/httpapi", {"events": [AMPLITUDE]}),
        ):
            answer = await made.client.post(path, json=body)
            assert answer.status_code in {200, 503}
            if answer.status_code == 200:
                assert [each["result"] for each in answer.json()["results"].values()] == ["retry"]
            else:
                assert int(answer.headers["Retry-After"]) > 0


async def test_requests_are_counted_by_route_and_never_by_key(door: Api) -> None:
    labels = {"route": "/ingest/segment/v1/batch", "method": "POST", "status": "200"}
    before = sample("kizashi_http_requests_total", **labels)
    await door.client.post("/ingest/segment/v1/batch/", json={"batch": [TRACK]}, headers=basic(door.key))
    assert sample("kizashi_http_requests_total", **labels) == before + 1
    answer: httpx2.Response = await door.client.get("/metrics")
    assert door.key not in answer.text
