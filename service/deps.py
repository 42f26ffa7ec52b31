"""What the API and the board are made of: built from settings by the roles, put together by hand in tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumers.broker import Producer
from consumers.intake import Intake
from consumers.sources import FILE_NAME, Sources
from consumers.sources import load as load_sources
from consumers.waiting import WaitingLimits
from service.auth import KeyRing
from service.clock import Clock, utc_now
from service.db import make_engine, revisions
from service.errors import unavailable
from service.queries import Stream
from service.secrets import pseudonyms_of
from service.settings import Settings, parse_peers

T = TypeVar("T")
DOOR_CONNECTIONS = 2
DOOR_TIMEOUT_SECONDS = 3.0
CONNECTION_WAIT_SECONDS = 0.8
"""A reader learns within a second that all connections are taken, instead of queueing behind them."""


class EventProducer(Protocol):
    """The part of `consumers.broker.Producer` that the HTTP door needs."""

    async def start(self) -> None: ...
    async def send_many(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes, Sequence[tuple[str, bytes]]]]
    ) -> list[tuple[int, int]]: ...
    async def partition_count(self, topic: str) -> int: ...
    async def stop(self) -> None: ...


@dataclass(kw_only=True)
class Deps:
    """Handed to `create_app` and to every router; the app's lifespan closes what is in it."""

    settings: Settings
    clock: Clock
    engine: AsyncEngine
    producer: EventProducer
    sources: Sources = field(default_factory=Sources)
    """What is agreed with the senders of foreign events."""
    door: AsyncEngine = field(init=False)
    """A few connections for keys and probes alone: neither may queue behind the readers."""
    keys: KeyRing = field(init=False)
    intake: Intake = field(init=False)
    metrics_peers: dict[str, str] = field(init=False)
    questions: asyncio.Semaphore = field(init=False, repr=False)
    """Questions about all accounts take turns: they take the processor from everybody else."""
    _slots: asyncio.Semaphore = field(init=False, repr=False)
    _writes: set[asyncio.Task[Any]] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        self.door = make_engine(
            self.engine.url.render_as_string(hide_password=False),
            pool_size=DOOR_CONNECTIONS,
            timeout_seconds=min(DOOR_TIMEOUT_SECONDS, self.settings.database_timeout_seconds),
            application_name="kizashi-api-door",
        )
        self.keys = KeyRing(self.door, self.clock)
        self.intake = Intake(
            self.producer,
            self.engine,
            topic=self.topic,
            pseudonyms=pseudonyms_of(self.settings),
            waiting=waiting_limits(self.settings),
        )
        self.metrics_peers = parse_peers(self.settings.metrics_peers)
        self.questions = asyncio.Semaphore(1)
        self._slots = asyncio.Semaphore(self.settings.database_pool_size)

    @property
    def stream(self) -> Stream:
        """Whose progress says how complete the facts are."""
        return Stream(group=self.settings.consumer_group, topics=tuple(self.settings.events_topics))

    @property
    def topic(self) -> str:
        """Where events are written."""
        return self.settings.events_topics[0]

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for a consistent read; 503 when none is free in time."""
        async with self._slot(), self.engine.connect() as conn:
            await conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield conn

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end; 503 when no connection is free in time."""
        async with self._slot(), self.engine.begin() as conn:
            yield conn

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(CONNECTION_WAIT_SECONDS):
                await self._slots.acquire()
        except TimeoutError:
            raise unavailable("too many requests at once: try again shortly", seconds=1) from None
        try:
            yield
        finally:
            self._slots.release()

    def shielded(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Runs a write to its end whatever becomes of the caller: a client that drops must not leave half of it."""
        task = asyncio.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return asyncio.shield(task)

    async def close(self) -> None:
        """Waits for writes under way (each is bounded), then closes producer and engines."""
        if self._writes:
            await asyncio.gather(*self._writes, return_exceptions=True)
        await self.producer.stop()
        await self.door.dispose()
        await self.engine.dispose()


def waiting_limits(settings: Settings) -> WaitingLimits:
    """How much may wait for an account, at every door."""
    return WaitingLimits(
        per_user=settings.waiting_max_events_per_user,
        total=settings.waiting_max_events,
        age=timedelta(days=settings.waiting_days),
    )


def build(settings: Settings) -> Deps:
    """As the API role uses it. Call within the event loop."""
    revisions()  # read now: a probe must not wait for files
    return Deps(
        settings=settings,
        clock=utc_now,
        engine=make_engine(
            settings.database_url.get_secret_value(),
            pool_size=settings.database_pool_size,
            timeout_seconds=settings.database_timeout_seconds,
            application_name="kizashi-api",
        ),
        sources=load_sources(settings.rules_dir / FILE_NAME),
        # A tenth is kept back for the answer, so that the 503 itself comes within the promised time.
        producer=Producer(
            settings.kafka_bootstrap, client_id="kizashi-api", timeout_seconds=settings.accept_timeout_seconds * 0.9
        ),
    )
