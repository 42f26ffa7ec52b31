"""Setting a score by hand, for the API and the board: the override and its note in the audit, in one transaction.

The audit names the override by its number: neither the account nor the reason, which may speak of people, is in it.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from health import overrides
from health.overrides import Standing
from service import audit


async def put(
    conn: AsyncConnection, account_id: str, *, score: float, reason: str, until: datetime, actor: str, now: datetime
) -> Standing:
    """Raises OverrideRefused or NoSuchAccount (``health/overrides.py``)."""
    made = await overrides.put(conn, account_id, score=score, reason=reason, author=actor, expires_at=until, now=now)
    detail = {"score": made.score, "expires_at": made.expires_at.isoformat()}
    await audit.note(conn, actor=actor, action="override.set", subject=str(made.override_id), detail=detail, now=now)
    return made


async def clear(conn: AsyncConnection, account_id: str, *, actor: str, now: datetime) -> bool:
    """Whether there was one to take back. Raises NoSuchAccount."""
    ended = await overrides.clear(conn, account_id, author=actor, now=now)
    if ended is not None:
        await audit.note(conn, actor=actor, action="override.ended", subject=str(ended), detail={}, now=now)
    return ended is not None
