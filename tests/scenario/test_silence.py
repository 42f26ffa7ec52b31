"""Silence, told as stories: days pass, somebody logs in or does not, and the right person hears of it once."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import insert

from alerts.actions import act
from health.tables import gaps
from tests.world import DAY_0, World

RULE = "no-login"


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


async def test_fourteen_days_without_a_login(world: World) -> None:
    await world.event("group", traits={"name": "Acme", "owner": "mina", "mrr": 500, "currency": "EUR"})
    await world.event("login", user_id="u1")
    await world.until(13.9)
    assert RULE not in await world.open()
    await world.until(14.01)
    episode = (await world.open())[RULE]
    assert episode.since == day(14), "by event time, not by when we looked"
    assert not episode.pre_existing
    assert episode.signals["days_since_login"] == 14
    assert "14" in episode.reason["en"] and "14" in episode.reason["ja"]
    assert [(t.kind, t.channel, t.target, t.language) for t in await world.told(RULE)] == [
        ("opened", "email", "mina@example.com", "ja"),
        ("opened", "slack", "team", "ja"),
    ]
    await world.until(15)
    await world.event("login", user_id="u1")
    assert RULE not in await world.open()
    assert await world.history(RULE) == [("opened", 14.0), ("resolved", 15.0)]
    assert len(await world.told(RULE)) == 2, "one Slack message, one e-mail, and no more"


async def test_never_logged_in_counts_from_the_start(world: World) -> None:
    await world.event("subscription", change="started", mrr=100, currency="EUR")
    await world.until(14.5)
    assert (await world.open())[RULE].since == day(14)


async def test_an_ended_account_leaves(world: World) -> None:
    await world.event("login", user_id="u1")
    await world.until(14.5)
    assert RULE in await world.open()
    await world.event("subscription", change="ended")
    assert await world.open() == {}
    assert [told.kind for told in await world.told(RULE)] == ["opened", "opened"]


async def test_a_late_login_withdraws_the_alert_and_the_reader_is_told(world: World) -> None:
    await world.event("login", user_id="u1")
    await world.until(15)
    assert RULE in await world.open()
    await world.event("login", user_id="u1", at=day(10))
    (episode,) = await world.episodes(RULE)
    assert episode.state == "withdrawn"
    assert [told.kind for told in await world.told(RULE)].count("withdrawn") == 2


async def test_while_ingestion_stands_still_nobody_is_called_silent(world: World) -> None:
    await world.event("login", user_id="u1")
    await world.until(13)
    world.observing = False
    await world.until(20)
    assert RULE not in await world.open()
    assert (await world.health_of()).incomplete_since is not None
    world.observing = True
    await world.event("login", user_id="u1", at=day(13.5))
    await world.until(20.2)
    assert RULE not in await world.open(), "what was missed has come: 6.7 days"
    await world.until(27.6)
    assert (await world.open())[RULE].since == day(27.5)


async def test_a_gap_is_not_counted_as_silence(world: World) -> None:
    await world.event("login", user_id="u1")
    async with world.engine.begin() as conn:
        values = {"from_at": day(2), "until_at": day(7), "state": "lost", "reason": "outage", "noticed_at": day(3)}
        await conn.execute(insert(gaps).values(**values))
    await world.until(18.9)
    assert RULE not in await world.open()
    await world.until(19.1)
    assert (await world.open())[RULE].since == day(19), "fourteen observed days"


async def test_resolved_by_hand_stays_quiet_until_the_next_silence(world: World) -> None:
    await world.event("login", user_id="u1")
    await world.until(14.5)
    episode = (await world.open())[RULE]
    async with world.engine.begin() as conn:
        await act(
            conn, episode.episode_id, "resolve", expected_version=episode.version, actor="mina", outcome="expected",
            reason="project ended", now=world.now,
        )  # fmt: skip
    await world.until(20)
    assert RULE not in await world.open()
    await world.event("login", user_id="u1")
    await world.until(34.5)
    assert (await world.open())[RULE].since == day(34)
    assert [kind for kind, _ in await world.history(RULE)] == ["opened", "resolved", "opened"]


async def test_snoozed_comes_back_when_it_still_holds(world: World) -> None:
    await world.event("login", user_id="u1")
    await world.until(14.5)
    episode = (await world.open())[RULE]
    async with world.engine.begin() as conn:
        await act(conn, episode.episode_id, "snooze", expected_version=None, actor="mina", until=day(17), now=world.now)
    await world.until(16.9)
    assert [told.kind for told in await world.told(RULE)] == ["opened", "opened"]
    await world.until(17.1)
    assert [told.kind for told in await world.told(RULE)] == ["opened", "opened", "renotified", "renotified"]


async def test_an_import_pages_nobody_about_the_past(world: World) -> None:
    await world.until(100)
    rows = [
        {
            "kind": "login",
            "account_id": "old",
            "user_id": "u",
            "at": day(number),
            "import_id": "crm",
            "import_row": number,
        }
        for number in range(60)
    ]
    for start in range(0, 60, 20):
        await world.events(*rows[start : start + 20])
    await world.until(103)
    episode = (await world.open("old"))[RULE]
    assert episode.pre_existing and episode.since == day(59 + 14)
    assert episode.signals["days_since_login"] == 41, "explained by all of the import, not by what had come first"
    assert [told for told in await world.told() if told.account == "old"] == []


async def test_what_begins_after_an_import_does_page(world: World) -> None:
    await world.until(100)
    row = {"kind": "login", "account_id": "old", "user_id": "u", "import_id": "crm", "import_row": 1}
    await world.events({**row, "at": day(90)})
    await world.until(104.1)
    episode = (await world.open("old"))[RULE]
    assert not episode.pre_existing and episode.since == day(104)
    assert len(await world.told(RULE)) == 2


async def test_a_restarted_evaluator_tells_nobody_twice(world: World) -> None:
    await world.event("login", user_id="u1")
    await world.until(14.5)
    before = await world.told()
    world.boot()
    await world.until(15)
    assert await world.told() == before
    assert len(await world.episodes(RULE)) == 1


async def test_a_silence_of_many_months_is_dated_too(world: World) -> None:
    await world.until(400)
    await world.event("login", user_id="u1", at=day(30))
    assert (await world.open())[RULE].since == day(44)
