"""Signals of configuration read from a real Postgres, against a plain reading of the same events."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from health import facts as facts_door
from health.catalogue import SignalRef
from health.custom import SignalSpec, load
from health.gaps import Observed
from health.signals import compute
from health.tables import accounts, record_events

NOW = datetime(2025, 3, 2, 9, 30, tzinfo=UTC)
ACCOUNTS = ("acme", "日本", "o'neil")
LINES = (
    "name: n, measure: count, event: custom, days: 28",
    "name: n_up, measure: count, event: custom, where: {name: upload}, days: 90",
    "name: n_two, measure: count, event: custom, where: {name: [upload, 'it''s'], properties.deep.er: true}, days: 90",
    "name: n_five, measure: count, event: custom, where: {properties.size: 5}, days: 90",
    "name: total, measure: sum, event: custom, of: value, where: {name: upload}, days: 40",
    "name: sized, measure: sum, event: custom, of: properties.size, days: 90",
    "name: people, measure: distinct, event: custom, of: user, days: 90",
    "name: sizes, measure: distinct, event: custom, of: properties.size, where: {name: [upload]}, days: 90",
    "name: newest, measure: last, event: custom, of: value",
    "name: newest_up, measure: last, event: custom, of: properties.tier, where: {name: upload}, type: text",
    "name: newest_in, measure: last, event: custom, of: value, days: 3",
    "name: dear, measure: count, event: ticket, where: {priority: high}, days: 60",
    "name: tickets, measure: distinct, event: ticket, of: record, days: 60",
)


def drawn(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(150):
        data: dict[str, Any] = {"name": draw.choice(["upload", "other", "it's"])}
        if draw.random() < 0.7:
            data["value"] = draw.choice([0, 1.5, -3, 7])
        data["properties"] = {"size": draw.choice([5, 8, "5"]), "tier": draw.choice(["a", "b", None])}
        data["properties"]["deep"] = draw.choice([{"er": True}, {"er": False}, {}, None])
        kind = draw.choice(["custom", "custom", "ticket"])
        fields = data if kind == "custom" else {"status": "open", "priority": draw.choice(["high", "low"])}
        rows.append(
            {"account_id": draw.choice(ACCOUNTS), "kind": kind, "record_id": f"r{draw.randrange(9)}",
             "at": NOW - timedelta(hours=draw.randrange(-50, 2500)), "event_key": f"t:{number:03}", "data": fields,
             "user_id": draw.choice(["u1", "u2", None]), "known_at": NOW}
        )  # fmt: skip
    return rows


def at(data: Any, path: str) -> Any:
    for part in path.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def said(row: dict[str, Any], path: str) -> Any:
    return {"user": row["user_id"], "record": row["record_id"]}.get(path, at(row["data"], path))


def like(value: Any, wanted: Any) -> bool:
    """5 is no "5", and true is no 1."""
    options = wanted if isinstance(wanted, list) else [wanted]
    return any(
        value == option and isinstance(value, str | bool) == isinstance(option, str | bool) for option in options
    )


def plain(spec: SignalSpec, account_id: str, rows: list[dict[str, Any]]) -> Any:
    chosen = [
        row
        for row in sorted(rows, key=lambda row: (row["at"], row["event_key"]))
        if (row["account_id"], row["kind"]) == (account_id, spec.event)
        and row["at"] <= NOW
        and (spec.days is None or row["at"] > NOW - timedelta(days=spec.days))
        and all(like(at(row["data"], path), wanted) for path, wanted in spec.where.items())
    ]
    if spec.measure == "count":
        return len(chosen)
    values = [said(row, spec.of or "") for row in chosen]
    if spec.measure == "distinct":
        return len({str(value) for value in values if value is not None})
    numbers = [value for value in values if isinstance(value, int | float)]
    if spec.measure == "sum":
        return sum(numbers)
    newest = values[-1] if values else None
    return newest if spec.type == "text" or isinstance(newest, int | float) else None


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_filters_fields_and_windows(engine: AsyncEngine, tmp_path: Path, seed: int) -> None:
    rows = drawn(seed)
    times = {"first_event_at": NOW - timedelta(days=120), "last_event_at": NOW, "changed_at": NOW}
    async with engine.begin() as conn:
        await conn.execute(accounts.insert(), [{"account_id": name, **times} for name in ACCOUNTS])
        await conn.execute(record_events.insert(), rows)
    text = "".join(f"  - {{{line}, meaning: {{en: ours, ja: 自社}}}}\n" for line in LINES)
    tmp_path.joinpath("signals.yaml").write_text("signals:\n" + text, encoding="utf-8")
    custom = load(tmp_path)
    refs = [SignalRef(name) for name in custom]
    async with engine.connect() as conn:
        facts = await facts_door.read(conn, ACCOUNTS, now=NOW, refs=refs, custom=custom)
    table = compute(facts, [NOW], refs, Observed(NOW))
    for place, account_id in enumerate(ACCOUNTS):
        assert table.row(place) == {name: plain(signal.spec, account_id, rows) for name, signal in custom.items()}
