"""Gaps on the board: what was not observed; noted, ended, and what became of its data."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.responses import RedirectResponse, Response

from service.board.contacts import local_instant
from service.board.forms import text_of
from service.board.site import Refused, Visit
from service.gaps import CannotChange, Ended, NoSuchGap, close_gap, list_gaps, mark_gap, open_gap, source_names
from service.queries.status import GapView

MAX_REASON = 500
MAX_ID = 2**63 - 1
STATES: Mapping[str, str] = {"open": "Going on", "refilled": "Refilled", "lost": "Lost"}
DONE: Mapping[str, str] = {
    "noted": "Noted. Nobody is called silent for that time.",
    "closed": "Ended. Everybody is looked at again.",
    "marked": "Marked. Everybody is looked at again.",
}
REFUSED: Mapping[str, str] = {
    "times": "Nothing was noted: a gap begins before it ends, and both lie in the past.",
    "unknown_source": "Nothing was noted: no event has ever come from that source.",
    "goes_on": "Nothing was noted: a gap of that source goes on already. End that one first.",
    "has_ended": "Nothing was changed: it has ended meanwhile.",
    "end_before_start": "Nothing was changed: a gap cannot end before it began.",
    "every_source": "Nothing was changed: it is of every source, and only a single one can be retired.",
    "not_ended": "Nothing was changed: it goes on. End it first.",
}


async def show(visit: Visit) -> Response:
    """GET /gaps"""
    done = visit.request.query_params.get("done") or ""
    return await _show(visit, done=visit.words(DONE[done]) if done in DONE else None)


async def _show(
    visit: Visit,
    *,
    status: int = 200,
    done: str | None = None,
    problem: str | None = None,
    sent: Mapping[str, str] | None = None,
) -> Response:
    deps = visit.board.deps
    found = (await list_gaps(deps)).items
    return visit.show(
        "gaps.html",
        status=status,
        done=done,
        problem=problem,
        going_on=[gap for gap in found if gap.until_at is None],
        ended=[gap for gap in found if gap.until_at is not None],
        states={code: visit.words(label) for code, label in STATES.items()},
        sources=await source_names(deps),
        sent={"source": "", "from": "", "until": "", "reason": "", **(sent or {})},
    )


async def note(visit: Visit) -> Response:
    """POST /gaps"""
    form, words = await _written(visit), visit.words
    sent = {name: text_of(form, name) for name in ("source", "from", "until", "zone")}
    sent["reason"] = str(form.get("reason") or "").replace("\0", "").strip()[:MAX_REASON]
    from_at = local_instant(sent["from"], sent["zone"])
    until_at = local_instant(sent["until"], sent["zone"]) if sent["until"] else None
    if from_at is None or (sent["until"] and until_at is None) or not sent["reason"]:
        problem = words("Nothing was noted: say when it began, and why.")
        return await _show(visit, status=422, problem=problem, sent=sent)
    made = open_gap(
        visit.board.deps, source=sent["source"] or None, from_at=from_at, until_at=until_at, reason=sent["reason"],
        actor=visit.session.actor, now=visit.page.now,
    )  # fmt: skip
    return await _done(visit, made, "noted", sent)


async def change(visit: Visit) -> Response:
    """POST /gaps/{gap_id}/{close|mark}"""
    form, words = await _written(visit), visit.words
    number, action = visit.request.path_params["gap_id"], visit.request.path_params["action"]
    state: Ended | None = {"refilled": "refilled", "lost": "lost"}.get(text_of(form, "state"))  # type: ignore[assignment]
    if not number.isdecimal() or int(number) > MAX_ID or action not in {"close", "mark"}:
        raise Refused(404, words("Nothing here"), words("There is no such gap."))
    if state is None:
        return await _show(visit, status=422, problem=words("Say what became of its data."))
    deps, actor, now = visit.board.deps, visit.session.actor, visit.page.now
    if action == "mark":
        return await _done(visit, mark_gap(deps, int(number), state, actor=actor, now=now), "marked")
    retire = bool(text_of(form, "retire"))
    ended = close_gap(deps, int(number), state=state, until_at=None, retire=retire, actor=actor, now=now)
    return await _done(visit, ended, "closed")


async def _written(visit: Visit) -> Any:
    form, words = await visit.form(), visit.words
    if not visit.session.may_write:
        raise Refused(
            403, words("Not with this key"), words("It may only read. Sign in with a key that has the scope “write”.")
        )
    return form


async def _done(
    visit: Visit, work: Coroutine[Any, Any, GapView], done: str, sent: Mapping[str, str] | None = None
) -> Response:
    words = visit.words
    try:
        await visit.board.deps.shielded(work)
    except NoSuchGap:
        raise Refused(404, words("Nothing here"), words("There is no such gap.")) from None
    except CannotChange as refused:
        return await _show(visit, status=409, problem=words(REFUSED[refused.why]), sent=sent)
    return RedirectResponse(f"/gaps?done={done}", status_code=303)
