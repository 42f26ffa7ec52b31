"""Changes what is archived: for erasures. A file is replaced as a whole, and its old content is deleted at once.

A new file is written, one transaction lets it count instead of the old one, then the old one is deleted. A crash before
the transaction leaves a file that does not count, a crash after it one that no longer does: both are swept away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from consumers.archive.files import Archive, ArchiveChanged
from consumers.archive.layout import (
    ArchiveFile,
    Row,
    described,
    frame_of_rows,
    rows_of,
    to_parquet,
)
from consumers.archive.reading import matching, may_hold, read

Change = Callable[[Row], Row | None]
"""The row as it shall be; itself: stays; None: is erased. Kind and timestamp must stay."""


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What was done."""

    files: int = 0
    changed: int = 0
    erased: int = 0


async def rewrite(
    archive: Archive,
    change: Change,
    *,
    now: datetime,
    accounts: Collection[str] | None = None,
    users: Collection[str] | None = None,
) -> Rewritten:
    """Applies ``change`` to every archived row (with ``accounts`` or ``users``: to those of any of them).

    When it returns, no file of the store that counted before holds what was changed or erased; also those that were
    replaced earlier and waited for their last readers are deleted. May be called again after a failure. Raises
    StoreAway. A file that appears while it runs is looked at, too; one that is written after it returned is the
    writers' business, which know the tombstones.
    """
    done = Rewritten()
    seen: set[str] = set()
    while fresh := [file for file in await archive.files() if file.path not in seen]:
        for file in fresh:
            if accounts is None or users is not None or may_hold(file, accounts):
                # One replaced meanwhile is passed over: what stands for it now is among the next.
                with contextlib.suppress(ArchiveChanged):
                    done = await _one(archive, file, change, now, accounts, users, done)
            seen.add(file.path)
    await archive.purge(now + timedelta(days=1))
    return done


async def _one(
    archive: Archive,
    file: ArchiveFile,
    change: Change,
    now: datetime,
    accounts: Collection[str] | None,
    users: Collection[str] | None,
    done: Rewritten,
) -> Rewritten:
    frame = await read(archive, file)
    numbered = frame.with_row_index("place")
    wanted = matching(numbered, accounts=accounts, users=users)
    if wanted.is_empty():
        return done
    places = wanted["place"].to_list()
    before = list(rows_of(wanted.drop("place")))
    after = [change(row) for row in before]
    touched = [place for place, old, new in zip(places, before, after, strict=True) if new is not old]
    if not touched:
        return done
    kept = numbered.filter(~pl.col("place").is_in(touched)).drop("place")
    changed = [new for old, new in zip(before, after, strict=True) if new is not None and new is not old]
    frame = pl.concat([kept, frame_of_rows(changed)]) if changed else kept
    new_files = []
    if not frame.is_empty():
        path = file.slot.new_path()
        raw = await asyncio.to_thread(to_parquet, frame)
        await archive.put(path, raw)
        new_files = [described(path, file.slot, frame, len(raw), file.created_at)]
    if not await archive.replace([file.path], new_files, now):
        await archive.delete([new.path for new in new_files])
        raise ArchiveChanged(file.path)
    return Rewritten(
        files=done.files + 1,
        changed=done.changed + len(changed),
        erased=done.erased + len(touched) - len(changed),
    )
