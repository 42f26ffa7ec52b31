"""Accounts: the risk list, one account, and its courses over time."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BeforeValidator, Field, WithJsonSchema
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from health.overrides import MAX_REASON, NoSuchAccount, OverrideRefused
from service import overrides, queries
from service.api.common import (
    CLEAN,
    Cursor,
    DepsDep,
    Instant,
    Limit,
    ReadKey,
    Sentence,
    Strict,
    Word,
    WriteKey,
    answer,
    body,
    tagged,
)
from service.api.schemas import answers, body_of, problems
from service.errors import bad_field, not_found
from service.queries import (
    AccountDetail,
    Activity,
    Choices,
    Portfolio,
    RiskFilter,
    RiskPage,
    RiskSort,
    ScoreOverride,
    ScorePoint,
    TimelinePage,
)
from service.queries.archived import with_events

router = APIRouter(prefix="/api/v1", tags=["accounts"])

AccountId = Annotated[str, Path(min_length=1, max_length=200, pattern=CLEAN, description="As the events name it")]
Days = Annotated[int, Query(ge=1, le=730, description="How many UTC days back, today among them")]


def _written_as_day(value: object) -> object:
    # Left to itself pydantic also takes a number, as seconds since 1970.
    if isinstance(value, str) and len(value) != len("2026-05-01"):
        raise ValueError("give a date such as 2026-05-01")
    return value


class RiskQuery(Strict):
    """Filters are joined by AND; a repeated one by OR."""

    band: list[Literal["green", "yellow", "red"]] = Field(default=[], max_length=3, description="Colour of the score")
    owner: list[Word] = Field(default=[], max_length=50, description="The owner: person id or e-mail address")
    rule: list[Word] = Field(default=[], max_length=50, description="Has an open alert of this rule")
    plan: list[Word] = Field(default=[], max_length=50, description="Plan")
    min_mrr: Annotated[Decimal, WithJsonSchema({"type": "number", "minimum": 0})] | None = Field(
        default=None,
        ge=0,
        max_digits=18,
        decimal_places=4,
        description="MRR of at least this, in each account's currency",
    )
    renews_before: Annotated[date, BeforeValidator(_written_as_day)] | None = Field(
        default=None, description="Renewal date before this day"
    )
    parent: str | None = Field(
        default=None, min_length=1, max_length=200, pattern=CLEAN, description="Names this account as its parent"
    )
    text: str | None = Field(default=None, max_length=100, pattern=CLEAN, description="Part of the name or the id")
    include_ended: bool = Field(default=False, description="Also accounts whose subscription has ended")
    sort: RiskSort = Field(
        default="mrr_at_risk",
        description="Worst score, most money at risk, longest unseen, or nearest renewal first; unknown values last",
    )
    limit: Limit = 50
    cursor: Cursor = None


class ScoreCourse(msgspec.Struct, frozen=True, kw_only=True):
    """The last score of each day that has one, oldest first."""

    account_id: str
    items: tuple[ScorePoint, ...]


@router.get("/accounts", summary="Accounts at risk", responses=answers(RiskPage, "A page of the risk list"))
async def list_accounts(request: Request, deps: DepsDep, _: ReadKey, query: Annotated[RiskQuery, Query()]) -> Response:
    """The risk list, most pressing first. `as_of` says up to when the figures know everything; while `held_since` is
    set, data is incomplete and alerts about absence wait. Answers with a weak ETag; `If-None-Match` gets 304 when only
    `as_of` has moved."""
    where = RiskFilter(
        bands=tuple(query.band),
        owners=tuple(query.owner),
        rules=tuple(query.rule),
        plans=tuple(query.plan),
        min_mrr=query.min_mrr,
        renews_before=query.renews_before,
        parent=query.parent,
        text=query.text or None,
        include_ended=query.include_ended,
    )
    async with deps.reading() as conn:
        page = await queries.risk_list(
            conn, where, query.sort, query.cursor, query.limit, deps.clock(), stream=deps.stream
        )
    return tagged(request, page, (page.items, page.next_cursor, page.held_since is not None))


@router.get("/portfolio", summary="All accounts in figures", responses=answers(Portfolio, "Counts and sums"))
async def show_portfolio(deps: DepsDep, _: ReadKey) -> Response:
    """Accounts by band, and MRR and MRR at risk by currency. Accounts that have ended are left out."""
    async with deps.reading() as conn:
        return answer(await queries.portfolio(conn))


@router.get("/filters", summary="What the lists can be filtered by", responses=answers(Choices, "Values in use"))
async def show_filters(deps: DepsDep, _: ReadKey) -> Response:
    """Owners, plans and rules that occur."""
    async with deps.reading() as conn:
        return answer(await queries.filters(conn))


class TimelineQuery(Strict):
    limit: Limit = 50
    before: Cursor = None


# The longer addresses come first: an account id may itself hold a slash.
@router.get(
    "/accounts/{account_id:path}/timeline",
    summary="What happened at an account",
    responses=answers(TimelinePage, "A page of the timeline", 404),
)
async def show_timeline(
    deps: DepsDep, _: ReadKey, account_id: AccountId, query: Annotated[TimelineQuery, Query()]
) -> Response:
    """Newest first: discrete facts and attribute changes one by one, logins and usage as one line per UTC day. Where
    there is an archive, the lines of days bring their newest events (`data.events`, at most 20)."""
    async with deps.reading() as conn:
        page = await queries.timeline(conn, account_id, query.before, query.limit)
        if not page.items and query.before is None:
            await _expect(conn, account_id)
    return answer(await with_events(deps.settings, deps.engine, account_id, page))


class DaysQuery(Strict):
    days: Days = 90


@router.get(
    "/accounts/{account_id:path}/activity",
    summary="Logins and events per day",
    responses=answers(Activity, "One number per UTC day", 404),
)
async def show_activity(
    deps: DepsDep, _: ReadKey, account_id: AccountId, query: Annotated[DaysQuery, Query()]
) -> Response:
    """Zeros where nothing is known."""
    async with deps.reading() as conn:
        await _expect(conn, account_id)
        found = await queries.activity(conn, [account_id], query.days, deps.clock())
    return answer(found[account_id])


@router.get(
    "/accounts/{account_id:path}/scores",
    summary="Scores over time",
    responses=answers(ScoreCourse, "One score per UTC day", 404),
)
async def show_scores(
    deps: DepsDep, _: ReadKey, account_id: AccountId, query: Annotated[DaysQuery, Query()]
) -> Response:
    """Days without an evaluation are missing."""
    async with deps.reading() as conn:
        await _expect(conn, account_id)
        points = await queries.score_history(conn, account_id, query.days, deps.clock())
    return answer(ScoreCourse(account_id=account_id, items=points))


class NewOverride(Strict):
    """A score that you know better than the measures do."""

    score: float = Field(ge=0, le=100, description="0 to 100, with at most one decimal")
    reason: Sentence = Field(min_length=1, max_length=MAX_REASON, description="Why; whoever reads the score reads it")
    expires_at: Instant = Field(description="Until when it stands; at most a year ahead")


@router.put(
    "/accounts/{account_id:path}/override",
    summary="Set the score by hand",
    responses=answers(ScoreOverride, "It stands; the account is evaluated within seconds", 404, 408, 413, 415),
    openapi_extra=body_of(
        NewOverride, {"score": 75, "reason": "Pays on the 5th, as agreed", "expires_at": "2026-12-05T00:00:00Z"}
    ),
)
async def put_override(
    deps: DepsDep, key: WriteKey, account_id: AccountId, wish: Annotated[NewOverride, Depends(body(NewOverride))]
) -> Response:
    """In place of one that stands. The score is this until it expires, also against caps, and its lines say so: a
    signed line with reason and author. Its changes do not count as changes of behaviour."""

    async def write() -> ScoreOverride:
        async with deps.writing() as conn:
            made = await overrides.put(
                conn,
                account_id,
                score=wish.score,
                reason=wish.reason,
                until=wish.expires_at,
                actor=f"key:{key.name}",
                now=deps.clock(),
            )
        return ScoreOverride(**{name: getattr(made, name) for name in ScoreOverride.__struct_fields__})

    try:
        return answer(await deps.shielded(write()))
    except NoSuchAccount:
        raise not_found("account", account_id) from None
    except OverrideRefused as refused:
        raise bad_field(refused.field, refused.problem, refused.remedy) from None


@router.delete(
    "/accounts/{account_id:path}/override",
    status_code=204,
    response_class=Response,
    summary="Take a score set by hand back",
    responses={204: {"description": "The account is evaluated within seconds"}, **problems(404)},
)
async def delete_override(deps: DepsDep, key: WriteKey, account_id: AccountId) -> Response:
    """From then on the measures decide again."""

    async def write() -> bool:
        async with deps.writing() as conn:
            return await overrides.clear(conn, account_id, actor=f"key:{key.name}", now=deps.clock())

    try:
        found = await deps.shielded(write())
    except NoSuchAccount:
        raise not_found("account", account_id) from None
    if not found:
        raise not_found("override of", account_id)
    return Response(status_code=204)


@router.get(
    "/accounts/{account_id:path}", summary="One account", responses=answers(AccountDetail, "All that is known now", 404)
)
async def show_account(request: Request, deps: DepsDep, _: ReadKey, account_id: AccountId) -> Response:
    """Attributes, signals, the score with its contributions, open alerts and the owner. Weak ETag as on the list."""
    async with deps.reading() as conn:
        detail = await queries.account(conn, account_id, deps.clock(), stream=deps.stream)
    if detail is None:
        raise not_found("account", account_id)
    still = msgspec.structs.replace(detail, as_of=None, held_since=None, incomplete_since=None)
    return tagged(request, detail, (still, detail.held_since is not None, detail.incomplete_since is not None))


async def _expect(conn: AsyncConnection, account_id: str) -> None:
    if not await queries.account_exists(conn, account_id):
        raise not_found("account", account_id)
