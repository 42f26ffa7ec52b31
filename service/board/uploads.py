"""Uploading accounts and people on the board: a file in, what it would change out; then a confirmation that applies
exactly that. The file travels along in the confirmation, so that nothing is kept in between."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, get_args

from starlette.datastructures import UploadFile
from starlette.responses import RedirectResponse, Response

from service.board.site import Refused, Visit
from service.errors import Problem
from service.uploads.plan import UploadKind
from service.uploads.storing import apply, preview

MAX_BYTES: Final = 2 * 1024 * 1024
SHOWN: Final = 200
"""Rows of each sort on the page."""
KINDS: Final = {"accounts": "Accounts", "people": "People"}
FIELDS: Final = {
    "account_id": "Account id", "name": "Name", "plan": "Plan", "mrr": "MRR", "currency": "Currency", "owner": "Owner",
    "renewal_on": "Renewal", "segment": "Segment", "status": "Status", "seats": "Seats",
    "started_at": "Customer since", "timezone": "Time zone", "country": "Country", "touch_model": "Touch model",
    "parent_account_id": "Parent account", "csm_email": "CSM’s e-mail", "sales_owner": "Sales owner",
    "person_id": "Person id", "email": "E-mail", "slack_id": "Slack id", "language": "Language", "role": "Role",
    "manager": "Manager", "stand_in": "Stand-in",
}  # fmt: skip


async def show(visit: Visit) -> Response:
    """GET /uploads"""
    done = visit.request.query_params.get("done")
    count = visit.request.query_params.get("rows") or ""
    text = None
    if done in KINDS and count.isdecimal() and len(count) < 7:
        text = visit.words.count("Stored: {n} row.", "Stored: {n} rows.", int(count))
    return _page(visit, done=text)


async def look(visit: Visit) -> Response:
    """POST /uploads/preview"""
    _may_write(visit)
    form = await visit.form(files=1)
    try:
        kind, file = _kind(visit, form.get("kind")), form.get("file")
        if not isinstance(file, UploadFile) or not file.filename:
            return _page(visit, status=422, problem=visit.words("Choose a file first."))
        raw = await file.read(MAX_BYTES + 1)
    finally:
        await form.close()  # a larger file lies in a temporary one
    if len(raw) > MAX_BYTES:
        words = visit.words("The file is larger than {n} MB: split it, or send it by the API.", n=MAX_BYTES // 2**20)
        return _page(visit, status=413, problem=words)
    return await _previewed(visit, kind, raw)


async def confirm(visit: Visit) -> Response:
    """POST /uploads/apply"""
    _may_write(visit)
    form = await visit.form(part_bytes=MAX_BYTES * 4 // 3 + 8)
    kind, words = _kind(visit, form.get("kind")), visit.words
    try:
        raw = base64.b64decode(str(form.get("content") or ""), validate=True)
    except binascii.Error:
        return _page(visit, status=422, problem=words("Choose a file first."))
    deps = visit.board.deps
    try:
        done = await deps.shielded(
            apply(deps, kind, raw, expected=str(form.get("hash") or ""), actor=visit.session.actor, now=visit.page.now)
        )
    except Problem as problem:
        if problem.status_code == 409:
            text = words(
                "What is stored has changed meanwhile. Nothing was done: here is what the file would change now."
            )
            return await _previewed(visit, kind, raw, status=409, problem=text)
        if problem.status_code == 503:
            text = words("It could not be stored right now. Nothing is lost: confirm again in a moment.")
            return await _previewed(visit, kind, raw, status=503, problem=text)
        raise
    if done.unacknowledged:
        text = words.count(
            "{n} row was not confirmed in time: confirm again for it.",
            "{n} rows were not confirmed in time: confirm again for them.",
            done.unacknowledged,
        )
        return await _previewed(visit, kind, raw, status=503, problem=text)
    return RedirectResponse(f"/uploads?done={kind}&rows={done.stored}", status_code=303)


async def _previewed(
    visit: Visit, kind: UploadKind, raw: bytes, *, status: int = 200, problem: str | None = None
) -> Response:
    try:
        planned = await preview(visit.board.deps, kind, raw, visit.page.now)
    except Problem as fault:
        if fault.status_code != 422:
            raise
        # Its words name the problem and the remedy; they come from the reading of the file.
        return _page(visit, status=422, problem=visit.words("The file cannot be used: {why}", why=fault.text))
    return _page(visit, status=status, problem=problem, plan=planned.plan, content=base64.b64encode(raw).decode())


def _page(visit: Visit, *, status: int = 200, **values: Any) -> Response:
    words = visit.words
    given = {"done": None, "problem": None, "plan": None, "content": "", **values}
    return visit.show(
        "uploads.html",
        status=status,
        shown=SHOWN,
        kinds=[(code, words(label)) for code, label in KINDS.items()],
        fields={name: words(label) for name, label in FIELDS.items()},
        **given,
    )


def _may_write(visit: Visit) -> None:
    if not visit.session.may_write:
        raise Refused(
            403,
            visit.words("Not with this key"),
            visit.words("It may only read. Sign in with a key that has the scope “write”."),
        )


def _kind(visit: Visit, given: Any) -> UploadKind:
    found = next((kind for kind in get_args(UploadKind) if kind == given), None)
    if found is None:
        raise Refused(404, visit.words("Nothing here"), visit.words("There is no such action."))
    kind: UploadKind = found
    return kind
