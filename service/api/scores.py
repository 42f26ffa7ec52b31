"""Explaining scores: of an account as of a day, under another scorecard; and who would change band under one.

Asking is reading: scope `read`, a snapshot, nothing locked. A question about all accounts is worked on for a bounded
while (``service/what_if.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import date, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from starlette.responses import Response

from health import scorecards
from health.explaining import Explained
from health.scorecards import Scorecards
from health.yamlfile import FileError
from service import explaining, what_if
from service.api.accounts import AccountId
from service.api.common import DepsDep, ReadKey, Strict, answer, body
from service.api.schemas import answers, body_of
from service.cards import MOST_BYTES, MOST_CARDS, InForce, of_text, refused, running_or_problem
from service.deps import Deps
from service.errors import bad_field, not_found
from service.explaining import DayToCome, Moment
from service.queries import cursors
from service.what_if import Question, WhatIfPart

router = APIRouter(prefix="/api/v1", tags=["scores"])

SENT: Final = "scorecard.yaml"


def _iso_day(value: object) -> object:
    # Left to itself pydantic takes numbers, as seconds since 1970, and in a strict body no text.
    if isinstance(value, str) and len(value) == len("2026-05-01"):
        with contextlib.suppress(ValueError):
            return date.fromisoformat(value)
    if isinstance(value, date):
        return value
    raise ValueError("give a date such as 2026-05-01")


def _since_1970(day: date) -> date:
    if day < explaining.FIRST_DAY:
        raise ValueError(f"lies before {explaining.FIRST_DAY}: no event is older")
    return day


def _encodable(text: str) -> str:
    text.encode()
    return text


Day = Annotated[date, BeforeValidator(_iso_day), AfterValidator(_since_1970)]
CardText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MOST_BYTES),
    AfterValidator(_encodable),
    Field(description="YAML, as in a file of `rules/scorecards/`"),
]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,60}\.yaml$")]


class ExplainQuery(Strict):
    day: Day | None = Field(default=None, description="A UTC day; left out: as of now")


class ExplainUnder(Strict):
    """A scorecard to ask about. It takes the place of the one in force that has its name; else, without `match`, of the
    one that takes everybody; else it is tried before all others."""

    scorecard: CardText
    day: Day | None = Field(default=None, description="A UTC day; left out: as of now")


class WhatIf(Strict):
    """One `scorecard`, which takes its place among those in force, or all `scorecards` by file name."""

    scorecard: CardText | None = None
    scorecards: dict[FileName, CardText] | None = Field(default=None, min_length=1, max_length=MOST_CARDS)
    day: Day | None = Field(default=None, description="A UTC day; left out: as of now")
    cursor: Annotated[str, StringConstraints(max_length=2048, pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        default=None, description="`next_cursor` of the part before, with the same scorecards and day"
    )


@router.get(
    "/accounts/{account_id:path}/explain",
    summary="The score as of a day",
    responses=answers(Explained, "The score, its lines, what was recorded, and why the two differ", 404),
)
async def explain_account(
    deps: DepsDep, _: ReadKey, account_id: AccountId, query: Annotated[ExplainQuery, Query()]
) -> Response:
    """From the facts known now, without what came later by event time, under the scorecards in force: `now`. Beside it
    what was recorded on that day, `recorded`, and where the card of then is kept, what it makes of the facts known now:
    from `recorded` to `by_recorded_card` the data changed, from there to `now` the card. `not_known` says what cannot
    be told of that day any more."""
    in_force = await asyncio.to_thread(running_or_problem, deps.settings.rules_dir)
    return await _explained(deps, account_id, query.day, in_force, None)


@router.post(
    "/accounts/{account_id:path}/explain",
    summary="The score under another scorecard",
    responses=answers(Explained, "The score under that card beside what was recorded", 404, 408, 413, 415),
    openapi_extra=body_of(ExplainUnder, {"scorecard": "scorecard: default\n…", "day": "2026-05-01"}),
)
async def explain_account_under(
    deps: DepsDep, _: ReadKey, account_id: AccountId, wish: Annotated[ExplainUnder, Depends(body(ExplainUnder))]
) -> Response:
    """As above, under a card that is not in force. Nothing is stored. Faults of the card come as `errors`, each with
    its line as field (`scorecard.yaml:12:5`)."""
    in_force = await asyncio.to_thread(running_or_problem, deps.settings.rules_dir)
    return await _explained(deps, account_id, wish.day, in_force, await _sent(wish.scorecard, in_force))


async def _explained(
    deps: Deps, account_id: str, day: date | None, in_force: InForce, other: Scorecards | None
) -> Response:
    moment = moment_of(day, deps.clock())
    async with deps.reading() as conn:
        found = await explaining.explain(conn, account_id, moment, in_force, other=other, stream=deps.stream)
    if found is None:
        raise not_found("account", account_id)
    return answer(found)


@router.post(
    "/scorecards/what-if",
    summary="Who would change band",
    responses=answers(WhatIfPart, "The accounts of this part that would change band, and sums", 408, 413, 415),
    openapi_extra=body_of(WhatIf, {"scorecard": "scorecard: default\n…"}),
)
async def ask_what_if(deps: DepsDep, _: ReadKey, wish: Annotated[WhatIf, Depends(body(WhatIf))]) -> Response:
    """Every account that has not ended, scored twice from the same facts: by the scorecards in force and by these. A
    request is worked on for about two seconds; while `next_cursor` is set, send it along for the next part. Accounts
    keep the order of their ids over the parts; within one, `items` has the most MRR first."""
    in_force = await asyncio.to_thread(running_or_problem, deps.settings.rules_dir)
    if (wish.scorecard is None) == (wish.scorecards is None):
        raise bad_field("scorecard", "or scorecards is needed, and not both", "give one card, or all of them")
    after = None if wish.cursor is None else cursors.decode(wish.cursor, what_if.CURSOR, str)[1]
    other = await _sent(wish.scorecard if wish.scorecards is None else wish.scorecards, in_force)
    moment = moment_of(wish.day, deps.clock())
    question = Question(before=in_force.cards, after=other, in_force=in_force, moment=moment, stream=deps.stream)
    return answer(await what_if.ask(deps, question, after))


async def _sent(cards: str | dict[str, str] | None, in_force: InForce) -> Scorecards:
    try:
        if isinstance(cards, dict):
            return await asyncio.to_thread(scorecards.parse, cards, in_force.custom)
        return await asyncio.to_thread(of_text, cards or "", SENT, in_force.cards, in_force.custom)
    except FileError as error:
        raise refused(error) from None


def moment_of(day: date | None, now: datetime) -> Moment:
    """Raises Problem 422 for a day to come."""
    try:
        return Moment.of(day, now)
    except DayToCome:
        raise bad_field("day", "is still to come", f"give a day up to {now.date()}") from None
