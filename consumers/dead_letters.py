"""The dead letters as a table: what is kept for how long, and how many wait. People work them off in
``service/dead_letters``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumers.store import raw_connection

EXPIRE: Final = """
DELETE FROM dead_letters WHERE dead_letter_id IN
    (SELECT dead_letter_id FROM dead_letters WHERE status <> 'open' AND closed_at < $1 ORDER BY closed_at LIMIT $2
     FOR UPDATE SKIP LOCKED)
"""
OPEN: Final = text("SELECT reason, count(*) AS letters FROM dead_letters WHERE status = 'open' GROUP BY reason")


async def expire(engine: AsyncEngine, *, now: datetime, days: int, most: int = 10_000) -> int:
    """Deletes at most ``most`` letters that were retried or discarded so many days ago; returns how many. What is open
    is kept until somebody says what becomes of it."""
    async with raw_connection(engine) as connection:
        status: str = await connection.execute(EXPIRE, now - timedelta(days=days), most)
    return int(status.rpartition(" ")[2])


async def count_open(connection: AsyncConnection) -> Mapping[str, int]:
    """Open letters by reason."""
    return {row.reason: row.letters for row in await connection.execute(OPEN)}
