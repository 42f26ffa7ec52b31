"""All files of an import as one row of rows, with an account of what became of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from consumers.backfill.convert import Convert, Refusal, Refused, canonical, mapped, not_later_than, shifted
from consumers.backfill.files import FileFault, SourceFile, SourceRow, survey
from consumers.backfill.mapping import Mapping
from consumers.events import DEFAULT_SOURCE, Event
from consumers.importing import ImportRow

SHOWN_REFUSALS: Final = 20
FUTURE_TOLERANCE: Final = timedelta(minutes=5)
DAY: Final = timedelta(days=1)


@dataclass(kw_only=True)
class Counts:
    """What became of the rows read so far. ``refusals`` holds the first few."""

    rows: int = 0
    rows_without_event: int = 0
    rows_refused: int = 0
    events: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refusals: list[Refusal] = field(default_factory=list)
    newest: datetime | None = None
    bytes_read: int = 0


class History:
    """Files in the order given. The number of an event is its place among all events of all files."""

    def __init__(self, files: Sequence[SourceFile], mapping: Mapping | None, source: str | None) -> None:
        self.files = tuple(files)
        self._mapping = mapping
        self._given_source = source
        self.source = source or (mapping.source if mapping is not None else None) or DEFAULT_SOURCE

    @classmethod
    def of(cls, paths: Sequence[Path], mapping: Mapping | None, source: str | None) -> History:
        """Looks at every file. Raises FileFault."""
        files = []
        for path in paths:
            entry = None if mapping is None else mapping.for_file(path.name)
            if mapping is not None and entry is None:
                patterns = ", ".join(entry.match for entry in mapping.files)
                raise FileFault(f"{path.name} matches none of the mapping's patterns ({patterns})")
            files.append(survey(path, entry))
        return cls(files, mapping, source)

    @property
    def rows_total(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def bytes_total(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def mapping_digest(self) -> str:
        return "" if self._mapping is None else self._mapping.digest

    def described(self) -> list[dict[str, object]]:
        """For the row of ``imports``: enough to know the same files and mapping again."""
        return [
            {"name": file.path.name, "sha256": file.sha256, "rows": file.rows, "mapping": self.mapping_digest}
            for file in self.files
        ]

    def import_id(self, shift_policy: str) -> str:
        """The same for the same contents, mapping, source and shift policy, whenever and wherever it runs."""
        content = json.dumps([[file.sha256 for file in self.files], self.mapping_digest, self.source, shift_policy])
        return f"backfill-{hashlib.sha256(content.encode()).hexdigest()[:24]}"

    def newest(self) -> datetime | None:
        """The latest timestamp of all events, as they stand in the files."""
        counts = Counts()
        for _ in self.rows(counts, shift=timedelta(0), now=None):
            pass
        return counts.newest

    def rows(
        self,
        counts: Counts,
        *,
        shift: timedelta,
        now: datetime | None,
        on_refused: Callable[[Refusal], None] = lambda _: None,
    ) -> Iterator[ImportRow]:
        """Each row's events, or None; ``counts`` is kept as they are taken. ``now``: the import's start, after which
        nothing may lie. Raises FileFault."""
        read_before = 0
        for file in self.files:
            convert = shifted(self._converter(file), shift)
            if now is not None:
                convert = not_later_than(convert, now, FUTURE_TOLERANCE)

            def note(position: int, before: int = read_before) -> None:
                counts.bytes_read = before + position

            for row in file.read(note):
                yield self._taken(file, row, convert, counts, on_refused)
            read_before += file.size

    def _converter(self, file: SourceFile) -> Convert:
        if self._mapping is None or file.entry is None:
            return canonical(self._given_source)
        return mapped(self._mapping, file.entry, self.source)

    def _taken(
        self, file: SourceFile, row: SourceRow, convert: Convert, counts: Counts, on_refused: Callable[[Refusal], None]
    ) -> Sequence[Event] | None:
        counts.rows += 1
        try:
            if isinstance(row.cells, Exception):
                raise row.cells
            events = convert(row.cells)
        except Refused as refusal:
            counts.rows_refused += 1
            for problem in refusal.problems:
                found = Refusal(file=file.path.name, row=row.row, line=row.line, field=problem.field,
                                problem=problem.problem, remedy=problem.remedy)  # fmt: skip
                if len(counts.refusals) < SHOWN_REFUSALS:
                    counts.refusals.append(found)
                on_refused(found)
            return None
        counts.rows_without_event += not events
        counts.events += len(events)
        for event in events:
            counts.kinds[event.kind] += 1
            if counts.newest is None or event.timestamp > counts.newest:
                counts.newest = event.timestamp
        return events


def shift_to(newest: datetime, now: datetime) -> timedelta:
    """Whole days that lay ``newest`` on the last instant not after ``now``."""
    return (now - newest) // DAY * DAY
