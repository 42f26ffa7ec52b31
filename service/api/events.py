"""The HTTP door for events: read, checked item by item, given to the broker, and answered only when that has them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from consumers.broker import BrokerError, BrokerUnavailable, RecordTooLarge
from consumers.events import DEFAULT_SOURCE, BadEvent, Event, bad, encode
from consumers.formats.canonical import Limits, split
from service import metrics
from service.api.common import IngestKey, answer, deps_of
from service.api.schemas import PROBLEM_REF, REF, answers
from service.auth import Key
from service.deps import Deps
from service.errors import MEDIA_TYPE, RETRY_SECONDS, FieldProblem, Problem, bad_field

router = APIRouter(prefix="/api/v1", tags=["events"])

MEDIA_TYPES = frozenset(
    {"application/json", "application/x-ndjson", "application/ndjson", "application/jsonl", "text/plain"}
)
CHUNK_EVENTS = 100
"""Events given to the broker at once; what becomes of them is known together."""

EXAMPLE = {
    "kind": "login",
    "event_id": "5b1f0c2e-login-1",
    "account_id": "acct_42",
    "user_id": "u_7",
    "timestamp": "2026-05-01T09:30:00Z",
}


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event. `unacknowledged`: the broker did not say in time; send it again as it is."""

    index: int
    status: Literal["accepted", "refused", "unacknowledged"]
    event_id: str | None
    errors: list[FieldProblem]


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The counts, and each item in the order of the body."""

    accepted: int
    refused: int
    unacknowledged: int
    results: list[ItemResult]


ItemStatus = Literal["accepted", "refused", "unacknowledged"]


def _described() -> dict[str, object]:
    event = {"$ref": REF.format(name="Event")}
    schema = {"oneOf": [event, {"type": "array", "items": event, "minItems": 1}]}
    lines = {"type": "string", "description": "One event per line"}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": EXAMPLE},
                "application/x-ndjson": {"schema": lines},
            },
        }
    }


def _responses() -> dict[int | str, dict[str, object]]:
    responses = answers(Accepted, "At least one event was taken and is stored durably", 408, 413, 415, status=202)
    problem = {"schema": {"$ref": PROBLEM_REF}}
    results = {"schema": {"$ref": REF.format(name="Accepted")}}
    responses[422] = {
        "description": "No event was taken: the results name each fault; a problem when there was no event at all",
        "content": {"application/json": results, MEDIA_TYPE: problem},
    }
    return responses


@router.post("/events", status_code=202, summary="Send events", responses=_responses(), openapi_extra=_described())
async def post_events(request: Request, key: IngestKey, deps: Annotated[Deps, Depends(deps_of)]) -> Response:
    """One event, an array of them, or one per line. Answers when the broker has stored them (`acks=all`), with a result
    per item: one bad event never fails its neighbours. Sending again with the same `event_id` is always safe. Events
    without a `source` get the key's name as theirs; `received_at` is stamped here. 503 means that nothing was
    acknowledged."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Problem(415, "unsupported-type", f"send events as one of {', '.join(sorted(MEDIA_TYPES))}")
    raw = await request.body()
    now = deps.clock()
    verdicts = _verdicts(raw, key, deps, now)
    taken = [(place, event) for place, event in enumerate(verdicts) if not isinstance(event, BadEvent)]
    statuses = await deps.shielded(_produce(deps, [event for _, event in taken]))
    outcome = {place: status for (place, _), status in zip(taken, statuses, strict=True)}
    return _answer(verdicts, outcome)


def _verdicts(raw: bytes, key: Key, deps: Deps, now: datetime) -> list[Event | BadEvent]:
    settings = deps.settings
    limits = Limits(
        event_max_bytes=settings.event_max_bytes,
        batch_max_events=settings.batch_max_events,
        future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
    )
    try:
        items = split(raw, now=now, limits=limits)
    except BadEvent as error:
        metrics.EVENTS_REFUSED.labels("http", error.reason).inc()
        status = 413 if error.reason == "too_large" else 422
        raise Problem(status, error.reason.replace("_", "-"), str(error), errors=_fields(error)) from None
    if not items:
        raise bad_field("body", "holds no event", "send at least one")
    verdicts = [verdict if isinstance(verdict, BadEvent) else _stamped(verdict, key, now) for _, verdict, _ in items]
    for reason, count in Counter(verdict.reason for verdict in verdicts if isinstance(verdict, BadEvent)).items():
        metrics.EVENTS_REFUSED.labels("http", reason).inc(count)
    return verdicts


def _stamped(event: Event, key: Key, now: datetime) -> Event | BadEvent:
    if event.import_id is not None:
        # Rows of an import are recognised by their order, which requests over HTTP do not keep.
        return bad("import_id", "is for `kizashi backfill` alone", "leave import_id and import_row out")
    source = key.name if event.source == DEFAULT_SOURCE else event.source
    return msgspec.structs.replace(event, received_at=now, source=source)


async def _produce(deps: Deps, events: Sequence[Event]) -> list[ItemStatus]:
    records = [(event.account_id.encode(), encode(event)) for event in events]
    chunks = [records[start : start + CHUNK_EVENTS] for start in range(0, len(records), CHUNK_EVENTS)]
    statuses = await asyncio.gather(*(_produce_chunk(deps, chunk) for chunk in chunks))
    flat = [status for chunk in statuses for status in chunk]
    for kind, count in Counter(
        event.__struct_config__.tag for event, status in zip(events, flat, strict=True) if status == "accepted"
    ).items():
        metrics.EVENTS_ACCEPTED.labels(str(kind)).inc(count)
    metrics.EVENTS_UNACKNOWLEDGED.inc(flat.count("unacknowledged"))
    return flat


async def _produce_chunk(deps: Deps, chunk: list[tuple[bytes, bytes]]) -> list[ItemStatus]:
    try:
        await deps.producer.send_many(deps.topic, [(key, value, ()) for key, value in chunk])
    except RecordTooLarge:
        if len(chunk) == 1:
            return ["refused"]
        # One of them is: the others must not wait for it for ever.
        alone = await asyncio.gather(*(_produce_chunk(deps, [record]) for record in chunk))
        return [status for statuses in alone for status in statuses]
    except BrokerUnavailable:
        return ["unacknowledged"] * len(chunk)
    except BrokerError as error:
        raise Problem(503, "unavailable", str(error), headers={"Retry-After": str(RETRY_SECONDS)}) from error
    return ["accepted"] * len(chunk)


def _answer(verdicts: Sequence[Event | BadEvent], outcome: dict[int, ItemStatus]) -> Response:
    results = [_result(index, verdict, outcome.get(index, "refused")) for index, verdict in enumerate(verdicts)]
    counts = Counter(result.status for result in results)
    if counts["unacknowledged"] and not counts["accepted"]:
        raise Problem(
            503,
            "broker-away",
            "the broker did not acknowledge in time: send again with the same event ids",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
    body = Accepted(
        accepted=counts["accepted"],
        refused=counts["refused"],
        unacknowledged=counts["unacknowledged"],
        results=results,
    )
    headers = {"Retry-After": str(RETRY_SECONDS)} if counts["unacknowledged"] else None
    return answer(body, 202 if counts["accepted"] else 422, headers)


def _result(index: int, verdict: Event | BadEvent, status: ItemStatus) -> ItemResult:
    if isinstance(verdict, BadEvent):
        return ItemResult(index=index, status="refused", event_id=None, errors=_fields(verdict))
    errors = []
    if status == "refused":
        errors = [FieldProblem(field="", problem="is larger than the broker takes", remedy="send a smaller event")]
    elif status == "unacknowledged":
        errors = [FieldProblem(field="", problem="was not acknowledged in time", remedy="send it again as it is")]
    return ItemResult(index=index, status=status, event_id=verdict.event_id, errors=errors)


def _fields(error: BadEvent) -> list[FieldProblem]:
    return [FieldProblem(field=part.field, problem=part.problem, remedy=part.remedy) for part in error.problems]
