"""Dead letters over the API: listed, inspected, mended and sent again, discarded; one or many."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field, model_validator
from starlette.responses import Response

from service import queries
from service.api.common import Cursor, DepsDep, Instant, Limit, ReadKey, Sentence, Strict, Word, WriteKey, answer, body
from service.api.schemas import answers, body_of
from service.auth import Key
from service.dead_letters import Bulk, Change, Desk, Outcome, Shown, changes, shown
from service.dead_letters.desk import MOST_AT_ONCE
from service.deps import Deps
from service.errors import Problem, not_found, unavailable
from service.queries import DeadLetter, DeadLetterFilter, DeadLetterPage

T = TypeVar("T")
router = APIRouter(prefix="/api/v1", tags=["dead letters"])

MAX_BIGINT = 2**63 - 1
LetterNumber = Annotated[int, Field(ge=1, le=MAX_BIGINT)]
DeadLetterId = Annotated[int, Path(ge=1, le=MAX_BIGINT, description="Its `dead_letter_id`")]


class DeadLetterDetail(DeadLetter, frozen=True, kw_only=True):
    """With its bytes as people can read them, and what was sent in its place."""

    key_shown: Shown
    value_shown: Shown
    sent_shown: Shown | None
    changes: tuple[Change, ...]


class _Where(Strict):
    """Filters are joined by AND; a repeated one by OR."""

    reason: list[Word] = Field(default=[], max_length=20)
    topic: Word | None = Field(
        default=None, description="The topic, or `webhook:<name>` and the like for what came by other ways"
    )
    since: Instant | None = Field(default=None, description="Became a letter at this time or later")
    until: Instant | None = Field(default=None, description="Became a letter before this time")
    text: Word | None = Field(default=None, description="Is found in the bytes, or in the faults")

    def filter(self, *, statuses: tuple[str, ...] = (), ids: tuple[int, ...] = ()) -> DeadLetterFilter:
        return DeadLetterFilter(
            statuses=statuses, reasons=tuple(self.reason), topic=self.topic, since=self.since, until=self.until,
            text=self.text, ids=ids,
        )  # fmt: skip


class DeadLetterQuery(_Where):
    """Filters are joined by AND; a repeated one by OR."""

    status: list[Literal["open", "retried", "discarded"]] = Field(default=[], max_length=3)
    limit: Limit = 50
    cursor: Cursor = None


class Retry(Strict):
    """Without a value the letter is sent as it came, which helps once the fault was ours."""

    value: dict[str, Any] | Annotated[str, Field(max_length=1024 * 1024)] | None = Field(
        default=None, description="The mended event, as an object or as its JSON text"
    )


class Discard(Strict):
    """Why nobody needs it."""

    note: Sentence | None = None


class Many(_Where):
    """Open letters that match, the oldest first. At least one filter, or `ids`: nobody means everything by accident."""

    ids: list[LetterNumber] = Field(default=[], max_length=MOST_AT_ONCE)
    limit: int = Field(default=MOST_AT_ONCE, ge=1, le=MOST_AT_ONCE, description="Most letters in this request")
    after: int = Field(default=0, ge=0, le=MAX_BIGINT, description="`next_after` of the answer before, to go on")

    @model_validator(mode="after")
    def _means_something(self) -> Many:
        if not (self.ids or self.reason or self.topic or self.since or self.until or self.text):
            raise ValueError("names no letters: give ids, a reason, a topic, a time or a text")
        return self

    @property
    def where(self) -> DeadLetterFilter:
        return self.filter(ids=tuple(self.ids))


class DiscardMany(Many):
    """As to retry many, with a note on why nobody needs them."""

    note: Sentence | None = None


@router.get(
    "/dead-letters",
    summary="What could not be read",
    responses=answers(DeadLetterPage, "A page, newest first"),
)
async def list_dead_letters(deps: DepsDep, _: ReadKey, query: Annotated[DeadLetterQuery, Query()]) -> Response:
    """With place, bytes (base64, cut in this list) and faults."""
    async with deps.reading() as conn:
        where = query.filter(statuses=tuple(query.status))
        return answer(await queries.dead_letters(conn, where, query.cursor, query.limit))


@router.get(
    "/dead-letters/{dead_letter_id}",
    summary="One dead letter",
    responses=answers(DeadLetterDetail, "With its whole value", 404),
)
async def show_dead_letter(deps: DepsDep, _: ReadKey, dead_letter_id: DeadLetterId) -> Response:
    """What came, byte by byte and as people can read it; and what was sent in its place."""
    return answer(await _detail(deps, dead_letter_id))


@router.post(
    "/dead-letters/{dead_letter_id}/retry",
    summary="Send a dead letter again, mended or as it came",
    responses=answers(DeadLetterDetail, "The broker has its event", 404, 409, 413, 415),
    openapi_extra=body_of(
        Retry,
        {"value": {"kind": "login", "event_id": "l-1", "account_id": "acme", "timestamp": "2026-05-01T09:30:00Z"}},
        required=False,
    ),
)
async def retry_dead_letter(
    deps: DepsDep, key: WriteKey, dead_letter_id: DeadLetterId, sent: Annotated[Retry, Depends(body(Retry))]
) -> Response:
    """Decoded as at every door: 422 names each field that is still wrong. Sent with its own event id, and with the time
    at which it first arrived; retried twice, it counts once."""
    value = msgspec.json.encode(sent.value) if isinstance(sent.value, dict) else _bytes(sent.value)
    outcome = await deps.shielded(_desk(deps, key).retry(dead_letter_id, value))
    refuse(outcome)
    return answer(await _detail(deps, dead_letter_id))


@router.post(
    "/dead-letters/{dead_letter_id}/discard",
    summary="Discard a dead letter",
    responses=answers(DeadLetterDetail, "Discarded, and kept for a time", 404, 409, 413, 415),
    openapi_extra=body_of(Discard, {"note": "a test of ours"}, required=False),
)
async def discard_dead_letter(
    deps: DepsDep, key: WriteKey, dead_letter_id: DeadLetterId, sent: Annotated[Discard, Depends(body(Discard))]
) -> Response:
    """Says that nobody needs to look at it any more."""
    outcome = await deps.shielded(_desk(deps, key).discard(dead_letter_id, sent.note or None))
    refuse(outcome)
    return answer(await _detail(deps, dead_letter_id))


@router.post(
    "/dead-letters/retry",
    summary="Send many again, as they came",
    responses=answers(Bulk, "What became of each", 413, 415),
    openapi_extra=body_of(Many, {"reason": ["future"], "topic": "kizashi.events"}),
)
async def retry_dead_letters(deps: DepsDep, key: WriteKey, sent: Annotated[Many, Depends(body(Many))]) -> Response:
    """For when the fault was ours, or has passed. What is still refused stays open, with its faults in the answer."""
    work = _desk(deps, key).many("retry", sent.where, limit=sent.limit, after=sent.after)
    return answer(await deps.shielded(work))


@router.post(
    "/dead-letters/discard",
    summary="Discard many",
    responses=answers(Bulk, "What became of each", 413, 415),
    openapi_extra=body_of(DiscardMany, {"reason": ["malformed"], "note": "a producer's test"}),
)
async def discard_dead_letters(
    deps: DepsDep, key: WriteKey, sent: Annotated[DiscardMany, Depends(body(DiscardMany))]
) -> Response:
    """They are kept for a time, and then deleted."""
    work = _desk(deps, key).many("discard", sent.where, limit=sent.limit, after=sent.after, note=sent.note or None)
    return answer(await deps.shielded(work))


def refuse(outcome: Outcome) -> None:
    """Raises the problem that an outcome amounts to; nothing when the letter was worked off."""
    if outcome.outcome == "missing":
        raise not_found("dead letter", outcome.dead_letter_id)
    if outcome.outcome == "not_open":
        raise Problem(409, "not-allowed", f"only an open dead letter can be worked on, this one is {outcome.status}")
    if outcome.outcome == "unacknowledged":
        raise unavailable("the broker did not acknowledge in time: the letter is still open, try again")
    if outcome.outcome == "refused":
        first = outcome.errors[0]
        raise Problem(
            422, "invalid", f"{first.field or 'the event'} {first.problem}: {first.remedy}", errors=outcome.errors
        )


def _desk(deps: Deps, key: Key) -> Desk:
    return Desk(deps=deps, actor=f"key:{key.name}", now=deps.clock())


def _bytes(value: str | None) -> bytes | None:
    # A lone surrogate has no UTF-8: as it would be in JSON, for the decoder to name.
    return None if value is None else value.encode(errors="surrogatepass")


async def _detail(deps: Deps, dead_letter_id: int) -> DeadLetterDetail:
    async with deps.reading() as conn:
        found = await queries.dead_letter(conn, dead_letter_id)
    if found is None:
        raise not_found("dead letter", dead_letter_id)
    return detail(found)


def detail(letter: DeadLetter) -> DeadLetterDetail:
    sent = letter.sent_value
    return DeadLetterDetail(
        **{name: getattr(letter, name) for name in DeadLetter.__struct_fields__},
        key_shown=shown(letter.key),
        value_shown=shown(letter.value),
        sent_shown=None if sent is None else shown(sent),
        changes=() if sent is None else changes(letter.value, sent),
    )
