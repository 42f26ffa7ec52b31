"""Silence and time: evaluators that stood still, hosts that disagree about the hour, restored backups, holidays, leap
days.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from health.tables import health, touched
from service.gaps import open_gap
from tests.company import EIGHT, HOUR, RULE, Company, day, desk
from tests.world import World

MINUTE = timedelta(minutes=1)


async def test_evaluators_that_stood_still_for_fifteen_days(world: World) -> None:
    """Events were applied all the while: who fell silent is told of, from when that was, and nobody else."""
    company = await Company(world, {"app": EIGHT}).founded()
    await world.event("login", "quiet", user_id="u", source="app")
    await company.until(2)
    evaluator, world.evaluator = world.evaluator, Idle()  # type: ignore[assignment]
    await company.until(17)
    world.evaluator = evaluator
    world.boot()
    await world.evaluate()
    assert await company.states() == []
    assert {told.account for told in await world.told(RULE)} == {"quiet"}
    assert (await world.open("quiet"))[RULE].since == day(14)


class Idle:
    """An evaluator that stands still."""

    async def drain(self) -> int:
        return 0


async def test_a_database_restored_from_the_backup_of_yesterday(world: World) -> None:
    """It stands where it stood, and the day since lies in the log: until the consumers have read that again, nobody is
    called silent for it."""
    company = await Company(world, {"app": EIGHT}).founded()
    await world.event("login", "quiet", user_id="u", source="app")
    await company.until(13.5)
    world.observing, company.silent = False, {"app"}
    for round_ in range(1, 6):
        await company.send(world.now + round_ * company.step)
    world.now = day(14.8)
    world.rewire()
    await world.evaluate()
    assert await company.opened() == 0
    company.silent = set()
    await company.resend()
    assert await company.opened() == 0
    world.observing = True
    await company.until(15.3)
    assert await company.states() == []
    assert {told.account for told in await world.told(RULE)} == {"quiet"}
    assert (await world.open("quiet"))[RULE].since == day(14)


async def test_a_clock_that_is_three_weeks_ahead_for_a_while(world: World) -> None:
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(1)
    right = world.now
    world.now += timedelta(days=21)
    await world.evaluate()
    assert await company.opened() == 0
    world.now = right
    await company.until(2)
    assert (await company.held(), await company.opened()) == (set(), 0)
    company.by_source = {"app": EIGHT[1:]}
    await company.until(16.6)
    assert {told.account for told in await world.told(RULE)} == {"a"}, "and nobody is forgotten for it"


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_an_evaluator_whose_host_has_another_hour(world: World, step: timedelta) -> None:
    """One of two: operations hear of it once, not whenever the two take turns; and nobody is called silent."""
    company = await Company(world, {"app": EIGHT}).founded()
    await company.until(2)
    second = world.another(lambda: world.now + step)
    for _ in range(60):
        world.now += MINUTE
        await world.evaluate()
        await second.drain()
    told = [one.kind for one in await world.told("ingestion-held")]
    assert told == (["opened", "opened"] if step > timedelta(0) else [])
    assert await company.opened() == 0
    for _ in range(8):
        world.now += MINUTE
        await world.evaluate()
    assert [one.kind for one in await world.told("ingestion-held")][len(told) :] == ["resolved"] * len(told)


async def test_a_public_holiday_is_no_outage(world: World) -> None:
    """2026-04-29 is Shōwa Day, a Wednesday: the whole of Japan is away, and the source is compared with Sundays."""
    company = await Company(world, {"app": EIGHT}, every=1, office=True).founded()
    for account in EIGHT:
        await world.event("group", account, traits={"country": "JP", "timezone": "Asia/Tokyo"})
    holiday = datetime(2026, 4, 29, tzinfo=UTC)
    company.holidays = {holiday.date()}
    world.now = holiday - timedelta(days=8)
    await company.refound()
    await company.until((holiday - day(0)) / timedelta(days=1) + 1.3)
    assert (await company.states(), await company.held(), await company.opened()) == ([], set(), 0)


async def test_an_outage_on_a_public_holiday_is_one(world: World) -> None:
    """People use it on Sundays too."""
    company = await Company(world, {"app": EIGHT}, every=1).founded()
    for account in EIGHT:
        await world.event("group", account, traits={"country": "JP", "timezone": "Asia/Tokyo"})
    holiday = datetime(2026, 4, 29, tzinfo=UTC)
    world.now = holiday - 12 * HOUR
    await company.refound()
    await company.until((holiday - day(0)) / timedelta(days=1))
    company.silent = {"app"}
    await company.until((holiday - day(0)) / timedelta(days=1) + 0.3)
    assert await company.states() == [("app", "open")]


async def test_a_gap_over_a_leap_day_and_the_border_of_a_month(world: World) -> None:
    world.now = datetime(2028, 2, 27, 9, tzinfo=UTC)
    start = world.now
    await world.event("login", "a", user_id="u")
    note = {"source": None, "from_at": start + timedelta(days=1), "until_at": start + timedelta(days=4)}
    world.now = start + timedelta(days=5)
    await open_gap(desk(world), **note, reason="bus down", actor="mina", now=world.now)  # type: ignore[arg-type]
    await world.until((start - day(0)) / timedelta(days=1) + 16.9)
    assert RULE not in await world.open("a")
    await world.until((start - day(0)) / timedelta(days=1) + 17.1)
    assert (await world.open("a"))[RULE].since == start + timedelta(days=17), "14 days, and the three of the gap"


async def test_held_accounts_are_looked_at_once_a_day(world: World) -> None:
    company = await Company(world, {"app": EIGHT, "web": ["w"]}).founded()
    await company.until(1)
    company.silent = {"app"}
    await company.until(3)
    async with world.engine.connect() as conn:
        due = (await conn.scalars(select(health.c.due_at).where(health.c.account_id.in_(EIGHT)))).all()
        waiting = (await conn.scalars(select(touched.c.touched_id))).all()
    assert waiting == []
    assert min(at for at in due if at is not None) > world.now + HOUR / 2
