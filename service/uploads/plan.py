"""What an upload would change: new, changed field by field, unchanged, refused. Pure.

The plan's hash stands for all of it, what is stored now included: who confirms a plan confirms exactly that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from consumers.events import Group
from service.uploads.columns import Columns
from service.uploads.rows import Refused, Row, RowFault, whole_person

UploadKind = Literal["accounts", "people"]
SOURCE: Final = "upload"
SHOWN: Final = 1_000
"""Rows of each sort that a plan shows; all of them count, and all are applied."""
Scalar = str | int | float | bool | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One field. Of something new, `old` is null."""

    field: str
    old: Scalar
    new: Scalar


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a row would do to its account or person."""

    row: int
    key: str
    changes: tuple[Change, ...]


class UnusedColumn(msgspec.Struct, frozen=True, kw_only=True):
    """A column that means nothing here, and what may have been meant."""

    column: str
    nearest: str | None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of all rows, and the first 1,000 of each sort."""

    kind: UploadKind
    hash: str
    rows: int
    new: int
    changed: int
    unchanged: int
    refused: int
    new_entries: tuple[Entry, ...]
    changed_entries: tuple[Entry, ...]
    refused_rows: tuple[Refused, ...]
    unused_columns: tuple[UnusedColumn, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is known of an account: value and register key of each trait. ``exists`` without any trait, too."""

    values: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    exists: bool = True


NOBODY: Final = Stored(exists=False)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The plan with all that is needed to carry it out."""

    plan: Plan
    entries: tuple[Entry, ...]
    refused: tuple[Refused, ...]
    events: tuple[Group, ...] = ()
    people: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def plan_accounts(
    rows: Iterable[Row | Refused], columns: Columns, stored: Mapping[str, Stored], now: datetime
) -> Planned:
    news: list[Entry] = []
    changed: list[Entry] = []
    refused: list[Refused] = []
    events: list[Group] = []
    count = 0
    for row in rows:
        count += 1
        if isinstance(row, Refused):
            refused.append(row)
            continue
        known = stored.get(row.key, NOBODY)
        changes = tuple(
            Change(field=name, old=known.values.get(name), new=value)
            for name, value in row.values.items()
            if not _same(known.values.get(name), value)
        )
        if known.exists and not changes:
            continue
        entry = Entry(row=row.row, key=row.key, changes=changes)
        (changed if known.exists else news).append(entry)
        events.append(_event(entry, known, now))
    marks = [(event.account_id, event.event_id) for event in events]
    plan = _plan("accounts", count, news, changed, refused, columns, marks)
    return Planned(plan=plan, entries=(*news, *changed), refused=tuple(refused), events=tuple(events))


def _event(entry: Entry, known: Stored, now: datetime) -> Group:
    """Its id says what was changed into what, and from which earlier events: sent twice it is the same event, and once
    somebody else has changed the account again, another one."""
    meant = [entry.key, [(change.field, change.new, known.keys.get(change.field)) for change in entry.changes]]
    digest = hashlib.blake2b(msgspec.json.encode(meant), digest_size=16).hexdigest()
    return Group(
        event_id=f"{SOURCE}:{digest}",
        account_id=entry.key,
        timestamp=now,
        source=SOURCE,
        traits={change.field: change.new for change in entry.changes},
    )


def plan_people(rows: Iterable[Row | Refused], columns: Columns, stored: Mapping[str, Mapping[str, Any]]) -> Planned:
    listed = list(rows)
    ids = frozenset(stored) | {row.key for row in listed if isinstance(row, Row)}
    news: list[Entry] = []
    changed: list[Entry] = []
    refused: list[Refused] = []
    made: dict[str, Mapping[str, Any]] = {}
    for row in listed:
        if isinstance(row, Refused):
            refused.append(row)
            continue
        before = stored.get(row.key)
        try:
            person = whole_person(row, before, ids)
        except RowFault as fault:
            refused.append(Refused(row=row.row, field=fault.field, problem=fault.problem, remedy=fault.remedy))
            continue
        after = {name: getattr(person, name) for name in PERSON_FIELDS}
        changes = tuple(
            Change(field=name, old=(before or {}).get(name), new=after[name])
            for name in PERSON_FIELDS
            if not _same((before or {}).get(name), after[name])
        )
        if changes:
            made[row.key] = after
            (news if before is None else changed).append(Entry(row=row.row, key=row.key, changes=changes))
    plan = _plan("people", len(listed), news, changed, refused, columns, [])
    return Planned(plan=plan, entries=(*news, *changed), refused=tuple(refused), people=made)


PERSON_FIELDS: Final = ("name", "email", "slack_id", "language", "timezone", "role", "manager", "stand_in")


def _same(old: Any, new: Any) -> bool:
    # 1 and True are equal in Python, and are not the same value of a trait.
    return old == new and isinstance(old, bool) == isinstance(new, bool)


def _plan(
    kind: UploadKind,
    rows: int,
    news: list[Entry],
    changed: list[Entry],
    refused: list[Refused],
    columns: Columns,
    marks: list[tuple[str, str]],
) -> Plan:
    digest = hashlib.sha256(msgspec.json.encode([kind, news, changed, refused, marks])).hexdigest()
    return Plan(
        kind=kind,
        hash=digest,
        rows=rows,
        new=len(news),
        changed=len(changed),
        unchanged=rows - len(news) - len(changed) - len(refused),
        refused=len(refused),
        new_entries=tuple(news[:SHOWN]),
        changed_entries=tuple(changed[:SHOWN]),
        refused_rows=tuple(refused[:SHOWN]),
        unused_columns=tuple(UnusedColumn(column=each.column, nearest=each.nearest) for each in columns.unused),
    )
