"""CSV uploads over the API: what a file would change, and then the change itself."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from service.api.common import DepsDep, Strict, WriteKey, answer
from service.api.schemas import answers
from service.errors import Problem, bad_field
from service.uploads.plan import Planned, UploadKind
from service.uploads.sheet import written
from service.uploads.storing import UploadAnswer, apply, preview

router = APIRouter(prefix="/api/v1/uploads", tags=["uploads"])

CSV: Final = "text/csv"
MEDIA_TYPES: Final = frozenset({CSV, "text/plain", "text/tab-separated-values", "application/vnd.ms-excel",
                                "application/octet-stream"})  # fmt: skip


class UploadQuery(Strict):
    preview: bool = Field(default=True, description="false: carry it out")
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="The previewed plan's hash: another plan is then refused with 409"
    )


def _described(example: str) -> dict[str, Any]:
    schema = {"type": "string", "description": "UTF-8 or Shift_JIS; separated by comma, semicolon or tab"}
    return {"requestBody": {"required": True, "content": {CSV: {"schema": schema, "example": example}}}}


def _responses() -> dict[int | str, dict[str, Any]]:
    found = answers(UploadAnswer, "The plan, and whether it was carried out", 408, 409, 413, 415)
    found[200]["content"][CSV] = {
        "schema": {"type": "string", "description": "The refused rows, with `Accept: text/csv`"}
    }
    return found


@router.post(
    "/accounts",
    summary="Upload accounts",
    responses=_responses(),
    openapi_extra=_described("account_id,name,mrr,currency,renewal_on\nacme,Acme,490,EUR,2026-09-30\n"),
)
async def upload_accounts(
    request: Request, deps: DepsDep, key: WriteKey, query: Annotated[UploadQuery, Query()]
) -> Response:
    """New and changed values become `group` events of the source `upload`. An empty cell leaves a value alone, `NULL`
    takes it away. The same file again changes nothing."""
    return await _answered(request, deps, key.name, "accounts", query)


@router.post(
    "/people",
    summary="Upload people",
    responses=_responses(),
    openapi_extra=_described("person_id,name,email,language\nmina,Mina Sato,mina@example.com,ja\n"),
)
async def upload_people(
    request: Request, deps: DepsDep, key: WriteKey, query: Annotated[UploadQuery, Query()]
) -> Response:
    """People who are not in the file stay as they are. Slack webhooks are secrets, and come another way."""
    return await _answered(request, deps, key.name, "people", query)


async def _answered(request: Request, deps: DepsDep, key: str, kind: UploadKind, query: UploadQuery) -> Response:
    media_type = request.headers.get("content-type", CSV).partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Problem(415, "unsupported-type", "send the file itself as text/csv")
    raw = await request.body()
    now = deps.clock()
    if not query.preview:
        done = await deps.shielded(apply(deps, kind, raw, expected=query.hash, actor=f"key:{key}", now=now))
        return answer(done)
    if query.hash is not None:
        raise bad_field("hash", "is for carrying out", "leave it out, or add preview=false")
    planned = await preview(deps, kind, raw, now)
    if request.headers.get("accept", "").partition(";")[0].strip().lower() == CSV:
        return Response(refused_csv(planned), media_type=CSV, headers={"Cache-Control": "no-store"})
    return answer(UploadAnswer(plan=planned.plan, applied=False, stored=0, unacknowledged=0))


def refused_csv(planned: Planned) -> bytes:
    """All refused rows for a spreadsheet."""
    rows = [(str(each.row), each.field, each.problem, each.remedy) for each in planned.refused]
    return written([("row", "field", "problem", "remedy"), *rows])
