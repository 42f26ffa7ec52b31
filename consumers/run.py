"""The consumer role: connects, runs the loop, keeps the dedup table small, leaves the group in good order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import dead_letters, dedup
from consumers.applier import Applier, Limits
from consumers.broker import SESSION_TIMEOUT_MS, BrokerUnavailable, Consumer, TopicMissing
from consumers.events import MAX_EVENT_BYTES
from consumers.loop import Loop, Pace, Status
from consumers.offsets import Offsets
from consumers.poison import PoisonLimits
from consumers.pseudonyms import Pseudonyms
from consumers.store import TRANSIENT

logger = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 2.0
UPKEEP_SECONDS: Final = 600.0
COLLECTOR_THRESHOLDS: Final = (100_000, 50, 50)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of the role; ``broker_incarnation`` marks the log of a volatile broker."""

    bootstrap: str
    topics: Sequence[str]
    group: str
    broker_incarnation: str | None = None
    instance_id: str | None = None
    event_max_bytes: int = MAX_EVENT_BYTES
    future_tolerance: timedelta = timedelta(minutes=5)
    dedup_window_days: int = 14
    dead_letter_days: int = 90
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    pace: Pace = field(default_factory=Pace)
    poison: PoisonLimits = field(default_factory=PoisonLimits)
    pseudonyms: Pseudonyms | None = None  # set: user ids that are still plain in the topic are replaced


async def run_consumer(
    engine: AsyncEngine,
    options: Options,
    stop: asyncio.Event,
    clock: Callable[[], datetime],
    status: Status | None = None,
) -> None:
    """Until ``stop``. Raises ``loop.Stuck`` and BrokerError, on which the process should end and be started again."""
    relax_collector()
    status = status or Status()
    limits = Limits(event_max_bytes=options.event_max_bytes, future_tolerance=options.future_tolerance)
    consumer = Consumer(
        options.bootstrap,
        options.topics,
        group=options.group,
        client_id="kizashi-consumer",
        instance_id=options.instance_id,
        on_assigned=lambda held: loop.on_assigned(held),  # noqa: PLW0108  the loop is made below
        on_revoked=lambda lost: loop.on_revoked(lost),  # noqa: PLW0108
        session_timeout_ms=options.session_timeout_ms,
    )
    loop = Loop(
        consumer,
        Applier(engine, options.group, limits, pseudonyms=options.pseudonyms),
        Offsets(engine, options.group),
        clock=clock,
        pace=options.pace,
        status=status,
        incarnation=options.broker_incarnation,
        poison=options.poison,
    )
    await read_on(consumer, loop, stop, status, _upkeep(engine, options, clock))


async def read_on(
    consumer: Consumer, loop: Loop, stop: asyncio.Event, status: Status, upkeep: Coroutine[Any, Any, None]
) -> None:
    """Connects, runs the loop with its ``upkeep`` beside it until ``stop``, and leaves the group in good order."""
    if not await connect(consumer, stop):
        upkeep.close()
        return
    tending = asyncio.create_task(upkeep)
    try:
        await loop.run(stop)
    finally:
        status.connected = False
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)
        await consumer.stop()


def relax_collector() -> None:
    """Lets the cycle collector look less often: a batch makes some 100,000 tuples and no cycle, and at the default
    thresholds walking them again and again takes a third of the consumer's CPU. For this process only."""
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


async def connect(consumer: Consumer, stop: asyncio.Event) -> bool:
    """Tries until the broker answers and has the topics; False when told to stop."""
    while not stop.is_set():
        try:
            await consumer.start()
        except (BrokerUnavailable, TopicMissing) as error:
            logger.warning("not connected yet: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), CONNECT_SECONDS)
        else:
            return True
    return False


async def _upkeep(engine: AsyncEngine, options: Options, clock: Callable[[], datetime]) -> None:
    """Now and then: forgets what lies outside the dedup window and closed dead letters, joins small rows. Any number of
    consumers may do it."""
    while True:
        await asyncio.sleep(UPKEEP_SECONDS)
        try:
            expired = await dedup.expire(engine, now=clock(), window_days=options.dedup_window_days)
            joined = await dedup.compact(engine, now=clock())
            logger.info("dedup: %d rows expired, %d groups joined", expired, joined)
            if letters := await dead_letters.expire(engine, now=clock(), days=options.dead_letter_days):
                logger.info("dead letters: %d closed ones deleted", letters)
        except TRANSIENT as error:
            logger.warning("upkeep put off: %r", error)
