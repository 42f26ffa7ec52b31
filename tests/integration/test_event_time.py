"""Event time: what is late lands on its day, what lies ahead is set aside, what a clock says is never corrected."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.applier import Applier, Limits
from consumers.broker import Record
from consumers.events import Event, Login, decode, encode
from consumers.offsets import Log, Offsets
from consumers.tables import dead_letters
from health.tables import account_months, accounts, late_arrivals, source_hours
from tests.api import NOW, FakeProducer, api

GROUP, TOPIC = "g", "events"
TOLERANCE = Limits().future_tolerance
TOKYO = timezone(timedelta(hours=9))


def login(event_id: str, at: datetime, **fields: Any) -> Login:
    return Login(event_id=event_id, account_id="acme", user_id="u", timestamp=at, **fields)


async def apply(engine: AsyncEngine, events: Sequence[Event], *, arrived: datetime, now: datetime = NOW) -> None:
    """As one poll of a new partition; the records bear the time ``arrived``."""
    stored = await Offsets(engine, GROUP).open(
        {(TOPIC, 0): Log(cluster_id="c", topic_id=None, start=0, end=10**6)}, now
    )
    position = stored[TOPIC, 0].position
    records = [
        Record(TOPIC, 0, position.next_offset + place, int(arrived.timestamp() * 1000), None, encode(event), ())
        for place, event in enumerate(events)
    ]
    applied = await Applier(engine, GROUP, Limits()).apply(
        {(TOPIC, 0): records}, {(TOPIC, 0): position}, now=now, catching_up=False
    )
    assert applied is not None


async def logins_by_day(engine: AsyncEngine) -> dict[date, int]:
    async with engine.connect() as conn:
        rows = (await conn.execute(select(account_months.c.month, account_months.c.logins))).all()
    return {row.month + timedelta(days=place): count for row in rows for place, count in enumerate(row.logins) if count}


async def test_late_events_land_on_their_own_day_and_are_noted_as_late(engine: AsyncEngine) -> None:
    late = [timedelta(hours=13), timedelta(days=3), timedelta(days=40), timedelta(days=400)]
    await apply(engine, [login("live", NOW), *(login(f"late-{ago.days}", NOW - ago) for ago in late)], arrived=NOW)
    days = [NOW.date(), *((NOW - ago).date() for ago in late)]
    assert await logins_by_day(engine) == dict.fromkeys(days, 1)
    async with engine.connect() as conn:
        noted = (await conn.execute(select(late_arrivals.c.event_day, late_arrivals.c.arrival_day))).all()
        account = (await conn.execute(select(accounts))).one()
    assert sorted(map(tuple, noted)) == sorted((day, NOW.date()) for day in days[1:])
    assert (account.first_event_at, account.last_login_at) == (NOW - late[-1], NOW), "the last is the latest to happen"


async def test_the_day_of_an_event_is_the_utc_day_of_its_instant(engine: AsyncEngine) -> None:
    at = datetime(2026, 4, 1, 0, 30, tzinfo=TOKYO)
    await apply(engine, [login("tokyo", at)], arrived=NOW)
    assert await logins_by_day(engine) == {date(2026, 3, 31): 1}


async def test_polls_in_any_order_end_in_the_same_days(engine: AsyncEngine) -> None:
    events = [login(f"e{n}", NOW - timedelta(hours=7 * n)) for n in range(40)]
    random.Random(5).shuffle(events)
    for start in range(0, 40, 8):
        await apply(engine, events[start : start + 8], arrived=NOW)
    expected: dict[date, int] = {}
    for event in events:
        expected[event.timestamp.date()] = expected.get(event.timestamp.date(), 0) + 1
    assert await logins_by_day(engine) == expected


async def test_events_of_the_future_are_set_aside_and_hide_nothing(engine: AsyncEngine) -> None:
    just, beyond = NOW + TOLERANCE, NOW + TOLERANCE + timedelta(milliseconds=1)
    far = datetime(2099, 1, 1, tzinfo=UTC)
    events = [login("past", NOW - timedelta(days=9)), login("just", just), login("beyond", beyond), login("far", far)]
    await apply(engine, events, arrived=NOW)
    async with engine.connect() as conn:
        letters = (await conn.execute(select(dead_letters).order_by(dead_letters.c.record_offset))).all()
        account = (await conn.execute(select(accounts))).one()
    assert [decode(bytes(letter.value)).event_id for letter in letters] == ["beyond", "far"]
    assert {letter.reason for letter in letters} == {"future"}
    assert letters[1].errors[0]["field"] == "timestamp"
    assert (account.logins, account.last_login_at) == (2, just)


@pytest.mark.parametrize("skew", [timedelta(minutes=4), timedelta(hours=-1), timedelta(days=-30)])
async def test_a_clock_that_is_wrong_is_not_corrected(engine: AsyncEngine, skew: timedelta) -> None:
    said = NOW + skew
    await apply(engine, [login("skewed", said, received_at=NOW, source="app")], arrived=NOW)
    async with engine.connect() as conn:
        account = (await conn.execute(select(accounts))).one()
        hour = (await conn.execute(select(source_hours.c.hour))).scalar_one()
    assert account.last_login_at == said
    assert hour == said.replace(minute=0)


async def test_the_door_keeps_the_time_that_was_said_beside_the_time_of_receiving(engine: AsyncEngine) -> None:
    producer = FakeProducer()
    said = NOW - timedelta(days=2, minutes=7)
    body = {"kind": "login", "event_id": "e", "account_id": "acme", "timestamp": said.isoformat()}
    ahead = {**body, "event_id": "f", "timestamp": (NOW + TOLERANCE + timedelta(seconds=1)).isoformat()}
    async with api(engine, producer) as door:
        answer = await door.post("/api/v1/events", [body, ahead])
    assert [result["status"] for result in answer.json()["results"]] == ["accepted", "refused"]
    assert answer.json()["results"][1]["errors"][0]["field"] == "timestamp"
    [(_, value)] = producer.sent
    assert (decode(value).timestamp, decode(value).received_at) == (said, NOW)
