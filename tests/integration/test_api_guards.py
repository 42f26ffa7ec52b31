"""Who may, and what surrounds every answer: keys, scopes, problems, headers, probes, metrics, database faults."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.tables import stream_offsets
from service import auth
from service.app import create_app
from service.db import make_engine
from service.deps import Deps
from service.middleware import BodyGuard, LastResort
from service.role_server import Report, serve_role_metrics
from service.settings import Settings
from service.tables import api_keys
from tests.api import NOW, Api, FakeProducer, add_accounts, api


@pytest.fixture
async def service(engine: AsyncEngine) -> AsyncIterator[Api]:
    async with api(engine) as made:
        yield made


def operations(service: Api) -> list[tuple[str, str]]:
    app: Any = service.client._transport.app  # type: ignore[attr-defined]
    assert isinstance(app, FastAPI)
    paths = app.openapi()["paths"]
    return [(method.upper(), path) for path, found in paths.items() for method in found if path.startswith("/api/")]


async def test_every_operation_wants_a_key_before_anything_else(service: Api) -> None:
    found = operations(service)
    assert len(found) > 20
    async with httpx2.AsyncClient(transport=service.client._transport, base_url="http://api") as stranger:
        for method, path in found:
            answer = await stranger.request(
                method, path, content=b"{broken", headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


NEEDED = {
    "POST /api/v1/events": "ingest",
    "GET /api/v1/keys": "write",
    "GET /api/v1/audit": "write",
    "GET /api/v1/erasures": "write",
    "GET /api/v1/erasures/{erasure_id}": "write",
    "POST /api/v1/accounts/{account_id}/explain": "read",
    "POST /api/v1/scorecards/what-if": "read",
    "GET /api/v1/accounts/{account_id}/export": "write",
}


async def test_every_operation_wants_its_scope(service: Api) -> None:
    headers = {scope: await service.key_with(scope) for scope in auth.SCOPES}
    for method, path in operations(service):
        needed = NEEDED.get(f"{method} {path}", "read" if method == "GET" else "write")
        concrete = path.replace("{alert_id}", "0").replace("{dead_letter_id}", "0")
        for scope in auth.SCOPES:
            answer = await service.client.request(method, concrete, headers=headers[scope])
            assert (answer.status_code == 403) == (scope != needed), (method, path, scope, answer.status_code)


async def test_a_key_expires_on_the_second_even_when_remembered(service: Api) -> None:
    headers = await service.key_with("read", expires_at=NOW + timedelta(seconds=10))
    assert (await service.client.get("/api/v1/signals", headers=headers)).status_code == 200
    service.now = NOW + timedelta(seconds=10)
    assert (await service.client.get("/api/v1/signals", headers=headers)).status_code == 401


async def test_a_key_is_looked_up_once_and_its_use_noted_once_a_minute(service: Api, engine: AsyncEngine) -> None:
    ring = auth.KeyRing(engine, lambda: service.now, cache_seconds=0)
    used = select(api_keys.c.last_used_at)

    async def last_used() -> object:
        async with engine.connect() as conn:
            return await conn.scalar(used)

    assert await ring.verify(service.key)
    service.now = NOW + timedelta(seconds=30)
    assert await ring.verify(service.key)
    assert await last_used() == NOW
    service.now = NOW + timedelta(seconds=61)
    assert await ring.verify(service.key)
    assert await last_used() == service.now


async def test_a_remembered_key_is_asked_again_after_seconds(service: Api, engine: AsyncEngine) -> None:
    elapsed = 0.0
    ring = auth.KeyRing(engine, lambda: service.now, cache_seconds=3, monotonic=lambda: elapsed)
    key = await ring.verify(service.key)
    assert key is not None
    async with engine.begin() as conn:
        assert await auth.revoke(conn, key.key_id, NOW)
    assert await ring.verify(service.key)
    elapsed = 3.1
    assert await ring.verify(service.key) is None


async def test_many_who_present_a_key_at_once_ask_once(service: Api, engine: AsyncEngine, monkeypatch: Any) -> None:
    ring = auth.KeyRing(engine, lambda: service.now)
    asked = 0
    verify = auth.verify

    async def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await verify(*arguments)

    monkeypatch.setattr(auth, "verify", counted)
    found = await asyncio.gather(*(ring.verify(service.key) for _ in range(50)))
    assert all(found)
    assert asked == 1


async def test_a_known_key_is_trusted_for_a_while_when_the_database_is_away(
    service: Api, engine: AsyncEngine, monkeypatch: Any
) -> None:
    elapsed = 0.0
    ring = auth.KeyRing(engine, lambda: service.now, monotonic=lambda: elapsed)
    other = await service.key_with("read")
    assert await ring.verify(service.key)

    async def away(*_: Any) -> Any:
        raise ConnectionRefusedError

    monkeypatch.setattr(auth, "verify", away)
    elapsed = 300.0
    assert await ring.verify(service.key)
    with pytest.raises(ConnectionRefusedError):
        await ring.verify(other["Authorization"].partition(" ")[2])
    elapsed = auth.CACHE_SECONDS + auth.TRUSTED_SECONDS + 1
    with pytest.raises(ConnectionRefusedError):
        await ring.verify(service.key)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic a3o6", "Bearer kz_short", "Bearer " + "x" * 9000, "Bearer kz_ä"]
)
async def test_what_is_no_key(service: Api, header: str) -> None:
    answer = await service.client.get("/api/v1/accounts", headers={b"Authorization": header.encode()})
    assert answer.status_code == 401


async def test_problems_have_one_shape_everywhere(service: Api) -> None:
    answers = [
        await service.get("/api/v1/nowhere"),
        await service.client.patch("/api/v1/accounts"),
        await service.get("/api/v1/accounts", limit="many"),
        await service.get("/api/v1/accounts/%00"),
        await service.get("/api/v1/accounts/%ED%A0%80/timeline"),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 422, 422, 404]
    for answer in answers:
        found = answer.json()
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert found["code"] == found["status"] == answer.status_code
        assert found["type"].startswith("urn:kizashi:problem:")
        assert found["message"] == found["detail"]
        assert found["request_id"] == answer.headers["X-Request-ID"]
    assert answers[1].headers["Allow"] == "GET"


async def test_a_request_id_is_taken_over_only_when_harmless(service: Api) -> None:
    kept = await service.client.get("/livez", headers={"X-Request-ID": "abc-123"})
    made = await service.client.get("/livez", headers={"X-Request-ID": "a b\x7f"})
    assert kept.headers["X-Request-ID"] == "abc-123"
    assert made.headers["X-Request-ID"].isalnum()


async def test_security_headers_are_on_every_answer(service: Api) -> None:
    for path in ("/livez", "/api/v1/nowhere", "/docs", "/api/v1/accounts"):
        headers = (await service.get(path)).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


async def test_the_reference_page_needs_nothing_from_elsewhere(service: Api) -> None:
    page = await service.get("/docs")
    assert page.status_code == 200
    assert "/api/v1/accounts/{account_id}" in page.text
    assert "<script" not in page.text
    assert "src=" not in page.text
    assert set(re.findall(r'href="([^"]*)"', page.text)) == {"/docs.css", "/openapi.json"}
    assert (await service.get("/docs.css")).headers["Content-Type"].startswith("text/css")


async def test_what_nobody_foresaw_is_500_without_its_secrets(engine: AsyncEngine) -> None:
    class Broken(FakeProducer):
        async def partition_count(self, topic: str) -> int:
            raise RuntimeError("canary-secret")

    async with api(engine, Broken()) as service:
        answer = await service.get("/readyz")
    assert answer.status_code == 500
    assert answer.json()["type"] == "urn:kizashi:problem:internal"
    assert "canary" not in answer.text


async def test_a_slow_body_is_cut_off() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        raise AssertionError("the body never ends")

    async def drip() -> AsyncGenerator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    async def stall() -> AsyncGenerator[bytes]:
        yield b"x"
        await asyncio.sleep(5)

    guarded = LastResort(BodyGuard(app, max_bytes=1000, seconds=0.3, pause_seconds=0.2))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(guarded), base_url="http://api") as client:
        for body in (drip(), stall()):
            async with asyncio.timeout(2):
                answer = await client.post("/", content=body)
            assert answer.status_code == 408
            await body.aclose()


async def test_a_database_that_is_away_is_503_and_not_ready(service: Api) -> None:
    engine = make_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none", timeout_seconds=1)
    settings = Settings.model_validate({"database_url": "postgresql+asyncpg://nobody@127.0.0.1:1/none"})
    deps = Deps(settings=settings, clock=lambda: NOW, engine=engine, producer=FakeProducer())
    transport = httpx2.ASGITransport(create_app(deps))
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        listed = await client.get("/api/v1/accounts", headers={"Authorization": f"Bearer {service.key}"})
        ready = await client.get("/readyz")
        alive = await client.get("/livez")
        measured = await client.get("/metrics")
    await deps.close()
    assert (listed.status_code, ready.status_code, alive.status_code) == (503, 503, 200)
    assert int(listed.headers["Retry-After"]) > 0
    assert "does not answer" in ready.json()["checks"]["database"]
    assert measured.status_code == 200


async def test_taken_connections_are_503_within_a_second(engine: AsyncEngine) -> None:
    async with api(engine, database_pool_size=1) as service:
        await service.get("/api/v1/signals")  # the key is known now
        async with service.deps.reading():
            async with asyncio.timeout(1.5):
                answer = await service.get("/api/v1/accounts")
        assert answer.status_code == 503
        assert (await service.get("/api/v1/accounts")).status_code == 200


async def test_keys_and_probes_do_not_queue_behind_readers(database: str) -> None:
    engine = make_engine(database, pool_size=1)
    event = {
        "kind": "login", "event_id": "1", "account_id": "a", "user_id": "u", "timestamp": "2026-05-01T11:00:00Z",
    }  # fmt: skip
    async with api(engine, database_pool_size=1) as service, engine.connect(), asyncio.timeout(2):
        taken = await service.post("/api/v1/events", event)  # a key that was not seen before
        ready = await service.get("/readyz")
    await engine.dispose()
    assert (taken.status_code, ready.status_code) == (202, 200)


async def test_a_lock_that_is_held_is_503(service: Api, engine: AsyncEngine) -> None:
    """The evaluator may hold an account while a person acts on it: they try again."""
    from tests.api import add_alert

    await add_accounts(engine, {"account_id": "1"})
    alert = f"/api/v1/alerts/{await add_alert(engine, '1')}/acknowledge"
    async with engine.begin() as conn:
        await conn.execute(text("SELECT 1 FROM health WHERE account_id = '1' FOR UPDATE"))
        assert (await service.post(alert, {"version": 1})).status_code == 503
    assert (await service.post(alert, {"version": 1})).status_code == 200


async def test_readiness_tells_of_schema_broker_and_consumers(service: Api, engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await conn.execute(
            insert(stream_offsets).values(
                group_id="kizashi",
                topic="kizashi.events",
                partition=3,
                next_offset=7,
                stopped_reason="the log was truncated",
                updated_at=NOW,
            )
        )
    ready = await service.get("/readyz")
    assert ready.status_code == 200
    checks = ready.json()["checks"]
    assert checks["migrations"].startswith("at 0")
    assert checks["consumers"].startswith("stopped partitions: kizashi.events/3: the log was truncated; ")
    assert "4 partitions" in checks["broker"]
    async with engine.begin() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = 'of_a_newer_release'"))
    newer = await service.get("/readyz")
    assert newer.json()["checks"]["migrations"] == "at of_a_newer_release"
    assert newer.status_code == 200, "old pods go on serving while a newer release rolls out"
    async with engine.begin() as conn:
        await conn.execute(text("DELETE FROM alembic_version"))
    old = await service.get("/readyz")
    assert old.status_code == 503
    assert "kizashi migrate" in old.json()["checks"]["migrations"]


async def test_metrics_of_all_roles_are_one_valid_exposition(engine: AsyncEngine) -> None:
    async def ready() -> Report:
        return Report(ok=False, checks={"broker": "away"})

    role = await serve_role_metrics("127.0.0.1", 0, ready)
    peers = [f"consumer=http://127.0.0.1:{role.port}/metrics", "sender=http://127.0.0.1:1/metrics"]
    async with api(engine, metrics_peers=peers) as service:
        await service.get("/api/v1/accounts/secret-account")
        answer = await service.get("/metrics")
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{role.port}") as client:
        states = [(await client.get(path)).status_code for path in ("/livez", "/readyz", "/metrics", "/else")]
        refused = (await client.post("/metrics")).status_code
    await role.stop()
    assert (states, refused) == ([200, 503, 200, 404], 405)
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    up = {sample.labels["role"]: sample.value for sample in families["kizashi_role_up"].samples}
    assert up == {"api": 1, "consumer": 1, "sender": 0}
    requests = families["kizashi_http_requests"].samples
    assert {sample.labels["role"] for sample in requests} == {"api", "consumer"}
    assert "/api/v1/accounts/{account_id:path}" in {sample.labels["route"] for sample in requests}
    assert "secret-account" not in answer.text
    assert answer.text.count("# TYPE kizashi_http_requests_total") == 1
    promtool = shutil.which("promtool")
    if promtool:
        command = [promtool, "check", "metrics"]
        checked = await asyncio.to_thread(subprocess.run, command, input=answer.content, capture_output=True)
        ours = [
            line
            for line in checked.stdout.decode().splitlines() + checked.stderr.decode().splitlines()
            if "kizashi" in line
        ]
        assert not ours
