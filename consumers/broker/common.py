"""What producers, consumers and readers of Kafka share: errors, records, bounded waits, stopping by force."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

Partition = tuple[str, int]
Headers = Sequence[tuple[str, bytes]]
Hook = Callable[[frozenset[Partition]], None]

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT_SECONDS = 5.0
STOP_SECONDS = 5.0


class BrokerError(Exception):
    """Something that trying again does not mend.

    BrokerError
    ├── BrokerUnavailable   no (timely) answer: try again later; what was sent may or may not have been stored
    ├── RecordTooLarge      the broker will never take this record
    ├── OffsetOutOfRange    the log no longer (or does not yet) hold this offset: the partition is paused
    └── TopicMissing        the topic does not exist, and this broker or client will not make it
    """


class BrokerUnavailable(BrokerError):
    """No answer in time."""


class RecordTooLarge(BrokerError):
    """Larger than `RECORD_MAX_BYTES`, or than the topic allows."""


class OffsetOutOfRange(BrokerError):
    """Truncated, expired, or another log under the same name."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(f"{topic}[{partition}] does not hold offset {offset}")
        self.topic, self.partition, self.offset = topic, partition, offset


class TopicMissing(BrokerError):
    """Names the topic and the remedy."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as stored. `timestamp_ms`: epoch milliseconds, by default of the producer's clock."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@contextlib.asynccontextmanager
async def bounded(seconds: float, what: str) -> AsyncIterator[None]:
    """Turns running out of time, and every failure to reach the broker, into BrokerUnavailable."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise BrokerUnavailable(f"{what}: no answer from the broker within {seconds:g} s") from error
    except MessageSizeTooLargeError as error:
        raise RecordTooLarge(f"{what}: {error}") from error
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"{what}: {type(error).__name__}: {error}") from error


async def stop_client(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Closes it, by force when it does not end by itself: its flush waits for a broker that may never come back."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await client.stop()
        return
    except (TimeoutError, KafkaError, OSError) as error:
        logger.warning("closing a Kafka client by force: %r", error)
    for owner, attribute in (
        ("_sender", "_sender_task"),
        ("_fetcher", "_fetch_task"),
        ("_coordinator", "_coordination_task"),
    ):
        task = getattr(getattr(client, owner, None), attribute, None)
        if task is not None:
            task.cancel()
    network = client.client if isinstance(client, AIOKafkaProducer) else client._client
    with contextlib.suppress(TimeoutError, KafkaError, OSError):
        async with asyncio.timeout(STOP_SECONDS):
            await network.close()
