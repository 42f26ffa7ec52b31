"""Reads what was observed, and keeps the gaps table by the volume guard. The decisions are in ``gaps`` and ``volume``.

A gap opens at the last observed event of a source that fell silent, and ends when the source sends again. When it
ends, and at every later look for as long as there are hour counts to compare, it becomes ``refilled`` if at least
half of the usual events have come with times inside it, sent or imported, else it is ``lost``. A refilled gap stays
refilled. Sources that have only ever been imported are not watched, and what was imported is not what is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from health.arrays import Floats
from health.gaps import TOLERANCE, Gap, GapState, Observed, observed_microseconds, observed_seconds
from health.instants import HOUR, to_us
from health.tables import gaps, source_hours, sources
from health.volume import HISTORY_HOURS, IMPORTED, HourCounts, Verdict, first_hour, judge_refill, judge_volume

__all__ = [
    "TOLERANCE",
    "Gap",
    "GapState",
    "GuardReport",
    "Observed",
    "guard",
    "observed_microseconds",
    "observed_seconds",
    "read",
]


@dataclass(frozen=True, kw_only=True)
class GuardReport:
    """What one look of the guard found and changed; ``opened`` and ``closed`` are (source, reason)."""

    verdicts: dict[str, Verdict]
    opened: tuple[tuple[str, str], ...]
    closed: tuple[tuple[str, str], ...]

    @property
    def changed(self) -> bool:
        """Whether observed time is another now, so that everybody's silence is worth a new look."""
        return bool(self.opened or self.closed)


async def read(conn: AsyncConnection, progress_through: datetime | None, now: datetime) -> Observed:
    """The gaps that count (open, lost) that began by ``now``, and the position up to which everything is applied."""
    rows = await conn.execute(
        select(gaps.c.source, gaps.c.from_at, gaps.c.until_at, gaps.c.state)
        .where(gaps.c.state != "refilled", gaps.c.from_at <= now)
        .order_by(gaps.c.from_at)
    )
    return Observed(progress_through, tuple(Gap(*row) for row in rows.all()))


async def guard(conn: AsyncConnection, now: datetime) -> GuardReport:
    """Judges every live source and opens or closes its gap. Call it about once a minute; several callers do no harm."""
    begin = first_hour(now)
    known = (await conn.execute(select(gaps).where(gaps.c.source.is_not(None), gaps.c.state != "refilled"))).all()
    earliest = select(func.min(source_hours.c.hour)).where(source_hours.c.source == sources.c.source)
    live = (
        await conn.execute(
            select(sources, earliest.scalar_subquery().label("first_hour")).where(sources.c.last_live_at.is_not(None))
        )
    ).all()
    counted = (await conn.execute(select(source_hours).where(source_hours.c.hour >= begin))).all()
    verdicts: dict[str, Verdict] = {}
    opened: list[tuple[str, str]] = []
    closed: list[tuple[str, str]] = []
    for source in live:
        own = [gap for gap in known if gap.source == source.source]
        counts = _counts(counted, own, source, begin, now)
        verdict = verdicts[source.source] = judge_volume(counts, now)
        ongoing = next((gap for gap in own if gap.until_at is None), None)
        if ongoing is None and verdict.held:
            await _open(conn, source, verdict, now)
            opened.append((source.source, verdict.reason))
        elif ongoing is not None and _sends_again(verdict):
            state, reason = await _close(conn, ongoing, counts, now)
            closed.append((source.source, f"{state}: {reason}"))
        ended = [gap for gap in own if gap.until_at is not None and gap.from_at >= begin]
        closed += [(source.source, words) for gap in ended if (words := await _refill(conn, gap, counts, now))]
    return GuardReport(verdicts=verdicts, opened=tuple(opened), closed=tuple(closed))


def _counts(counted: Sequence[Any], own: Sequence[Any], source: Any, begin: datetime, now: datetime) -> HourCounts:
    start = to_us(begin) // HOUR
    usable = np.arange(HISTORY_HOURS) + start > to_us(source.first_hour or now) // HOUR
    for gap in own:
        until = to_us(gap.until_at or now)
        usable[max(0, to_us(gap.from_at) // HOUR - start) : max(0, until // HOUR - start + 1)] = False
    return HourCounts(
        seen=_by_hour(counted, source.source, start),
        usable=usable,
        imported=_by_hour(counted, source.source + IMPORTED, start),
    )


def _by_hour(counted: Sequence[Any], name: str, start: int) -> Floats:
    found = np.zeros(HISTORY_HOURS)
    for row in counted:
        if row.source == name and (place := to_us(row.hour) // HOUR - start) < HISTORY_HOURS:
            found[place] += row.events
    return found


def _sends_again(verdict: Verdict) -> bool:
    return not verdict.held if verdict.judged else verdict.seen > 0


async def _open(conn: AsyncConnection, source: Any, verdict: Verdict, now: datetime) -> None:
    """From the last event; where a trickle goes on, from the beginning of the window that was judged."""
    from_at = min(source.last_event_at, now)
    if verdict.seen > 0:
        from_at = min(from_at, now - timedelta(hours=verdict.window_hours))
    row = {
        "source": source.source,
        "from_at": from_at,
        "state": "open",
        "reason": verdict.reason,
        "noticed_at": now,
    }
    await conn.execute(pg_insert(gaps).values(row).on_conflict_do_nothing())


async def _close(conn: AsyncConnection, gap: Any, counts: HourCounts, now: datetime) -> tuple[GapState, str]:
    refilled, reason = judge_refill(counts, now, gap.from_at, now)
    state: GapState = "refilled" if refilled else "lost"
    await conn.execute(
        update(gaps)
        .where(gaps.c.gap_id == gap.gap_id, gaps.c.until_at.is_(None))
        .values(until_at=now, state=state, closed_at=now, reason=f"{gap.reason}; {reason}")
    )
    return state, reason


async def _refill(conn: AsyncConnection, gap: Any, counts: HourCounts, now: datetime) -> str | None:
    refilled, reason = judge_refill(counts, now, gap.from_at, gap.until_at)
    if not refilled:
        return None
    await conn.execute(
        update(gaps).where(gaps.c.gap_id == gap.gap_id).values(state="refilled", closed_at=now,
                                                               reason=f"{gap.reason}; {reason}")
    )  # fmt: skip
    return f"refilled: {reason}"
