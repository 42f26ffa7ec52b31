"""The cluster and its topics: which it is, and making the topics that are missing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from consumers.broker.common import DEFAULT_TIMEOUT_SECONDS, STOP_SECONDS, TopicMissing, bounded

REPLICAS_WANTED = 3
MAKE_TOPICS = "run `kizashi migrate`, which makes the topics"


async def read_cluster_id(bootstrap: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> str | None:
    """Raises BrokerUnavailable."""
    async with _admin(bootstrap, timeout_seconds) as admin, bounded(timeout_seconds, "describe cluster"):
        cluster_id: str | None = (await admin.describe_cluster()).get("cluster_id")
        return cluster_id


async def ensure_topics(
    bootstrap: str,
    topics: Mapping[str, int],
    *,
    config: Mapping[str, str] | None = None,
    timeout_seconds: float = 30.0,
) -> dict[str, int]:
    """Makes those that are missing, with the given number of partitions, and returns the number each has now.

    Existing topics are left as they are: compare. Three replicas, or as many as there are brokers. Raises
    BrokerUnavailable, and TopicMissing when the broker refuses or does not know how (the embedded one).
    """
    async with _admin(bootstrap, timeout_seconds) as admin:
        async with bounded(timeout_seconds, "list topics"):
            # All of them: asking for one by name makes it, on a broker that makes topics by itself.
            before = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
            brokers = len((await admin.describe_cluster())["brokers"])
        missing = [name for name in topics if name not in before]
        if missing:
            replicas = min(REPLICAS_WANTED, brokers)
            new = [NewTopic(name, topics[name], replicas, topic_configs=dict(config or {})) for name in missing]
            await _create(admin, new, timeout_seconds)
        return {name: before.get(name, wanted) for name, wanted in topics.items()}


async def _create(admin: AIOKafkaAdminClient, new: list[NewTopic], timeout_seconds: float) -> None:
    names = ", ".join(topic.name for topic in new)
    if admin._client.cluster.controller is None:
        # Only the mock broker has none; aiokafka would trip over it.
        raise TopicMissing(f"no topic {names}, and this broker makes none on request: give it the topic at its start")
    async with bounded(timeout_seconds, f"create {names}"):
        answer = await admin.create_topics(new)
    for topic, code, *message in answer.topic_errors:
        # Another process may have been quicker.
        if code not in (0, TopicAlreadyExistsError.errno):
            raise TopicMissing(f"topic {topic} was refused: {for_code(code).__name__} {' '.join(map(str, message))}")


@contextlib.asynccontextmanager
async def _admin(bootstrap: str, timeout_seconds: float) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_seconds * 1000))
    try:
        async with bounded(timeout_seconds, "connect"):
            await admin.start()
        yield admin
    finally:
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(STOP_SECONDS):
                await admin.close()
