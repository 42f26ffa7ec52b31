"""Sends records: idempotent, in batches, in bounded time."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch

from consumers.broker.common import (
    DEFAULT_TIMEOUT_SECONDS,
    BrokerError,
    BrokerUnavailable,
    Headers,
    RecordTooLarge,
    bounded,
    stop_client,
)

PRODUCER_BATCH_BYTES = 64 * 1024
RECORD_MAX_BYTES = 1024 * 1024
SURELY_SMALL_BYTES = RECORD_MAX_BYTES // 2
KEYS_REMEMBERED = 65_536
# A producer that failed this often in a row may be stuck rather than waiting: a new one is made.
FAILURES_BEFORE_NEW_PRODUCER = 3

_hashed = lru_cache(KEYS_REMEMBERED)(murmur2)


class Landed(msgspec.Struct, frozen=True, gc=False):
    """Records of one partition that were stored together; the next one there will get `next_offset`."""

    partition: int
    next_offset: int
    value_bytes: int


class Producer:
    """Idempotent, `acks=all`, lz4. Connects when first used, so a service starts while its broker is away."""

    def __init__(
        self,
        bootstrap: str,
        *,
        client_id: str = "kizashi",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        linger_ms: int = 0,
    ) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._timeout = timeout_seconds
        self._linger_ms = linger_ms
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._failures = 0
        self._retired: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect now rather than at the first send. Raises BrokerUnavailable; a later send tries again."""
        async with bounded(self._timeout, "connect"):
            await self._connected()

    async def send(self, topic: str, key: bytes | None, value: bytes, headers: Headers = ()) -> tuple[int, int]:
        """Returns (partition, offset) once all in-sync replicas have the record.

        Raises BrokerUnavailable within the time-out; the record may still be stored later. Raises RecordTooLarge.
        """
        return (await self.send_many(topic, [(key, value, headers)]))[0]

    async def send_many(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes, Headers]]
    ) -> list[tuple[int, int]]:
        """Each record's (partition, offset), in order, once all are acknowledged; same errors, then for the whole lot.

        Records with one key keep their order.
        """
        async with self._sending(topic) as producer:
            placed = await _enqueue(producer, topic, records)
            batches = {id(batch): batch for batch, _ in placed}
            # Shielded: whoever gives up waiting must not cancel a batch that others have records in.
            waits = [asyncio.shield(batch.future) for batch in batches.values()]
            done = [await waits[0]] if len(waits) == 1 else await asyncio.gather(*waits)
        first = dict(zip(batches, done, strict=True))
        return [(first[id(batch)].partition, first[id(batch)].offset + place) for batch, place in placed]

    async def send_in_order(self, topic: str, records: Sequence[tuple[bytes, bytes]]) -> list[Landed]:
        """Sends (key, value) pairs so that no record of a partition is ever stored without those before it.

        `send_many` does not promise that for a lot that fails: aiokafka may give up on a batch and still store the one
        behind it. Here each batch is acknowledged before the next of its partition is sent, so that sending the whole
        lot again after a failure completes it. Raises like `send_many`.
        """
        landed: list[Landed] = []
        left = records
        while left:
            async with self._sending(topic) as producer:
                await producer.partitions_for(topic)
                batches, left = _fill(producer, topic, left)
                sent = [await producer.send_batch(batch, topic, partition=p) for p, (batch, _) in batches.items()]
                for done, (batch, size) in zip(await asyncio.gather(*sent), batches.values(), strict=True):
                    landed.append(Landed(done.partition, done.offset + batch.record_count(), size))
        return landed

    @contextlib.asynccontextmanager
    async def _sending(self, topic: str) -> AsyncIterator[AIOKafkaProducer]:
        """A connected producer; notes what failures say about it."""
        try:
            async with bounded(self._timeout, f"send to {topic}"):
                yield await self._connected()
        except BrokerError as error:
            cause = error.__cause__
            self._failures += isinstance(error, BrokerUnavailable)
            refused = isinstance(cause, KafkaError) and not cause.retriable
            if refused or self._failures >= FAILURES_BEFORE_NEW_PRODUCER:
                self._retire()
            raise
        self._failures = 0

    async def partition_count(self, topic: str) -> int:
        """Raises BrokerUnavailable, also when the topic does not exist."""
        async with bounded(self._timeout, f"metadata of {topic}"):
            producer = await self._connected()
            return len(await producer.partitions_for(topic))

    async def stop(self) -> None:
        """Waits a bounded time for what is under way."""
        self._retire()
        await asyncio.gather(*self._retired)

    async def _connected(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    client_id=self._client_id,
                    acks="all",
                    enable_idempotence=True,
                    compression_type="lz4",
                    linger_ms=self._linger_ms,
                    max_batch_size=PRODUCER_BATCH_BYTES,
                    max_request_size=RECORD_MAX_BYTES,
                    request_timeout_ms=int(self._timeout * 1000),
                )
                try:
                    await producer.start()
                except BaseException:
                    await stop_client(producer)
                    raise
                self._producer = producer
            return self._producer

    def _retire(self) -> None:
        """Closed in the background: whoever noticed that it is broken has a bound of his own to keep."""
        producer, self._producer, self._failures = self._producer, None, 0
        if producer is not None:
            task = asyncio.create_task(stop_client(producer))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)


async def _enqueue(
    producer: AIOKafkaProducer, topic: str, records: Iterable[tuple[bytes | None, bytes, Headers]]
) -> list[tuple[MessageBatch, int]]:
    """The batch that each record went into, and its place there.

    What aiokafka's `send` does, without its costs per record: a look at the metadata, a hash in Python, a future.
    """
    partitions = list(await producer.partitions_for(topic))
    accumulator = producer._message_accumulator
    placed: list[tuple[MessageBatch, int]] = []
    for key, value, headers in records:
        if len(value) > SURELY_SMALL_BYTES:
            _require_size(producer, topic, key, value, headers)
        if key is None:
            partition = random.choice(partitions)
        else:
            partition = partitions[(_hashed(key) & 0x7FFFFFFF) % len(partitions)]
        place = TopicPartition(topic, partition)
        batches = accumulator._batches.get(place)
        if batches and accumulator._exception is None and not accumulator._closed:
            batch = batches[-1]
            if batch._builder.append(timestamp=None, key=key, value=value, headers=list(headers)) is not None:
                placed.append((batch, batch.record_count - 1))
                continue
        # Opens a batch, or waits until the full one is on its way. Its future is not the one we wait for.
        alone = await accumulator.add_message(
            place, key, value, producer._request_timeout_ms / 1000, headers=list(headers)
        )
        alone.add_done_callback(_look_at)
        batch = accumulator._batches[place][-1]
        placed.append((batch, batch.record_count - 1))
    return placed


def _look_at(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


def _require_size(producer: AIOKafkaProducer, topic: str, key: bytes | None, value: bytes, headers: Headers) -> None:
    try:
        producer._serialize(key, value, list(headers))
    except MessageSizeTooLargeError:
        # Refused here, before it got a sequence number: without a cause, so that the producer is not thought broken.
        raise RecordTooLarge(f"a record for {topic} of {len(value)} bytes exceeds {RECORD_MAX_BYTES}") from None


def _fill(
    producer: AIOKafkaProducer, topic: str, records: Sequence[tuple[bytes, bytes]]
) -> tuple[dict[int, tuple[BatchBuilder, int]], list[tuple[bytes, bytes]]]:
    """One batch a partition with its bytes of values, and the records that did not fit, in their order."""
    batches: dict[int, tuple[BatchBuilder, int]] = {}
    full: set[int] = set()
    left: list[tuple[bytes, bytes]] = []
    for key, value in records:
        partition = producer._partition(topic, None, key, value, key, value)
        batch, size = batches.get(partition) or (producer.create_batch(), 0)
        if partition in full or batch.append(timestamp=None, key=key, value=value) is None:
            full.add(partition)
            left.append((key, value))
        else:
            batches[partition] = (batch, size + len(value))
    return batches, left
