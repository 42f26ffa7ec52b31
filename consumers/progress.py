"""How far the events have been applied, for everybody downstream: absence is only believed up to here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

RELAY_SUFFIX: Final = ".relay"
"""Ends the group of the relay, which brings topics of other formats into ours. A stopped partition of it holds absence
too: its events wait in Kafka, and what is silent may not be. One that runs is not asked: it may have been taken out of
the configuration since, and a source that falls silent is noticed by its volume."""

READ: Final = text(
    "SELECT group_id, topic, partition, complete_through, stopped_reason, updated_at FROM stream_offsets "
    "WHERE group_id = :group AND topic = ANY(:topics) OR group_id = :relay AND stopped_reason IS NOT NULL "
    "ORDER BY topic, partition"
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
    asked = {"group": group, "topics": list(topics), "relay": f"{group}{RELAY_SUFFIX}"}
    rows = (await connection.execute(READ, asked)).all()
    times = [row.complete_through for row in rows]
    unknown = not {row.topic for row in rows} >= set(topics) or None in times
    return Progress(
        complete_through=None if unknown else min(times),
        heard_at=max((row.updated_at for row in rows if row.group_id == group), default=None),
        stopped=tuple((row.topic, row.partition, row.stopped_reason) for row in rows if row.stopped_reason is not None),
    )
