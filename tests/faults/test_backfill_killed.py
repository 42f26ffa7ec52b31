"""A history goes in while consumer and backfill are killed again and again: the facts are those of a calm run."""

from __future__ import annotations

import asyncio
import csv
import gzip
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from bench.history_run import Stage, fingerprint, one_row, run_killed, run_through
from consumers.tables import dead_letters
from embedded.broker import EmbeddedBroker
from health.tables import accounts, features, imports, records, source_hours
from service.db import make_engine
from tests.conftest import AnyBroker, PostgresServer

ACCOUNTS = 120
DAYS = 90
START = date(2024, 2, 1)
BAD_ROWS = 7
MAPPING = """
source: history
timezone: UTC
time_of_day: "12:00"
files:
  - match: accounts.csv
    events:
      - kind: group
        event_id: "{id}:group"
        account_id: "{id}"
        timestamp: "{started}"
        traits: {name: "{name}", mrr: "{mrr}"}
      - {kind: subscription, event_id: "{id}:started", account_id: "{id}", timestamp: "{started}", change: started}
      - kind: subscription
        when: {cancelled: {present: true}}
        event_id: "{id}:ended"
        account_id: "{id}"
        timestamp: "{cancelled}"
        change: ended
  - match: activity.csv.gz
    events:
      - kind: usage
        event_id: "{id}:{day}"
        account_id: "{id}"
        timestamp: "{day}"
        feature: report
        quantity: "{clicks}"
"""


@pytest.fixture
def history(tmp_path: Path) -> list[str]:
    """Arguments of a backfill of some 7,000 rows, a few of them bad."""
    chance = random.Random(7)
    with (tmp_path / "accounts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "name", "started", "cancelled", "mrr"])
        for number in range(ACCOUNTS):
            gone = START + timedelta(days=chance.randrange(30, DAYS)) if number % 5 == 0 else ""
            writer.writerow([f"a{number:03}", f"Company {number}, Ltd", START, gone, 100 + number])
    with gzip.open(tmp_path / "activity.csv.gz", "wt", newline="") as packed:
        writer = csv.writer(packed)
        writer.writerow(["id", "day", "clicks"])
        bad = set(chance.sample(range(6000), BAD_ROWS))
        row = 0
        for day in range(DAYS):
            for number in range(ACCOUNTS):
                if chance.random() < 0.65:
                    clicks = "many" if row in bad else chance.randrange(1, 60)
                    writer.writerow([f"a{number:03}", START + timedelta(days=day), clicks])
                    row += 1
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    files = [str(tmp_path / name) for name in ("accounts.csv", "activity.csv.gz")]
    return [*files, "--mapping", str(tmp_path / "mapping.yaml"), "--max-unread-kib", "64"]


@pytest.fixture
def stages(
    any_broker: AnyBroker, postgres_server: PostgresServer, template_database: str, tmp_path: Path
) -> Iterator[list[Stage]]:
    """Two stages with a database and a topic each, on the same servers."""
    made = []
    names = [f"kizashi_killed_{id(tmp_path)}_{number}" for number in range(2)]
    for name in names:
        postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
        any_broker.create_topic(name, 4)
        folder = tmp_path / name
        folder.mkdir()
        made.append(
            Stage(
                folder=folder,
                environment={
                    "KIZASHI_DATABASE_URL": postgres_server.database_url(name),
                    "KIZASHI_KAFKA_BOOTSTRAP": any_broker.bootstrap,
                    "KIZASHI_EVENTS_TOPICS": f'["{name}"]',
                    "KIZASHI_CONSUMER_GROUP": name,
                    **(
                        {"KIZASHI_BROKER_INCARNATION": any_broker.incarnation}
                        if isinstance(any_broker, EmbeddedBroker)
                        else {}
                    ),
                },
            )
        )
    yield made
    for stage in made:
        stage.stop()
    for name in names:
        postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_kills_change_nothing(stages: list[Stage], history: list[str]) -> None:
    calm, killed = stages
    calm.role("consumer")
    await asyncio.to_thread(run_through, calm, history)
    await asyncio.to_thread(run_killed, killed, history, seed=11, kills=4)
    assert killed.kills >= 3
    assert any(rows > 0 for rows in killed.resumed_after()), "no kill hit the backfill in its middle: change the seed"
    engines = [make_engine(stage.environment["KIZASHI_DATABASE_URL"], pool_size=1) for stage in stages]
    try:
        assert await fingerprint(engines[1]) == await fingerprint(engines[0])
        sums = (
            select(imports.c.rows_total, imports.c.rows_sent, imports.c.events_sent, imports.c.rows_refused)
            .add_columns(imports.c.finished_at.is_not(None).label("finished"))
            .add_columns(select(func.sum(source_hours.c.events)).scalar_subquery().label("events"))
            .add_columns(select(func.count()).select_from(dead_letters).scalar_subquery().label("dead"))
            .add_columns(select(func.sum(features.c.quantity)).scalar_subquery().label("clicks"))
            .add_columns(select(func.sum(accounts.c.events)).scalar_subquery().label("activity"))
            .add_columns(select(func.count()).select_from(records).scalar_subquery().label("subscriptions"))
        )
        done = await one_row(engines[1], sums)
    finally:
        for engine in engines:
            await engine.dispose()
    assert done.finished and done.dead == 0
    assert done.rows_sent == done.rows_total
    assert done.rows_refused == BAD_ROWS
    assert done.events == done.events_sent
    assert done.activity == done.rows_total - ACCOUNTS - BAD_ROWS
    assert done.clicks == expected_clicks(history[1]) * 1000
    assert done.subscriptions == ACCOUNTS


def expected_clicks(path: str) -> int:
    with gzip.open(path, "rt", newline="") as file:
        return sum(int(row["clicks"]) for row in csv.DictReader(file) if row["clicks"].isdigit())
