"""Contacts: a call, a mail or a meeting with an account, logged by people and tools that are not sources of events."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path
from pydantic import Field, StringConstraints
from starlette.responses import Response

from service.api.common import CLEAN, DepsDep, Instant, Strict, Word, WriteKey, answer, body
from service.api.schemas import answers, body_of
from service.contacts import MAX_NOTE, ContactKind, contact_id_of, log_contact

router = APIRouter(prefix="/api/v1", tags=["accounts"])

AccountId = Annotated[str, Path(min_length=1, max_length=200, pattern=CLEAN, description="As the events name it")]
Note = Annotated[str, StringConstraints(max_length=MAX_NOTE)]


class ContactBody(Strict):
    """What is left out: `at` is now, `by` the key's name, `contact_id` made of all the rest, to the minute."""

    contact: ContactKind
    at: Instant | None = Field(default=None, description="When it was; not in the future")
    note: Note = ""
    by: Word | None = Field(default=None, description="Person id of who it was")
    contact_id: Word | None = Field(default=None, description="The same when it is sent again")


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """The contact is durable; it is on the timeline once the consumers have applied it."""

    account_id: str
    contact_id: str


EXAMPLE = {
    "contact": "call",
    "at": "2026-05-01T09:30:00Z",
    "note": "They miss the export. Sent the guide.",
    "by": "mina",
}


@router.post(
    "/accounts/{account_id:path}/contacts",
    status_code=202,
    summary="Log a contact",
    responses=answers(Logged, "Stored durably", 404, 408, 413, 415, status=202),
    openapi_extra=body_of(ContactBody, EXAMPLE),
)
async def post_contact(
    deps: DepsDep, key: WriteKey, account_id: AccountId, wish: Annotated[ContactBody, Depends(body(ContactBody))]
) -> Response:
    """Only for accounts that are known. Sending the same again within the window of deduplication logs nothing new."""
    now = deps.clock()
    at, by = wish.at or now, wish.by or key.name
    contact_id = wish.contact_id or contact_id_of(account_id, wish.contact, by, wish.note, at)
    await log_contact(
        deps, account_id=account_id, contact_id=contact_id, kind=wish.contact, at=at, by=by, note=wish.note, now=now
    )
    return answer(Logged(account_id=account_id, contact_id=contact_id), 202)
