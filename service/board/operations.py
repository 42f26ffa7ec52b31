"""The partitions on the board: how far each is, and how one that is stopped goes on."""

from __future__ import annotations

import re

from starlette.responses import RedirectResponse, Response

from service.board.site import Refused, Visit
from service.partitions import CannotRelease, From, partitions, release, stopped_of

TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
OFFSET = re.compile(r"\d{1,18}")
NUMBER = re.compile(r"\d{1,9}")


async def show_partitions(visit: Visit) -> Response:
    """GET /partitions"""
    done = visit.words("It goes on within seconds.") if visit.request.query_params.get("done") == "release" else None
    return await _show(visit, done=done)


async def _show(visit: Visit, *, status: int = 200, done: str | None = None, problem: str | None = None) -> Response:
    found = await partitions(visit.board.deps)
    return visit.show(
        "partitions.html",
        status=status,
        found=found,
        stopped=[each for each in found.items if each.stopped_reason is not None],
        done=done,
        problem=problem,
    )


async def release_partition(visit: Visit) -> Response:
    """POST /partitions/release"""
    form = await visit.form()
    words = visit.words
    if not visit.session.may_write:
        raise Refused(
            403, words("Not with this key"), words("It may only read. Sign in with a key that has the scope “write”.")
        )
    topic, number = str(form.get("topic") or ""), str(form.get("partition") or "")
    where, offset = str(form.get("go_on_at") or ""), str(form.get("offset") or "").strip()
    start_from: From | None = "here" if where == "here" else "start" if where == "start" else None
    if where == "offset" and OFFSET.fullmatch(offset):
        start_from = int(offset)
    if not TOPIC.fullmatch(topic) or not NUMBER.fullmatch(number) or start_from is None:
        return await _show(
            visit, status=422, problem=words("Choose where it shall go on; an offset is a whole number.")
        )
    deps = visit.board.deps
    every = form.get("every") and where != "offset"
    for each in await stopped_of(deps, topic) if every else [int(number)]:
        work = release(deps, (topic, each), start_from, actor=visit.session.actor, now=visit.page.now)
        try:
            await deps.shielded(work)
        except CannotRelease as error:
            problem = words("{place} was not released: {why}", place=f"{topic}[{each}]", why=str(error))
            return await _show(visit, status=409, problem=problem)
    return RedirectResponse("/partitions?done=release", status_code=303)
