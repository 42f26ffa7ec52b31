"""The archive role: reads as the consumers do, flushes by size or time, keeps the files few."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from consumers import metrics
from consumers.applier import AtOnce, Limits, Polled
from consumers.archive.compaction import compact
from consumers.archive.files import REPLAY_LOCK, REPLAYING, Archive, ArchiveError
from consumers.archive.writing import ArchiveOffsets, Archivist, archive_group
from consumers.broker import SESSION_TIMEOUT_MS, Consumer, Partition, Record
from consumers.events import MAX_EVENT_BYTES
from consumers.loop import BEAT_SECONDS, POLL_SECONDS, Loop, Pace, Status
from consumers.pseudonyms import Pseudonyms
from consumers.records import Position
from consumers.run import read_on, relax_collector
from consumers.store import TRANSIENT, raw_connection

logger = logging.getLogger(__name__)

POLL_RECORDS: Final = 5_000
RECORD_BYTES: Final = 200  # what a record takes in memory beside its value
UPKEEP_SECONDS: Final = 60.0
GRACE: Final = timedelta(hours=1)
"""Readers of a file that was joined into another may go on for so long, a replay to its end; a flush may take so
long."""
STUCK_SECONDS: Final = 120.0
UPKEEP_LOCK: Final = 7_450_991_013
TOTALS: Final = """
SELECT count(*) AS files, coalesce(sum(rows), 0)::bigint AS rows, coalesce(sum(bytes), 0)::bigint AS bytes
FROM archive_files WHERE replaced_at IS NULL
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of the role; ``group`` is that of the consumers."""

    bootstrap: str
    topics: Sequence[str]
    group: str
    broker_incarnation: str | None = None
    event_max_bytes: int = MAX_EVENT_BYTES
    future_tolerance: timedelta = timedelta(minutes=5)
    flush_bytes: int = 32 * 1024 * 1024
    flush_seconds: float = 60.0
    pseudonyms: Pseudonyms | None = None  # for ids that reach the topic in plain
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    upkeep_seconds: float = UPKEEP_SECONDS
    pace: Pace = field(default_factory=lambda: Pace(stuck_seconds=STUCK_SECONDS))


class ArchiveLoop(Loop):
    """Gathers until there is enough for files worth having. What is gathered and not flushed counts as not read."""

    def __init__(self, *args: Any, flush_bytes: int, flush_seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._flush_bytes = flush_bytes
        self._flush_seconds = flush_seconds
        self._held: dict[Partition, list[Record]] = {}
        self._stopping: asyncio.Event | None = None

    async def run(self, stop: asyncio.Event) -> None:
        self._stopping = stop
        await super().run(stop)

    async def _gather(self) -> dict[Partition, list[Record]]:
        """Until ``flush_bytes`` are held, or ``flush_seconds`` after the first record; empty when nothing comes. On a
        stop or a rebalance what is held is let go: it comes again."""
        self._held, size, deadline = {}, 0, None
        while size < self._flush_bytes and (deadline is None or time.monotonic() < deadline):
            if self._ends():
                self._held = {}
                break
            polled = await self._checked(await self._poll(POLL_RECORDS, POLL_SECONDS))
            for place, records in polled.items():
                if records:
                    self._held.setdefault(place, []).extend(records)
                    size += sum(len(record.value or b"") + RECORD_BYTES for record in records)
            if not self._held:
                break
            deadline = deadline or time.monotonic() + self._flush_seconds
            if time.monotonic() >= self._next_beat:
                await self._beat()
                self._next_beat = time.monotonic() + BEAT_SECONDS
        held, self._held = self._held, {}
        return held

    async def _take(self, polled: Polled, stop: asyncio.Event) -> None:
        """To its end: to gather the next one may take a minute, and until then nobody would look."""
        await super()._take(polled, stop)
        await self._settle(stop)

    def _ends(self) -> bool:
        stopping = self._stopping is not None and self._stopping.is_set()
        return stopping or self._generation != self._consumer.generation

    def _reached(self, position: Position) -> int:
        return position.next_offset if position.place in self._held else super()._reached(position)


async def run_archive(
    archive: Archive,
    options: Options,
    stop: asyncio.Event,
    clock: Callable[[], datetime],
    status: Status | None = None,
) -> None:
    """Until ``stop``. Raises ``loop.Stuck`` and BrokerError, on which the process should end and be started again."""
    relax_collector()
    status = status or Status()
    limits = Limits(event_max_bytes=options.event_max_bytes, future_tolerance=options.future_tolerance)
    consumer = Consumer(
        options.bootstrap,
        options.topics,
        group=archive_group(options.group),
        client_id="kizashi-archive",
        on_assigned=lambda held: loop.on_assigned(held),  # noqa: PLW0108  the loop is made below
        on_revoked=lambda lost: loop.on_revoked(lost),  # noqa: PLW0108
        session_timeout_ms=options.session_timeout_ms,
    )
    loop = ArchiveLoop(
        consumer,
        AtOnce(Archivist(archive, options.group, limits, pseudonyms=options.pseudonyms)),
        ArchiveOffsets(archive.engine, options.group),
        clock=clock,
        pace=options.pace,
        status=status,
        incarnation=options.broker_incarnation,
        flush_bytes=options.flush_bytes,
        flush_seconds=options.flush_seconds,
    )
    await read_on(consumer, loop, stop, status, _tend(archive, options.upkeep_seconds, clock))


async def _tend(archive: Archive, pause_seconds: float, clock: Callable[[], datetime]) -> None:
    while True:
        try:
            await upkeep(archive, clock())
        except (ArchiveError, *TRANSIENT) as error:
            logger.warning("archive upkeep put off: %r", error)
        await asyncio.sleep(pause_seconds)


async def upkeep(archive: Archive, now: datetime) -> None:
    """Joins small files, deletes what no longer counts, says how much there is. One process at a time does it."""
    async with raw_connection(archive.engine) as connection:
        # Of the session, not of a transaction: that would stand idle while files are joined.
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", UPKEEP_LOCK):
            try:
                joined = await compact(archive, now)
                replaying = await connection.fetchval(REPLAYING, REPLAY_LOCK)
                purged = 0 if replaying else await archive.purge(now - GRACE)
                swept = await archive.sweep(now - GRACE)
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1)", UPKEEP_LOCK)
            if joined or purged or swept:
                logger.info("archive: %d files joined, %d old ones deleted, %d left-overs swept", joined, purged, swept)
        totals = await connection.fetchrow(TOTALS)
    metrics.ARCHIVE_FILES.set(totals["files"])
    metrics.ARCHIVE_EVENTS.set(totals["rows"])
    metrics.ARCHIVE_BYTES.set(totals["bytes"])
