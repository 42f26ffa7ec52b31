"""The evaluator role: takes accounts from the doors and evaluates them, a batch in one transaction.

touched or due accounts → signals → score → rules → episodes → outbox. Several may run: queue rows and due accounts are
handed out with SKIP LOCKED, accounts are locked sorted and waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import doors, metrics
from alerts.context import Context, ContextSource
from alerts.doors import Work
from alerts.evaluation import Outcome, evaluate
from alerts.ticks import is_time
from health.tables import health

log = structlog.get_logger("kizashi.evaluator")

Clock = Callable[[], datetime]
Door = Callable[[AsyncConnection], Awaitable[Work]]

IDLE_SECONDS = 0.2
"""Pause when no door had work: bounds what polling adds to the time from an event to its alert."""
BROKEN_RETRY = timedelta(hours=1)
"""An account whose evaluation fails is tried again after this, or when it is touched."""
AWAY = (DBAPIError, OSError, TimeoutError)
TRANSIENT = ("40001", "40P01", "55P03", "57P01")
"""SQLSTATEs of a conflict with another transaction, or of a server going away: the whole batch is tried again."""


@dataclass(kw_only=True)
class Evaluator:
    engine: AsyncEngine
    context: ContextSource
    clock: Clock
    batch: int = 500
    coalesce: timedelta = timedelta(seconds=5)
    sweep_every: timedelta = timedelta(seconds=60)

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``. A database that is away is waited for."""
        swept_at: datetime | None = None
        while not stop.is_set():
            try:
                worked = await self.step()
                now = self.clock()
                if is_time(swept_at, self.sweep_every, now):
                    worked += await self.sweep()
                    swept_at = now
                pause = 0.0 if worked else IDLE_SECONDS
            except AWAY as error:
                log.warning("evaluation waits for the database", problem=type(error).__name__)
                pause = 1.0
            if pause:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause)

    async def step(self) -> int:
        """One batch from each door; returns how many accounts were evaluated."""
        await self.context.refresh(self.clock())
        if self.context.superseded:
            return 0
        ways: dict[str, Door] = {
            "touched": lambda conn: doors.take_touched(conn, self.batch),
            "due": lambda conn: doors.take_due(conn, self.clock(), self.batch),
            "everyone": lambda conn: doors.take_everyone(conn, self.batch),
        }
        total, problem = 0, None
        for name, door in ways.items():
            try:
                total += await self._through(name, door)
            except AWAY as error:  # one door's trouble must not shut the others
                problem = error
        if problem is not None:
            raise problem
        return total

    async def sweep(self) -> int:
        """The safety net under both doors."""
        if self.context.superseded:
            return 0
        before = self.clock() - self.sweep_every / 2
        missed = await self._through("sweep", lambda conn: doors.take_missed(conn, before, self.batch))
        metrics.SWEEP_LAST_SUCCESS.set(self.clock().timestamp())
        return missed

    async def drain(self) -> int:
        """Until no door has work at this instant; for tests, the demo's start and imports. Returns evaluations."""
        total = 0
        while worked := await self.step():
            total += worked
        return total

    async def _through(self, name: str, door: Door) -> int:
        async with self.engine.connect() as conn, conn.begin():
            work = await door(conn)
            if not work.found:
                return 0
            outcomes = await self._evaluate(conn, name, work)
        self._measure(name, work, outcomes)
        return max(1, len(work.account_ids))

    async def _evaluate(self, conn: AsyncConnection, door: str, work: Work) -> list[Outcome]:
        if not work.account_ids:
            return []
        now = self.clock()
        evaluated_at = await doors.lock_accounts(conn, work.account_ids, now)
        account_ids = work.account_ids
        if door != "due":
            account_ids, recent = doors.split_recent(work, evaluated_at, now, self.coalesce)
            await doors.postpone(conn, recent, now + self.coalesce, min(work.arrivals, default=None))
        if not account_ids:
            return []
        context = await self.context.read(conn, now)
        oldest = min(work.arrivals, default=None)
        outcomes: list[Outcome] = []
        for observed, some in await doors.by_sources(conn, account_ids, context.observed):
            outcomes += await self._bisect(conn, some, replace(context, observed=observed), oldest, now)
        return outcomes

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
        metrics.EVALUATIONS.labels(door=door).inc(sum(outcome.accounts for outcome in outcomes))
        done = self.clock()
        for arrival in work.arrivals:
            metrics.EVENT_TO_EVALUATION.observe(max(0.0, (done - arrival).total_seconds()))
        for outcome in outcomes:
            for since in outcome.waited_since:
                metrics.EVENT_TO_EVALUATION.observe(max(0.0, (done - since).total_seconds()))
            for (rule_id, kind), count in outcome.transitions.items():
                metrics.ALERTS.labels(rule=rule_id, transition=kind).inc(count)


def _transient(error: Exception) -> bool:
    """Whether the fault lies with the moment, not with an account."""
    if isinstance(error, (OSError, TimeoutError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or state is None or state in TRANSIENT
