"""Signals of configuration on their whole way: declared, on a scorecard, in the score; and taken away again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.api import api
from tests.world import GROUP, TOPIC, World

SIGNAL = """\
signals:
  - {name: exports_7d, measure: count, event: custom, where: {name: export}, days: 7, meaning: {en: Exports, ja: 出力}}
"""
CARD = """\
scorecard: exports
title: {en: Exports, ja: 出力}
minimum_confidence: 0
groups: {Adoption: 1}
measures:
  - {id: exports, group: Adoption, signal: SIGNAL, weight: 1, line: [[0, 0], [4, 100]],
     reason: {en: "{value} exports", ja: "出力{value}件"}}
""".replace("SIGNAL", "exports_7d")
RULE = """\
rules:
  - id: no-exports
    title: {en: No exports, ja: 出力なし}
    severity: info
    when: exports_7d = 0
    reason: {en: "None", ja: "なし"}
    suggestion: {en: Ask, ja: 確認}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "scorecards").mkdir()
    (tmp_path / "signals.yaml").write_text(SIGNAL, encoding="utf-8")
    (tmp_path / "scorecards" / "exports.yaml").write_text(CARD, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(RULE.replace("exports_7d = 0", "days_since_login > 90"), encoding="utf-8")
    return tmp_path


async def score(engine: AsyncEngine) -> float | None:
    async with engine.connect() as conn:
        found = (await conn.execute(text("SELECT score FROM health WHERE account_id = 'acme'"))).scalar_one()
    return None if found is None else float(found)


async def test_a_card_scores_by_it_also_after_it_was_taken_away(engine: AsyncEngine, rules: Path) -> None:
    world = await World(engine, rules).start()
    await world.event("custom", name="export", user_id="u1")
    await world.event("custom", name="other", user_id="u1")
    assert await score(engine) == 25
    (rules / "signals.yaml").unlink()
    (rules / "own.yaml").write_text(RULE.replace("exports_7d = 0", "days_since_login > 60"), encoding="utf-8")
    await world.event("custom", name="export", user_id="u1")
    assert await score(engine) == 50, "the running card and the signals it speaks of stay"
    (rules / "scorecards" / "exports.yaml").write_text(CARD.replace("exports_7d", "events_7d"), encoding="utf-8")
    await world.until(0.1)
    await world.event("custom", name="export", user_id="u1")
    assert await score(engine) == 100, "four custom events of all kinds"


async def test_it_passes_with_time_and_the_api_tells_of_it(engine: AsyncEngine, rules: Path) -> None:
    (rules / "own.yaml").write_text(RULE, encoding="utf-8")
    world = await World(engine, rules).start()
    await world.event("custom", name="export", user_id="u1")
    await world.until(6.9)
    assert await score(engine) == 25
    assert await world.episodes("no-exports") == []
    await world.until(7.1)
    assert await score(engine) == 0
    assert len(await world.episodes("no-exports")) == 1
    settings: dict[str, Any] = {"consumer_group": GROUP, "events_topics": [TOPIC], "rules_dir": rules}
    async with api(engine, board_open=True, secret_key="a long random string for tests", **settings) as service:
        service.now = world.now
        listed = (await service.get("/api/v1/signals")).json()["items"][-1]
        assert (listed["name"], listed["valid"]["en"]) == ("exports_7d", "exact back to the first event")
        milder = CARD.replace("[0, 0]", "[0, 80]").replace("scorecard: exports", "scorecard: milder")
        answer = await service.post("/api/v1/scorecards/what-if", {"scorecard": milder})
        assert [item["band_after"] for item in answer.json()["items"]] == ["green"]
