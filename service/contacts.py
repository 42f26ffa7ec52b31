"""Contacts that people log, a call, a mail or a meeting, over the API or on the board: they become events."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from consumers.broker import BrokerError
from consumers.events import BadEvent, check_time, decode
from consumers.formats.items import Item
from service import queries
from service.deps import Deps
from service.errors import FieldProblem, Problem, not_found, unavailable

ContactKind = Literal["call", "mail", "meeting"]
SOURCE: Final = "contacts"
MAX_NOTE: Final = 4000
_NAMES: Final = {"timestamp": "at"}
"""Fields of the event that are called otherwise here."""


def contact_id_of(account_id: str, kind: str, by: str, note: str, at: datetime) -> str:
    """The same for what is sent twice: a double click logs one contact."""
    text = msgspec.json.encode([account_id, kind, by, note, at.replace(second=0, microsecond=0)])
    return hashlib.blake2b(text, digest_size=12).hexdigest()


async def log_contact(
    deps: Deps,
    *,
    account_id: str,
    contact_id: str,
    kind: str,
    at: datetime,
    by: str,
    note: str,
    now: datetime,
) -> None:
    """Returns once the event is durable. Raises Problem: 404 for an unknown account, 422, 503."""
    draft = {
        "kind": "contact",
        "event_id": contact_id,
        "contact_id": contact_id,
        "account_id": account_id,
        "timestamp": at,
        "source": SOURCE,
        "contact": kind,
        "by": by,
        **({"note": note} if note else {}),
    }
    try:
        event = decode(msgspec.json.encode(draft), deps.settings.event_max_bytes)
    except BadEvent as error:
        raise _refused(error) from None
    late = check_time(event, now, timedelta(seconds=deps.settings.future_tolerance_seconds))
    if late is not None:
        raise _refused(late)
    async with deps.reading() as conn:
        # A slip of the pen would make a new account.
        if not await queries.account_exists(conn, account_id):
            raise not_found("account", account_id)
    try:
        (taken,) = await deps.shielded(
            deps.intake.take([Item(event_id=contact_id, events=(event,))], source=SOURCE, now=now)
        )
    except BrokerError as error:
        raise unavailable(str(error)) from error
    if taken.status == "unacknowledged":
        raise unavailable("the broker did not acknowledge in time: send it again as it is")
    if taken.error is not None:
        raise _refused(taken.error)


def _refused(error: BadEvent) -> Problem:
    fields = [
        FieldProblem(field=_NAMES.get(part.field, part.field), problem=part.problem, remedy=part.remedy)
        for part in error.problems
    ]
    return Problem(422, "invalid", "; ".join(f"{p.field} {p.problem}: {p.remedy}" for p in fields), errors=fields)
