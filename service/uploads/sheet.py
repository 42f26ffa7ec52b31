"""A CSV file as people's spreadsheets write it: encoding and separator are found out; rows keep the numbers that a
spreadsheet shows. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MAX_ROWS: Final = 10_000
MAX_COLUMNS: Final = 100
SEPARATORS: Final = (",", ";", "\t")
_ENCODINGS: Final = ("utf-8", "cp932")  # Excel in Japan writes the second
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class SheetFault(Exception):
    """A file that cannot be used as a whole."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True)
class Line:
    """``row`` as a spreadsheet counts: the header is row 1."""

    row: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    header: tuple[str, ...]
    lines: tuple[Line, ...]


def read(raw: bytes) -> Sheet:
    """Raises SheetFault. Rows without any text are left out, and counted."""
    text = _decoded(raw)
    if not text.strip():
        raise SheetFault("the file is empty", "give a header line and a line for each row")
    separator = _separator(text)
    lines: list[Line] = []
    header: tuple[str, ...] | None = None
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=separator), start=1):
            cleaned = tuple(unguarded(cell.strip()) for cell in cells)
            if not any(cleaned):
                continue
            if header is None:
                header = cleaned
                continue
            lines.append(Line(number, cleaned))
            if len(lines) > MAX_ROWS:
                raise SheetFault(f"the file has more than {MAX_ROWS:,} rows", "split it into several files")
    except csv.Error as error:
        raise SheetFault(f"the file is not CSV ({error})", "save it as CSV, UTF-8") from None
    assert header is not None
    if len(header) > MAX_COLUMNS:
        raise SheetFault(f"the header has more than {MAX_COLUMNS} columns", "keep to the columns that are wanted")
    return Sheet(header=header, lines=tuple(lines))


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings: Sequence[str] = ("utf-16",)
    else:
        encodings = _ENCODINGS
    for encoding in encodings:
        try:
            text = raw.removeprefix(b"\xef\xbb\xbf").decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text
    raise SheetFault("the file is not text", "save it as CSV in UTF-8 or Shift_JIS, not as a workbook")


def _separator(text: str) -> str:
    """The one that cuts the first line into the most columns."""

    def columns(separator: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=separator)))
        except (csv.Error, StopIteration):
            return 0

    return max(SEPARATORS, key=columns)


def guarded(cell: str) -> str:
    """A cell on its way out, which no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def unguarded(cell: str) -> str:
    """A cell that was guarded on its way out comes back as it was."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def written(rows: Iterable[Sequence[str]]) -> bytes:
    """CSV for spreadsheets: UTF-8 with its mark, formulas made harmless."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    for row in rows:
        writer.writerow([guarded(cell) for cell in row])
    return b"\xef\xbb\xbf" + out.getvalue().encode()
