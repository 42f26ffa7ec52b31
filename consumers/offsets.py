"""Where each partition stands, and whether its log is still the one that was read before.

The positions live in Postgres. On assignment the stored ones are compared with what the broker has: another cluster or
topic, a log that is shorter than what was applied, or that no longer reaches back to it, stops the partition. So does
another record at the place of the last applied one. A stopped partition is never skipped ahead: it is paused, said
loudly, and waits for somebody to decide (``consumers/releasing.py``). Only a volatile log is begun anew by itself
(``start_anew``). Either way the time since the partition was last known to be complete is noted as a gap.

A stop over a log in doubt is judged anew whenever the partition is opened: it clears when the right log is back. One
over poison stays until somebody releases it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import Partition, Record
from consumers.poison import POISON
from consumers.records import Position, fingerprint
from consumers.store import raw_connection

VOLATILE: Final = "volatile:"
"""Prefix of the cluster id of a broker whose log does not outlive it."""

RESENT: Final = "resent:"
"""Begins the incarnation of a volatile broker of which somebody promises that whatever happened since the last one was
complete is sent again, before we read (the demo does): then the gap is born refilled."""

BEGAN_ANEW: Final = "the broker's volatile log began anew"

CREATE: Final = """
INSERT INTO stream_offsets (group_id, topic, partition, next_offset, cluster_id, topic_id, updated_at)
SELECT $1, u.*, $6 FROM unnest($2::text[], $3::int[], $4::bigint[], $5::text[], $7::text[])
    AS u(topic, partition, next_offset, cluster_id, topic_id)
ON CONFLICT DO NOTHING
"""
READ: Final = """
SELECT o.topic, o.partition, o.next_offset, o.epoch, o.cluster_id, o.topic_id, o.last_offset, o.last_timestamp_ms,
    o.last_crc, o.stopped_reason
FROM stream_offsets o JOIN unnest($2::text[], $3::int[]) AS u(topic, partition)
    ON o.topic = u.topic AND o.partition = u.partition WHERE o.group_id = $1
"""
ANEW: Final = """
UPDATE stream_offsets SET next_offset = $4, epoch = epoch + 1, cluster_id = $5, topic_id = $6, last_offset = NULL,
    last_timestamp_ms = NULL, last_crc = NULL, stopped_reason = NULL, updated_at = $7
WHERE group_id = $1 AND topic = $2 AND partition = $3 AND epoch = $8
RETURNING coalesce(complete_through, (SELECT o.updated_at FROM stream_offsets o
    WHERE o.group_id = $1 AND o.topic = $2 AND o.partition = $3)) AS known_until
"""
UNOBSERVED: Final = """
INSERT INTO gaps (source, from_at, until_at, state, reason, noticed_at, closed_at)
VALUES (NULL, $1, $2, $3, $4, $2, $2)
"""
EVERYONE: Final = """
INSERT INTO touched (everyone_since, created_at) VALUES ('epoch', $1)
"""
IDENTIFY: Final = """
UPDATE stream_offsets SET cluster_id = coalesce(cluster_id, $4::text), topic_id = coalesce(topic_id, $5::text),
    stopped_reason = NULL, updated_at = $6
WHERE group_id = $1 AND topic = $2 AND partition = $3 AND epoch = $7
    AND (cluster_id IS NULL OR (topic_id IS NULL AND $5::text IS NOT NULL) OR stopped_reason IS NOT NULL)
"""
RELEASE: Final = """
UPDATE stream_offsets SET stopped_reason = NULL, updated_at = $4
WHERE group_id = $1 AND topic = $2 AND partition = $3 AND epoch = $5 AND stopped_reason = $6
RETURNING next_offset
"""
RELEASED: Final = """
SELECT count(*) FROM stream_offsets o JOIN unnest($2::text[], $3::int[]) AS u(topic, partition)
    ON o.topic = u.topic AND o.partition = u.partition WHERE o.group_id = $1 AND o.stopped_reason IS NULL
"""
STEP_OVER: Final = """
UPDATE stream_offsets o SET next_offset = u.reached, updated_at = $6
FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $7::bigint[])
    AS u(topic, partition, next_offset, reached, epoch)
WHERE o.group_id = $1 AND o.topic = u.topic AND o.partition = u.partition AND o.next_offset = u.next_offset
    AND o.epoch = u.epoch AND o.stopped_reason IS NULL
RETURNING o.topic, o.partition
"""
STOP: Final = """
UPDATE stream_offsets SET stopped_reason = $4, updated_at = $5
WHERE group_id = $1 AND topic = $2 AND partition = $3 AND epoch = $6
"""
BEAT: Final = """
UPDATE stream_offsets o SET complete_through = GREATEST(o.complete_through, u.through), updated_at = $6
FROM unnest($2::text[], $3::int[], $4::bigint[], $5::timestamptz[], $7::bigint[])
    AS u(topic, partition, next_offset, through, epoch)
WHERE o.group_id = $1 AND o.topic = u.topic AND o.partition = u.partition AND o.next_offset = u.next_offset
    AND o.epoch = u.epoch AND o.stopped_reason IS NULL
"""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A row of ``stream_offsets`` as far as opening a partition needs it."""

    position: Position
    cluster_id: str | None
    topic_id: str | None
    stopped_reason: str | None


@dataclass(frozen=True, kw_only=True)
class Log:
    """What the broker says of a partition now: offsets from ``start`` up to, not including, ``end``."""

    cluster_id: str | None
    topic_id: str | None
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The decision for a partition: ``read`` from the position (``check`` the last record first), begin ``anew``, or
    ``stop``; with its reason."""

    action: Literal["read", "anew", "stop"]
    check: bool = False
    reason: str = ""


def decide(stored: Stored, log: Log) -> Opening:
    """How to go on with a partition. Pure."""
    position = stored.position
    was, now = stored.cluster_id, log.cluster_id
    if was is not None and now is not None and was != now:
        if was.startswith(VOLATILE):
            reason = f"the broker's volatile log is gone; {position.next_offset} records of it had been applied, "
            return Opening(action="anew", reason=reason + "whatever else it held was not read")
        return Opening(action="stop", reason=f"the offsets belong to the cluster {was}, this is {now}")
    if stored.topic_id is not None and log.topic_id is not None and stored.topic_id != log.topic_id:
        return Opening(
            action="stop", reason=f"the topic was made anew: its id was {stored.topic_id}, is {log.topic_id}"
        )
    if position.next_offset > log.end:
        return Opening(
            action="stop", reason=f"{position.next_offset} was next, but the log ends at {log.end}: truncated"
        )
    if position.next_offset < log.start:
        lost = log.start - position.next_offset
        reason = f"{position.next_offset} was next, but the log starts at {log.start}: {lost} offsets were lost unread"
        return Opening(action="stop", reason=reason)
    if stored.stopped_reason is not None and stored.stopped_reason.startswith(POISON):
        return Opening(action="stop", reason=stored.stopped_reason)
    check = position.last_offset is not None and position.last_offset >= log.start
    return Opening(action="read", check=check, reason="as stored")


def mismatch(position: Position, first: Record) -> str | None:
    """Whether ``first``, read again at the place of the last applied record, is another one. Pure."""
    if first.offset != position.last_offset:
        return f"the last applied record {position.last_offset} is gone, the next one is {first.offset}"
    if first.timestamp_ms != position.last_timestamp_ms or fingerprint(first) != position.last_crc:
        return f"the record at {first.offset} is not the one that was applied there: another log under the same name"
    return None


class Offsets:
    """The rows of ``stream_offsets`` of one consumer group."""

    def __init__(self, engine: AsyncEngine, group: str) -> None:
        self._engine = engine
        self._group = group

    async def open(self, logs: Mapping[Partition, Log], now: datetime) -> dict[Partition, Stored]:
        """The stored rows; a partition seen for the first time begins at the start of its log."""
        partitions = sorted(logs)
        columns = [
            (topic, partition, logs[topic, partition].start, logs[topic, partition].cluster_id)
            for topic, partition in partitions
        ]
        topic_ids = [logs[place].topic_id for place in partitions]
        async with raw_connection(self._engine) as connection:
            await connection.execute(CREATE, self._group, *zip(*columns, strict=True), now, topic_ids)
            rows = await connection.fetch(READ, self._group, *zip(*partitions, strict=True))
        return {(row["topic"], row["partition"]): _stored(row) for row in rows}

    async def read(self, place: Partition) -> Stored | None:
        """As it is stored; None when nobody ever held the partition."""
        async with raw_connection(self._engine) as connection:
            row = await connection.fetchrow(READ, self._group, [place[0]], [place[1]])
        return None if row is None else _stored(row)

    async def start_anew(
        self, begun: Mapping[Partition, tuple[Stored, Log]], now: datetime, *, why: str = BEGAN_ANEW
    ) -> list[Position]:
        """Begins at the start of the logs that are there now. The new epoch fences whatever is still in flight.

        What lay before that start is not read (any more), and until now nobody could hear: that time is a gap for
        every source, and everybody's silence gets a new look. ``why`` is the gap's reason.
        """
        positions: list[Position] = []
        unheard: list[tuple[datetime, bool]] = []
        if not begun:
            return positions
        async with raw_connection(self._engine) as connection, connection.transaction():
            for place in sorted(begun):
                p, log = begun[place][0].position, begun[place][1]
                known_until = await connection.fetchval(
                    ANEW, self._group, p.topic, p.partition, log.start, log.cluster_id, log.topic_id, now, p.epoch
                )
                if known_until is not None:  # else another consumer was first
                    unheard.append((known_until, (log.cluster_id or "").startswith(VOLATILE + RESENT)))
                positions.append(
                    Position(topic=p.topic, partition=p.partition, next_offset=log.start, epoch=p.epoch + 1)
                )
            if unheard:
                known_until, resent = min(at for at, _ in unheard), all(resent for _, resent in unheard)
                await _note_gap(connection, known_until, now, resent, why)
        return positions

    async def identify(self, position: Position, log: Log, now: datetime) -> None:
        """Notes the ids of the log where none were known, and that the partition is no longer stopped."""
        async with raw_connection(self._engine) as connection:
            await connection.execute(
                IDENTIFY, self._group, *position.place, log.cluster_id, log.topic_id, now, position.epoch
            )

    async def release(self, position: Position, reason: str, now: datetime) -> bool:
        """Lets a partition that was stopped for ``reason`` go on where it stands; False when that has changed."""
        async with raw_connection(self._engine) as connection:
            released = await connection.fetchval(RELEASE, self._group, *position.place, now, position.epoch, reason)
        return released is not None

    async def any_released(self, stopped: Iterable[Partition]) -> bool:
        """Whether somebody has released one of them meanwhile."""
        async with raw_connection(self._engine) as connection:
            found: int = await connection.fetchval(RELEASED, self._group, *zip(*stopped, strict=True))
        return found > 0

    async def step_over(self, reached: Mapping[Partition, tuple[Position, int]], now: datetime) -> set[Partition]:
        """Moves positions over what is no record and came after the last applied one; those that were moved."""
        rows = sorted((p.topic, p.partition, p.next_offset, offset, p.epoch) for p, offset in reached.values())
        if not rows:
            return set()
        topics, partitions, offsets, steps, epochs = zip(*rows, strict=True)
        async with raw_connection(self._engine) as connection:
            moved = await connection.fetch(STEP_OVER, self._group, topics, partitions, offsets, steps, now, epochs)
        return {(row["topic"], row["partition"]) for row in moved}

    async def stop(self, position: Position, reason: str, now: datetime) -> None:
        async with raw_connection(self._engine) as connection:
            await connection.execute(STOP, self._group, *position.place, reason, now, position.epoch)

    async def beat(self, through: Sequence[tuple[Position, datetime]], now: datetime) -> None:
        """Says until when each partition is known to be complete; where it moved meanwhile, nothing is said."""
        rows = sorted((p.topic, p.partition, p.next_offset, at, p.epoch) for p, at in through)
        if not rows:
            return
        topics, partitions, offsets, times, epochs = zip(*rows, strict=True)
        async with raw_connection(self._engine) as connection:
            await connection.execute(BEAT, self._group, topics, partitions, offsets, times, now, epochs)


async def _note_gap(connection: Any, known_until: datetime, now: datetime, resent: bool, why: str) -> None:
    reason = f"{why}; " + ("what it held was sent again" if resent else "unread is lost")
    state = "refilled" if resent else "lost"
    await connection.execute(UNOBSERVED, min(known_until, now), now, state, reason)
    if not resent:
        await connection.execute(EVERYONE, now)


def _stored(row: Any) -> Stored:
    position = Position(
        topic=row["topic"], partition=row["partition"], next_offset=row["next_offset"], epoch=row["epoch"],
        last_offset=row["last_offset"], last_timestamp_ms=row["last_timestamp_ms"], last_crc=row["last_crc"],
    )  # fmt: skip
    return Stored(position=position, cluster_id=row["cluster_id"], topic_id=row["topic_id"],
                  stopped_reason=row["stopped_reason"])  # fmt: skip
