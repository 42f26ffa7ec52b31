"""How far the events have been applied, for everybody downstream: absence is only believed up to here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

READ: Final = text(
    "SELECT topic, partition, complete_through, stopped_reason, updated_at FROM stream_offsets "
    "WHERE group_id = :group AND topic = ANY(:topics) ORDER BY topic, partition"
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``complete_through``: everything that the brokers had at this time is applied; None when some partition never
    reported. ``stopped``: (topic, partition, reason) of partitions that wait for somebody to decide. ``heard_at``: when
    a consumer last said anything; each of them does every second."""

    complete_through: datetime | None
    stopped: tuple[tuple[str, int, str], ...]
    heard_at: datetime | None = None


async def read(connection: AsyncConnection, group: str, topics: Sequence[str]) -> Progress:
    """The least of all partitions of ``topics``; None as long as one of them, or all of a topic's, never reported."""
    rows = (await connection.execute(READ, {"group": group, "topics": list(topics)})).all()
    times = [row.complete_through for row in rows]
    unknown = not {row.topic for row in rows} >= set(topics) or None in times
    return Progress(
        complete_through=None if unknown else min(times),
        heard_at=max((row.updated_at for row in rows), default=None),
        stopped=tuple((row.topic, row.partition, row.stopped_reason) for row in rows if row.stopped_reason is not None),
    )
