"""The sender: claims messages from the outbox, sends them outside of any transaction, and records what came of it.

Prepare → send → classify → record. Several senders may run; each target has at most one message in flight, so that a
slow one holds up nobody else. A sender that dies leaves leases that run out; another one then sends, with the same id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts import metrics, outbox
from alerts.channels.base import Channel, Message, SendResult, UnresolvedError
from alerts.outbox import Claimed
from alerts.render.view import language_of
from alerts.retry import Decision, decide_retry
from alerts.tables import deliveries

log = structlog.get_logger("kizashi.sender")

POLL_SECONDS = 0.25
IN_FLIGHT = 16
"""Messages on their way at once, each to another target."""
SEND_SECONDS = 40.0
"""Longer than any channel's own time-out, shorter than the lease: a channel that breaks its promise is cut off."""
GRACE_SECONDS = 20.0
"""How long a stopping sender lets messages finish; what is cut off is sent again by the next one."""
PAUSE_AFTER_FAILURE_SECONDS = 1.0
GAUGE_SECONDS = 5.0

Clock = Callable[[], datetime]


async def run_sender(engine: AsyncEngine, channels: Mapping[str, Channel], stop: asyncio.Event, clock: Clock) -> None:
    """Delivers until ``stop`` is set, then lets what is on its way arrive. Outlives a database that is away."""
    sender = Sender(engine, channels, clock)
    watch = asyncio.create_task(sender.watch())
    try:
        while not stop.is_set():
            await sender.step()
            await _either(stop, sender.freed, POLL_SECONDS)
    finally:
        watch.cancel()
        await sender.drain()
        await asyncio.gather(watch, return_exceptions=True)


class Sender:
    """The moving part of ``run_sender``: ``step`` claims and starts, ``drain`` waits."""

    def __init__(
        self, engine: AsyncEngine, channels: Mapping[str, Channel], clock: Clock, rng: random.Random | None = None
    ) -> None:
        self._engine, self._channels, self._clock = engine, channels, clock
        self._rng = rng or random.Random()
        self._tasks: set[asyncio.Task[None]] = set()
        self.freed = asyncio.Event()
        """A message has ended: its target, and a place, are free again."""

    async def step(self) -> int:
        """Claims as many messages as there are places and sets them off; how many."""
        self.freed.clear()
        places = IN_FLIGHT - len(self._tasks)
        if places == 0:
            return 0
        try:
            async with self._engine.begin() as conn:
                claimed = await outbox.claim(conn, self._clock(), places)
        except (SQLAlchemyError, OSError, TimeoutError) as problem:
            log.warning("delivery.claim_failed", error=type(problem).__name__)
            await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
            return 0
        for one in claimed:
            task = asyncio.create_task(self._deliver(one))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return len(claimed)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.freed.set()

    async def drain(self) -> None:
        """Waits for what is on its way, for ``GRACE_SECONDS`` at most."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=GRACE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def watch(self) -> None:
        """Keeps the age of the oldest undelivered message up to date."""
        oldest = select(func.min(deliveries.c.created_at)).where(deliveries.c.status.in_(["pending", "leased"]))
        while True:
            try:
                async with self._engine.connect() as conn:
                    since = await conn.scalar(oldest)
                age = 0.0 if since is None else max((self._clock() - since).total_seconds(), 0.0)
                metrics.OLDEST_UNDELIVERED.set(age)
            except (SQLAlchemyError, OSError, TimeoutError) as problem:
                log.warning("delivery.watch_failed", error=type(problem).__name__)
            await asyncio.sleep(GAUGE_SECONDS)

    async def _deliver(self, claimed: Claimed) -> None:
        result = await self._attempt(claimed)
        now = self._clock()
        decision = decide_retry(claimed.attempt, result, now, created_at=claimed.created_at, rng=self._rng)
        channel = self._channels.get(claimed.channel)
        if channel is not None:
            decision = paced(decision, channel.min_interval, now)
        if await self._record(claimed, result, decision, now):
            _count(claimed, decision, now)
        log.info(
            "delivery.attempted",
            delivery_id=str(claimed.delivery_id),
            channel=claimed.channel,
            attempt=claimed.attempt,
            status=decision.status,
            reason=decision.reason,
        )

    async def _attempt(self, claimed: Claimed) -> SendResult:
        channel = self._channels.get(claimed.channel)
        if channel is None:
            return SendResult(
                outcome="permanent", detail=f"unknown channel; known: {', '.join(sorted(self._channels))}"
            )
        if claimed.view is None:
            return SendResult(outcome="permanent", detail="the stored message cannot be read")
        message = Message(view=claimed.view, language=language_of(claimed.language))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                async with self._engine.connect() as conn:
                    target = await channel.resolve(conn, claimed.target)
                return await channel.send(target, message, delivery_id=claimed.delivery_id, now=self._clock())
        except UnresolvedError as problem:
            return SendResult(outcome="permanent" if problem.permanent else "retry", detail=problem.detail)
        except TimeoutError:
            return SendResult(outcome="retry", detail=f"no result within {SEND_SECONDS:g} s")
        except Exception as problem:  # noqa: BLE001 - a fault in one channel must not stop the others
            # Its text and traceback may hold an address that is a secret: only its kind is kept.
            log.error("delivery.channel_fault", channel=claimed.channel, error=type(problem).__name__)  # noqa: TRY400
            return SendResult(outcome="retry", detail=f"internal fault: {type(problem).__name__}")

    async def _record(self, claimed: Claimed, result: SendResult, decision: Decision, now: datetime) -> bool:
        """Tries as long as the lease is ours: a message that was sent but not marked would be sent again."""
        while True:
            try:
                async with self._engine.begin() as conn:
                    return await outbox.finish(conn, claimed, result, decision, now)
            except (SQLAlchemyError, OSError, TimeoutError) as problem:
                log.warning("delivery.record_failed", error=type(problem).__name__)
                if self._clock() >= claimed.leased_until:
                    return False
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)


def paced(decision: Decision, min_interval: timedelta, now: datetime) -> Decision:
    """The target rests for its least interval, unless it must rest for longer anyway."""
    until = now + min_interval
    if min_interval == timedelta(0) or (decision.hold_until is not None and decision.hold_until >= until):
        return decision
    return replace(decision, hold_until=until, hold_reason=f"at most one message in {min_interval.total_seconds():g} s")


def _count(claimed: Claimed, decision: Decision, now: datetime) -> None:
    outcome = "retry" if decision.status == "pending" else decision.status
    metrics.DELIVERIES.labels(channel=claimed.channel, outcome=outcome).inc()
    if decision.status == "sent" and claimed.oldest_event_at is not None:
        metrics.EVENT_TO_ALERT.observe(max((now - claimed.oldest_event_at).total_seconds(), 0.0))


async def _either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.create_task(one.wait()), asyncio.create_task(other.wait())]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
