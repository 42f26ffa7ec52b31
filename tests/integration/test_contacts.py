"""Contacts, by the API and on the board: an event like any other, once, of a known account, by somebody."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import record_events
from tests.api import NOW, Api, FakeProducer, add_accounts, api


@pytest.fixture
async def made(engine: AsyncEngine) -> AsyncIterator[Api]:
    await add_accounts(engine, {"account_id": "acme"}, {"account_id": "a/b c"})
    async with api(engine, FakeProducer(), board_open=True, secret_key="a long random string for tests") as found:
        yield found


def sent(made: Api) -> list[dict[str, Any]]:
    assert isinstance(made.deps.producer, FakeProducer)
    return [msgspec.json.decode(value) for _, value in made.deps.producer.sent]


async def test_a_contact(made: Api) -> None:
    wish = {"contact": "call", "at": "2026-04-30T18:00:00+09:00", "note": "They miss\nthe export", "by": "mina"}
    response = await made.post("/api/v1/accounts/acme/contacts", wish)
    assert response.status_code == 202
    (event,) = sent(made)
    contact_id = response.json()["contact_id"]
    assert event == {
        "kind": "contact", "event_id": contact_id, "contact_id": contact_id, "account_id": "acme", "by": "mina",
        "source": "contacts", "timestamp": "2026-04-30T18:00:00+09:00", "contact": "call",
        "note": "They miss\nthe export", "received_at": "2026-05-01T12:00:00Z",
    }  # fmt: skip
    again = await made.post("/api/v1/accounts/acme/contacts", wish)
    assert again.json()["contact_id"] == contact_id
    other = await made.post("/api/v1/accounts/acme/contacts", {**wish, "note": "Another"})
    assert other.json()["contact_id"] != contact_id


async def test_what_is_left_out(made: Api) -> None:
    response = await made.post("/api/v1/accounts/a%2Fb%20c/contacts", {"contact": "mail", "contact_id": "m-1"})
    assert response.json() == {"account_id": "a/b c", "contact_id": "m-1"}
    (event,) = sent(made)
    assert (event["timestamp"], event["by"], event["account_id"]) == ("2026-05-01T12:00:00Z", "tests", "a/b c")
    assert "note" not in event


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"contact": "letter"}, "contact"),
        ({}, "contact"),
        ({"contact": "call", "at": "2026-05-01T12:06:00Z"}, "at"),
        ({"contact": "call", "at": "2026-05-01T12:00:00"}, "at"),
        ({"contact": "call", "note": "bell\u0007"}, "note"),
        ({"contact": "call", "note": "x" * 4001}, "note"),
        ({"contact": "call", "by": ""}, "by"),
    ],
)
async def test_what_is_refused(made: Api, wish: dict[str, Any], field: str) -> None:
    response = await made.post("/api/v1/accounts/acme/contacts", wish)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == field
    assert response.json()["errors"][0]["remedy"]
    assert sent(made) == []


async def test_unknown_accounts_keys_and_a_broker_that_is_away(made: Api) -> None:
    wish = {"contact": "call"}
    assert (await made.post("/api/v1/accounts/acmee/contacts", wish)).status_code == 404
    reader = await made.key_with("read", "ingest")
    path = "/api/v1/accounts/acme/contacts"
    assert (await made.client.post(path, json=wish, headers=reader)).status_code == 403
    assert isinstance(made.deps.producer, FakeProducer)
    made.deps.producer.away = True
    assert (await made.post(path, wish)).status_code == 503


def token_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


async def logged(made: Api, **fields: str) -> Any:
    page = (await made.get("/accounts/acme")).text
    form = {"csrf": token_of(page), "contact": "meeting", "when": "", "zone": "", "note": "", **fields}
    return await made.client.post("/accounts/acme/contacts", data=form)


async def test_on_the_board_it_stands_there_at_once_and_then_for_good(made: Api, engine: AsyncEngine) -> None:
    answer = await logged(made, when="2026-05-01T18:30", zone="Asia/Tokyo", note="Met\r\nin Kyoto")
    assert answer.status_code == 303
    (event,) = sent(made)
    assert (event["contact"], event["by"], event["note"], event["timestamp"]) == (
        "meeting", "board", "Met\nin Kyoto", "2026-05-01T18:30:00+09:00",
    )  # fmt: skip
    page = (await made.client.get(answer.headers["location"])).text
    assert "Logged. It is on the timeline in a moment." in page
    assert '<li class="pending">' in page.split("</template>")[-1]
    live = re.search(r'hx-get="([^"]+)"', page)
    assert live is not None
    path = html.unescape(live[1])
    assert (await made.client.get(path)).status_code == 204
    async with engine.begin() as conn:
        await conn.execute(
            insert(record_events).values(
                account_id="acme", kind="contact", record_id=event["contact_id"], event_key="contacts:x",
                at=datetime(2026, 5, 1, 9, 30, tzinfo=UTC), data={"contact": "meeting", "note": "Met"}, known_at=NOW,
            )
        )  # fmt: skip
    applied = await made.client.get(path)
    assert applied.status_code == 200
    assert '<li class="pending">' not in applied.text.split("</template>")[-1]
    assert "Meeting with the customer" in applied.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"contact": "letter"}, "Choose what it was"),
        ({"when": "yesterday"}, "is not a time"),
        ({"when": "2026-05-01T12:01"}, "before it has taken place"),
        ({"note": "bell\x07 kept"}, "characters that cannot be kept"),
    ],
)
async def test_on_the_board_what_stood_in_the_way_and_what_was_written(
    made: Api, fields: dict[str, str], words: str
) -> None:
    answer = await logged(made, **{"note": "kept <b>", **fields})
    assert answer.status_code == 422
    assert words in answer.text
    assert "kept" in answer.text
    assert "kept <b>" not in answer.text
    assert sent(made) == []


async def test_on_the_board_a_broker_that_is_away_loses_no_note(made: Api) -> None:
    assert isinstance(made.deps.producer, FakeProducer)
    made.deps.producer.away = True
    answer = await logged(made, note="kept for later")
    assert answer.status_code == 503
    assert "kept for later" in answer.text
    assert (await made.client.post("/accounts/acme/contacts", data={"contact": "call"})).status_code == 403
    forged = await logged(made, csrf="x")
    assert forged.status_code == 403
