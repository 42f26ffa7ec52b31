"""Reads ranges of a log once, without a group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from consumers.broker.common import (
    DEFAULT_TIMEOUT_SECONDS,
    STOP_SECONDS,
    BrokerUnavailable,
    OffsetOutOfRange,
    Partition,
    Record,
)
from consumers.broker.metadata import read_topic_marks

POLL_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What the broker holds of a partition: from ``start`` up to, not including, ``end``."""

    start: int
    end: int


class LogReader:
    """One connection for several ranges; make it with ``log_reader``."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def extents(self, partitions: Collection[Partition]) -> dict[Partition, Extent]:
        """Raises BrokerUnavailable."""
        places = [TopicPartition(*place) for place in sorted(partitions)]
        if not places:
            return {}
        with _answered():
            async with asyncio.timeout(DEFAULT_TIMEOUT_SECONDS):
                starts = await self._consumer.beginning_offsets(places)
                ends = await self._consumer.end_offsets(places)
        return {(p.topic, p.partition): Extent(start=starts[p], end=ends[p]) for p in places}

    async def topic_ids(self, topics: Collection[str]) -> dict[str, str | None]:
        """Raises BrokerUnavailable."""
        with _answered():
            async with asyncio.timeout(DEFAULT_TIMEOUT_SECONDS):
                marks = await read_topic_marks(self._consumer._client, sorted(topics))
        return {topic: mark.id for topic, mark in marks.items()}

    async def read(
        self, ranges: Mapping[Partition, tuple[int, int]], *, most: int = 20_000
    ) -> AsyncIterator[list[Record]]:
        """The records of each partition from the first offset up to, not including, the second, some at a time.

        Raises BrokerUnavailable, also when nothing comes for a minute, and OffsetOutOfRange.
        """
        left = {TopicPartition(*place): span for place, span in ranges.items() if span[0] < span[1]}
        self._consumer.assign(list(left))
        for place, (first, _) in left.items():
            self._consumer.seek(place, first)
        silent = 0.0
        while left:
            with _answered():
                async with asyncio.timeout(POLL_SECONDS + DEFAULT_TIMEOUT_SECONDS):
                    fetched = await self._consumer.getmany(*left, timeout_ms=int(POLL_SECONDS * 1000), max_records=most)
            silent = 0.0 if fetched else silent + POLL_SECONDS
            if silent >= SILENT_SECONDS:
                raise BrokerUnavailable(f"nothing came of {len(left)} partitions for {SILENT_SECONDS:g} s")
            records = [
                Record(place.topic, place.partition, r.offset, r.timestamp, r.key, r.value, r.headers)
                for place, found in fetched.items()
                for r in found
                if r.offset < left[place][1]
            ]
            if records:
                yield records
            for place in list(left):
                # Behind the last record there may be markers of transactions: the position knows.
                if await self._consumer.position(place) >= left[place][1]:
                    del left[place]


@asynccontextmanager
async def log_reader(bootstrap: str) -> AsyncIterator[LogReader]:
    """Raises BrokerUnavailable."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        client_id="kizashi-replay",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",  # as the consumers read
        request_timeout_ms=int(DEFAULT_TIMEOUT_SECONDS * 1000),
    )
    try:
        with _answered():
            async with asyncio.timeout(2 * DEFAULT_TIMEOUT_SECONDS):
                await consumer.start()
        yield LogReader(consumer)
    finally:
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(STOP_SECONDS):
                await consumer.stop()


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except OffsetOutOfRangeError as error:
        ((place, offset),) = list(error.args[0].items())[:1]
        raise OffsetOutOfRange(place.topic, place.partition, offset) from error
    except TimeoutError as error:
        raise BrokerUnavailable("no answer from the broker in time") from error
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error
