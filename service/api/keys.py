"""API keys over the API: who may write may make, list and revoke them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path
from pydantic import Field
from starlette.responses import Response

from service import audit, auth
from service.api.common import DepsDep, Instant, Strict, WriteKey, answer, body
from service.api.schemas import answers, body_of, problems
from service.errors import bad_field, not_found

router = APIRouter(prefix="/api/v1/keys", tags=["keys"])


class NewKey(Strict):
    name: str = Field(pattern=f"^{auth.NAME.pattern}$", description="Default `source` of the events sent with it")
    scopes: list[auth.Scope] = Field(min_length=1, max_length=3, description="What it may be used for")
    expires_at: Instant | None = Field(default=None, description="When it stops working; none: never")


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret."""

    key_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class MadeKey(msgspec.Struct, frozen=True, kw_only=True):
    """The one time that the key itself is shown."""

    key: str
    details: KeyView


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first, the revoked ones too."""

    items: list[KeyView]


def _view(key: auth.Key) -> KeyView:
    return KeyView(**{name: getattr(key, name) for name in KeyView.__struct_fields__})


@router.post(
    "",
    status_code=201,
    summary="Make a key",
    responses=answers(MadeKey, "Made; keep the key, it is not shown again", 408, 413, 415, status=201),
    openapi_extra=body_of(NewKey, {"name": "shop-backend", "scopes": ["ingest"]}),
)
async def make_key(deps: DepsDep, by: WriteKey, wish: Annotated[NewKey, Depends(body(NewKey))]) -> Response:
    """256 random bits; only a hash is kept. Two keys may have the same name, so that one can follow another."""
    now = deps.clock()
    if wish.expires_at is not None and wish.expires_at <= now:
        raise bad_field("expires_at", "lies in the past", "give a later instant, or leave it out")

    async def write() -> MadeKey:
        async with deps.writing() as conn:
            presented, key = await auth.create(
                conn, name=wish.name, scopes=wish.scopes, expires_at=wish.expires_at, now=now
            )
            await audit.key_created(conn, key, actor=f"key:{by.name}", now=now)
        return MadeKey(key=presented, details=_view(key))

    return answer(await deps.shielded(write()), 201)


@router.get("", summary="Keys", responses=answers(Keys, "All keys"))
async def list_keys(deps: DepsDep, _: WriteKey) -> Response:
    """Without their secrets. `last_used_at` is exact to a minute."""
    async with deps.reading() as conn:
        return answer(Keys(items=[_view(key) for key in await auth.list_keys(conn)]))


@router.delete(
    "/{key_id}",
    status_code=204,
    response_class=Response,
    summary="Revoke a key",
    responses={204: {"description": "Revoked, here at once and in other processes within seconds"}, **problems(404)},
)
async def revoke_key(
    deps: DepsDep, by: WriteKey, key_id: Annotated[str, Path(pattern=r"^[0-9a-z]{1,32}$", description="Its `key_id`")]
) -> Response:
    """For ever: a revoked key stays in the list and never works again."""

    async def write() -> bool:
        async with deps.writing() as conn:
            now = deps.clock()
            found = await auth.revoke(conn, key_id, now)
            if found:
                await audit.key_revoked(conn, key_id, actor=f"key:{by.name}", now=now)
            return found

    if not await deps.shielded(write()):
        raise not_found("key", key_id)
    deps.keys.forget(key_id)
    return Response(status_code=204)
