"""What must not be told (the past, what is over, what a change of rules made true) and what must not be swallowed."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import metrics
from alerts.actions import act
from alerts.tables import deliveries, episodes
from health import facts
from health.tables import accounts, health
from tests.world import DAY_0, RULES, World


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    shutil.copytree(RULES, tmp_path / "rules")
    return tmp_path / "rules"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


async def statuses(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as conn:
        return list((await conn.scalars(select(deliveries.c.status))).all())


async def test_an_edited_scorecard_pages_nobody(engine: AsyncEngine, rules: Path) -> None:
    world = await World(engine, rules).start()
    await world.event("login", user_id="u")
    await world.until(8)
    assert (await world.health_of()).band != "red"
    edit(rules / "scorecards" / "default.yaml", "yellow: 40", "yellow: 99")
    edit(rules / "scorecards" / "default.yaml", "green: 70", "green: 99.5")
    await world.until(8.1)
    assert (await world.health_of()).band == "red"
    assert (await world.open())["score-red"].pre_existing
    assert await world.told("score-red") == []


async def test_a_new_rule_over_the_score_pages_nobody_about_where_accounts_stood(
    engine: AsyncEngine, rules: Path
) -> None:
    world = await World(engine, rules).start()
    await world.event("login", user_id="u")
    await world.until(5)
    edit(rules / "churn.yaml", "when: score < 25", "when: score < 101")
    await world.until(5.1)
    assert (await world.open())["score-low"].pre_existing
    assert await world.told("score-low") == []


async def test_a_score_that_falls_does_page(world: World) -> None:
    await world.event("login", user_id="u")
    await world.until(1)
    assert (await world.health_of()).band != "red"
    for number in range(3):
        await world.event("payment", payment_id=f"p{number}", status="failed")
        await world.event("ticket", ticket_id=f"t{number}", status="open")
    assert (await world.health_of()).band == "red", "what happened at this instant made it so"
    await world.until(2)
    red = (await world.open())["score-red"]
    assert not red.pre_existing and red.since == red.opened_at == day(1)
    assert await world.told("score-red")


async def test_what_is_over_before_it_was_sent_is_not_sent(world: World) -> None:
    await world.event("login", user_id="u")
    await world.until(14.5)
    assert set(await statuses(world.engine)) == {"pending"}
    await world.event("login", user_id="u")
    assert set(await statuses(world.engine)) == {"cancelled"}


async def test_what_a_person_closed_is_not_sent_any_more(world: World) -> None:
    await world.event("payment", payment_id="p", status="failed")
    episode = (await world.open())["payment-failed"]
    async with world.engine.begin() as conn:
        await act(
            conn, episode.episode_id, "resolve", expected_version=None, actor="mina", outcome="saved", now=world.now
        )
    assert set(await statuses(world.engine)) == {"cancelled"}


async def test_a_failure_after_an_imported_one_is_told(world: World) -> None:
    await world.until(10)
    past = {"kind": "payment", "account_id": "acme", "import_id": "crm", "at": day(5)}
    await world.events({**past, "payment_id": "old", "status": "failed", "import_row": 1})
    await world.until(11)
    await world.event("payment", payment_id="old", status="paid")
    await world.until(11.5)
    await world.event("payment", payment_id="new", status="failed")
    assert [e.pre_existing for e in await world.episodes("payment-failed")] == [True, False]
    assert (await world.open())["payment-failed"].since == day(11.5)
    assert len(await world.told("payment-failed")) == 2


async def test_a_silence_of_the_import_that_a_late_login_moves_into_the_present_is_told(world: World) -> None:
    await world.until(20)
    await world.events(
        {"kind": "login", "account_id": "acme", "user_id": "u", "at": day(1), "import_id": "crm", "import_row": 1}
    )
    assert (await world.open())["no-login"].pre_existing
    await world.until(40)
    await world.event("login", user_id="u", at=day(21))
    episode = (await world.open())["no-login"]
    assert episode.since == day(35) and not episode.pre_existing
    assert {told.kind for told in await world.told("no-login")} == {"renotified"}


async def test_a_smaller_contract_does_not_withdraw_an_alert(engine: AsyncEngine, rules: Path) -> None:
    edit(rules / "churn.yaml", "when: days_since_login >= 14\n", "when: mrr >= 400 AND days_since_login >= 14\n")
    world = await World(engine, rules).start()
    await world.event("group", traits={"mrr": 500, "currency": "EUR"})
    await world.event("login", user_id="u")
    await world.until(15)
    assert "no-login" in await world.open()
    await world.event("group", traits={"mrr": 300})
    assert [kind for kind, _ in await world.history("no-login")] == ["opened", "resolved"]


async def test_a_timer_of_an_unknown_rule_is_not_tried_without_a_pause(world: World) -> None:
    await world.event("login", user_id="u")
    await world.until(14.5)
    episode = (await world.open())["no-login"]
    async with world.engine.begin() as conn:
        await act(conn, episode.episode_id, "snooze", expected_version=None, actor="mina", until=day(15), now=world.now)
    world.observing = False
    await world.until(15.1)
    async with world.engine.begin() as conn:
        await conn.execute(update(health).values(due_at=world.now))
    await world.evaluate()
    row = await world.health_of()
    assert row.due_at >= world.now + timedelta(seconds=30)


async def test_two_evaluators_with_different_rules_do_not_fight(
    engine: AsyncEngine, rules: Path, tmp_path: Path
) -> None:
    world = await World(engine, rules).start()
    await world.event("login", user_id="u")
    await world.until(14.5)
    assert "no-login" in await world.open()
    other = tmp_path / "other"
    shutil.copytree(rules, other)
    edit(other / "churn.yaml", "  - id: no-login\n", "  - id: no-login\n    enabled: false\n")
    old = world.evaluator
    world._rules_dir = other
    world.now += timedelta(minutes=1)
    world.boot()
    await world.evaluate()
    assert "no-login" not in await world.open()
    world.now += timedelta(minutes=1)
    await world.event("ticket", ticket_id="t", status="open")
    assert await old.step() == 0 and old.context.superseded
    assert [kind for kind, _ in await world.history("no-login")] == ["opened", "resolved"]


async def test_facts_that_change_while_they_are_read_are_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.event("login", user_id="u")
    world.now = day(14.2)
    real, changes = facts.read, 1

    async def read(conn: AsyncConnection, *args: Any, **kwargs: Any) -> Any:
        nonlocal changes
        found = await real(conn, *args, **kwargs)
        if changes:
            changes -= 1
            async with world.engine.begin() as other:
                await other.execute(update(accounts).values(version=accounts.c.version + 1, last_login_at=day(14.1)))
        return found

    monkeypatch.setattr(facts, "read", read)
    await world.evaluate()
    assert "no-login" not in await world.open(), "the login that came meanwhile counts"
    assert changes == 0


async def test_an_alert_without_anybody_to_tell_is_counted(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await World(engine).start()
    world.evaluator.context._channels = world.evaluator.context._channels.__class__()
    before = metrics.UNREACHABLE.labels(rule="payment-failed")._value.get()
    await world.event("payment", payment_id="p", status="failed")
    assert metrics.UNREACHABLE.labels(rule="payment-failed")._value.get() == before + 1


async def test_the_wait_of_a_postponed_account_counts_from_its_event(engine: AsyncEngine) -> None:
    world = await World(engine).start()
    await world.event("login", user_id="u")
    world.evaluator.coalesce = timedelta(seconds=5)
    world.now += timedelta(seconds=1)
    await world.event("login", user_id="u")
    arrived = world.now
    assert (await world.health_of()).waiting_since == arrived
    world.now += timedelta(seconds=6)
    await world.evaluate()
    assert (await world.health_of()).waiting_since is None
    async with engine.connect() as conn:
        assert await conn.scalar(select(episodes.c.episode_id)) is None
