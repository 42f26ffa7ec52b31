"""A score set by hand over the API and on the board: who may, what is refused, what is kept and noted."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import score_overrides, touched
from tests.api import NOW, Api, add_accounts, api

WISH = {"score": 75.5, "reason": "Pays on the 5th", "expires_at": (NOW + timedelta(days=9)).isoformat()}
PATH = "/api/v1/accounts/acme%2Feu/override"


@pytest.fixture
async def service(engine: AsyncEngine) -> AsyncIterator[Api]:
    async with api(engine, board_open=True, secret_key="a long random string for tests") as made:
        await add_accounts(engine, {"account_id": "acme/eu", "score": 50.0, "contributions": []})
        yield made


async def test_it_is_set_shown_noted_and_taken_back(service: Api, engine: AsyncEngine) -> None:
    made = await service.client.put(PATH, json=WISH)
    assert made.status_code == 200, made.text
    assert made.json() == {
        "score": 75.5, "reason": "Pays on the 5th", "author": "key:tests",
        "created_at": "2026-05-01T12:00:00Z", "expires_at": "2026-05-10T12:00:00Z",
    }  # fmt: skip
    detail = (await service.get("/api/v1/accounts/acme%2Feu")).json()
    assert detail["override"] == made.json()
    assert set(detail["explanation"]) == {"en", "ja"}
    listed = (await service.get("/api/v1/accounts")).json()["items"]
    assert [set(item["explanation"]) for item in listed] == [{"en", "ja"}]
    async with engine.connect() as conn:
        assert (await conn.scalars(select(touched.c.account_ids))).all() == [["acme/eu"]]
    ended = await service.client.delete(PATH)
    assert (ended.status_code, ended.content) == (204, b"")
    assert (await service.get("/api/v1/accounts/acme%2Feu")).json()["override"] is None
    assert (await service.client.delete(PATH)).status_code == 404
    notes = (await service.get("/api/v1/audit", action="override.set")).json()["items"]
    assert [(note["actor"], note["detail"]["score"]) for note in notes] == [("key:tests", 75.5)]
    assert "acme" not in str(notes) and "Pays" not in str(notes)
    assert len((await service.get("/api/v1/audit", action="override.ended")).json()["items"]) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"score": 101}, "score"), ({"score": 10.55}, "score"), ({"score": "10"}, "score"), ({"reason": ""}, "reason"),
        ({"reason": "   "}, "reason"), ({"expires_at": NOW.isoformat()}, "expires_at"),
        ({"expires_at": "2026-06-01T00:00:00"}, "expires_at"), ({"untill": 1}, "untill"),
    ],
)  # fmt: skip
async def test_bad_wishes(service: Api, change: dict[str, Any], field: str) -> None:
    answer = await service.client.put(PATH, json={**WISH, **change})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_it_needs_the_right_and_an_account(service: Api) -> None:
    reader = await service.key_with("read")
    assert (await service.client.put(PATH, json=WISH, headers=reader)).status_code == 403
    assert (await service.client.delete(PATH, headers=reader)).status_code == 403
    nobody = "/api/v1/accounts/nobody/override"
    assert (await service.client.put(nobody, json=WISH)).status_code == 404
    assert (await service.client.delete(nobody)).status_code == 404


async def test_on_the_board(service: Api, engine: AsyncEngine) -> None:
    path = "/accounts/acme%2Feu"
    page = (await service.client.get(path)).text
    assert "Set the score by hand" in page
    token = re.search(r'name="csrf" value="([^"]+)"', page)
    assert token is not None
    form = {"csrf": token[1], "do": "set", "score": "12.5", "until": "2026-05-20", "reason": "<b>seen</b>"}
    refused = await service.client.post(f"{path}/override", data={**form, "reason": " "})
    assert refused.status_code == 422
    assert "say why, in at most 500 characters" in refused.text and 'value="12.5"' in refused.text
    forged = await service.client.post(f"{path}/override", data={**form, "csrf": "x"})
    assert forged.status_code == 403
    done = await service.client.post(f"{path}/override", data=form)
    assert (done.status_code, done.headers["location"]) == (303, f"{path}?done=override")
    shown = (await service.client.get(done.headers["location"])).text
    assert "The score is set." in shown and "&lt;b&gt;seen&lt;/b&gt;" in shown
    async with engine.connect() as conn:
        [row] = (await conn.execute(select(score_overrides))).all()
        assert (float(row.score), row.author) == (12.5, "board")
        assert row.expires_at == datetime(2026, 5, 20, tzinfo=UTC)
        assert await conn.scalar(text("SELECT count(*) FROM audit WHERE action = 'override.set'")) == 1
    ended = await service.client.post(f"{path}/override", data={"csrf": token[1], "do": "end"})
    assert ended.headers["location"] == f"{path}?done=override-ended"
