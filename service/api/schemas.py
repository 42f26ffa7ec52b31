"""The API's description: schemas of answers made from the very structs that are encoded, of bodies from their models.

Nothing is written twice: `docs/openapi.json` is this module's output, and a test holds it to that.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.errors import MEDIA_TYPE, ProblemDocument

REF = "#/components/schemas/{name}"
PROBLEM_REF = REF.format(name=ProblemDocument.__name__)

MEANINGS = {
    401: "No valid key: missing, unknown, expired or revoked",
    403: "The key lacks the scope",
    404: "No such thing",
    405: "Another method is needed; `Allow` names it",
    408: "The body came too slowly",
    409: "It has changed meanwhile, or its state does not allow this",
    413: "Too large; the detail says which limit",
    415: "The body's type or encoding is not taken",
    422: "The input does not fit; `errors` names field, problem and remedy",
    429: "The key, or the address with keys that are none, asks too often; `Retry-After` says how long to wait",
    500: "Our fault",
    503: "Database or broker away, or too many requests: try again after `Retry-After` seconds",
}

_answers: dict[str, type[msgspec.Struct]] = {}
_bodies: dict[str, type[BaseModel]] = {}


def answers(
    struct: type[msgspec.Struct], meaning: str, *also: int, status: int = 200
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint: what it gives, and which problems it may end in beside the usual ones."""
    _answers[struct.__name__] = struct
    schema = {"$ref": REF.format(name=struct.__name__)}
    return {status: {"description": meaning, "content": {"application/json": {"schema": schema}}}, **problems(*also)}


def problems(*also: int) -> dict[int | str, dict[str, Any]]:
    """Problems that every guarded endpoint may answer with, and `also`."""
    return {
        status: {
            "description": MEANINGS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": PROBLEM_REF}}},
        }
        for status in sorted({401, 403, 422, 500, 503, *also})
    }


def body_of(model: type[BaseModel], example: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """The `openapi_extra` of an endpoint that reads a JSON body."""
    _bodies[model.__name__] = model
    schema = {"$ref": REF.format(name=model.__name__)}
    return {
        "requestBody": {
            "required": required,
            "content": {"application/json": {"schema": schema, "example": example}},
        }
    }


def openapi(app: FastAPI, description: str, event_schema: dict[str, Any], more_paths: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.1 of the whole API; `more_paths`: of what is answered outside of the app's routes."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=description,
        routes=app.routes,
        openapi_version="3.1.0",
        tags=app.openapi_tags,
    )
    document["paths"] = {**more_paths, **document["paths"]}
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    structs = (*_answers.values(), ProblemDocument)
    _, components = msgspec.json.schema_components(structs, ref_template=REF)
    schemas.update(_tidy(components))
    for name, model in _bodies.items():
        made = model.model_json_schema(ref_template=REF.replace("{name}", "{model}"), mode="validation")
        schemas.update(made.pop("$defs", {}))
        schemas[name] = made
    schemas.update(_event_schemas(event_schema))
    # FastAPI describes its own error shape, which we never answer with.
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    return document


def _event_schemas(event_schema: dict[str, Any]) -> dict[str, Any]:
    """The published schema of events, its definitions moved to where OpenAPI keeps them."""
    moved: dict[str, Any] = _moved({key: value for key, value in event_schema.items() if key != "$schema"})
    definitions = {f"Event{name}": value for name, value in moved.pop("$defs").items()}
    return {"Event": moved, **definitions}


def _moved(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: REF.format(name="Event" + value.removeprefix("#/$defs/"))
            if isinstance(value, str) and value.startswith("#/$defs/")
            else _moved(value)
            for key, value in node.items()
        }
    return [_moved(part) for part in node] if isinstance(node, list) else node


def _tidy(node: Any) -> Any:
    """Money is encoded as a number, not as msgspec's text; a struct's title says nothing beyond its name."""
    if isinstance(node, dict):
        if node.get("format") == "decimal":
            return {"type": "number"}
        return {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    return [_tidy(part) for part in node] if isinstance(node, list) else node
