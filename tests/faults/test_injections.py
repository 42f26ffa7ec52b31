"""Faults of every kind on a running road, briefly; `make faults` does many more of them. And that the comparison by
which they are judged can tell.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from embedded.kafka import available
from tests.faults.campaign import good, namespace, on_a_small_disk, planned, quantile, run
from tests.faults.injections import FAULTS
from tests.faults.ledger import Ledger, compare

SHORT = (
    "consumer killed at a named point",
    "answer to COMMIT lost",
    "Postgres killed at a named point",
    "zombie consumer",
    "API killed at a named point",
    "broker killed",
    "Postgres half open",
    "answer to produce lost",
    "connections to the broker reset",
)


@pytest.fixture
def apache() -> None:
    usable, reason = available()
    if not usable:
        message = f"no Apache Kafka: {reason}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.mark.kafka
async def test_nothing_is_lost_or_counted_twice(apache: None, tmp_path: Path) -> None:
    plan = [fault for name in SHORT for fault in FAULTS if fault.name == name]
    assert len(plan) == len(SHORT)
    report = await run(tmp_path / "road", plan, seed="short", rate=120.0, tell=print, small=False)
    assert good(report), {name: report[name] for name in ("lost", "double", "unknown", "differences")}
    assert len(report["injections"]) == len(plan)
    assert report["totals"]["acknowledged"] > 500
    assert report["clients_said"]["sent again"] > 0
    assert report["acks"] == [-1], "each write of the API asks for all in-sync replicas"


@pytest.mark.kafka
def test_nothing_is_lost_or_counted_twice_when_the_disk_is_full(apache: None, tmp_path: Path) -> None:
    _, problem = namespace()
    if problem:
        pytest.skip(f"no disk of its own to fill: {problem}")
    out = tmp_path / "report.json"
    status = on_a_small_disk(1, seed="short", rate=80.0, out=out)
    report = json.loads(out.read_text())
    assert status == 0 and good(report)
    assert len(report["injections"]) == 1
    assert report["totals"]["acknowledged"] > 100


def use(event_id: str, **fields: Any) -> dict[str, Any]:
    at = datetime(2026, 5, 1, 9, tzinfo=UTC).isoformat()
    return {"kind": "usage", "event_id": event_id, "account_id": "acme", "timestamp": at, "feature": event_id, **fields}


def ledger_of(path: Path, events: Sequence[dict[str, Any]], acknowledged: Sequence[str]) -> Ledger:
    lines: list[list[Any]] = [["sent", 1.0, "http", event] for event in events]
    lines.append(["acknowledged", 2.0, "http", list(acknowledged)])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Ledger(path=path)


async def test_the_comparison_tells_what_is_lost_double_and_unknown(database: str, tmp_path: Path) -> None:
    ids = ("once", "lost", "double", "never seen", "counted all the same")
    ledger = ledger_of(tmp_path / "ledger", [use(event_id, quantity=2) for event_id in ids], ids[:3])
    connection = await asyncpg.connect(
        make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    at = datetime(2026, 5, 1, 9, tzinfo=UTC)
    try:
        found = {"once": 2000, "double": 4000, "counted all the same": 2000, "of nobody": 1000}
        for feature, quantity in found.items():
            await connection.execute(
                "INSERT INTO features (account_id, feature, first_at, last_at, quantity) "
                "VALUES ('acme', $1, $2, $2, $3)",
                feature,
                at,
                quantity,
            )
        verdict = await compare(ledger, connection)
    finally:
        await connection.close()
    assert (verdict.lost, verdict.double, verdict.unknown) == (["lost"], ["double"], ["of nobody"])
    assert verdict.acknowledged == 3
    assert any(line.startswith("accounts") for line in verdict.differences), "the other tables are empty"


@pytest.mark.parametrize("count", [1, 5, 40, 200])
def test_a_plan_has_as_many_as_asked_and_every_fault_where_that_fits(count: int) -> None:
    plan = planned(FAULTS, count, random.Random(3))
    assert len(plan) == count
    assert count < 40 or {fault.name for fault in plan} == {fault.name for fault in FAULTS}


def test_quantiles_are_of_the_values_themselves() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0.5, 0.95, 1.0)] == [2.0, 4.0, 4.0]
    assert quantile([7.0], 0.5) == 7.0
