"""Uploads by the API and on the board: what would change, then exactly that, once, with a line in the audit."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import account_attributes, people
from service.tables import audit
from tests.api import Api, FakeProducer, add_accounts, api

CSV = {"Content-Type": "text/csv"}
FILE = "account_id,name,mrr,currency\nacme,Acme,500,EUR\nnew,New,1,EUR\nodd,Odd,lots,EUR\nsame,Same,5,EUR\n"


def fields(**values: Any) -> dict[str, Any]:
    return {name: {"v": value, "t": 1, "k": "crm:1"} for name, value in values.items()}


@pytest.fixture
async def made(engine: AsyncEngine) -> AsyncIterator[Api]:
    await add_accounts(engine, {"account_id": "acme"}, {"account_id": "same"})
    async with engine.begin() as conn:
        known = {
            "acme": fields(name="Acme", mrr=490, currency="EUR"),
            "same": fields(name="Same", mrr=5, currency="EUR"),
        }
        await conn.execute(
            insert(account_attributes), [{"account_id": key, "fields": value} for key, value in known.items()]
        )
    async with api(engine, FakeProducer(), board_open=True, secret_key="a long random string for tests") as found:
        yield found


def sent(made: Api) -> list[dict[str, Any]]:
    assert isinstance(made.deps.producer, FakeProducer)
    return [msgspec.json.decode(value) for _, value in made.deps.producer.sent]


async def upload(made: Api, kind: str, text: str, headers: dict[str, str] = CSV, **query: str) -> httpx2.Response:
    return await made.client.post(f"/api/v1/uploads/{kind}", params=query, content=text.encode(), headers=headers)


async def audited(made: Api) -> list[Any]:
    async with made.deps.engine.connect() as conn:
        return list((await conn.execute(select(audit).order_by(audit.c.audit_id))).all())


async def test_a_preview_changes_nothing_and_its_hash_carries_it_out(made: Api) -> None:
    shown = (await upload(made, "accounts", FILE)).json()
    plan = shown["plan"]
    assert (shown["applied"], plan["new"], plan["changed"], plan["unchanged"], plan["refused"]) == (False, 1, 1, 1, 1)
    assert plan["changed_entries"] == [{"row": 2, "key": "acme", "changes": [{"field": "mrr", "old": 490, "new": 500}]}]
    assert plan["refused_rows"][0]["row"] == 4
    assert (sent(made), await audited(made)) == ([], [])
    done = await upload(made, "accounts", FILE, preview="false", hash=plan["hash"])
    assert (done.status_code, done.json()["stored"], done.json()["applied"]) == (200, 2, True)
    events = {event["account_id"]: event for event in sent(made)}
    assert events["acme"]["traits"] == {"mrr": 500}
    assert events["new"]["traits"] == {"name": "New", "mrr": 1, "currency": "EUR"}
    assert {event["source"] for event in events.values()} == {"upload"}
    (line,) = await audited(made)
    assert (line.actor, line.action, line.detail["changed"]) == ("key:tests", "upload.accounts", 1)
    assert "acme" not in str(line)
    again = await upload(made, "accounts", FILE, preview="false", hash=plan["hash"])
    assert again.status_code == 200
    assert [event["event_id"] for event in sent(made)[:2]] == [event["event_id"] for event in sent(made)[2:]]


async def test_what_has_changed_meanwhile_is_not_carried_out(made: Api, engine: AsyncEngine) -> None:
    plan = (await upload(made, "accounts", FILE)).json()["plan"]
    async with engine.begin() as conn:
        await conn.execute(
            update(account_attributes)
            .where(account_attributes.c.account_id == "acme")
            .values(fields=fields(name="Acme", mrr=480, currency="EUR"))
        )
    refused = await upload(made, "accounts", FILE, preview="false", hash=plan["hash"])
    assert refused.status_code == 409
    other = await upload(made, "accounts", FILE.replace("500", "501"), preview="false", hash=plan["hash"])
    assert other.status_code == 409
    assert (sent(made), await audited(made)) == ([], [])


async def test_people(made: Api) -> None:
    text = "person_id,name,email,manager\nmina,Mina,mina@example.com,ken\nken,Ken,,\n"
    done = (await upload(made, "people", text, preview="false")).json()
    assert done["stored"] == 2
    assert (await made.get("/api/v1/people/mina")).json()["manager"] == "ken"
    async with made.deps.engine.begin() as conn:
        await conn.execute(update(people).where(people.c.person_id == "mina").values(slack_webhook="sealed"))
    changed = (await upload(made, "people", "person_id,language\nmina,ja\n", preview="false")).json()
    assert changed["plan"]["changed_entries"][0]["changes"] == [{"field": "language", "old": "en", "new": "ja"}]
    async with made.deps.engine.connect() as conn:
        row = (await conn.execute(select(people).where(people.c.person_id == "mina"))).one()
    assert (row.email, row.language, row.slack_webhook) == ("mina@example.com", "ja", "sealed")
    same = (await upload(made, "people", "person_id,language\nmina,ja\n", preview="false")).json()
    assert (same["plan"]["unchanged"], same["stored"]) == (1, 0)


async def test_refused_rows_as_a_file(made: Api) -> None:
    text = "account_id,mrr\n=cmd,lots\n"
    response = await upload(made, "accounts", text, {**CSV, "Accept": "text/csv"})
    assert response.headers["content-type"].startswith("text/csv")
    assert response.text.splitlines()[1].startswith("2,mrr,")


@pytest.mark.parametrize(
    ("text", "headers", "query", "status"),
    [
        ("name\nx\n", CSV, {}, 422),
        ("", CSV, {}, 422),
        (FILE, {"Content-Type": "application/json"}, {}, 415),
        (FILE, CSV, {"preview": "maybe"}, 422),
        (FILE, CSV, {"hash": "0" * 64}, 422),
        (FILE, CSV, {"confirm": "1"}, 422),
    ],
)
async def test_what_is_refused(
    made: Api, text: str, headers: dict[str, str], query: dict[str, str], status: int
) -> None:
    response = await upload(made, "accounts", text, headers, **query)
    assert response.status_code == status
    assert response.json()["detail"]


async def test_keys_and_a_broker_that_is_away(made: Api) -> None:
    reader = await made.key_with("read", "ingest")
    assert (await upload(made, "accounts", FILE, {**CSV, **reader})).status_code == 403
    assert isinstance(made.deps.producer, FakeProducer)
    made.deps.producer.away = True
    assert (await upload(made, "accounts", FILE, preview="false")).status_code == 503
    assert await audited(made) == []


# The board


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None
    return found[1]


async def previewed(made: Api, text: str = FILE, kind: str = "accounts") -> httpx2.Response:
    token = hidden((await made.get("/uploads")).text, "csrf")
    return await made.client.post(
        "/uploads/preview", data={"csrf": token, "kind": kind}, files={"file": ("a.csv", text.encode())}
    )


async def confirmed(made: Api, page: str, **changes: str) -> httpx2.Response:
    form = {name: hidden(page, name) for name in ("csrf", "kind", "hash", "content")}
    return await made.client.post("/uploads/apply", data={**form, **changes})


async def test_on_the_board(made: Api) -> None:
    page = await previewed(made)
    assert page.status_code == 200
    assert "<del>490</del>" in page.text
    assert sent(made) == []
    done = await confirmed(made, page.text)
    assert done.status_code == 303
    assert len(sent(made)) == 2
    assert "Stored: 2 rows." in (await made.client.get(done.headers["location"])).text
    (line,) = await audited(made)
    assert line.actor == "board"


async def test_on_the_board_nothing_but_what_was_seen(made: Api, engine: AsyncEngine) -> None:
    page = (await previewed(made)).text
    async with engine.begin() as conn:
        await conn.execute(update(account_attributes).values(fields=fields(name="Acme", mrr=1, currency="EUR")))
    refused = await confirmed(made, page)
    assert refused.status_code == 409
    assert "has changed meanwhile" in refused.text
    assert sent(made) == []
    assert (await confirmed(made, refused.text)).status_code == 303
    forged = await confirmed(made, page, csrf="x")
    assert forged.status_code == 403
    for content in ("%%%", ""):
        assert (await confirmed(made, page, content=content)).status_code == 422


async def test_on_the_board_files_that_cannot_be_used(made: Api) -> None:
    bad = await previewed(made, "name\n<script>\n")
    assert bad.status_code == 422
    assert "account_id is missing" in bad.text
    large = await previewed(made, "account_id\n" + "x" * (2 * 1024 * 1024))
    assert large.status_code == 413
    scripted = await previewed(made, "account_id,name\n<script>x,<b>\n")
    assert "<script>x" not in scripted.text
    token = hidden((await made.get("/uploads")).text, "csrf")
    none = await made.client.post("/uploads/preview", data={"csrf": token, "kind": "accounts"})
    assert none.status_code == 422
