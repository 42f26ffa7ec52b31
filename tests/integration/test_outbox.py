"""The outbox on a real Postgres: what it promises about repetition, order, leases and rest."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts import outbox
from alerts.channels.base import SendResult
from alerts.retry import decide_retry
from alerts.tables import channel_holds, deliveries
from tests.messages import NOW, attempts, delivery, make_view, new_episode, tell

SENT = SendResult(outcome="sent", detail="ok", status_code=200)
REFUSED = SendResult(outcome="permanent", detail="404 channel_not_found", status_code=404)
TIMED_OUT = SendResult(outcome="retry", detail="no answer in time")
TOO_MANY = SendResult(outcome="retry", detail="429", status_code=429, retry_after=timedelta(seconds=30))
SECOND = timedelta(seconds=1)


async def claim(engine: AsyncEngine, now: datetime = NOW, limit: int = 10) -> list[outbox.Claimed]:
    async with engine.begin() as conn:
        return await outbox.claim(conn, now, limit)


async def finish(engine: AsyncEngine, claimed: outbox.Claimed, result: SendResult, now: datetime = NOW) -> bool:
    decision = decide_retry(claimed.attempt, result, now, created_at=claimed.created_at, rng=random.Random(1))
    async with engine.begin() as conn:
        return await outbox.finish(conn, claimed, result, decision, now)


async def test_enqueueing_twice_keeps_one_message(engine: AsyncEngine) -> None:
    episode = await new_episode(engine)
    await tell(engine, episode)
    async with engine.begin() as conn:
        transition = (await conn.execute(select(deliveries.c.transition_id))).scalar_one()
        again = outbox.NewDelivery(
            transition_id=transition, view=make_view(episode_id=episode), channel="webhook", target="webhook",
            language="en", created_at=NOW,
        )  # fmt: skip
        assert await outbox.enqueue(conn, [again]) == 0
        assert await conn.scalar(select(func.count()).select_from(deliveries)) == 1


async def test_claiming_leases_and_records_the_attempt_as_started(engine: AsyncEngine) -> None:
    delivery_id = await tell(engine, await new_episode(engine))
    (claimed,) = await claim(engine)
    assert (claimed.delivery_id, claimed.attempt) == (delivery_id, 1)
    assert claimed.view is not None
    assert claimed.view.account_name == "Acme Robotics"
    assert [(row.attempt, row.outcome) for row in await attempts(engine, delivery_id)] == [(1, "started")]
    assert await claim(engine, NOW + SECOND) == []


async def test_sent_is_final(engine: AsyncEngine) -> None:
    delivery_id = await tell(engine, await new_episode(engine))
    (claimed,) = await claim(engine)
    assert await finish(engine, claimed, SENT, NOW + SECOND)
    row = await delivery(engine, delivery_id)
    assert (row.status, row.sent_at) == ("sent", NOW + SECOND)
    assert await claim(engine, NOW + timedelta(days=30)) == []


async def test_a_killed_sender_costs_at_most_one_repetition_with_the_same_id(engine: AsyncEngine) -> None:
    delivery_id = await tell(engine, await new_episode(engine))
    (lost,) = await claim(engine)  # its sender dies here, perhaps after sending
    later = NOW + outbox.LEASE + SECOND
    (taken_over,) = await claim(engine, later)
    assert (taken_over.delivery_id, taken_over.attempt) == (lost.delivery_id, 2)
    assert await finish(engine, taken_over, SENT, later)
    assert await claim(engine, later + timedelta(days=1)) == []
    assert [row.outcome for row in await attempts(engine, delivery_id)] == ["abandoned", "sent"]


async def test_the_result_of_a_stale_attempt_changes_nothing(engine: AsyncEngine) -> None:
    delivery_id = await tell(engine, await new_episode(engine))
    (stale,) = await claim(engine)
    later = NOW + outbox.LEASE + SECOND
    (current,) = await claim(engine, later)
    assert not await finish(engine, stale, REFUSED, later)
    row = await delivery(engine, delivery_id)
    assert (row.status, row.attempt) == ("leased", 2)
    assert [entry.outcome for entry in await attempts(engine, delivery_id)] == ["abandoned", "started"]
    assert await finish(engine, current, SENT, later)
    assert not await finish(engine, stale, REFUSED, later)
    assert (await delivery(engine, delivery_id)).status == "sent"


async def test_retry_after_lets_the_whole_target_rest_and_no_other(engine: AsyncEngine) -> None:
    for _ in range(2):
        await tell(engine, await new_episode(engine), channel="slack", target="team")
    other = await tell(engine, await new_episode(engine), channel="slack", target="person:yuki")
    first, second = await claim(engine)
    assert {first.target, second.target} == {"team", "person:yuki"}
    team = first if first.target == "team" else second
    await finish(engine, team, TOO_MANY)
    await finish(engine, second if team is first else first, SENT)
    assert await claim(engine, NOW + 29 * SECOND) == []
    assert [again.target for again in await claim(engine, NOW + 31 * SECOND)] == ["team"]
    assert (await delivery(engine, other)).status == "sent"


async def test_one_in_flight_per_target_in_order_also_for_senders_in_parallel(engine: AsyncEngine) -> None:
    ids = [await tell(engine, await new_episode(engine)) for _ in range(4)]
    seen = []
    for turn in range(4):
        found = await asyncio.gather(*(claim(engine, NOW + turn * SECOND) for _ in range(4)))
        (claimed,) = [one for several in found for one in several]
        seen.append(claimed.delivery_id)
        await finish(engine, claimed, SENT, NOW + turn * SECOND)
    assert seen == ids


async def test_parallel_senders_share_the_targets_without_overlap(engine: AsyncEngine) -> None:
    ids = {await tell(engine, await new_episode(engine), channel="email", target=f"{n}@example.com") for n in range(12)}
    found = await asyncio.gather(*(claim(engine, limit=4) for _ in range(4)))
    claimed = [one.delivery_id for several in found for one in several]
    assert len(claimed) == 12
    assert set(claimed) == ids


async def test_a_later_message_of_an_episode_waits_for_the_earlier_one(engine: AsyncEngine) -> None:
    episode = await new_episode(engine)
    opened = await tell(engine, episode)
    (claimed,) = await claim(engine)
    resolved = await tell(engine, episode, kind="resolved", at=NOW + SECOND)
    await finish(engine, claimed, TIMED_OUT, NOW + SECOND)  # perhaps it was heard: both must go out, in order
    assert (await delivery(engine, opened)).status == "pending"
    assert await claim(engine, NOW + 2 * SECOND) == []
    (again,) = await claim(engine, NOW + timedelta(minutes=1))
    assert again.delivery_id == opened
    await finish(engine, again, SENT, NOW + timedelta(minutes=1))
    (closing,) = await claim(engine, NOW + timedelta(minutes=2))
    assert closing.delivery_id == resolved


async def test_an_unsent_opening_and_its_closing_cancel_each_other(engine: AsyncEngine) -> None:
    episode = await new_episode(engine)
    opened = await tell(engine, episode)
    resolved = await tell(engine, episode, kind="resolved", at=NOW + SECOND)
    assert [(await delivery(engine, one)).status for one in (opened, resolved)] == ["cancelled", "cancelled"]
    (why,) = await attempts(engine, opened)
    assert (why.outcome, why.detail) == ("abandoned", "the episode was resolved before this was sent")
    assert await claim(engine, NOW + timedelta(days=1)) == []


async def test_a_refused_opening_takes_its_closing_along(engine: AsyncEngine) -> None:
    episode = await new_episode(engine)
    opened = await tell(engine, episode)
    (claimed,) = await claim(engine)
    withdrawn = await tell(engine, episode, kind="withdrawn", at=NOW + SECOND)
    await finish(engine, claimed, REFUSED, NOW + SECOND)
    assert (await delivery(engine, opened)).status == "dead"
    assert (await delivery(engine, withdrawn)).status == "cancelled"


async def test_a_reminder_not_sent_is_dropped_when_its_episode_closes_but_the_closing_is_told(
    engine: AsyncEngine,
) -> None:
    episode = await new_episode(engine)
    await tell(engine, episode)
    (claimed,) = await claim(engine)
    await finish(engine, claimed, SENT)
    reminder = await tell(engine, episode, kind="renotified", at=NOW + SECOND)
    resolved = await tell(engine, episode, kind="resolved", at=NOW + 2 * SECOND)
    assert (await delivery(engine, reminder)).status == "cancelled"
    assert [one.delivery_id for one in await claim(engine, NOW + 3 * SECOND)] == [resolved]


async def test_a_message_is_dead_after_the_schedule_and_never_before(engine: AsyncEngine) -> None:
    delivery_id = await tell(engine, await new_episode(engine))
    now, tries = NOW, 0
    while (row := await delivery(engine, delivery_id)).status == "pending":
        now = max(now, row.next_attempt_at)
        (claimed,) = await claim(engine, now)
        await finish(engine, claimed, TIMED_OUT, now)
        tries += 1
    assert row.status == "dead"
    assert tries == 10
    assert timedelta(days=2.7) < now - NOW < timedelta(days=3.6)
    assert "given up after 10 attempts" in (await attempts(engine, delivery_id))[-1].detail


async def test_a_longer_rest_is_not_cut_short(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await outbox.hold(conn, "slack", "team", NOW + timedelta(hours=1), "asked for")
        await outbox.hold(conn, "slack", "team", NOW + SECOND, "rate")
        assert await conn.scalar(select(channel_holds.c.until)) == NOW + timedelta(hours=1)


async def test_an_unreadable_message_is_handed_out_without_view(engine: AsyncEngine) -> None:
    delivery_id = await tell(engine, await new_episode(engine))
    async with engine.begin() as conn:
        await conn.execute(update(deliveries).values(message={"kind": "opened"}))
    (claimed,) = await claim(engine)
    assert (claimed.delivery_id, claimed.view) == (delivery_id, None)


def test_ids_are_stable_and_distinct() -> None:
    def new(target: str) -> outbox.NewDelivery:
        return outbox.NewDelivery(
            transition_id=1, view=make_view(), channel="slack", target=target, language="en", created_at=NOW
        )

    assert new("team").delivery_id == new("team").delivery_id
    assert new("team").delivery_id != new("person:team").delivery_id
