"""Where the archive lies: the object store that holds its files, and the rows of Postgres that say which of them count.

Every wait is bounded; "the store does not answer" is always ``StoreAway``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.archive.layout import FOLDER, ArchiveFile, Slot
from consumers.store import raw_connection

SCHEMES: Final = ("file", "s3", "s3a", "gs", "az", "abfs", "abfss")
ASK_SECONDS: Final = 30.0
ALL_SECONDS: Final = 90.0
REPLAY_LOCK: Final = 7_450_991_014
"""An advisory lock that a replay holds: it may read old files for hours."""

REPLAYING: Final = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND (classid::bigint << 32) | objid::bigint = $1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""

FILES: Final = """
SELECT path, kind, first_day, last_day, rows, bytes, first_account, last_account, created_at FROM archive_files
WHERE replaced_at IS NULL AND ($1::date IS NULL OR last_day >= $1) AND ($2::date IS NULL OR first_day <= $2)
    AND ($3::text[] IS NULL OR kind = ANY($3))
ORDER BY first_day, last_day, kind, created_at, path
"""
LIST: Final = """
INSERT INTO archive_files (path, kind, first_day, last_day, rows, bytes, first_account, last_account, created_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::date[], $4::date[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
                     $9::timestamptz[]) AS u
"""
REPLACE: Final = """
UPDATE archive_files SET replaced_at = $2 WHERE path = ANY($1::text[]) AND replaced_at IS NULL RETURNING path
"""
REPLACED: Final = "SELECT path FROM archive_files WHERE replaced_at < $1"
UNLIST: Final = "DELETE FROM archive_files WHERE path = ANY($1::text[]) AND replaced_at IS NOT NULL"
LISTED: Final = "SELECT path FROM archive_files WHERE path = ANY($1::text[])"


class ArchiveError(Exception):
    """
    ArchiveError
    ├── StoreAway        no (timely) answer: try again later
    ├── FileGone         the store has no such file (any more)
    └── ArchiveChanged   files were replaced while they were read: begin again
    """


class StoreAway(ArchiveError):
    """The object store did not answer, or refused."""


class FileGone(ArchiveError):
    """No such file."""


class ArchiveChanged(ArchiveError):
    """An erasure replaced files that were being read."""


@asynccontextmanager
async def _answered(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ALL_SECONDS):
            yield
    except (NotFoundError, FileNotFoundError) as error:
        raise FileGone(what) from error
    except TimeoutError as error:
        raise StoreAway(f"{what}: no answer within {ALL_SECONDS:g} s") from error
    except (BaseError, OSError) as error:
        # The library's words hold whole requests; its first line says enough.
        raise StoreAway(f"{what}: {type(error).__name__}: {str(error).splitlines()[0][:300]}") from error


class Archive:
    """An archive: ``engine`` knows which files count, ``store`` holds them."""

    def __init__(self, engine: AsyncEngine, store: ObjectStore) -> None:
        self.engine = engine
        self._store = store
        prefix = store.prefix if isinstance(store, LocalStore) else None
        self._root = None if prefix is None else Path(prefix)

    async def put(self, path: str, content: bytes) -> None:
        """Returns when the file will outlive a crash of the machine. Raises StoreAway."""
        async with _answered(f"writing {path}"):
            await obstore.put_async(self._store, path, content)
            if self._root is not None:
                await asyncio.to_thread(_to_disk, self._root, path)

    async def get(self, path: str) -> bytes:
        """Raises StoreAway, FileGone."""
        async with _answered(f"reading {path}"):
            answer = await obstore.get_async(self._store, path)
            return bytes(await answer.bytes_async())

    async def delete(self, paths: Sequence[str]) -> None:
        """Those that are gone already are no fault. Raises StoreAway."""
        for path in paths:
            try:
                async with _answered(f"deleting {path}"):
                    await obstore.delete_async(self._store, path)
            except FileGone:
                pass

    async def stored(self) -> dict[str, datetime]:
        """Every file of the store, listed or not, and when it was written. Raises StoreAway."""
        found: dict[str, datetime] = {}
        async with _answered("listing files"):
            async for page in obstore.list(self._store, FOLDER):
                found.update({entry["path"]: entry["last_modified"].astimezone(UTC) for entry in page})
        return found

    async def files(
        self, *, first_day: date | None = None, last_day: date | None = None, kinds: Collection[str] | None = None
    ) -> list[ArchiveFile]:
        """Those that count and may hold events of these days and kinds, in the one stable order."""
        async with raw_connection(self.engine) as connection:
            rows = await connection.fetch(FILES, first_day, last_day, None if kinds is None else sorted(kinds))
        return [_file(row) for row in rows]

    async def replace(self, old: Sequence[str], new: Sequence[ArchiveFile], now: datetime) -> bool:
        """From now on ``new`` counts instead of ``old``. False: one of them was replaced already, nothing is done."""
        async with raw_connection(self.engine) as connection:
            transaction = connection.transaction()
            await transaction.start()
            done = False
            try:
                replaced = await connection.fetch(REPLACE, sorted(old), now)
                done = len(replaced) == len(old)
                if done:
                    await list_files(connection, new)
            finally:
                await (transaction.commit() if done else transaction.rollback())
        return done

    async def purge(self, before: datetime) -> int:
        """Deletes the files that were replaced before then, and their rows; returns how many."""
        async with raw_connection(self.engine) as connection:
            paths = [row["path"] for row in await connection.fetch(REPLACED, before)]
        if paths:
            await self.delete(paths)
            async with raw_connection(self.engine) as connection:
                await connection.execute(UNLIST, paths)
        return len(paths)

    async def sweep(self, before: datetime) -> int:
        """Deletes files that no row names and that were written before then: what a crash left; returns how many."""
        old = sorted(path for path, written in (await self.stored()).items() if written < before)
        async with raw_connection(self.engine) as connection:
            listed = {row["path"] for row in await connection.fetch(LISTED, old)}
        left = [path for path in old if path not in listed]
        await self.delete(left)
        return len(left)


def open_archive(engine: AsyncEngine, url: str) -> Archive:
    """By its address: file:///folder, s3://bucket/folder, gs://…, az://…; keys come from the environment, as with the
    stores' own tools. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"the archive's address must begin with one of {', '.join(f'{s}://' for s in SCHEMES[:-3])}")
    try:
        if parts.scheme == "file":
            return Archive(engine, LocalStore(unquote(parts.path), mkdir=True))
        # Plain HTTP only where the operator's own endpoint says so.
        timeouts: Any = {
            "timeout": timedelta(seconds=ASK_SECONDS),
            "connect_timeout": timedelta(seconds=5),
            "allow_http": True,
        }
        retries: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=ASK_SECONDS)}
        return Archive(engine, from_url(url, client_options=timeouts, retry_config=retries))
    except (BaseError, OSError) as error:
        raise ValueError(f"the archive cannot be opened: {str(error).splitlines()[0][:300]}") from None


async def list_files(connection: Any, files: Sequence[ArchiveFile]) -> None:
    """From this transaction's end on they count."""
    if files:
        rows = [
            (
                f.path,
                f.slot.kind,
                f.slot.first_day,
                f.slot.last_day,
                f.rows,
                f.size,
                f.first_account,
                f.last_account,
                f.created_at,
            )
            for f in files
        ]
        await connection.execute(LIST, *zip(*rows, strict=True))


def _file(row: Any) -> ArchiveFile:
    slot = Slot(first_day=row["first_day"], last_day=row["last_day"], kind=row["kind"])
    return ArchiveFile(
        path=row["path"], slot=slot, rows=row["rows"], size=row["bytes"],
        first_account=row["first_account"], last_account=row["last_account"],
        created_at=row["created_at"],
    )  # fmt: skip


def _to_disk(root: Path, path: str) -> None:
    """The file, and the folders that lead to it."""
    place = root / path
    for part in (place, *place.parents):
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if part == root:
            break
