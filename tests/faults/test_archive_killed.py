"""The archive's process is killed again and again while events come: each is archived once, and a replay is equal."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from bench.history_run import Stage
from consumers.archive.files import open_archive
from consumers.archive.reading import scan
from consumers.tables import archive_files, stream_offsets
from embedded.broker import EmbeddedBroker
from service.clock import utc_now
from service.db import make_engine
from tests.conftest import AnyBroker
from tests.integration.test_consumers_end_to_end import produce, some_events

EVENTS = 3_000
KILLS = 6
PATIENCE = 120.0


@pytest.fixture
def stage(any_broker: AnyBroker, topic: str, database: str, tmp_path: Path) -> Iterator[Stage]:
    environment = {
        "KIZASHI_DATABASE_URL": database,
        "KIZASHI_KAFKA_BOOTSTRAP": any_broker.bootstrap,
        "KIZASHI_EVENTS_TOPICS": f'["{topic}"]',
        "KIZASHI_CONSUMER_GROUP": topic,
        "KIZASHI_ARCHIVE_URL": (tmp_path / "archive").as_uri(),
        "KIZASHI_ARCHIVE_FLUSH_SECONDS": "0.3",
    }
    if isinstance(any_broker, EmbeddedBroker):
        environment["KIZASHI_BROKER_INCARNATION"] = any_broker.incarnation
    made = Stage(folder=tmp_path, environment=environment)
    yield made
    made.stop()


async def test_kills_neither_double_nor_lose(stage: Stage, any_broker: AnyBroker, topic: str, tmp_path: Path) -> None:
    rng = random.Random(11)
    engine = make_engine(stage.environment["KIZASHI_DATABASE_URL"])
    archive = open_archive(engine, stage.environment["KIZASHI_ARCHIVE_URL"])
    events = some_events(EVENTS, utc_now() - timedelta(days=2))
    for start in range(0, EVENTS, EVENTS // KILLS):
        stage.role("archive")
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        await produce(any_broker, topic, events[start : start + EVENTS // KILLS])
        await asyncio.sleep(rng.uniform(0.0, 2.0))
        assert stage.kill("archive"), "it was still running"
    stage.role("archive")
    archived = select(func.coalesce(func.sum(archive_files.c.rows), 0)).where(archive_files.c.replaced_at.is_(None))
    async with asyncio.timeout(PATIENCE):
        while True:
            async with engine.connect() as conn:
                if (await conn.scalar(archived) or 0) >= EVENTS:
                    break
            await asyncio.sleep(0.2)
    assert Counter([row.event_id async for row in scan(archive)]) == Counter(event.event_id for event in events)
    async with engine.connect() as conn:
        read = await conn.scalar(select(func.sum(stream_offsets.c.records)))
    await engine.dispose()
    assert read == EVENTS
    assert stage.kills == KILLS
