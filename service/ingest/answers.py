"""What each door answers. One answer suits every vendor's clients; our own door says what became of each item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from consumers.events import BadEvent
from consumers.intake import Status, Taken
from service.errors import RETRY_SECONDS, FieldProblem, Problem
from service.ingest.routes import Route

ERRORS_SHOWN: Final = 100
"""Refused items described in an answer to a vendor's client, which does not read it; people do, and need no more."""
OK: Final = b'{"success":true,"status":1,"code":200,"message":"ok"}'

Headers = dict[str, str]
Answer = tuple[int, bytes, Headers]
_encode: Final = msgspec.json.Encoder().encode


class ItemResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


def answer(route: Route, taken: Sequence[Taken]) -> Answer:
    """(status, body, headers). Raises Problem when nothing was taken, or, to clients that cannot send an item again
    alone, when any was not acknowledged."""
    if route.dialect == "vendor" and all(each.status in {"accepted", "waiting"} for each in taken):
        return 200, OK, {}
    counts = Counter(each.status for each in taken)
    took = counts["accepted"] + counts["waiting"] + counts["ignored"]
    if counts["unacknowledged"] and (not took or route.dialect == "vendor"):
        raise not_acknowledged()
    if route.dialect == "canonical":
        return _canonical(taken, counts, took)
    if route.dialect == "posthog_v1":
        return _posthog_v1(taken, counts)
    if not took:
        raise nothing_taken(taken)
    return 200, _encode(_with_faults(taken, counts)), {}


def not_acknowledged() -> Problem:
    return Problem(
        503,
        "broker-away",
        "the broker did not acknowledge in time: send again with the same event ids",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def nothing_taken(taken: Sequence[Taken]) -> Problem:
    """400 with the faults: vendors' clients give such a batch up."""
    first = next(each.error for each in taken if each.error is not None)
    more = f" (and {len(taken) - 1} more events)" if len(taken) > 1 else ""
    return Problem(
        400,
        first.reason.replace("_", "-"),
        f"{first}{more}",
        errors=fields_of(first),
        extra={"results": _faults(taken)},
    )


def fields_of(error: BadEvent) -> list[FieldProblem]:
    return [FieldProblem(field=part.field, problem=part.problem, remedy=part.remedy) for part in error.problems]


def _canonical(taken: Sequence[Taken], counts: Counter[Status], took: int) -> Answer:
    results = [_result(index, each) for index, each in enumerate(taken)]
    body = Accepted(
        accepted=took, refused=counts["refused"], unacknowledged=counts["unacknowledged"], results=results
    )  # fmt: skip
    headers = {"Retry-After": str(RETRY_SECONDS)} if counts["unacknowledged"] else {}
    return 202 if took else 422, _encode(body), headers


def _result(index: int, taken: Taken) -> ItemResult:
    if taken.status == "refused":
        errors = fields_of(taken.error) if taken.error is not None else []
        return ItemResult(index=index, status="refused", event_id=taken.event_id, errors=errors)
    if taken.status == "unacknowledged":
        late = FieldProblem(field="", problem="was not acknowledged in time", remedy="send it again as it is")
        return ItemResult(index=index, status="unacknowledged", event_id=taken.event_id, errors=[late])
    return ItemResult(index=index, status="accepted", event_id=taken.event_id, errors=[])


def _posthog_v1(taken: Sequence[Taken], counts: Counter[Status]) -> Answer:
    """A directive for each event, by its id: this client sends again only what it is told to."""
    results: dict[str, dict[str, str]] = {}
    for each in taken:
        if each.event_id is None:
            continue
        if each.status == "refused":
            results[each.event_id] = {"result": "drop", "details": str(each.error)[:500]}
        elif each.status == "unacknowledged":
            results[each.event_id] = {"result": "retry"}
        else:
            results[each.event_id] = {"result": "ok"}
    if not results and counts["refused"]:
        raise nothing_taken(taken)
    return 200, _encode({"results": results, "success": True, "status": 1, "code": 200, "message": "ok"}), {}


def _with_faults(taken: Sequence[Taken], counts: Counter[Status]) -> dict[str, Any]:
    return {
        "success": True,
        "status": 1,
        "code": 200,
        "message": "ok",
        "accepted": counts["accepted"] + counts["waiting"],
        "ignored": counts["ignored"],
        "refused": counts["refused"],
        "results": _faults(taken),
    }


def _faults(taken: Sequence[Taken]) -> list[dict[str, Any]]:
    found = [
        {"index": index, "event_id": each.event_id, "errors": fields_of(each.error)}
        for index, each in enumerate(taken)
        if each.error is not None
    ]
    return found[:ERRORS_SHOWN]
