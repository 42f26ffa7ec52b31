"""Erases from what the consumers keep beside the facts: dead letters, events and users that wait for an account, and
what recognises events that were seen.

Dead letters and waiting events are bytes in any format: they are decoded, looked through, and deleted whole when they
name the subject. Compressed or encrypted content cannot be looked into.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import Table, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from consumers.erasure.facts import Counts, remove
from consumers.erasure.subjects import Mentions, Subject
from consumers.tables import dead_letters, dedup_batches, user_accounts, waiting_events

PAGE: Final = 100
_LITTLE: Final = np.dtype("<u8")


async def erase_late(conn: AsyncConnection, subject: Subject, before: datetime) -> Counts:
    """Bindings and waiting events that a request from before the erasure has stored since."""
    u, w = user_accounts.c, waiting_events.c
    bound, waiting = _of(subject, u), _of(subject, w)
    return {
        "user_accounts": await remove(conn, user_accounts, bound & (u.updated_at <= before), change=True),
        "waiting_events": await remove(conn, waiting_events, waiting & (w.created_at <= before), change=True),
    }


async def erase(conn: AsyncConnection, subject: Subject, *, change: bool = True) -> Counts:
    """In the caller's transaction. Without ``change`` only counts."""
    d, w = dead_letters.c, waiting_events.c
    counts = {
        "dead_letters": await _mentioned(
            conn, dead_letters, subject, (d.key, d.value, d.sent_value, d.headers, d.errors, d.note), change=change
        ),
        "waiting_events": await _mentioned(
            conn, waiting_events, subject, (w.user_id, w.account_id, w.event), change=change
        ),
    }
    counts["user_accounts"] = await remove(conn, user_accounts, _of(subject, user_accounts.c), change=change)
    return counts


def _of(subject: Subject, columns: Any) -> Any:
    """The rows of an account, or of a user: in one account, or in all."""
    in_account = columns.account_id == subject.account_id
    if subject.user_id is None:
        return in_account
    of_user = columns.user_id.in_(subject.ids)
    return of_user if subject.account_id is None else of_user & in_account


async def _mentioned(
    conn: AsyncConnection, table: Table, subject: Subject, columns: tuple[Any, ...], *, change: bool
) -> int:
    """Deletes the rows that name the subject in one of ``columns``; returns how many."""
    mentions = Mentions(subject)
    (key,) = table.primary_key.columns
    last, count = -1, 0
    while rows := (await conn.execute(select(key, *columns).where(key > last).order_by(key).limit(PAGE))).all():
        last = rows[-1][0]
        named = [row[0] for row in rows if any(_names(value, mentions) for value in row[1:])]
        count += len(named)
        if named and change:
            await conn.execute(delete(table).where(key.in_(named)))
    return count


def _names(value: Any, mentions: Mentions) -> bool:
    return mentions(value) if isinstance(value, bytes) else mentions.value(value)


async def erase_seen(conn: AsyncConnection, hashes: Mapping[date, frozenset[int]]) -> Counts:
    """Takes the hashes out of ``dedup_batches``; returns in how many rows. Each stands for (source, account, event id)
    and cannot be turned back; those of events that no fact names and no archive holds stay until the window ends."""
    t = dedup_batches.c
    count = 0
    for day, wanted in sorted(hashes.items()):
        gone = np.array(sorted(wanted), dtype=np.uint64)
        last = -1
        while True:
            page = select(t.dedup_id, t.hashes).where(t.event_day == day, t.dedup_id > last).order_by(t.dedup_id)
            rows = (await conn.execute(page.limit(PAGE).with_for_update())).all()
            if not rows:
                break
            last = rows[-1].dedup_id
            for row in rows:
                present = np.frombuffer(row.hashes, dtype=_LITTLE)
                kept = present[~np.isin(present, gone)]
                if len(kept) == len(present):
                    continue
                count += 1
                this = t.dedup_id == row.dedup_id
                smaller = update(dedup_batches).where(this).values(hashes=kept.tobytes())
                await conn.execute(smaller if len(kept) else delete(dedup_batches).where(this))
    return {"dedup_batches": count}
