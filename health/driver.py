"""Statements straight to asyncpg, within the transaction of a SQLAlchemy connection: for what runs for every batch.

SQLAlchemy's way of a statement and its rows costs more than most of them here. Values go as ``$1``, ``$2``, …;
``jsonb`` goes in as text and comes out decoded. Whatever fails is told as SQLAlchemy tells it, without the values.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

_BEGIN = text("SELECT")
_QUOTED = re.compile(r"(invalid input for query argument \$\d+): .*|\nDETAIL: .*", re.DOTALL)
T = TypeVar("T")


async def fetch(conn: AsyncConnection, query: str, *values: Any) -> list[asyncpg.Record]:
    """The rows. Raises DBAPIError, OSError, TimeoutError."""
    return await _told(conn, query, lambda driver: driver.fetch(query, *values))


async def fetchrow(conn: AsyncConnection, query: str, *values: Any, begin: bool = True) -> asyncpg.Record:
    """Of a query that gives one row always. Not ``begin``: without a transaction, for a look that nothing else must
    agree with."""
    row = await _told(conn, query, lambda driver: driver.fetchrow(query, *values), begin=begin)
    assert row is not None, query
    return row


async def execute(conn: AsyncConnection, query: str, *values: Any) -> None:
    await _told(conn, query, lambda driver: driver.execute(query, *values))


async def _told(
    conn: AsyncConnection, query: str, call: Callable[[asyncpg.Connection], Awaitable[T]], *, begin: bool = True
) -> T:
    sync = conn.sync_connection
    assert sync is not None
    driver = cast(asyncpg.Connection, sync.connection.driver_connection)
    if begin and not driver.is_in_transaction():  # SQLAlchemy sends BEGIN with the first statement of its own only
        await conn.execute(_BEGIN)
    try:
        return await call(driver)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        leave_out_values(error)
        if lost := driver.is_closed():
            with contextlib.suppress(DBAPIError):  # by which SQLAlchemy learns that its pool is stale
                await conn.execute(_BEGIN)
        kind = IntegrityError if isinstance(error, asyncpg.IntegrityConstraintViolationError) else DBAPIError
        raise kind(query, None, error, hide_parameters=True, connection_invalidated=lost) from error


def leave_out_values(error: BaseException) -> None:
    """What the server and the driver quote are customers' names, webhooks and hashes: none of a log's business."""
    error.args = tuple(_QUOTED.sub(r"\1", part) if isinstance(part, str) else part for part in error.args)
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None
    if isinstance(error, asyncpg.InterfaceError):
        error.__cause__ = None  # the encoder's own words
