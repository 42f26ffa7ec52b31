"""The HTTP door for events, as the API's description has it. `service.ingest` answers it, in front of the API."""

from __future__ import annotations

from typing import Any

from service.api.schemas import PROBLEM_REF, REF, answers
from service.errors import MEDIA_TYPE
from service.ingest.answers import Accepted
from service.ingest.routes import API_PATH

EXAMPLE = {
    "kind": "login",
    "event_id": "5b1f0c2e-login-1",
    "account_id": "acct_42",
    "user_id": "u_7",
    "timestamp": "2026-05-01T09:30:00Z",
}
DESCRIPTION = """\
One event, an array of them, or one per line; as it is, or compressed (gzip, deflate, zstd). Answers when the broker \
has stored them (`acks=all`), with a result per item: one bad event never fails its neighbours. Sending again with the \
same `event_id` is always safe. Events without a `source` get the key's name as theirs; `received_at` is stamped here. \
503 means that nothing was acknowledged."""


def paths() -> dict[str, Any]:
    """The `paths` of the OpenAPI document for what is answered outside of its routes."""
    event = {"$ref": REF.format(name="Event")}
    schema = {"oneOf": [event, {"type": "array", "items": event, "minItems": 1}]}
    lines = {"type": "string", "description": "One event per line"}
    operation = {
        "tags": ["events"],
        "summary": "Send events",
        "description": DESCRIPTION,
        "operationId": "post_events",
        "security": [{"key": []}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": EXAMPLE},
                "application/x-ndjson": {"schema": lines},
            },
        },
        "responses": {str(status): found for status, found in _responses().items()},
    }
    return {API_PATH: {"post": operation}}


def _responses() -> dict[int | str, dict[str, Any]]:
    responses = answers(Accepted, "At least one event was taken and is stored durably", 408, 413, 415, 429, status=202)
    problem = {"schema": {"$ref": PROBLEM_REF}}
    results = {"schema": {"$ref": REF.format(name="Accepted")}}
    responses[422] = {
        "description": "No event was taken: the results name each fault; a problem when there was no event at all",
        "content": {"application/json": results, MEDIA_TYPE: problem},
    }
    return responses
