"""Silence where things are not as they should be: renamed sources, outages upon outages, what people say of gaps."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import gaps, source_hours
from health.volume import IMPORTED
from service.gaps import close_gap, open_gap
from tests.company import EIGHT, HOUR, RULE, Company, day, desk
from tests.world import World

MINUTE = timedelta(minutes=1)


async def newest_gap(world: World) -> int:
    async with world.engine.connect() as conn:
        return int((await conn.scalars(select(gaps.c.gap_id).order_by(gaps.c.gap_id.desc()).limit(1))).one())


async def end(world: World, *, state: str, retire: bool = False) -> None:
    number = await newest_gap(world)
    await close_gap(desk(world), number, state=state, until_at=None, retire=retire, actor="mina", now=world.now)  # type: ignore[arg-type]


async def test_a_source_that_moves_to_another_name_is_retired(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(1)
    company.by_source = {"app2": EIGHT[1:]}  # and a falls silent
    await company.until(3)
    assert await company.states() == [("app", "open")]
    await end(world, state="refilled")
    await company.until(3.3)
    assert await company.states() == [("app", "refilled"), ("app", "open")], "silent it is, for all the guard knows"
    await end(world, state="refilled", retire=True)
    await company.until(15.5)
    assert [state for _, state in await company.states()] == ["refilled", "refilled"], "it is not waited for"
    assert await company.held() == set()
    assert {told.account for told in await world.told(RULE)} == {"a"}


async def test_a_retired_source_that_sends_again_is_watched_again(world: World) -> None:
    company = await Company(world, {"app": EIGHT, "web": ["w"]}).founded()
    await company.until(1)
    company.silent = {"app"}
    await company.until(3)
    await end(world, state="lost", retire=True)
    await company.until(4)
    assert await company.states() == [("app", "lost")]
    company.silent, company.unsent = set(), []
    await company.until(6)
    assert await company.states() == [("app", "lost")]
    company.silent = {"app"}
    await company.until(8)
    assert await company.states() == [("app", "lost"), ("app", "open")]


async def test_a_source_that_dies_for_some_accounts_only_is_noted_by_hand(world: World) -> None:
    """Nothing tells it from their silence: but what a person noted, the guard does not take back."""
    company = await Company(world, {"app": EIGHT, "web": ["w"]}).founded()
    await company.until(1)
    company.by_source = {"app": EIGHT[2:], "web": ["w"]}
    note = {"source": "app", "from_at": day(1), "reason": "two tenants are cut off", "actor": "mina"}
    await open_gap(desk(world), **note, until_at=None, now=world.now)  # type: ignore[arg-type]
    await company.until(16)
    assert await company.states() == [("app", "open")]
    assert await company.held() == set(EIGHT)
    await end(world, state="lost")
    await company.until(17)
    assert await company.states() == [("app", "lost")], "as it was marked, though most of it came"
    assert (await company.held(), await company.opened()) == (set(), 0)


async def test_what_was_lost_for_some_only_stays_lost(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(3)
    note = {"source": "app", "from_at": day(1), "until_at": day(2), "reason": "one shard", "actor": "mina"}
    await open_gap(desk(world), **note, now=world.now)  # type: ignore[arg-type]
    await company.until(4)
    assert await company.states() == [("app", "lost")]


async def test_a_gap_closed_by_hand_whose_data_comes_after_all(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(1)
    company.silent = {"app"}
    await company.until(5)
    company.silent = set()
    await company.send(world.now)
    if ("app", "open") in await company.states():
        await end(world, state="lost")
    await company.until(7)
    await company.resend()
    await company.until(7.5)
    assert {state for _, state in await company.states()} == {"refilled"}
    await company.until(20)
    assert await company.opened() == 0


async def test_a_company_with_three_events_a_day(world: World) -> None:
    """Too small for its volume to be judged: its weekends hold nothing, and a silent customer is heard of in time."""
    company = await Company(world, {"app": ["x", "y"]}, every=12, office=True).founded()
    await world.event("login", "a", user_id="u", source="app")
    await company.until(14.1)
    assert await company.states() == []
    assert {told.account for told in await world.told(RULE)} == {"a"}


async def test_two_outages_in_a_row(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    for begin in (1, 12):
        await company.until(begin)
        company.silent = {"app"}
        await company.until(begin + 10)
        assert (await company.states())[-1] == ("app", "open")
        company.silent, company.unsent = set(), []
    await company.until(24)
    assert await company.states() == [("app", "lost"), ("app", "lost")]
    assert (await company.held(), await company.opened()) == (set(), 0)
    company.by_source = {"app": EIGHT[1:]}
    await company.until(39)
    assert {told.account for told in await world.told(RULE)} == {"a"}, "and what follows is heard again"


async def test_an_outage_that_begins_within_another(world: World) -> None:
    """The source dies, then the consumers stand still; they go on first, the source follows."""
    company = await Company(world, {"app": EIGHT, "web": ["w"]}).founded()
    await company.until(1)
    company.silent = {"app"}
    await company.until(4)
    company.silent, world.observing = {"app", "web"}, False
    await company.until(9)
    assert await company.held() == {*EIGHT, "w"}
    company.silent, world.observing = {"app"}, True
    company.unsent = [event for event in company.unsent if event["source"] == "web"]
    await company.resend()
    await company.until(16)
    assert await company.held() == set(EIGHT), "w is heard"
    company.silent = set()
    await company.until(18)
    assert await company.states() == [("app", "lost")]
    assert (await company.held(), await company.opened()) == (set(), 0)


async def test_an_import_amid_a_gap_does_not_end_it(world: World) -> None:
    company = await Company(world, {"app": EIGHT, "web": ["w"]}).founded()
    await company.until(1)
    company.silent = {"app"}
    await company.until(5)
    rows = [
        {"kind": "login", "account_id": name, "user_id": "u", "source": "app", "import_id": "old", "import_row": number,
         "at": day(-30 + number)}
        for number, name in enumerate(EIGHT)
    ]  # fmt: skip
    await world.events(*rows)
    await company.until(16)
    assert await company.states() == [("app", "open")]
    assert (await company.held(), await company.opened()) == (set(EIGHT), 0)


async def test_a_gap_of_which_the_whole_past_was_imported(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(1)
    company.silent = {"app"}
    await company.until(4)
    company.silent, company.unsent = set(), []
    await company.until(5)
    assert await company.states() == [("app", "lost")]
    hours = [{"source": f"app{IMPORTED}", "hour": day(1) + HOUR * n, "events": 8} for n in range(6, 72, 6)]
    async with world.engine.begin() as conn:
        await conn.execute(insert(source_hours), hours)
    await company.until(5.5)
    assert await company.states() == [("app", "refilled")]


@pytest.mark.parametrize("late", [5, 48])
async def test_a_nightly_delivery_that_is_late(engine: AsyncEngine, late: int) -> None:
    world = await World(engine, cadences={"crm": timedelta(days=1)}).start()
    company = await Company(world, {"app": ["x", "y", "z"]}).founded()
    for number in range(3):
        world.now = day(number)
        await world.event("login", "a", user_id="u", source="crm", at=world.now - HOUR)
    world.now = day(3) + late * HOUR
    await world.evaluate()
    if late == 5:
        assert ("crm", "open") not in await company.states()
        assert "a" not in await company.held()
    else:
        assert ("crm", "open") in await company.states()
        assert "a" in await company.held()
        assert (await world.health_of("a")).incomplete_since == day(2) - HOUR, "since its newest event"
    await world.event("login", "a", user_id="u", source="crm", at=world.now - 2 * HOUR)
    world.now += 10 * MINUTE
    await world.evaluate()
    assert "a" not in await company.held()


async def test_two_evaluators_tell_operations_once(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(2)
    second = world.another(lambda: world.now)
    world.observing = False
    for _ in range(60):
        world.now += MINUTE
        await world.evaluate()
        await second.drain()
    assert [one.kind for one in await world.told("ingestion-held")] == ["opened", "opened"], "Slack and e-mail"
    world.observing = True
    for _ in range(8):
        world.now += MINUTE
        await second.drain()
        await world.evaluate()
    assert [one.kind for one in await world.told("ingestion-held")][2:] == ["resolved", "resolved"]


async def test_three_sources_that_die_together_are_one_message(world: World) -> None:
    by_source = {source: [source + name for name in EIGHT] for source in ("app", "web", "crm")}
    company = await Company(world, by_source).founded()
    await company.until(1)
    company.silent = {"app", "web", "crm"}
    await company.until(4)
    assert len(await company.states()) == 3
    assert [one.kind for one in await world.told("ingestion-held")] == ["opened", "opened"]


async def test_consumers_that_never_reported_are_told_of(world: World) -> None:
    world.observing = False
    await world.forget_progress()
    for _ in range(40):
        world.now += MINUTE
        await world.evaluate()
    assert [one.kind for one in await world.told("ingestion-held")] == ["opened", "opened"]
