"""Any past day is explained as it was evaluated on it, and what differs has a cause that is named."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from health import overrides, scorecards
from health.explaining import Explained
from health.scorecards import Scorecards
from health.tables import score_history
from service.cards import InForce, of_text, running
from service.explaining import DayToCome, Moment, explain
from service.queries import Stream
from tests.world import DAY_0, GROUP, RULES, TOPIC, World

STREAM = Stream(group=GROUP, topics=(TOPIC,))
STRICT = (RULES / "scorecards" / "default.yaml").read_text(encoding="utf-8").replace("limit: 40", "limit: 20")


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


async def told(
    world: World, on: date | None, account: str = "acme", *, other: Scorecards | None = None,
    in_force: InForce | None = None,
) -> Explained:  # fmt: skip
    async with world.engine.connect() as conn:
        found = await explain(
            conn, account, Moment.of(on, world.now), in_force or running(RULES), other=other, stream=STREAM
        )
    assert found is not None
    if found.now.score is not None:
        assert round(sum(line["contribution"] for line in found.now.contributions), 1) == found.now.score
    return found


async def recorded(world: World, account: str = "acme") -> dict[date, Any]:
    async with world.engine.connect() as conn:
        rows = await conn.execute(select(score_history).where(score_history.c.account_id == account))
        return {row.day: row for row in rows}


async def live_through(world: World, days: int) -> dict[date, Any]:
    """Most kinds of event, on the days where they happen; the clock stops at each step as the service would. Returns
    the lists' row as each UTC day ended.
    """
    rows: dict[date, Any] = {}
    plan: Mapping[int, list[Mapping[str, Any]]] = {
        0: [{"kind": "group", "traits": {"plan": "pro", "mrr": 900, "currency": "EUR", "seats": 4, "status": "trial"}},
            {"kind": "goal", "goal_id": "g", "name": "faster", "status": "set", "due_on": "2026-03-09"}],
        1: [{"kind": "ticket", "ticket_id": "t1", "status": "open"}],
        2: [{"kind": "survey", "survey_id": "s1", "survey": "nps", "score": 9, "user_id": "u1"}],
        3: [{"kind": "ticket", "ticket_id": "t1", "status": "solved"},
            {"kind": "subscription", "subscription_id": "s", "change": "started", "mrr": 1200, "seats": 8,
             "effective_on": "2026-03-07"}],
        6: [{"kind": "ticket", "ticket_id": "t2", "status": "open"},
            {"kind": "ticket", "ticket_id": "t3", "status": "open"}],
        7: [{"kind": "payment", "payment_id": "p", "status": "failed", "amount": 1200}],
        9: [{"kind": "payment", "payment_id": "p", "status": "paid", "amount": 1200},
            {"kind": "ticket", "ticket_id": "t2", "status": "pending"}],
        11: [{"kind": "survey", "survey_id": "s2", "survey": "nps", "score": 3, "user_id": "u2"},
             {"kind": "goal", "goal_id": "g", "status": "reached"}],
        14: [{"kind": "ticket", "ticket_id": "t2", "status": "solved"},
             {"kind": "contact", "contact": "call", "contact_id": "c1"},
             {"kind": "session", "session": "training", "session_id": "x", "user_id": "u1"}],
    }  # fmt: skip
    for number in range(days):
        for fields in plan.get(number, []):
            await world.event(**fields)
        if number < 10 and number % 7 < 5:
            await world.event("login", user_id=f"u{number % 3}")
            await world.until(number + 0.2)
            await world.event("usage", user_id=f"u{number % 2}", feature=("export", "report")[number % 2], quantity=2)
        await world.until(number + 15 / 24 - 1e-9)
        rows[world.now.date()] = await world.health_of()
        await world.until(number + 1)
    return rows


async def test_each_day_is_explained_as_it_was_evaluated(world: World) -> None:
    rows = await live_through(world, 13)
    days = await recorded(world)
    assert len(rows) == 13 and rows.keys() <= days.keys()
    assert len({row.scorecard for row in rows.values()}) == 2, "a trial, then a customer"
    assert len({row.band for row in rows.values()}) > 1 and len({row.score for row in rows.values()}) > 7
    for on, row in rows.items():
        found = await told(world, on)
        now = found.now
        assert (now.score, now.band, now.scorecard) == (row.score, row.band, row.scorecard), (on, found.lines)
        assert now.contributions == row.contributions, on
        assert (found.mrr, found.status) == (float(row.mrr), row.status)
        assert found.recorded is not None and found.recorded.score == row.score
        assert (found.differences, found.lines, found.by_recorded_card) == ([], [], None)
    await today_is_the_row_of_the_lists(world)
    await a_change_of_card_is_told_apart_from_a_change_of_behaviour(world, days[day(8).date()])


async def today_is_the_row_of_the_lists(world: World) -> None:
    row, found = await world.health_of(), await told(world, None)
    assert (found.now.score, found.now.band, found.now.scorecard) == (row.score, row.band, row.scorecard)
    assert found.now.contributions == row.contributions
    assert (found.day, found.at, found.mrr) == (world.now.date(), world.now, float(row.mrr))
    assert found.not_known == []
    with pytest.raises(DayToCome, match="2026-03-15"):
        await told(world, world.now.date() + timedelta(days=1))


async def a_change_of_card_is_told_apart_from_a_change_of_behaviour(world: World, row: Any) -> None:
    asked = of_text(STRICT, "default.yaml", running(RULES).cards)
    found = await told(world, row.day, other=asked)
    assert found.now.score is not None and found.now.score == 20 < row.score
    assert [each.code for each in found.differences] == ["card"]
    assert found.differences[0].data == {"recorded": row.scorecard, "now": asked.cards[-1].name}
    after = await told(world, row.day, in_force=InForce(cards=asked, custom={}))
    assert "not of behaviour" in after.differences[0].reason["en"]
    assert after.by_recorded_card is not None, "the card of then was kept with its rulebook"
    assert (after.by_recorded_card.score, after.by_recorded_card.band) == (row.score, row.band)


async def test_days_beyond_the_day_arrays_and_before_the_beginning(world: World) -> None:
    await live_through(world, 3)
    days = await recorded(world)
    world.now = day(300)
    found = await told(world, day(1).date())
    assert found.now.score == days[day(1).date()].score
    before = await told(world, date(2025, 1, 1))
    assert (before.now.score, before.recorded, [each.code for each in before.not_known]) == (None, None, ["not_begun"])
    async with world.engine.connect() as conn:
        assert await explain(conn, "nobody", Moment.of(None, world.now), running(RULES), stream=STREAM) is None


async def test_what_came_late_is_the_cause(world: World) -> None:
    await live_through(world, 4)
    await world.event("ticket", at=day(2.5), ticket_id="late", status="open")
    found = await told(world, day(3).date())
    assert found.recorded is not None and found.now.score is not None and found.recorded.score is not None
    assert found.now.score < found.recorded.score
    assert [(each.code, each.data["records"]) for each in found.differences] == [("late", 1)]
    assert found.lines[0].measure == "tickets"
    assert "1 discrete facts" in found.differences[0].reason["en"] and "1件" in found.differences[0].reason["ja"]


async def test_a_score_set_by_hand_stood_on_its_days_alone(world: World) -> None:
    await live_through(world, 5)
    async with world.engine.begin() as conn:
        await overrides.put(conn, "acme", score=5, reason="x", author="key:k", expires_at=day(7.5), now=world.now)
    await world.evaluate()
    await world.until(9)
    scores = [(await told(world, day(number).date())).now.score for number in (4, 5, 6, 7, 8)]
    assert scores[1:3] == [5, 5] and 5 not in (scores[0], scores[3], scores[4])


async def test_attributes_without_a_history_are_named(world: World) -> None:
    await live_through(world, 3)
    await world.event("group", traits={"touch_model": "high", "timezone": "Asia/Tokyo", "plan": "max"})
    found = await told(world, day(1).date())
    assert found.plan == "pro"
    assert {each.code: each.data for each in found.not_known}["attributes"] == {
        "attributes": ["timezone", "touch_model"]
    }


async def test_reading_needs_no_more_than_reading(world: World, engine: AsyncEngine) -> None:
    await live_through(world, 3)
    async with engine.connect() as conn:
        await conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        for on in (None, day(1).date()):
            assert await explain(conn, "acme", Moment.of(on, world.now), running(RULES), stream=STREAM)


def test_all_the_shipped_cards_are_kept_whole() -> None:
    from health.scorecard_file import Card, parse_card

    for path in Path(RULES / "scorecards").glob("*.yaml"):
        card, _ = parse_card(path.read_text(encoding="utf-8"), path.name)
        assert Card.model_validate(card.model_dump(mode="json")) == card
    assert scorecards.load(RULES / "scorecards").name
