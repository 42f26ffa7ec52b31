"""The evaluator role: takes accounts from the doors and evaluates them, a batch in one transaction.

touched or due accounts → signals → score → rules → episodes → outbox. Several may run: queue rows and due accounts are
handed out with SKIP LOCKED, accounts are locked sorted and waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import doors, metrics, sweeping
from alerts.context import Context, ContextSource, Superseded
from alerts.doors import Work
from alerts.evaluation import Outcome, evaluate
from alerts.reevaluation import Page, Reevaluation
from alerts.ticks import is_time
from health import fleet
from health.tables import health

log = structlog.get_logger("kizashi.evaluator")

T = TypeVar("T")
Clock = Callable[[], datetime]
Door = Callable[[AsyncConnection], Awaitable[Work]]
Way = Callable[[AsyncConnection, list[str], Context, datetime | None, datetime], Awaitable[list[Outcome]]]
"""How the accounts that a door handed out are evaluated."""

CLOSING_SECONDS = 60.0
"""How often it is asked whether a day is to be closed."""
IDLE_SECONDS = 0.2
"""Pause when no door had work: bounds what polling adds to the time from an event to its alert."""
BROKEN_RETRY = timedelta(hours=1)
"""An account whose evaluation fails is tried again after this, or when it is touched."""
AWAY = (DBAPIError, OSError, TimeoutError)
TRANSIENT = ("40001", "40P01", "55P03", "57P01")
"""SQLSTATEs of a conflict with another transaction, or of a server going away: the whole batch is tried again."""


class Faulty(Exception):
    """A batch that cannot be evaluated; its cause lies with an account."""


@dataclass(kw_only=True)
class Evaluator:
    engine: AsyncEngine
    context: ContextSource
    clock: Clock
    batch: int = 500
    coalesce: timedelta = timedelta(seconds=5)
    sweep_every: timedelta = timedelta(seconds=60)
    reevaluate_per_second: float = 1000.0
    _everybody: Reevaluation = field(init=False)
    _to_sweep: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._everybody = Reevaluation(rate=self.reevaluate_per_second)

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``. A database that is away is waited for."""
        closing = asyncio.create_task(self._close_days())
        try:
            await self._evaluate_until(stop)
        finally:
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)

    async def _close_days(self) -> None:
        """Beside the evaluations, which would have to wait for it."""
        while True:
            try:
                if await fleet.close_day(self.engine, self.clock()):
                    log.info("the day was closed: the fleet was learnt")
            except AWAY as error:
                log.warning("the fleet is learnt later", problem=type(error).__name__)
            except Exception:
                log.exception("the day cannot be closed; the fleet stays as it was")
            await asyncio.sleep(CLOSING_SECONDS)

    async def _evaluate_until(self, stop: asyncio.Event) -> None:
        swept_at: datetime | None = None
        while not stop.is_set():
            try:
                worked = await self.step()
                now = self.clock()
                if not self._to_sweep and is_time(swept_at, self.sweep_every, now):
                    await self.begin_sweep()
                    swept_at = now
                worked += await self.sweep()
                pause = 0.0 if worked else IDLE_SECONDS
            except AWAY as error:
                log.warning("evaluation waits for the database", problem=type(error).__name__)
                pause = 1.0
            if pause:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause)

    async def step(self, *, paced: bool = True) -> int:
        """One batch from each door; returns how many accounts were evaluated. Not ``paced``: a re-evaluation goes as
        fast as it can."""
        await self.context.refresh(self.clock())
        if self.context.superseded:
            return 0
        async with self.engine.connect() as conn:
            waiting = await doors.look(conn, self.clock())
        if not (waiting.asked or waiting.running):
            self._everybody.rest()
        ways: list[tuple[str, bool, Door]] = [
            ("touched", waiting.touched, lambda conn: doors.take_touched(conn, self.batch)),
            ("due", waiting.due, lambda conn: doors.take_due(conn, self.clock(), self.batch)),
            ("everyone", waiting.everyone, lambda conn: doors.take_everyone(conn, self.batch)),
        ]
        total, problem, crowded = 0, None, False
        for name, has_work, door in ways:
            if not has_work:
                continue
            try:
                worked = await self._through(name, door)
                crowded |= worked >= self.batch
                total += worked
            except AWAY as error:  # one door's trouble must not shut the others
                problem = error
        if problem is not None:
            raise problem
        if waiting.asked or waiting.running:
            total += await self._reevaluate(paced=paced, crowded=crowded)
        return total

    async def begin_sweep(self) -> None:
        """A slice of the safety net under both doors is to be looked at, if it is our turn."""
        if self.context.superseded:
            return
        async with self.engine.begin() as conn:
            self._to_sweep = await sweeping.take_turn(conn, self.sweep_every, self.clock())

    async def sweep(self) -> int:
        """A part of that slice: as much as has one batch of missed accounts. The other doors come in between."""
        if self._to_sweep <= 0 or self.context.superseded:
            return 0
        left = 0

        async def door(conn: AsyncConnection) -> Work:
            nonlocal left
            now = self.clock()
            part = await sweeping.take_missed(conn, now - self.sweep_every / 2, self._to_sweep, self.batch, now)
            left = part.left
            return part.work

        found = await self._through("sweep", door)
        self._to_sweep = max(0, left)
        metrics.SWEEP_LAST_SUCCESS.set(self.clock().timestamp())
        return found

    async def drain(self) -> int:
        """Until no door has work at this instant; for tests, the demo's start and imports. Returns evaluations."""
        total = 0
        while worked := await self.step(paced=False):
            total += worked
        return total

    async def _through(self, name: str, door: Door) -> int:
        async def task(conn: AsyncConnection, way: Way) -> tuple[Work, list[Outcome]]:
            work = await door(conn)
            return work, await self._evaluate(conn, name, work, way)

        done = await self._in_transaction(task)
        if done is None or not done[0].found:
            return 0
        work, outcomes = done
        self._measure(name, work, outcomes)
        return max(1, len(work.account_ids))

    async def _reevaluate(self, *, paced: bool, crowded: bool) -> int:
        """A page of the round that goes on, when it is time for one."""
        async with self.engine.begin() as conn:
            current = await self._everybody.due(conn, self.clock(), paced=paced, crowded=crowded)
        if current is None:
            return 0

        async def task(conn: AsyncConnection, way: Way) -> tuple[Work, Page, list[Outcome]]:
            work, page = await self._everybody.take(conn, current, self.batch)
            outcomes = await self._evaluate(conn, "round", work, way, before_round=current.number)
            await self._everybody.settle(conn, current, page, _accounts(outcomes), self.clock())
            return work, page, outcomes

        done = await self._in_transaction(task)
        if done is None:
            return 0
        work, page, outcomes = done
        self._measure("round", work, outcomes)
        self._everybody.settled(current, page, _accounts(outcomes), self.clock())
        return max(1, len(work.account_ids))

    async def _in_transaction(self, task: Callable[[AsyncConnection, Way], Awaitable[T]]) -> T | None:
        """First without savepoints, which every batch would pay for. A batch that fails is rolled back, so that the
        doors have again what they handed out, and begun anew with them. None: another evaluator has taken over.
        """
        try:
            try:
                async with self.engine.begin() as conn:
                    return await task(conn, self._at_once)
            except Faulty as error:
                log.warning("a batch cannot be evaluated; it is halved", problem=type(error.__cause__).__name__)
            async with self.engine.begin() as conn:
                return await task(conn, self._bisect)
        except Superseded:
            self.context.superseded = True
            return None

    async def _evaluate(
        self, conn: AsyncConnection, door: str, work: Work, way: Way, *, before_round: int | None = None
    ) -> list[Outcome]:
        """``before_round``: only accounts last evaluated under an older one."""
        if not work.account_ids:
            return []
        last = await doors.lock_accounts(conn, work.account_ids, self.clock())
        now = self.clock()  # after the lock, which another evaluation may have held: no look lies before the last one
        account_ids = work.account_ids
        if before_round is not None:
            account_ids = [each for each in account_ids if each in last and last[each].round < before_round]
        elif door != "due":
            account_ids, recent = doors.split_recent(work, last, now, self.coalesce)
            await doors.postpone(conn, recent, now + self.coalesce, min(work.arrivals, default=None))
        if not account_ids:
            return []
        context = await self.context.read(conn, now)
        oldest = min(work.arrivals, default=None)
        outcomes: list[Outcome] = []
        for observed, some in await doors.by_sources(conn, account_ids, context.observed):
            outcomes += await way(conn, some, replace(context, observed=observed), oldest, now)
        if before_round is None:
            known = (last[each] for each in account_ids if each in last)
            self._everybody.caught_up += sum(
                one.evaluated_at is not None and one.round < context.round for one in known
            )
        return outcomes

    async def _at_once(
        self, conn: AsyncConnection, account_ids: list[str], context: Context, oldest: datetime | None, now: datetime
    ) -> list[Outcome]:
        """Raises Faulty."""
        try:
            return [await evaluate(conn, account_ids, context, oldest, now)]
        except Exception as error:
            if _transient(error):
                raise
            raise Faulty from error

    async def _bisect(
        self, conn: AsyncConnection, account_ids: list[str], context: Context, oldest: datetime | None, now: datetime
    ) -> list[Outcome]:
        """Evaluates a batch; one that fails is halved until the account at fault stands alone, is marked, and the
        rest goes on.
        """
        try:
            async with conn.begin_nested():
                return [await evaluate(conn, account_ids, context, oldest, now)]
        except Exception as error:
            if _transient(error):
                raise
            if len(account_ids) == 1:
                await self._mark_broken(conn, account_ids[0], error, now)
                return []
        middle = len(account_ids) // 2
        first = await self._bisect(conn, account_ids[:middle], context, oldest, now)
        return first + await self._bisect(conn, account_ids[middle:], context, oldest, now)

    async def _mark_broken(self, conn: AsyncConnection, account_id: str, error: Exception, now: datetime) -> None:
        log.error("account cannot be evaluated", account_id=account_id, exc_info=error)
        metrics.EVALUATION_FAILURES.inc()
        # Not the message: it may quote what the database was sent, the batch's customers.
        cause = getattr(error, "orig", None)
        state = getattr(cause, "sqlstate", None)
        problem = type(error).__name__ + (f" (SQLSTATE {state})" if state else "")
        await conn.execute(
            update(health)
            .where(health.c.account_id == account_id)
            .values(problem=problem, evaluated_at=now, due_at=now + BROKEN_RETRY)
        )

    def _measure(self, door: str, work: Work, outcomes: list[Outcome]) -> None:
        metrics.EVALUATIONS.labels(door=door).inc(_accounts(outcomes))
        done = self.clock()
        for arrival in work.arrivals:
            metrics.EVENT_TO_EVALUATION.observe(max(0.0, (done - arrival).total_seconds()))
        for outcome in outcomes:
            for since in outcome.waited_since:
                metrics.EVENT_TO_EVALUATION.observe(max(0.0, (done - since).total_seconds()))
            for (rule_id, kind), count in outcome.transitions.items():
                metrics.ALERTS.labels(rule=rule_id, transition=kind).inc(count)


def _accounts(outcomes: list[Outcome]) -> int:
    return sum(outcome.accounts for outcome in outcomes)


def _transient(error: Exception) -> bool:
    """Whether the fault lies with the moment, not with an account."""
    if isinstance(error, (OSError, TimeoutError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state is None or state in TRANSIENT
