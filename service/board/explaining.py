"""The board's pages about scores: why an account had the score of a day, and who would change band under another
scorecard. Both only read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from health.explaining import Scored
from health.what_if import BandChange
from health.yamlfile import FileError
from service import what_if
from service.board import measures
from service.board.pages import no_account
from service.board.site import Refused, Visit
from service.cards import FOLDER, MOST_BYTES, InForce, of_text, running_or_problem
from service.errors import Problem
from service.explaining import FIRST_DAY, DayToCome, Moment, explain
from service.queries import cursors
from service.what_if import Question, WhatIfPart

FILE: Final = "scorecard.yaml"
SHOWN_PROBLEMS: Final = 20


async def show(visit: Visit) -> Response:
    """GET /explain/accounts/{account_id}?day="""
    account_id = visit.request.path_params["account_id"]
    if "\0" in account_id:
        raise no_account(visit)
    moment = _moment(visit, visit.request.query_params.get("day"))
    deps = visit.board.deps
    in_force = await asyncio.to_thread(running_or_problem, deps.settings.rules_dir)
    async with deps.reading() as conn:
        found = await explain(conn, account_id, moment, in_force, stream=deps.stream)
    if found is None:
        raise no_account(visit)
    today = visit.page.now.date()
    return visit.show(
        "explain.html",
        found=found,
        past=moment.past,
        today=today,
        earlier=max(found.day - timedelta(days=1), FIRST_DAY),
        later=found.day + timedelta(days=1) if found.day < today else None,
        why=measures.why(found.now.contributions, found.now.score, visit.words),
        sides=_sides(visit, found.recorded, found.by_recorded_card, found.now),
    )


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the scores that are compared."""

    label: str
    scored: Scored


def _sides(visit: Visit, recorded: Scored | None, by_card: Scored | None, now: Scored) -> list[Side]:
    words = visit.words
    named = (
        (words("Recorded on that day"), recorded),
        (words("By the scorecard of then, with what is known now"), by_card),
        (words("By the scorecard of now, with what is known now"), now),
    )
    return [Side(label=label, scored=scored) for label, scored in named if scored is not None]


def _moment(visit: Visit, given: str | None) -> Moment:
    words = visit.words
    try:
        return Moment.of(max(date.fromisoformat(given), FIRST_DAY) if given else None, visit.page.now)
    except DayToCome:
        raise Refused(422, words("That day is still to come"), words("Choose today or a day before it.")) from None
    except ValueError:
        raise Refused(422, words("This is no day"), words("Write it as 2026-05-01.")) from None


async def ask(visit: Visit) -> Response:
    """GET /what-if?card=: the form, with the text of a scorecard in force to start from."""
    in_force = await asyncio.to_thread(running_or_problem, visit.board.deps.settings.rules_dir)
    wanted = visit.request.query_params.get("card")
    text = await asyncio.to_thread(_text_of, visit, wanted) if wanted else ""
    return _page(visit, in_force, text=text)


async def answer(visit: Visit) -> Response:
    """POST /what-if: who would change band, part by part."""
    form = await visit.form(files=1)
    try:
        text = await _sent(form)
        day, cursor = str(form.get("day") or ""), str(form.get("cursor") or "")
    finally:
        await form.close()
    deps, words = visit.board.deps, visit.words
    in_force = await asyncio.to_thread(running_or_problem, deps.settings.rules_dir)
    if not text.strip():
        return _page(visit, in_force, status=422, problem=words("Paste a scorecard or choose its file."), day=day)
    try:
        other = await asyncio.to_thread(of_text, text, FILE, in_force.cards, in_force.custom)
    except FileError as error:
        faults = error.problems[:SHOWN_PROBLEMS]
        return _page(visit, in_force, status=422, text=text, day=day, faults=faults)
    moment = _moment(visit, day)
    after = cursors.decode(cursor, what_if.CURSOR, str)[1] if cursor else None
    question = Question(before=in_force.cards, after=other, in_force=in_force, moment=moment, stream=deps.stream)
    try:
        part = await what_if.ask(deps, question, after)
    except Problem as problem:
        if problem.status_code != 503:
            raise
        busy = words("Another question is being worked on. Ask again in a moment.")
        return _page(visit, in_force, status=503, text=text, day=day, problem=busy)
    return _page(visit, in_force, text=text, day=day, part=part, further=bool(cursor))


async def _sent(form: FormData) -> str:
    """A file that was chosen counts before the text."""
    file = form.get("file")
    if isinstance(file, UploadFile) and file.filename:
        raw = await file.read(MOST_BYTES + 1)
        return raw.decode("utf-8", "replace")
    return str(form.get("card") or "").replace("\r\n", "\n")


def _text_of(visit: Visit, name: str) -> str:
    """The file of a scorecard in force; nothing for a name that is none."""
    for path in sorted((visit.board.deps.settings.rules_dir / FOLDER).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if f"\nscorecard: {name}\n" in f"\n{text}":
            return text
    return ""


def _page(visit: Visit, in_force: InForce, *, status: int = 200, **values: Any) -> Response:
    given = {"text": "", "day": "", "problem": None, "faults": (), "part": None, "further": False, **values}
    part: WhatIfPart | None = given["part"]
    return visit.show(
        "what_if.html",
        status=status,
        cards=[card.card for card in in_force.cards.cards],
        today=visit.page.now.date(),
        moved=[total for total in part.totals if total.band_before != total.band_after] if part else [],
        reasons={item.account_id: reason(visit, item) for item in part.items} if part else {},
        **given,
    )


def reason(visit: Visit, change: BandChange) -> str:
    """The line that matters most, with what it took before and takes after."""
    words = visit.page.localised(change.reason)
    if change.contribution_before is None or change.contribution_after is None:
        return words
    return f"{words} ({visit.page.signed(change.contribution_before)} → {visit.page.signed(change.contribution_after)})"
