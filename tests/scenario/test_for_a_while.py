"""Rules over the score that must hold for a while (``for``): told once, when it is over, and from its beginning."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from health import overrides
from health.tables import health
from tests.world import DAY_0, RULES, World

RULE = "score-red"


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    shutil.copytree(RULES, tmp_path / "rules")
    edit(tmp_path / "rules" / "churn.yaml", "    when: band = 'red'\n", "    when: band = 'red'\n    for: 3d\n")
    return tmp_path / "rules"


@pytest.fixture
async def world(engine: AsyncEngine, rules: Path) -> World:
    """An account that is well for a day."""
    world = await World(engine, rules).start()
    await world.event("login", user_id="u")
    await score(world, 80)
    await world.until(1)
    return world


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


async def score(world: World, value: float) -> None:
    """By hand, so that nothing else moves it."""
    async with world.engine.begin() as conn:
        await overrides.put(
            conn, "acme", score=value, reason="for the test", author="key:t", now=world.now,
            expires_at=world.now + timedelta(days=60),
        )  # fmt: skip
    await world.evaluate()


async def waiting(engine: AsyncEngine) -> Any:
    async with engine.connect() as conn:
        return await conn.scalar(select(health.c.holding).where(health.c.account_id == "acme"))


async def test_it_opens_when_the_while_is_over_whatever_happens_meanwhile(world: World) -> None:
    await score(world, 20)
    for number in (1.5, 2.0, 2.5, 3.0, 3.9):
        await world.until(number)
        await world.event("login", user_id="u")
        world.boot()
    await world.until(3.99)
    assert RULE not in await world.open()
    await world.until(4.001)
    red = (await world.open())[RULE]
    assert (red.since, red.opened_at, red.pre_existing) == (day(1), day(4), False)
    assert await world.told(RULE)
    assert await waiting(world.engine) is None


async def test_a_while_that_is_interrupted_begins_anew(world: World) -> None:
    await score(world, 20)
    await world.until(3)
    await score(world, 80)
    assert await waiting(world.engine) is None
    await world.until(3.5)
    await score(world, 20)
    await world.until(6.49)
    assert RULE not in await world.open()
    await world.until(6.501)
    assert (await world.open())[RULE].since == day(3.5)
    await score(world, 80)
    await world.until(10)
    assert await world.history(RULE) == [("opened", 6.5), ("resolved", 6.5)]


async def test_what_is_unknown_meanwhile_neither_ends_it_nor_opens_it(engine: AsyncEngine, rules: Path) -> None:
    edit(rules / "churn.yaml", "    when: band = 'red'\n", "    when: band = 'red' AND mrr > 0\n")
    world = await World(engine, rules).start()
    await world.event("group", traits={"mrr": 100, "currency": "EUR"})
    await world.until(1)
    await score(world, 20)
    await world.until(2)
    await world.event("group", traits={"mrr": None})
    await world.until(4.5)
    assert RULE not in await world.open()
    await world.event("group", traits={"mrr": 200})
    assert (await world.open())[RULE].since == day(1)


async def test_what_another_card_made_true_is_not_told_when_the_while_is_over(engine: AsyncEngine, rules: Path) -> None:
    world = await World(engine, rules).start()
    await world.until(5)
    await world.event("login", user_id="u")
    assert (await world.health_of()).band != "red"
    edit(rules / "scorecards" / "default.yaml", "{green: 70, yellow: 40,", "{green: 99.5, yellow: 99,")
    await world.until(5.1)
    assert (await world.health_of()).band == "red"
    assert RULE not in await world.open()
    for number in (6.0, 7.0, 8.2):
        await world.event("login", user_id="u")
        await world.until(number)
    assert (await world.health_of()).band == "red"
    assert (await world.open())[RULE].pre_existing
    assert await world.told(RULE) == []


async def test_a_rule_that_changes_meanwhile_begins_anew_and_quietly(world: World, rules: Path) -> None:
    await score(world, 20)
    await world.until(2)
    edit(rules / "churn.yaml", "    when: band = 'red'\n    for: 3d\n", "    when: band = 'red'\n    for: 4d\n")
    await world.until(3)
    await world.until(6.2)
    assert (await world.open())[RULE].pre_existing
    assert await world.told(RULE) == []
