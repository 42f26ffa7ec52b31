"""The board's pages about scores: a past day explained, another scorecard asked about, in both languages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from service import what_if
from tests.api import Api, api
from tests.world import GROUP, RULES, TOPIC, World

DEFAULT = (RULES / "scorecards" / "default.yaml").read_text(encoding="utf-8")


@pytest.fixture
async def world(engine: AsyncEngine) -> World:
    world = await World(engine).start()
    for account in ("acme/eu", "b<i>"):
        busy = [
            {"kind": kind, "account_id": account, "user_id": f"u{ago % 5}",
             "at": world.now - timedelta(days=ago, hours=1),
             **({"feature": f"f{ago % 5}", "quantity": 1} if kind == "usage" else {})}
            for ago in range(56) for kind in ("login", "usage")
        ]  # fmt: skip
        await world.events(
            {"kind": "group", "account_id": account, "traits": {"mrr": 100, "currency": "EUR", "name": f"{account}!"},
             "at": world.now - timedelta(days=60)},
            *busy,
            {"kind": "payment", "account_id": account, "payment_id": "p", "status": "failed"},
        )  # fmt: skip
    return world


@pytest.fixture
async def board(engine: AsyncEngine, world: World) -> AsyncIterator[Api]:
    settings: dict[str, Any] = {"consumer_group": GROUP, "events_topics": [TOPIC], "rules_dir": RULES}
    async with api(engine, board_open=True, secret_key="a long random string for tests", **settings) as made:
        made.now = world.now
        yield made


async def token(board: Api) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', (await board.get("/what-if")).text)
    assert found
    return found[1]


async def test_the_chart_of_an_account_leads_to_its_days(board: Api, world: World) -> None:
    on = world.now.date()
    page = (await board.get("/accounts/acme/eu")).text
    assert f'<a href="/explain/accounts/acme%2Feu?day={on}"' in page
    today = await board.get("/explain/accounts/acme/eu", day=on.isoformat())
    assert today.status_code == 200 and "It is what was recorded on that day." in today.text
    assert "A payment fails: at most 40" in today.text
    before = await board.get("/explain/accounts/acme/eu", day=(on - timedelta(days=9)).isoformat())
    assert "Nothing was recorded on that day." in before.text and f"day={on - timedelta(days=8)}" in before.text
    japanese = await board.client.get("/explain/accounts/b<i>", headers={"accept-language": "ja"})
    assert "時点のスコア" in japanese.text and "支払い失敗のため上限40" in japanese.text
    assert "<i>" not in japanese.text and "b&lt;i&gt;!" in japanese.text


async def test_days_and_accounts_that_are_none(board: Api) -> None:
    for day, status in (("2999-01-01", 422), ("soon", 422), ("0001-01-01", 200)):
        assert (await board.get("/explain/accounts/acme/eu", day=day)).status_code == status
    assert (await board.get("/explain/accounts/nobody")).status_code == 404
    assert (await board.get("/explain/accounts/a%00b")).status_code == 404


async def test_who_would_change_band(board: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(what_if, "PAGE", 1)
    monkeypatch.setattr(what_if, "SECONDS", 0.0)
    assert "id: login-recency" in (await board.get("/what-if", card="default")).text
    form = {"csrf": await token(board), "card": DEFAULT.replace("limit: 40", "limit: 30"), "day": ""}
    first = await board.client.post("/what-if", data=form)
    assert first.status_code == 200 and "1 of 1 accounts would change band" in first.text
    assert "A payment fails" in first.text or "a payment fails" in first.text
    assert "Look at the next accounts" in first.text and "€100" in first.text
    cursor = re.search(r'name="cursor" value="([^"]+)"', first.text)
    assert cursor and 'href="/accounts/acme%2Feu"' in first.text
    second = await board.client.post("/what-if", data={**form, "cursor": cursor[1]})
    assert "b&lt;i&gt;!" in second.text and "acme/eu" not in second.text


async def test_a_file_counts_and_faults_have_their_line(board: Api) -> None:
    csrf = await token(board)
    bad = DEFAULT.replace("signal: churn_odds\n", "signal: churn_ods\n", 1).encode()
    page = await board.client.post("/what-if", data={"csrf": csrf, "card": ""}, files={"file": ("x.yaml", bad)})
    assert page.status_code == 422 and "line 38, column 5" in page.text and "did you mean churn_odds?" in page.text
    large = await board.client.post("/what-if", data={"csrf": csrf}, files={"file": ("x.yaml", b"a: " + b"x" * 40_000)})
    assert large.status_code == 422 and "at most 32768 bytes" in large.text
    for card in ("", "<script>alert(1)</script>: ["):
        page = await board.client.post("/what-if", data={"csrf": csrf, "card": card})
        assert page.status_code == 422 and "<script>alert" not in page.text
    assert (await board.client.post("/what-if", data={"csrf": "no", "card": DEFAULT})).status_code == 403
