"""What all accounts say together, learnt from a real Postgres once a day."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from health import facts, fleet
from health.rhythm import DEFAULT_BASE_RATE, SHIPPED, Fleet
from health.tables import account_history, account_months, accounts, fleets

NOW = datetime(2025, 6, 18, 14, 30, tzinfo=UTC)
YESTERDAY = date(2025, 6, 17)
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


async def fill(conn: AsyncConnection, count: int, step: int, *, leaving: int = 0) -> None:
    """Accounts that began half a year ago and are active every ``step`` days, not all on the same; some have left."""
    zeros = [0] * 31
    for n in range(count):
        name = f"{step}-{n:04d}"
        row = {"account_id": name, "started_at": BEGAN, "first_event_at": BEGAN, "last_activity_at": NOW,
               "changed_at": NOW}  # fmt: skip
        await conn.execute(insert(accounts).values(row))
        masks: dict[date, int] = {}
        for offset in range(n % step, 168, step):
            day = (BEGAN + timedelta(days=offset)).date()
            masks[day.replace(day=1)] = masks.get(day.replace(day=1), 0) | 1 << (day.day - 1)
        months = [{"account_id": name, "month": month, "logins": zeros, "events": zeros, "active_days": mask}
                  for month, mask in masks.items()]  # fmt: skip
        await conn.execute(insert(account_months), months)
        if n < leaving:
            for status, at in {"active": BEGAN, "ended": BEGAN + timedelta(days=138)}.items():
                row = {"account_id": name, "attribute": "status", "valid_from": at, "event_key": f"t:{name}:{status}",
                       "value": status, "known_at": NOW}  # fmt: skip
                await conn.execute(insert(account_history).values(row))


async def current(engine: AsyncEngine, now: datetime = NOW) -> Fleet:
    """As an evaluator has it: closed if need be, then read."""
    await fleet.close_day(engine, now)
    async with engine.connect() as conn:
        return await fleet.of_day(conn, now.date() - timedelta(days=1))


async def test_it_learns_once_a_day_and_keeps_what_it_learnt(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 20, 3)
    assert await fleet.close_day(engine, NOW)
    learnt = await current(engine)
    assert learnt.mean_pause == pytest.approx(3, abs=0.2)
    assert learnt.base_rate == DEFAULT_BASE_RATE, "no cancellation was ever recorded"
    async with engine.begin() as conn:
        await fill(conn, 15, 10)
    assert not await fleet.close_day(engine, NOW + timedelta(hours=9)), "the day is closed"
    assert (await current(engine, NOW + timedelta(hours=9))).mean_pause == learnt.mean_pause
    other = await current(engine, NOW + timedelta(hours=10))
    assert other.mean_pause > learnt.mean_pause + 0.7
    async with engine.begin() as conn:
        assert await conn.scalar(select(func.count()).select_from(fleets)) == 2
        again = await fleet.of_day(conn, YESTERDAY)
    assert again.mean_pause == learnt.mean_pause, "a score of that day can be reproduced"
    np.testing.assert_allclose(fleet.of_json(fleet.as_json(other)).tails, other.tails, atol=1e-5)


async def test_it_is_learnt_anew_while_a_house_is_filled(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 4, 3)
    first = await current(engine)
    async with engine.begin() as conn:
        await fill(conn, 40, 10)
    assert (await current(engine)).mean_pause > first.mean_pause + 2
    assert not await fleet.close_day(engine, NOW)


async def test_recorded_cancellations_move_the_base_rate(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 300, 7, leaving=120)
        learnt = await fleet.read_base_rate(conn, YESTERDAY)
    lived = 300 * 168 - 120 * 30
    assert learnt == pytest.approx((120 + 200 * DEFAULT_BASE_RATE) / (lived / 28 + 200), rel=0.01)


@pytest.mark.parametrize("page", [2, 7, 20_000])
async def test_who_left_and_who_merely_was_no_customer(
    engine: AsyncEngine, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a year of 168 days, counted up to the end of yesterday; no time was lived on trial, paused, away."""
    monkeypatch.setattr(fleet, "COUNTED_ACCOUNTS", page)
    stays = [(0, "active")]
    lives = {
        "stays": (stays, 0, 168),
        "left": ([(0, "active"), (100, "ended")], 1, 100),
        "told twice": ([(0, "active"), (100, "ended"), (101, "ended")], 1, 100),
        "came back": ([(0, "active"), (50, "ended"), (80, "active")], 1, 138),
        "left and left again": ([(0, "active"), (50, "ended"), (80, "active"), (120, "ended")], 2, 90),
        "a trial that became nothing": ([(0, "trial"), (30, "ended")], 0, 0),
        "a trial that became a customer": ([(0, "trial"), (30, "active")], 0, 138),
        "paused": ([(0, "active"), (60, "paused"), (90, "active")], 0, 138),
        "left from a pause": ([(0, "active"), (60, "paused"), (90, "ended")], 1, 60),
        "leaves tomorrow": ([(0, "active"), (169, "ended")], 0, 168),
        "unsaid, seen": ([], 0, 168),
        "unsaid, lost": ([], 0, 10 + fleet.UNSAID_DAYS),
    }
    async with engine.begin() as conn:
        for name, (statuses, _, _) in lives.items():
            seen = BEGAN + timedelta(days=10 if name == "unsaid, lost" else 160)
            row = {"account_id": name, "started_at": BEGAN, "last_activity_at": seen, "changed_at": NOW}
            await conn.execute(insert(accounts).values(row))
            for day, status in statuses:
                row = {"account_id": name, "attribute": "status", "valid_from": BEGAN + timedelta(days=day),
                       "event_key": f"t:{day}", "value": status, "known_at": NOW}  # fmt: skip
                await conn.execute(insert(account_history).values(row))
        rate = await fleet.read_base_rate(conn, YESTERDAY)
    left = sum(times for _, times, _ in lives.values())
    days = sum(days for _, _, days in lives.values())
    assert rate == pytest.approx(fleet.base_rate(left, days), rel=1e-6)


async def test_an_empty_house_has_the_shipped_fleet_and_keeps_none(engine: AsyncEngine) -> None:
    assert not await fleet.close_day(engine, NOW)
    async with engine.begin() as conn:
        assert await fleet.of_day(conn, YESTERDAY) is SHIPPED
        assert await fleet.newest(conn, NOW) is None


async def test_two_evaluators_at_midnight_agree(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 5, 2)
    closed = await asyncio.gather(fleet.close_day(engine, NOW), fleet.close_day(engine, NOW))
    assert sorted(closed) == [False, True], "one of them learns; the other does not wait for it"


async def test_evaluations_go_on_with_the_fleet_before_while_a_day_is_closed(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 5, 2)
    await fleet.close_day(engine, NOW - timedelta(days=1))
    async with engine.connect() as other:
        await other.execute(select(func.pg_advisory_lock(fleet.CLOSING_LOCK)))
        assert not await fleet.close_day(engine, NOW), "somebody is at it"
        async with engine.connect() as conn:
            kept = await fleet.newest(conn, NOW)
        await other.execute(select(func.pg_advisory_unlock(fleet.CLOSING_LOCK)))
    assert kept is not None
    assert kept.day == YESTERDAY - timedelta(days=1)
    assert await fleet.close_day(engine, NOW)


async def test_pages_are_of_no_consequence(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine.begin() as conn:
        await fill(conn, 9, 3, leaving=2)
        await fill(conn, 8, 10)
        whole = await fleet.read(conn, YESTERDAY)
        monkeypatch.setattr(fleet, "PAGE_ACCOUNTS", 4)
        paged = await fleet.read(conn, YESTERDAY)
        assert whole is not None
        assert paged is not None
        learnt = paged.learn()
    monkeypatch.undo()
    expected = whole.learn()
    np.testing.assert_allclose(learnt.tails, expected.tails)
    np.testing.assert_allclose(learnt.clock.passed, expected.clock.passed)
    assert learnt.intercept == pytest.approx(expected.intercept, abs=1e-6)


async def test_days_of_activity_come_back_as_they_were_stored(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 2, 10)
        read = await facts.read(conn, ["10-0001", "nobody", "10-0000"], now=NOW, fleet=SHIPPED)
        without = await facts.read(conn, ["10-0001"], now=NOW)
    first = (date(2025, 1, 1) - date(1970, 1, 1)).days
    expected = [*range(first + 1, first + 168, 10), *range(first, first + 168, 10)]
    assert read.active_days.day.tolist() == expected
    assert sorted(set(read.active_days.account.tolist())) == [0, 2]
    assert not len(without.active_days.day)
