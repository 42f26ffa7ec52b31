"""The whole way in, for tests of clients: the API under uvicorn on a port of its own, broker, consumer, facts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import uvicorn
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consumers.broker import Producer
from consumers.run import Options, run_consumer
from consumers.tables import stream_offsets
from embedded.broker import EmbeddedBroker
from health.tables import account_attributes, accounts, features, users
from service import auth
from service.app import create_app
from service.clock import utc_now
from service.deps import Deps
from service.secrets import pseudonyms_of
from service.settings import Settings

PATIENCE = 45.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    method: str
    path: str
    status: int
    headers: dict[str, str]


class Recorder:
    """Notes every request and how it was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.seen: list[Seen] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
                seen = Seen(method=scope["method"], path=scope["path"], status=message["status"], headers=headers)
                self.seen.append(seen)
            await send(message)

        await self.app(scope, receive, noting)


@contextlib.asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """The address of `app`, served as the API role serves it."""
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, server_header=False, lifespan="off")
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE)


@dataclass(kw_only=True)
class Road:
    """`key` has the scope ingest and is called `shop`."""

    url: str
    key: str
    engine: AsyncEngine
    recorder: Recorder
    topic: str
    known: set[int] = field(default_factory=set)

    async def applied(self, records: int) -> None:
        """Waits until so many records of the topic are in the facts, and for a moment whether there are more."""
        total = select(func.coalesce(func.sum(stream_offsets.c.records), 0)).where(stream_offsets.c.topic == self.topic)
        async with asyncio.timeout(PATIENCE):
            while await self._scalar(total) < records:  # noqa: ASYNC110 - only the database knows
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        found = await self._scalar(total)
        assert found == records, f"{found} records instead of {records}"

    async def facts(self) -> dict[str, dict[str, object]]:
        """By account: logins, quantity of each feature, known users with their fields, attributes."""
        found: dict[str, dict[str, object]] = {}
        async with self.engine.connect() as conn:
            for row in await conn.execute(select(accounts.c.account_id, accounts.c.logins, accounts.c.events)):
                found[row.account_id] = {"logins": row.logins, "events": row.events, "features": {}, "users": {}}
            for row in await conn.execute(select(features.c.account_id, features.c.feature, features.c.quantity)):
                found[row.account_id]["features"][row.feature] = row.quantity // 1000  # type: ignore[index]
            for row in await conn.execute(select(users.c.account_id, users.c.user_id, users.c.fields)):
                values = {name: register["v"] for name, register in row.fields.items()}
                found[row.account_id]["users"][row.user_id] = values  # type: ignore[index]
            for row in await conn.execute(select(account_attributes)):
                values = {name: register["v"] for name, register in row.fields.items()}
                found[row.account_id]["attributes"] = values
        return found

    async def _scalar(self, statement: object) -> int:
        async with self.engine.connect() as conn:
            return int((await conn.execute(statement)).scalar_one())  # type: ignore[call-overload]


@contextlib.asynccontextmanager
async def road(engine: AsyncEngine, broker: EmbeddedBroker, topic: str, **settings: object) -> AsyncIterator[Road]:
    """A running service over `engine` (its owner's) and `broker`."""
    url = engine.url.render_as_string(hide_password=False)
    made = Settings.model_validate(
        {"database_url": SecretStr(url), "kafka_bootstrap": broker.bootstrap, "events_topics": [topic], **settings}
    )
    deps = Deps(
        settings=made, clock=utc_now, engine=engine, producer=Producer(broker.bootstrap, timeout_seconds=10)
    )  # fmt: skip
    async with engine.begin() as conn:
        key, _ = await auth.create(conn, name="shop", scopes=["ingest"], expires_at=None, now=utc_now())
    options = Options(
        bootstrap=broker.bootstrap, topics=[topic], group=f"g-{topic}", session_timeout_ms=2_000,
        broker_incarnation=broker.incarnation, pseudonyms=pseudonyms_of(made),
    )  # fmt: skip
    stop = asyncio.Event()
    consumer = asyncio.create_task(run_consumer(engine, options, stop, utc_now, None))
    recorder = Recorder(create_app(deps))
    try:
        async with listening(recorder) as address:
            yield Road(url=address, key=key, engine=engine, recorder=recorder, topic=topic)
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(consumer, PATIENCE)
        await deps.producer.stop()
        await deps.door.dispose()
