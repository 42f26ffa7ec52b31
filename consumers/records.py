"""What travels between the steps of a batch: where each partition stands, what is to be written, what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from zlib import crc32

from consumers.broker import Partition, Record
from consumers.events import BadEvent
from consumers.fold import Arrival


class LostPartition(Exception):
    """Another consumer has moved this offset, or an erasure has bumped its epoch: nothing of the batch was stored."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        super().__init__(", ".join(f"{topic}[{partition}]" for topic, partition in partitions))
        self.partitions = tuple(partitions)


class PoisonBatch(Exception):
    """The database refuses the data of some event in the batch; nothing was stored."""


class DatabaseAway(Exception):
    """The database did not answer, or not in time, after several attempts; nothing is known to be stored.

    ``waits``: the same for people. Those of its kind that wait for something else say for what.
    """

    waits = "the database is away"


def fingerprint(record: Record) -> int:
    """CRC-32 of key and value: tells a record from another one at the same offset of another log."""
    return crc32(record.value or b"", crc32(record.key or b""))


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a partition has been applied. ``epoch`` must be unchanged for the next batch to be stored."""

    topic: str
    partition: int
    next_offset: int
    epoch: int
    last_offset: int | None = None
    last_timestamp_ms: int | None = None
    last_crc: int | None = None

    @property
    def place(self) -> Partition:
        return (self.topic, self.partition)


@dataclass(frozen=True, kw_only=True)
class Advance:
    """A partition's step: compare with ``before``, then set to ``after``."""

    before: Position
    after: Position
    records: int


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A record that could not be taken, with its bytes and why."""

    record: Record
    error: BadEvent


@dataclass(frozen=True, kw_only=True)
class SeenDay:
    """The hashes of the new events of one partition and event day, sorted little-endian uint64."""

    topic: str
    partition: int
    day: date
    hashes: bytes


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The last row of an import that a partition has applied."""

    import_id: str
    topic: str
    partition: int
    last_row: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything that one transaction stores."""

    advances: tuple[Advance, ...]  # sorted by (topic, partition)
    arrivals: Sequence[Arrival]
    seen: tuple[SeenDay, ...] = ()
    marks: tuple[Mark, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    bare_letters: bool = False  # the database refuses a letter as it is: only bytes, place and reason
    catching_up: bool = False
    now: datetime
    duplicates: int = field(default=0)
