"""The signals by columns beside the same signals in plain Python, account by account, in turns, on the same facts."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from bench import health_plain
from health import facts as reading
from health import signals
from health.catalogue import SignalRef
from health.columns import Facts
from health.gaps import Observed
from health.rhythm import SHIPPED, Fleet

CLOSE: Final = 1e-9


@dataclass(frozen=True, kw_only=True)
class Compared:
    """CPU seconds of each turn, for ``accounts`` accounts."""

    accounts: int
    signals: int
    columns: Sequence[float]
    plain: Sequence[float]

    @property
    def ratio(self) -> float:
        """Turn by turn, then the median."""
        return statistics.median(slow / fast for fast, slow in zip(self.columns, self.plain, strict=True))


async def compare(
    engine: AsyncEngine, ids: Sequence[str], now: datetime, product: Sequence[str], turns: int
) -> Compared:
    """Raises AssertionError where the two do not agree."""
    fleet = Fleet(**{**vars(SHIPPED), "features": tuple(product)})
    async with engine.connect() as conn:
        facts = await reading.read(conn, ids, now=now, fleet=fleet)
    known = health_plain.unpacked(facts)
    refs = [SignalRef(name) for name in _plain(known, facts)[0]]
    _agree(signals.compute(facts, [now], refs, Observed(now)), _plain(known, facts))  # warms up, too
    columns, plain = [], []
    for _ in range(turns):
        began = time.process_time()
        signals.compute(facts, [now], refs, Observed(now))
        between = time.process_time()
        _plain(known, facts)
        columns.append(between - began)
        plain.append(time.process_time() - between)
    return Compared(accounts=len(ids), signals=len(refs), columns=columns, plain=plain)


def _plain(known: Sequence[health_plain.Account], facts: Facts) -> list[dict[str, float | None]]:
    return [health_plain.signals(account, facts.now_us, facts.fleet.features) for account in known]


def _agree(table: signals.SignalTable, found: Sequence[dict[str, float | None]]) -> None:
    for place, own in enumerate(found):
        row = table.row(place)
        for name, value in own.items():
            ours = row[name]
            same = ours == value if ours is None or value is None else math.isclose(ours, value, rel_tol=CLOSE)
            assert same, f"{table.account_ids[place]}: {name} is {ours} by columns, {value} in plain Python"
