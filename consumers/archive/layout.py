"""How an archived event looks, which file it belongs into, and how a file is made. Pure.

A file holds one kind of event, of one day (UTC, event time); of days with few events, which an import of old history
brings by the hundred, one month. Within it the rows are sorted by account, so that a reader of one account meets
few row groups.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import msgspec
import polars as pl

from consumers.events import Event, decode

TIME: Final = pl.Datetime("us", "UTC")
SCHEMA: Final[dict[str, Any]] = {
    "account_id": pl.String,
    "user_id": pl.String,
    "event_id": pl.String,
    "source": pl.String,
    "kind": pl.String,
    "timestamp": TIME,
    "arrived_at": TIME,
    "topic": pl.String,
    "partition": pl.Int32,
    "offset": pl.Int64,
    "import_id": pl.String,
    "import_row": pl.Int64,
    "event": pl.Binary,
}
"""The columns of every file, in their order."""
ORDER: Final = ("account_id", "timestamp", "topic", "partition", "offset")
FOLDER: Final = "events"
ROW_GROUP: Final = 20_000
ZSTD_LEVEL: Final = 6
FEW_ROWS: Final = 1_000
FEW_DAYS: Final = 3
LONGEST: Final = 16 * 1024 * 1024
"""Of an event's bytes: what the door let in is let in here, whatever its limit was then."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An archived event: what one looks for in columns, and the whole canonical event as JSON in ``event``."""

    account_id: str
    user_id: str | None
    event_id: str
    source: str
    kind: str
    timestamp: datetime
    arrived_at: datetime
    topic: str
    partition: int
    offset: int
    import_id: str | None
    import_row: int | None
    event: bytes

    @property
    def arrived_us(self) -> int:
        """When it reached us, epoch µs: the second half of ``fold.Arrival``."""
        return (self.arrived_at - EPOCH) // _MICROSECOND

    def decoded(self) -> Event:
        return decode(self.event, LONGEST)


@dataclass(frozen=True, kw_only=True, order=True)
class Slot:
    """What belongs into one file: a kind, and the days from ``first_day`` to ``last_day`` (one day or one month)."""

    first_day: date
    last_day: date
    kind: str

    @property
    def folder(self) -> str:
        day = self.first_day
        return day.isoformat() if day == self.last_day else f"{day.year:04d}-{day.month:02d}"

    def new_path(self) -> str:
        """A name that no file has had before."""
        return f"{FOLDER}/{self.folder}/{self.kind}/{uuid4().hex}.parquet"


@dataclass(frozen=True, kw_only=True)
class ArchiveFile:
    """A file that counts."""

    path: str
    slot: Slot
    rows: int
    size: int
    first_account: str
    last_account: str
    created_at: datetime


def month_of(day: date) -> tuple[date, date]:
    """First and last day of its month."""
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def frame_of(columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """Columns as in ``SCHEMA``; times as instants or as epoch µs."""
    return pl.DataFrame({name: pl.Series(name, columns[name], dtype=type_) for name, type_ in SCHEMA.items()})


def frame_of_rows(rows: Sequence[Row]) -> pl.DataFrame:
    return frame_of({name: [getattr(row, name) for row in rows] for name in SCHEMA})


def rows_of(frame: pl.DataFrame) -> Iterator[Row]:
    names = tuple(SCHEMA)
    for values in frame.iter_rows():
        yield Row(**dict(zip(names, values, strict=True)))


def split(frame: pl.DataFrame) -> list[tuple[Slot, pl.DataFrame]]:
    """The files that ``frame`` becomes, sorted; every row is in exactly one."""
    if frame.is_empty():
        return []
    day = pl.col("timestamp").dt.date()
    days = frame.group_by("kind", day.alias("day")).len()
    days = days.with_columns(pl.col("day").dt.month_start().alias("month"), (pl.col("len") < FEW_ROWS).alias("few"))
    days = days.with_columns(pl.col("few").sum().over("kind", "month").alias("few_days"))
    days = days.with_columns((pl.col("few") & (pl.col("few_days") > FEW_DAYS)).alias("by_month"))
    days = days.with_columns(pl.when("by_month").then("month").otherwise("day").alias("first"))
    placed = frame.with_columns(day.alias("day")).join(
        days.select("kind", "day", "first", "by_month"), on=["kind", "day"]
    )
    found: list[tuple[Slot, pl.DataFrame]] = []
    for (kind, first, by_month), part in placed.group_by("kind", "first", "by_month"):
        assert isinstance(first, date)
        slot = Slot(first_day=first, last_day=month_of(first)[1] if by_month else first, kind=str(kind))
        found.append((slot, part.select(SCHEMA.keys())))
    return sorted(found, key=lambda item: item[0])


def to_parquet(frame: pl.DataFrame) -> bytes:
    """The bytes of a file: sorted, compressed, with statistics per row group."""
    buffer = io.BytesIO()
    frame.sort(ORDER).write_parquet(
        buffer, compression="zstd", compression_level=ZSTD_LEVEL, statistics=True, row_group_size=ROW_GROUP
    )
    return buffer.getvalue()


def from_parquet(raw: bytes, accounts: Collection[str] | None = None) -> pl.DataFrame:
    """All rows, or those of some accounts: row groups without them are not unpacked."""
    if accounts is None:
        return pl.read_parquet(io.BytesIO(raw), columns=list(SCHEMA))
    wanted = pl.any_horizontal([pl.col("account_id") == account for account in sorted(accounts)])
    return pl.scan_parquet(io.BytesIO(raw)).filter(wanted).select(SCHEMA.keys()).collect()


def described(path: str, slot: Slot, frame: pl.DataFrame, size: int, now: datetime) -> ArchiveFile:
    accounts = frame["account_id"]
    return ArchiveFile(
        path=path, slot=slot, rows=frame.height, size=size,
        first_account=str(accounts.min()), last_account=str(accounts.max()),
        created_at=now,
    )  # fmt: skip
