"""The door for other tools: signed calls in, events out; forged ones refused; odd ones kept; nothing twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.tables import dead_letters
from tests import webhook_calls as calls
from tests.api import Api, FakeProducer, api
from tests.webhook_calls import AT, NOW

SECRET = "whsec_test_of_stripe"
FILE = """
webhooks:
  stripe: {preset: stripe, secret_env: [STRIPE_SECRET, STRIPE_SECRET_NEW]}
  zendesk: {preset: zendesk, secret_env: ZENDESK_SECRET}
  intercom: {preset: intercom, secret_env: INTERCOM_SECRET}
  typeform: {preset: typeform, secret_env: TYPEFORM_SECRET, options: {csat: happy}}
  surveymonkey: {preset: surveymonkey, secret_env: SURVEYMONKEY_SECRET, options: {nps: "51"}}
  hubspot: {preset: hubspot, secret_env: HUBSPOT_SECRET, url: "https://kizashi.example.com/ingest/webhooks/hubspot"}
  salesforce: {preset: salesforce, secret_env: SALESFORCE_TOKEN}
  unset: {preset: stripe, secret_env: NOBODY_SET_THIS}
  own:
    signature: none
    account: account
    mapping:
      - event: login
        fields: {event_id: id, timestamp: at, user_id: user}
"""


@dataclass
class Bench:
    api: Api
    producer: FakeProducer
    rules: Path

    async def call(self, name: str, body: bytes, headers: dict[str, str], method: str = "POST") -> httpx2.Response:
        # Tools know none of our keys.
        return await self.api.client.request(
            method,
            f"/ingest/webhooks/{name}",
            content=body,
            headers={"Authorization": "", "Content-Type": "application/json", **headers},
        )

    async def stripe(self, document: Any, secret: str = SECRET, at: int | None = None) -> httpx2.Response:
        body = calls.raw(document)
        when = int(NOW.timestamp()) if at is None else at
        return await self.call("stripe", body, calls.sign_stripe(body, secret, when))

    @property
    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(value) for _, value in self.producer.sent]

    async def letters(self) -> list[Any]:
        async with self.api.deps.engine.connect() as conn:
            return list((await conn.execute(select(dead_letters))).all())


@pytest.fixture
async def bench(engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    (tmp_path / "webhooks.yaml").write_text(FILE, encoding="utf-8")
    monkeypatch.setenv("STRIPE_SECRET", SECRET)
    for name in ("ZENDESK", "INTERCOM", "TYPEFORM", "HUBSPOT"):
        monkeypatch.setenv(f"{name}_SECRET", f"{name}-secret")
    monkeypatch.setenv("SURVEYMONKEY_SECRET", "client&secret")
    monkeypatch.setenv("SALESFORCE_TOKEN", "a-long-token")
    producer = FakeProducer()
    async with api(engine, producer, rules_dir=tmp_path) as made:
        yield Bench(api=made, producer=producer, rules=tmp_path)


NOW_S = int(NOW.timestamp())
URL = "https://kizashi.example.com/ingest/webhooks/hubspot"
TOOLS: dict[str, tuple[Any, Callable[[bytes], dict[str, str]], list[str]]] = {
    "stripe": (
        calls.stripe("invoice.payment_failed", calls.invoice()),
        lambda body: calls.sign_stripe(body, SECRET, NOW_S),
        ["payment"],
    ),
    "zendesk": (
        calls.zendesk(), lambda body: calls.sign_zendesk(body, "ZENDESK-secret", "2026-05-01T12:00:00Z"), ["ticket"],
    ),
    "intercom": (
        calls.intercom(custom_attributes={"account_id": "acme"}),
        lambda body: calls.sign_hub(body, "INTERCOM-secret"),
        ["ticket"],
    ),
    "typeform": (
        calls.typeform([calls.answer("nps", "q", number=3), calls.answer("rating", "happy", number=5)]),
        lambda body: calls.sign_typeform(body, "TYPEFORM-secret"),
        ["survey", "survey"],
    ),
    "surveymonkey": (
        calls.surveymonkey(), lambda body: calls.sign_surveymonkey(body, "client&secret"), ["survey"],
    ),
    "hubspot": (
        [calls.hubspot(), calls.hubspot("name", "Acme")],
        lambda body: calls.sign_hubspot(body, "HUBSPOT-secret", URL, NOW_S * 1000),
        ["group", "group"],
    ),
    "salesforce": (calls.salesforce(), lambda _: {"Authorization": "Bearer a-long-token"}, ["group"]),
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
async def test_every_tool(bench: Bench, tool: str) -> None:
    document, sign, kinds = TOOLS[tool]
    body = calls.raw(document)
    response = await bench.call(tool, body, sign(body))
    assert response.status_code == 200, response.text
    assert response.json() == {"accepted": len(document) if isinstance(document, list) else 1, "ignored": 0, "kept": 0}
    assert [event["kind"] for event in bench.events] == kinds
    assert {event["source"] for event in bench.events} == {tool}
    assert all("received_at" in event for event in bench.events)
    forged = await bench.call(tool, body, {**sign(body), **sign(body + b" "), "Authorization": "Bearer kz_no"})
    assert forged.status_code == 401
    assert forged.json()["errors"] == []
    unsigned = await bench.call(tool, body, {})
    assert unsigned.status_code == 401
    assert len(bench.events) == len(kinds)
    assert await bench.letters() == []


async def test_a_retry_is_the_same_event_for_the_consumers(bench: Bench) -> None:
    told = calls.stripe("invoice.paid", calls.invoice())
    for _ in range(2):
        assert (await bench.stripe(told)).status_code == 200
    first, second = bench.events
    assert (first["event_id"], first["source"], first["account_id"]) == ("evt_1", "stripe", "acme")
    assert first == second


async def test_what_is_genuine_and_odd_is_kept_once_and_answered_well(bench: Bench) -> None:
    odd = calls.stripe("invoice.paid", calls.invoice(currency=3))
    for _ in range(2):
        response = await bench.stripe(odd)
        assert (response.status_code, response.json()["kept"]) == (200, 1)
    (letter,) = await bench.letters()
    assert (letter.topic, letter.reason, letter.status) == ("webhook:stripe", "bad_value", "open")
    assert letter.value == calls.raw(odd)
    assert letter.errors[0]["field"] == "currency"
    assert letter.errors[0]["remedy"]
    assert bench.events == []


async def test_bytes_that_are_no_json_are_kept_too(bench: Bench) -> None:
    body = b'{"id": "\xff\x00'
    response = await bench.call("stripe", body, calls.sign_stripe(body, SECRET, NOW_S))
    assert (response.status_code, response.json()["kept"]) == (200, 1)
    (letter,) = await bench.letters()
    assert (letter.value, letter.reason) == (body, "malformed")


async def test_a_bad_part_leaves_its_neighbours_alone(bench: Bench) -> None:
    body = calls.raw([calls.hubspot(), calls.hubspot("mrr", "lots"), calls.hubspot("phone", "1")])
    response = await bench.call("hubspot", body, calls.sign_hubspot(body, "HUBSPOT-secret", URL, NOW_S * 1000))
    assert response.json() == {"accepted": 1, "ignored": 1, "kept": 1}
    (letter,) = await bench.letters()
    assert json.loads(letter.value)["propertyValue"] == "lots"


async def test_what_is_not_asked_for_is_ignored(bench: Bench) -> None:
    response = await bench.stripe(calls.stripe("charge.succeeded", {"id": "ch_1"}))
    assert response.json() == {"accepted": 0, "ignored": 1, "kept": 0}
    assert (bench.events, await bench.letters()) == ([], [])


@pytest.mark.parametrize(("secret", "at", "status"), [("other", 0, 401), (SECRET, -301, 401), (SECRET, -299, 200)])
async def test_secrets_and_clocks(bench: Bench, secret: str, at: int, status: int) -> None:
    told = calls.stripe("invoice.paid", calls.invoice())
    assert (await bench.stripe(told, secret, NOW_S + at)).status_code == status


async def test_a_secret_is_changed_without_a_lost_call(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    told = calls.stripe("invoice.paid", calls.invoice())
    monkeypatch.setenv("STRIPE_SECRET_NEW", "whsec_new")
    assert [(await bench.stripe(told, secret)).status_code for secret in (SECRET, "whsec_new")] == [200, 200]
    monkeypatch.delenv("STRIPE_SECRET")
    assert [(await bench.stripe(told, secret)).status_code for secret in (SECRET, "whsec_new")] == [401, 200]


async def test_a_bare_prefix_is_no_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    told = calls.stripe("invoice.paid", calls.invoice())
    monkeypatch.delenv("STRIPE_SECRET")
    monkeypatch.setenv("STRIPE_SECRET_NEW", "whsec_")
    assert (await bench.stripe(told, "whsec_")).status_code == 503


async def test_a_broker_that_is_away_makes_the_tool_come_again(bench: Bench) -> None:
    bench.producer.away = True
    odd = [calls.hubspot(), calls.hubspot("mrr", "lots")]
    body = calls.raw(odd)
    response = await bench.call("hubspot", body, calls.sign_hubspot(body, "HUBSPOT-secret", URL, NOW_S * 1000))
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert await bench.letters() == []


async def test_unsigned_calls_need_a_key(bench: Bench) -> None:
    body = calls.raw({"id": "e-1", "at": "2026-05-01T11:00:00Z", "user": "u-1", "account": "acme"})
    bearer = await bench.api.key_with("ingest")
    reader = await bench.api.key_with("read")
    assert (await bench.call("own", body, {})).status_code == 401
    assert (await bench.call("own", body, reader)).status_code == 403
    assert (await bench.call("own", body, bearer)).status_code == 200
    key = bearer["Authorization"].removeprefix("Bearer ")
    assert (await bench.call(f"own?key={key}", body, {})).status_code == 200
    assert [event["kind"] for event in bench.events] == ["login", "login"]


async def test_names(bench: Bench) -> None:
    assert (await bench.call("nobody", b"{}", {})).status_code == 404
    assert (await bench.call("unset", b"{}", {"Stripe-Signature": "t=1,v1=2"})).status_code == 503
    assert (await bench.call("stripe", b"", {}, "HEAD")).status_code == 200
    assert (await bench.call("nobody", b"", {}, "HEAD")).status_code == 404


async def test_calls_that_come_together_first_are_all_taken(bench: Bench) -> None:
    told = [calls.stripe("invoice.paid", calls.invoice(id=f"in_{n}"), id=f"evt_{n}") for n in range(5)]
    answers = await asyncio.gather(*map(bench.stripe, told))
    assert [answer.status_code for answer in answers] == [200] * 5


async def test_a_file_that_changes_and_one_that_is_wrong(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.ingest.webhooks.LOOK_SECONDS", 0.0)
    told = calls.stripe("invoice.paid", calls.invoice(id=f"in_{AT}"))
    (bench.rules / "webhooks.yaml").write_text("webhooks: [", encoding="utf-8")
    assert (await bench.stripe(told)).status_code == 503
    (bench.rules / "webhooks.yaml").write_text(FILE, encoding="utf-8")
    assert (await bench.stripe(told)).status_code == 200
    (bench.rules / "webhooks.yaml").write_text("webhooks: 3 # a slip", encoding="utf-8")
    assert (await bench.stripe(told)).status_code == 200
    (bench.rules / "webhooks.yaml").unlink()
    assert (await bench.stripe(told)).status_code == 404


async def test_no_secret_is_ever_told(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    told = calls.stripe("invoice.paid", calls.invoice())
    texts = [(await bench.stripe(told, "other")).text, (await bench.stripe(calls.stripe("invoice.paid", {}))).text]
    out = capsys.readouterr()
    assert SECRET not in "".join([*texts, out.out, out.err])


async def test_a_letter_is_mapped_anew_once_the_file_says_how(bench: Bench) -> None:
    stranger = calls.zendesk(detail={"organization_id": None, "external_id": "acme"})
    body = calls.raw(stranger)
    await bench.call("zendesk", body, calls.sign_zendesk(body, "ZENDESK-secret", "2026-05-01T12:00:00Z"))
    (letter,) = await bench.letters()
    path = f"/api/v1/dead-letters/{letter.dead_letter_id}/retry"
    still = await bench.api.post(path, {})
    assert "account_id" in still.text
    assert bench.events == []
    text = FILE.replace("secret_env: ZENDESK_SECRET}", "secret_env: ZENDESK_SECRET, account: detail.external_id}")
    (bench.rules / "webhooks.yaml").write_text(text, encoding="utf-8")
    assert (await bench.api.post(path, {})).status_code < 300
    (event,) = bench.events
    assert (event["kind"], event["account_id"], event["source"]) == ("ticket", "acme", "zendesk")
    assert [each.status for each in await bench.letters()] == ["retried"]
