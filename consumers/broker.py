"""Where events enter and leave Kafka: the only place that knows aiokafka (with its small sibling `broker_metadata`).

Every wait is bounded; "the broker does not answer" is always `BrokerUnavailable`. Keys are spread over partitions by
murmur2, as Java's default partitioner does, so that producers in either language put an account into the same one.

Traps of aiokafka 0.14 that this module keeps away from its callers:

- `send` and `stop` wait for ever while the broker is away, `getmany` while a rebalance is under way, whatever time-out
  it was given.
- An idempotent producer whose batch was refused for good leaves a hole in its sequence numbers and is refused ever
  after: it is replaced. So is one that has only failed for a while.
- A new partition would at once be read from the offset committed in Kafka. Ours come from Postgres: a partition
  delivers nothing until `seek`.
- An exception out of `getmany` loses the records that the same call had taken from other partitions: they are read
  again.
- Exceptions in rebalance callbacks are swallowed: the hooks only set state, and correctness never rests on them.
- Its background tasks can end on an error of their own, and the consumer is dead from then on: it is made anew.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    IllegalStateError,
    KafkaError,
    MessageSizeTooLargeError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch

from consumers.broker_metadata import TopicMark, read_topic_marks

Partition = tuple[str, int]
Headers = Sequence[tuple[str, bytes]]
Hook = Callable[[frozenset[Partition]], None]

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT_SECONDS = 5.0
# A member silent for this long loses its partitions; a killed consumer's work resumes elsewhere after it.
SESSION_TIMEOUT_MS = 10_000
HEARTBEATS_PER_SESSION = 3
# The leader of a group waits this long before it hands out partitions. librdkafka's mock broker refuses followers that
# ask for theirs after the leader has spoken; to Apache Kafka it makes no difference.
LEADER_PAUSE_SECONDS = 0.05
PRODUCER_BATCH_BYTES = 64 * 1024
RECORD_MAX_BYTES = 1024 * 1024
SURELY_SMALL_BYTES = RECORD_MAX_BYTES // 2
KEYS_REMEMBERED = 65_536
# A producer that failed this often in a row may be stuck rather than waiting: a new one is made.
FAILURES_BEFORE_NEW_PRODUCER = 3
STOP_SECONDS = 5.0
# What getmany may take beyond the wait asked for, when records are there and only need unpacking.
GETMANY_GRACE_SECONDS = 1.0
REPLICAS_WANTED = 3
MAKE_TOPICS = "run `kizashi migrate`, which makes the topics"


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
async def _bounded(seconds: float, what: str) -> AsyncIterator[None]:
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
        async with _bounded(self._timeout, "connect"):
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
            async with _bounded(self._timeout, f"send to {topic}"):
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
        async with _bounded(self._timeout, f"metadata of {topic}"):
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
                    await _stop(producer)
                    raise
                self._producer = producer
            return self._producer

    def _retire(self) -> None:
        """Closed in the background: whoever noticed that it is broken has a bound of his own to keep."""
        producer, self._producer, self._failures = self._producer, None, 0
        if producer is not None:
            task = asyncio.create_task(_stop(producer))
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


class Consumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a group that reads from where it is told: nothing from a partition until `seek`.

    `on_assigned` and `on_revoked` run inside the rebalance, with all partitions now held or lost: they must only set
    state. Every rebalance takes all partitions and gives some back (eager protocol), so `seek` is due after each.
    Kafka's own committed offsets are written for lag tools only and never read.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Sequence[str],
        *,
        group: str,
        client_id: str = "kizashi",
        instance_id: str | None = None,
        on_assigned: Hook | None = None,
        on_revoked: Hook | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        session_timeout_ms: int = SESSION_TIMEOUT_MS,
    ) -> None:
        self._bootstrap = bootstrap
        self._topics = tuple(topics)
        self._session_timeout_ms = session_timeout_ms
        self._group = group
        self._client_id = client_id
        self._instance_id = instance_id
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._timeout = timeout_seconds
        self._consumer: AIOKafkaConsumer | None = None
        self._next: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._generation = 0
        self._broken: Exception | None = None

    async def start(self) -> None:
        """Connects and asks to join; partitions come through `on_assigned`. Raises BrokerUnavailable, TopicMissing."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            group_id=self._group,
            group_instance_id=self._instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            # What an aborted transaction had written did not happen; and the ends of logs are those of what is decided.
            isolation_level="read_committed",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=self._session_timeout_ms,
            heartbeat_interval_ms=self._session_timeout_ms // HEARTBEATS_PER_SESSION,
            # To join takes up to a session time-out. A client that gives up earlier leaves a ghost behind, for which
            # the next attempt waits in vain, and so on for ever. Our own waits are bounded by `_bounded`.
            request_timeout_ms=int(self._timeout * 1000) + self._session_timeout_ms,
        )
        try:
            async with _bounded(self._timeout, "connect"):
                await consumer.start()
                # Looked up before subscribing, because a subscription to a missing topic waits in silence.
                self._require_topics(await consumer.topics())
            _pause_leader(consumer)
            consumer.subscribe(self._topics, listener=self)
        except BaseException:
            await _stop(consumer)
            raise
        self._consumer = consumer

    async def stop(self) -> None:
        """Leaves the group, so that others take over at once; bounded."""
        consumer, self._consumer = self._consumer, None
        self._next.clear()
        if consumer is not None:
            await _stop(consumer)

    @property
    def assignment(self) -> frozenset[Partition]:
        """Partitions held now, positioned or not."""
        if self._consumer is None:
            return frozenset()
        return frozenset((held.topic, held.partition) for held in self._consumer.assignment())

    @property
    def generation(self) -> int:
        """Grows with each assignment: unequal to the one noted before a batch means that a rebalance came between."""
        return self._generation

    def seek(self, topic: str, partition: int, offset: int) -> bool:
        """Deliver from this offset on. False when the partition was lost meanwhile."""
        try:
            self._client.seek(TopicPartition(topic, partition), offset)
            if (topic, partition) not in self._paused:
                self._client.resume(TopicPartition(topic, partition))
        except IllegalStateError:
            return False
        self._next[topic, partition] = offset
        return True

    def position(self, topic: str, partition: int) -> int:
        """Where the client reads on: behind what `getmany` delivered, and behind what is no record (the markers of
        transactions, what compaction took). 0 when the partition is not held or not positioned."""
        subscription = self._client._subscription.subscription
        assigned = subscription.assignment if subscription is not None else None
        place = TopicPartition(topic, partition)
        if (topic, partition) not in self._next or assigned is None or place not in assigned.tps:
            return 0
        state = assigned.state_value(place)
        return int(state.position) if state is not None and state.has_valid_position else 0

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Deliver nothing more from these until `resume` or a rebalance; group membership stays alive by polling."""
        for topic, partition in partitions:
            with contextlib.suppress(IllegalStateError):
                self._client.pause(TopicPartition(topic, partition))
                self._paused.add((topic, partition))
                # What was fetched before is dropped by aiokafka; it is read again from where we stand.

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Undo `pause`. A partition without a `seek` stays silent."""
        for topic, partition in partitions:
            self._paused.discard((topic, partition))
            if (topic, partition) in self._next:
                with contextlib.suppress(IllegalStateError):
                    self._client.resume(TopicPartition(topic, partition))

    async def getmany(self, max_records: int, timeout: float) -> dict[Partition, list[Record]]:
        """Up to `max_records` of all positioned partitions, in offset order within each; empty after `timeout` seconds.

        Raises OffsetOutOfRange (that partition is then paused), BrokerError when reading cannot go on.
        Empty answers are all one sees of a broker that is away: judge by `end_offsets` and progress.
        """
        if self._broken is not None:
            await self._begin_anew()
        try:
            async with asyncio.timeout(timeout + GETMANY_GRACE_SECONDS):
                fetched = await self._client.getmany(timeout_ms=int(timeout * 1000), max_records=max_records)
        except TimeoutError:
            return {}
        except NoOffsetForPartitionError:
            # Between assignment and our callback aiokafka may look for a committed offset.
            self._rewind()
            return {}
        except OffsetOutOfRangeError as error:
            self._rewind()
            ((lost, offset),) = error.args[0].items()
            if self._next.get((lost.topic, lost.partition)) != offset:
                return {}
            self.pause([(lost.topic, lost.partition)])
            raise OffsetOutOfRange(lost.topic, lost.partition, offset) from error
        except KafkaError as error:
            self._rewind()
            # A bare KafkaError is what aiokafka's background tasks leave behind when they end.
            if type(error) is KafkaError:
                self._broken = error
                return {}
            kind = BrokerUnavailable if error.retriable else BrokerError
            raise kind(f"reading {', '.join(self._topics)}: {type(error).__name__}: {error}") from error
        if not fetched and self._fetcher_ended():
            self._broken = BrokerError("aiokafka's fetcher has ended")
        return self._deliver(fetched)

    async def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Offset that the next record of each partition will get. Raises BrokerUnavailable."""
        return await self._offsets("end_offsets", partitions)

    async def beginning_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Lowest offset that each partition still holds. Raises BrokerUnavailable."""
        return await self._offsets("beginning_offsets", partitions)

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """Tell Kafka, for lag tools; False when it did not take it, which harms nothing."""
        wanted = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
        try:
            async with _bounded(self._timeout, "commit"):
                await self._client.commit(wanted)
        except (BrokerUnavailable, IllegalStateError) as error:
            logger.debug("offsets not committed: %s", error)
            return False
        return True

    async def partition_count(self, topic: str) -> int:
        """Raises TopicMissing, BrokerUnavailable."""
        async with _bounded(self._timeout, f"metadata of {topic}"):
            metadata = await self._client._client.fetch_all_metadata()
        partitions = metadata.partitions_for_topic(topic)
        if partitions is None:
            raise TopicMissing(f"no topic {topic} on {self._bootstrap}: {MAKE_TOPICS}")
        return len(partitions)

    async def cluster_id(self) -> str | None:
        """As in the broker's metadata; None when it tells none. Not to be trusted on the embedded broker."""
        return await read_cluster_id(self._bootstrap, timeout_seconds=self._timeout)

    async def topic_marks(self) -> dict[str, TopicMark]:
        """Of each subscribed topic its id, new when the topic is made anew, and its number of partitions."""
        async with _bounded(self._timeout, "topic ids"):
            return await read_topic_marks(self._client._client, list(self._topics))

    async def look_for_partitions(self) -> None:
        """Learn now of partitions that were added: by itself the client looks every five minutes. A rebalance follows
        when there are any. Raises BrokerUnavailable."""
        async with _bounded(self._timeout, "metadata"):
            await self._client._client.force_metadata_update()

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Called by aiokafka at the start of a rebalance."""
        self._next.clear()
        self._paused.clear()
        if self._on_revoked is not None:
            self._on_revoked(frozenset((lost.topic, lost.partition) for lost in revoked))

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Called by aiokafka at the end of a rebalance."""
        self._generation += 1
        self._next.clear()
        for held in assigned:
            self._hold_back(held)
        if self._on_assigned is not None:
            self._on_assigned(frozenset((held.topic, held.partition) for held in assigned))

    def _require_topics(self, existing: set[str]) -> None:
        if missing := sorted(set(self._topics) - existing):
            raise TopicMissing(f"no topic {', '.join(missing)} on {self._bootstrap}: {MAKE_TOPICS}")

    def _hold_back(self, held: TopicPartition) -> None:
        """A position keeps aiokafka from looking for a committed one, the pause from reading at it."""
        self._client.seek(held, 0)
        self._client.pause(held)

    def _deliver(self, fetched: Mapping[TopicPartition, list[Any]]) -> dict[Partition, list[Record]]:
        delivered: dict[Partition, list[Record]] = {}
        for held, records in fetched.items():
            partition = (held.topic, held.partition)
            if partition not in self._next:
                continue
            delivered[partition] = [
                Record(*partition, record.offset, record.timestamp, record.key, record.value, record.headers)
                for record in records
            ]
            self._next[partition] = records[-1].offset + 1
        return delivered

    def _rewind(self) -> None:
        for (topic, partition), offset in list(self._next.items()):
            with contextlib.suppress(IllegalStateError):
                self._client.seek(TopicPartition(topic, partition), offset)

    async def _offsets(self, method: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        wanted = [TopicPartition(*partition) for partition in partitions]
        async with _bounded(self._timeout, method.replace("_", " ")):
            found = await getattr(self._client, method)(wanted)
        return {(held.topic, held.partition): offset for held, offset in found.items()}

    def _fetcher_ended(self) -> bool:
        fetcher = getattr(self._client, "_fetcher", None)
        return fetcher is not None and bool(fetcher.error_future.done())

    async def _begin_anew(self) -> None:
        """Raises BrokerUnavailable; the next call tries again."""
        if self._consumer is not None:
            logger.warning("joining group %s anew: %s", self._group, self._broken)
            lost = self._consumer.assignment()
            consumer, self._consumer = self._consumer, None
            await _stop(consumer)
            self.on_partitions_revoked(lost)
        await self.start()
        self._broken = None

    @property
    def _client(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise BrokerError("the consumer is not started")
        return self._consumer


def _pause_leader(consumer: AIOKafkaConsumer) -> None:
    coordinator = consumer._coordinator
    perform_assignment = coordinator._perform_assignment

    async def paused(response: Any) -> Any:
        await asyncio.sleep(LEADER_PAUSE_SECONDS)
        return await perform_assignment(response)

    coordinator._perform_assignment = paused


async def read_cluster_id(bootstrap: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> str | None:
    """Raises BrokerUnavailable."""
    async with _admin(bootstrap, timeout_seconds) as admin, _bounded(timeout_seconds, "describe cluster"):
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
        async with _bounded(timeout_seconds, "list topics"):
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
    async with _bounded(timeout_seconds, f"create {names}"):
        answer = await admin.create_topics(new)
    for topic, code, *message in answer.topic_errors:
        # Another process may have been quicker.
        if code not in (0, TopicAlreadyExistsError.errno):
            raise TopicMissing(f"topic {topic} was refused: {for_code(code).__name__} {' '.join(map(str, message))}")


@contextlib.asynccontextmanager
async def _admin(bootstrap: str, timeout_seconds: float) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_seconds * 1000))
    try:
        async with _bounded(timeout_seconds, "connect"):
            await admin.start()
        yield admin
    finally:
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(STOP_SECONDS):
                await admin.close()


async def _stop(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
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
