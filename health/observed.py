"""Reads what was observed, and keeps the gaps table by the guard. The decisions are in ``gaps`` and ``volume``.

A gap opens at the last observed event of a source that fell silent, and ends when the source sends again. When it
ends, and at every later look for as long as there are hour counts to compare, it becomes ``refilled`` if at least
half of the usual events have come with times inside it, sent or imported, else it is ``lost``. A refilled gap stays
refilled. Gaps that people noted or marked are left to people; a source that they retired is not waited for before it
has sent again. On public holidays of the accounts' countries a source is compared with Sundays (``festive``). Sources
that have only ever been imported are not watched, and what was imported is not what is usual.

Silence is judged only where everything has been applied: consumers that are behind hold absence by their position,
and what they have not read yet is no silence of a source. So the guard waits for them, and then judges hour by hour
the time since it looked last. Until it has, absence is believed no further than it looked (``judged_through``):
events that were lost for good while consumers or evaluators stood still are missed before anybody is called silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
from sqlalchemy import delete, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from health import driver, festive
from health.arrays import Floats
from health.gaps import TOLERANCE, Gap, GapState, Observed, observed_microseconds, observed_seconds
from health.instants import HOUR, to_us
from health.tables import cadences, gaps, source_hours, sources, watch
from health.volume import (
    HISTORY_HOURS,
    IMPORTED,
    HourCounts,
    Verdict,
    as_of,
    hour_of,
    judge_delivery,
    judge_refill,
    judge_volume,
)

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

FURTHEST_BACK = timedelta(days=60)
"""How much of the time since the last look is judged hour by hour."""
LONG_HOLD = timedelta(minutes=10)
"""After a hold this long, everybody is looked at again: while it lasts, crossings wait (``signals/timing``)."""
QUIET_AFTER_DELIVERY = timedelta(minutes=5)
"""A delivery is over when this long nothing more of it has come."""
SAMPLE_ACCOUNTS = 20_000

_PLACES = text("""
SELECT fields->'country'->>'v' AS country, fields->'timezone'->>'v' AS zone, count(*) AS accounts
FROM (SELECT account_id FROM accounts ORDER BY hashtextextended(account_id, 0) LIMIT :most) AS sample
LEFT JOIN account_attributes USING (account_id) GROUP BY 1, 2
""")

SEEN: Final = """
(SELECT judged_through FROM watch) AS judged,
ARRAY(SELECT ROW(source, from_at, until_at, state) FROM gaps WHERE state <> 'refilled' AND from_at <= $1::timestamptz
    ORDER BY from_at) AS gaps,
ARRAY(SELECT ROW(c.source, s.last_event_at) FROM cadences c JOIN sources s ON s.source = c.source
    WHERE s.last_event_at < $1::timestamptz) AS awaited
"""
"""Columns for ``observed``, by which whoever asks more than that asks it in the same statement; $1: now."""


@dataclass(frozen=True, kw_only=True)
class GuardReport:
    """What one look of the guard found and changed; ``opened`` and ``closed`` are (source, reason)."""

    verdicts: dict[str, Verdict]
    opened: tuple[tuple[str, str], ...] = ()
    closed: tuple[tuple[str, str], ...] = ()
    hold_ended: bool = False
    lost: tuple[Gap, ...] = ()
    """Gaps that were found and had ended before anybody could hear of them."""
    delivered: tuple[str, ...] = ()
    """Sources with a cadence whose delivery has just been applied."""

    @property
    def changed(self) -> bool:
        """Whether observed time is another now, so that everybody's silence is worth a new look."""
        return bool(self.opened or self.closed or self.hold_ended or self.delivered)


async def read(conn: AsyncConnection, progress_through: datetime | None, now: datetime) -> Observed:
    """What counts at ``now``: the gaps (open, lost) that began by then, the deliveries that are awaited, and the
    position up to which everything is applied, as far as the guard has judged it."""
    return observed(await driver.fetchrow(conn, f"SELECT {SEEN}", now), progress_through)


def observed(row: Any, progress_through: datetime | None) -> Observed:
    """Of a row with the columns ``SEEN``."""
    found = [Gap(*gap) for gap in row["gaps"]]
    found += [Gap(source, last_event_at, None, "awaited") for source, last_event_at in row["awaited"]]
    through, judged = progress_through, row["judged"]
    if through is not None and judged is not None and through - judged > TOLERANCE:
        through = judged
    return Observed(through, tuple(found))


async def guard(
    conn: AsyncConnection,
    now: datetime,
    through: datetime | None,
    agreed: Mapping[str, timedelta] | None = None,
) -> GuardReport:
    """Judges every live source and opens or closes its gap. Call it about once a minute; several callers take turns.

    ``through``: everything that the brokers had by then is applied. ``agreed``: the cadences of sources that deliver
    at once what others send as it happens.
    """
    mark = await _take_turn(conn)
    await _store_cadences(conn, agreed or {})
    if through is None or now - through > TOLERANCE:
        since = mark.held_since or min(through or now, now)
        await conn.execute(update(watch).values(held_since=since))
        return GuardReport(verdicts={})
    at = min(through, now)
    before = at if mark.judged_through is None else min(mark.judged_through, at)
    begin = hour_of(max(before, at - FURTHEST_BACK)) - timedelta(hours=HISTORY_HOURS - 1)
    in_force = or_(gaps.c.state != "refilled", gaps.c.retired)
    known = (await conn.execute(select(gaps).where(gaps.c.source.is_not(None), in_force))).all()
    where = await _places(conn, mark, at)
    counted = (await conn.execute(select(source_hours).where(source_hours.c.hour >= begin))).all()
    look = _Look(conn, begin, max(before, at - FURTHEST_BACK), at)
    for source in await _live_sources(conn):
        own = [gap for gap in known if gap.source == source.source]
        counts = _counts(counted, own, source, begin, at, where)
        cadence = (agreed or {}).get(source.source)
        await (
            look.at_hours(source, own, counts) if cadence is None else look.at_delivery(source, own, counts, cadence)
        )
        lost = [gap for gap in own if gap.state == "lost" and gap.from_at >= begin and not gap.by_hand]
        look.closed += [(source.source, words) for gap in lost if (words := await _refill(conn, gap, counts, at))]
    await conn.execute(update(watch).values(judged_through=at, held_since=None))
    held_long = mark.held_since is not None and now - mark.held_since > LONG_HOLD
    return GuardReport(
        verdicts=look.verdicts,
        opened=tuple(look.opened),
        closed=tuple(look.closed),
        hold_ended=held_long,
        lost=tuple(look.lost),
        delivered=tuple(look.delivered),
    )


async def _take_turn(conn: AsyncConnection) -> Any:
    await conn.execute(pg_insert(watch).values(one=True).on_conflict_do_nothing())
    return (await conn.execute(select(watch).with_for_update())).one()


async def _places(conn: AsyncConnection, mark: Any, now: datetime) -> tuple[festive.Share, ...]:
    """Where the accounts are, counted once a UTC day; ``mark`` is the row whose lock we hold."""
    if mark.places_on == now.date():
        return tuple((country, zone, share) for country, zone, share in mark.places)
    found = (await conn.execute(_PLACES, {"most": SAMPLE_ACCOUNTS})).all()
    made = festive.shares([(row.country, row.zone, row.accounts) for row in found])
    await conn.execute(update(watch).values(places=[list(share) for share in made], places_on=now.date()))
    return made


async def _store_cadences(conn: AsyncConnection, agreed: Mapping[str, timedelta]) -> None:
    """For those who only read: they have no files."""
    stored = {row.source: row.cadence for row in await conn.execute(select(cadences))}
    if stored != dict(agreed):
        await conn.execute(delete(cadences))
        if agreed:
            await conn.execute(insert(cadences), [{"source": name, "cadence": every} for name, every in agreed.items()])


async def _live_sources(conn: AsyncConnection) -> Sequence[Any]:
    earliest = select(func.min(source_hours.c.hour)).where(source_hours.c.source == sources.c.source)
    query = select(sources, earliest.scalar_subquery().label("first_hour"))
    return (await conn.execute(query.where(sources.c.last_live_at.is_not(None)))).all()


class _Look:
    """One look at all sources: from ``before``, when we looked last, to ``at``."""

    def __init__(self, conn: AsyncConnection, begin: datetime, before: datetime, at: datetime) -> None:
        self._conn, self._begin, self._before, self._at = conn, begin, before, at
        self._retired: dict[str, Any] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.opened: list[tuple[str, str]] = []
        self.closed: list[tuple[str, str]] = []
        self.lost: list[Gap] = []
        self.delivered: list[str] = []

    async def at_hours(self, source: Any, own: Sequence[Any], counts: HourCounts) -> None:
        """A source that sends as things happen: at each full hour since the last look, and now."""
        self._note_retired(source, own)
        ongoing = next((gap for gap in own if gap.until_at is None), None)
        last = to_us(hour_of(self._at)) // HOUR
        for hour in range(to_us(self._before) // HOUR + 1, last + 1):
            when = self._begin + timedelta(hours=hour - to_us(self._begin) // HOUR)
            if ongoing is not None:
                self._mark(counts, ongoing.from_at, when)
            back = last - hour
            past = as_of(counts, back) if when < self._at else counts
            ongoing = await self._step(source, ongoing, counts, judge_volume(past, when), when)
        if ongoing is not None:
            self._mark(counts, ongoing.from_at, self._at)
        verdict = self.verdicts[source.source] = judge_volume(counts, self._at)
        await self._step(source, ongoing, counts, verdict, self._at)

    async def at_delivery(self, source: Any, own: Sequence[Any], counts: HourCounts, cadence: timedelta) -> None:
        """A source that delivers now and then: only whether the next delivery is overdue."""
        self._note_retired(source, own)
        verdict = self.verdicts[source.source] = judge_delivery(source.last_live_at, cadence, self._at)
        ongoing = next((gap for gap in own if gap.until_at is None), None)
        await self._step(source, ongoing, counts, verdict, self._at)
        if self._before < source.last_live_at + QUIET_AFTER_DELIVERY <= self._at:
            self.delivered.append(source.source)

    def _note_retired(self, source: Any, own: Sequence[Any]) -> None:
        retired = [gap for gap in own if gap.retired]
        if retired:
            self._retired[source.source] = max(gap.until_at for gap in retired)

    async def _step(self, source: Any, ongoing: Any, counts: HourCounts, verdict: Verdict, when: datetime) -> Any:
        if ongoing is not None and ongoing.by_hand:
            return ongoing
        retired = self._retired.get(source.source)
        if retired is not None and when > retired and _sends_again(verdict):
            del self._retired[source.source]
            await self._conn.execute(update(gaps).where(gaps.c.source == source.source).values(retired=False))
            return ongoing
        if ongoing is None and verdict.held and retired is None:
            self.opened.append((source.source, verdict.reason))
            return await self._open(source, counts, verdict, when)
        if ongoing is not None and _sends_again(verdict):
            state, reason = await self._close(ongoing, counts, when)
            self.closed.append((source.source, f"{state}: {reason}"))
            if state == "lost" and ongoing.noticed_at == self._at:
                self.lost.append(Gap(source.source, ongoing.from_at, when, "lost"))
            return None
        return ongoing

    def _mark(self, counts: HourCounts, from_at: datetime, until: datetime) -> None:
        start = to_us(self._begin) // HOUR
        counts.usable[max(0, to_us(from_at) // HOUR - start) : max(0, to_us(until) // HOUR - start + 1)] = False

    async def _open(self, source: Any, counts: HourCounts, verdict: Verdict, when: datetime) -> Any:
        """From the last event; where a trickle goes on, from the beginning of the window that was judged."""
        from_at = min(source.last_event_at, when)
        if source.last_event_at > when:  # it has sent again since
            hours = np.flatnonzero(counts.seen[: (to_us(when) - to_us(self._begin)) // HOUR])
            from_at = self._begin + timedelta(hours=int(hours[-1]) if len(hours) else 0)
        if verdict.seen > 0:
            from_at = min(from_at, when - timedelta(hours=verdict.window_hours))
        row = {
            "source": source.source,
            "from_at": from_at,
            "state": "open",
            "reason": verdict.reason,
            "noticed_at": self._at,
        }
        return (await self._conn.execute(insert(gaps).values(row).returning(gaps))).one()

    async def _close(self, gap: Any, counts: HourCounts, when: datetime) -> tuple[GapState, str]:
        refilled, reason = judge_refill(counts, self._at, gap.from_at, when)
        state: GapState = "refilled" if refilled else "lost"
        await self._conn.execute(
            update(gaps)
            .where(gaps.c.gap_id == gap.gap_id, gaps.c.until_at.is_(None))
            .values(until_at=when, state=state, closed_at=self._at, reason=f"{gap.reason}; {reason}")
        )
        return state, reason


def _counts(
    counted: Sequence[Any],
    own: Sequence[Any],
    source: Any,
    begin: datetime,
    now: datetime,
    where: tuple[festive.Share, ...],
) -> HourCounts:
    start = to_us(begin) // HOUR
    size = to_us(now) // HOUR - start + 1
    usable = np.arange(size) + start > to_us(source.first_hour or now) // HOUR
    for gap in own:
        if gap.state == "refilled":
            continue
        until = to_us(gap.until_at or now)
        usable[max(0, to_us(gap.from_at) // HOUR - start) : max(0, until // HOUR - start + 1)] = False
    return HourCounts(
        seen=_by_hour(counted, source.source, start, size),
        usable=usable,
        imported=_by_hour(counted, source.source + IMPORTED, start, size),
        festive=festive.stand_ins(where, begin, size),
    )


def _by_hour(counted: Sequence[Any], name: str, start: int, size: int) -> Floats:
    found = np.zeros(size)
    for row in counted:
        if row.source == name and (place := to_us(row.hour) // HOUR - start) < size:
            found[place] += row.events
    return found


def _sends_again(verdict: Verdict) -> bool:
    return not verdict.held if verdict.judged else verdict.seen > 0


async def _refill(conn: AsyncConnection, gap: Any, counts: HourCounts, now: datetime) -> str | None:
    refilled, reason = judge_refill(counts, now, gap.from_at, gap.until_at)
    if not refilled:
        return None
    words = f"{gap.reason}; {reason}"
    await conn.execute(
        update(gaps).where(gaps.c.gap_id == gap.gap_id).values(state="refilled", closed_at=now, reason=words)
    )
    return f"refilled: {reason}"
