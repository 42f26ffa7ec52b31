"""The partitions as operators see them, and their release: for API, board and command alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from consumers.broker import BrokerUnavailable, Partition
from consumers.broker.survey import survey
from consumers.offsets import VOLATILE, Log, Offsets
from consumers.poison import POISON
from consumers.progress import RELAY_SUFFIX
from consumers.releasing import CannotRelease, From, carry_out, plan
from consumers.tables import stream_offsets
from service import audit
from service.deps import Deps
from service.queries import Stream
from service.settings import Settings

__all__ = ["CannotRelease", "From", "PartitionNow", "Partitions", "logs_of", "partitions", "release", "stopped_of"]

SURVEY_SECONDS = 5.0


class PartitionNow(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition is applied, and what its log holds; null where the broker does not say."""

    group: str  # the consumers', or the relay's
    topic: str
    partition: int
    next_offset: int | None  # null: no consumer has opened it yet
    log_start: int | None
    log_end: int | None
    lag: int | None
    records: int
    complete_through: datetime | None
    stopped_reason: str | None
    poisoned: bool  # stopped over too many dead letters, not over a log in doubt
    updated_at: datetime | None


class Partitions(msgspec.Struct, frozen=True, kw_only=True):
    """Of the consumers and of the relay, by topic and number."""

    broker: str | None  # why the broker could not be asked
    items: tuple[PartitionNow, ...]


async def logs_of(settings: Settings, topics: Iterable[str]) -> Mapping[Partition, Log]:
    """What the broker has of them. Raises BrokerUnavailable."""
    found = await survey(settings.kafka_bootstrap, sorted(topics), timeout_seconds=SURVEY_SECONDS)
    marker = settings.broker_incarnation
    cluster = found.cluster_id if marker is None else f"{VOLATILE}{marker}"
    return {
        (topic, number): Log(cluster_id=cluster, topic_id=seen.topic_id, start=seen.starts[number], end=end)
        for topic, seen in found.topics.items()
        for number, end in seen.ends.items()
    }


async def partitions(deps: Deps) -> Partitions:
    """Also those that the broker has and no consumer has opened."""
    logs: Mapping[Partition, Log] = {}
    problem = None
    async with deps.reading() as conn:
        stored = await _stored(conn, deps.stream)
    try:
        logs = await logs_of(deps.settings, {*deps.stream.topics, *(topic for topic, _ in stored)})
    except BrokerUnavailable as error:
        problem = str(error)
    items = tuple(
        _now(deps.stream.group, place, stored.get(place), logs.get(place))
        for place in sorted(stored.keys() | logs.keys())
    )
    return Partitions(broker=problem, items=items)


async def stopped_of(deps: Deps, topic: str) -> list[int]:
    """The numbers of the topic's stopped partitions."""
    async with deps.reading() as conn:
        stored = await _stored(conn, deps.stream)
    return sorted(place[1] for place, row in stored.items() if place[0] == topic and row["stopped_reason"] is not None)


async def _stored(conn: AsyncConnection, stream: Stream) -> Mapping[Partition, Mapping[str, object]]:
    groups = (stream.group, f"{stream.group}{RELAY_SUFFIX}")
    rows = await conn.execute(select(stream_offsets).where(stream_offsets.c.group_id.in_(groups)))
    return {(row["topic"], row["partition"]): dict(row) for row in rows.mappings()}


def _now(group: str, place: Partition, row: Mapping[str, object] | None, log: Log | None) -> PartitionNow:
    start, end = (None, None) if log is None else (log.start, log.end)
    known = row or {}
    reason = known.get("stopped_reason")
    next_offset = known.get("next_offset")
    lag = None if log is None else max(log.end - (next_offset if isinstance(next_offset, int) else log.start), 0)
    return msgspec.convert(
        {
            "group": known.get("group_id", group), "topic": place[0], "partition": place[1],
            "next_offset": next_offset, "log_start": start, "log_end": end, "lag": lag,
            "records": known.get("records", 0), "complete_through": known.get("complete_through"),
            "stopped_reason": reason, "poisoned": isinstance(reason, str) and reason.startswith(POISON),
            "updated_at": known.get("updated_at"),
        },
        PartitionNow,
    )  # fmt: skip


async def release(deps: Deps, place: Partition, start_from: From, *, actor: str, now: datetime) -> PartitionNow:
    """Lets it go on. Raises CannotRelease. The audit is written first: better one line too many than one too few."""
    async with deps.reading() as conn:
        row = (await _stored(conn, deps.stream)).get(place, {})
    offsets = Offsets(deps.engine, str(row.get("group_id", deps.stream.group)))
    stored = await offsets.read(place)
    log = None
    if stored is not None and stored.stopped_reason is not None:
        try:
            log = (await logs_of(deps.settings, [place[0]])).get(place)
        except BrokerUnavailable as error:
            raise CannotRelease(f"the broker does not answer: {error}") from None
    chosen = plan(stored, log, start_from)
    assert stored is not None
    assert log is not None
    detail = {
        "from": start_from, "stood_at": stored.position.next_offset, "goes_on_at": chosen.next_offset,
        "gap": chosen.anew, "reason": chosen.reason,
    }  # fmt: skip
    async with deps.writing() as conn:
        subject = f"{place[0]}[{place[1]}]"
        await audit.note(conn, actor=actor, action="partition.released", subject=subject, detail=detail, now=now)
    await carry_out(offsets, place, stored, log, chosen, now)
    async with deps.reading() as conn:
        return _now(deps.stream.group, place, (await _stored(conn, deps.stream)).get(place), log)
