"""The row of ``imports`` that a backfill goes by, and waiting until the consumers have applied all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import LargeBinary, cast, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumers.backfill.history import History, shift_to
from consumers.importing import AWAY
from consumers.tables import dead_letters, import_marks, stream_offsets
from health.tables import imports

LOOK_SECONDS: Final = 0.25


class BackfillError(Exception):
    """Why nothing is sent; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An import as it was begun, now or in an earlier run."""

    import_id: str
    shift: timedelta
    started_at: datetime
    rows_sent: int
    events_sent: int
    resumed: bool
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What the consumers made of an import. ``last_number``: the highest event number applied; None: none."""

    events_sent: int
    last_number: int | None
    dead_letters: int
    source_events: int

    @property
    def applied(self) -> int:
        return self.events_sent - self.dead_letters

    @property
    def complete(self) -> bool:
        """Every event is applied or among the dead letters."""
        if self.events_sent == 0:
            return True
        return self.last_number == self.events_sent - 1 or self.dead_letters > 0


async def begin(
    engine: AsyncEngine,
    history: History,
    *,
    import_id: str | None,
    shift_to_now: bool,
    again: bool,
    clock: Callable[[], datetime],
) -> Plan:
    """Finds the import of these files or makes it; its start and its shift are fixed from then on.

    Raises BackfillError: other files under the same id, or files that an import under another id already sent.
    """
    import_id = import_id or history.import_id("to-now" if shift_to_now else "none")
    async with engine.connect() as conn:
        known = await _find(conn, import_id)
        others = (await conn.execute(select(imports).where(imports.c.import_id != import_id))).all()
    if known is None:
        if not again:
            _refuse_twice(history, others)
        now = clock()
        newest = await asyncio.to_thread(history.newest) if shift_to_now else None
        shift = timedelta(0) if newest is None else shift_to(newest, now)
        new = insert(imports).values(
            import_id=import_id, source=history.source, files=history.described(), started_at=now,
            shift_us=shift // timedelta(microseconds=1), rows_total=history.rows_total,
        )  # fmt: skip
        async with engine.begin() as conn:
            await conn.execute(new.on_conflict_do_nothing())
        async with engine.connect() as conn:
            made = await _find(conn, import_id)
    else:
        made = known
    assert made is not None
    _refuse_other_files(history, made)
    return Plan(
        import_id=import_id,
        shift=timedelta(microseconds=made.shift_us),
        started_at=made.started_at,
        rows_sent=made.rows_sent,
        events_sent=made.events_sent,
        resumed=known is not None,
        finished=made.finished_at is not None,
    )


async def waited_until_applied(
    engine: AsyncEngine,
    plan: Plan,
    ends: Mapping[int, int],
    *,
    topic: str,
    group: str,
    on_wait: Callable[[int], None],
) -> Applied:
    """Returns once every partition was read up to ``ends`` (offsets taken after the last event was acknowledged).

    ``on_wait`` is told how many records are unread, again and again.
    """
    offsets = select(stream_offsets.c.partition, stream_offsets.c.next_offset).where(
        stream_offsets.c.group_id == group, stream_offsets.c.topic == topic
    )
    while True:
        try:
            async with engine.connect() as conn:
                read: dict[int, int] = {row.partition: row.next_offset for row in await conn.execute(offsets)}
                unread = sum(max(0, end - read.get(partition, 0)) for partition, end in ends.items())
                if unread == 0:
                    return await _applied(conn, plan)
        except AWAY:
            unread = -1
        on_wait(unread)
        await asyncio.sleep(LOOK_SECONDS)


async def _applied(conn: AsyncConnection, plan: Plan) -> Applied:
    from consumers.fold import IMPORTED
    from health.tables import source_hours

    row = await _find(conn, plan.import_id)
    assert row is not None
    last = select(func.max(import_marks.c.last_row)).where(import_marks.c.import_id == plan.import_id)
    named = func.position(cast(plan.import_id.encode(), LargeBinary).op("IN")(dead_letters.c.value))
    refused = select(func.count()).where(dead_letters.c.created_at >= plan.started_at, named > 0)
    named_so = source_hours.c.source.in_([row.source, row.source + IMPORTED])
    events = select(func.coalesce(func.sum(source_hours.c.events), 0)).where(named_so)
    return Applied(
        events_sent=row.events_sent,
        last_number=await conn.scalar(last),
        dead_letters=await conn.scalar(refused) or 0,
        source_events=int(await conn.scalar(events) or 0),
    )


async def _find(conn: AsyncConnection, import_id: str) -> Any:
    return (await conn.execute(select(imports).where(imports.c.import_id == import_id))).one_or_none()


def _refuse_twice(history: History, others: Any) -> None:
    contents = {file.sha256: file.path.name for file in history.files if file.rows}
    for other in others:
        for file in other.files:
            if file.get("sha256") in contents:
                name = contents[file["sha256"]]
                raise BackfillError(
                    f"{name} was sent before, as part of import {other.import_id} (mapping, source, order of the files "
                    f"or shift were others). Sending it again would count it twice. To go on with that import, give "
                    f"what was given then; to send it again all the same, add --again"
                )


def _refuse_other_files(history: History, known: Any) -> None:
    before = [(file.get("sha256"), file.get("mapping")) for file in known.files]
    now = [(file["sha256"], file["mapping"]) for file in history.described()]
    if before != now or known.source != history.source:
        raise BackfillError(
            f"import {known.import_id} was begun with other files, another mapping or source: the numbers of its "
            f"events would not be the same. Give what was given then, or another --import-id"
        )
