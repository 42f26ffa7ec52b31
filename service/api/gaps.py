"""Gaps over the API: time during which a source was not observed; listed, noted, ended, and what became of them."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field
from starlette.responses import Response

from service.api.common import DepsDep, Instant, ReadKey, Sentence, Strict, Word, WriteKey, answer, body
from service.api.schemas import answers, body_of
from service.deps import Deps
from service.errors import Problem
from service.gaps import CannotChange, GapPage, NoSuchGap, close_gap, list_gaps, mark_gap, open_gap
from service.queries.status import GapView

router = APIRouter(prefix="/api/v1", tags=["rules and status"])

GapId = Annotated[int, Path(ge=1, le=2**63 - 1, description="Its `gap_id`")]
State = Literal["open", "refilled", "lost"]


class GapQuery(Strict):
    """Filters are joined by AND; a repeated one by OR."""

    state: list[State] = Field(default=[], max_length=3)
    source: Word | None = None


class NewGap(Strict):
    """Time that was not observed: absence is not believed for it."""

    source: Word | None = Field(default=None, description="Left out: every source")
    from_at: Instant
    until_at: Instant | None = Field(default=None, description="Left out: it goes on; else its data counts as lost")
    reason: Sentence


class End(Strict):
    """How a gap ends that goes on."""

    state: Literal["refilled", "lost"] = Field(description="refilled: its data has come, or nothing was missing")
    until_at: Instant | None = Field(default=None, description="Left out: now")
    retire: bool = Field(
        default=False, description="Its source sends no more, under this name: it is not waited for until it does"
    )


class Mark(Strict):
    """What became of the data of a gap that has ended."""

    state: Literal["refilled", "lost"]


@router.get(
    "/gaps", summary="Time that was not observed", responses=answers(GapPage, "Those that go on, then the newest")
)
async def get_gaps(deps: DepsDep, _: ReadKey, query: Annotated[GapQuery, Query()]) -> Response:
    """Days-since leave open and lost gaps out; windows that touch one are unknown; refilled ones do not count."""
    return answer(await list_gaps(deps, states=tuple(query.state), source=query.source))


@router.post(
    "/gaps",
    status_code=201,
    summary="Note time that was not observed",
    responses=answers(GapView, "Noted; everybody is looked at again", 409, 413, 415, status=201),
    openapi_extra=body_of(NewGap, {"from_at": "2026-05-01T00:00:00Z", "until_at": "2026-05-01T06:00:00Z",
                                   "reason": "the event bus was down"}),
)  # fmt: skip
async def post_gap(deps: DepsDep, key: WriteKey, sent: Annotated[NewGap, Depends(body(NewGap))]) -> Response:
    """409 when a gap of that source goes on already, or the times do not fit."""
    made = open_gap(
        deps, source=sent.source, from_at=sent.from_at, until_at=sent.until_at, reason=sent.reason,
        actor=f"key:{key.name}", now=deps.clock(),
    )  # fmt: skip
    return answer(await _done(deps, made), 201)


@router.post(
    "/gaps/{gap_id}/close",
    summary="End a gap that goes on",
    responses=answers(GapView, "Ended; everybody is looked at again", 404, 409, 413, 415),
    openapi_extra=body_of(End, {"state": "lost"}),
)
async def post_close(deps: DepsDep, key: WriteKey, gap_id: GapId, sent: Annotated[End, Depends(body(End))]) -> Response:
    """The guard opens the next one while its source stays silent, unless that is retired."""
    ended = close_gap(
        deps, gap_id, state=sent.state, until_at=sent.until_at, retire=sent.retire, actor=f"key:{key.name}",
        now=deps.clock(),
    )  # fmt: skip
    return answer(await _done(deps, ended))


@router.post(
    "/gaps/{gap_id}/mark",
    summary="Say what became of a gap's data",
    responses=answers(GapView, "Marked; everybody is looked at again", 404, 409, 413, 415),
    openapi_extra=body_of(Mark, {"state": "refilled"}),
)
async def post_mark(
    deps: DepsDep, key: WriteKey, gap_id: GapId, sent: Annotated[Mark, Depends(body(Mark))]
) -> Response:
    """`refilled`: its events came after all, or nothing was missing. `lost`: they never will."""
    marked = mark_gap(deps, gap_id, sent.state, actor=f"key:{key.name}", now=deps.clock())
    return answer(await _done(deps, marked))


async def _done(deps: Deps, work: Coroutine[Any, Any, GapView]) -> GapView:
    try:
        return await deps.shielded(work)
    except NoSuchGap as error:
        raise Problem(404, "not-found", str(error)) from None
    except CannotChange as error:
        raise Problem(409, "not-allowed", str(error)) from None
