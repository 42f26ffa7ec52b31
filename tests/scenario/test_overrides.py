"""A score that a person sets: it stands until its end, is told apart from behaviour, and goes as it came."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.erasure import clean_user, erase_account
from health import overrides
from health.overrides import NoSuchAccount, OverrideRefused
from health.tables import health, score_overrides
from tests.world import DAY_0, World


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


async def put(world: World, score: float, until: float, reason: str = "they told us") -> None:
    async with world.engine.begin() as conn:
        await overrides.put(
            conn, "acme", score=score, reason=reason, author="key:mina", expires_at=day(until), now=world.now
        )
    await world.evaluate()


async def test_it_stands_until_it_expires_to_the_second(world: World) -> None:
    await world.event("login", user_id="u")
    computed = (await world.health_of()).score
    await put(world, 12.5, until=0.5)
    row = await world.health_of()
    assert (row.score, row.band) == (12.5, "red")
    assert round(sum(line["contribution"] for line in row.contributions), 1) == 12.5
    line = row.contributions[-1]
    assert line["measure"] == "override"
    assert line["reason"]["en"] == "set to 12.5 by mina until 2026-03-02: they told us"
    assert row.due_at <= day(0.5)
    await world.until(0.49)
    assert (await world.health_of()).score == 12.5
    await world.until(0.501)
    assert (await world.health_of()).score == computed
    assert (await world.health_of()).evaluated_at == day(0.5)


async def test_a_second_takes_the_place_of_the_first_and_all_are_kept(world: World) -> None:
    await world.event("login", user_id="u")
    await put(world, 10, until=5)
    await put(world, 90, until=1)
    assert (await world.health_of()).score == 90
    await world.until(2)
    await put(world, 20, until=3)
    async with world.engine.begin() as conn:
        assert await overrides.clear(conn, "acme", author="board:ken", now=world.now) is not None
        assert await overrides.clear(conn, "acme", author="board:ken", now=world.now) is None
    await world.evaluate()
    assert (await world.health_of()).score > 20
    async with world.engine.connect() as conn:
        rows = (await conn.execute(select(score_overrides).order_by(score_overrides.c.override_id))).all()
    assert [(float(row.score), row.ended_at, row.ended_by) for row in rows] == [
        (10, DAY_0, "key:mina"), (90, day(1), None), (20, day(2), "board:ken"),
    ]  # fmt: skip


async def test_what_cannot_stand_is_refused(world: World) -> None:
    await world.event("login", user_id="u")
    for score, until, reason, field in (
        (100.1, 1, "x", "score"), (float("nan"), 1, "x", "score"), (10.05, 1, "x", "score"),
        (10, 0, "x", "expires_at"), (10, 400, "x", "expires_at"), (10, 1, " ", "reason"), (10, 1, "x" * 501, "reason"),
    ):  # fmt: skip
        with pytest.raises(OverrideRefused) as refused:
            await put(world, score, until, reason)
        assert refused.value.field == field
    async with world.engine.begin() as conn:
        with pytest.raises(NoSuchAccount):
            await overrides.clear(conn, "nobody", author="x", now=world.now)


async def test_a_change_by_hand_is_no_change_of_behaviour(world: World, engine: AsyncEngine) -> None:
    await world.event("login", user_id="u")
    await world.until(9)
    await put(world, 5, until=40)
    assert (await world.health_of()).signals["score_change_28d"] is None
    assert "score-drop" not in await world.open()
    await world.until(30)
    async with engine.connect() as conn:
        first = await conn.scalar(text("SELECT min(day) FROM score_history WHERE score = 5"))
    assert first == day(9).date()


async def test_an_erasure_takes_it_along(world: World) -> None:
    await world.event("login", user_id="u")
    await put(world, 10, until=5, reason="u said so")
    async with world.engine.begin() as conn:
        cleaned: list[str] = []

        async def clean(_: object, table: object, column: str, __: object) -> int:
            cleaned.append(f"{table}.{column}")
            return 0

        await clean_user(conn, ["acme"], clean)
        assert "score_overrides.reason" in cleaned
        assert (await erase_account(conn, "acme"))["score_overrides"] == 1
        assert await conn.scalar(select(health.c.account_id)) is None
