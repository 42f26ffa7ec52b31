"""Since when an open alert holds is found anew when what it speaks of has changed, and only then."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update

from alerts import since
from health.tables import gaps, touched
from tests.world import DAY_0, World

RULE = "no-login"


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rules that were asked of the past."""
    asked: list[str] = []
    began = since.began

    def counted(rule: Any, *arguments: Any) -> Any:
        asked.append(rule.id)
        return began(rule, *arguments)

    monkeypatch.setattr(since, "began", counted)
    return asked


async def since_when(world: World) -> datetime:
    return (await world.open())[RULE].since  # type: ignore[no-any-return]


async def test_only_usage_came(world: World, looks: list[str]) -> None:
    await world.event("login", user_id="u1")
    await world.until(16)
    await world.event("usage", user_id="u1", feature="export")
    looks.clear()
    for minutes in range(1, 6):
        world.now = day(16) + timedelta(minutes=minutes)
        await world.event("usage", user_id="u1", feature="export")
    assert RULE not in looks, "found once a day, after the first event of it"
    assert await since_when(world) == day(14)
    await world.until(17)
    await world.event("usage", user_id="u1", feature="export")
    assert RULE in looks
    assert await since_when(world) == day(14)


async def test_a_late_login_within_the_silence(world: World, looks: list[str]) -> None:
    await world.event("login", user_id="u1")
    await world.until(18)
    await world.event("usage", user_id="u1", feature="export")
    assert await since_when(world) == day(14)
    looks.clear()
    await world.event("login", user_id="u1", at=day(2.5))
    assert RULE in looks
    assert await since_when(world) == day(16.5)


async def test_a_late_login_that_came_while_nobody_could_tell(world: World) -> None:
    """It changes no date then; the next event has the date found from all that is known."""
    await world.event("login", user_id="u1")
    await world.until(18)
    await world.event("usage", user_id="u1", feature="export")
    world.observing = False
    world.now = day(18.1)
    await world.event("login", user_id="u1", at=day(2.5))
    world.observing = True
    world.now = day(18.2)
    await world.event("usage", user_id="u1", feature="export")
    assert await since_when(world) == day(16.5)


async def test_a_late_login_that_disproves_it(world: World) -> None:
    await world.event("login", user_id="u1")
    await world.until(15)
    await world.event("usage", user_id="u1", feature="export")
    await world.event("login", user_id="u1", at=day(10))
    assert [episode.state for episode in await world.episodes(RULE)] == ["withdrawn"]


async def test_a_gap_that_turns_out_to_be_refilled(world: World) -> None:
    await world.event("login", user_id="u1")
    async with world.engine.begin() as conn:
        values = {"from_at": day(2), "until_at": day(4), "state": "lost", "reason": "outage", "noticed_at": day(3)}
        await conn.execute(insert(gaps).values(**values))
    await world.until(18)
    await world.event("usage", user_id="u1", feature="export")
    assert await since_when(world) == day(16)
    async with world.engine.begin() as conn:
        await conn.execute(update(gaps).values(state="refilled", closed_at=world.now))
        await conn.execute(insert(touched).values(everyone_since=day(-100), created_at=world.now))
    await world.evaluate()
    world.now += timedelta(minutes=1)
    await world.event("usage", user_id="u1", feature="export")
    assert await since_when(world) == day(14)


async def test_a_late_event_of_a_past_day_moves_what_counts_days(world: World, looks: list[str]) -> None:
    """Usage fell by half; what was used meanwhile and told of late shows that it fell later."""
    rule = "usage-halved"
    used: dict[str, Any] = {"kind": "usage", "user_id": "u", "feature": "export"}
    for number in range(85):
        world.now = day(number)
        others = [{**used, "account_id": "busy"}] * 8
        await world.events(*others, *([{**used, "account_id": "acme"}] * (4 if number < 56 else 1)))
    await world.event(**used)
    first = (await world.open())[rule].since
    looks.clear()
    await world.event(**used)
    assert rule not in looks
    await world.events(*([{**used, "account_id": "acme", "at": day(60)}] * 20))
    assert rule in looks
    assert (await world.open())[rule].since > first
