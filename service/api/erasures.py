"""Privacy over the API: ask for an erasure, see how far it has come; hand out what is held on somebody."""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import ConfigDict, Field, model_validator
from starlette.responses import Response, StreamingResponse

from consumers.erasure.subjects import Subject
from service import erasures
from service.api.common import CLEAN, Cursor, DepsDep, Limit, Strict, Word, WriteKey, answer, body
from service.api.schemas import answers, body_of, problems
from service.auth import Key
from service.deps import Deps
from service.erasures import ErasurePage, ErasureView
from service.errors import not_found
from service.export import export, schema

router = APIRouter(prefix="/api/v1", tags=["privacy"])

IN_MEMORY = 1024 * 1024
CHUNK = 64 * 1024


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
    "/erasures",
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


@router.get("/erasures", summary="Erasures", responses=answers(ErasurePage, "A page, newest first"))
async def list_erasures(deps: DepsDep, _: WriteKey, query: Annotated[ErasureQuery, Query()]) -> Response:
    """Those that are done show a fingerprint only."""
    async with deps.reading() as conn:
        return answer(await erasures.listed(conn, query.cursor, query.limit))


@router.get("/erasures/{erasure_id}", summary="One erasure", responses=answers(ErasureView, "How far it has come", 404))
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


SCHEMA = {name: value for name, value in schema().items() if name != "$schema"}
EXPORT_ANSWER = {
    "description": "The document (docs/export.schema.json)",
    "content": {"application/json": {"schema": SCHEMA}},
}


@router.get(
    "/accounts/{account_id:path}/export",
    summary="Everything held on an account, or on a user of it",
    responses={200: EXPORT_ANSWER, **problems(404)},
    response_class=Response,
)
async def export_account(
    deps: DepsDep,
    by: WriteKey,
    account_id: Annotated[str, Path(min_length=1, max_length=200, pattern=CLEAN, description="As the events name it")],
    user_id: Annotated[Word | None, Query(description="Only what is held on this user of the account")] = None,
) -> Response:
    """One JSON document, as a download. Who asked is noted in the audit."""
    subject = erasures.eraser(deps.settings, deps.engine).named(account_id, user_id)
    file: IO[bytes] = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - closed when it is sent
    try:
        count = await _write(deps, by, subject, file)
    except BaseException:
        file.close()
        raise
    if not count:
        file.close()
        raise not_found("account" if user_id is None else "user", user_id or account_id)
    length = file.tell()
    file.seek(0)
    headers = {
        "Cache-Control": "no-store", "Content-Length": str(length),
        "Content-Disposition": 'attachment; filename="kizashi-export.json"',
    }  # fmt: skip
    return StreamingResponse(_chunks(file), media_type="application/json", headers=headers)


async def _write(deps: Deps, by: Key, subject: Subject, file: IO[bytes]) -> int:
    """Before it is sent: a slow reader holds no connection, and a fault is still an answer of its own."""
    archive = erasures.eraser(deps.settings, deps.engine).archive
    async with deps.reading() as conn:
        count = await export(conn, subject, archive, file, deps.clock())
    if count:
        async with deps.writing() as conn:
            await erasures.note_export(conn, subject, by=f"key:{by.name}", count=count, now=deps.clock())
    return count


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk
