"""A company's history in two files, and who left in it: what `bench/rhythm.py` is judged on.

``accounts.csv``: ``account_id``; ``started_on`` (else the first day of activity), ``cancelled_on``, ``ended_on`` (the
last day on which it can be judged; else the last day of the history), ``final_result``, each where known.
``activity.csv``: ``account_id``, ``date``, a row per account and active day; what else it holds is not looked at. Both
may be gzipped.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from health.arrays import Bools, Ints
from health.rhythm import DaySets

HORIZON = 28
FIRST_WEEK = 2
NEVER = 10**6
COMPLETED = ("pass", "distinction", "completed")


class HistoryError(Exception):
    """A file that cannot be read as a history: which, where, what to do."""


@dataclass(frozen=True, kw_only=True)
class History:
    """A accounts; days count from the first day of activity. ``cancelled``: NEVER if not. ``ends``: the last day of
    each. ``weeks``: the days at whose end accounts are judged. ``left_out``: rows of activity of no known account."""

    active: DaySets
    cancelled: Ints
    ends: Ints
    completed: Bools
    weeks: Ints
    first_day: date
    left_out: int

    def __len__(self) -> int:
        return len(self.active)

    @property
    def last(self) -> Ints:
        """The last active day of each account; long before the history for none."""
        last = np.full(len(self), -NEVER)
        np.maximum.at(last, self.active.account, self.active.day)
        return last

    def outcome(self, day: int) -> tuple[Bools, Bools]:
        """(accounts that stand for judgement at the end of ``day``, whether they leave: cancel within HORIZON days, or
        are never seen again and do not complete). Both (A,)."""
        last = np.maximum(self.last, self.active.start)  # who was never seen is silent since the start
        gone = (last <= day) & ~self.completed
        stands = (self.cancelled > day) & (self.active.start <= day) & (self.ends > day + HORIZON)
        return stands, (self.cancelled <= day + HORIZON) | gone


def read_history(directory: Path) -> History:
    """Raises HistoryError."""
    accounts = list(_rows(directory, "accounts", {"account_id"}))
    if not accounts:
        raise HistoryError(f"{directory}/accounts.csv: no account in it; give a row for each")
    place = {row["account_id"]: n for n, (_, row) in enumerate(accounts)}
    if len(place) < len(accounts):
        raise HistoryError(f"{directory}/accounts.csv: an account_id appears twice; give each account one row")
    pairs, left_out = set[tuple[int, int]](), 0
    for where, row in _rows(directory, "activity", {"account_id", "date"}):
        account, day = place.get(row["account_id"]), _day(where, row, "date")
        if day is None:
            raise HistoryError(f"{where}: date is empty; write it as YYYY-MM-DD")
        if account is None:
            left_out += 1
        else:
            pairs.add((account, day))
    if not pairs:
        raise HistoryError(f"{directory}/activity.csv: no activity of any account in accounts.csv")
    days = np.array(sorted(pairs), dtype=np.int64)
    return _history(accounts, days, left_out)


def _history(accounts: Sequence[tuple[str, Mapping[str, str]]], days: Ints, left_out: int) -> History:
    origin, last = int(days[:, 1].min()), int(days[:, 1].max())
    first = np.full(len(accounts), last)
    np.minimum.at(first, days[:, 0], days[:, 1])

    def column(name: str, otherwise: Ints) -> Ints:
        found = [_day(where, row, name) for where, row in accounts]
        return np.array([other if day is None else day for day, other in zip(found, otherwise.tolist(), strict=True)])

    every = np.ones(len(accounts), dtype=np.int64)
    start, ends = column("started_on", first) - origin, column("ended_on", last * every) - origin
    begin = int(start.min()) + 7 * FIRST_WEEK
    weeks = np.arange(begin, int(ends.max()) - HORIZON, 7)
    if not len(weeks):
        raise HistoryError(f"a history of {last - origin + 1} days is too short: 6 weeks are the least")
    return History(
        active=DaySets(account=days[:, 0], day=days[:, 1] - origin, start=start),
        cancelled=column("cancelled_on", (NEVER + origin) * every) - origin,
        ends=ends,
        completed=np.array([(row.get("final_result") or "").lower() in COMPLETED for _, row in accounts]),
        weeks=weeks,
        first_day=date.fromordinal(origin),
        left_out=left_out,
    )


def _rows(directory: Path, name: str, needed: set[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, row) of a file, gzipped or not."""
    path = next((p for p in (directory / f"{name}.csv", directory / f"{name}.csv.gz") if p.is_file()), None)
    if path is None:
        raise HistoryError(f"{directory}: neither {name}.csv nor {name}.csv.gz is there")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        missing = needed - set(rows.fieldnames or ())
        if missing:
            raise HistoryError(f"{path}: no column {', '.join(sorted(missing))}; its first line names the columns")
        for row in rows:
            yield f"{path}, line {rows.line_num}", row


def _day(where: str, row: Mapping[str, str], column: str) -> int | None:
    value = (row.get(column) or "").strip()
    try:
        return date.fromisoformat(value[:10]).toordinal() if value else None
    except ValueError:
        raise HistoryError(f"{where}: {column} {value!r} is no date; write it as YYYY-MM-DD") from None
