"""The ledger read back, and the facts held against it: every acknowledged event once, every other at most once."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from consumers.events import Event, Usage
from health.tables import QUANTITY_SCALE
from tests.naive_facts import Rows, differences, naive, stored

ARRIVAL = {"record_events": {"known_at"}, "account_history": {"known_at"}, "sources": {"last_live_at"}}
"""Columns that say when an event came, which is no business of the ledger."""
NOT_COMPARED = {"late_arrivals"}
SHOWN = 20


@dataclass(kw_only=True)
class Sent:
    event: Event
    at: float  # epoch seconds
    way: str
    acknowledged_at: float | None = None


@dataclass(kw_only=True)
class Verdict:
    """What the comparison found. ``lost`` and ``double`` are ids; ``differences`` compares all other facts with the
    naive model over the events that were counted."""

    sent: int
    acknowledged: int
    lost: list[str]
    double: list[str]
    unknown: list[str]
    differences: list[str]
    said: dict[str, int]

    @property
    def good(self) -> bool:
        return not (self.lost or self.double or self.unknown or self.differences)


@dataclass(kw_only=True)
class Ledger:
    """Follows the file of ``tests/faults/sender.py``."""

    path: Path
    sent: dict[str, Sent] = field(default_factory=dict)
    said: Counter[str] = field(default_factory=Counter)
    last_acknowledged: dict[str, float] = field(default_factory=dict)  # by way
    _read: int = 0

    def follow(self) -> None:
        """Reads what was added."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            raw = file.read()
        complete = raw[: raw.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.splitlines():
            self._take(json.loads(line))

    def _take(self, line: list[Any]) -> None:
        match line:
            case ["sent", at, way, event]:
                self.sent[event["event_id"]] = Sent(event=msgspec.convert(event, Event), at=at, way=way)
            case ["acknowledged", at, way, ids]:
                self.last_acknowledged[way] = at
                for event_id in ids:
                    self.sent[event_id].acknowledged_at = at
            case ["said", _, what, count]:
                self.said[what] += count

    @property
    def acknowledged(self) -> list[Sent]:
        return [sent for sent in self.sent.values() if sent.acknowledged_at is not None]


async def compare(ledger: Ledger, connection: Any) -> Verdict:
    """After the sender has ended and everything was consumed."""
    ledger.follow()
    rows = await connection.fetch("SELECT feature, sum(quantity)::bigint AS n FROM features GROUP BY feature")
    found = {row["feature"]: row["n"] for row in rows}
    lost, double = [], []
    counted: list[Event] = []
    for event_id, sent in ledger.sent.items():
        times = 1.0 if sent.acknowledged_at is not None else 0.0
        if isinstance(sent.event, Usage):
            times = found.pop(event_id, 0) / (sent.event.quantity * QUANTITY_SCALE)
            if times > 1:
                double.append(event_id)
            if times < 1 and (sent.acknowledged_at is not None or times):
                lost.append(event_id)
        if times:
            counted.append(sent.event)
    model = naive((event, event.timestamp) for event in counted)
    unlike = differences(_comparable(model), _comparable(await stored(connection)))
    return Verdict(
        sent=len(ledger.sent),
        acknowledged=len(ledger.acknowledged),
        lost=lost,
        double=double,
        unknown=sorted(found),
        differences=unlike[:SHOWN] + ([f"and {len(unlike) - SHOWN} more"] if len(unlike) > SHOWN else []),
        said=dict(ledger.said),
    )


def _comparable(tables: dict[str, Rows]) -> dict[str, Rows]:
    return {
        table: {
            key: {name: value for name, value in row.items() if name not in ARRIVAL.get(table, ())}
            for key, row in rows.items()
        }
        for table, rows in tables.items()
        if table not in NOT_COMPARED
    }
