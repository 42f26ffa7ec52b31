"""What a reader does with an alert: a plain form in, a redirect out, or the alert's page with what stood in the way."""

from __future__ import annotations

import math
from datetime import UTC, datetime, time
from typing import get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from starlette.responses import RedirectResponse, Response

from alerts.actions import Action, Conflict, NotAllowed, NotFound, act
from health.overrides import NoSuchAccount, OverrideRefused
from service import overrides
from service.api.common import YEARS
from service.board.forms import own_path, read_date
from service.board.pages import episode_id_of, no_account, no_alert, show_account, show_alert
from service.board.render import account_url
from service.board.site import Refused, Visit
from service.board.words import Words

MAX_REASON = 1000


async def alert_action(visit: Visit) -> Response:
    """POST /alerts/{episode_id}/{action}"""
    words = visit.words
    action = next((known for known in get_args(Action) if known == visit.request.path_params["action"]), None)
    if action is None:
        raise Refused(404, words("Nothing here"), words("There is no such action."))
    form = await visit.form()
    if not visit.session.may_write:
        raise Refused(
            403, words("Not with this key"), words("It may only read. Sign in with a key that has the scope “write”.")
        )
    sent = {
        name: str(form.get(name) or "").replace("\0", "").strip()[:MAX_REASON]
        for name in ("reason", "outcome", "until", "zone")
    }
    try:
        await visit.board.deps.shielded(_act(visit, action, str(form.get("version") or ""), sent))
    except NotFound:
        raise no_alert(visit) from None
    except Conflict:
        problem = words(
            "Somebody changed this alert meanwhile. Your action was not carried out: here is how it stands now."
        )
        return await _again(visit, 409, problem, {**sent, "action": action})
    except NotAllowed:
        return await _again(visit, 409, _not_allowed(visit, action, sent), {**sent, "action": action})
    target = own_path(str(form.get("back") or "") or f"/alerts/{episode_id_of(visit)}")
    joint = "&" if urlsplit(target).query else "?"
    return RedirectResponse(f"{target}{joint}done={action}", status_code=303)


async def _act(visit: Visit, action: Action, version: str, sent: dict[str, str]) -> None:
    async with visit.board.deps.writing() as conn:
        await act(
            conn,
            episode_id_of(visit),
            action,
            expected_version=int(version) if version.isdecimal() and len(version) < 10 else 0,
            actor=visit.session.actor,
            reason=sent["reason"],
            until=_instant(sent["until"], sent["zone"]),
            outcome=sent["outcome"] or None,
            now=visit.page.now,
        )


async def override(visit: Visit) -> Response:
    """POST /accounts/{account_id}/override: sets the score by hand, or takes that back."""
    words, account_id = visit.words, visit.request.path_params["account_id"]
    form = await visit.form()
    if not visit.session.may_write:
        raise Refused(
            403, words("Not with this key"), words("It may only read. Sign in with a key that has the scope “write”.")
        )
    sent = {
        name: str(form.get(name) or "").replace("\0", "").strip()[:MAX_REASON]
        for name in ("do", "score", "reason", "until", "zone")
    }
    try:
        await visit.board.deps.shielded(_override(visit, account_id, sent))
    except NoSuchAccount:
        raise no_account(visit) from None
    except OverrideRefused as refused:
        return await show_account(visit, status=422, problem=_not_set(refused.field, words), sent=sent)
    done = "override-ended" if sent["do"] == "end" else "override"
    return RedirectResponse(f"{account_url(account_id)}?done={done}", status_code=303)


def _not_set(field: str, words: Words) -> str:
    if field == "score":
        return words("The score was not set: give a number from 0 to 100, with at most one decimal.")
    if field == "reason":
        return words("The score was not set: say why, in at most 500 characters.")
    return words("The score was not set: choose a day after today, within a year.")


async def _override(visit: Visit, account_id: str, sent: dict[str, str]) -> None:
    async with visit.board.deps.writing() as conn:
        actor, now = visit.session.actor, visit.page.now
        if sent["do"] == "end":
            await overrides.clear(conn, account_id, actor=actor, now=now)
            return
        await overrides.put(
            conn,
            account_id,
            score=_number(sent["score"]),
            reason=sent["reason"],
            until=_instant(sent["until"], sent["zone"]) or now,
            actor=actor,
            now=now,
        )


def _number(text: str) -> float:
    """NaN, which is no score, for what is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _instant(day: str, zone: str) -> datetime | None:
    """The beginning of a day where the reader is; in UTC when their zone is not told or not known."""
    read = read_date(day)
    if read is None or read.year not in YEARS:
        return None
    return datetime.combine(read, time.min, ZoneInfo(zone) if zone in available_timezones() else UTC)


def _not_allowed(visit: Visit, action: Action, sent: dict[str, str]) -> str:
    words = visit.words
    if action == "resolve" and not sent["outcome"]:
        return words("Choose an outcome, then resolve again.")
    if action == "snooze" and ((until := _instant(sent["until"], sent["zone"])) is None or until <= visit.page.now):
        return words("Choose a day after today, then snooze again.")
    if action == "reopen":
        return words(
            "It cannot be reopened: it is open already, or a newer alert of this rule is open for this account."
        )
    return words("This alert is closed already: here is how it stands now.")


async def _again(visit: Visit, status: int, problem: str, sent: dict[str, str]) -> Response:
    response = await show_alert(visit, status=status, problem=problem, sent=sent)
    # With htmx the page's address stays that of the form, which may have been a list.
    response.headers["HX-Push-Url"] = f"/alerts/{episode_id_of(visit)}"
    return response
