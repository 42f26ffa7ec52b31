"""What is running and how far it has come: the rulebook, partitions, sources, gaps, imports, backlogs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.tables import deliveries, rule_activations, rulebooks
from consumers.tables import dead_letters, stream_offsets
from health.tables import gaps, health, imports, people, reevaluations, sources, touched
from service.queries import cursors
from service.queries.accounts import freshness
from service.queries.types import MAX_LIMIT, Person, Stream

StructT = TypeVar("StructT", bound=msgspec.Struct)
LIST_LENGTH = 100


class RuleView(msgspec.Struct, frozen=True, kw_only=True):
    """One rule and when its condition went live."""

    rule_id: str
    rule_version: str
    activated_at: datetime
    retired_at: datetime | None


class RulebookView(msgspec.Struct, frozen=True, kw_only=True):
    """The rulebook that was loaded last; all empty while no evaluator has ever run."""

    version: str | None
    loaded_at: datetime | None
    content: dict[str, Any]
    rules: tuple[RuleView, ...]


class PartitionView(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition has been applied."""

    topic: str
    partition: int
    next_offset: int
    records: int
    complete_through: datetime | None
    stopped_reason: str | None
    updated_at: datetime


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """Where events come from."""

    source: str
    first_event_at: datetime
    last_event_at: datetime
    last_live_at: datetime | None


class GapView(msgspec.Struct, frozen=True, kw_only=True):
    """Time during which a source (null: every source) was not observed."""

    gap_id: int
    source: str | None
    from_at: datetime
    until_at: datetime | None
    state: str
    reason: str
    noticed_at: datetime
    closed_at: datetime | None
    retired: bool  # its source is not waited for until it sends again


class ImportView(msgspec.Struct, frozen=True, kw_only=True):
    """One import of history."""

    import_id: str
    source: str
    rows_total: int | None
    rows_sent: int
    events_sent: int
    rows_refused: int
    started_at: datetime
    finished_at: datetime | None


class ReevaluationView(msgspec.Struct, frozen=True, kw_only=True):
    """The last time that everybody was looked at again: since rules or scorecards changed (`rules`), what was observed
    is another now (`observed`), or somebody asked for it (`asked`). `state`: running, done, or replaced by a newer
    one."""

    round: int
    why: str
    state: str
    accounts: int
    done: int
    began_at: datetime
    ended_at: datetime | None


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """How far the data has come, and what waits."""

    now: datetime
    as_of: datetime | None
    held_since: datetime | None
    stopped: tuple[str, ...]
    partitions: tuple[PartitionView, ...]
    sources: tuple[SourceView, ...]
    gaps: tuple[GapView, ...]
    imports: tuple[ImportView, ...]
    waiting_batches: int
    oldest_waiting_since: datetime | None
    reevaluation: ReevaluationView | None
    accounts_with_problems: int
    undelivered: int
    oldest_undelivered_since: datetime | None
    dead_deliveries: int
    open_dead_letters: int


async def rulebook(conn: AsyncConnection) -> RulebookView:
    row = (await conn.execute(select(rulebooks).order_by(rulebooks.c.loaded_at.desc()).limit(1))).one_or_none()
    rules = await _rows(conn, RuleView, rule_activations, rule_activations.c.rule_id)
    if row is None:
        return RulebookView(version=None, loaded_at=None, content={}, rules=rules)
    return RulebookView(version=row.version, loaded_at=row.loaded_at, content=row.content, rules=rules)


async def status(conn: AsyncConnection, now: datetime, *, stream: Stream) -> StatusView:
    fresh = await freshness(conn, now, stream=stream)
    offsets = stream_offsets.c
    waiting = (await conn.execute(select(func.count(), func.min(touched.c.created_at)))).one()
    unsent = select(func.count(), func.min(deliveries.c.created_at))
    undelivered = (await conn.execute(unsent.where(deliveries.c.status.in_(("pending", "leased"))))).one()
    return StatusView(
        now=now,
        as_of=fresh.as_of,
        held_since=fresh.held_since,
        stopped=fresh.stopped,
        partitions=await _rows(
            conn,
            PartitionView,
            stream_offsets,
            offsets.topic,
            offsets.partition,
            where=offsets.group_id == stream.group,
            limit=None,
        ),
        sources=await _rows(conn, SourceView, sources, sources.c.last_event_at.desc()),
        gaps=await _rows(conn, GapView, gaps, gaps.c.until_at.is_(None).desc(), gaps.c.from_at.desc()),
        imports=await _rows(conn, ImportView, imports, imports.c.started_at.desc()),
        waiting_batches=waiting[0],
        oldest_waiting_since=waiting[1],
        reevaluation=await reevaluation(conn),
        accounts_with_problems=await _count(conn, health, health.c.problem.is_not(None)),
        undelivered=undelivered[0],
        oldest_undelivered_since=undelivered[1],
        dead_deliveries=await _count(conn, deliveries, deliveries.c.status == "dead"),
        open_dead_letters=await _count(conn, dead_letters, dead_letters.c.status == "open"),
    )


async def reevaluation(conn: AsyncConnection) -> ReevaluationView | None:
    """The newest round; None before the first."""
    found = await _rows(conn, ReevaluationView, reevaluations, reevaluations.c.round.desc(), limit=1)
    return found[0] if found else None


async def _rows(
    conn: AsyncConnection,
    struct: type[StructT],
    table: Table,
    *order: Any,
    where: Any = None,
    limit: int | None = LIST_LENGTH,
) -> tuple[StructT, ...]:
    query = select(*(table.c[name] for name in struct.__struct_fields__)).order_by(*order).limit(limit)
    found = await conn.execute(query if where is None else query.where(where))
    return tuple(struct(**row) for row in found.mappings())


async def _count(conn: AsyncConnection, table: Table, where: Any) -> int:
    return await conn.scalar(select(func.count()).select_from(table).where(where)) or 0


async def people_list(conn: AsyncConnection, cursor: str | None, limit: int) -> tuple[tuple[Person, ...], str | None]:
    """(people by id, cursor of the next page). Raises BadCursorError."""
    limit = min(limit, MAX_LIMIT)
    names = [name for name in Person.__struct_fields__ if name != "has_slack_webhook"]
    columns = [people.c[name] for name in names]
    query = select(*columns, people.c.slack_webhook.is_not(None).label("has_slack_webhook"))
    if cursor is not None:
        query = query.where(people.c.person_id > cursors.decode(cursor, "people", str)[1])
    rows = (await conn.execute(query.order_by(people.c.person_id).limit(limit + 1))).mappings().all()
    items = tuple(Person(**row) for row in rows[:limit])
    return items, cursors.encode("people", None, items[-1].person_id) if len(rows) > limit else None
