"""Writes a batch: the offsets it moves and the facts it adds, in one transaction, in one order.

Order (another one deadlocks): offsets by compare-and-set, what was seen (dedup, import marks), dead letters, the fact
tables of ``FACT_TABLES`` with their rows sorted by key, the queue of touched accounts. A consumer that lost its
partition fails the compare and stores nothing, so nothing is ever applied twice.

Spoken to in asyncpg's own words below SQLAlchemy's pool: a batch is a dozen prepared statements over arrays.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec
from asyncpg.exceptions import _base
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.fold import Arrival, Fold, fold, from_us
from consumers.records import Advance, Batch, DatabaseAway, DeadLetter, LostPartition, PoisonBatch
from consumers.upserts import UPSERTS

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 5
BACKOFF_SECONDS: Final = 0.05
MAX_HEADERS: Final = 32
LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, the last that a datetime knows."""
NOT_SHOWN: Final = {
    "item": 0,
    "field": "",
    "problem": "the database does not take the details of what is wrong with it",
    "remedy": "see its reason and its bytes",
}

Connection = Any
"""asyncpg's connection; its stubs do not know the proxy that a pool hands out."""

CLAIM: Final = """
WITH wanted AS (
    SELECT * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
                         $9::bigint[], $10::bigint[])
        AS u(topic, partition, expected, epoch, next_offset, last_offset, last_timestamp_ms, last_crc, records)
), claimed AS (
    SELECT w.* FROM wanted w JOIN stream_offsets o
        ON o.group_id = $1 AND o.topic = w.topic AND o.partition = w.partition
    WHERE o.next_offset = w.expected AND o.epoch = w.epoch AND o.stopped_reason IS NULL
    ORDER BY o.topic, o.partition FOR UPDATE OF o
)
UPDATE stream_offsets o SET next_offset = c.next_offset, last_offset = c.last_offset,
    last_timestamp_ms = c.last_timestamp_ms, last_crc = c.last_crc, records = o.records + c.records, updated_at = $11
FROM claimed c WHERE o.group_id = $1 AND o.topic = c.topic AND o.partition = c.partition
RETURNING o.topic, o.partition, set_config('plan_cache_mode', 'force_generic_plan', true)
"""
"""Takes the steps, and for the rest of the transaction the plans as they are kept: a plan made for the arrays at hand
reads them all once more, to guess how many rows they hold, and is no other plan for it."""
SEEN: Final = """
INSERT INTO dedup_batches (topic, partition, event_day, hashes, created_at)
SELECT u.*, $5 FROM unnest($1::text[], $2::int[], $3::date[], $4::bytea[]) AS u
"""
MARKS: Final = """
INSERT INTO import_marks AS t (import_id, topic, partition, last_row)
SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[]) AS u
ON CONFLICT (import_id, topic, partition) DO UPDATE SET last_row = GREATEST(t.last_row, excluded.last_row)
"""
# A topic that began anew uses its offsets again: then the newer record stands.
DEAD_LETTERS: Final = """
INSERT INTO dead_letters AS t
    (topic, partition, record_offset, record_timestamp, key, value, headers, errors, reason, created_at)
SELECT u.topic, u.partition, u.record_offset, u.at, u.key, u.value, u.headers::jsonb, u.errors::jsonb, u.reason, $10
FROM unnest($1::text[], $2::int[], $3::bigint[], $4::timestamptz[], $5::bytea[], $6::bytea[], $7::text[], $8::text[],
            $9::text[]) AS u(topic, partition, record_offset, at, key, value, headers, errors, reason)
ON CONFLICT (topic, partition, record_offset) DO UPDATE SET record_timestamp = excluded.record_timestamp,
    key = excluded.key, value = excluded.value, headers = excluded.headers, errors = excluded.errors,
    reason = excluded.reason, status = 'open', created_at = excluded.created_at,
    closed_at = NULL, closed_by = NULL, note = NULL, sent_value = NULL
WHERE t.value IS DISTINCT FROM excluded.value
"""
TOUCHED: Final = """
INSERT INTO touched (account_ids, urgent, oldest_event_at, created_at) VALUES ($1::text[], $2, $3, $4)
"""
# While catching up one marker serves many batches. It is locked until we commit, so that no evaluator works it off
# before our facts can be seen; one that is being worked off is skipped, and a new marker made.
TOUCHED_EVERYONE: Final = """
WITH waiting AS (
    SELECT touched_id FROM touched
    WHERE everyone_since <= $1 AND after_account_id IS NULL LIMIT 1 FOR UPDATE SKIP LOCKED
)
INSERT INTO touched (everyone_since, oldest_event_at, created_at)
SELECT $1, $2, $1 WHERE NOT EXISTS (SELECT FROM waiting)
"""
POSITIONS: Final = """
SELECT o.topic, o.partition, o.next_offset, o.epoch, o.last_crc FROM stream_offsets o
JOIN unnest($2::text[], $3::int[]) AS u(topic, partition) ON o.topic = u.topic AND o.partition = u.partition
WHERE o.group_id = $1
"""

_encode: Final = msgspec.json.Encoder().encode
_POISON: Final = (asyncpg.DataError, _base.DataError, asyncpg.ProgramLimitExceededError, UnicodeError)
TRANSIENT: Final = (
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.ObjectNotInPrerequisiteStateError,  # lock_timeout
    asyncpg.OperatorInterventionError,  # statement_timeout, shutdown, starting up
    asyncpg.InvalidTransactionStateError,  # read-only standby during a failover
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.InterfaceError,  # the client's own word for a connection that is gone
    asyncpg.InternalClientError,
    SQLAlchemyError,  # the pool's time-out
    OSError,
    TimeoutError,
)


Statement = tuple[str, list[str]]
"""SQL and its arguments, ready to be sent."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A fold and the statements that merge it, in the order of ``FACT_TABLES``."""

    fold: Fold
    statements: Sequence[Statement]


def statements(folded: Fold) -> Iterator[Statement]:
    """One a table that has rows. Pure."""
    for upsert in UPSERTS:
        rows = folded.rows[upsert.table]
        if rows:
            yield upsert.sql, upsert.arguments(rows)


@asynccontextmanager
async def raw_connection(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A pooled connection as asyncpg knows it; closed rather than given back when its state is not known."""
    async with engine.connect() as connection:
        pooled = await connection.get_raw_connection()
        try:
            yield pooled.driver_connection
        except (asyncpg.DataError, asyncpg.TransactionRollbackError, LostPartition):
            raise  # the server answered, and the transaction was rolled back
        except BaseException:
            await asyncio.shield(connection.invalidate())
            raise


class Store:
    """The consumers' writing side of the database, for one consumer group."""

    def __init__(self, engine: AsyncEngine, group: str) -> None:
        self._engine = engine
        self._group = group

    async def write(self, batch: Batch, facts: Facts) -> None:
        """Stores the batch or raises: LostPartition, PoisonBatch (find the event with ``culprit``), DatabaseAway.

        ``facts`` are those of the batch's arrivals. Conflicts and lost connections are tried again as a whole. After a
        lost answer the offsets tell whether the batch had been stored.
        """
        problem: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.5))
            try:
                if attempt and await self._is_stored(batch.advances):
                    return
                async with raw_connection(self._engine) as connection, connection.transaction():
                    await self._write(connection, batch, facts)
                return
            except _POISON as error:
                raise PoisonBatch(str(error)) from error
            except TRANSIENT as error:
                logger.warning("batch not stored, attempt %d of %d: %r", attempt + 1, ATTEMPTS, error)
                problem = error
        raise DatabaseAway(f"batch not stored after {ATTEMPTS} attempts: {problem!r}") from problem

    async def culprit(self, arrivals: Sequence[Arrival], batch: Batch) -> tuple[int, str]:
        """Index of an event that the database refuses together with those before it, and what it said.

        Looks for the shortest run from the start that fails, by halves, each tried in a transaction that is undone.
        Raises PoisonBatch when it is no event's fault.
        """
        passes, fails = 0, len(arrivals)
        reason = await self._refusal(arrivals, batch)
        if reason is None:
            raise PoisonBatch("the facts of the batch can be stored; its dead letters or marks cannot")
        while fails - passes > 1:
            middle = (passes + fails) // 2
            refusal = await self._refusal(arrivals[:middle], batch)
            if refusal is None:
                passes = middle
            else:
                fails, reason = middle, refusal
        return fails - 1, reason

    async def _refusal(self, arrivals: Sequence[Arrival], batch: Batch) -> str | None:
        folded = fold(arrivals, now=batch.now)
        async with raw_connection(self._engine) as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await _write_facts(connection, statements(folded))
            except _POISON as error:
                return str(error)
            finally:
                await transaction.rollback()
        return None

    async def _write(self, connection: Connection, batch: Batch, facts: Facts) -> None:
        await self._claim(connection, batch)
        if batch.seen:
            columns = zip(*((s.topic, s.partition, s.day, s.hashes) for s in batch.seen), strict=True)
            await connection.execute(SEEN, *columns, batch.now)
        if batch.marks:
            columns = zip(*((m.import_id, m.topic, m.partition, m.last_row) for m in batch.marks), strict=True)
            await connection.execute(MARKS, *columns)
        if batch.dead_letters:
            row = _bare_letter_row if batch.bare_letters else _dead_letter_row
            columns = zip(*map(row, batch.dead_letters), strict=True)
            await connection.execute(DEAD_LETTERS, *columns, batch.now)
        await _write_facts(connection, facts.statements)
        await _touch(connection, batch, facts.fold)

    async def _claim(self, connection: Connection, batch: Batch) -> None:
        rows = [
            (a.after.topic, a.after.partition, a.before.next_offset, a.before.epoch, a.after.next_offset,
             a.after.last_offset, a.after.last_timestamp_ms, a.after.last_crc, a.records)
            for a in batch.advances
        ]  # fmt: skip
        claimed = await connection.fetch(CLAIM, self._group, *zip(*rows, strict=True), batch.now)
        if len(claimed) != len(rows):
            held = {(row["topic"], row["partition"]) for row in claimed}
            raise LostPartition([a.before.place for a in batch.advances if a.before.place not in held])

    async def _is_stored(self, advances: Sequence[Advance]) -> bool:
        """Whether a transaction whose answer was lost took place: all partitions moved as we meant, or none did."""
        wanted = {a.before.place: a for a in advances}
        async with raw_connection(self._engine) as connection:
            rows = await connection.fetch(POSITIONS, self._group, *zip(*wanted, strict=True))
        found = {(r["topic"], r["partition"]): (r["next_offset"], r["epoch"], r["last_crc"]) for r in rows}
        after = [found.get(p) == (a.after.next_offset, a.after.epoch, a.after.last_crc) for p, a in wanted.items()]
        before = [found.get(p, ())[:2] == (a.before.next_offset, a.before.epoch) for p, a in wanted.items()]
        if not all(after) and not all(before):
            raise LostPartition([place for place, same in zip(wanted, before, strict=True) if not same])
        return all(after)


async def _write_facts(connection: Connection, facts: Iterable[Statement]) -> None:
    for sql, arguments in facts:
        await connection.execute(sql, *arguments)


async def _touch(connection: Connection, batch: Batch, folded: Fold) -> None:
    if not folded.accounts:
        return
    if batch.catching_up:
        await connection.execute(TOUCHED_EVERYONE, batch.now, folded.oldest_arrival)
        return
    urgent = set(folded.urgent)
    if urgent:
        await connection.execute(TOUCHED, list(folded.urgent), True, folded.oldest_arrival, batch.now)
    others = [account for account in folded.accounts if account not in urgent]
    if others:
        await connection.execute(TOUCHED, others, False, folded.oldest_arrival, batch.now)


def _dead_letter_row(letter: DeadLetter) -> tuple[Any, ...]:
    record = letter.record
    headers = [[_printable(name.encode()), _printable(value)] for name, value in record.headers[:MAX_HEADERS]]
    errors = [
        {"item": 0, "field": p.field, "problem": p.problem, "remedy": p.remedy} for p in letter.error.problems
    ]  # fmt: skip
    return (
        record.topic, record.partition, record.offset, _stamp(record.timestamp_ms), record.key, record.value,
        _json(headers), _json(errors), letter.error.reason,
    )  # fmt: skip


def _bare_letter_row(letter: DeadLetter) -> tuple[Any, ...]:
    """Of a record whose headers or faults the database does not take: what is needed to look at it."""
    record = letter.record
    return (
        record.topic, record.partition, record.offset, None, record.key, record.value, "[]", _json([NOT_SHOWN]),
        letter.error.reason,
    )  # fmt: skip


def _stamp(timestamp_ms: int) -> datetime | None:
    """A record's time, which is its producer's and may be anything; None when it is no time."""
    return from_us(timestamp_ms * 1000) if 0 <= timestamp_ms <= LATEST_MS else None


def _printable(raw: bytes) -> str:
    return raw[:1000].decode(errors="backslashreplace")


def _json(value: object) -> str:
    """JSON that jsonb takes: it knows no NUL."""
    return _encode(value).decode().replace("\\u0000", "\\ufffd")
