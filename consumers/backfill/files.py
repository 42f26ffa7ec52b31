"""Rows of history files, streamed: CSV and NDJSON (also gzipped) by line, Parquet by batches. A bad row is not the end.

Files are read twice at least: once for their digest and their number of rows, then for the events; they must not
change meanwhile.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from consumers.backfill.convert import refused
from consumers.backfill.mapping import FileMapping, Format, columns_of
from consumers.events import MAX_EVENT_BYTES

SUFFIXES: Final[Mapping[str, Format]] = {
    ".csv": "csv", ".tsv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet",
}  # fmt: skip
PARQUET_BATCH: Final = 10_000
MAX_LINE_BYTES: Final = 64 * MAX_EVENT_BYTES
"""A longer line of JSON is refused without being kept."""
_BOM: Final = b"\xef\xbb\xbf"
_BLOCK: Final = 1024 * 1024
_BROKEN: Final = (OSError, EOFError, zlib.error)


class FileFault(Exception):
    """A file that cannot be used as a whole; the message names it and what to do."""


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """``cells``: by column; of NDJSON the raw line; an exception when the row cannot be read."""

    row: int
    line: int | None
    cells: Mapping[str, Any] | bytes | Exception


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file as it was when it was looked at. ``entry``: what its rows become; None: canonical events."""

    path: Path
    format: Format
    entry: FileMapping | None
    sha256: str
    rows: int
    size: int
    changed_ns: int

    def read(self, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[SourceRow]:
        """Its rows. ``on_bytes`` is told now and then how far into the file. Raises FileFault."""
        if (self.size, self.changed_ns) != _state(self.path):
            raise FileFault(f"{self.path.name} has changed while it was being sent; run the same command again")
        yield from _rows(self.path, self.format, self.entry, on_bytes)
        on_bytes(self.size)


def format_of(path: Path, entry: FileMapping | None) -> Format:
    """Raises FileFault for a name that tells none."""
    if entry is not None and entry.format is not None:
        return entry.format
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last = suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:]
    if not last or last[0] not in SUFFIXES:
        endings = ", ".join(SUFFIXES)
        raise FileFault(f"{path.name}: its name tells no format ({endings}, also .gz); give `format` in the mapping")
    return SUFFIXES[last[0]]


def survey(path: Path, entry: FileMapping | None) -> SourceFile:
    """Reads the file once. Raises FileFault for what cannot be read, and for columns that the mapping names in vain."""
    kind = format_of(path, entry)
    if entry is None and kind != "ndjson":
        raise FileFault(f"{path.name}: only NDJSON can hold events as they are; give a --mapping for other files")
    try:
        size, changed = _state(path)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        if entry is not None and kind != "ndjson":
            _check_columns(path, entry, _columns(path, kind, entry))
    except OSError as error:
        raise FileFault(f"{path.name} cannot be read: {error.strerror or error}") from None
    rows = sum(1 for _ in _rows(path, kind, entry, lambda _: None))
    return SourceFile(path=path, format=kind, entry=entry, sha256=digest.hexdigest(), rows=rows, size=size,
                      changed_ns=changed)  # fmt: skip


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _check_columns(path: Path, entry: FileMapping, columns: list[str]) -> None:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise FileFault(f"{path.name}: the header has {', '.join(twice)} twice; rename one of them")
    for column, place in columns_of(entry):
        if column not in columns:
            nearest = difflib.get_close_matches(column, columns, n=1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else f"; it has {', '.join(columns)}"
            where = ".".join(str(part) for part in place)
            raise FileFault(f"{path.name} has no column {column!r}, which {where} of {entry.match!r} names{hint}")


def _columns(path: Path, kind: Format, entry: FileMapping) -> list[str]:
    if kind == "parquet":
        import polars as pl

        try:
            return pl.scan_parquet(path).collect_schema().names()
        except pl.exceptions.PolarsError as error:
            raise FileFault(f"{path.name} is not Parquet: {error}") from None
    with _open(path, lambda _: None) as raw:
        try:
            return next(_csv(raw, entry, path), [])
        except (csv.Error, *_BROKEN) as error:
            raise FileFault(f"{path.name}: its header cannot be read: {error}") from None


def _rows(path: Path, kind: Format, entry: FileMapping | None, on_bytes: Callable[[int], None]) -> Iterator[SourceRow]:
    if kind == "parquet":
        assert entry is not None
        yield from _parquet_rows(path, entry, on_bytes)
        return
    try:
        with _open(path, on_bytes) as raw:
            if kind == "ndjson":
                yield from _ndjson_rows(raw)
            else:
                assert entry is not None
                yield from _csv_rows(raw, entry, path)
    except _BROKEN as error:
        raise FileFault(f"{path.name} cannot be read to its end: {error}; fetch it anew") from None


class _Told(io.RawIOBase):
    """A file that says how far it was read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        self._file = path.open("rb", buffering=0)
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._file.readinto(buffer)
        self._on_bytes(self._file.tell())
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path, on_bytes: Callable[[int], None]) -> IO[bytes]:
    file: IO[bytes] = io.BufferedReader(_Told(path, on_bytes), _BLOCK)
    return io.BufferedReader(_Gzip(file), _BLOCK) if path.name.lower().endswith(".gz") else file


class _Gzip(gzip.GzipFile):
    """Closes the file beneath too, which GzipFile leaves open."""

    def __init__(self, beneath: IO[bytes]) -> None:
        super().__init__(fileobj=beneath)
        self._beneath = beneath

    def close(self) -> None:
        super().close()
        self._beneath.close()


def _ndjson_rows(file: IO[bytes]) -> Iterator[SourceRow]:
    row = line_number = 0
    while line := file.readline(MAX_LINE_BYTES):
        line_number += 1
        too_long = len(line) == MAX_LINE_BYTES and not line.endswith(b"\n")
        if too_long:
            while rest := file.readline(MAX_LINE_BYTES):
                if rest.endswith(b"\n"):
                    break
        text = (line.removeprefix(_BOM) if line_number == 1 else line).strip()
        if not text:
            continue
        row += 1
        fault = refused("", f"is longer than {MAX_LINE_BYTES} bytes", "write one event per line") if too_long else None
        yield SourceRow(row=row, line=line_number, cells=fault or text)


def _csv(file: IO[bytes], entry: FileMapping, path: Path) -> Any:
    encoding = "utf-8-sig" if entry.encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else entry.encoding
    # What does not decode becomes a lone surrogate, which the event's own checks refuse: that row, and no other.
    text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
    delimiter = "\t" if ".tsv" in path.suffixes and entry.delimiter == "," else entry.delimiter
    return csv.reader(text, delimiter=delimiter, strict=True)


def _csv_rows(file: IO[bytes], entry: FileMapping, path: Path) -> Iterator[SourceRow]:
    reader = _csv(file, entry, path)
    header: list[str] = next(reader, [])
    number = 0
    while True:
        line = reader.line_num + 1
        cells: Mapping[str, Any] | Exception
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = refused("", f"is not CSV: {error}", 'put quotes around the cell, and write a quote in it as ""')
        else:
            if not values:
                continue
            if len(values) == len(header):
                cells = dict(zip(header, values, strict=True))
            else:
                problem = f"has {len(values)} cells, the header has {len(header)}"
                cells = refused("", problem, "quote cells that contain the delimiter")
        number += 1
        yield SourceRow(row=number, line=line, cells=cells)


def _parquet_rows(path: Path, entry: FileMapping, on_bytes: Callable[[int], None]) -> Iterator[SourceRow]:
    import polars as pl

    wanted = list(dict.fromkeys(column for column, _ in columns_of(entry)))
    try:
        frame = pl.scan_parquet(path).select(wanted)
        total = frame.select(pl.len()).collect().item()
        size, row = path.stat().st_size, 0
        for batch in frame.collect_batches(chunk_size=PARQUET_BATCH, maintain_order=True):
            for cells in batch.iter_rows(named=True):
                row += 1
                yield SourceRow(row=row, line=None, cells=cells)
            on_bytes(size * row // max(total, 1))
    except pl.exceptions.PolarsError as error:
        raise FileFault(f"{path.name} cannot be read: {error}") from None
