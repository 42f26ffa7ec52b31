"""Erases from the archive, and reads a subject's events out of it. The tombstones say what may stay of an event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Final

from msgspec.structs import replace

from consumers.archive.files import Archive
from consumers.archive.layout import Row
from consumers.archive.reading import scan
from consumers.archive.rewriting import rewrite
from consumers.dedup import event_hash
from consumers.erasure.facts import Counts
from consumers.erasure.subjects import Subject
from consumers.erasure.tombstones import Tombstones
from consumers.events import encode

ERASED_ROWS: Final = "archived events"


async def erase(archive: Archive, subject: Subject, erased: Tombstones, now: datetime) -> Counts:
    """Rewrites the files that hold events of the subject. May be done again. Raises ArchiveError."""

    def change(row: Row) -> Row | None:
        event = row.decoded()
        left = erased.apply(event, row.arrived_us)
        if left is None or left is event:
            return None if left is None else row
        return replace(row, user_id=left.user_id, event=encode(left))

    done = await rewrite(archive, change, now=now, accounts=_accounts(subject), users=_users(subject))
    return {ERASED_ROWS: done.erased + done.changed}


async def count(archive: Archive, subject: Subject) -> Counts:
    """Events of the subject's accounts and of the user: at most so many are erased or cleaned."""
    found = 0
    async for _ in events(archive, subject):
        found += 1
    return {ERASED_ROWS: found}


async def events(archive: Archive, subject: Subject) -> AsyncIterator[Row]:
    """Of an account all; of a user those that the user did."""
    if subject.user_id is None:
        async for row in scan(archive, accounts=_accounts(subject)):
            yield row
        return
    async for row in scan(archive, users=_users(subject)):
        if subject.account_id in {None, row.account_id}:
            yield row


async def hashes(archive: Archive, account_id: str) -> dict[date, frozenset[int]]:
    """By event day, those of the account's archived events."""
    found: dict[date, set[int]] = {}
    async for row in scan(archive, accounts=[account_id]):
        found.setdefault(row.timestamp.astimezone(UTC).date(), set()).add(event_hash(row.decoded()))
    return {day: frozenset(seen) for day, seen in found.items()}


def _accounts(subject: Subject) -> list[str]:
    """Of a user: where others may have named the user."""
    return [subject.account_id or ""] if subject.user_id is None else list(subject.accounts)


def _users(subject: Subject) -> list[str] | None:
    return None if subject.user_id is None else list(subject.ids)
