"""The partitions of the events topics over the API: how far each is, and how one that is stopped goes on."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import Field
from starlette.responses import Response

from service.api.common import DepsDep, ReadKey, Strict, WriteKey, answer, body
from service.api.schemas import answers, body_of
from service.errors import Problem
from service.partitions import CannotRelease, PartitionNow, Partitions, partitions, release

router = APIRouter(prefix="/api/v1", tags=["rules and status"])

MAX_INT = 2**31 - 1
MAX_BIGINT = 2**63 - 1


class Release(Strict):
    """Where to go on. `here`: where it stands. `start`: at the start of the log that is there now. An offset: there;
    what lies before is skipped. `start` and an offset leave a gap, so that nobody is called silent for what is not
    read."""

    go_on_at: Literal["here", "start"] | Annotated[int, Field(ge=0, le=MAX_BIGINT)] = "here"


@router.get("/partitions", summary="How far each partition is", responses=answers(Partitions, "By topic and number"))
async def list_partitions(deps: DepsDep, _: ReadKey) -> Response:
    """Offset, lag, until when everything is applied, and why it is stopped. Asks the broker, which takes a moment."""
    return answer(await partitions(deps))


@router.post(
    "/partitions/{topic}/{partition}/release",
    summary="Let a stopped partition go on",
    responses=answers(PartitionNow, "The consumer that holds it goes on within seconds", 409, 413, 415),
    openapi_extra=body_of(Release, {"go_on_at": "here"}, required=False),
)
async def release_partition(
    deps: DepsDep,
    key: WriteKey,
    topic: Annotated[str, Path(min_length=1, max_length=249, pattern=r"^[A-Za-z0-9._-]+$")],
    partition: Annotated[int, Path(ge=0, le=MAX_INT)],
    sent: Annotated[Release, Depends(body(Release))],
) -> Response:
    """409 says why it cannot, and what can be done instead."""
    work = release(deps, (topic, partition), sent.go_on_at, actor=f"key:{key.name}", now=deps.clock())
    try:
        return answer(await deps.shielded(work))
    except CannotRelease as error:
        raise Problem(409, "not-allowed", str(error)) from None
