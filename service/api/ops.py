"""For orchestrators and Prometheus: alive, ready, metrics. No key: they say nothing of customers."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from fastapi import APIRouter
from starlette.responses import Response

from consumers.broker import BrokerError
from consumers.dead_letters import count_open
from service import metrics, queries
from service.api.common import DepsDep, encode
from service.api.schemas import REF, answers
from service.db import read_schema
from service.deps import Deps
from service.errors import database_is_away
from service.metrics import Report
from service.queries import Freshness

router = APIRouter(tags=["operations"])

CHECK_SECONDS = 2.0
HELD_SECONDS = 1.0
QUIET = timedelta(seconds=60)


def _responses(meaning: str) -> dict[int | str, dict[str, object]]:
    ok = answers(Report, meaning)[200]
    schema = {"schema": {"$ref": REF.format(name=Report.__name__)}}
    return {200: ok, 503: {"description": "Not so; `checks` say why", "content": {"application/json": schema}}}


def _reported(report: Report) -> Response:
    return Response(
        encode(report),
        status_code=200 if report.ok else 503,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@router.get("/livez", summary="Is the process alive", responses={200: _responses("It answers")[200]})
async def livez() -> Response:
    """Nothing but this process: a database that is away is no reason to kill it."""
    return _reported(Report(ok=True))


@router.get("/readyz", summary="Should it get traffic", responses=_responses("It can answer"))
async def readyz(deps: DepsDep) -> Response:
    """The database must answer and have the schema of this release, or of a newer one. Broker and consumers are
    stated, but do not decide: without them the lists are still served, and events are refused with 503 one by one."""
    # One after the other: gathered, the fault of one would leave the other running with a connection half open.
    ready, checks = await _database(deps)
    return _reported(Report(ok=ready, checks={**checks, "broker": await _broker(deps)}))


async def _database(deps: Deps) -> tuple[bool, dict[str, str]]:
    try:
        async with asyncio.timeout(CHECK_SECONDS), deps.door.connect() as conn:
            schema = await read_schema(conn)
            if schema.problem is not None:
                return False, {"database": "ok", "migrations": f"{schema.problem}: run `kizashi migrate`"}
            fresh = await queries.freshness(conn, deps.clock(), stream=deps.stream)
    except Exception as error:
        if not database_is_away(error):
            raise
        return False, {"database": f"does not answer ({type(error).__name__})"}
    return True, {"database": "ok", "migrations": f"at {schema.at}", "consumers": _consumers(fresh, deps.clock())}


def _consumers(fresh: Freshness, now: datetime) -> str:
    """What is wrong first: partitions that are stopped, silence, then how far they are and how long ago that was."""
    said = [f"stopped partitions: {'; '.join(fresh.stopped)}"] if fresh.stopped else []
    if fresh.heard_at is None:
        return "have not reported yet"
    if (silent := now - fresh.heard_at) > QUIET:
        said.append(f"silent for {silent.total_seconds():.0f} s: see that they run")
    if fresh.as_of is None:
        said.append("have not reported yet of every partition")
    else:
        said.append(f"complete through {fresh.as_of.isoformat()}, {(now - fresh.as_of).total_seconds():.0f} s ago")
    if fresh.held_since is not None:
        said.append(f"absence is not believed since {fresh.held_since.isoformat()}")
    return "; ".join(said)


async def _broker(deps: Deps) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            count = await deps.producer.partition_count(deps.topic)
    except TimeoutError:
        return "does not answer"
    except BrokerError as error:
        return f"does not answer ({type(error).__name__})"
    return f"ok, {deps.topic} has {count} partitions"


METRICS_ANSWER = {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}


@router.get("/metrics", summary="Metrics of all roles", responses={200: METRICS_ANSWER}, response_class=Response)
async def show_metrics(deps: DepsDep) -> Response:
    """One exposition for the whole service; the label `role` tells the processes apart."""
    await _update_held(deps)
    body = await metrics.exposition(deps.metrics_peers)
    return Response(body, media_type=metrics.CONTENT_TYPE_LATEST)


async def _update_held(deps: Deps) -> None:
    try:
        async with asyncio.timeout(HELD_SECONDS), deps.door.connect() as conn:
            fresh = await queries.freshness(conn, deps.clock(), stream=deps.stream)
            letters = await count_open(conn)
    except Exception as error:
        if not database_is_away(error):
            raise
        return  # metrics are most wanted when the database is away; the gauges keep their last values
    metrics.DATA_HELD.set(fresh.held_since is not None)
    metrics.OPEN_DEAD_LETTERS.clear()
    for reason, count in letters.items():
        metrics.OPEN_DEAD_LETTERS.labels(reason).set(count)
