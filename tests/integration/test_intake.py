"""The intake: users without an account wait until they are tied to one, nothing is lost or doubled on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import BrokerError, BrokerUnavailable, Producer, RecordTooLarge
from consumers.events import Event, Identify, Login, bad, decode
from consumers.formats.items import UNPLACED, Binding, Item
from consumers.intake import Intake, Taken
from consumers.pseudonyms import Pseudonyms
from consumers.tables import dead_letters, user_accounts, waiting_events
from consumers.waiting import LETTER_TOPIC, WaitingLimits
from service.db import make_engine

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Broker:
    """Keeps what it acknowledged. Refuses what is named in `too_large`; fails with `failure`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.too_large: set[str] = set()
        self.failure: BrokerError | None = None

    async def send_many(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes, Sequence[tuple[str, bytes]]]]
    ) -> list[tuple[int, int]]:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        found = [decode(value) for _, value, _ in records]
        if any(event.event_id in self.too_large for event in found):
            raise RecordTooLarge("too large")
        self.events += found
        return [(0, 0)] * len(found)

    @property
    def landed(self) -> list[tuple[str, str]]:
        return sorted((event.event_id, event.account_id) for event in self.events)


def login(event_id: str, user: str = "u1", account: str = UNPLACED, at: datetime = NOW) -> Item:
    event = Login(event_id=event_id, account_id=account, user_id=user, timestamp=at)
    return Item(event_id=event_id, events=(event,))


def tie(user: str, account: str, at: datetime = NOW, event_id: str = "g") -> Item:
    return Item(event_id=event_id, binding=Binding(user_id=user, account_id=account, at=at, event_id=event_id))


@pytest.fixture
def broker_() -> Broker:
    return Broker()


@pytest.fixture
def intake(broker_: Broker, engine: AsyncEngine) -> Intake:
    return Intake(broker_, engine, topic="t")


async def take(intake: Intake, *items: Item, now: datetime = NOW) -> list[str]:
    return [taken.status for taken in await intake.take(items, source="web", now=now)]


async def waiting(engine: AsyncEngine) -> int:
    async with engine.connect() as conn:
        return int((await conn.execute(select(func.count()).select_from(waiting_events))).scalar_one())


async def test_events_with_an_account_never_ask_the_database(broker_: Broker) -> None:
    nowhere = make_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    intake = Intake(broker_, nowhere, topic="t")
    wrong = Item(event_id="x", error=bad("kind", "is missing"))
    taken = await intake.take(
        [login("a", account="acme"), wrong, Item(event_id="i", ignored="anonymous")], source="web", now=NOW
    )
    assert taken == [
        Taken(status="accepted", event_id="a"),
        Taken(status="refused", event_id="x", error=wrong.error),
        Taken(status="ignored", event_id="i"),
    ]
    [event] = broker_.events
    assert (event.source, event.received_at) == ("web", NOW)
    await nowhere.dispose()


async def test_waits_until_a_group_call_ties_the_user(intake: Intake, broker_: Broker, engine: AsyncEngine) -> None:
    assert await take(intake, login("a"), login("b", user="u2"), login("c", account="acme")) == [
        "waiting", "waiting", "accepted",
    ]  # fmt: skip
    assert broker_.landed == [("c", "acme")]
    assert await take(intake, tie("u1", "acme"), now=NOW + timedelta(hours=1)) == ["accepted"]
    assert broker_.landed == [("a", "acme"), ("c", "acme")]
    released = next(event for event in broker_.events if event.event_id == "a")
    assert (released.source, released.received_at, released.timestamp) == ("web", NOW, NOW)
    assert await take(intake, login("d")) == ["accepted"]
    assert await waiting(engine) == 1, "u2 still waits"


async def test_the_calls_of_one_batch_may_come_in_any_order(intake: Intake, broker_: Broker) -> None:
    assert await take(intake, login("a"), tie("u1", "acme"), login("b")) == ["accepted"] * 3
    assert broker_.landed == [("a", "acme"), ("b", "acme")]


async def test_the_last_binding_by_event_time_then_id_holds(intake: Intake, broker_: Broker) -> None:
    await take(intake, tie("u1", "late", NOW, "g2"))
    await take(intake, tie("u1", "early", NOW - timedelta(days=1), "g9"))
    await take(intake, tie("u1", "smaller id", NOW, "g1"), login("a"))
    assert broker_.landed == [("a", "late")]
    await take(intake, tie("u1", "x", NOW, "g3"), tie("u1", "newest", NOW + timedelta(minutes=1), "g1"), login("b"))
    assert broker_.landed == [("a", "late"), ("b", "newest")]


async def test_a_retry_waits_once(intake: Intake, broker_: Broker, engine: AsyncEngine) -> None:
    for _ in range(3):
        assert await take(intake, login("a"), login("a")) == ["waiting", "waiting"]
    assert await waiting(engine) == 1
    await take(intake, tie("u1", "acme"))
    assert broker_.landed == [("a", "acme")]


async def test_what_is_beyond_the_bounds_is_refused_and_told(broker_: Broker, engine: AsyncEngine) -> None:
    intake = Intake(broker_, engine, topic="t", waiting=WaitingLimits(per_user=2, total=3))
    batch = [login("a"), login("b"), login("c"), login("d", user="u2"), login("e", user="u3")]
    taken = await intake.take(batch, source="web", now=NOW)
    assert [each.status for each in taken] == ["waiting", "waiting", "refused", "waiting", "refused"]
    assert taken[2].error is not None
    assert taken[2].error.reason == "no_account"
    again = await intake.take(batch, source="web", now=NOW)
    assert [each.status for each in again] == ["waiting", "waiting", "refused", "waiting", "refused"], "a retry"
    assert await waiting(engine) == 3


async def test_what_waited_too_long_becomes_a_dead_letter(intake: Intake, broker_: Broker, engine: AsyncEngine) -> None:
    await take(intake, login("old"), now=NOW - timedelta(days=15))
    await take(intake, login("young", user="u2"))
    await intake.tidy(NOW)
    async with engine.connect() as conn:
        [letter] = (await conn.execute(select(dead_letters))).all()
    assert (letter.topic, letter.reason, letter.status) == (LETTER_TOPIC, "no_account", "open")
    assert json.loads(letter.value)["event_id"] == "old"
    assert letter.errors[0]["field"] == "account_id"
    assert await waiting(engine) == 1
    await take(intake, tie("u2", "acme"))
    assert broker_.landed == [("young", "acme")]


async def test_a_crash_between_producing_and_deleting_repeats_the_same_event(
    intake: Intake, broker_: Broker, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take(intake, login("a"))

    async def crash(ids: Sequence[int]) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(intake._waiting, "delete", crash)
        await take(intake, tie("u1", "acme"))
    assert broker_.landed == [("a", "acme")]
    # Meanwhile the user moved: the decision was taken, and stands.
    await take(intake, tie("u1", "other", NOW + timedelta(days=1), "g2"))
    await Intake(broker_, engine, topic="t").tidy(NOW)
    assert set(broker_.landed) == {("a", "acme")}, "the same id and account, which dedup knows"
    assert await waiting(engine) == 0


async def test_a_broker_that_is_away_delays_the_release(intake: Intake, broker_: Broker, engine: AsyncEngine) -> None:
    await take(intake, login("a"))
    broker_.failure = BrokerUnavailable("away")
    assert await take(intake, tie("u1", "acme")) == ["accepted"]
    assert await waiting(engine) == 1
    broker_.failure = None
    await intake.tidy(NOW)
    assert broker_.landed == [("a", "acme")]
    assert await waiting(engine) == 0


async def test_a_waiting_event_that_the_broker_never_takes_blocks_nobody(
    intake: Intake, broker_: Broker, engine: AsyncEngine
) -> None:
    await take(intake, login("a"), login("b"))
    broker_.too_large.add("a")
    await take(intake, tie("u1", "acme"))
    assert broker_.landed == [("b", "acme")]
    assert await waiting(engine) == 0
    async with engine.connect() as conn:
        assert (await conn.execute(select(dead_letters.c.reason))).scalars().all() == ["too_large"]


async def test_without_the_database_only_what_needs_it_is_put_off(broker_: Broker) -> None:
    nowhere = make_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none", timeout_seconds=1)
    intake = Intake(broker_, nowhere, topic="t")
    statuses = await take(intake, login("a"), login("b", account="acme"), tie("u1", "acme"))
    assert statuses == ["unacknowledged", "accepted", "unacknowledged"]
    assert broker_.landed == [("b", "acme")]
    await nowhere.dispose()


async def test_a_broker_that_refuses_for_good_is_told_when_nothing_was_taken(intake: Intake, broker_: Broker) -> None:
    broker_.failure = BrokerError("not authorised")
    with pytest.raises(BrokerError, match="not authorised"):
        await take(intake, login("a", account="acme"))


async def test_ids_are_hashed_before_they_are_stored(broker_: Broker, engine: AsyncEngine) -> None:
    pseudonyms = Pseudonyms(b"0123456789abcdef")
    intake = Intake(broker_, engine, topic="t", pseudonyms=pseudonyms)
    event = Identify(
        event_id="i", account_id=UNPLACED, user_id="u1", timestamp=NOW, traits={"email": "a@b.c", "role": 1}
    )
    await take(intake, login("a"), Item(event_id="i", events=(event,)))
    async with engine.connect() as conn:
        dump = (
            await conn.execute(text("SELECT string_agg(w::text || encode(event, 'escape'), '') FROM waiting_events w"))
        ).scalar_one()
    assert "u1" not in dump
    assert "a@b.c" not in dump
    await take(intake, tie("u1", "acme"))
    async with engine.connect() as conn:
        assert (await conn.execute(select(user_accounts.c.user_id))).scalars().all() == [pseudonyms.of("u1")]
    assert {event.user_id for event in broker_.events} == {pseudonyms.of("u1")}


@asynccontextmanager
async def doors(database: str, broker: Broker, count: int) -> AsyncIterator[list[Intake]]:
    engines = [make_engine(database, pool_size=8) for _ in range(count)]
    try:
        yield [Intake(broker, engine, topic="t") for engine in engines]
    finally:
        for engine in engines:
            await engine.dispose()


async def test_no_event_is_left_behind_when_doors_race(database: str, engine: AsyncEngine, broker_: Broker) -> None:
    """One door makes events wait while another ties their users: without a common lock, an event could look for a
    binding before it is stored and be stored after the look for waiting events."""
    chance = Random(7)
    users = [f"u{number}" for number in range(60)]
    async with doors(database, broker_, 2) as (one, other):

        async def park(user: str) -> None:
            for number in range(4):
                await asyncio.sleep(chance.random() * 0.02)
                await take(chance.choice((one, other)), login(f"{user}-{number}", user=user))

        async def bind(user: str) -> None:
            await asyncio.sleep(chance.random() * 0.06)
            await take(chance.choice((one, other)), tie(user, f"a-{user}"))

        await asyncio.gather(*(task(user) for user in users for task in (park, bind)))
        async with engine.connect() as conn:
            undecided = await conn.execute(
                select(waiting_events.c.event_id).where(waiting_events.c.account_id.is_(None))
            )
            assert undecided.scalars().all() == [], "every user has an account, and yet something waits"
        await one.tidy(NOW)
    assert set(broker_.landed) == {(f"{user}-{number}", f"a-{user}") for user in users for number in range(4)}
    assert await waiting(engine) == 0


async def test_upkeep_releases_what_another_process_left(
    intake: Intake, broker_: Broker, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take(intake, login("a"))

    async def killed(now: datetime) -> list[Any]:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(intake._waiting, "decided", killed)
        await take(intake, tie("u1", "acme"))
    assert broker_.landed == []
    other = asyncio.create_task(Intake(broker_, engine, topic="t").upkeep(lambda: NOW, 0.05))
    async with asyncio.timeout(10):
        while await waiting(engine):  # noqa: ASYNC110 - another task changes the database
            await asyncio.sleep(0.02)
    other.cancel()
    assert broker_.landed == [("a", "acme")]


async def test_through_a_real_broker(intake: Intake, engine: AsyncEngine, broker: Any) -> None:
    broker.create_topic("intake-real", 2)
    producer = Producer(broker.bootstrap)
    try:
        real = Intake(producer, engine, topic="intake-real")
        assert await take(real, login("a", account="acme"), login("b")) == ["accepted", "waiting"]
        assert await take(real, tie("u1", "acme")) == ["accepted"]
        assert await waiting(engine) == 0
    finally:
        await producer.stop()
