"""What people and operators do over the API: alerts, deliveries, people, keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import people
from service.secrets import Vault
from service.tables import api_keys
from tests.api import NOW, Api, add_accounts, add_alert, api

WEBHOOK = "https://hooks.slack.com/services/T0/B0/canary-secret"


@pytest.fixture
async def service(engine: AsyncEngine) -> AsyncIterator[Api]:
    async with api(engine, secret_key="a long random string for tests") as made:
        yield made


async def test_an_alert_goes_through_its_life(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1", "open_alerts": 1})
    alert = f"/api/v1/alerts/{await add_alert(engine, '1')}"
    seen = await service.post(f"{alert}/acknowledge", {"version": 1, "reason": "on it"})
    assert seen.status_code == 200, seen.text
    assert seen.json()["alert"]["acknowledged_by"] == "key:tests"
    version = seen.json()["alert"]["version"]
    until = (NOW + timedelta(days=7)).isoformat()
    snoozed = await service.post(f"{alert}/snooze", {"version": version, "until": until})
    assert snoozed.json()["alert"]["snoozed_until"] == "2026-05-08T12:00:00Z"
    version = snoozed.json()["alert"]["version"]
    closed = await service.post(f"{alert}/resolve", {"version": version, "outcome": "saved", "reason": "called"})
    assert (closed.json()["alert"]["state"], closed.json()["alert"]["outcome"]) == ("resolved", "saved")
    version = closed.json()["alert"]["version"]
    opened = await service.post(f"{alert}/reopen", {"version": version})
    assert opened.json()["alert"]["state"] == "open"
    steps = opened.json()["transitions"]
    assert [step["kind"] for step in steps] == ["opened", "acknowledged", "snoozed", "resolved", "reopened"]
    assert {step["actor"] for step in steps[1:]} == {"key:tests"}


async def test_an_old_version_is_a_conflict_that_names_the_new_one(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1"})
    alert = f"/api/v1/alerts/{await add_alert(engine, '1')}"
    both = await asyncio.gather(
        *(service.post(f"{alert}/acknowledge", {"version": 1, "reason": str(number)}) for number in range(2))
    )
    assert sorted(answer.status_code for answer in both) == [200, 409]
    loser = next(answer for answer in both if answer.status_code == 409)
    assert loser.json()["current_version"] == 2
    assert loser.json()["errors"][0]["field"] == "version"


@pytest.mark.parametrize(
    ("action", "body", "field"),
    [
        ("acknowledge", {}, "version"),
        ("acknowledge", {"version": "1"}, "version"),
        ("acknowledge", {"version": True}, "version"),
        ("acknowledge", {"version": 1, "reson": "typo"}, "reson"),
        ("acknowledge", {"version": 1, "reason": "\x00"}, "reason"),
        ("snooze", {"version": 1}, "until"),
        ("snooze", {"version": 1, "until": "2026-06-01T00:00:00"}, "until"),
        ("snooze", {"version": 1, "until": "9999-12-31T23:59:59-10:00"}, "until"),
        ("resolve", {"version": 1, "outcome": "fine"}, "outcome"),
    ],
)
async def test_bad_wishes(service: Api, engine: AsyncEngine, action: str, body: dict[str, Any], field: str) -> None:
    answer = await service.post(f"/api/v1/alerts/{uuid4()}/{action}", body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == field
    assert error["problem"]
    assert error["remedy"]


async def test_what_the_state_forbids_is_409_and_what_is_not_there_404(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1"})
    alert = f"/api/v1/alerts/{await add_alert(engine, '1')}"
    past = {"version": 1, "until": (NOW - timedelta(days=1)).isoformat()}
    assert (await service.post(f"{alert}/snooze", past)).status_code == 409
    assert (await service.post(f"{alert}/reopen", {"version": 1})).status_code == 409
    assert (await service.post(f"/api/v1/alerts/{uuid4()}/acknowledge", {"version": 1})).status_code == 404


async def test_a_dead_delivery_is_sent_again_once(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1"})
    await add_alert(engine, "1")
    [delivery] = (await service.get("/api/v1/deliveries", status="dead")).json()["items"]
    assert (delivery["transition"], delivery["rule_id"]) == ("opened", "no-login")
    retry = f"/api/v1/deliveries/{delivery['delivery_id']}/retry"
    again = await service.post(retry)
    assert (again.status_code, again.json()["status"]) == (200, "pending")
    assert (await service.post(retry)).status_code == 409
    assert (await service.post(f"/api/v1/deliveries/{uuid4()}/retry")).status_code == 404
    assert (await service.get("/api/v1/deliveries", status="dead")).json()["items"] == []


async def test_a_webhook_goes_in_and_never_comes_out(service: Api, engine: AsyncEngine) -> None:
    person = {"name": "Aiko", "email": "aiko@example.com", "slack_webhook": WEBHOOK, "timezone": "Asia/Tokyo"}
    stored = await service.client.put("/api/v1/people/aiko", json=person)
    assert stored.status_code == 200, stored.text
    kept = await service.client.put("/api/v1/people/aiko", json={"name": "Aiko Tanaka", "language": "ja"})
    assert (kept.json()["has_slack_webhook"], kept.json()["email"]) == (True, None)
    async with engine.connect() as conn:
        sealed = await conn.scalar(select(people.c.slack_webhook))
    assert "canary" not in (sealed or "")
    assert Vault(service.deps.settings.secret_key).open(sealed or "") == WEBHOOK
    listed = await service.get("/api/v1/people")
    shown = await service.get("/api/v1/people/aiko")
    assert "canary" not in stored.text + kept.text + listed.text + shown.text
    gone = await service.client.put("/api/v1/people/aiko", json={"name": "Aiko", "slack_webhook": None})
    assert gone.json()["has_slack_webhook"] is False


@pytest.mark.parametrize(
    ("person", "field"),
    [
        ({"name": "A", "timezone": "Mars/Olympus"}, "timezone"),
        ({"name": "A", "email": "a@b\r\nBcc: x@y"}, "email"),
        ({"name": "A", "slack_webhook": "canary-secret"}, "slack_webhook"),
        ({"name": "A", "slack_webhook": "http://[canary-secret"}, "slack_webhook"),
        ({"name": "A\nB"}, "name"),
        ({"name": "A", "away_until": "9999-12-31T23:59:59-10:00"}, "away_until"),
        ({"name": "A", "away_from": "0001-01-01T00:00:00+10:00"}, "away_from"),
        ({"name": "A", "stand_in": "p"}, "stand_in"),
        ({"name": "A", "away_from": "2026-05-02T00:00:00Z", "away_until": "2026-05-01T00:00:00Z"}, ""),
    ],
)
async def test_people_are_checked_without_telling_secrets(service: Api, person: dict[str, str], field: str) -> None:
    answer = await service.client.put("/api/v1/people/p", json=person)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert "canary" not in answer.text


async def test_people_come_in_pages(service: Api) -> None:
    for name in ("c", "a", "b"):
        assert (await service.client.put(f"/api/v1/people/{name}", json={"name": name})).status_code == 200
    first = (await service.get("/api/v1/people", limit=2)).json()
    rest = (await service.get("/api/v1/people", limit=2, cursor=first["next_cursor"])).json()
    assert [person["person_id"] for person in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert (await service.get("/api/v1/people/nobody")).status_code == 404


async def test_without_a_secret_key_a_webhook_is_refused(engine: AsyncEngine) -> None:
    async with api(engine) as service:
        answer = await service.client.put("/api/v1/people/p", json={"name": "A", "slack_webhook": WEBHOOK})
    assert answer.status_code == 409
    assert "KIZASHI_SECRET_KEY" in answer.json()["detail"]


async def test_a_key_is_shown_once_works_and_is_revoked(service: Api, engine: AsyncEngine) -> None:
    made = await service.post("/api/v1/keys", {"name": "reader", "scopes": ["read"]})
    assert made.status_code == 201
    key, key_id = made.json()["key"], made.json()["details"]["key_id"]
    headers = {"Authorization": f"Bearer {key}"}
    assert key.startswith("kz_")
    assert (await service.client.get("/api/v1/accounts", headers=headers)).status_code == 200
    listed = await service.get("/api/v1/keys")
    assert key not in listed.text
    assert {item["name"] for item in listed.json()["items"]} == {"reader", "tests"}
    async with engine.connect() as conn:
        assert key.encode() not in [bytes(row) for row in (await conn.scalars(select(api_keys.c.hash)))]
    assert (await service.client.delete(f"/api/v1/keys/{key_id}")).status_code == 204
    revoked = await service.client.get("/api/v1/accounts", headers=headers)
    unknown = await service.client.get("/api/v1/accounts", headers={"Authorization": f"Bearer {key[:-1]}A"})
    assert revoked.status_code == unknown.status_code == 401
    same = ("type", "title", "status", "detail", "instance", "errors", "code", "message")
    assert [revoked.json()[name] for name in same] == [unknown.json()[name] for name in same]
    assert (await service.client.delete("/api/v1/keys/nope")).status_code == 404


@pytest.mark.parametrize(
    "wish",
    [
        {"name": "has space", "scopes": ["read"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["admin"]},
        {"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x\n", "scopes": ["read"]},
        {"name": "x", "scopes": ["read"], "expires_at": "9999-12-31T23:59:59-10:00"},
    ],
)
async def test_keys_that_are_not_made(service: Api, wish: dict[str, Any]) -> None:
    assert (await service.post("/api/v1/keys", wish)).status_code == 422
