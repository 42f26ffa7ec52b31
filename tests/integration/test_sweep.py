"""The sweep goes round all accounts in slices: each is looked at within a circle, and one evaluator sweeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import sweeping
from health.tables import accounts, health, sweeps

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def add(conn: AsyncConnection, *names: str, version: int = 1, changed_at: datetime = NOW - 5 * MINUTE) -> None:
    rows = [{"account_id": name, "version": version, "changed_at": changed_at} for name in names]
    await conn.execute(insert(accounts), rows)


async def turn(conn: AsyncConnection, keys: int, most: int = 10) -> sweeping.Swept:
    return await sweeping.take_missed(conn, NOW - MINUTE, keys, most, NOW)


async def test_the_sweep_finds_what_no_door_handed_out(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await add(conn, "missed", version=3)
        await add(conn, "fresh", changed_at=NOW)
        await add(conn, "done", "broken", version=2)
        await conn.execute(
            insert(health),
            [
                {"account_id": "done", "facts_version": 2, "problem": None},
                {"account_id": "broken", "facts_version": 1, "problem": "it fails"},
            ],
        )
        assert await sweeping.take_turn(conn, MINUTE, NOW) == sweeping.SMALLEST_SLICE
        swept = await turn(conn, 100)
    assert (swept.work.account_ids, swept.left) == (["missed"], 0)


async def test_a_circle_of_slices_comes_by_everybody(engine: AsyncEngine) -> None:
    names = [f"account-{n:02}" for n in range(25)]
    async with engine.begin() as conn:
        await add(conn, *names)
        await sweeping.take_turn(conn, MINUTE, NOW)
        found: list[list[str]] = [(await turn(conn, 10)).work.account_ids for _ in range(4)]
    assert [len(part) for part in found] == [10, 10, 5, 10], "the fourth begins again"
    assert [name for part in found[:3] for name in part] == names


async def test_a_slice_with_more_than_fits_into_a_batch_goes_on(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await add(conn, *(f"account-{n}" for n in range(9)))
        await sweeping.take_turn(conn, MINUTE, NOW)
        first = await turn(conn, 9, most=4)
        second = await turn(conn, first.left, most=4)
        third = await turn(conn, second.left, most=4)
    assert [part.work.account_ids for part in (first, second, third)] == [
        [f"account-{n}" for n in numbers] for numbers in (range(4), range(4, 8), range(8, 9))
    ]
    assert third.left == 0


async def test_one_evaluator_a_minute_sweeps(engine: AsyncEngine) -> None:
    async with engine.begin() as first:
        assert await sweeping.take_turn(first, MINUTE, NOW)
    async with engine.begin() as first:
        assert not await sweeping.take_turn(first, MINUTE, NOW + MINUTE / 2), "it was swept half a minute ago"
    async with engine.begin() as other:
        await other.execute(select(sweeps).with_for_update())
        async with engine.begin() as first:
            assert not await sweeping.take_turn(first, MINUTE, NOW + 2 * MINUTE), "another one is at it"
    async with engine.begin() as first:
        assert await sweeping.take_turn(first, MINUTE, NOW + MINUTE)
        assert await sweeping.take_turn(first, MINUTE, NOW - timedelta(hours=1)), "the clock was set back"


@pytest.mark.parametrize(
    ("known", "every", "keys"),
    [(-1, MINUTE, 20_000), (1_000_000, MINUTE, 20_000), (6_000_000, MINUTE, 100_000), (10, timedelta(hours=3), 20_000),
     (90_000, timedelta(hours=3), 90_000)],
)  # fmt: skip
def test_a_circle_takes_an_hour(known: int, every: timedelta, keys: int) -> None:
    assert sweeping.slice_keys(known, every) == keys
