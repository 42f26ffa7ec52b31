"""`kizashi dead-letters` and `kizashi partitions`, on a real database and the embedded broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.tables import stream_offsets
from embedded.broker import EmbeddedBroker
from service.role_server import Report, serve_role_metrics
from service.roles import CannotListen, _listen
from tests.api import NOW
from tests.commands import kizashi
from tests.integration.test_dead_letters import add_letters, statuses


@pytest.fixture
def environment(database: str, broker: EmbeddedBroker, topic: str) -> Mapping[str, str]:
    return {
        "KIZASHI_DATABASE_URL": database, "KIZASHI_KAFKA_BOOTSTRAP": broker.bootstrap,
        "KIZASHI_EVENTS_TOPICS": json.dumps([topic]), "KIZASHI_BROKER_INCARNATION": broker.incarnation,
    }  # fmt: skip


async def test_letters_are_listed_shown_mended_and_discarded(
    engine: AsyncEngine, environment: Mapping[str, str], tmp_path: Path
) -> None:
    broken = b'{"kind": "login", "event_id": "l", "account_id": "a\x1b[2J", "timestamp": "2026-04-30T12:00:00Z"}'
    one, two, three = await add_letters(engine, {"value": broken}, {}, {"reason": "malformed", "value": b"\xff"})
    listed = kizashi("dead-letters", "list", environment=environment)
    assert listed.exit_code == 0, listed.output
    assert "2 open  future  kizashi.events" in listed.output
    assert f"kizashi.events[3]@{1}" in listed.output
    shown = kizashi("dead-letters", "show", str(one), environment=environment)
    assert "timestamp: lies ahead → check the clock" in shown.output
    assert "\x1b" not in shown.output
    assert kizashi("dead-letters", "show", "999", environment=environment).exit_code == 1
    file = tmp_path / "event.json"
    file.write_bytes(kizashi("dead-letters", "show", str(one), "--raw", environment=environment).stdout_bytes)
    assert file.read_bytes() == broken
    refused = kizashi("dead-letters", "retry", str(one), "--value", str(file), environment=environment)
    assert refused.exit_code == 1
    assert "JSON" in refused.output or "account_id" in refused.output
    file.write_bytes(broken.replace(b"\x1b[2J", b""))
    sent = kizashi("dead-letters", "retry", str(one), "--value", str(file), environment=environment)
    assert sent.exit_code == 0, sent.output
    many = kizashi("dead-letters", "retry", "--topic", "kizashi.events", "--yes", environment=environment)
    assert many.exit_code == 1
    assert "1 retried, 1 refused" in many.output
    gone = kizashi("dead-letters", "discard", str(three), "--note", "a test", environment=environment)
    assert gone.exit_code == 0
    assert await statuses(engine) == ["retried", "retried", "discarded"]
    assert kizashi("dead-letters", "retry", str(two), environment=environment).exit_code == 1
    assert kizashi("dead-letters", "discard", environment=environment).exit_code == 2


async def test_partitions_are_listed_and_released(
    engine: AsyncEngine, environment: Mapping[str, str], topic: str, broker: EmbeddedBroker
) -> None:
    common = {
        "group_id": "kizashi", "topic": topic, "updated_at": NOW, "complete_through": NOW, "next_offset": 0,
        "cluster_id": f"volatile:{broker.incarnation}",
    }  # fmt: skip
    async with engine.begin() as conn:
        for number, reason in enumerate(("poison: much", "truncated", None, None)):
            await conn.execute(insert(stream_offsets).values({**common, "partition": number, "stopped_reason": reason}))
    listed = kizashi("partitions", "list", "--stopped", environment=environment)
    assert f"{topic}[0]" in listed.output
    assert "poison: much" in listed.output
    assert f"{topic}[2]" not in listed.output
    there = kizashi("partitions", "release", f"{topic}[0]", environment=environment)
    assert f"{topic}[0] goes on at offset 0." in there.output
    again = kizashi("partitions", "release", f"{topic}[0]", environment=environment)
    assert again.exit_code == 1
    assert "is not stopped" in again.output
    both = kizashi("partitions", "release", f"{topic}[*]", "--from-start", environment=environment)
    assert f"{topic}[1] goes on at offset 0; the time since it was complete is noted as a gap." in both.output
    assert kizashi("partitions", "release", "x", environment=environment).exit_code == 2


async def test_a_taken_metrics_port_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ready() -> Report:
        return Report(ok=True)

    monkeypatch.setattr("service.roles.LISTEN_PAUSE_SECONDS", 0.01)
    first = await serve_role_metrics("127.0.0.1", 0, ready)
    try:
        with pytest.raises(CannotListen, match="in use"):
            await _listen("127.0.0.1", first.port, ready)
        waiting = asyncio.create_task(_listen("127.0.0.1", first.port, ready))
        await asyncio.sleep(0.02)
    finally:
        await first.stop()
    second = await waiting
    await second.stop()
