"""The board over HTTP, without a browser: sessions and their cookies, methods, addresses."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.tables import episodes
from service.board.session import COOKIE, Signer, new_session
from tests.api import DAY, NOW, Api, add_accounts, add_alert, api


@pytest.fixture
async def board(engine: AsyncEngine) -> AsyncIterator[Api]:
    """Open to everybody."""
    async with api(engine, board_open=True, secret_key="a long random string for tests") as made:
        yield made


def token_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


async def acknowledged(board: Api, alert: UUID) -> bool:
    """Whether a visitor who opens the alert's page can send its form."""
    path = f"/alerts/{alert}"
    form = {"csrf": token_of((await board.get(path)).text), "version": "1"}
    answer = await board.client.post(f"{path}/acknowledge", data=form)
    return answer.status_code == 303


@pytest.mark.parametrize("secret", ["another secret", "a long random string for tests"])
async def test_an_open_board_replaces_a_cookie_that_opens_nothing(board: Api, engine: AsyncEngine, secret: str) -> None:
    """Sealed with another secret, or of a key that is gone."""
    stale = new_session(name="aiko", key_id="0123456789", scopes=("read",), now=NOW)
    board.client.cookies.set(COOKIE, Signer.from_secret(secret).seal(stale), domain="api")
    await add_accounts(engine, {"account_id": "1"})
    assert await acknowledged(board, await add_alert(engine, "1"))


async def test_a_visitors_cookie_is_set_once(board: Api) -> None:
    assert COOKIE in (await board.get("/")).headers["set-cookie"]
    assert "set-cookie" not in (await board.get("/")).headers


async def test_signing_in_on_an_open_board_keeps_the_keys_session(board: Api, engine: AsyncEngine) -> None:
    await board.client.post("/signin", data={"key": board.key})
    await add_accounts(engine, {"account_id": "1"})
    alert = await add_alert(engine, "1")
    assert await acknowledged(board, alert)
    async with engine.connect() as conn:
        assert await conn.scalar(select(episodes.c.acknowledged_by)) == "board:tests"


@pytest.mark.parametrize("path", ["/", "/alerts", "/accounts/a%2Fb", "/signin"])
async def test_head_answers_like_get(board: Api, engine: AsyncEngine, path: str) -> None:
    await add_accounts(engine, {"account_id": "a/b"})
    assert (await board.client.head(path)).status_code == (await board.get(path)).status_code


async def test_a_page_names_its_own_address_as_it_is_written(board: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "50%?#x/é"})
    path = "/accounts/50%25%3F%23x%2F%C3%A9"
    page = await board.get(path)
    link = re.search(r'href="(/language/ja[^"]*)"', page.text)
    assert link is not None
    following = parse_qs(urlsplit(link[1]).query)["next"][0]
    assert following == path.replace("%2F", "/")
    assert (await board.get(following)).status_code == 200


async def test_the_number_of_open_alerts_is_that_of_the_list_behind_it(board: Api, engine: AsyncEngine) -> None:
    """Snoozed alerts are on another tab; those of accounts that have ended are on this one."""
    await add_accounts(
        engine, {"account_id": "1", "open_alerts": 2}, {"account_id": "2", "status": "ended", "open_alerts": 1}
    )
    await add_alert(engine, "1", "a")
    await add_alert(engine, "1", "b", snoozed_until=NOW + DAY)
    await add_alert(engine, "2", "a")
    told = re.search(r'<a href="/alerts">(\d+)</a>', (await board.get("/")).text)
    assert told is not None
    assert (await board.get("/alerts")).text.count("<tr>") - 1 == int(told[1]) == 2


async def test_an_amount_beyond_all_decimals_is_no_fault(board: Api) -> None:
    assert (await board.get("/", min_mrr="1e-999999")).status_code == 200


async def test_a_person_who_owns_nothing_now_is_still_what_the_filter_says(board: Api) -> None:
    assert '<option value="aiko" selected>' in (await board.get("/alerts", owner="aiko")).text


@pytest.mark.parametrize(
    ("zone", "until"),
    [
        ("Asia/Tokyo", datetime(2026, 5, 31, 15, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 6, 1, 4, tzinfo=UTC)),
        ("", datetime(2026, 6, 1, tzinfo=UTC)),
        ("../Mars", datetime(2026, 6, 1, tzinfo=UTC)),
    ],
)
async def test_a_snooze_ends_where_the_readers_day_begins(
    board: Api, engine: AsyncEngine, zone: str, until: datetime
) -> None:
    await add_accounts(engine, {"account_id": "1"})
    path = f"/alerts/{await add_alert(engine, '1')}"
    form = {"csrf": token_of((await board.get(path)).text), "version": "1", "until": "2026-06-01", "zone": zone}
    assert (await board.client.post(f"{path}/snooze", data=form)).status_code == 303
    async with engine.connect() as conn:
        assert await conn.scalar(select(episodes.c.snoozed_until)) == until


async def test_a_day_at_the_end_of_the_calendar_is_refused(board: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1"})
    path = f"/alerts/{await add_alert(engine, '1')}"
    form = {"csrf": token_of((await board.get(path)).text), "version": "1", "until": "9999-12-31", "zone": "Asia/Tokyo"}
    assert (await board.client.post(f"{path}/snooze", data=form)).status_code == 409
