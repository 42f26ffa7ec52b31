"""Whatever breaks, nobody is called silent whom we did not hear: outages, lags, holidays and clocks, told as stories.

The sources have a past of eight weeks (office hours, or round the clock), and send on as the days pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import gaps, health, source_hours, sources
from tests.world import DAY_0, World

RULE = "no-login"
HOUR = timedelta(hours=1)
EIGHT = ("a", "b", "c", "d", "e", "f", "g", "h")


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


class Company:
    """A world whose sources send by themselves. ``by_source``: the accounts that log in by each source."""

    def __init__(
        self, world: World, by_source: Mapping[str, Sequence[str]], *, every: int = 6, office: bool = False
    ) -> None:
        """Everybody logs in once in ``every`` hours."""
        self.world, self.by_source, self.office, self.step = world, by_source, office, every * HOUR
        self.silent: set[str] = set()
        """Sources that send nothing: what happens meanwhile is kept in ``unsent``."""
        self.unsent: list[dict[str, object]] = []

    async def founded(self) -> Company:
        rows = [
            {"source": source, "hour": DAY_0 - HOUR * back, "events": len(accounts)}
            for source, accounts in self.by_source.items()
            for back in range(int(self.step / HOUR), 57 * 24, int(self.step / HOUR))
            if self.open_at(DAY_0 - HOUR * back)
        ]
        async with self.world.engine.begin() as conn:
            await conn.execute(insert(source_hours), rows)
            for source in self.by_source:
                times = {"first_event_at": DAY_0 - 57 * 24 * HOUR, "last_event_at": DAY_0 - HOUR}
                await conn.execute(insert(sources).values(source=source, last_live_at=DAY_0 - HOUR, **times))
        await self.send(DAY_0)
        return self

    def open_at(self, hour: datetime) -> bool:
        return not self.office or (hour.weekday() < 5 and 8 <= hour.hour < 18)

    async def send(self, at: datetime) -> None:
        """Everybody logs in once."""
        events = [
            {"kind": "login", "account_id": account, "user_id": "u", "source": source, "at": at}
            for source, accounts in self.by_source.items()
            for account in accounts
        ]
        self.unsent += [event for event in events if event["source"] in self.silent]
        if now := [event for event in events if event["source"] not in self.silent]:
            await self.world.events(*now)

    async def until(self, number: float) -> None:
        """Time passes, with a look at each round of logins."""
        while self.world.now + self.step <= day(number):
            self.world.now += self.step
            if self.open_at(self.world.now):
                await self.send(self.world.now)
            await self.world.evaluate()

    async def resend(self) -> None:
        """What was not sent comes after all, in the order in which it happened."""
        late, self.unsent = self.unsent, []
        for start in range(0, len(late), 500):
            await self.world.events(*late[start : start + 500])

    async def opened(self) -> int:
        """Alerts about silence that anybody was told of."""
        return len(await self.world.told(RULE))

    async def states(self) -> list[tuple[str | None, str]]:
        async with self.world.engine.connect() as conn:
            found = await conn.execute(select(gaps.c.source, gaps.c.state).order_by(gaps.c.gap_id))
            return [(row.source, row.state) for row in found]

    async def held(self) -> set[str]:
        async with self.world.engine.connect() as conn:
            query = select(health.c.account_id).where(health.c.incomplete_since.is_not(None))
            return set((await conn.scalars(query)).all())


@pytest.fixture
async def world(engine: AsyncEngine) -> World:
    return await World(engine).start()


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
    world.now += timedelta(minutes=1)
    await world.evaluate()
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
