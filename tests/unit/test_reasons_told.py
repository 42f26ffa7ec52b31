"""Why a transition happened, from the machine's data to the reader's language: no half of a sentence stays English."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from alerts.episodes import Change, Episode, Observation, Policy, acknowledge, advance, snooze
from service.board import lines, measures
from service.board.words import Words
from service.queries import Transition

EN, JA = Words("en"), Words("ja")
DAY = timedelta(days=1)
START = datetime(2026, 3, 2, 9, tzinfo=UTC)
BEHIND: dict[str, Any] = {"signals": {"days_since_login": 14.0, "plan": None}}
HOLDS = Observation(
    holds=True, reason="days_since_login = 14, plan = unknown", data=BEHIND, severity="warning", since=START
)
OVER = replace(HOLDS, holds=False, since=None)
POLICY = Policy(renotify=3 * DAY, cooldown=7 * DAY)


def step(episode: Episode | None, seen: Observation, now: datetime) -> Change:
    change = advance("no-login", "acme", episode, seen, POLICY, now)
    assert change is not None
    return change


OPEN = step(None, HOLDS, START).episode
ASLEEP = snooze(OPEN, "board:aiko", "", START + 2 * DAY, START + DAY).episode

STORIES: dict[str, tuple[Change, str, str]] = {
    "opened": (step(None, HOLDS, START), "", ""),
    "pre-existing": (
        step(None, replace(HOLDS, live_from=START + DAY), START + DAY),
        "Began before Mar 3, 2026", "2026/03/03 9:00:00 UTCより前から該当",
    ),
    "reminded": (
        step(OPEN, HOLDS, START + 3 * DAY), "Not acknowledged since Mar 2, 2026", "2026/03/02 9:00:00 UTCから未確認",
    ),
    "awake": (
        step(ASLEEP, HOLDS, START + 2 * DAY),
        "The snooze ended and it still holds", "スヌーズが終了しましたが、まだ該当しています",
    ),
    "worse": (step(OPEN, replace(HOLDS, severity="critical"), START + DAY), "Warning → Critical", "警告 → 重大"),
    "withdrawn": (
        step(OPEN, replace(OVER, disproved=True), START + DAY),
        "An event that arrived late shows that it was not so",
        "遅れて届いたイベントにより、該当していなかったことがわかりました",
    ),
    "again": (
        step(step(OPEN, OVER, START + DAY).episode, HOLDS, START + 2 * DAY),
        "Within 7 days of Mar 3, 2026", "2026/03/03から7日以内に再び該当",
    ),
    "over": (step(OPEN, OVER, START + DAY), "", ""),
}  # fmt: skip


def told(change: Change, words: Words) -> str:
    assert change.transition is not None
    made = change.transition
    row = Transition(
        transition_id=1, kind=made.kind, at=made.at, reason=made.reason, actor=made.actor, data=made.data
    )  # fmt: skip
    return lines.step(row, {"en": "No login.", "ja": "ログインがありません。"}, words).reason


@pytest.mark.parametrize("story", STORIES)
def test_a_transition_reads_in_the_readers_language(story: str) -> None:
    change, english, japanese = STORIES[story]
    assert told(change, EN).replace("\u202f", " ").startswith(english)
    assert told(change, EN).endswith("Days since login: 14 days, Plan: unknown")
    spoken = told(change, JA)
    assert spoken.startswith(japanese)
    assert spoken.endswith("ログインからの日数: 14日, プラン: 不明")
    assert set(re.findall("[A-Za-z]+", spoken)) <= {"UTC"}


@pytest.mark.parametrize(
    ("data", "japanese"),
    [
        ({"code": "account_gone", "status": "ended"}, "顧客の状態: 契約終了"),
        ({"code": "rule_gone"}, "ルールが停止または削除されました"),
        ({"code": "began_anew", "at": "2026-03-02T09:00:00+00:00"}, "2026/03/02 9:00:00 UTCから改めて該当"),
    ],
)
def test_what_the_evaluator_alone_knows(data: dict[str, Any], japanese: str) -> None:
    assert told(step(OPEN, replace(OVER, reason="the account is ended", data=data), START + DAY), JA) == japanese


def test_without_data_or_with_those_of_a_newer_release_the_reason_stands() -> None:
    assert told(step(OPEN, replace(OVER, data={}), START + DAY), JA) == OVER.reason
    assert told(step(OPEN, replace(OVER, data={"code": "else"}), START + DAY), JA) == OVER.reason
    assert told(acknowledge(OPEN, "board:aiko", "called them", START + DAY), JA) == "called them"


def test_groups_of_the_scorecard_are_translated() -> None:
    line = {"measure": "x", "group": "Adoption", "weight": 0.1, "contribution": -1.0, "reason": {"en": "x", "ja": "x"}}
    for group, shown in (("Adoption", "活用"), ("Open", "Open")):
        why = measures.why([{**line, "group": group}], 50.0, JA)
        assert why is not None
        assert why.lines[0].group == shown
