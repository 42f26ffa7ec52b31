"""The relay runs where there is something to relay, and says what is missing where there is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.roles import _relay, _sources, role_processes
from service.settings import EX_CONFIG, Settings


def test_it_is_started_only_when_topics_are_listed() -> None:
    assert "relay" not in [process.role for process in role_processes()]
    chosen = role_processes(relay=True)
    assert [process.role for process in chosen] == ["api", "relay", "consumer", "evaluator", "sender"]
    assert "relay=http://" in chosen[0].environment["KIZASHI_METRICS_PEERS"]


async def test_an_events_topic_is_not_relayed_into_itself(tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text("topics: [{topic: a, source: s}, {topic: own, source: s}]")
    settings = Settings(rules_dir=tmp_path, events_topics=["own"])
    assert await _relay(settings, asyncio.Event()) == EX_CONFIG
    assert _sources(settings) is None
    assert _sources(Settings(rules_dir=tmp_path, events_topics=["other"])) is not None


@pytest.mark.parametrize("text", ["topics: []", "topics: [{topic: a}]", None])
async def test_alone_it_ends_in_words_without_topics(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "sources.yaml").write_text(text)
    settings = Settings(rules_dir=tmp_path)
    assert await _relay(settings, asyncio.Event()) == EX_CONFIG
    assert (_sources(settings) is None) == (text == "topics: [{topic: a}]")
