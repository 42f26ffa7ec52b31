"""Joins the many small files that live flushes leave: per day and kind, and small days of a past month per month."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import polars as pl

from consumers.archive.files import Archive, ArchiveChanged
from consumers.archive.layout import FEW_ROWS, ArchiveFile, Slot, described, month_of, to_parquet
from consumers.archive.reading import read

FULL_ROWS: Final = 100_000
MOST_ROWS: Final = 250_000  # of one joined file: what is in memory at once
CROWDED: Final = 8
SETTLED: Final = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Join:
    """These files become one of ``slot``."""

    slot: Slot
    files: tuple[ArchiveFile, ...]


def plan(files: Iterable[ArchiveFile], now: datetime) -> list[Join]:
    """What to join now: eight small files of a slot or, once the slot's days are over and nothing has come for an
    hour, any two. Pure."""
    small: defaultdict[Slot, list[ArchiveFile]] = defaultdict(list)
    today = now.astimezone(UTC).date()
    for file in files:
        if file.rows < FULL_ROWS:
            small[_slot(file, today)].append(file)
    joins: list[Join] = []
    for slot, found in sorted(small.items()):
        settled = slot.last_day < today and max(file.created_at for file in found) < now - SETTLED
        enough = 2 if settled else CROWDED
        joins += [Join(slot=slot, files=tuple(lot)) for lot in _lots(found) if len(lot) >= enough]
    return joins


def _slot(file: ArchiveFile, today: date) -> Slot:
    """Where it belongs now: a small day of a month that is over into the month."""
    first, last = month_of(file.slot.first_day)
    if file.rows < FEW_ROWS and last < today:
        return Slot(first_day=first, last_day=last, kind=file.slot.kind)
    return file.slot


def _lots(files: list[ArchiveFile]) -> list[list[ArchiveFile]]:
    lots: list[list[ArchiveFile]] = [[]]
    rows = 0
    for file in files:
        if rows + file.rows > MOST_ROWS:
            lots.append([])
            rows = 0
        lots[-1].append(file)
        rows += file.rows
    return lots


async def compact(archive: Archive, now: datetime, most: int = 50) -> int:
    """Joins what is to be joined, at most ``most`` files' worth of work; returns how many files went. Safe beside
    readers, who find the old files for a while, and beside erasures, of which one wins. Raises StoreAway."""
    gone = 0
    for join in plan(await archive.files(), now)[:most]:
        try:
            frame = pl.concat([await read(archive, file) for file in join.files])
        except ArchiveChanged:
            continue
        raw = await asyncio.to_thread(to_parquet, frame)
        path = join.slot.new_path()
        await archive.put(path, raw)
        # As old as the newest in it: files of a slot are read in the order in which their events came.
        joined = described(path, join.slot, frame, len(raw), max(file.created_at for file in join.files))
        if await archive.replace([file.path for file in join.files], [joined], now):
            gone += len(join.files)
        else:
            await archive.delete([path])
    return gone
