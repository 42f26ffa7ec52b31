"""The audit: who did what to keys, rules, data and people's rights; appended here, changed by nobody.

Rows are written in the transaction of what they speak of, so that neither exists without the other. A trigger refuses
UPDATE, DELETE and TRUNCATE: a fault of the program, or a hasty statement, changes nothing. Who owns the database can
take the trigger away; against them only a copy elsewhere helps.

What people do with alerts is not noted twice: every transition of an alert has its actor and its reason already.

Nothing in the audit may be about a user or an account in plain words, for it is never erased: name rows by their own
numbers, and accounts and users by the hashes of ``consumers/erasure``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import and_, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.auth import Key
from service.queries import MAX_LIMIT, cursors
from service.tables import audit

COMMAND: Final = "command"
"""The actor of what was done on the command line; those of the API are ``key:<name>``, of the board
``board:<name>``."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done."""

    audit_id: int
    at: datetime
    actor: str
    action: str  # what was done: key.created, rules.changed, erasure.requested, …
    subject: str  # to what: a key's id, a version, a number
    detail: dict[str, Any]


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[AuditEntry, ...]
    next_cursor: str | None


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    actors: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def note(
    conn: AsyncConnection, *, actor: str, action: str, subject: str, detail: Mapping[str, Any], now: datetime
) -> None:
    """Appends a row in the caller's transaction. ``action`` reads ``thing.done``; ``detail`` is JSON, small, and
    without secrets, users or accounts."""
    values = {"at": now, "actor": actor, "action": action, "subject": subject, "detail": dict(detail)}
    await conn.execute(insert(audit).values(values))


async def key_created(conn: AsyncConnection, key: Key, *, actor: str, now: datetime) -> None:
    until = None if key.expires_at is None else key.expires_at.isoformat()
    detail = {"name": key.name, "scopes": list(key.scopes), "expires_at": until}
    await note(conn, actor=actor, action="key.created", subject=key.key_id, detail=detail, now=now)


async def key_revoked(conn: AsyncConnection, key_id: str, *, actor: str, now: datetime) -> None:
    await note(conn, actor=actor, action="key.revoked", subject=key_id, detail={}, now=now)


async def entries(conn: AsyncConnection, where: AuditFilter, cursor: str | None, limit: int) -> AuditPage:
    """Newest first. Raises BadCursorError."""
    limit = min(limit, MAX_LIMIT)
    table = audit.c
    query = select(audit)
    if where.actors:
        query = query.where(table.actor.in_(where.actors))
    if where.actions:
        query = query.where(table.action.in_(where.actions))
    if where.subject is not None:
        query = query.where(table.subject == where.subject)
    if where.since is not None:
        query = query.where(table.at >= where.since)
    if where.until is not None:
        query = query.where(table.at < where.until)
    if cursor is not None:
        at, last = cursors.decode(cursor, "audit", datetime, int)
        query = query.where(or_(table.at < at, and_(table.at == at, table.audit_id < last)))
    rows = (
        (await conn.execute(query.order_by(table.at.desc(), table.audit_id.desc()).limit(limit + 1))).mappings().all()
    )
    page = rows[:limit]
    following = cursors.encode("audit", page[-1]["at"], page[-1]["audit_id"]) if len(rows) > limit else None
    return AuditPage(items=tuple(AuditEntry(**row) for row in page), next_cursor=following)
