"""What goes wrong at the doors, as RFC 9457 problems: every error of the API has this one shape.

`Problem` is raised by endpoints and guards; the handlers below turn it, and everything else that reaches the edge, into
`application/problem+json`. `code` and `message` repeat status and detail for clients that look there.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.queries import BadCursorError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
SHOWN_CHARACTERS = 80


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of the input: where, what, and what to do about it."""

    field: str
    problem: str
    remedy: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldProblem]
    code: int
    message: str


class Problem(HTTPException):
    """Raised anywhere below the edge. `kind` is the stable word clients may test; `detail` is for their people."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.text = detail
        self.errors = tuple(errors)
        self.extra = dict(extra or {})


def bad_field(field: str, problem: str, remedy: str) -> Problem:
    """422 for a single field."""
    return Problem(
        422,
        "invalid",
        f"{field} {problem}: {remedy}",
        errors=[FieldProblem(field=field, problem=problem, remedy=remedy)],
    )


def not_found(what: str, name: object) -> Problem:
    return Problem(404, "not-found", f"there is no {what} {shown(name)}")


def unavailable(what: str, seconds: int = RETRY_SECONDS) -> Problem:
    """503: nothing was done, try again."""
    return Problem(503, "unavailable", what, headers={"Retry-After": str(seconds)})


def shown(value: object) -> str:
    """A value of the caller's, quoted, cut, and without control characters."""
    text = str(value)
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")


def document(problem: Problem, *, path: str, request_id: str) -> bytes:
    """The problem as JSON."""
    made = ProblemDocument(
        type=f"urn:kizashi:problem:{problem.kind}",
        title=_phrase(problem.status_code),
        status=problem.status_code,
        detail=problem.text,
        instance=path,
        request_id=request_id,
        errors=list(problem.errors),
        code=problem.status_code,
        message=problem.text,
    )
    return msgspec.json.encode({**msgspec.to_builtins(made), **msgspec.to_builtins(problem.extra)})


def respond(request: Request, problem: Problem) -> Response:
    """The answer to `request`. Works for requests that no route has seen."""
    request_id = request.scope.get("state", {}).get("request_id", "")
    return Response(
        document(problem, path=request.url.path, request_id=request_id),
        status_code=problem.status_code,
        media_type=MEDIA_TYPE,
        headers={**(problem.headers or {}), "Cache-Control": "no-store"},
    )


def as_problem(error: Exception) -> Problem:
    """The problem that an exception amounts to; 500, saying nothing of its cause, for what nobody foresaw."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _from_http(error)
    if isinstance(error, RequestValidationError):
        return invalid(cast("Sequence[ErrorDetails]", error.errors()))
    if isinstance(error, BadCursorError):
        remedy = "leave it out to start from the first page"
        return bad_field("cursor", "is not a cursor of this list in this order", remedy)
    if database_is_away(error):
        return unavailable("the database does not answer: try again shortly")
    return Problem(500, "internal", "something went wrong on our side; the log has it under this request_id")


def _from_http(error: HTTPException) -> Problem:
    if error.status_code == 404:
        return Problem(404, "not-found", "there is nothing at this address")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return Problem(405, "method-not-allowed", f"use {allowed or 'another method'}", headers=error.headers)
    if error.status_code == 400:
        return Problem(400, "malformed", "the request could not be read")
    return Problem(error.status_code, "refused", str(error.detail), headers=error.headers)


def invalid(details: Sequence[ErrorDetails]) -> Problem:
    """422 naming each field, its problem and the remedy."""
    errors = [_field_problem(detail) for detail in details]
    first = f"{errors[0].field} {errors[0].problem}" if errors else "the input does not fit"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, "invalid", f"{first}{more}", errors=errors)


def _field_problem(detail: ErrorDetails) -> FieldProblem:
    place = [str(part) for part in detail["loc"]]
    if place and place[0] in {"query", "path", "header", "body"}:
        place = place[1:]
    message = detail["msg"].removeprefix("Value error, ")
    return FieldProblem(
        field=".".join(place),
        problem=message[:1].lower() + message[1:],
        remedy=_remedy(detail["type"], detail.get("ctx") or {}),
    )


def _remedy(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "missing":
        return "give it"
    if kind == "extra_forbidden":
        return "leave it out, or check its spelling"
    if kind in {"literal_error", "enum"}:
        return f"use one of {context.get('expected', 'the documented values')}"
    if kind.startswith(("int_", "float_", "decimal_")):
        return "give a number"
    if kind.startswith("bool_"):
        return "give true or false"
    if kind.startswith(("datetime_", "timezone_")):
        return "give an RFC 3339 time with offset, such as 2026-05-01T09:30:00Z"
    if kind.startswith("date_"):
        return "give a date such as 2026-05-01"
    if kind.startswith("uuid_"):
        return "give the id as the lists show it"
    if kind.startswith("json_"):
        return "send valid JSON"
    limits = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in context.items() if name != "error")
    return f"keep to {limits}" if limits else "correct the value"


AWAY_CLASSES = ("08", "53", "57", "40")
"""SQLSTATE classes that trying again may mend: connection, resources, operator intervention, serialisation."""
LOCK_NOT_AVAILABLE = "55P03"


def database_is_away(error: BaseException) -> bool:
    """Whether the database (not the statement) is the trouble."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        # asyncpg's own interface errors (a closed connection) carry no SQLSTATE.
        closed = error.connection_invalidated or isinstance(error, InterfaceError)
        return closed or state[:2] in AWAY_CLASSES or state == LOCK_NOT_AVAILABLE
    return isinstance(error, (PoolTimeoutError, ConnectionError, TimeoutError, socket.gaierror))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
