"""What all accounts say together, learnt from a real Postgres once a day."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from health import facts, fleet
from health.rhythm import DEFAULT_BASE_RATE, SHIPPED
from health.tables import account_months, accounts, fleets, record_events

NOW = datetime(2025, 6, 18, 14, 30, tzinfo=UTC)
YESTERDAY = date(2025, 6, 17)
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


async def fill(conn: AsyncConnection, count: int, step: int, *, leaving: int = 0) -> None:
    """Accounts that began half a year ago and are active every ``step`` days, not all on the same; some have left."""
    zeros = [0] * 31
    for n in range(count):
        name = f"{step}-{n:04d}"
        row = {"account_id": name, "started_at": BEGAN, "first_event_at": BEGAN, "changed_at": NOW}
        await conn.execute(insert(accounts).values(row))
        masks: dict[date, int] = {}
        for offset in range(n % step, 168, step):
            day = (BEGAN + timedelta(days=offset)).date()
            masks[day.replace(day=1)] = masks.get(day.replace(day=1), 0) | 1 << (day.day - 1)
        months = [{"account_id": name, "month": month, "logins": zeros, "events": zeros, "active_days": mask}
                  for month, mask in masks.items()]  # fmt: skip
        await conn.execute(insert(account_months), months)
        if n < leaving:
            row = {"account_id": name, "kind": "subscription", "record_id": "main", "at": NOW - timedelta(days=30),
                   "event_key": f"t:{name}", "data": {"change": "ended"}, "known_at": NOW}  # fmt: skip
            await conn.execute(insert(record_events).values(row))


async def test_it_learns_once_a_day_and_keeps_what_it_learnt(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 20, 3)
        learnt = await fleet.current(conn, NOW)
        assert learnt.mean_pause == pytest.approx(3, abs=0.2)
        assert learnt.base_rate == DEFAULT_BASE_RATE, "no cancellation was ever recorded"
        await fill(conn, 20, 10)
        same = await fleet.current(conn, NOW + timedelta(hours=9))
        assert same.mean_pause == learnt.mean_pause
        other = await fleet.current(conn, NOW + timedelta(hours=10))
        assert other.mean_pause > learnt.mean_pause + 1
        assert await conn.scalar(select(func.count()).select_from(fleets)) == 2
    np.testing.assert_allclose(fleet.of_json(fleet.as_json(other)).tails, other.tails, atol=1e-5)


async def test_recorded_cancellations_move_the_base_rate(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 300, 7, leaving=120)
        learnt = await fleet.learn(conn, YESTERDAY)
    periods = 300 * 168 / 28
    assert learnt.base_rate == pytest.approx((120 + 200 * DEFAULT_BASE_RATE) / (periods + 200), rel=0.01)


async def test_an_empty_house_has_the_shipped_fleet(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        found = await fleet.current(conn, NOW)
    assert found.mean_pause == SHIPPED.mean_pause
    np.testing.assert_allclose(found.tails, SHIPPED.tails, atol=1e-5)


async def test_two_evaluators_at_midnight_agree(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await fill(conn, 5, 2)

    async def ask() -> float:
        async with engine.begin() as conn:
            return (await fleet.current(conn, NOW)).intercept

    first, second = await asyncio.gather(ask(), ask())
    assert first == second


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
