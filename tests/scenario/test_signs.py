"""The other signs: payments, tickets, surveys, renewals, the score; and accounts and rules that misbehave."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.world import DAY_0, RULES, World

FEATURES = ('say "hi"', "a\\b", "日本 ✓")


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


async def test_a_failed_payment_is_told_at_once_and_ends_when_paid(world: World) -> None:
    await world.event("group", traits={"name": "Acme", "owner": "mina", "mrr": 2400, "currency": "EUR"})
    await world.event("payment", payment_id="inv-1", status="failed", amount=2400, currency="EUR")
    episode = (await world.open())["payment-failed"]
    assert (episode.severity, episode.since) == ("critical", DAY_0)
    assert {told.channel for told in await world.told("payment-failed")} == {"slack", "email"}
    await world.until(1)
    await world.event("payment", payment_id="inv-1", status="paid")
    assert "payment-failed" not in await world.open()
    assert await world.history("payment-failed") == [("opened", 0.0), ("resolved", 1.0)]


async def test_a_payment_of_the_past_counts_from_when_it_failed(world: World) -> None:
    await world.until(10)
    await world.event("payment", payment_id="inv-1", status="failed", at=day(4))
    assert (await world.open())["payment-failed"].since == day(4)


async def test_the_third_open_ticket_and_a_sixth(world: World) -> None:
    await world.event("login", user_id="u")
    for number in range(2):
        await world.event("ticket", ticket_id=f"t{number}", status="open")
    assert "many-open-tickets" not in await world.open()
    await world.event("ticket", ticket_id="t2", status="open")
    assert (await world.open())["many-open-tickets"].severity == "warning"
    await world.events(
        *({"kind": "ticket", "account_id": "acme", "ticket_id": f"x{n}", "status": "open"} for n in "abc")
    )
    assert (await world.open())["many-open-tickets"].severity == "critical"
    assert [kind for kind, _ in await world.history("many-open-tickets")] == ["opened", "escalated"]
    await world.until(0.1)
    for ticket in ("t0", "t1", "t2", "xa"):
        await world.event("ticket", ticket_id=ticket, status="solved")
    assert "many-open-tickets" not in await world.open()


async def test_a_detractor(world: World) -> None:
    await world.event("survey", survey_id="s1", survey="nps", score=3)
    assert "nps-detractor" in await world.open()
    await world.event("survey", survey_id="s2", survey="nps", score=9)
    assert "nps-detractor" not in await world.open()


async def test_a_renewal_comes_nearer(world: World) -> None:
    await world.event("login", user_id="u")
    await world.event("group", traits={"renewal_on": day(95).date().isoformat()})
    assert not {"renewal-90", "renewal-60", "renewal-30"} & set(await world.open())
    await world.until(6)
    assert "renewal-90" in await world.open()
    await world.until(36)
    assert {"renewal-60"} == {"renewal-90", "renewal-60", "renewal-30"} & set(await world.open())


async def test_a_renewal_date_that_is_set_late_counts_from_when_it_was_set(world: World) -> None:
    await world.event("login", user_id="u")
    await world.until(3)
    await world.event("group", traits={"renewal_on": day(20).date().isoformat()})
    episode = (await world.open())["renewal-30"]
    assert episode.since == day(3) and not episode.pre_existing
    assert await world.told("renewal-30")


async def test_usage_that_halves(world: World) -> None:
    for number in range(0, 60, 2):
        world.now = day(number)
        await world.events(
            {"kind": "login", "account_id": "acme", "user_id": "u"},
            {"kind": "usage", "account_id": "acme", "user_id": "u", "feature": "report"},
            {"kind": "usage", "account_id": "acme", "user_id": "u", "feature": "export"},
        )
    assert "usage-halved" not in await world.open()
    for number in range(60, 88, 3):
        await world.until(number)
        await world.event("login", user_id="u")
    assert "usage-halved" in await world.open()


async def test_a_core_feature_never_touched(world: World) -> None:
    for number in range(31):
        world.now = day(number)
        await world.event("usage", user_id="u", feature="report")
    opened = await world.open()
    assert "core-feature-unused:export" in opened
    assert "core-feature-unused:report" not in opened


async def test_the_score_and_its_lines_go_with_the_alert(world: World) -> None:
    await world.event("login", user_id="u")
    await world.until(14.5)
    episode = (await world.open())["no-login"]
    total = round(sum(line["contribution"] for line in episode.contributions), 1)
    assert total == float(episode.score)
    assert episode.scorecard.startswith("default@")
    row = await world.health_of()
    assert row.open_alerts == len(await world.open())
    async with world.engine.connect() as conn:
        days = (await conn.execute(text("SELECT day, scorecard FROM score_history ORDER BY day"))).all()
    assert len(days) >= 14


async def test_one_account_that_cannot_be_evaluated_does_not_stop_the_others(world: World, engine: AsyncEngine) -> None:
    events = [{"kind": "login", "account_id": name, "user_id": "u"} for name in ("a", "b", "c", "d", "e")]
    async with engine.begin() as conn:
        await conn.execute(text("ALTER TABLE health ADD CONSTRAINT no_c CHECK (account_id <> 'c' OR score IS NULL)"))
    await world.events(*events)
    assert (await world.health_of("c")).problem.startswith("IntegrityError")
    for name in ("a", "b", "d", "e"):
        assert (await world.health_of(name)).score is not None
    async with engine.begin() as conn:
        await conn.execute(text("ALTER TABLE health DROP CONSTRAINT no_c"))
    await world.event("login", account="c", user_id="u")
    row = await world.health_of("c")
    assert row.problem is None and row.score is not None


async def test_a_bad_rule_file_leaves_the_running_rules(engine: AsyncEngine, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(RULES, rules)
    world = await World(engine, rules).start()
    await world.event("login", user_id="u")
    pack = rules / "churn.yaml"
    good = pack.read_text()
    pack.write_text(good.replace("days_since_login >= 14", "days_since_logn >= 14"))
    await world.until(14.5)
    assert "no-login" in await world.open()


async def test_a_feature_may_be_called_anything(engine: AsyncEngine, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(RULES, rules)
    signals = [f"days_since_feature['{name}']" for name in FEATURES]
    condition = " OR ".join(f"{signal} >= 14" for signal in ("days_since_login", *signals))
    pack = rules / "churn.yaml"
    pack.write_text(pack.read_text().replace("days_since_login >= 14\n", json.dumps(condition) + "\n", 1))
    world = await World(engine, rules).start()
    for name in FEATURES:
        await world.event("usage", user_id="u", feature=name)
    row = await world.health_of()
    assert row.problem is None
    assert [row.signals[signal] for signal in signals] == [0, 0, 0]


async def test_a_rule_that_is_removed_ends_its_alerts(engine: AsyncEngine, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(RULES, rules)
    world = await World(engine, rules).start()
    await world.event("login", user_id="u")
    await world.until(14.5)
    pack = rules / "churn.yaml"
    pack.write_text(pack.read_text().replace("  - id: no-login\n", "  - id: no-login\n    enabled: false\n"))
    await world.until(14.6)
    assert "no-login" not in await world.open()
    assert [kind for kind, _ in await world.history("no-login")] == ["opened", "resolved"]
    assert len(await world.told("no-login")) == 2


async def test_a_changed_condition_pages_nobody_about_what_was_so_before(engine: AsyncEngine, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(RULES, rules)
    world = await World(engine, rules).start()
    await world.event("login", user_id="u")
    await world.until(12)
    pack = rules / "churn.yaml"
    pack.write_text(pack.read_text().replace("when: days_since_login >= 14", "when: days_since_login >= 10"))
    await world.until(12.1)
    episode = (await world.open())["no-login"]
    assert episode.pre_existing and episode.since == day(10)
    assert await world.told("no-login") == []
