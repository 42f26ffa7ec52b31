"""What a broker says of itself and of its topics, for operators' checks.

Looks only: asks for no topic by a name that it may not have, since some brokers make a topic that is merely named.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from consumers.broker.common import DEFAULT_TIMEOUT_SECONDS, STOP_SECONDS, BrokerUnavailable
from consumers.broker.metadata import read_topic_marks

RETENTION_SECONDS: Final = 1.5


@dataclass(frozen=True, kw_only=True)
class TopicSurvey:
    """Per partition: ``ends``, the offset that the next record gets, transactions under way aside; ``starts``, the
    first one still held. ``retention_ms``: None where the broker does not say, -1 for ever. ``topic_id``: None where it
    gives none."""

    ends: Mapping[int, int]
    retention_ms: int | None
    starts: Mapping[int, int] = field(default_factory=dict)
    topic_id: str | None = None

    @property
    def partitions(self) -> int:
        return len(self.ends)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A cluster and those of the topics asked for that exist."""

    cluster_id: str | None
    brokers: int
    topics: Mapping[str, TopicSurvey]


async def survey(bootstrap: str, topics: Sequence[str], *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Survey:
    """Raises BrokerUnavailable."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _survey(bootstrap, topics, timeout_seconds)
    except TimeoutError:
        raise BrokerUnavailable(f"no answer from {bootstrap} within {timeout_seconds:g} s") from None
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"{bootstrap}: {type(error).__name__}: {error}") from None


async def _survey(bootstrap: str, topics: Sequence[str], timeout_seconds: float) -> Survey:
    milliseconds = int(timeout_seconds * 1000)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=milliseconds)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, request_timeout_ms=milliseconds, isolation_level="read_committed"
    )
    try:
        await admin.start()
        await consumer.start()
        cluster = await admin.describe_cluster()
        partitions = {
            topic["topic"]: sorted(part["partition"] for part in topic["partitions"])
            for topic in await admin.describe_topics()
            if topic["topic"] in topics
        }
        places = [TopicPartition(topic, number) for topic, numbers in partitions.items() for number in numbers]
        ends = await consumer.end_offsets(places) if places else {}
        starts = await consumer.beginning_offsets(places) if places else {}
        marks = await read_topic_marks(consumer._client, list(partitions)) if places else {}
        retentions = {topic: await _retention(admin, topic) for topic in partitions}
    finally:
        for client in (admin.close, consumer.stop):
            with contextlib.suppress(TimeoutError, KafkaError, OSError):
                async with asyncio.timeout(STOP_SECONDS):
                    await client()
    return Survey(
        cluster_id=cluster.get("cluster_id"),
        brokers=len(cluster["brokers"]),
        topics={
            topic: TopicSurvey(
                ends={number: ends[TopicPartition(topic, number)] for number in numbers},
                retention_ms=retentions[topic],
                starts={number: starts[TopicPartition(topic, number)] for number in numbers},
                topic_id=marks[topic].id,
            )
            for topic, numbers in partitions.items()
        },
    )


async def _retention(admin: AIOKafkaAdminClient, topic: str) -> int | None:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": None})
    try:
        # The embedded broker does not know the question and leaves it unanswered.
        async with asyncio.timeout(RETENTION_SECONDS):
            answers = await admin.describe_configs([resource])
    except (TimeoutError, KafkaError, NotImplementedError):
        return None
    for answer in answers:
        for code, _, _, _, entries in answer.resources:
            for name, value, *_ in entries if code == 0 else ():
                if name == "retention.ms" and value is not None:
                    return int(value)
    return None
