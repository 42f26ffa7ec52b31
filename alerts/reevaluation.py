"""Everybody is looked at again, since the rules, the scorecards or what was observed are others now: in rounds, at a
bounded rate, newest risk first.

Each account's health row names the newest round it was evaluated under, through whichever door: so nobody is done
twice, and nothing has to be remembered to go on after a restart. A walk goes by open alerts, the newest first, then by
MRR at risk, the most first, and round all accounts by their ids. The first two are for the order alone. The last one
finds everybody: ids do not change, and who took his place in an account's row after the round had begun has
read its number after he held the row's lock. Every fourth page is of the last one, so that rounds in quick succession
leave nobody out; a new round goes on where the circle of the last one stood.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

import structlog
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import metrics
from alerts.doors import EVERYBODY, Work
from alerts.ticks import is_time
from health.tables import accounts, reevaluations, touched

log = structlog.get_logger("kizashi.evaluator")

Why = Literal["rules", "observed", "asked"]

CREDIT = timedelta(seconds=1)
"""So much of the rate may be used at once after a pause."""
AT_LEAST_EVERY = timedelta(seconds=2)
"""While the other doors have more work than fits into a batch, a page comes no more often than this."""
CIRCLE_EVERY = 4
SCANNED = 2_000
"""Alerts or accounts at risk looked at for a page."""
CIRCLE_SCANNED = 20_000
"""Accounts looked at for a page: those that are done cost little, and a statement must end."""
SAY_EVERY = timedelta(seconds=10)
KEPT_ROUNDS = 100
BEGIN_LOCK = 7_450_991_018
"""An advisory lock that whoever begins a round holds until his transaction ends."""

_ALERTS = text("""
SELECT e.account_id, e.opened_at, e.episode_id, h.round IS NOT NULL AND h.round < :round AS stale FROM (
    SELECT account_id, opened_at, episode_id FROM episodes
    WHERE state = 'open' AND opened_at <= :at AND (opened_at < :at OR episode_id > :episode_id)
    ORDER BY opened_at DESC, episode_id LIMIT :scanned
) e LEFT JOIN health h ON h.account_id = e.account_id
ORDER BY e.opened_at DESC, e.episode_id
""")
_AT_RISK = text("""
SELECT account_id, mrr_at_risk, round < :round AS stale FROM health
WHERE mrr_at_risk > 0 AND mrr_at_risk <= :value AND (mrr_at_risk < :value OR account_id > :account_id COLLATE "C")
ORDER BY mrr_at_risk DESC NULLS LAST, account_id LIMIT :scanned
""")
# In two statements, since the first ends as soon as its page is full.
_STALE = text("""
SELECT s.account_id FROM (
    SELECT account_id FROM accounts WHERE account_id > :after COLLATE "C" ORDER BY account_id LIMIT :scanned
) s LEFT JOIN health h ON h.account_id = s.account_id
WHERE coalesce(h.round, -1) < :round ORDER BY s.account_id LIMIT :most
""")
_SCANNED = text("""
SELECT max(account_id) AS last, count(*) AS number FROM (
    SELECT account_id FROM accounts WHERE account_id > :after COLLATE "C" ORDER BY account_id LIMIT :scanned
) s
""")

NEWEST: Final = "SELECT coalesce(max(round), 0) FROM reevaluations"
"""The number of the newest round, 0 before the first. Whoever reads it after locking an account's row may write it
there."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A re-evaluation that goes on, as its row says."""

    number: int
    why: str
    accounts: int
    done: int
    next_at: datetime
    began_at: datetime

    @property
    def left(self) -> int:
        return max(0, self.accounts - self.done)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """How far one evaluator has come. ``began`` and ``after``: ids at which its circle began and stands."""

    round: int = 0
    alert: tuple[datetime, UUID] | None = None
    alerts_done: bool = False
    at_risk: tuple[Decimal, str] | None = None
    at_risk_done: bool = False
    began: str = ""
    after: str = ""
    turned: bool = False
    pages: int = 0

    def of(self, number: int) -> Walk:
        """The walk of another round begins where the circle of the last one stood."""
        return self if self.round == number else Walk(round=number, began=self.after, after=self.after)


@dataclass(frozen=True, kw_only=True)
class Page:
    """Accounts to evaluate, sorted, and how far the walk is when that is done."""

    account_ids: list[str]
    walk: Walk
    finished: bool = False


async def begin(conn: AsyncConnection, why: Why, now: datetime) -> int:
    """A new round, which takes the place of one that goes on. Returns its number.

    One at a time: were a greater number committed first, who evaluated under it would count as up to date with a change
    that he could not see. So it is the last thing a transaction does.
    """
    await conn.execute(select(func.pg_advisory_xact_lock(BEGIN_LOCK)))
    running = reevaluations.c.state == "running"
    await conn.execute(update(reevaluations).where(running).values(state="replaced", ended_at=now))
    number: int | None = await conn.scalar(
        insert(reevaluations)
        .values(why=why, accounts=select(func.count()).select_from(accounts).scalar_subquery(), next_at=now,
                began_at=now)
        .returning(reevaluations.c.round)
    )  # fmt: skip
    assert number is not None
    await conn.execute(delete(reevaluations).where(reevaluations.c.round <= number - KEPT_ROUNDS))
    return number


async def begin_asked(conn: AsyncConnection, now: datetime) -> None:
    """Makes a round of the markers by which others ask for one."""
    asked = delete(touched).where(touched.c.everyone_since <= EVERYBODY).returning(touched.c.touched_id)
    if (await conn.execute(asked)).all():
        await begin(conn, "asked", now)


async def running(conn: AsyncConnection) -> Round | None:
    newest = select(reevaluations).where(reevaluations.c.state == "running")
    row = (await conn.execute(newest.order_by(reevaluations.c.round.desc()).limit(1))).one_or_none()
    if row is None:
        return None
    return Round(number=row.round, why=row.why, accounts=row.accounts, done=row.done, next_at=row.next_at,
                 began_at=row.began_at)  # fmt: skip


def may_go_on(next_at: datetime, last_page: datetime | None, now: datetime, *, crowded: bool) -> bool:
    """Whether a page is due: by the rate, and, while others wait (``crowded``), as often as nobody is forgotten. Pure.

    ``next_at`` further ahead than any page can have put it means that the clock was set back.
    """
    if crowded and not is_time(last_page, AT_LEAST_EVERY, now):
        return False
    ahead = next_at - now
    return ahead <= CREDIT or ahead > timedelta(hours=1)


def charged(next_at: datetime, number: int, rate: float, now: datetime) -> datetime:
    """When the rate is used up to, after ``number`` more accounts. Pure."""
    from_ = next_at if now - CREDIT <= next_at <= now + timedelta(hours=1) else now - CREDIT
    return from_ + timedelta(seconds=number / rate)


async def take(conn: AsyncConnection, walk: Walk, most: int) -> Page:
    """The next page of a round: at most ``most`` accounts that are not up to date with it; perhaps none."""
    walk = replace(walk, pages=walk.pages + 1)
    if walk.pages % CIRCLE_EVERY == 0 or (walk.alerts_done and walk.at_risk_done):
        return await _of_circle(conn, walk, most)
    if not walk.alerts_done:
        return await _of_alerts(conn, walk, most)
    return await _of_risk(conn, walk, most)


async def _of_alerts(conn: AsyncConnection, walk: Walk, most: int) -> Page:
    at, episode_id = walk.alert or (datetime.max.replace(tzinfo=EVERYBODY.tzinfo), UUID(int=0))
    parameters = {"round": walk.round, "at": at, "episode_id": episode_id, "scanned": SCANNED}
    rows = (await conn.execute(_ALERTS, parameters)).all()
    found, last, whole = _page(rows, most)
    return Page(
        account_ids=found,
        walk=replace(
            walk,
            alert=walk.alert if last is None else (last.opened_at, last.episode_id),
            alerts_done=whole and len(rows) < SCANNED,
        ),
    )


async def _of_risk(conn: AsyncConnection, walk: Walk, most: int) -> Page:
    value, account_id = walk.at_risk or (Decimal("Infinity"), "")
    parameters = {"round": walk.round, "value": value, "account_id": account_id, "scanned": SCANNED}
    rows = (await conn.execute(_AT_RISK, parameters)).all()
    found, last, whole = _page(rows, most)
    return Page(
        account_ids=found,
        walk=replace(
            walk,
            at_risk=walk.at_risk if last is None else (last.mrr_at_risk, last.account_id),
            at_risk_done=whole and len(rows) < SCANNED,
        ),
    )


def _page(rows: Any, most: int) -> tuple[list[str], Any, bool]:
    """(stale accounts, the last row looked at, whether that was the last of all)."""
    found: set[str] = set()
    last = None
    for row in rows:
        if row.stale and row.account_id not in found:
            if len(found) == most:
                return sorted(found), last, False
            found.add(row.account_id)
        last = row
    return sorted(found), last, True


async def _of_circle(conn: AsyncConnection, walk: Walk, most: int) -> Page:
    parameters = {"after": walk.after, "scanned": CIRCLE_SCANNED}
    found = list(await conn.scalars(_STALE, {**parameters, "round": walk.round, "most": most}))
    last, ended = (found[-1], False) if len(found) == most else (None, False)
    if last is None:
        scanned = (await conn.execute(_SCANNED, parameters)).one()
        ended = scanned.number < CIRCLE_SCANNED
        last = scanned.last
    beyond = walk.turned and (ended or (last is not None and last >= walk.began))
    if not ended:
        assert last is not None
        return Page(account_ids=found, walk=replace(walk, after=last), finished=beyond)
    turned = replace(walk, after="", turned=True)
    return Page(account_ids=found, walk=turned, finished=beyond or walk.began == "")


@dataclass(kw_only=True)
class Reevaluation:
    """One evaluator's part in the rounds. ``rate``: accounts a second, of all evaluators together."""

    rate: float
    walk: Walk = field(default_factory=Walk)
    caught_up: int = 0
    """Accounts that came up to date through other doors, and are not yet in the round's row."""
    _last_page: datetime | None = None
    _said_at: datetime | None = None

    def rest(self) -> None:
        """No round goes on."""
        self.caught_up = 0
        metrics.REEVALUATION_LEFT.set(0)

    async def due(self, conn: AsyncConnection, now: datetime, *, paced: bool, crowded: bool) -> Round | None:
        """The round of which a page is due now."""
        await begin_asked(conn, now)
        current = await running(conn)
        if current is None:
            self.rest()
            return None
        metrics.REEVALUATION_LEFT.set(current.left)
        if paced and not may_go_on(current.next_at, self._last_page, now, crowded=crowded):
            return None
        return current

    async def take(self, conn: AsyncConnection, current: Round, most: int) -> tuple[Work, Page]:
        most = max(1, min(most, int(self.rate)))
        page = await take(conn, self.walk.of(current.number), most)
        return Work(account_ids=page.account_ids, found=True), page

    async def settle(self, conn: AsyncConnection, current: Round, page: Page, done: int, now: datetime) -> None:
        """Keeps the account of a page, in its transaction."""
        values: dict[str, Any] = {
            "done": reevaluations.c.done + done + self.caught_up,
            "next_at": charged(current.next_at, len(page.account_ids), self.rate, now),
        }
        if page.finished:
            values |= {"state": "done", "ended_at": now}
        same = (reevaluations.c.round == current.number) & (reevaluations.c.state == "running")
        await conn.execute(update(reevaluations).where(same).values(values))

    def settled(self, current: Round, page: Page, done: int, now: datetime) -> None:
        """Once that is committed."""
        done += current.done + self.caught_up
        self.walk, self.caught_up, self._last_page = page.walk, 0, now
        seconds = max((now - current.began_at).total_seconds(), 0.001)
        rate = done / seconds
        told = {"round": current.number, "why": current.why, "accounts": current.accounts, "done": done,
                "per_second": round(rate, 1)}  # fmt: skip
        if page.finished:
            metrics.REEVALUATION_LEFT.set(0)
            log.info("everybody was looked at again", seconds=round(seconds, 1), **told)
            self._said_at = None
        elif is_time(self._said_at, SAY_EVERY, now):
            left = max(0, current.accounts - done)
            remaining = round(left / rate) if rate else None
            log.info("looking at everybody again", left=left, seconds_left=remaining, **told)
            self._said_at = now
