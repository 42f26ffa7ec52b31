"""``kizashi backfill`` on a real database and the embedded broker: its account, its promises on a second run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from bench.history_run import Stage
from embedded.broker import EmbeddedBroker
from health.tables import accounts, imports
from service.db import make_engine
from tests.commands import kizashi
from tests.conftest import in_thread

MAPPING = """
source: crm
timezone: UTC
time_of_day: "12:00"
files:
  - match: "*.csv"
    events:
      - kind: usage
        event_id: "{id}:{day}"
        account_id: "{id}"
        timestamp: "{day}"
        feature: report
        quantity: "{n}"
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A database, a topic, a consumer that runs, and files to send."""

    stage: Stage
    csv: Path
    mapping: Path

    def send(self, *more: str) -> Any:
        return kizashi(
            "backfill", str(self.csv), "--mapping", str(self.mapping), *more, environment=self.stage.environment
        )

    def query(self, statement: Any) -> list[Any]:
        found: list[Any] = []

        async def run() -> None:
            engine = make_engine(self.stage.environment["KIZASHI_DATABASE_URL"], pool_size=1)
            async with engine.connect() as conn:
                found.extend((await conn.execute(statement)).all())
            await engine.dispose()

        in_thread(lambda: asyncio.run(run()))
        return found


@pytest.fixture
def place(database: str, broker: EmbeddedBroker, topic: str, tmp_path: Path) -> Iterator[Place]:
    stage = Stage(
        folder=tmp_path,
        environment={
            "KIZASHI_DATABASE_URL": database,
            "KIZASHI_KAFKA_BOOTSTRAP": broker.bootstrap,
            "KIZASHI_EVENTS_TOPICS": f'["{topic}"]',
            "KIZASHI_CONSUMER_GROUP": topic,
            "KIZASHI_BROKER_INCARNATION": broker.incarnation,
        },
    )
    stage.role("consumer")
    lines = [f"a{number % 5},2024-03-{number % 28 + 1:02},{number}" for number in range(300)]
    lines[10] = "a0,2024-03-01,many"
    made = Place(stage=stage, csv=tmp_path / "history.csv", mapping=tmp_path / "mapping.yaml")
    made.csv.write_text("id,day,n\n" + "\n".join(lines) + "\n")
    made.mapping.write_text(MAPPING)
    yield made
    stage.stop()


def test_account_refusals_wait_and_a_second_run(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    first = place.send("--wait", "--write-refused", "--strict")
    assert first.exit_code == 1, first.output
    assert "events in 299 = applied 299" in first.stderr.lower()
    assert "history.csv row 11 (line 12): quantity: column n is not a number: 'many'" in first.stderr
    (stored,) = place.query(select(imports))
    assert (stored.rows_sent, stored.events_sent, stored.rows_refused) == (300, 299, 1)
    assert stored.finished_at is not None
    written = [json.loads(line) for line in Path(f"{stored.import_id}.refused.ndjson").read_text().splitlines()]
    assert [(refusal["row"], refusal["field"]) for refusal in written] == [(11, "quantity")]
    again = place.send("--wait")
    assert again.exit_code == 0, again.output
    assert "nothing is sent again" in again.stderr
    assert sum(row.events for row in place.query(select(accounts.c.events))) == 299


def test_the_same_file_under_another_mapping_is_not_counted_twice(place: Place) -> None:
    assert place.send("--wait").exit_code == 0
    place.mapping.write_text(MAPPING.replace("feature: report", "feature: export") + "# a comment\n")
    refused = place.send()
    assert refused.exit_code == 2
    assert "was sent before, as part of import backfill-" in refused.stderr
    (stored,) = place.query(select(imports))
    other = place.send("--import-id", stored.import_id)
    assert other.exit_code == 2
    assert "begun with other files" in other.stderr
    place.mapping.write_text("# only a comment more\n" + MAPPING)
    assert place.send("--import-id", stored.import_id).exit_code == 0
    assert sum(row.events for row in place.query(select(accounts.c.events))) == 299


def test_an_old_history_is_laid_onto_today_and_stays_there(place: Place) -> None:
    before = datetime.now(UTC)
    assert place.send("--shift-to-now", "--wait").exit_code == 0
    (stored,) = place.query(select(imports))
    newest = place.query(select(accounts.c.last_event_at).order_by(accounts.c.last_event_at.desc()))[0].last_event_at
    assert stored.shift_us % 86_400_000_000 == 0
    assert before - timedelta(days=1) < newest <= datetime.now(UTC)
    assert newest - timedelta(microseconds=stored.shift_us) == datetime(2024, 3, 28, 12, tzinfo=UTC)


def test_dry_run_sends_nothing(place: Place) -> None:
    tried = place.send("--dry-run", "--shift-to-now")
    assert tried.exit_code == 0, tried.output
    assert "nothing was sent" in tried.stderr
    assert "row 11" in tried.stderr
    assert place.query(text("SELECT * FROM imports")) == []
    assert place.send("--dry-run", "--strict").exit_code == 1


def test_usage_errors(place: Place, tmp_path: Path) -> None:
    place.mapping.write_text(MAPPING.replace("feature", "featur"))
    wrong = place.send()
    assert wrong.exit_code == 2
    assert "mapping.yaml:12:9: usage has no field featur (did you mean feature?)" in wrong.stderr
    assert place.send("--source", "not a source").exit_code == 2
    missing = kizashi("backfill", str(tmp_path / "none.csv"), environment=place.stage.environment)
    assert missing.exit_code == 2
    nowhere = {**place.stage.environment, "KIZASHI_EVENTS_TOPICS": '["missing"]'}
    place.mapping.write_text(MAPPING)
    no_topic = kizashi("backfill", str(place.csv), "--mapping", str(place.mapping), environment=nowhere)
    assert no_topic.exit_code == 1
    assert "kizashi migrate" in no_topic.stderr
