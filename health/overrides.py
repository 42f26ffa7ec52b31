"""Scores that people set: kept with reason, author and expiry, one standing per account, none ever deleted but by an
erasure. ``health/scoring.py`` makes a line of the score of what stands.
"""

# ruff: noqa: S608 - queries are put together from the constants of this file alone

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from health import driver
from health.score_lines import Override
from health.tables import health, score_overrides, touched

MAX_LENGTH = timedelta(days=366)
"""Longer than this nobody knows better than the measures."""
MAX_REASON = 500


class OverrideRefused(Exception):
    """What was asked for cannot be: the field, what is wrong with it, what to do."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field} {problem}: {remedy}")
        self.field, self.problem, self.remedy = field, problem, remedy


class NoSuchAccount(Exception):
    """Nothing is known of the account."""


@dataclass(frozen=True, kw_only=True)
class Standing(Override):
    """An override as it is kept."""

    override_id: int
    created_at: datetime


_COLUMNS: Final = "account_id, override_id, score, reason, author, created_at, expires_at"
_STANDING: Final = f"""
SELECT {_COLUMNS} FROM score_overrides WHERE account_id = ANY($1::text[]) AND ended_at IS NULL AND expires_at > $2
"""
_PAST: Final = f"""
SELECT {_COLUMNS} FROM score_overrides
WHERE account_id = ANY($1::text[]) AND created_at <= $2 AND expires_at > $2 AND (ended_at IS NULL OR ended_at > $2)
"""


async def read(conn: AsyncConnection, account_ids: Sequence[str], now: datetime) -> list[Standing | None]:
    """What stands at ``now``, in the order of ``account_ids``."""
    return await _standing(conn, _STANDING, account_ids, now)


async def read_past(conn: AsyncConnection, account_ids: Sequence[str], at: datetime) -> list[Standing | None]:
    """What stood ``at`` a past instant, in the order of ``account_ids``."""
    return await _standing(conn, _PAST, account_ids, at)


async def _standing(
    conn: AsyncConnection, query: str, account_ids: Sequence[str], at: datetime
) -> list[Standing | None]:
    found = {
        row["account_id"]: Standing(
            override_id=row["override_id"],
            score=float(row["score"]),
            reason=row["reason"],
            author=row["author"],
            created_at=row["created_at"],
            expires_at=row["expires_at"],
        )
        for row in await driver.fetch(conn, query, list(account_ids), at)
    }
    return [found.get(account_id) for account_id in account_ids]


async def put(
    conn: AsyncConnection,
    account_id: str,
    *,
    score: float,
    reason: str,
    author: str,
    expires_at: datetime,
    now: datetime,
) -> Standing:
    """Sets the score until ``expires_at``, in place of what stood, and has the account evaluated at once.

    Raises OverrideRefused or NoSuchAccount.
    """
    if not 0 <= score <= 100 or round(score, 1) != score:
        raise OverrideRefused("score", "is no score", "give 0 to 100 with at most one decimal")
    if not reason.strip() or len(reason) > MAX_REASON:
        raise OverrideRefused("reason", "is missing or long", f"say why, in at most {MAX_REASON} characters")
    if not now < expires_at <= now + MAX_LENGTH:
        raise OverrideRefused("expires_at", "is no end to come", f"give one within {MAX_LENGTH.days} days from now")
    await _end(conn, account_id, author, now)
    row = {
        "account_id": account_id,
        "score": score,
        "reason": reason.strip(),
        "author": author,
        "created_at": now,
        "expires_at": expires_at,
    }
    override_id = await conn.scalar(insert(score_overrides).values(row).returning(score_overrides.c.override_id))
    await _have_evaluated(conn, account_id, now)
    assert override_id is not None
    return Standing(
        override_id=override_id, score=score, reason=reason.strip(), author=author, created_at=now,
        expires_at=expires_at,
    )  # fmt: skip


async def clear(conn: AsyncConnection, account_id: str, *, author: str, now: datetime) -> int | None:
    """Ends what stands; returns its id, None when nothing stood. Raises NoSuchAccount."""
    ended = await _end(conn, account_id, author, now)
    if ended is not None:
        await _have_evaluated(conn, account_id, now)
    return ended


async def _end(conn: AsyncConnection, account_id: str, author: str, now: datetime) -> int | None:
    """One that has expired counts as ended when it expired, by nobody."""
    locked = select(health.c.account_id).where(health.c.account_id == account_id).with_for_update()
    if await conn.scalar(locked) is None:
        raise NoSuchAccount(account_id)
    table = score_overrides
    open_ones = (table.c.account_id == account_id) & table.c.ended_at.is_(None)
    await conn.execute(update(table).where(open_ones, table.c.expires_at <= now).values(ended_at=table.c.expires_at))
    ended: int | None = await conn.scalar(
        update(table).where(open_ones).values(ended_at=now, ended_by=author).returning(table.c.override_id)
    )
    return ended


async def _have_evaluated(conn: AsyncConnection, account_id: str, now: datetime) -> None:
    await conn.execute(insert(touched).values(account_ids=[account_id], urgent=True, created_at=now))
