"""Sends history to the broker: numbered, in order, paced by what the consumers have read, resumable.

Every event gets the import's id and a number that rises over the whole import. The consumers remember the last number
per partition for ever and drop what is not above it, so that sending again never doubles; for that, no record may be
stored without those before it (``Producer.send_in_order``), and a failed chunk is sent again as a whole before more.

A row of ``imports`` says how far it got. A broker whose log is volatile may have lost what it acknowledged: there an
unfinished import is sent from its first row again, and the consumers drop what they have.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Row, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import BrokerUnavailable, Landed, Producer
from consumers.events import Event, encode
from consumers.offsets import VOLATILE
from consumers.tables import stream_offsets
from health.tables import imports

ImportRow = Sequence[Event] | None
"""The events that one row of the source gives, perhaps none; None: the row was refused."""

CHUNK_ROWS: Final = 1_000
CHUNK_BYTES: Final = 128 * 1024
MAX_UNREAD_BYTES: Final = 1024 * 1024
"""Per partition. The embedded broker keeps 5 MiB and drops what is older, read or not."""
PAUSE_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0
AWAY: Final = (DBAPIError, OSError, TimeoutError)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an import is. ``waiting_for``: the broker, the consumers or the database, whom it waits for just now."""

    rows_sent: int
    events_sent: int
    rows_refused: int
    rows_total: int | None
    finished: bool = False
    waiting_for: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    records: list[tuple[bytes, bytes]]
    size: int
    after: Progress


async def send_import(
    engine: AsyncEngine,
    producer: Producer,
    *,
    topic: str,
    group: str,
    import_id: str,
    source: str,
    rows: Iterable[ImportRow],
    total: int | None,
    clock: Callable[[], datetime],
    on_progress: Callable[[Progress], None],
    max_unread_bytes: int | None = MAX_UNREAD_BYTES,
    files: Sequence[Mapping[str, Any]] = (),
    shift_us: int = 0,
) -> Progress:
    """Sends what of ``rows`` the import has not sent yet; returns when the broker has acknowledged all of it, and on a
    volatile broker when the consumers have read it too.

    ``rows`` must be the same on every call for one ``import_id``, from the first row on. A broker or a database that is
    away is waited for; ``on_progress`` is told. With ``max_unread_bytes`` (of values, per partition) the consumers must
    run; None sends without regard to them, which only a broker that keeps its log allows.
    """
    sender = _Sender(engine, producer, topic, group, import_id, clock, on_progress, max_unread_bytes)
    known = await sender.begin({"source": source, "files": list(files), "shift_us": shift_us, "rows_total": total})
    done = Progress(
        rows_sent=known.rows_sent, events_sent=known.events_sent, rows_refused=known.rows_refused,
        rows_total=known.rows_total, finished=known.finished_at is not None,
    )  # fmt: skip
    if done.finished:
        on_progress(done)
        return done
    resume_at = 0 if await sender.log_is_volatile() else done.rows_sent
    if max_unread_bytes is not None:
        await sender.consumers_are_up()
    for chunk in _chunks(rows, import_id, total, skip_rows=resume_at):
        done = await sender.send(chunk)
    return await sender.finish(done)


def _chunks(rows: Iterable[ImportRow], import_id: str, total: int | None, *, skip_rows: int) -> Iterator[_Chunk]:
    """Rows before ``skip_rows`` are passed over, and counted: the numbers of the events stay the same."""
    events = refused = seen = size = rows_in_chunk = 0
    records: list[tuple[bytes, bytes]] = []

    def chunk() -> _Chunk:
        after = Progress(rows_sent=seen, events_sent=events, rows_refused=refused, rows_total=total)
        return _Chunk(records=records, size=size, after=after)

    for row in rows:
        seen += 1
        refused += row is None
        for event in row or ():
            if seen > skip_rows:
                value = encode(msgspec.structs.replace(event, import_id=import_id, import_row=events))
                records.append((event.account_id.encode(), value))
                size += len(value)
            events += 1
        rows_in_chunk += seen > skip_rows
        if size >= CHUNK_BYTES or rows_in_chunk >= CHUNK_ROWS:
            yield chunk()
            records, size, rows_in_chunk = [], 0, 0
    yield chunk()


class _Sender:
    """One run of an import; knows what it sent and the consumers have not read."""

    def __init__(
        self,
        engine: AsyncEngine,
        producer: Producer,
        topic: str,
        group: str,
        import_id: str,
        clock: Callable[[], datetime],
        on_progress: Callable[[Progress], None],
        max_unread_bytes: int | None,
    ) -> None:
        self._engine = engine
        self._producer = producer
        self._topic = topic
        self._offsets = select(stream_offsets).where(
            stream_offsets.c.group_id == group, stream_offsets.c.topic == topic
        )
        self._import = imports.c.import_id == import_id
        self._import_id = import_id
        self._clock = clock
        self._on_progress = on_progress
        self._most = max_unread_bytes
        self._unread: defaultdict[int, deque[Landed]] = defaultdict(deque)
        self._done = Progress(rows_sent=0, events_sent=0, rows_refused=0, rows_total=None)

    async def begin(self, values: dict[str, Any]) -> Row[Any]:
        """The row of the import, made when it is new."""
        new = insert(imports).values(import_id=self._import_id, started_at=self._clock(), **values)
        async with self._engine.begin() as conn:
            await conn.execute(new.on_conflict_do_nothing())
            return (await conn.execute(select(imports).where(self._import))).one()

    async def log_is_volatile(self) -> bool:
        async with self._engine.connect() as conn:
            rows = (await conn.execute(self._offsets)).all()
        return any((row.cluster_id or "").startswith(VOLATILE) for row in rows)

    async def consumers_are_up(self) -> None:
        """Waits until every partition was looked at since now: before that, stored offsets may be of an earlier log."""
        asked_at = self._clock()
        while True:
            try:
                partitions = await self._producer.partition_count(self._topic)
                async with self._engine.connect() as conn:
                    rows = (await conn.execute(self._offsets)).all()
            except BrokerUnavailable:
                await self._wait("the broker")
                continue
            except AWAY:
                await self._wait("the database")
                continue
            if sum(row.updated_at > asked_at for row in rows) >= partitions:
                return
            await self._wait("the consumers", PAUSE_SECONDS)

    async def send(self, chunk: _Chunk) -> Progress:
        """Returns when it is acknowledged and noted."""
        await self._room_for(chunk.size)
        landed = await self._send(chunk.records)
        for part in landed:
            self._unread[part.partition].append(part)
        await self._note(chunk.after, {})
        return chunk.after

    async def finish(self, done: Progress) -> Progress:
        if await self.log_is_volatile():
            await self._until_unread(0)
        finished = replace(done, finished=True, rows_total=done.rows_sent)
        await self._note(finished, {"finished_at": self._clock(), "rows_total": done.rows_sent})
        return finished

    async def _send(self, records: list[tuple[bytes, bytes]]) -> list[Landed]:
        while True:
            try:
                return await self._producer.send_in_order(self._topic, records)
            except BrokerUnavailable:
                await self._wait("the broker")

    async def _room_for(self, size: int) -> None:
        """Waits until the chunk fits, even if it went to one partition alone; one too large by itself goes alone."""
        if self._most is not None:
            await self._until_unread(max(self._most - size, 0))

    async def _until_unread(self, most: int) -> None:
        """Waits until no partition holds more bytes than that which the consumers have not read."""
        while max(map(_bytes, self._unread.values()), default=0) > most:
            try:
                async with self._engine.connect() as conn:
                    read = {row.partition: row.next_offset for row in await conn.execute(self._offsets)}
            except AWAY:
                await self._wait("the database")
                continue
            moved = [_drop_read(parts, read.get(partition, 0)) for partition, parts in self._unread.items()]
            if not any(moved):
                await self._wait("the consumers", PAUSE_SECONDS)

    async def _note(self, done: Progress, more: dict[str, Any]) -> None:
        """``rows_sent`` never goes back: an import that is sent again from the start keeps its mark."""
        values = {
            "rows_sent": done.rows_sent,
            "events_sent": done.events_sent,
            "rows_refused": done.rows_refused,
            **more,
        }
        ahead = update(imports).where(self._import, imports.c.rows_sent <= done.rows_sent).values(values)
        self._done = done
        while True:
            try:
                async with self._engine.begin() as conn:
                    await conn.execute(ahead)
            except AWAY:
                await self._wait("the database")
            else:
                break
        self._on_progress(done)

    async def _wait(self, whom: str, seconds: float = RETRY_SECONDS) -> None:
        self._on_progress(replace(self._done, waiting_for=whom))
        await asyncio.sleep(seconds)


def _bytes(parts: Iterable[Landed]) -> int:
    return sum(part.value_bytes for part in parts)


def _drop_read(parts: deque[Landed], next_offset: int) -> bool:
    """Forgets what the consumers have read; whether that was anything."""
    before = len(parts)
    while parts and parts[0].next_offset <= next_offset:
        parts.popleft()
    return len(parts) < before
