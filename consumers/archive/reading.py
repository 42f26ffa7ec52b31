"""Reads the archive: whole files as columns, or event by event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from consumers.archive.files import Archive, ArchiveChanged, FileGone
from consumers.archive.layout import ArchiveFile, Row, from_parquet, rows_of

_MICROSECOND: Final = timedelta(microseconds=1)
FEW: Final = 20
"""Accounts up to which it pays to look for them while unpacking."""


async def scan(
    archive: Archive,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    kinds: Collection[str] | None = None,
    accounts: Collection[str] | None = None,
    users: Collection[str] | None = None,
) -> AsyncIterator[Row]:
    """Archived events with ``since`` <= timestamp < ``until``, in a stable order: by days and kind, within a file by
    account and time. With ``accounts`` or ``users`` those of any of them. One file at a time is in memory.

    What was archived when the scan began is read. An event that its producer sent twice is there twice. Raises
    StoreAway, and ArchiveChanged when an erasure came between.
    """
    async for _, frame in frames(archive, since=since, until=until, kinds=kinds, accounts=accounts, users=users):
        for row in rows_of(frame):
            yield row


async def frames(
    archive: Archive,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    kinds: Collection[str] | None = None,
    accounts: Collection[str] | None = None,
    users: Collection[str] | None = None,
) -> AsyncIterator[tuple[ArchiveFile, pl.DataFrame]]:
    """As ``scan``, file by file as columns (``layout.SCHEMA``); files without a matching row are left out."""
    for file in await files(archive, since=since, until=until, kinds=kinds):
        if users is None and accounts is not None and not may_hold(file, accounts):
            continue
        few = accounts if users is None and accounts is not None and 0 < len(accounts) <= FEW else None
        frame = await read(archive, file, few)
        wanted = matching(frame, since=since, until=until, accounts=accounts, users=users)
        if not wanted.is_empty():
            yield file, wanted


async def files(
    archive: Archive, *, since: datetime | None, until: datetime | None, kinds: Collection[str] | None = None
) -> list[ArchiveFile]:
    """Those that may hold such events."""
    first = None if since is None else since.astimezone(UTC).date()
    last = None if until is None else (until - _MICROSECOND).astimezone(UTC).date()
    return await archive.files(first_day=first, last_day=last, kinds=kinds)


async def read(archive: Archive, file: ArchiveFile, accounts: Collection[str] | None = None) -> pl.DataFrame:
    """All its rows, or those of a few accounts. Raises StoreAway, ArchiveChanged."""
    try:
        raw = await archive.get(file.path)
    except FileGone as error:
        raise ArchiveChanged(f"{file.path} was replaced while the archive was read: begin again") from error
    return await asyncio.to_thread(from_parquet, raw, accounts)


def may_hold(file: ArchiveFile, accounts: Collection[str]) -> bool:
    return any(file.first_account <= account <= file.last_account for account in accounts)


def matching(
    frame: pl.DataFrame,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    accounts: Collection[str] | None = None,
    users: Collection[str] | None = None,
) -> pl.DataFrame:
    """The rows within the time that are of one of the accounts or of one of the users. Pure."""
    if since is not None:
        frame = frame.filter(pl.col("timestamp") >= since)
    if until is not None:
        frame = frame.filter(pl.col("timestamp") < until)
    if accounts is None and users is None:
        return frame
    of_account = pl.col("account_id").is_in(sorted(accounts or ()))
    of_user = pl.col("user_id").is_in(sorted(users or ())).fill_null(False)
    return frame.filter(of_account | of_user)
