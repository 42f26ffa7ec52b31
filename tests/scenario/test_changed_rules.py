"""Other rules, other scorecards: everybody is looked at again, and nobody is told of what did not change."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.tables import episodes
from health.tables import health, reevaluations
from tests.world import DAY_0, RULES, World

ACCOUNTS = 23
MINUTE = timedelta(minutes=1)


@pytest.fixture
def rules_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    shutil.copytree(RULES, folder)
    return folder


@pytest.fixture
async def world(engine: AsyncEngine, rules_dir: Path) -> World:
    """Accounts of every kind, most of them silent for a while, some at risk, whose alerts have been told."""
    world = await World(engine, rules_dir).start()
    happened: list[dict[str, Any]] = []
    for number in range(ACCOUNTS):
        name = f"account-{number:02}"
        traits = {"mrr": 100 * number, "currency": "EUR", "owner": "mina", "seats": 10}
        happened.append({"kind": "group", "account_id": name, "traits": traits, "at": DAY_0 - timedelta(days=60)})
        for back in range(number % 23, 50, 3 + number % 5):
            at = DAY_0 - timedelta(days=back, minutes=number)
            user = f"{name}-{back % 7}"
            happened.append({"kind": "login", "account_id": name, "user_id": user, "at": at})
            happened.append({"kind": "usage", "account_id": name, "user_id": user, "feature": "export", "at": at})
        if number % 7 == 0:
            happened.append({"kind": "payment", "account_id": name, "payment_id": "p", "status": "failed"})
    for event in happened:  # too little of each source for its silence to be noticed
        event["source"] = event["account_id"]
    for start in range(0, len(happened), 1000):
        await world.events(*happened[start : start + 1000])
    for day in (1, 3, 6):
        world.now = DAY_0 + timedelta(days=day)
        await world.evaluate()
    assert len(await world.told()) > ACCOUNTS / 4
    return world


async def every(engine: AsyncEngine, rule: str | None = None) -> list[Any]:
    query = select(episodes).order_by(episodes.c.rule_id, episodes.c.account_id, episodes.c.opened_at)
    async with engine.connect() as conn:
        rows = (await conn.execute(query)).all()
    return [row for row in rows if rule is None or row.rule_id == rule]


def rewrite(path: Path, *replacements: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


async def change(world: World, path: Path, *replacements: tuple[str, str]) -> None:
    """Changes a file, and has everybody looked at again a minute later."""
    rewrite(path, *replacements)
    world.now += MINUTE
    await world.evaluate()


async def test_another_scorecard_tells_nobody(engine: AsyncEngine, world: World, rules_dir: Path) -> None:
    before, told = await every(engine), len(await world.told())
    async with engine.connect() as conn:
        bands = {row.account_id: row.band for row in await conn.execute(select(health))}
        rounds = len((await conn.execute(select(reevaluations))).all())
    await change(
        world, rules_dir / "scorecards" / "default.yaml", ("{green: 70, yellow: 40,", "{green: 98, yellow: 90,")
    )
    async with engine.connect() as conn:
        rows = (await conn.execute(select(health))).all()
        last = (await conn.execute(select(reevaluations).order_by(reevaluations.c.round.desc()))).first()
    assert last is not None
    assert {row.round for row in rows} == {last.round}
    assert (last.why, last.state, last.done) == ("rules", "done", ACCOUNTS)
    assert last.round == rounds + 1
    fallen = {row.account_id for row in rows if row.band == "red"} - {name for name in bands if bands[name] == "red"}
    assert len(fallen) > ACCOUNTS / 4, "the new card is much stricter"
    opened = [row for row in await every(engine) if row.episode_id not in {old.episode_id for old in before}]
    assert {row.account_id for row in opened if row.rule_id == "score-red"} == fallen
    assert all(row.pre_existing for row in opened), "on the lists"
    assert len(await world.told()) == told, "and nobody was told"

    name = min(fallen - {row.account_id for row in before if row.rule_id == "payment-failed"})
    await world.event("payment", name, payment_id="q", status="failed")
    assert len(await world.told("payment-failed")) > 0, "what does happen is told as ever"
    assert {one.account for one in (await world.told())[told:]} == {name}


async def test_severity_that_follows_another_scorecard_is_no_escalation(
    engine: AsyncEngine, world: World, rules_dir: Path
) -> None:
    renewal = (world.now + timedelta(days=45)).date().isoformat()
    well = [row.account_id for row in await all_of(engine) if row.band in ("green", "yellow")][:3]
    for name in well:
        await world.event("group", name, traits={"renewal_on": renewal}, source=name)
    mild = [row for row in await every(engine, "renewal-60") if row.severity != "critical"]
    assert mild, "of accounts that are not red"
    told = len(await world.told())
    await change(
        world, rules_dir / "scorecards" / "default.yaml", ("{green: 70, yellow: 40,", "{green: 99, yellow: 98,")
    )
    after = {row.episode_id: row for row in await every(engine, "renewal-60")}
    assert {after[row.episode_id].severity for row in mild} == {"critical"}
    assert len(await world.told()) == told


async def test_another_rulebook_tells_nobody_of_what_held_before(
    engine: AsyncEngine, world: World, rules_dir: Path
) -> None:
    before, told = await every(engine), len(await world.told())
    await change(
        world,
        rules_dir / "churn.yaml",
        ("when: days_since_login >= 14\n", "when: days_since_login >= 10\n"),  # another condition
        ("{level: critical, when: days_since_login >= 28}", "{level: critical, when: days_since_login >= 15}"),
        ("when: failed_payments >= 2 OR mrr >= 1000}", "when: failed_payments >= 1}"),
    )  # fmt: skip
    assert len(await world.told()) == told
    after = await every(engine)
    known = {row.episode_id for row in before}
    opened = [row for row in after if row.episode_id not in known]
    assert {row.rule_id for row in opened} == {"no-login"} and all(row.pre_existing for row in opened)
    severities = {row.severity for row in after if row.rule_id == "payment-failed" and row.state == "open"}
    assert severities == {"critical"}, "the levels are the new ones, quietly"
    still = {row.episode_id for row in before if row.rule_id == "no-activity" and row.state == "open"}
    assert still and still <= {row.episode_id for row in after if row.state == "open"}

    later = world.now + timedelta(days=10)
    name = next(row.account_id for row in await all_of(engine) if row.status == "active")
    await world.event("login", name, user_id="u")
    while world.now < later + MINUTE:
        world.now += timedelta(days=1)
        await world.evaluate()
    assert name in {one.account for one in await world.told("no-login")}, "a crossing since then is told"


async def all_of(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as conn:
        return list(await conn.execute(select(health).order_by(health.c.account_id)))
