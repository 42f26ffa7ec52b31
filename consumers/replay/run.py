"""One replay: rebuild, compare, and swap when asked. Everything is dropped at the end, however it ends.

A run that was killed leaves a schema behind, which the next one drops; it begins from the start. One runs at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumers.applier import Limits
from consumers.archive.files import REPLAY_LOCK, Archive
from consumers.broker import Partition
from consumers.broker.reading import LogReader, log_reader
from consumers.pseudonyms import Pseudonyms
from consumers.replay.comparing import Comparison, arguments, compare
from consumers.replay.reading import (
    Feed,
    Held,
    Origin,
    Overtaken,
    Positions,
    ReplayRefused,
    Scope,
    of_archive,
    of_kafka,
    positions,
)
from consumers.replay.shadow import Rebuilder, Shadow, Tally, drop_left_over
from consumers.replay.swapping import LOCK, Swapped, swap, unproven
from consumers.store import raw_connection

Source = Literal["archive", "kafka"]
NEAR: Final = 5_000  # records: so few are read while the consumers are held up
ROUNDS: Final = 20
PATIENCE_SECONDS: Final = 120.0
PAUSE_SECONDS: Final = 0.2

SETTINGS: Final = (
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL lock_timeout = '30s'",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)
OUTSIDE: Final = """
SELECT min(first_event_at) AS first, max(last_event_at) AS last FROM accounts
WHERE $1::text[] IS NULL OR account_id = ANY($1)
"""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked for. ``shown``: differing rows per table that are looked at closely."""

    scope: Scope = field(default_factory=Scope)
    source: Source = "kafka"
    swap: bool = False
    shown: int = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``done`` of ``total`` in this phase."""

    phase: Literal["archive", "kafka", "comparing", "swapping"]
    done: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a replay found and did. ``missing``: why the source does not hold all that the consumers ever applied."""

    source: Source
    tally: Tally
    missing: str | None
    comparison: Comparison
    swapped: Swapped | None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where it takes place. ``on_swap`` is called in the swap's transaction."""

    engine: AsyncEngine
    bootstrap: str
    topics: Sequence[str]
    group: str
    limits: Limits
    clock: Callable[[], datetime]
    archive: Archive | None = None
    pseudonyms: Pseudonyms | None = None
    on_progress: Callable[[Progress], None] = lambda _: None
    on_swap: Callable[[AsyncConnection, Swapped, datetime], Awaitable[None]] | None = None


async def replay(around: Surroundings, wishes: Wishes) -> Report:
    """Raises ReplayRefused, ArchiveError and BrokerError; then nothing live was changed."""
    async with _alone(around.engine), log_reader(around.bootstrap) as log:
        await drop_left_over(around.engine)
        shadow = Shadow(around.engine)
        await shadow.create()
        try:
            return await _Run(around, wishes, log, shadow).run()
        finally:
            await asyncio.shield(shadow.drop())


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[None]:
    async with raw_connection(engine) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", REPLAY_LOCK):
            raise ReplayRefused("another replay is running: wait for its end")
        try:
            yield
        finally:
            await connection.execute("SELECT pg_advisory_unlock($1)", REPLAY_LOCK)


class _Run:
    def __init__(self, around: Surroundings, wishes: Wishes, log: LogReader, shadow: Shadow) -> None:
        self._around = around
        self._wishes = wishes
        self._log = log
        self._shadow = shadow
        self._rebuilder = Rebuilder(around.engine, shadow, around.clock())
        self._feed = Feed(
            around.engine, self._rebuilder, wishes.scope,
            limits=around.limits, pseudonyms=around.pseudonyms, clock=around.clock,
        )  # fmt: skip
        self._began: Positions = {}

    async def run(self) -> Report:
        wishes = self._wishes
        self._began = await self._positions()
        if not self._began:
            raise ReplayRefused("the consumers have read nothing yet: there is nothing to rebuild")
        erased = await self._feed.open()
        origin = await self._origin()
        if wishes.swap:
            await self._covers_all()
        await self._read(origin)
        await self._shadow.analyze()
        self._around.on_progress(Progress(phase="comparing"))
        comparison = await self._compare()
        swapped = None
        if wishes.swap and not comparison.equal:
            self._around.on_progress(Progress(phase="swapping"))
            # Of what all accounts share, an erased account's events have stayed: only a count by hour and source.
            sources = wishes.scope.accounts is None and origin.missing is None and not erased
            swapped = await self._swap(origin, sources)
        return Report(
            source=wishes.source, tally=self._rebuilder.tally, missing=origin.missing, comparison=comparison,
            swapped=swapped,
        )  # fmt: skip

    async def _origin(self) -> Origin:
        if self._wishes.source == "kafka":
            return await of_kafka(self._log, self._began)
        if self._around.archive is None:
            raise ReplayRefused("there is no archive: set KIZASHI_ARCHIVE_URL, or replay from Kafka")
        return await of_archive(self._around.archive, self._log, self._began, self._wishes.scope)

    async def _covers_all(self) -> None:
        """Only whole facts can be swapped: most of them cannot be told apart by day."""
        scope = self._wishes.scope
        if scope.all_days:
            return
        async with raw_connection(self._around.engine) as connection:
            held = await connection.fetchrow(OUTSIDE, arguments(scope)[0])
        early = scope.since is not None and held["first"] is not None and held["first"] < scope.since
        late = scope.until is not None and held["last"] is not None and held["last"] >= scope.until
        if early or late:
            raise ReplayRefused(
                f"--swap needs all days: there are facts from {held['first']:%Y-%m-%d} to {held['last']:%Y-%m-%d}. "
                "Leave out --from and --to; --account makes it small"
            )

    async def _read(self, origin: Origin) -> None:
        around, total = self._around, sum(file.rows for file in origin.files)
        if around.archive is not None and origin.files:

            def on_rows(done: int) -> None:
                around.on_progress(Progress(phase="archive", done=done, total=total))

            await self._feed.archived(around.archive, origin.files, on_rows)
        self._feed.reached = dict(origin.base)
        await self._consumers_have_passed(origin.within)
        for _ in range(ROUNDS):
            if await self._catch_up(await self._positions()) <= NEAR:
                return
        raise ReplayRefused("events come faster than they are replayed: stop the consumers, or wait for a quieter hour")

    async def _consumers_have_passed(self, within: Mapping[Partition, int]) -> None:
        """What the files have and the facts do not yet would be a difference that is none, and after a swap the
        consumers would add it once more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(held.next_offset < within.get(place, 0) for place, held in (await self._positions()).items()):
            if time.monotonic() > deadline:
                raise ReplayRefused("the consumers are behind the archive: start them, or wait until they are not")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _catch_up(self, held: Positions, connection: Any = None) -> int:
        """Rebuilds up to where the consumers are; returns how many offsets that was."""
        self._same(held)
        until = {place: at.next_offset for place, at in held.items()}
        total = sum(max(end - self._feed.reached.get(place, end), 0) for place, end in until.items())
        if total:

            def on_records(done: int) -> None:
                self._around.on_progress(Progress(phase="kafka", done=done, total=total))

            await self._feed.follow(self._log, until, on_records, connection)
        return total

    def _same(self, held: Mapping[Partition, Held]) -> None:
        """An erasure would be brought back, a skipped stretch counted: whatever moves an epoch ends the run."""
        if held.keys() != self._began.keys() or any(held[place].epoch != at.epoch for place, at in self._began.items()):
            raise Overtaken

    async def _positions(self) -> dict[Partition, Held]:
        async with raw_connection(self._around.engine) as connection:
            return await positions(connection, self._around.group, self._around.topics)

    async def _compare(self) -> Comparison:
        """One snapshot shows the live facts and the positions that they belong to; what is missing up to there is
        rebuilt within the same transaction, which sees its own writing. Nobody is held up."""
        async with self._around.engine.connect() as bare:
            conn = await bare.execution_options(isolation_level="REPEATABLE READ")
            async with conn.begin():
                raw = await _raw(conn)
                held = await positions(raw, self._around.group, self._around.topics)
                await self._catch_up(held, raw)
                return await compare(raw, self._shadow.schema, self._wishes.scope, shown=self._wishes.shown)

    async def _swap(self, origin: Origin, sources: bool) -> Swapped:
        around, accounts = self._around, arguments(self._wishes.scope)[0]
        for _ in range(ROUNDS):
            async with around.engine.begin() as conn:
                raw = await _raw(conn)
                await raw.fetch(LOCK, around.group, list(around.topics), timeout=PATIENCE_SECONDS)
                held = await positions(raw, around.group, around.topics)
                if self._behind(held) <= NEAR:
                    # In transactions of its own: were this one undone, what was read would not come again.
                    await self._catch_up(held)
                    if origin.missing is not None:
                        count, first = await unproven(raw, self._shadow.schema, accounts)
                        if count:
                            raise ReplayRefused(_cannot_vouch(count, first, origin.missing))
                    now = around.clock()
                    swapped = await swap(
                        raw, self._shadow.schema, group=around.group, topics=around.topics, accounts=accounts,
                        sources=sources, now=now,
                    )  # fmt: skip
                    if around.on_swap is not None:
                        await around.on_swap(conn, swapped, now)
                    return swapped
            await self._catch_up(await self._positions())
        raise ReplayRefused("events come faster than they are replayed: stop the consumers, and run this again")

    def _behind(self, held: Positions) -> int:
        return sum(max(at.next_offset - self._feed.reached.get(place, 0), 0) for place, at in held.items())


async def _raw(conn: AsyncConnection) -> Any:
    """asyncpg's connection within the transaction of ``conn``, with time to spare."""
    for setting in SETTINGS:
        await conn.execute(text(setting))
    return (await conn.get_raw_connection()).driver_connection


def _cannot_vouch(count: int, first: Sequence[str], missing: str) -> str:
    names = ", ".join(first) + (", …" if count > len(first) else "")
    return (
        f"nothing was swapped: {missing}, so that the source does not hold {count} account(s) from their first event "
        f"on ({names}). Replay from a source that does, or name other accounts with --account"
    )
