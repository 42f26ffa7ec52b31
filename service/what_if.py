"""Who would change band under other scorecards, part by part: reads what ``health/what_if.py`` decides on.

In a process one question about all accounts is worked on at a time, for a bounded while; the rest waits for the next
request. Nothing is locked or written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from health import explaining, what_if
from health.instants import NEVER
from health.scorecards import Scorecards
from health.tables import health
from health.what_if import BandChange, Tally, Total
from service.cards import InForce
from service.deps import Deps
from service.errors import unavailable
from service.explaining import Known, Moment, background, known
from service.queries import Stream, cursors

CURSOR: Final = "what-if"
PAGE: Final = 250
SECONDS: Final = 2.0
"""How long one request is worked on; it ends with the page during which this passes."""
MOST_CHANGES: Final = 1000
WAIT_SECONDS: Final = 5.0
"""How long a question waits for the one before it."""


class WhatIfPart(msgspec.Struct, frozen=True, kw_only=True):
    """What would change among the accounts of this part. Sum the parts until `next_cursor` is null."""

    at: datetime
    before: str  # the scorecards in force, name@version
    after: str
    looked_at: int
    changed: int
    become_unknown: int
    totals: list[Total]
    items: list[BandChange]  # the most MRR first
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """What would change if ``after`` took the place of ``before``, at a moment."""

    before: Scorecards
    after: Scorecards
    in_force: InForce
    moment: Moment
    stream: Stream


@dataclass(frozen=True, kw_only=True)
class Part:
    """Of some accounts; ``last``: the id of the last that was looked at, None when there was none left."""

    tally: Tally
    changes: list[BandChange]
    last: str | None


async def part(conn: AsyncConnection, question: Question, after_id: str | None, size: int) -> Part:
    """The next ``size`` accounts after ``after_id`` in the order of their ids; those that have ended are left out."""
    query = select(health.c.account_id).order_by(health.c.account_id).limit(size)
    ids = list(await conn.scalars(query if after_id is None else query.where(health.c.account_id > after_id)))
    tally, changes = Tally(), list[BandChange]()
    if not ids:
        return Part(tally=tally, changes=changes, last=None)
    around = await background(conn, question.moment, stream=question.stream)
    both = [question.before, question.after]
    for found in await known(conn, ids, around, both, question.in_force.custom):
        own, of_these = await asyncio.to_thread(_compare, found, both)
        tally.add(own)
        changes += of_these
    return Part(tally=tally, changes=changes, last=ids[-1])


def _compare(found: Known, cards: Sequence[Scorecards]) -> tuple[Tally, list[BandChange]]:
    before, after = explaining.score_each(cards, found.facts, found.observed, found.bands, found.overrides)
    ended = found.facts.texts["status"] == "ended"
    places = [place for place in range(len(found.facts)) if found.facts.start[place] != NEVER and not ended[place]]
    return what_if.compare(found.facts, before, after, places)


async def count_accounts(conn: AsyncConnection) -> int:
    return await conn.scalar(select(func.count()).select_from(health)) or 0


def by_money(change: BandChange) -> tuple[Any, ...]:
    """The most MRR first, then the worst fall."""
    fall = (change.score_after or 0) - (change.score_before or 0)
    return (-(change.mrr or 0), fall, change.account_id)


async def ask(deps: Deps, question: Question, after: str | None) -> WhatIfPart:
    """Works on a question from the account behind ``after`` on, for a bounded while."""
    tally, items = Tally(), list[BandChange]()
    loop = asyncio.get_running_loop()
    async with _turn(deps):
        end = loop.time() + SECONDS
        while True:
            async with deps.reading() as conn:
                found = await part(conn, question, after, PAGE)
            tally.add(found.tally)
            items += found.changes
            after = found.last
            if after is None or loop.time() >= end or len(items) >= MOST_CHANGES:
                break
    return WhatIfPart(
        at=question.moment.at,
        before=question.before.name,
        after=question.after.name,
        looked_at=tally.looked_at,
        changed=tally.changed,
        become_unknown=tally.become_unknown,
        totals=tally.totals(),
        items=sorted(items, key=by_money),
        next_cursor=None if after is None else cursors.encode(CURSOR, None, after),
    )


@contextlib.asynccontextmanager
async def _turn(deps: Deps) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await deps.questions.acquire()
    except TimeoutError:
        raise unavailable("another question about all accounts is being worked on: try again shortly") from None
    try:
        yield
    finally:
        deps.questions.release()
