"""What Kizashi needs of a broker, held against the embedded one and a real Apache Kafka through `consumers.broker`."""

import asyncio
import contextlib
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from consumers.broker import (
    BrokerUnavailable,
    Consumer,
    OffsetOutOfRange,
    Partition,
    Producer,
    Record,
    RecordTooLarge,
    TopicMissing,
    ensure_topics,
    read_cluster_id,
)
from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka
from tests.conftest import TOPIC_PARTITIONS, AnyBroker

T = TypeVar("T", Producer, Consumer)

PATIENCE_SECONDS = 30.0
# Short, because the embedded broker lets each rebalance wait for nearly this long.
SESSION_TIMEOUT_MS = 3000
BOUND_SECONDS = 2.0
# Above the bound: a busy machine may wake us late. Below twice the bound: one wait must not hide another.
BOUND_WITH_SLACK = BOUND_SECONDS + 1.5


@pytest.fixture
async def producer(any_broker: AnyBroker) -> AsyncIterator[Producer]:
    async with running(Producer(any_broker.bootstrap, timeout_seconds=10)) as started:
        yield started


@contextlib.asynccontextmanager
async def running(client: T) -> AsyncIterator[T]:
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def all_of(topic: str) -> list[Partition]:
    return [(topic, partition) for partition in range(TOPIC_PARTITIONS)]


async def until(condition: Callable[[], bool], *polled: Consumer) -> None:
    """Polls the consumers, as their owners would, until the condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        for consumer in polled:
            await consumer.getmany(100, 0.05)


def member(broker: AnyBroker, topic: str, group: str) -> Consumer:
    return Consumer(broker.bootstrap, [topic], group=group, timeout_seconds=10, session_timeout_ms=SESSION_TIMEOUT_MS)


async def joined(broker: AnyBroker, topic: str, *, group: str | None = None, offset: int | None = 0) -> Consumer:
    """A started consumer that holds all partitions, positioned at `offset` in each (None: not positioned)."""
    consumer = member(broker, topic, group or uuid.uuid4().hex)
    await consumer.start()
    await until(lambda: len(consumer.assignment) == TOPIC_PARTITIONS and consumer.generation > 0, consumer)
    if offset is not None:
        for partition in all_of(topic):
            assert consumer.seek(*partition, offset)
    return consumer


async def read(consumer: Consumer, count: int) -> list[Record]:
    got: list[Record] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(got) < count:
        assert time.monotonic() < deadline, f"{len(got)} of {count} records came in time"
        for records in (await consumer.getmany(500, 0.2)).values():
            got += records
    return got


async def test_what_was_acknowledged_is_read_back_as_it_was_sent(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    before_ms = int(time.time() * 1000)
    stored = [
        await producer.send(topic, b"acme", json.dumps({"n": n}).encode(), [("source", b"app"), ("n", str(n).encode())])
        for n in range(50)
    ]
    after_ms = int(time.time() * 1000)
    assert len({partition for partition, _ in stored}) == 1
    assert [offset for _, offset in stored] == list(range(50))

    consumer = await joined(any_broker, topic)
    try:
        records = await read(consumer, 50)
    finally:
        await consumer.stop()
    assert [(record.partition, record.offset) for record in records] == stored
    assert [json.loads(record.value or b"")["n"] for record in records] == list(range(50))
    assert {record.key for record in records} == {b"acme"}
    assert records[7].headers == (("source", b"app"), ("n", b"7"))
    assert all(before_ms <= record.timestamp_ms <= after_ms for record in records)


async def test_a_lot_is_acknowledged_in_its_own_order_and_each_key_keeps_its_order(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    lot = [(f"account-{n % 17}".encode(), str(n).encode(), ()) for n in range(2000)]
    stored = await producer.send_many(topic, lot)

    consumer = await joined(any_broker, topic)
    try:
        records = await read(consumer, len(lot))
    finally:
        await consumer.stop()
    by_place = {(record.partition, record.offset): record for record in records}
    assert len(by_place) == len(lot)
    assert [by_place[place].value for place in stored] == [value for _, value, _ in lot]
    for key in {key for key, _, _ in lot}:
        seen = [int(record.value or b"") for record in records if record.key == key]
        assert seen == sorted(seen)


async def test_a_lot_sent_in_order_keeps_the_order_of_each_partition_over_many_batches(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    lot = [(f"account-{n % 3}".encode(), b"%07d" % n + b"." * 200) for n in range(3000)]
    landed = await producer.send_in_order(topic, lot)
    assert sum(part.value_bytes for part in landed) == sum(len(value) for _, value in lot)
    assert len(landed) > len({part.partition for part in landed}), "the lot should need several batches a partition"

    consumer = await joined(any_broker, topic)
    try:
        records = await read(consumer, len(lot))
        ends = await consumer.end_offsets(all_of(topic))
    finally:
        await consumer.stop()
    for partition in {part.partition for part in landed}:
        seen = [record for record in records if record.partition == partition]
        assert [record.offset for record in seen] == list(range(len(seen)))
        numbers = [int((record.value or b"")[:7]) for record in seen]
        assert numbers == sorted(numbers)
        assert max(part.next_offset for part in landed if part.partition == partition) == ends[topic, partition]
    assert len({record.value for record in records}) == len(lot)


async def test_many_concurrent_sends_are_each_stored_once(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    stored = await asyncio.gather(*[producer.send(topic, str(n % 9).encode(), str(n).encode()) for n in range(500)])
    assert len(set(stored)) == 500
    consumer = await joined(any_broker, topic)
    try:
        ends = await consumer.end_offsets(all_of(topic))
    finally:
        await consumer.stop()
    assert sum(ends.values()) == 500


async def test_the_same_key_goes_where_the_java_client_puts_it(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    # Utils.toPositive(Utils.murmur2(key)) % 4, by the hashes that Apache Kafka's own UtilsTest states.
    murmur2 = {b"21": -973932308, b"foobar": -790332482, b"abc": 479470107}
    for key, hashed in murmur2.items():
        partition, _ = await producer.send(topic, key, b"{}")
        assert partition == (hashed & 0x7FFFFFFF) % TOPIC_PARTITIONS


async def test_nothing_comes_before_a_seek_and_then_all_from_there(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    partition, _ = (await producer.send_many(topic, [(b"acme", str(n).encode(), ()) for n in range(20)]))[0]
    group = uuid.uuid4().hex
    first = await joined(any_broker, topic, group=group)
    try:
        await read(first, 20)
        assert await first.commit({(topic, partition): 15})
    finally:
        await first.stop()

    second = await joined(any_broker, topic, group=group, offset=None)
    try:
        for _ in range(3):
            assert await second.getmany(100, 0.2) == {}
        assert second.seek(topic, partition, 12)
        records = await read(second, 8)
        assert [record.offset for record in records] == list(range(12, 20))
        assert second.seek(topic, partition, 18)
        assert [record.offset for record in await read(second, 2)] == [18, 19]
    finally:
        await second.stop()


async def test_at_most_the_asked_number_comes_at_once_and_nothing_is_left_out(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    await producer.send_many(topic, [(str(n).encode(), b"x", ()) for n in range(300)])
    consumer = await joined(any_broker, topic)
    seen: list[tuple[int, int]] = []
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(seen) < 300:
            assert time.monotonic() < deadline
            batch = await consumer.getmany(7, 0.2)
            places = [(record.partition, record.offset) for records in batch.values() for record in records]
            assert len(places) <= 7
            seen += places
    finally:
        await consumer.stop()
    assert len(set(seen)) == 300


async def test_a_paused_partition_is_silent_until_resumed_and_loses_nothing(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    partition, _ = await producer.send(topic, b"acme", b"0")
    consumer = await joined(any_broker, topic)
    try:
        assert len(await read(consumer, 1)) == 1
        consumer.pause([(topic, partition)])
        await producer.send_many(topic, [(b"acme", b"1", ()), (b"acme", b"2", ())])
        for _ in range(3):
            assert await consumer.getmany(100, 0.2) == {}
        consumer.resume([(topic, partition)])
        assert [record.value for record in await read(consumer, 2)] == [b"1", b"2"]
    finally:
        await consumer.stop()


async def test_two_members_share_the_partitions_and_one_takes_over_when_the_other_leaves(
    any_broker: AnyBroker, topic: str
) -> None:
    group = uuid.uuid4().hex
    events: list[tuple[str, int]] = []
    first = Consumer(
        any_broker.bootstrap,
        [topic],
        group=group,
        timeout_seconds=10,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        on_assigned=lambda held: events.append(("assigned", len(held))),
        on_revoked=lambda lost: events.append(("revoked", len(lost))),
    )
    second = member(any_broker, topic, group)
    async with running(first):
        await until(lambda: len(first.assignment) == TOPIC_PARTITIONS, first)
        alone = first.generation
        async with running(second):
            await until(lambda: len(first.assignment) == len(second.assignment) == 2, first, second)
            assert first.assignment | second.assignment == set(all_of(topic))
            # Range: neighbours stay together, so that topics with equal partition counts share an owner per key.
            assert sorted(number for _, number in first.assignment) in ([0, 1], [2, 3])
            assert first.generation > alone
            foreign = next(iter(second.assignment))
            assert not first.seek(*foreign, 0)
        await until(lambda: len(first.assignment) == TOPIC_PARTITIONS, first)
    assert events[0] == ("revoked", 0)
    assert events[1] == ("assigned", TOPIC_PARTITIONS)
    assert ("revoked", TOPIC_PARTITIONS) in events[2:]
    assert events[-1][1] == TOPIC_PARTITIONS


async def test_records_do_not_leak_over_a_rebalance(any_broker: AnyBroker, topic: str, producer: Producer) -> None:
    await producer.send_many(topic, [(str(n).encode(), b"x", ()) for n in range(100)])
    group = uuid.uuid4().hex
    first = await joined(any_broker, topic, group=group)
    try:
        async with running(member(any_broker, topic, group)) as second:
            # Positions given before the rebalance are void after it: its former owner may have moved on.
            await until(lambda: len(first.assignment) == len(second.assignment) == 2, second, first)
            while await first.getmany(500, 0.1):
                pass
            assert await first.getmany(500, 0.3) == {}
            held = next(iter(first.assignment))
            assert first.seek(*held, 0)
            ends = await first.end_offsets([held])
            assert len(await read(first, ends[held])) == ends[held]
    finally:
        await first.stop()


async def test_a_consumer_whose_client_died_inside_joins_anew(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    await producer.send(topic, b"acme", b"x")
    consumer = await joined(any_broker, topic)
    try:
        assert len(await read(consumer, 1)) == 1
        before = consumer.generation
        assert consumer._consumer is not None
        consumer._consumer._fetcher.error_future.cancel()
        await until(lambda: consumer.generation > before and len(consumer.assignment) == TOPIC_PARTITIONS, consumer)
        for partition in all_of(topic):
            assert consumer.seek(*partition, 0)
        assert len(await read(consumer, 1)) == 1
    finally:
        await consumer.stop()


async def test_both_ends_of_a_partition_are_known(any_broker: AnyBroker, topic: str, producer: Producer) -> None:
    partition, _ = (await producer.send_many(topic, [(b"acme", b"x", ())] * 9))[0]
    consumer = await joined(any_broker, topic, offset=None)
    try:
        ends = await consumer.end_offsets(all_of(topic))
        starts = await consumer.beginning_offsets(all_of(topic))
    finally:
        await consumer.stop()
    assert ends == {place: 9 if place[1] == partition else 0 for place in all_of(topic)}
    assert starts == dict.fromkeys(all_of(topic), 0)


async def test_an_offset_that_the_log_does_not_hold_is_said_and_stops_that_partition_only(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    lost, _ = await producer.send(topic, b"acme", b"x")
    other = (lost + 1) % TOPIC_PARTITIONS
    consumer = await joined(any_broker, topic)
    try:
        await read(consumer, 1)
        assert consumer.seek(topic, lost, 1000)
        with pytest.raises(OffsetOutOfRange) as caught:
            await until(lambda: False, consumer)
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == (topic, lost, 1000)
        while (await producer.send(topic, uuid.uuid4().hex.encode(), b"y"))[0] != other:
            pass
        seen: set[int] = set()
        while other not in seen:
            seen |= {record.partition for record in await read(consumer, 1)}
        assert lost not in seen
    finally:
        await consumer.stop()


async def test_the_topic_and_its_cluster_can_be_told_apart(any_broker: AnyBroker, topic: str) -> None:
    consumer = await joined(any_broker, topic, offset=None)
    try:
        marks = await consumer.topic_marks()
        assert await consumer.partition_count(topic) == TOPIC_PARTITIONS
        assert await consumer.cluster_id() == await read_cluster_id(any_broker.bootstrap)
        assert set(marks) == {topic}
        assert marks[topic].partitions in {TOPIC_PARTITIONS, None}
        with pytest.raises(TopicMissing):
            await consumer.partition_count("no.such.topic")
    finally:
        await consumer.stop()


async def _seen(broker: EmbeddedBroker | EmbeddedKafka, topic: str) -> Consumer | None:
    """None while a broker that just deleted a topic of this name has not told everybody of the new one."""
    try:
        return await joined(broker, topic, offset=None)
    except TopicMissing:
        return None


async def test_a_topic_made_anew_has_another_id(any_broker: EmbeddedBroker | EmbeddedKafka) -> None:
    name = f"test.{uuid.uuid4().hex}"
    ids: list[str | None] = []
    for _ in range(2):
        any_broker.create_topic(name, TOPIC_PARTITIONS)
        async with asyncio.timeout(30):
            while (consumer := await _seen(any_broker, name)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        ids.append((await consumer.topic_marks())[name].id)
        await consumer.stop()
        any_broker.delete_topic(name)
    assert None not in ids
    assert ids[0] != ids[1]


async def test_a_missing_topic_is_named(any_broker: AnyBroker) -> None:
    name = f"missing.{uuid.uuid4().hex}"
    consumer = Consumer(any_broker.bootstrap, [name], group="any", timeout_seconds=10)
    with pytest.raises(TopicMissing, match=name):
        await consumer.start()


async def test_a_record_too_large_is_refused_and_the_next_one_goes_through(
    any_broker: AnyBroker, topic: str, producer: Producer
) -> None:
    with pytest.raises(RecordTooLarge):
        await producer.send(topic, b"acme", bytes(2_000_000))
    assert await producer.send(topic, b"acme", b"small") is not None


async def test_existing_topics_are_left_as_they_are(any_broker: AnyBroker, topic: str) -> None:
    assert await ensure_topics(any_broker.bootstrap, {topic: 99}) == {topic: TOPIC_PARTITIONS}


async def test_missing_topics_are_made_where_the_broker_knows_how(any_broker: AnyBroker) -> None:
    name = f"made.{uuid.uuid4().hex}"
    if isinstance(any_broker, EmbeddedBroker):
        with pytest.raises(TopicMissing, match=name):
            await ensure_topics(any_broker.bootstrap, {name: 3})
        return
    assert await ensure_topics(any_broker.bootstrap, {name: 3}, config={"retention.ms": "60000"}) == {name: 3}
    assert await ensure_topics(any_broker.bootstrap, {name: 3}) == {name: 3}


# From here on brokers are stopped, stalled and killed, so each test has one of its own.


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.kafka)])
def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedBroker | EmbeddedKafka]:
    server: EmbeddedBroker | EmbeddedKafka
    if request.param == "embedded":
        server = EmbeddedBroker()
    else:
        request.getfixturevalue("kafka")
        server = EmbeddedKafka(tmp_path / "own")
    with server:
        server.create_topic("events", TOPIC_PARTITIONS)
        yield server


async def fails_within_the_bound(attempt: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        await attempt()  # type: ignore[misc]
    assert time.monotonic() - began < BOUND_WITH_SLACK


async def test_a_broker_that_went_away_is_said_within_the_bound(own_broker: EmbeddedBroker | EmbeddedKafka) -> None:
    producer = Producer(own_broker.bootstrap, timeout_seconds=BOUND_SECONDS)
    consumer = Consumer(own_broker.bootstrap, ["events"], group="any", timeout_seconds=BOUND_SECONDS)
    await producer.start()
    await consumer.start()
    try:
        await producer.send("events", b"acme", b"before")
        own_broker.kill()
        for _ in range(5):
            await fails_within_the_bound(lambda: producer.send("events", b"acme", b"lost"))
        await fails_within_the_bound(lambda: consumer.end_offsets(all_of("events")))
        began = time.monotonic()
        assert await consumer.getmany(10, 0.2) == {}
        assert time.monotonic() - began < BOUND_WITH_SLACK
        newcomer = Consumer(own_broker.bootstrap, ["events"], group="any", timeout_seconds=BOUND_SECONDS)
        await fails_within_the_bound(newcomer.start)
    finally:
        began = time.monotonic()
        await consumer.stop()
        await producer.stop()
        assert time.monotonic() - began < PATIENCE_SECONDS


async def test_a_broker_that_hangs_is_said_within_the_bound_and_used_again_when_it_answers(
    own_broker: EmbeddedBroker | EmbeddedKafka,
) -> None:
    producer = Producer(own_broker.bootstrap, timeout_seconds=BOUND_SECONDS)
    await producer.start()
    try:
        await producer.send("events", b"acme", b"before")
        own_broker.signal(signal.SIGSTOP)
        try:
            for _ in range(4):
                await fails_within_the_bound(lambda: producer.send("events", b"acme", b"late"))
        finally:
            own_broker.signal(signal.SIGCONT)
        await sends_again(producer)
    finally:
        await producer.stop()


async def sends_again(producer: Producer) -> tuple[int, int]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await producer.send("events", b"acme", b"after")
        except BrokerUnavailable:
            assert time.monotonic() < deadline, "the producer did not recover in time"
            await asyncio.sleep(0.1)


async def test_a_producer_may_be_made_while_the_broker_is_away() -> None:
    producer = Producer("127.0.0.1:1", timeout_seconds=BOUND_SECONDS)
    await fails_within_the_bound(producer.start)
    await fails_within_the_bound(lambda: producer.send("events", b"acme", b"x"))
    await producer.stop()


@pytest.mark.kafka
async def test_a_killed_broker_keeps_what_it_acknowledged(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "own") as own:
        own.create_topic("events", TOPIC_PARTITIONS)
        port, cluster = own.port, await read_cluster_id(own.bootstrap)
        producer = Producer(own.bootstrap, timeout_seconds=BOUND_SECONDS)
        consumer = Consumer(own.bootstrap, ["events"], group="any", timeout_seconds=BOUND_SECONDS)
        await consumer.start()
        try:
            acknowledged = {await producer.send("events", str(n).encode(), b"before") for n in range(40)}
            own.kill()
            with pytest.raises(BrokerUnavailable):
                await producer.send("events", b"acme", b"lost")
            await asyncio.to_thread(own.start)
            assert own.port == port
            assert await read_cluster_id(own.bootstrap, timeout_seconds=10) == cluster
            acknowledged.add(await sends_again(producer))

            await until(lambda: len(consumer.assignment) == TOPIC_PARTITIONS, consumer)
            for partition in all_of("events"):
                assert consumer.seek(*partition, 0)
            seen: set[tuple[int, int]] = set()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not acknowledged <= seen:
                assert time.monotonic() < deadline, f"missing: {acknowledged - seen}"
                for records in (await consumer.getmany(500, 0.2)).values():
                    seen |= {(record.partition, record.offset) for record in records}
        finally:
            await consumer.stop()
            await producer.stop()


async def test_an_embedded_broker_says_that_its_log_is_a_new_one() -> None:
    server = EmbeddedBroker({"events": TOPIC_PARTITIONS})
    seen = set()
    for _ in range(3):
        with server:
            seen.add(server.incarnation)
            async with running(Producer(server.bootstrap)) as producer:
                assert (await producer.send("events", b"acme", b"x"))[1] == 0
    assert len(seen) == 3
