"""Dead letters and partitions on the board, by plain forms, as a browser without scripts sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.tables import stream_offsets
from service.board.letters import LetterForm
from tests.api import DAY, NOW, Api, FakeProducer, api
from tests.integration.test_board_visits import token_of
from tests.integration.test_dead_letters import add_letters, sent, statuses

NOWHERE = "127.0.0.1:1"
BROKEN = b'{"kind": "login", "event_id": "l", "account_id": "</textarea><b>", "timestamp": "yesterday"}'


@pytest.fixture
def producer() -> FakeProducer:
    return FakeProducer()


@pytest.fixture
async def board(engine: AsyncEngine, producer: FakeProducer) -> AsyncIterator[Api]:
    settings = {"board_open": True, "secret_key": "a long random string for tests", "kafka_bootstrap": NOWHERE}
    async with api(engine, producer, **settings) as made:
        yield made


async def post(board: Api, page: str, action: str, **fields: str) -> tuple[int, str, str]:
    """Status, where to, and the page, of a form of ``page``."""
    form = {"csrf": token_of((await board.client.get(page)).text), **fields}
    answer = await board.client.post(action, data=form)
    return answer.status_code, answer.headers.get("location", ""), answer.text


@pytest.mark.parametrize("language", ["en", "ja"])
async def test_a_letter_is_mended_with_its_faults_beside_it(
    board: Api, engine: AsyncEngine, producer: FakeProducer, language: str
) -> None:
    board.client.cookies.set("kizashi_language", language, domain="api")
    (letter,) = await add_letters(engine, {"value": BROKEN, "reason": "bad_value"})
    path = f"/dead-letters/{letter}"
    page = (await board.client.get(path)).text
    assert "&lt;/textarea&gt;&lt;b&gt;" in page
    assert "</textarea><b>" not in page
    still = BROKEN.decode().replace("yesterday", "today")
    status, _, refused = await post(board, path, f"{path}/retry", mended="yes", value=still)
    assert status == 422
    assert 'aria-describedby="value-errors"' in refused
    assert '<strong class="codes">timestamp</strong>' in refused
    assert "today" in refused, "what was written stays"
    good = '{"kind": "login", "event_id": "l", "account_id": "a",\r\n "timestamp": "2026-04-30T12:00:00Z"}'
    status, target, _ = await post(board, path, f"{path}/retry", mended="yes", value=good)
    assert (status, target) == (303, f"{path}?done=retry")
    assert [event["account_id"] for event in sent(producer)] == ["a"]
    shown = (await board.client.get(target)).text
    assert 'role="status"' in shown
    assert "2026-04-30T12:00:00Z" in shown
    assert await statuses(engine) == ["retried"]


async def test_a_letter_that_is_closed_says_so(board: Api, engine: AsyncEngine, producer: FakeProducer) -> None:
    first, second = await add_letters(engine, {}, {})
    status, target, _ = await post(board, f"/dead-letters/{first}", f"/dead-letters/{first}/discard", note="a test")
    assert (status, target) == (303, f"/dead-letters/{first}?done=discard")
    status, _, page = await post(board, f"/dead-letters/{second}", f"/dead-letters/{first}/retry")
    assert status == 409
    assert "Somebody was first" in page
    assert "a test" in page
    assert producer.sent == []


async def test_without_its_token_a_form_does_nothing(board: Api, engine: AsyncEngine) -> None:
    (letter,) = await add_letters(engine, {})
    for path in (f"{letter}/retry", f"{letter}/discard", "many/discard"):
        answer = await board.client.post(f"/dead-letters/{path}", data={"csrf": "x", "reason": "future"})
        assert answer.status_code == 403
    assert (await board.client.post("/partitions/release", data={})).status_code == 403
    assert await statuses(engine) == ["open"]


async def test_many_by_reason(board: Api, engine: AsyncEngine, producer: FakeProducer) -> None:
    await add_letters(engine, {}, {"value": BROKEN}, {"reason": "malformed", "value": b"\x00\x01"})
    unfiltered = (await board.client.get("/dead-letters")).text
    assert "/dead-letters/many/" not in unfiltered
    page = "/dead-letters?reason=future"
    assert "2 open letters match." in (await board.client.get(page)).text
    status, target, _ = await post(board, page, "/dead-letters/many/retry", reason="future")
    assert status == 303
    assert (
        "1 sent again. 1 were refused again, or not acknowledged. 1 that match are still open."
        in (await board.client.get(target)).text
    )
    assert await statuses(engine) == ["retried", "open", "open"]
    assert (await post(board, page, "/dead-letters/many/discard"))[0] == 422
    await post(board, page, "/dead-letters/many/discard", reason="future", note="gone")
    assert await statuses(engine) == ["retried", "discarded", "open"]


async def test_bytes_that_are_no_text_are_shown_in_hexadecimal(board: Api, engine: AsyncEngine) -> None:
    (letter,) = await add_letters(engine, {"value": b"\xff\x00<script>", "reason": "malformed"})
    page = (await board.client.get(f"/dead-letters/{letter}")).text
    assert "000000  ff 00 3c 73 63" in page
    assert "<script>" not in page.split("<main", 1)[1]


@pytest.mark.parametrize("path", ["0", "x", "99999999999999999999", "123"])
async def test_no_such_letter(board: Api, path: str) -> None:
    assert (await board.client.get(f"/dead-letters/{path}")).status_code == 404


def test_a_letter_form_reads_its_own_link_back() -> None:
    class Query(dict[str, str]):
        def getlist(self, key: str, /) -> list[str]:
            return [self[key]]

    form = LetterForm.read(Query(status="retried", reason="future", topic="t", since="2026-05-01", q="a&b", until="x"))
    assert form.url() == "/dead-letters?status=retried&reason=future&topic=t&since=2026-05-01&q=a%26b"
    assert form.filtered


async def test_partitions_are_shown_without_a_broker_and_a_release_says_why_not(
    board: Api, engine: AsyncEngine
) -> None:
    row = {
        "group_id": "kizashi", "topic": "kizashi.events", "partition": 7, "next_offset": 900, "updated_at": NOW - DAY,
        "stopped_reason": "poison: 100 records in a row became dead letters",
    }  # fmt: skip
    async with engine.begin() as conn:
        await conn.execute(insert(stream_offsets).values(row))
    page = (await board.client.get("/partitions")).text
    assert "kizashi.events[7] is stopped" in page
    fields = {"topic": "kizashi.events", "partition": "7"}
    status, _, page = await post(board, "/partitions", "/partitions/release", go_on_at="here", **fields)
    assert status == 409
    assert "the broker does not answer" in page
    assert (await post(board, "/partitions", "/partitions/release", go_on_at="offset", offset="x", **fields))[0] == 422
    async with engine.connect() as conn:
        assert await conn.scalar(select(stream_offsets.c.stopped_reason)) is not None
