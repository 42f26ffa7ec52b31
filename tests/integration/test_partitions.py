"""Partitions that stop: over poison, and over logs that are not the one that was read. Loudly, and never skipped."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.structs import TopicPartition
from prometheus_client import REGISTRY
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import progress
from consumers.broker import Producer
from consumers.events import Event, Login, encode
from consumers.loop import Pace, Status
from consumers.poison import POISON, PoisonLimits
from consumers.relay import relay_group
from consumers.tables import dead_letters, stream_offsets
from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka
from health.tables import accounts, gaps, touched
from service.clock import utc_now
from service.partitions import CannotRelease, partitions, release
from tests.api import Api, api
from tests.conftest import TOPIC_PARTITIONS, AnyBroker
from tests.integration.test_consumers_end_to_end import consuming, options, produce, until

FEW = PoisonLimits(in_a_row=5)
TOTAL = select(func.sum(accounts.c.events))
LETTERS = select(func.count()).select_from(dead_letters)
STOPPED = select(func.count(stream_offsets.c.stopped_reason))
ACCOUNT = "acme"
"""All events are of one account, so of one partition."""


def logins(first: int, count: int) -> list[Event]:
    at = utc_now() - timedelta(hours=1)
    return [Login(event_id=f"e{n}", account_id=ACCOUNT, timestamp=at) for n in range(first, first + count)]


async def produce_bad(broker: AnyBroker, topic: str, count: int) -> None:
    producer = Producer(broker.bootstrap)
    try:
        await producer.send_many(topic, [(ACCOUNT.encode(), b"{", ()) for _ in range(count)])
    finally:
        await producer.stop()


def service_of(engine: AsyncEngine, broker: AnyBroker, topic: str) -> contextlib.AbstractAsyncContextManager[Api]:
    settings: dict[str, Any] = {
        "kafka_bootstrap": broker.bootstrap, "events_topics": [topic], "consumer_group": f"g-{topic}",
        "broker_incarnation": broker.incarnation if isinstance(broker, EmbeddedBroker) else None,
    }  # fmt: skip
    return api(engine, **settings)


async def stopped_place(engine: AsyncEngine) -> tuple[str, int, str, int]:
    query = select(stream_offsets).where(stream_offsets.c.stopped_reason.is_not(None))
    async with engine.connect() as conn:
        row = (await conn.execute(query)).one()
    return row.topic, row.partition, row.stopped_reason, row.next_offset


async def applied(engine: AsyncEngine) -> int:
    async with engine.connect() as conn:
        return await conn.scalar(TOTAL) or 0


async def gap_count(engine: AsyncEngine) -> int:
    async with engine.connect() as conn:
        return await conn.scalar(select(func.count()).select_from(gaps).where(gaps.c.state == "lost")) or 0


async def test_poison_stops_its_partition_and_a_release_goes_on_where_it_stood(
    any_broker: AnyBroker, topic: str, engine: AsyncEngine
) -> None:
    status = Status()
    pace = Pace(live_records=20)
    async with (
        consuming(engine, options(any_broker, topic, poison=FEW, pace=pace), status) as task,
        service_of(engine, any_broker, topic) as service,
    ):
        await produce(any_broker, topic, logins(0, 3))
        await until(engine, TOTAL, 3, task)
        await produce_bad(any_broker, topic, 5)
        await until(engine, STOPPED, 1, task)
        name, number, reason, stands_at = await stopped_place(engine)
        assert (reason, stands_at) == ("poison: 5 records in a row became dead letters", 8)
        await produce(any_broker, topic, logins(3, 4))  # these wait
        await asyncio.sleep(2.5)
        assert status.problems() == [f"{topic}[{number}] is stopped: {reason}"]
        labels = {"topic": topic, "partition": str(number)}
        assert REGISTRY.get_sample_value("kizashi_partition_stopped", labels) == 1
        assert REGISTRY.get_sample_value("kizashi_consumer_lag_records", labels) == 4
        ready = (await service.get("/readyz")).json()["checks"]["consumers"]
        assert f"stopped partitions: {topic}/{number}: {reason}" in ready
        async with engine.connect() as conn:
            assert await conn.scalar(LETTERS) == 5
            assert await conn.scalar(TOTAL) == 3
        listed = (await service.get("/api/v1/partitions")).json()["items"]
        assert len(listed) == TOPIC_PARTITIONS
        (item,) = [each for each in listed if each["stopped_reason"]]
        assert (item["next_offset"], item["log_end"], item["lag"], item["poisoned"]) == (8, 12, 4, True)
        answer = await service.post(f"/api/v1/partitions/{name}/{number}/release")
        assert answer.status_code == 200, answer.text
        await until(engine, TOTAL, 7, task)
        assert status.problems() == []
        again = await service.post(f"/api/v1/partitions/{name}/{number}/release")
        assert again.status_code == 409
    assert await gap_count(engine) == 0, "nothing was skipped"


async def test_poison_stays_stopped_over_a_restart_and_may_be_skipped_with_a_gap(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    chosen = options(broker, topic, poison=FEW)
    async with consuming(engine, chosen) as task:
        await produce_bad(broker, topic, 6)
        await until(engine, STOPPED, 1, task)
    await produce(broker, topic, logins(0, 4))
    status = Status()
    async with consuming(engine, chosen, status) as task, service_of(engine, broker, topic) as service:
        async with asyncio.timeout(15):
            while not status.stopped:  # noqa: ASYNC110  the status is plain data
                await asyncio.sleep(0.05)
        name, number, _, _ = await stopped_place(engine)
        path = f"/api/v1/partitions/{name}/{number}/release"
        beyond = await service.post(path, {"go_on_at": 11})
        assert beyond.status_code == 409
        assert "ends at 10" in beyond.json()["detail"]
        assert (await service.post(path, {"go_on_at": 9})).status_code == 200
        await until(engine, TOTAL, 1, task)
        async with engine.connect() as conn:
            gap = (await conn.execute(select(gaps))).one()
            everybody = await conn.scalar(select(func.count(touched.c.everyone_since)))
            known = await conn.scalar(select(func.count()).select_from(dead_letters))
    assert gap.state == "lost"
    assert "was released to go on at 9 (poison: 6 records in a row" in gap.reason
    assert gap.source is None
    assert (everybody, known) == (1, 6)


async def test_a_few_bad_records_among_many_stop_nothing(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    async with consuming(engine, options(broker, topic)) as task:
        await produce_bad(broker, topic, 60)
        await until(engine, LETTERS, 60, task)
        await produce(broker, topic, logins(0, 50))
        await until(engine, TOTAL, 50, task)
        async with engine.connect() as conn:
            assert await conn.scalar(STOPPED) == 0


async def test_absence_is_not_believed_while_a_partition_is_stopped(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    async with consuming(engine, options(broker, topic, poison=FEW)) as task:
        await until(engine, select(func.count(stream_offsets.c.complete_through)), TOPIC_PARTITIONS, task)
        await produce_bad(broker, topic, 5)
        await until(engine, STOPPED, 1, task)
        async with engine.connect() as conn:
            before = (await progress.read(conn, f"g-{topic}", [topic])).complete_through
        await asyncio.sleep(2.5)
        async with engine.connect() as conn:
            found = await progress.read(conn, f"g-{topic}", [topic])
        assert found.complete_through == before, "the others go on, and the least of all counts"
        assert found.heard_at is not None
        assert before is not None
        assert found.heard_at > before + timedelta(seconds=1)
        async with service_of(engine, broker, topic) as service:
            service.now = before + timedelta(minutes=3)
            ready = (await service.get("/readyz")).json()["checks"]["consumers"]
            assert f"absence is not believed since {before.isoformat()}" in ready


async def test_a_stopped_partition_of_the_relay_is_seen_held_and_released(
    broker: EmbeddedBroker, topic: str, engine: AsyncEngine
) -> None:
    foreign = f"foreign.{topic}"
    broker.create_topic(foreign, 1)
    await produce(broker, foreign, logins(0, 3))
    async with service_of(engine, broker, topic) as service:
        group, now = f"g-{topic}", service.now
        common = {"updated_at": now, "complete_through": now, "cluster_id": f"volatile:{broker.incarnation}"}
        async with engine.begin() as conn:
            for number in range(TOPIC_PARTITIONS):
                mine = {"group_id": group, "topic": topic, "partition": number, "next_offset": 0, **common}
                await conn.execute(insert(stream_offsets).values(mine))
            long_ago = now - timedelta(hours=1)
            relayed = {**common, "complete_through": long_ago, "stopped_reason": f"{POISON}much", "next_offset": 2}
            place = {"group_id": relay_group(group), "topic": foreign, "partition": 0}
            await conn.execute(insert(stream_offsets).values({**place, **relayed}))
            assert (await progress.read(conn, group, [topic])).complete_through == long_ago
        assert f"{foreign}/0: poison: much" in (await service.get("/readyz")).json()["checks"]["consumers"]
        (item,) = [each for each in (await partitions(service.deps)).items if each.topic == foreign]
        assert (item.group, item.lag, item.poisoned) == (relay_group(group), 1, True)
        assert (await service.post(f"/api/v1/partitions/{foreign}/0/release")).status_code == 200
        async with engine.connect() as conn:
            assert (await progress.read(conn, group, [topic])).complete_through == now


async def test_a_topic_made_anew_while_it_is_read_stops_and_is_begun_from_its_start(
    any_broker: EmbeddedBroker | EmbeddedKafka, topic: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.loop.TOPICS_SECONDS", 1.0)
    status = Status()
    async with (
        consuming(engine, options(any_broker, topic), status) as task,
        service_of(engine, any_broker, topic) as service,
    ):
        await produce(any_broker, topic, logins(0, 5))
        await until(engine, TOTAL, 5, task)
        any_broker.delete_topic(topic)
        any_broker.create_topic(topic, TOPIC_PARTITIONS)
        await produce(any_broker, topic, logins(5, 9))
        row = select(stream_offsets.c.stopped_reason).where(stream_offsets.c.next_offset > 0)
        async with asyncio.timeout(60):
            while not any(place[0] == topic for place in status.stopped):
                assert not task.done(), task
                await asyncio.sleep(0.1)
        async with engine.connect() as conn:
            reasons = (await conn.scalars(row)).all()
        assert [reason is not None for reason in reasons] == [True]
        released = 0
        async with asyncio.timeout(60):
            while await applied(engine) < 14:  # one is noticed by its reading, the others a moment later
                assert not task.done(), task
                for item in (await partitions(service.deps)).items:
                    if not item.stopped_reason:
                        continue
                    assert not item.poisoned
                    place = (item.topic, item.partition)
                    with pytest.raises(CannotRelease, match="cannot go on where it stands"):
                        await release(service.deps, place, "here", actor="test", now=utc_now())
                    await release(service.deps, place, "start", actor="test", now=utc_now())
                    released += 1
                await asyncio.sleep(0.1)
        await until(engine, STOPPED, 0, task)
        async with asyncio.timeout(15):
            while status.stopped:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert await gap_count(engine) == released


@pytest.mark.kafka
async def test_what_retention_takes_unread_stops_the_partition_while_running_and_at_start(
    kafka: EmbeddedKafka, topic: str, engine: AsyncEngine
) -> None:
    chosen = options(kafka, topic, poison=FEW)
    async with consuming(engine, chosen) as task:
        await produce(kafka, topic, logins(0, 5))
        await until(engine, TOTAL, 5, task)
    await produce(kafka, topic, logins(5, 5))
    async with engine.connect() as conn:
        number = await conn.scalar(select(stream_offsets.c.partition).where(stream_offsets.c.next_offset == 5))
    assert number is not None
    await take_away(kafka, topic, number, before=8)
    status = Status()
    async with consuming(engine, chosen, status) as task, service_of(engine, kafka, topic) as service:
        await until(engine, STOPPED, 1, task)
        assert "the log starts at 8: 3 offsets were lost unread" in "".join(status.problems())
        await release(service.deps, (topic, number), "start", actor="test", now=utc_now())
        await until(engine, TOTAL, 7, task)
    assert await gap_count(engine) == 1


async def take_away(kafka: EmbeddedKafka, topic: str, number: int, *, before: int) -> None:
    """As retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, number): RecordsToDelete(before_offset=before)})
    finally:
        await admin.close()


@pytest.mark.kafka
async def test_partitions_that_are_added_are_read_from_their_start(
    kafka: EmbeddedKafka, topic: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.loop.TOPICS_SECONDS", 1.0)
    async with consuming(engine, options(kafka, topic)) as task:
        await until(engine, select(func.count(stream_offsets.c.complete_through)), TOPIC_PARTITIONS, task)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.create_partitions({topic: NewPartitions(total_count=TOPIC_PARTITIONS + 1)})
        await admin.close()
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
        await producer.start()
        for event in logins(0, 3):
            await producer.send_and_wait(topic, encode(event), key=b"acme", partition=TOPIC_PARTITIONS)
        await producer.stop()
        await until(engine, TOTAL, 3, task)
        await until(engine, select(func.count(stream_offsets.c.complete_through)), TOPIC_PARTITIONS + 1, task)


@pytest.mark.kafka
async def test_what_an_aborted_transaction_wrote_did_not_happen_and_is_no_lag(
    kafka: EmbeddedKafka, topic: str, engine: AsyncEngine
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"t-{topic}")
    await producer.start()
    first, second, third = logins(0, 3)
    with contextlib.suppress(RuntimeError):
        async with producer.transaction():
            await producer.send_and_wait(topic, encode(first), key=b"acme", partition=1)
            raise RuntimeError("aborts it")
    async with producer.transaction():
        await producer.send_and_wait(topic, encode(second), key=b"acme", partition=1)
    reached = select(stream_offsets.c.next_offset).where(stream_offsets.c.partition == 1)
    async with consuming(engine, options(kafka, topic, pace=Pace(stuck_seconds=2.0))) as task:
        await until(engine, reached, 4, task)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, encode(third), key=b"acme", partition=1)
        await asyncio.sleep(4)
        assert not task.done(), "a transaction under way is not stuck"
        async with engine.connect() as conn:
            assert await conn.scalar(TOTAL) == 1
        await producer.commit_transaction()
        await until(engine, reached, 6, task)
        await until(engine, TOTAL, 2, task)
    await producer.stop()
