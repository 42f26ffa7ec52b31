"""What is done after an attempt, and why."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from alerts.channels.base import SendResult
from alerts.channels.http import parse_retry_after
from alerts.delivery import paced
from alerts.outbox import Cancellation, Said, unsaid
from alerts.retry import GIVE_UP_AFTER, JITTER, MAX_RETRY_AFTER, RETRY_DELAYS, Decision, decide_retry
from tests.messages import NOW

FAILED = SendResult(outcome="retry", detail="500", status_code=500)
SENT = SendResult(outcome="sent", detail="ok", status_code=200)


def decide(attempt: int, result: SendResult, age: timedelta = timedelta(0), seed: int = 1) -> Decision:
    return decide_retry(attempt, result, NOW, created_at=NOW - age, rng=random.Random(seed))


def test_success_and_refusal_are_final() -> None:
    assert decide(1, SENT).status == "sent"
    refused = decide(1, SendResult(outcome="permanent", detail="404", status_code=404))
    assert (refused.status, refused.reason, refused.hold_until) == ("dead", "404", None)


@pytest.mark.parametrize("attempt", range(1, len(RETRY_DELAYS)))
def test_the_wait_follows_the_schedule_with_a_little_jitter(attempt: int) -> None:
    waits = set()
    for seed in range(20):
        decision = decide(attempt, FAILED, seed=seed)
        assert decision.status == "pending"
        assert decision.retry_at is not None
        waits.add(decision.retry_at - NOW)
        expected = RETRY_DELAYS[attempt]
        assert (1 - JITTER) * expected <= decision.retry_at - NOW <= (1 + JITTER) * expected
    assert len(waits) > 1


def test_the_whole_schedule_takes_about_three_days() -> None:
    total = sum(RETRY_DELAYS, timedelta(0))
    assert timedelta(days=3) < total < timedelta(days=3.5)
    assert total * (1 - JITTER) > GIVE_UP_AFTER


def test_only_the_end_of_the_schedule_and_age_together_are_death() -> None:
    last = len(RETRY_DELAYS)
    assert decide(last, FAILED, age=GIVE_UP_AFTER).status == "dead"
    assert decide(last, FAILED, age=timedelta(minutes=5)).status == "pending"  # a burst of 429
    assert decide(1, FAILED, age=timedelta(days=9)).status == "pending"  # nobody was there to send it


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (timedelta(seconds=30), timedelta(seconds=30)),
        (timedelta(0), timedelta(seconds=1)),
        (timedelta(days=365), MAX_RETRY_AFTER),
    ],
)
def test_a_receiver_may_ask_for_a_pause_of_the_whole_target(asked: timedelta, granted: timedelta) -> None:
    decision = decide(1, replace(FAILED, status_code=429, retry_after=asked))
    assert decision.retry_at == decision.hold_until == NOW + granted
    assert "asks for a pause" in decision.hold_reason


def test_gone_lets_the_target_rest_for_a_day() -> None:
    decision = decide(1, SendResult(outcome="permanent", detail="410", status_code=410, disabled=True))
    assert decision.status == "dead"
    assert decision.hold_until == NOW + timedelta(days=1)


def test_pace_is_the_least_pause_and_shortens_none() -> None:
    second = timedelta(seconds=1)
    assert paced(decide(1, SENT), second, NOW).hold_until == NOW + second
    assert paced(decide(1, SENT), timedelta(0), NOW).hold_until is None
    longer = decide(1, replace(FAILED, retry_after=timedelta(minutes=1)))
    assert paced(longer, second, NOW) == longer


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None), ("30", 30), ("0", 0), ("soon", None), ("-5", None), ("9" * 400, 10**8),
        ("Mon, 02 Mar 2026 09:31:00 GMT", 60), ("Mon, 02 Mar 2026 09:00:00 GMT", 0), ("Mon, 99 Foo", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: int | None) -> None:
    found = parse_retry_after(value, datetime(2026, 3, 2, 9, 30, tzinfo=UTC))
    assert found == (None if expected is None else timedelta(seconds=expected))


def said(number: int, kind: str, status: str, *, heard: bool = False, target: str = "team") -> Said:
    return Said(
        delivery_id=UUID(int=number), channel="slack", target=target, transition_id=number, kind=kind, status=status,
        perhaps_heard=heard,
    )  # fmt: skip


def cancelled(*rows: Said) -> list[int]:
    return [one.delivery_id.int for one in unsaid(rows)]


def test_what_was_never_said_need_not_be_taken_back() -> None:
    opened, resolved = said(1, "opened", "pending"), said(2, "resolved", "pending")
    assert unsaid([resolved, opened]) == [
        Cancellation(delivery_id=UUID(int=1), reason="the episode was resolved before this was sent"),
        Cancellation(
            delivery_id=UUID(int=2), reason="nobody was told that it opened: nothing to take back", after=(UUID(int=1),)
        ),
    ]


def test_what_was_or_may_have_been_heard_is_taken_back() -> None:
    resolved = said(3, "resolved", "pending")
    assert cancelled(said(1, "opened", "sent", heard=True), resolved) == []
    assert cancelled(said(1, "opened", "leased", heard=True), resolved) == []
    assert cancelled(said(1, "opened", "pending", heard=True), resolved) == []
    assert cancelled(said(1, "opened", "dead", heard=True), resolved) == []
    assert cancelled(said(1, "opened", "dead"), resolved) == [3]
    assert cancelled(said(1, "opened", "sent", heard=True), said(2, "renotified", "pending"), resolved) == [2]


def test_each_target_and_each_stretch_is_judged_by_itself() -> None:
    assert cancelled(
        said(1, "opened", "sent", heard=True, target="a"), said(2, "opened", "pending", target="b"),
        said(3, "resolved", "pending", target="a"), said(4, "resolved", "pending", target="b"),
    ) == [2, 4]  # fmt: skip
    assert cancelled(
        said(1, "opened", "sent", heard=True), said(2, "resolved", "sent", heard=True),
        said(3, "reopened", "pending"), said(4, "resolved", "pending"),
    ) == [3, 4]  # fmt: skip
    assert cancelled(said(1, "resolved", "pending")) == []  # its opening went to somebody else
