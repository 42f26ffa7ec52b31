"""Parents: what is below them makes their score and names the worst; nothing loops, nothing is lost."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from health import overrides
from health.hierarchy import DEPTH
from health.tables import health, touched
from tests.world import RULES, World


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


async def test_a_child_that_moves_or_leaves_is_taken_from_the_one_and_given_to_the_other(world: World) -> None:
    await child(world, "north", "old", 900)
    await child(world, "south", "old", 100)
    await score(world, "north", 90)
    await score(world, "south", 50)
    await child(world, "south", "new", 100)
    old, new = await row_of(world, "old"), await row_of(world, "new")
    assert (old.rollup["children"], old.score) == (1, 90.0)
    assert (new.rollup["children"], new.score) == (1, 50.0)
    await world.event("subscription", "south", change="ended")
    new = await row_of(world, "new")
    assert (new.rollup["children"], new.rollup["score"], new.rollup["mrr"]) == (0, None, None)
    await child(world, "south", None)
    assert (await row_of(world, "new")).status == "ended", "nobody knows of it any more"
    await child(world, "north", "new", 900)
    assert (await row_of(world, "new")).status == "active"
    assert (await row_of(world, "old")).status == "ended"


async def test_what_is_below_goes_up_level_by_level(world: World) -> None:
    await child(world, "leaf", "middle", 100)
    await world.event("group", "middle", traits={"parent_account_id": "top", "name": "Middle"})
    await child(world, "other", "top", 300)
    await score(world, "other", 100)
    await score(world, "leaf", 20)
    middle, top = await row_of(world, "middle"), await row_of(world, "top")
    assert (middle.score, middle.rollup["red"]) == (20.0, 1)
    assert (top.rollup["score"], top.rollup["children"], top.rollup["red"]) == (80.0, 2, 1)
    assert top.rollup["worst"]["account_id"] == "leaf" and top.score == 69.9


async def evaluations(world: World) -> int:
    """How many accounts are looked at until nothing is left to do; fails when that does not end."""
    total = 0
    for _ in range(50):
        worked = await world.evaluator.step()
        total += worked
        if not worked:
            return total
    raise AssertionError("the evaluations do not end")


async def test_a_circle_of_parents_is_told_counts_for_nothing_and_ends(world: World) -> None:
    await child(world, "a", "b")
    await child(world, "b", "c")
    await child(world, "c", "a")
    await child(world, "d", "a", 50)
    await score(world, "d", 60)
    assert await evaluations(world) == 0
    for account in "abc":
        assert (await row_of(world, account)).parent_problem == "cycle"
    row = await row_of(world, "a")
    assert (row.rollup["children"], row.rollup["score"]) == (1, 60.0), "only who stands outside of it counts"
    await score(world, "b", 10)
    assert (await row_of(world, "a")).rollup["score"] == 60.0
    await child(world, "b", None)
    assert [(await row_of(world, account)).parent_problem for account in "abc"] == [None, None, None]
    assert (await row_of(world, "b")).rollup["children"] == 2, "c and d; a only holds them"
    assert await evaluations(world) == 0


async def test_an_account_that_names_itself_has_no_parent(world: World) -> None:
    await child(world, "own", "own")
    row = await row_of(world, "own")
    assert (row.parent_id, row.parent_problem, row.rollup) == ("own", "itself", None)


async def test_a_tree_is_followed_so_deep_and_no_deeper(world: World) -> None:
    for level in range(DEPTH + 2):
        await child(world, f"n{level + 1:02d}", f"n{level:02d}")
    assert (await row_of(world, f"n{DEPTH:02d}")).parent_problem is None
    assert (await row_of(world, f"n{DEPTH + 1:02d}")).parent_problem == "too_deep"
    assert await evaluations(world) == 0


async def test_a_parent_is_only_touched_by_what_is_new(world: World) -> None:
    await child(world, "north", "group")
    await score(world, "north", 60)
    before = (await row_of(world, "group")).evaluated_at
    world.now += timedelta(hours=1)
    await world.event("login", "north", user_id="u")
    assert (await row_of(world, "north")).evaluated_at == world.now
    assert (await row_of(world, "group")).evaluated_at == before
    await child(world, "north", "group", name="The North")
    row = await row_of(world, "group")
    assert row.evaluated_at == world.now and row.rollup["worst"]["name"] == "The North"


async def test_a_thousand_children_cost_a_parent_a_few_evaluations(world: World) -> None:
    traits = {"parent_account_id": "group", "mrr": 10, "status": "active"}
    await world.events(*({"kind": "group", "account_id": f"c{n:04d}", "traits": traits} for n in range(1000)))
    assert (await row_of(world, "group")).rollup["children"] == 1000
    async with world.engine.begin() as conn:
        await conn.execute(
            text("UPDATE health SET as_child = as_child || '{\"score\": 41.0}' WHERE parent_id = 'group'")
        )
        await conn.execute(insert(touched).values(account_ids=["group"], created_at=world.now))
    assert await evaluations(world) == 1
    row = await row_of(world, "group")
    assert row.rollup["score"] == 41.0 and len(json.dumps(row.rollup)) < 1000


async def test_several_red_children_are_told_to_the_parents_owner_by_name(world: World) -> None:
    await world.event("group", "holding", traits={"name": "Holding", "owner": "mina"})
    for name in ("north", "south", "west"):
        await child(world, name, "holding", 500)
    await score(world, "north", 20)
    assert await world.open("holding") == {}, "one of them is told by its own alert"
    await score(world, "south", 30)
    alert = (await world.open("holding"))["children-red"]
    assert alert.reason["en"] == "2 of 3 accounts below are red. The worst is North (north), with a score of 20."
    assert "North (north)" in alert.reason["ja"]
    assert ("holding", "mina@example.com") in {(told.account, told.target) for told in await world.told("children-red")}


async def test_another_scorecard_of_children_does_not_page_their_parents(engine: AsyncEngine, tmp_path: Path) -> None:
    """The parent is looked at before its children in the same page, and again once they have told it."""
    rules = tmp_path / "rules"
    shutil.copytree(RULES, rules)
    world = await World(engine, rules).start()
    await world.event("group", "holding", traits={"name": "Holding", "owner": "mina"})
    for name in ("north", "south", "west"):
        await child(world, name, "holding", 500)
        await score(world, name, 60)
    card = rules / "scorecards" / "default.yaml"
    card.write_text(card.read_text("utf-8").replace("{green: 70, yellow: 40,", "{green: 99, yellow: 98,"), "utf-8")
    world.now += timedelta(minutes=1)
    await world.evaluate()
    assert (await row_of(world, "holding")).rollup["red"] == 3
    assert (await world.open("holding"))["children-red"].pre_existing
    assert await world.told("children-red") == []
    world.now += timedelta(days=1)
    for name in ("north", "south", "west"):
        await score(world, name, 99)
    assert await world.open("holding") == {}
    world.now += timedelta(days=20)
    for name in ("north", "south"):
        await score(world, name, 20)
    assert await world.told("children-red"), "what does happen is told as ever"


async def test_another_scorecard_reaches_who_is_only_known_as_a_parent(engine: AsyncEngine, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(RULES, rules)
    world = await World(engine, rules).start()
    await child(world, "north", "group")
    await score(world, "north", 60)
    assert (await row_of(world, "group")).band == "yellow"
    card = rules / "scorecards" / "parents.yaml"
    card.write_text(card.read_text("utf-8").replace("green: 70, yellow: 40", "green: 80, yellow: 70"), "utf-8")
    world.now += timedelta(minutes=1)
    await world.evaluate()
    row = await row_of(world, "group")
    assert (row.score, row.band, row.evaluated_at) == (60.0, "red", world.now)
