"""What the doctor and ``backfill --wait`` ask a broker, on the embedded one and on Apache Kafka."""

from __future__ import annotations

import pytest

from consumers.broker import BrokerUnavailable, Producer
from consumers.broker.survey import survey
from embedded.kafka import EmbeddedKafka
from tests.conftest import TOPIC_PARTITIONS, AnyBroker


async def test_partitions_and_their_ends(any_broker: AnyBroker, topic: str) -> None:
    producer = Producer(any_broker.bootstrap)
    try:
        stored = await producer.send_many(topic, [(f"k{n}".encode(), b"{}", ()) for n in range(40)])
    finally:
        await producer.stop()
    found = await survey(any_broker.bootstrap, [topic, f"{topic}.missing"], timeout_seconds=30)
    assert set(found.topics) == {topic}
    assert found.brokers == 1
    assert found.topics[topic].partitions == TOPIC_PARTITIONS
    assert sum(found.topics[topic].ends.values()) == 40
    assert all(found.topics[topic].ends[partition] > offset for partition, offset in stored)
    # To ask for a topic must not have made it.
    assert set((await survey(any_broker.bootstrap, [f"{topic}.missing"], timeout_seconds=30)).topics) == set()


@pytest.mark.kafka
async def test_retention(kafka: EmbeddedKafka, topic: str) -> None:
    kafka.create_topic(f"{topic}.kept", 2, {"retention.ms": "-1"})
    kafka.create_topic(f"{topic}.short", 2, {"retention.ms": "3600000"})
    found = await survey(kafka.bootstrap, [topic, f"{topic}.kept", f"{topic}.short"], timeout_seconds=30)
    assert {name: seen.retention_ms for name, seen in found.topics.items()} == {
        topic: 7 * 86_400_000, f"{topic}.kept": -1, f"{topic}.short": 3_600_000,
    }  # fmt: skip


async def test_nobody_there() -> None:
    with pytest.raises(BrokerUnavailable):
        await survey("127.0.0.1:1", ["events"], timeout_seconds=5)
