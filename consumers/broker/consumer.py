"""Reads as a member of a group, from the offsets that it is told."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from consumers.broker.common import (
    DEFAULT_TIMEOUT_SECONDS,
    BrokerError,
    BrokerUnavailable,
    Hook,
    OffsetOutOfRange,
    Partition,
    Record,
    TopicMissing,
    bounded,
    stop_client,
)
from consumers.broker.metadata import TopicMark, read_topic_marks
from consumers.broker.topics import MAKE_TOPICS, read_cluster_id

logger = logging.getLogger(__name__)

# A member silent for this long loses its partitions; a killed consumer's work resumes elsewhere after it.
SESSION_TIMEOUT_MS = 10_000
HEARTBEATS_PER_SESSION = 3
# The leader of a group waits this long before it hands out partitions. librdkafka's mock broker refuses followers that
# ask for theirs after the leader has spoken; to Apache Kafka it makes no difference.
LEADER_PAUSE_SECONDS = 0.05
# What getmany may take beyond the wait asked for, when records are there and only need unpacking.
GETMANY_GRACE_SECONDS = 1.0


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
            # the next attempt waits in vain, and so on for ever. Our own waits are bounded by `bounded`.
            request_timeout_ms=int(self._timeout * 1000) + self._session_timeout_ms,
        )
        try:
            async with bounded(self._timeout, "connect"):
                await consumer.start()
                # Looked up before subscribing, because a subscription to a missing topic waits in silence.
                self._require_topics(await consumer.topics())
            _pause_leader(consumer)
            consumer.subscribe(self._topics, listener=self)
        except BaseException:
            await stop_client(consumer)
            raise
        self._consumer = consumer

    async def stop(self) -> None:
        """Leaves the group, so that others take over at once; bounded."""
        consumer, self._consumer = self._consumer, None
        self._next.clear()
        if consumer is not None:
            await stop_client(consumer)

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
            async with bounded(self._timeout, "commit"):
                await self._client.commit(wanted)
        except (BrokerUnavailable, IllegalStateError) as error:
            logger.debug("offsets not committed: %s", error)
            return False
        return True

    async def partition_count(self, topic: str) -> int:
        """Raises TopicMissing, BrokerUnavailable."""
        async with bounded(self._timeout, f"metadata of {topic}"):
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
        async with bounded(self._timeout, "topic ids"):
            return await read_topic_marks(self._client._client, list(self._topics))

    async def look_for_partitions(self) -> None:
        """Learn now of partitions that were added: by itself the client looks every five minutes. A rebalance follows
        when there are any. Raises BrokerUnavailable."""
        async with bounded(self._timeout, "metadata"):
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
        async with bounded(self._timeout, method.replace("_", " ")):
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
            await stop_client(consumer)
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
