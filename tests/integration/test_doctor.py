"""``kizashi doctor`` against healthy and broken pieces: each fault is named with what to do, and no secret is shown."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.broker import EmbeddedBroker
from embedded.inbox.server import Inbox
from service import db
from service.db import make_engine
from service.doctor.database import migrations
from service.doctor.outside import channels
from service.settings import PACKAGE_ROOT, Settings
from tests.commands import kizashi
from tests.conftest import in_thread

SECRET = "T000-hush-hush-secret"


@pytest.fixture
def healthy(database: str, broker: EmbeddedBroker, topic: str) -> dict[str, str]:
    """Settings of a service that lacks nothing but a running consumer."""
    return {
        "KIZASHI_DATABASE_URL": database,
        "KIZASHI_KAFKA_BOOTSTRAP": broker.bootstrap,
        "KIZASHI_EVENTS_TOPICS": f'["{topic}"]',
        "KIZASHI_EVENTS_PARTITIONS": "4",
        "KIZASHI_CONSUMER_GROUP": topic,
        "KIZASHI_RULES_DIR": str(PACKAGE_ROOT / "rules"),
        "KIZASHI_PORT": str(unused_port()),
        "KIZASHI_ALLOW_PRIVATE_TARGETS": "true",
        "KIZASHI_SECRET_KEY": "a long random string of the tests",
    }


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def findings(environment: Mapping[str, str], *, faults: bool) -> dict[str, list[dict[str, Any]]]:
    examined = kizashi("doctor", "--json", environment=environment)
    assert examined.exit_code == int(faults), examined.output
    assert SECRET not in examined.output
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(examined.stdout)["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


def only(found: dict[str, list[dict[str, Any]]], check: str) -> dict[str, Any]:
    (finding,) = found[check]
    return finding


def test_a_healthy_service_has_no_fault(healthy: dict[str, str]) -> None:
    found = findings(healthy, faults=False)
    states = {check: sorted({finding["state"] for finding in each}) for check, each in found.items()}
    assert states == {
        "database": ["ok"], "clock": ["ok"], "migrations": ["ok"], "consumers": ["warning"], "keys": ["warning"],
        "secret key": ["ok"], "broker": ["ok"], "topics": ["ok"], "rules": ["ok"], "scorecards": ["ok"],
        "channels": ["warning"], "port": ["ok"],
    }  # fmt: skip
    shown = kizashi("doctor", environment=healthy)
    assert "Everything is in order" in shown.stdout
    assert "kizashi serve --role consumer" in shown.stdout


def test_no_database(healthy: dict[str, str]) -> None:
    url = f"postgresql+asyncpg://kizashi:{SECRET}@127.0.0.1:{unused_port()}/kizashi"
    found = findings({**healthy, "KIZASHI_DATABASE_URL": url}, faults=True)
    assert only(found, "database")["state"] == "fault"
    assert "KIZASHI_DATABASE_URL" in only(found, "database")["remedy"]
    assert "migrations" not in found
    assert only(found, "broker")["state"] == "ok"


def test_a_database_that_does_not_exist(healthy: dict[str, str]) -> None:
    found = findings({**healthy, "KIZASHI_DATABASE_URL": healthy["KIZASHI_DATABASE_URL"] + "_none"}, faults=True)
    assert "does not exist" in only(found, "database")["what"]


def test_an_unmigrated_database(healthy: dict[str, str], empty_database: str) -> None:
    found = findings({**healthy, "KIZASHI_DATABASE_URL": empty_database}, faults=True)
    assert only(found, "migrations") == {
        "check": "migrations", "state": "fault", "what": "the database has no schema yet",
        "remedy": "run `kizashi migrate`",
    }  # fmt: skip


def test_a_newer_schema_is_no_fault(healthy: dict[str, str]) -> None:
    """As /readyz has it: this is what an update looks like while it is rolled out."""
    run(healthy["KIZASHI_DATABASE_URL"], text("UPDATE alembic_version SET version_num = :at"), {"at": "newer"})
    assert only(findings(healthy, faults=False), "migrations")["what"] == "the schema is at newer"


async def test_an_older_schema_is_a_fault(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    at, _ = db.revisions()
    monkeypatch.setattr(db, "revisions", lambda: ("next", frozenset({str(at), "next"})))
    async with engine.connect() as conn:
        found = await migrations(conn)
    assert (found.state, found.what) == ("fault", f"the schema is at {at}, this release needs next")


def test_no_broker(healthy: dict[str, str]) -> None:
    found = findings({**healthy, "KIZASHI_KAFKA_BOOTSTRAP": f"127.0.0.1:{unused_port()}"}, faults=True)
    assert only(found, "broker")["state"] == "fault"
    assert "KIZASHI_KAFKA_BOOTSTRAP" in only(found, "broker")["remedy"]
    assert "topics" not in found


def test_topics_missing_or_unequal(healthy: dict[str, str], broker: EmbeddedBroker, topic: str) -> None:
    missing = findings({**healthy, "KIZASHI_EVENTS_TOPICS": f'["{topic}", "{topic}.none"]'}, faults=True)
    assert "kizashi migrate" in only(missing, "topics")["remedy"]
    broker.create_topic(f"{topic}.wide", 6)
    unequal = findings({**healthy, "KIZASHI_EVENTS_TOPICS": f'["{topic}", "{topic}.wide"]'}, faults=True)
    assert "differ" in only(unequal, "topics")["what"]
    other = findings({**healthy, "KIZASHI_EVENTS_PARTITIONS": "8"}, faults=False)
    assert only(other, "topics")["state"] == "warning"


def test_a_stopped_partition_and_a_silent_consumer(healthy: dict[str, str], topic: str) -> None:
    statement = text(
        "INSERT INTO stream_offsets (group_id, topic, partition, next_offset, stopped_reason, updated_at) "
        "VALUES (:topic, :topic, 0, 0, 'truncated', now() - interval '1 hour')"
    )
    run(healthy["KIZASHI_DATABASE_URL"], statement, {"topic": topic})
    found = findings(healthy, faults=True)["consumers"]
    assert [finding["state"] for finding in found] == ["fault", "warning"]
    assert "truncated" in found[0]["what"]
    assert "60 min" in found[1]["what"]


def test_a_secret_key_that_opens_nothing(healthy: dict[str, str]) -> None:
    tom = "INSERT INTO people (person_id, name, slack_webhook, updated_at) VALUES ('tom', 'Tom', 'x', now())"
    run(healthy["KIZASHI_DATABASE_URL"], text(tom), {})
    assert "tom" in only(findings(healthy, faults=True), "secret key")["what"]


def test_broken_files(healthy: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules:\n  - id: A\n")
    people = tmp_path / "people.yaml"
    people.write_text("people:\n  tom: {nam: Tom}\n")
    broken = {**healthy, "KIZASHI_RULES_DIR": str(tmp_path), "KIZASHI_PEOPLE_FILE": str(people)}
    found = findings(broken, faults=True)
    assert [only(found, check)["state"] for check in ("rules", "scorecards", "people")] == ["fault"] * 3


def test_ways_out_that_lead_nowhere(healthy: dict[str, str]) -> None:
    port = unused_port()
    broken = {
        **healthy,
        "KIZASHI_SLACK_WEBHOOK_URL": f"http://127.0.0.1:{port}/services/{SECRET}",
        "KIZASHI_WEBHOOK_URL": f"http://no-such-host.invalid/{SECRET}",
        "KIZASHI_SMTP_HOST": "127.0.0.1",
        "KIZASHI_SMTP_PORT": str(port),
        "KIZASHI_SMTP_PASSWORD": SECRET,
    }
    found = findings(broken, faults=True)
    assert only(found, "slack")["state"] == only(found, "mail")["state"] == "fault"
    assert {finding["state"] for finding in found["webhook"]} == {"fault"}
    assert any("KIZASHI_WEBHOOK_SECRET" in finding["what"] for finding in found["webhook"])
    private = findings({**broken, "KIZASHI_ALLOW_PRIVATE_TARGETS": "false"}, faults=True)
    assert "KIZASHI_ALLOW_PRIVATE_TARGETS" in only(private, "slack")["what"]


async def test_ways_out_that_work_get_no_message() -> None:
    async with Inbox() as inbox:
        settings = Settings(
            slack_webhook_url=SecretStr(inbox.slack_url("team")),
            webhook_url=SecretStr(inbox.webhook_url),
            webhook_secret=SecretStr(inbox.webhook_secret),
            smtp_host="127.0.0.1",
            smtp_port=inbox.smtp_port,
            smtp_tls="none",
            allow_private_targets=True,
        )
        found = await channels(settings)
        assert [(finding.check, finding.state) for finding in found] == [
            ("slack", "ok"), ("webhook", "ok"), ("mail", "ok"),
        ]  # fmt: skip
        assert inbox.messages() == []


def test_a_taken_port(healthy: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = findings({**healthy, "KIZASHI_PORT": str(port)}, faults=True)
    assert "KIZASHI_PORT" in only(found, "port")["remedy"]


def run(url: str, statement: Any, values: Mapping[str, Any]) -> None:
    async def execute() -> None:
        engine = make_engine(url, pool_size=1)
        async with engine.begin() as conn:
            await conn.execute(statement, values)
        await engine.dispose()

    in_thread(lambda: asyncio.run(execute()))
