"""Erasures over the API: ask for one, see how far it has come."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import ConfigDict, Field, model_validator
from starlette.responses import Response

from consumers.erasure.subjects import Subject
from service import erasures
from service.api.common import Cursor, DepsDep, Limit, Strict, Word, WriteKey, answer, body
from service.api.schemas import answers, body_of
from service.erasures import ErasurePage, ErasureView
from service.errors import not_found

router = APIRouter(prefix="/api/v1/erasures", tags=["privacy"])


def _one_of(schema: dict[str, Any]) -> None:
    named = [{"required": [name], "properties": {name: {"type": "string"}}} for name in ("account_id", "user_id")]
    schema["anyOf"] = named


class NewErasure(Strict):
    model_config = ConfigDict(json_schema_extra=_one_of)

    account_id: Word | None = Field(default=None, description="The account; with a user: where the user is erased")
    user_id: Word | None = Field(default=None, description="The user's plain id, also where ids are hashed")

    @model_validator(mode="after")
    def _somebody(self) -> NewErasure:
        if self.account_id is None and self.user_id is None:
            raise ValueError("names nobody: give account_id, user_id or both")
        return self


class ErasureQuery(Strict):
    limit: Limit = 50
    cursor: Cursor = None


@router.post(
    "",
    status_code=202,
    summary="Erase an account or a user",
    responses=answers(ErasureView, "Asked for; it is worked off within minutes", 408, 413, 415, status=202),
    openapi_extra=body_of(NewErasure, {"account_id": "acme", "user_id": "u-17"}),
)
async def make_erasure(deps: DepsDep, by: WriteKey, wish: Annotated[NewErasure, Depends(body(NewErasure))]) -> Response:
    """With `account_id` alone the account and all that is held on it; with `user_id` that user, in one account or
    wherever the id is found. What arrived before is never applied again; what arrives later counts as new. It cannot
    be undone. An erasure of the same subject that is still under way is the answer instead of a second one."""
    subject = Subject(account_id=wish.account_id, user_id=wish.user_id)

    async def write() -> ErasureView:
        async with deps.writing() as conn:
            return await erasures.request(conn, subject, by=f"key:{by.name}", now=deps.clock())

    return answer(await deps.shielded(write()), 202)


@router.get("", summary="Erasures", responses=answers(ErasurePage, "A page, newest first"))
async def list_erasures(deps: DepsDep, _: WriteKey, query: Annotated[ErasureQuery, Query()]) -> Response:
    """Those that are done show a fingerprint only."""
    async with deps.reading() as conn:
        return answer(await erasures.listed(conn, query.cursor, query.limit))


@router.get("/{erasure_id}", summary="One erasure", responses=answers(ErasureView, "How far it has come", 404))
async def show_erasure(
    deps: DepsDep, _: WriteKey, erasure_id: Annotated[UUID, Path(description="Its `erasure_id`")]
) -> Response:
    """`step` is the last that is done, `counts` the rows erased or cleaned so far, `problem` why the last attempt
    ended; it is tried again by itself."""
    async with deps.reading() as conn:
        found = await erasures.one(conn, erasure_id)
    if found is None:
        raise not_found("erasure", str(erasure_id))
    return answer(found)
