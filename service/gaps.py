"""The gaps as operators see and change them: for API and command alike.

The guard (``health/observed.py``) keeps the gaps of single sources by itself. People add what it cannot see (an outage
of everything, a source too small to be judged), and what they know better: that data came after all, or never will, or
that nothing was missing on a quiet day. Whatever they change, everybody's silence is looked at again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.doors import EVERYBODY
from health.tables import gaps, sources, touched
from service import audit
from service.deps import Deps
from service.queries.status import GapView

__all__ = [
    "CannotChange",
    "Ended",
    "GapPage",
    "NoSuchGap",
    "close_gap",
    "list_gaps",
    "mark_gap",
    "open_gap",
    "source_names",
]

Ended = Literal["refilled", "lost"]
MOST_SHOWN = 500


Why = Literal["times", "unknown_source", "goes_on", "has_ended", "end_before_start", "every_source", "not_ended"]


class CannotChange(Exception):
    """Says why, and what can be done instead; ``why`` is for those who word it themselves."""

    def __init__(self, why: Why, words: str) -> None:
        super().__init__(words)
        self.why: Why = why


class NoSuchGap(Exception):
    """There is no gap of that number."""


class GapPage(msgspec.Struct, frozen=True, kw_only=True):
    """The latest gaps: those that go on, then the newest."""

    items: tuple[GapView, ...]


async def source_names(deps: Deps) -> list[str]:
    """Of everything that has ever sent an event."""
    async with deps.reading() as conn:
        return list(await conn.scalars(select(sources.c.source).order_by(sources.c.source)))


async def list_gaps(deps: Deps, *, states: tuple[str, ...] = (), source: str | None = None) -> GapPage:
    query = select(*(gaps.c[name] for name in GapView.__struct_fields__)).order_by(
        gaps.c.until_at.is_(None).desc(), gaps.c.from_at.desc(), gaps.c.gap_id
    )
    if states:
        query = query.where(gaps.c.state.in_(states))
    if source is not None:
        query = query.where(gaps.c.source == source)
    async with deps.reading() as conn:
        rows = (await conn.execute(query.limit(MOST_SHOWN))).mappings()
        return GapPage(items=tuple(GapView(**row) for row in rows))


async def open_gap(
    deps: Deps, *, source: str | None, from_at: datetime, until_at: datetime | None, reason: str, actor: str,
    now: datetime,
) -> GapView:  # fmt: skip
    """Notes time that was not observed; one that has ended counts as lost. Raises CannotChange."""
    if from_at > now or (until_at is not None and not from_at < until_at <= now):
        raise CannotChange(
            "times", "a gap begins before it ends, and both lie in the past; leave its end out while it goes on"
        )
    row: dict[str, Any] = {
        "source": source, "from_at": from_at, "until_at": until_at, "reason": reason, "noticed_at": now,
        "state": "open" if until_at is None else "lost", "closed_at": None if until_at is None else now,
        "by_hand": True,
    }  # fmt: skip
    try:
        async with deps.writing() as conn:
            known = select(func.count()).select_from(sources).where(sources.c.source == source)
            if source is not None and not await conn.scalar(known):
                raise CannotChange(
                    "unknown_source",
                    f"no event has ever come from the source {source!r}; leave it out for every source",
                )
            made = (await conn.execute(insert(gaps).values(row).returning(*_columns()))).mappings().one()
            await _changed(conn, made, "gap.opened", {}, actor, now)
            return GapView(**made)
    except IntegrityError:
        raise CannotChange("goes_on", "a gap of that source goes on already: close that one first") from None


async def close_gap(
    deps: Deps, gap_id: int, *, state: Ended, until_at: datetime | None, retire: bool = False, actor: str, now: datetime
) -> GapView:
    """Ends a gap that goes on. ``retire``: its source sends no more, and is not waited for before it does. Without
    that, the guard opens the next one while the source stays silent. Raises NoSuchGap, CannotChange."""
    async with deps.writing() as conn:
        gap = await _locked(conn, gap_id)
        end = until_at or now
        if gap["until_at"] is not None:
            raise CannotChange("has_ended", f"it ended at {gap['until_at'].isoformat()}; mark it refilled or lost")
        if not gap["from_at"] <= end <= now:
            raise CannotChange(
                "end_before_start", f"it ends between {gap['from_at'].isoformat()}, when it began, and now"
            )
        if retire and gap["source"] is None:
            raise CannotChange("every_source", "it is of every source: only a single one can be retired")
        values = {"until_at": end, "state": state, "retired": retire}
        return await _set(conn, gap, "gap.retired" if retire else "gap.closed", values, actor, now)


async def mark_gap(deps: Deps, gap_id: int, state: Ended, *, actor: str, now: datetime) -> GapView:
    """Says what became of the data of a gap that has ended. Raises NoSuchGap, CannotChange."""
    async with deps.writing() as conn:
        gap = await _locked(conn, gap_id)
        if gap["until_at"] is None:
            raise CannotChange("not_ended", "it goes on: close it, saying what became of its data")
        return await _set(conn, gap, f"gap.marked_{state}", {"state": state, "by_hand": True}, actor, now)


def _columns() -> list[Any]:
    return [gaps.c[name] for name in GapView.__struct_fields__]


async def _locked(conn: AsyncConnection, gap_id: int) -> Any:
    found = await conn.execute(select(*_columns()).where(gaps.c.gap_id == gap_id).with_for_update())
    gap = found.mappings().one_or_none()
    if gap is None:
        raise NoSuchGap(f"there is no gap {gap_id}")
    return gap


async def _set(
    conn: AsyncConnection, gap: Any, action: str, values: dict[str, Any], actor: str, now: datetime
) -> GapView:
    words = f"{gap['reason']}; {values['state']}, as {actor} says"
    statement = update(gaps).where(gaps.c.gap_id == gap["gap_id"]).values(closed_at=now, reason=words, **values)
    made = (await conn.execute(statement.returning(*_columns()))).mappings().one()
    await _changed(conn, made, action, {"before": gap["state"]}, actor, now)
    return GapView(**made)


async def _changed(
    conn: AsyncConnection, gap: Any, action: str, detail: dict[str, Any], actor: str, now: datetime
) -> None:
    until = None if gap["until_at"] is None else gap["until_at"].isoformat()
    said = {**detail, "source": gap["source"], "from_at": gap["from_at"].isoformat(), "until_at": until,
            "state": gap["state"]}  # fmt: skip
    await audit.note(conn, actor=actor, action=action, subject=str(gap["gap_id"]), detail=said, now=now)
    await conn.execute(insert(touched).values(everyone_since=EVERYBODY, created_at=now))
