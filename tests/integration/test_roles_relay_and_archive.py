"""The roles relay and archive as processes of their own: what comes in a foreign topic ends in the archive's files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.archive.files import open_archive
from consumers.archive.reading import scan
from consumers.broker import Producer
from embedded.broker import EmbeddedBroker
from embedded.process import free_port

UP_SECONDS = 120.0
STOP_SECONDS = 45.0


class Role:
    """A running `kizashi serve --role`."""

    def __init__(self, role: str, root: Path, log: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve", "--role", role], cwd=root, stdout=out, stderr=out,
                env={**os.environ, **environment, "KIZASHI_METRICS_PORT": str(self.port)},
            )  # fmt: skip

    def said(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> httpx2.Response | None:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"http://127.0.0.1:{self.port}{path}", timeout=5, trust_env=False)
        return None

    def ready(self) -> bool:
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 200 and answer.json()["checks"]["events"] == "ok"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Iterator[Callable[[str, dict[str, str]], Role]]:
    running: list[Role] = []

    def begin(role: str, environment: dict[str, str]) -> Role:
        running.append(Role(role, root, tmp_path / f"{role}-{len(running)}.log", environment))
        return running[-1]

    yield begin
    for role in running:
        role.process.kill()
        role.process.wait()


async def test_a_foreign_topic_ends_in_the_archive(
    engine: AsyncEngine, database: str, broker: EmbeddedBroker, topic: str, tmp_path: Path,
    start: Callable[[str, dict[str, str]], Role],
) -> None:  # fmt: skip
    foreign = f"foreign.{uuid.uuid4().hex}"
    broker.create_topic(foreign, 2)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "sources.yaml").write_text(f"topics: [{{topic: {foreign}, source: web, format: segment}}]")
    folder = tmp_path / "archive"
    environment = {
        "KIZASHI_DATABASE_URL": database, "KIZASHI_KAFKA_BOOTSTRAP": broker.bootstrap,
        "KIZASHI_BROKER_INCARNATION": broker.incarnation, "KIZASHI_EVENTS_TOPICS": json.dumps([topic]),
        "KIZASHI_CONSUMER_GROUP": f"g-{topic}", "KIZASHI_RULES_DIR": str(tmp_path / "rules"),
        "KIZASHI_ARCHIVE_URL": folder.as_uri(), "KIZASHI_ARCHIVE_FLUSH_SECONDS": "0.5",
    }  # fmt: skip
    roles = [start(role, environment) for role in ("relay", "archive")]
    producer = Producer(broker.bootstrap)
    try:
        await producer.send_many(foreign, [(None, track(number), ()) for number in range(20)])
    finally:
        await producer.stop()
    until(lambda: all(role.ready() for role in roles), lambda: "\n".join(role.said() for role in roles))

    metrics = roles[1].get("/metrics")
    assert metrics is not None and "kizashi_archive" in metrics.text
    archive = open_archive(engine, folder.as_uri())
    held: list[Any] = []
    deadline = time.monotonic() + UP_SECONDS
    while len(held) < 20:
        held = [row async for row in scan(archive)]
        assert time.monotonic() < deadline, "\n".join(role.said() for role in roles)
        await asyncio.sleep(0.1)
    assert sorted(row.event_id for row in held) == sorted(f"m{number}" for number in range(20))
    assert {(row.account_id, row.user_id, row.source, row.kind, row.topic) for row in held} == {
        ("acme", "u1", "web", "login", topic)
    }
    assert [role.stop() for role in roles] == [0, 0], "\n".join(role.said() for role in roles)
    assert "Traceback" not in "".join(role.said() for role in roles)


def track(number: int) -> bytes:
    event = {
        "type": "track", "event": "Signed In", "messageId": f"m{number}", "userId": "u1",
        "timestamp": "2026-05-01T09:00:00Z", "context": {"groupId": "acme"},
    }  # fmt: skip
    return json.dumps(event).encode()


def until(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.1)
