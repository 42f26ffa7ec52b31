"""Parents: what is below them makes their score and names the worst; nothing loops, nothing is lost."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from health import overrides
from health.tables import health
from tests.world import World


async def row_of(world: World, account: str) -> Any:
    async with world.engine.connect() as conn:
        return (await conn.execute(select(health).where(health.c.account_id == account))).one_or_none()


async def child(world: World, account: str, parent: str | None, mrr: float | None = 100, **traits: Any) -> None:
    traits = {"parent_account_id": parent, "mrr": mrr, "name": account.title(), "currency": "USD", **traits}
    await world.event("group", account, traits=traits)


async def score(world: World, account: str, value: float) -> None:
    """By hand, so that the arithmetic can be followed."""
    async with world.engine.begin() as conn:
        await overrides.put(
            conn, account, score=value, reason="for the test", author="key:t", now=world.now,
            expires_at=world.now.replace(year=2027),
        )  # fmt: skip
    await world.evaluate()


async def test_a_parent_without_events_gets_a_row_a_score_and_the_name_of_its_worst_child(world: World) -> None:
    await child(world, "north", "group", 900)
    await child(world, "south", "group", 100)
    await score(world, "north", 90)
    await score(world, "south", 80)
    row = await row_of(world, "group")
    assert row.rollup["score"] == 89.0 == row.score
    assert (row.rollup["children"], row.rollup["red"], row.rollup["mrr"]) == (2, 0, 1000)
    await score(world, "south", 10)
    row = await row_of(world, "group")
    assert row.rollup["worst"] == {"account_id": "south", "name": "South", "score": 10, "mrr": 100}
    assert row.rollup["score"] == 82.0 and row.score == 69.9, "a red child keeps its parent from being green"
    named = [line for line in row.contributions if "South (south)" in line["reason"]["en"]]
    assert named and all("South (south)" in line["reason"]["ja"] for line in named)
    assert round(sum(line["contribution"] for line in row.contributions), 1) == row.score


async def test_nobody_is_paged_about_an_umbrella_twice(world: World) -> None:
    """Neither that it is silent, nor by its score, which its children make; what was said before it had any ends."""
    await world.event("group", "holding", traits={"name": "Holding", "status": "active"})
    await world.until(20)
    assert "no-login" in await world.open("holding")
    await world.event("login", "north", user_id="u")
    await child(world, "north", "holding")
    assert await world.open("holding") == {}
    await score(world, "north", 5)
    assert "score-low" in await world.open("north")
    assert (await row_of(world, "holding")).band == "red"
    assert await world.open("holding") == {}
