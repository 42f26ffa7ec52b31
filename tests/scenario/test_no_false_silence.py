"""Whatever breaks, nobody is called silent whom we did not hear: outages, lags, holidays, clocks."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.company import EIGHT, HOUR, RULE, Company, day
from tests.world import World


async def test_fifteen_days_in_which_the_consumers_stood_still_and_then_read_on(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(2)
    world.observing, company.silent = False, {"app"}
    await company.until(17)
    assert await company.opened() == 0
    assert await company.held() == set(EIGHT)
    company.silent = set()
    await company.resend()
    world.observing = True
    await company.until(18)
    assert await company.states() == []
    assert await company.held() == set()
    assert await company.opened() == 0
    company.silent = {"app"}
    await company.until(34)
    assert await company.opened() == 0, "all of them stopped: that is the source, not the customers"


async def test_fifteen_days_in_which_nothing_was_heard_and_nothing_comes_later(world: World) -> None:
    """The whole service was down; nobody looked, and what was sent is lost."""
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(2)
    world.now = day(17)
    await world.evaluate()
    assert await company.opened() == 0, "the guard looks at the time between before anybody is called silent"
    await company.until(18)
    assert await company.opened() == 0
    assert await company.states() == [("app", "lost")]
    assert await company.held() == set()
    assert [told.kind for told in await world.told("ingestion-held")] == ["opened", "opened", "resolved", "resolved"]


async def test_silence_after_a_lost_gap_is_counted_without_it(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(2)
    world.now = day(17)
    company.by_source = {"app": EIGHT[1:]}
    await company.until(31)
    assert await company.opened() == 0
    await company.until(31.6)
    assert [(told.account, told.kind) for told in await world.told(RULE)] == [("a", "opened"), ("a", "opened")]


async def test_the_door_is_shut_for_fifteen_days_and_the_consumers_see_nothing(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(2)
    company.silent = {"app"}
    await company.until(17)
    assert await company.states() == [("app", "open")]
    assert await company.held() == set(EIGHT)
    assert await company.opened() == 0
    company.silent = set()
    await company.until(18)
    assert await company.states() == [("app", "lost")]
    await company.resend()
    await company.until(18.3)
    assert await company.states() == [("app", "refilled")]
    assert await company.opened() == 0


async def test_one_source_of_three_dies(world: World) -> None:
    by_source = {source: [source + name for name in EIGHT] for source in ("app", "web", "crm")}
    by_source["app"].append("weba")  # one that uses both
    company = await Company(world, by_source).founded()
    await company.until(1)
    company.silent = {"app"}
    company.by_source = {**by_source, "crm": by_source["crm"][1:]}  # crma falls silent by itself
    await company.until(16)
    assert await company.states() == [("app", "open")]
    assert await company.held() == set(by_source["app"])
    assert {told.account for told in await world.told(RULE)} == {"crma"}, "the others are heard as ever"


async def test_consumers_lag_by_an_hour(world: World) -> None:
    company = await Company(world, {"app": [f"a{n}" for n in range(40)]}, every=1).founded()
    await company.until(0.2)
    world.observing, company.silent = False, {"app"}
    for _ in range(6):
        world.now += timedelta(minutes=10)
        await company.send(world.now)
        await world.evaluate()
    assert await company.states() == [], "the consumers are behind, not the source"
    company.silent = set()
    await company.resend()
    world.observing = True
    world.now += timedelta(minutes=2)
    await world.evaluate()
    assert (await company.states(), await company.held(), await company.opened()) == ([], set(), 0)


async def test_a_quiet_night_and_a_weekend_of_a_small_company(world: World) -> None:
    company = await Company(world, {"app": EIGHT}, every=1, office=True).founded()
    await company.until(7)
    assert (await company.states(), await company.held(), await company.opened()) == ([], set(), 0)


async def test_a_holiday_of_a_small_company(world: World) -> None:
    """A Monday on which nobody works looks like an outage: held for that day, and nobody is called silent."""
    company = await Company(world, {"app": EIGHT}, every=1, office=True).founded()
    await company.until(6.5)  # Sunday night
    world.now = day(7.6)
    await world.evaluate()
    assert await company.states() == [("app", "open")]
    await company.until(8.3)
    assert [state for _, state in await company.states()] == ["lost"]
    assert (await company.held(), await company.opened()) == (set(), 0)


async def test_a_clock_that_steps_ahead_and_back(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await world.event("login", "quiet", user_id="u", source="app")
    await company.until(3)
    world.now += 3 * HOUR
    await world.evaluate()
    assert await company.opened() == 0
    world.now -= 3 * HOUR
    await company.until(3.5)
    assert await company.held() == set()
    assert {state for _, state in await company.states()} <= {"refilled"}
    assert await company.opened() == 0
    world.now -= HOUR
    await company.until(14)
    assert await company.opened() == 0
    await company.until(14.5)
    assert {told.account for told in await world.told(RULE)} == {"quiet"}, "and in time"


async def test_a_late_event_withdraws_an_open_alert(world: World) -> None:
    company = await Company(world, {"app": EIGHT[1:]}).founded()
    await world.event("login", "a", user_id="u", source="app")
    await company.until(14.2)
    assert RULE in await world.open("a")
    await world.event("login", "a", user_id="u", source="app", at=day(9))
    assert RULE not in await world.open("a")
    assert [told.kind for told in await world.told(RULE)] == ["opened", "opened", "withdrawn", "withdrawn"]


async def test_a_nightly_delivery_holds_nothing_until_it_is_overdue(engine: AsyncEngine) -> None:
    world = await World(engine, cadences={"crm": timedelta(days=1)}).start()
    company = await Company(world, {"app": ["x", "y", "z"]}).founded()
    await world.event("login", "a", user_id="u", source="crm")
    await company.until(1)
    await world.event("login", "b", user_id="u", source="crm", at=day(0.9))
    await company.until(2.1)
    assert (await company.states(), await company.held()) == ([], set())
    await company.until(2.5)
    assert await company.states() == [("crm", "open")]
    assert await company.held() == {"a", "b"}
    await world.event("login", "b", user_id="u", source="crm", at=day(2.3))
    await company.until(2.75)
    assert await company.held() == set()


async def test_what_a_delivery_has_not_brought_yet_is_no_silence(engine: AsyncEngine) -> None:
    world = await World(engine, cadences={"crm": timedelta(days=1)}).start()
    await world.event("login", "a", user_id="u", source="crm")
    for number in range(1, 15):
        world.now = day(number - 0.3)
        await world.evaluate()
        await world.event("login", "b", user_id="u", source="crm", at=day(number - 0.5))
    world.now = day(14.1)
    await world.evaluate()
    assert await world.told(RULE) == [], "the newest delivery tells of day 13.5"
    world.now = day(14.7)
    await world.event("login", "b", user_id="u", source="crm", at=day(14.5))
    world.now += timedelta(minutes=6)
    await world.evaluate()
    assert {told.account for told in await world.told(RULE)} == {"a"}


async def test_operations_are_told_once_and_when_it_is_over(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(2)
    world.observing = False
    for _ in range(10):
        world.now += timedelta(minutes=5)
        await world.evaluate()
    told = await world.told("ingestion-held")
    assert [(one.kind, one.channel) for one in told] == [("opened", "email"), ("opened", "slack")]
    world.observing = True
    for _ in range(7):
        world.now += timedelta(minutes=1)
        await world.evaluate()
    assert [one.kind for one in await world.told("ingestion-held")][2:] == ["resolved", "resolved"]


async def test_a_short_hold_wakes_nobody(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(2)
    world.observing = False
    world.now += timedelta(minutes=10)
    await world.evaluate()
    world.observing = True
    world.now += timedelta(minutes=1)
    await world.evaluate()
    assert await world.told("ingestion-held") == []
