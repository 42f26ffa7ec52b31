"""The relay: foreign topics become events in ours, each once, and what cannot be translated keeps its bytes."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import BrokerUnavailable, Producer, Record
from consumers.events import Event, Login, decode, encode
from consumers.formats.canonical import Limits
from consumers.intake import Intake
from consumers.loop import Status
from consumers.relay import Options, relay_group, run_relay, translated
from consumers.sources import Sources, Topic
from consumers.store import Store
from consumers.tables import dead_letters, stream_offsets, waiting_events
from embedded.broker import EmbeddedBroker
from service.clock import utc_now
from tests.conftest import AnyBroker

PATIENCE = 30.0
AT = datetime(2026, 5, 1, 9, tzinfo=UTC)
Sent = tuple[bytes | None, Sequence[tuple[str, bytes]]]


class Landing:
    """Stands for the events topic: keeps what was acknowledged, and can be away."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.away = False

    async def send_many(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes, Sequence[tuple[str, bytes]]]]
    ) -> list[tuple[int, int]]:
        if self.away:
            raise BrokerUnavailable("away")
        found = [decode(value) for _, value, _ in records]
        self.events += found
        return [(0, 0)] * len(found)

    @property
    def ids(self) -> list[str]:
        return sorted(event.event_id for event in self.events)


@pytest.fixture
def landing() -> Landing:
    return Landing()


def options(broker: AnyBroker, *topics: Topic, group: str) -> Options:
    embedded = isinstance(broker, EmbeddedBroker)
    return Options(
        bootstrap=broker.bootstrap,
        sources=Sources(topics=topics),
        group=group,
        broker_incarnation=broker.incarnation if isinstance(broker, EmbeddedBroker) else None,
        session_timeout_ms=2_000 if embedded else 10_000,
    )


@asynccontextmanager
async def relaying(
    engine: AsyncEngine, landing: Landing, chosen: Options, status: Status | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    intake = Intake(landing, engine, topic="events", door="relay")
    task = asyncio.create_task(run_relay(engine, intake, chosen, stop, utc_now, status))
    try:
        yield task
    finally:
        stop.set()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)


async def relayed(engine: AsyncEngine, chosen: Options, wanted: int, task: asyncio.Task[None]) -> None:
    total = select(func.coalesce(func.sum(stream_offsets.c.records), 0)).where(
        stream_offsets.c.group_id == relay_group(chosen.group)
    )
    async with asyncio.timeout(PATIENCE):
        while True:
            async with engine.connect() as conn:
                if (found := (await conn.execute(total)).scalar_one()) == wanted:
                    return
            if task.done():
                task.result()
                pytest.fail(f"the relay ended after {found} of {wanted}")
            await asyncio.sleep(0.05)


async def produce(broker: AnyBroker, topic: str, sent: Sequence[Sent]) -> None:
    producer = Producer(broker.bootstrap)
    try:
        await producer.send_many(topic, [(None, value or b"", headers) for value, headers in sent])
    finally:
        await producer.stop()


def track(number: int, **fields: Any) -> bytes:
    event = {
        "type": "track", "event": "Signed In", "messageId": f"s{number}", "userId": "u1", "timestamp": AT.isoformat(),
        "context": {"groupId": "acme"}, **fields,
    }  # fmt: skip
    return json.dumps(event).encode()


CLICKHOUSE = json.dumps({
    "uuid": "p1", "event": "exported", "distinct_id": "u1", "timestamp": "2026-05-01 09:00:00.000000",
    "properties": json.dumps({"$groups": {"company": "acme"}}),
}).encode()  # fmt: skip
STRUCTURED = json.dumps({
    "specversion": "1.0", "id": "1", "source": "/app", "type": "kizashi.login", "subject": "acme",
    "time": AT.isoformat(), "data": {"user_id": "u1"},
}).encode()  # fmt: skip
CE_HEADERS = [
    ("ce_specversion", b"1.0"), ("ce_id", b"2"), ("ce_source", b"/app"), ("ce_type", b"kizashi.login"),
    ("ce_subject", "100% アクメ".encode()), ("ce_time", AT.isoformat().encode()), ("content-type", b"application/json"),
]  # fmt: skip


async def test_every_format_becomes_events_and_the_rest_dead_letters(
    any_broker: AnyBroker, topic: str, engine: AsyncEngine, landing: Landing
) -> None:
    chosen = options(any_broker, Topic(topic=topic, source="mixed"), group=f"g-{topic}")
    ours = encode(Login(event_id="c1", account_id="acme", timestamp=AT, source="app"))
    batch = json.dumps({"batch": [json.loads(track(2)), json.loads(track(3, event=None)), 7], "sentAt": AT.isoformat()})
    bad = [b"\xff\xfe", b'{"hello": "world"}', b'{"kind": "login", "event_id": "x"}']
    sent: list[Sent] = [
        (track(1), ()), (CLICKHOUSE, ()), (STRUCTURED, [("content-type", b"application/cloudevents+json")]),
        (b'{"user_id": "u1"}', CE_HEADERS), (ours, ()), (batch.encode(), ()), *((value, ()) for value in bad),
        (track(9, context={}), ()), (track(8, messageId=None), ()),
    ]  # fmt: skip
    await produce(any_broker, topic, sent)
    status = Status()
    async with relaying(engine, landing, chosen, status) as task:
        await relayed(engine, chosen, len(sent), task)
        assert [problem for problem in status.problems() if "stopped" in problem] == []
    [derived] = [event_id for event_id in landing.ids if event_id.startswith(topic)]
    assert landing.ids == sorted(["s1", "p1", "/app#1", "/app#2", "c1", "s2", derived])
    by_id = {event.event_id: event for event in landing.events}
    assert by_id["/app#2"].account_id == "100% アクメ", "headers in Kafka are not percent-encoded"
    assert (by_id["c1"].source, by_id["s1"].source) == ("app", "mixed")
    assert derived.count("/") == 2, "topic, partition, offset"
    assert {event.timestamp for event in landing.events} == {AT}
    async with engine.connect() as conn:
        letters = (await conn.execute(select(dead_letters).where(dead_letters.c.topic == topic))).all()
        parked = (await conn.execute(select(waiting_events.c.event_id))).scalars().all()
    assert sorted(letter.value for letter in letters) == sorted([*bad, batch.encode()])
    assert parked == ["s9"]
    [of_batch] = [letter for letter in letters if letter.value == batch.encode()]
    assert [fault["field"] for fault in of_batch.errors] == ["[1].event", "[2]"]


async def test_a_broker_that_is_away_loses_nothing(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine, landing: Landing
) -> None:
    chosen = options(broker, Topic(topic=topic, source="s", format="segment"), group=f"g-{topic}")
    await produce(broker, topic, [(track(number), ()) for number in range(20)])
    landing.away = True
    status = Status()
    async with relaying(engine, landing, chosen, status) as task:
        async with asyncio.timeout(PATIENCE):
            while status.waits is None:  # noqa: ASYNC110 - another task sets it
                await asyncio.sleep(0.05)
        assert "the events topic is away" in status.problems()
        landing.away = False
        await relayed(engine, chosen, 20, task)
    assert set(landing.ids) == {f"s{number}" for number in range(20)}


async def test_a_crash_before_the_offsets_move_repeats_the_same_ids(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine, landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(broker, Topic(topic=topic, source="s", format="segment"), group=f"g-{topic}")
    await produce(broker, topic, [(track(number, messageId=None), ()) for number in range(10)])

    class Killed(Exception):
        pass

    async def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", killed)
        with pytest.raises(Killed):
            async with relaying(engine, landing, chosen) as task:
                await relayed(engine, chosen, 10, task)
    before = set(landing.ids)
    assert before
    async with relaying(engine, landing, chosen) as task:
        await relayed(engine, chosen, 10, task)
    assert len(set(landing.ids)) == 10
    assert before <= set(landing.ids), "the same ids again, which dedup knows"
    assert len(landing.events) == 10 + len(before)


def test_a_topic_made_anew_repeats_no_ids() -> None:
    chosen = Topic(topic="t", source="s", format="segment")

    def id_of(timestamp_ms: int) -> str | None:
        record = Record("t", 3, 17, timestamp_ms, None, track(1, messageId=None), ())
        [item] = translated(record, chosen, Sources(), AT + timedelta(days=9), Limits())
        return item.event_id

    assert id_of(1_777_626_000_000) == id_of(1_777_626_000_000)
    assert id_of(1_777_626_000_000) != id_of(1_777_626_000_001)


async def test_the_arrival_is_that_of_the_record(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine, landing: Landing
) -> None:
    """So that an erasure also holds for what waited in a foreign topic."""
    chosen = options(broker, Topic(topic=topic, source="s"), group=f"g-{topic}")
    await produce(broker, topic, [(track(1), ())])
    produced = utc_now()
    await asyncio.sleep(1.5)
    async with relaying(engine, landing, chosen) as task:
        await relayed(engine, chosen, 1, task)
    [event] = landing.events
    assert event.received_at is not None
    assert abs(event.received_at - produced) < timedelta(seconds=1)


async def test_a_log_in_doubt_stops_the_relay_loudly(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine, landing: Landing
) -> None:
    chosen = options(broker, Topic(topic=topic, source="s"), group=f"g-{uuid.uuid4().hex}")
    await produce(broker, topic, [(track(1), ())])
    async with relaying(engine, landing, chosen) as task:
        await relayed(engine, chosen, 1, task)
    async with engine.begin() as conn:
        await conn.execute(
            stream_offsets.update()
            .where(stream_offsets.c.group_id == relay_group(chosen.group))
            .values(next_offset=999)
        )
    status = Status()
    async with relaying(engine, landing, chosen, status), asyncio.timeout(PATIENCE):
        while not any("truncated" in problem for problem in status.problems()):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
