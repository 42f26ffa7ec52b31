"""The HTTP door for events: read, checked item by item, given to the broker, and answered only when that has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from consumers.broker import BrokerError
from consumers.events import BadEvent, Event, bad
from consumers.formats.canonical import Limits, split
from consumers.formats.items import Item
from consumers.intake import Taken
from service import metrics
from service.api.common import IngestKey, answer, deps_of
from service.api.schemas import PROBLEM_REF, REF, answers
from service.deps import Deps
from service.errors import MEDIA_TYPE, RETRY_SECONDS, FieldProblem, Problem, bad_field

router = APIRouter(prefix="/api/v1", tags=["events"])

MEDIA_TYPES = frozenset(
    {"application/json", "application/x-ndjson", "application/ndjson", "application/jsonl", "text/plain"}
)
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
    items = _items(raw, deps, now)
    try:
        taken = await deps.shielded(deps.intake.take(items, source=key.name, now=now))
    except BrokerError as error:
        raise Problem(503, "unavailable", str(error), headers={"Retry-After": str(RETRY_SECONDS)}) from error
    return _answer(taken)


def _items(raw: bytes, deps: Deps, now: datetime) -> list[Item]:
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
    return [_item(verdict) for _, verdict, _ in items]


def _item(verdict: Event | BadEvent) -> Item:
    if isinstance(verdict, BadEvent):
        return Item(error=verdict)
    if verdict.import_id is not None:
        # Rows of an import are recognised by their order, which requests over HTTP do not keep.
        return Item(error=bad("import_id", "is for `kizashi backfill` alone", "leave import_id and import_row out"))
    return Item(event_id=verdict.event_id, events=(verdict,))


def _answer(taken: Sequence[Taken]) -> Response:
    results = [_result(index, each) for index, each in enumerate(taken)]
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


def _result(index: int, taken: Taken) -> ItemResult:
    if taken.error is not None:
        return ItemResult(index=index, status="refused", event_id=taken.event_id, errors=_fields(taken.error))
    if taken.status == "unacknowledged":
        late = FieldProblem(field="", problem="was not acknowledged in time", remedy="send it again as it is")
        return ItemResult(index=index, status="unacknowledged", event_id=taken.event_id, errors=[late])
    return ItemResult(index=index, status="accepted", event_id=taken.event_id, errors=[])


def _fields(error: BadEvent) -> list[FieldProblem]:
    return [FieldProblem(field=part.field, problem=part.problem, remedy=part.remedy) for part in error.problems]
