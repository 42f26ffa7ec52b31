"""Dead letters worked off over the API: found, mended and sent once, however often and by however many; discarded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.dead_letters import count_open, expire
from consumers.events import Login, encode
from consumers.tables import dead_letters
from service.tables import audit
from tests.api import DAY, NOW, Api, FakeProducer, api

GOOD = encode(Login(event_id="l-1", account_id="acme", user_id="u", timestamp=NOW - DAY))
ARRIVED = NOW - timedelta(hours=20)


class SlowProducer(FakeProducer):
    """Takes its time, so that two requests overlap."""

    async def send_many(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes, Sequence[tuple[str, bytes]]]]
    ) -> list[tuple[int, int]]:
        await asyncio.sleep(0.2)
        return await super().send_many(topic, records)


@pytest.fixture
def producer() -> FakeProducer:
    return SlowProducer()


@pytest.fixture
async def service(engine: AsyncEngine, producer: FakeProducer) -> AsyncIterator[Api]:
    async with api(engine, producer) as made:
        yield made


async def add_letters(engine: AsyncEngine, *letters: dict[str, Any]) -> list[int]:
    common = {
        "topic": "kizashi.events", "partition": 3, "record_timestamp": ARRIVED, "key": b"acme", "value": GOOD,
        "errors": [{"item": 0, "field": "timestamp", "problem": "lies ahead", "remedy": "check the clock"}],
        "reason": "future", "created_at": NOW - timedelta(hours=10),
    }  # fmt: skip
    async with engine.begin() as conn:
        made = []
        for number, letter in enumerate(letters):
            values = {**common, "record_offset": number, **letter}
            found = await conn.execute(insert(dead_letters).values(values).returning(dead_letters.c.dead_letter_id))
            made.append(found.scalar_one())
    return made


async def statuses(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as conn:
        return list(await conn.scalars(select(dead_letters.c.status).order_by(dead_letters.c.dead_letter_id)))


def sent(producer: FakeProducer) -> list[dict[str, Any]]:
    return [msgspec.json.decode(value) for _, value in producer.sent]


async def test_a_letter_is_sent_as_it_came_with_the_time_of_its_first_arrival(
    service: Api, engine: AsyncEngine, producer: FakeProducer
) -> None:
    (letter,) = await add_letters(engine, {})
    answer = await service.post(f"/api/v1/dead-letters/{letter}/retry")
    assert answer.status_code == 200
    said = answer.json()
    assert (said["status"], said["closed_by"], said["closed_at"]) == ("retried", "key:tests", "2026-05-01T12:00:00Z")
    assert (said["sent_value"], said["changes"]) == (None, [])
    assert producer.sent[0][0] == b"acme"
    assert sent(producer) == [{**msgspec.json.decode(GOOD), "received_at": "2026-04-30T16:00:00Z"}]
    async with engine.connect() as conn:
        noted = (await conn.execute(select(audit.c.actor, audit.c.action, audit.c.subject, audit.c.detail))).all()
    assert noted == [("key:tests", "dead_letter.retried", str(letter), {"edited": False})]


async def test_what_a_door_had_stamped_stays_stamped(service: Api, engine: AsyncEngine, producer: FakeProducer) -> None:
    stamped = encode(Login(event_id="l", account_id="a", timestamp=NOW - DAY, received_at=NOW - timedelta(hours=15)))
    ahead = encode(Login(event_id="l", account_id="a", timestamp=NOW - DAY, received_at=NOW + DAY))
    first, second, third = await add_letters(
        engine, {"value": stamped}, {"value": ahead}, {"record_timestamp": None, "value": b"{"}
    )
    for letter in (first, second):
        assert (await service.post(f"/api/v1/dead-letters/{letter}/retry")).status_code == 200
    await service.post(f"/api/v1/dead-letters/{third}/retry", {"value": msgspec.json.decode(GOOD)})
    at = [event["received_at"] for event in sent(producer)]
    assert at == ["2026-04-30T21:00:00Z", "2026-05-01T02:00:00Z", "2026-05-01T02:00:00Z"]


async def test_a_mended_letter_is_decoded_as_at_every_door(
    service: Api, engine: AsyncEngine, producer: FakeProducer
) -> None:
    broken = b'{"kind": "login", "event_id": "l-1", "account_id": "acme", "timestamp": "yesterday", "user_id": 7}'
    (letter,) = await add_letters(engine, {"value": broken, "reason": "bad_value"})
    path = f"/api/v1/dead-letters/{letter}/retry"
    for sent_value in (None, broken.decode(), {"kind": "logn"}, "{", "[]"):
        refused = await service.post(path, {"value": sent_value})
        assert refused.status_code == 422, sent_value
        assert refused.json()["errors"], sent_value
    surrogate = await service.client.post(path, content=b'{"value": "\\ud800"}')
    assert surrogate.status_code == 422
    fields = {error["field"] for error in (await service.post(path, {})).json()["errors"]}
    assert fields == {"timestamp", "user_id"}
    early = {**msgspec.json.decode(broken), "timestamp": "2026-05-02T12:00:00Z", "user_id": "7"}
    assert (await service.post(path, {"value": early})).json()["errors"][0]["field"] == "timestamp"
    assert await statuses(engine) == ["open"]
    mended = await service.post(path, {"value": {**early, "timestamp": "2026-04-30T12:00:00Z"}})
    assert mended.status_code == 200
    said = mended.json()
    assert said["changes"] == [
        {"field": "timestamp", "before": '"yesterday"', "after": '"2026-04-30T12:00:00Z"'},
        {"field": "user_id", "before": "7", "after": '"7"'},
    ]
    assert said["sent_shown"]["form"] == "json"
    assert [event["user_id"] for event in sent(producer)] == ["7"]


async def test_two_at_once_send_one_event(service: Api, engine: AsyncEngine, producer: FakeProducer) -> None:
    (letter,) = await add_letters(engine, {})
    path = f"/api/v1/dead-letters/{letter}/retry"
    answers = await asyncio.gather(*(service.post(path) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    bulk = await service.post("/api/v1/dead-letters/retry", {"ids": [letter]})
    assert bulk.json()["items"] == []
    assert len(producer.sent) == 1


async def test_many_at_once_by_two_people_send_each_once(
    service: Api, engine: AsyncEngine, producer: FakeProducer
) -> None:
    values = [encode(Login(event_id=f"l{n}", account_id="acme", timestamp=NOW - DAY)) for n in range(250)]
    await add_letters(engine, *({"value": value} for value in values))
    answers = await asyncio.gather(
        *(service.post("/api/v1/dead-letters/retry", {"reason": ["future"]}) for _ in range(2))
    )
    assert sum(answer.json()["retried"] for answer in answers) == 250
    assert sorted(event["event_id"] for event in sent(producer)) == sorted(f"l{n}" for n in range(250))
    assert set(await statuses(engine)) == {"retried"}


async def test_many_by_filter_tells_what_became_of_each(
    service: Api, engine: AsyncEngine, producer: FakeProducer
) -> None:
    letters = await add_letters(
        engine, {}, {"value": b"\xff", "reason": "malformed"}, {"topic": "webhook:crm", "value": b"{}"},
        {"created_at": NOW - 3 * DAY}, {"value": GOOD.replace(b"acme", b"zeta")},
    )  # fmt: skip
    assert (await service.post("/api/v1/dead-letters/retry", {})).status_code == 422
    said = (await service.post("/api/v1/dead-letters/retry", {"topic": "kizashi.events", "limit": 3})).json()
    assert (said["retried"], said["refused"], said["left"]) == (2, 1, 2)
    assert [(item["dead_letter_id"], item["outcome"]) for item in said["items"]] == [
        (letters[0], "retried"), (letters[1], "refused"), (letters[3], "retried"),
    ]  # fmt: skip
    assert said["items"][1]["errors"][0]["remedy"]
    on = {"topic": "kizashi.events", "after": said["next_after"]}
    assert (await service.post("/api/v1/dead-letters/retry", on)).json()["retried"] == 1
    webhooks = {"topic": "webhook:crm", "note": "a test"}
    gone = (await service.post("/api/v1/dead-letters/discard", webhooks)).json()
    assert (gone["discarded"], gone["left"], gone["next_after"]) == (1, 0, None)
    shown = (await service.get(f"/api/v1/dead-letters/{letters[2]}")).json()
    assert (shown["status"], shown["note"], shown["closed_by"]) == ("discarded", "a test", "key:tests")
    assert len(producer.sent) == 3


async def test_what_was_done_before_a_fault_is_in_the_audit(
    service: Api, engine: AsyncEngine, producer: FakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.dead_letters.desk.CHUNK", 2)
    await add_letters(engine, {}, {}, {"value": GOOD.replace(b"acme", b"zeta")})
    whole = producer.send_many

    async def failing(topic: str, records: Iterable[tuple[bytes | None, bytes, Sequence[tuple[str, bytes]]]]) -> Any:
        chosen = list(records)
        if any(key == b"zeta" for key, _, _ in chosen):
            raise RuntimeError("out of order")
        return await whole(topic, chosen)

    monkeypatch.setattr(producer, "send_many", failing)
    answer = await service.post("/api/v1/dead-letters/retry", {"reason": ["future"]})
    assert answer.status_code == 500
    assert await statuses(engine) == ["retried", "retried", "open"]
    async with engine.connect() as conn:
        noted = (await conn.execute(select(audit.c.action, audit.c.detail))).all()
    assert [(action, detail["retried"]) for action, detail in noted] == [("dead_letters.retried", 2)]


async def test_a_broker_that_is_away_leaves_the_letter_open(engine: AsyncEngine) -> None:
    (letter, _) = await add_letters(engine, {}, {})
    producer = FakeProducer(away=True)
    async with api(engine, producer) as service:
        answer = await service.post(f"/api/v1/dead-letters/{letter}/retry")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        many = (await service.post("/api/v1/dead-letters/retry", {"reason": ["future"]})).json()
        assert (many["unacknowledged"], many["left"]) == (2, 2)
        assert await statuses(engine) == ["open", "open"]
        producer.away = False
        assert (await service.post(f"/api/v1/dead-letters/{letter}/retry")).status_code == 200


async def test_a_row_of_an_import_becomes_an_import_of_its_own(
    service: Api, engine: AsyncEngine, producer: FakeProducer
) -> None:
    row = encode(Login(event_id="l", account_id="a", timestamp=NOW - DAY, import_id="i" * 200, import_row=41))
    letters = await add_letters(engine, {"value": row}, {"value": row})
    for letter in letters:
        assert (await service.post(f"/api/v1/dead-letters/{letter}/retry")).status_code == 200
    events = sent(producer)
    assert events[0]["import_id"].endswith("i/41/retried")
    assert len(events[0]["import_id"]) == 200
    assert [(e["import_id"], e["import_row"]) for e in events] == [(events[0]["import_id"], 41)] * 2


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"text": "zeta"}, [1]), ({"text": "AHEAD"}, [0, 1, 2, 3]), ({"text": "100%_\\"}, []),
        ({"reason": ["malformed", "storage"]}, [2]), ({"topic": "webhook:crm"}, [3]),
        ({"since": "2026-05-01T00:00:00Z"}, [1, 2, 3]), ({"until": "2026-05-01T00:00:00Z"}, [0]),
        ({"status": "discarded"}, []),
    ],
)  # fmt: skip
async def test_letters_are_found(service: Api, engine: AsyncEngine, query: dict[str, Any], found: list[int]) -> None:
    letters = await add_letters(
        engine, {"created_at": NOW - 3 * DAY}, {"value": b'{"account_id": "zeta"}'},
        {"value": b"\x00\xff", "reason": "malformed"}, {"topic": "webhook:crm"},
    )  # fmt: skip
    listed = (await service.get("/api/v1/dead-letters", **query)).json()["items"]
    assert [item["dead_letter_id"] for item in listed] == [letters[n] for n in reversed(found)]


async def test_closed_letters_are_deleted_in_time_and_open_ones_never(engine: AsyncEngine) -> None:
    def closed(days: int, status: str) -> dict[str, Any]:
        return {"status": status, "closed_at": NOW - days * DAY, "created_at": NOW - 900 * DAY}

    await add_letters(engine, {"created_at": NOW - 900 * DAY}, closed(91, "retried"), closed(91, "discarded"),
                      closed(89, "discarded"))  # fmt: skip
    assert await expire(engine, now=NOW, days=90) == 2
    assert await statuses(engine) == ["open", "discarded"]
    async with engine.connect() as conn:
        assert await count_open(conn) == {"future": 1}


async def test_only_a_key_that_may_write_works_letters_off(service: Api, engine: AsyncEngine) -> None:
    (letter,) = await add_letters(engine, {})
    reader = await service.key_with("read")
    for path in (f"{letter}/retry", f"{letter}/discard", "retry", "discard"):
        answer = await service.client.post(f"/api/v1/dead-letters/{path}", json={}, headers=reader)
        assert answer.status_code == 403
    assert await statuses(engine) == ["open"]
