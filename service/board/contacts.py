"""Logging a contact on an account's page: a plain form in, a redirect out, or the page with what stood in the way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import get_args
from zoneinfo import ZoneInfo, available_timezones

from starlette.responses import RedirectResponse, Response

from service.api.common import YEARS
from service.board.pages import show_account
from service.board.render import account_url
from service.board.site import Refused, Visit
from service.contacts import MAX_NOTE, ContactKind, contact_id_of, log_contact
from service.errors import Problem


async def log(visit: Visit) -> Response:
    """POST /accounts/{account_id}/contacts"""
    words, account_id = visit.words, visit.request.path_params["account_id"]
    form = await visit.form()
    if not visit.session.may_write:
        raise Refused(
            403, words("Not with this key"), words("It may only read. Sign in with a key that has the scope “write”.")
        )
    sent = {name: str(form.get(name) or "").replace("\0", "").strip() for name in ("contact", "when", "zone", "note")}
    sent["note"] = sent["note"].replace("\r\n", "\n")[:MAX_NOTE]
    at = visit.page.now if not sent["when"] else local_instant(sent["when"], sent["zone"])
    kind = next((known for known in get_args(ContactKind) if known == sent["contact"]), None)
    if kind is None:
        return await _again(visit, 422, words("Choose what it was, then log it again."), sent)
    if at is None:
        return await _again(
            visit, 422, words("“When” is not a time: choose it again, or leave it empty for now."), sent
        )
    if at > visit.page.now:
        return await _again(visit, 422, words("It cannot be logged before it has taken place."), sent)
    by = visit.session.name
    contact_id = contact_id_of(account_id, kind, by, sent["note"], at)
    try:
        await log_contact(
            visit.board.deps, account_id=account_id, contact_id=contact_id, kind=kind, at=at, by=by,
            note=sent["note"], now=visit.page.now,
        )  # fmt: skip
    except Problem as problem:
        if problem.status_code == 404:
            raise
        if problem.status_code >= 500:
            text = words("It could not be stored right now. Nothing is lost: log it again in a moment.")
            return await _again(visit, 503, text, sent)
        return await _again(visit, 422, words("The note has characters that cannot be kept."), sent)
    target = f"{account_url(account_id)}?done=contact&logged={kind}.{contact_id}"
    return RedirectResponse(target, status_code=303)


def local_instant(when: str, zone: str) -> datetime | None:
    """A local time where the reader is; in UTC when their zone is not told or not known."""
    try:
        found = datetime.fromisoformat(when)
    except ValueError:
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=ZoneInfo(zone) if zone in available_timezones() else UTC)
    return found if found.year in YEARS else None


async def _again(visit: Visit, status: int, problem: str, sent: Mapping[str, str]) -> Response:
    response = await show_account(visit, status=status, problem=problem, sent=sent)
    response.headers["HX-Push-Url"] = account_url(visit.request.path_params["account_id"])
    return response
