"""The API under test: the real app over a real database, in process; and a producer that does what it is told."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import structlog
from pydantic import SecretStr
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.tables import deliveries, delivery_attempts, episodes, transitions
from consumers.broker import BrokerUnavailable
from health.tables import accounts, health
from service import auth
from service.app import create_app
from service.deps import Deps, EventProducer
from service.settings import Settings

# Unconfigured, structlog draws tracebacks with every local variable in them: slow, and not what the service does.
structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(),
    ],
)

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass
class FakeProducer:
    """Keeps what it was given. `refuse` names keys whose chunk is not acknowledged; `away` refuses everything."""

    away: bool = False
    refuse: set[bytes] = field(default_factory=set)
    sent: list[tuple[bytes | None, bytes]] = field(default_factory=list)

    async def start(self) -> None:
        if self.away:
            raise BrokerUnavailable("away")

    async def send_many(
        self, topic: str, records: Iterable[tuple[bytes | None, bytes, Sequence[tuple[str, bytes]]]]
    ) -> list[tuple[int, int]]:
        batch = [(key, value) for key, value, _ in records]
        if self.away or any(key in self.refuse for key, _ in batch):
            raise BrokerUnavailable("away")
        self.sent += batch
        return [(0, index) for index in range(len(batch))]

    async def partition_count(self, topic: str) -> int:
        if self.away:
            raise BrokerUnavailable("away")
        return 4

    async def stop(self) -> None:
        return


@dataclass(kw_only=True)
class Api:
    """A client with a key of every scope; `now` is the clock's, and may be moved."""

    client: httpx2.AsyncClient
    deps: Deps
    key: str
    now: datetime = NOW

    async def get(self, path: str, **query: Any) -> httpx2.Response:
        return await self.client.get(path, params=query)

    async def post(self, path: str, json: Any = None) -> httpx2.Response:
        return await self.client.post(path, json=json)

    async def key_with(self, *scopes: str, expires_at: datetime | None = None) -> dict[str, str]:
        """The headers of a new key."""
        async with self.deps.engine.begin() as conn:
            presented, _ = await auth.create(conn, name="test", scopes=scopes, expires_at=expires_at, now=self.now)
        return {"Authorization": f"Bearer {presented}"}


@contextlib.asynccontextmanager
async def api(engine: AsyncEngine, producer: EventProducer | None = None, **settings: Any) -> AsyncIterator[Api]:
    """The engine stays its owner's."""
    # Only the test's own settings: the environment's and a .env file's must not leak in.
    url = engine.url.render_as_string(hide_password=False)
    made = Settings.model_validate({"database_url": SecretStr(url), "board_open": False, **settings})
    holder: list[Api] = []
    deps = Deps(
        settings=made,
        clock=lambda: holder[0].now if holder else NOW,
        engine=engine,
        producer=producer or FakeProducer(),
    )
    async with engine.begin() as conn:
        presented, _ = await auth.create(conn, name="tests", scopes=auth.SCOPES, expires_at=None, now=NOW)
    transport = httpx2.ASGITransport(create_app(deps))
    headers = {"Authorization": f"Bearer {presented}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://api", headers=headers) as client:
        holder.append(Api(client=client, deps=deps, key=presented))
        yield holder[0]
    await deps.producer.stop()
    await deps.door.dispose()


async def add_accounts(engine: AsyncEngine, *rows: dict[str, Any]) -> None:
    """Rows of `health` with their account; give `account_id` and what matters."""
    names = {name for row in rows for name in row}
    filled = [{**dict.fromkeys(names), "open_alerts": 0, **row} for row in rows]
    async with engine.begin() as conn:
        await conn.execute(insert(health), filled)
        await conn.execute(
            insert(accounts),
            [{"account_id": row["account_id"], "changed_at": NOW, "first_event_at": NOW} for row in rows],
        )


async def add_alert(engine: AsyncEngine, account_id: str, rule_id: str = "no-login", **values: Any) -> UUID:
    """An open episode with its opening transition and one dead delivery."""
    episode_id = uuid4()
    row = {
        "episode_id": episode_id,
        "rule_id": rule_id,
        "account_id": account_id,
        "state": "open",
        "severity": "warning",
        "since": NOW - DAY,
        "opened_at": NOW,
        "rule_version": "v1",
        "reason": {"en": "No login for 14 days", "ja": "14日間ログインがありません"},
        "signals": {"days_since_login": 14},
        "contributions": [{"measure": "days_since_login", "contribution": -12.5}],
        "version": 1,
        "updated_at": NOW,
        **values,
    }
    async with engine.begin() as conn:
        await conn.execute(insert(episodes).values(row))
        opened = insert(transitions).values(
            episode_id=episode_id, kind="opened", at=NOW, reason="No login for 14 days", actor="kizashi"
        )
        transition_id = await conn.scalar(opened.returning(transitions.c.transition_id))
        delivery_id = uuid4()
        await conn.execute(
            insert(deliveries).values(
                delivery_id=delivery_id,
                transition_id=transition_id,
                episode_id=episode_id,
                account_id=account_id,
                channel="slack",
                target="team",
                language="en",
                message={},
                status="dead",
                attempt=1,
                next_attempt_at=NOW,
                created_at=NOW,
            )
        )
        await conn.execute(
            insert(delivery_attempts).values(
                delivery_id=delivery_id,
                attempt=1,
                started_at=NOW,
                finished_at=NOW,
                outcome="permanent",
                status_code=404,
            )
        )
    return episode_id
