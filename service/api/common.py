"""What the endpoints share: who may, what a body or a parameter must look like, how an answer is written."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Query, Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.responses import Response

from service.auth import Key, Scope
from service.deps import Deps
from service.errors import Problem, invalid
from service.queries import MAX_LIMIT

ModelT = TypeVar("ModelT", bound=BaseModel)

# Money is a number with all its decimals, as JSON has it.
_encoder = msgspec.json.Encoder(decimal_format="number")

CLEAN = r"^[^\u0000-\u001f\u007f]*$"
"""No control characters: Postgres takes no NUL, and none of the others belongs in a name."""


def _plain(text: str) -> str:
    # The pattern says the same to readers of the schema; lone surrogates are what it cannot say.
    text.encode()
    return text


Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=CLEAN), AfterValidator(_plain)]
"""A name or an id from outside."""
Sentence = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\u0000]*$"), AfterValidator(_plain)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description=f"Most items on a page, at most {MAX_LIMIT}")]
Cursor = Annotated[
    str | None,
    Query(
        max_length=2048,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="`next_cursor` of the page before; none: the first page",
    ),
]
YEARS = range(1970, 2200)
"""Of all instants taken in: those at the calendar's ends overflow once they are turned into UTC."""


def _within_years(at: datetime) -> datetime:
    if at.year not in YEARS:
        raise ValueError(f"lies in the year {at.year}: give an instant in the years 1970 to 2199")
    return at


Instant = Annotated[AwareDatetime, AfterValidator(_within_years)]


class Strict(BaseModel):
    """A body or a set of query parameters: unknown names are refused: a misspelt filter would filter nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def deps_of(request: Request) -> Deps:
    deps: Deps = request.app.state.deps
    return deps


DepsDep = Annotated[Deps, Depends(deps_of)]


class _Bearer(SecurityBase):
    """`Authorization: Bearer kz_…`."""

    def __init__(self) -> None:
        self.model = HTTPBearerModel(description="An API key, made by `kizashi keys create` or `POST /api/v1/keys`")
        self.scheme_name = "key"

    async def __call__(self, request: Request) -> Key:
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        key = None
        if scheme.lower() == "bearer":
            key = await deps_of(request).keys.verify(presented.strip())
        if key is None:
            raise Problem(
                401,
                "unauthorized",
                "no valid key: send `Authorization: Bearer kz_…`",
                headers={"WWW-Authenticate": 'Bearer realm="kizashi"'},
            )
        request.state.key = key
        return key


bearer = _Bearer()


def require(scope: Scope) -> Callable[..., Awaitable[Key]]:
    """A dependency that gives the key, if it has the scope."""

    async def allowed(key: Annotated[Key, Depends(bearer)]) -> Key:
        if scope not in key.scopes:
            raise Problem(403, "forbidden", f"this key lacks the scope `{scope}`: use one that has it")
        return key

    return allowed


ReadKey = Annotated[Key, Depends(require("read"))]
WriteKey = Annotated[Key, Depends(require("write"))]
IngestKey = Annotated[Key, Depends(require("ingest"))]


def body(model: type[ModelT]) -> Callable[[Request], Awaitable[ModelT]]:
    """A dependency that reads a JSON body into `model`, strictly.

    FastAPI's own body parameters would be parsed before the key is checked.
    """

    async def read(request: Request) -> ModelT:
        media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Problem(415, "unsupported-type", "send the body as application/json")
        raw = await request.body()
        try:
            return model.model_validate_json(raw or b"{}", strict=True)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False, include_input=False)) from None

    return read


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Any struct as JSON. Answers hold customers' data: no shared cache may keep them."""
    return Response(
        _encoder.encode(value),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def tagged(request: Request, value: Any, identity: Any) -> Response:
    """Like `answer`, with a weak ETag made of `identity`: the part of the value that makes it worth sending again."""
    tag = f'W/"{hashlib.blake2b(_encoder.encode(identity), digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    wanted = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if "*" in wanted or tag.removeprefix("W/") in wanted:
        return Response(status_code=304, headers=headers)
    return Response(_encoder.encode(value), media_type="application/json", headers=headers)
