"""Who would change band under other scorecards: by API and command, equal to looking at each account alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from health import facts as reading
from health.fleet import of_json
from health.gaps import Observed
from health.rhythm import SHIPPED
from health.signals import compute
from health.tables import fleets, health, score_history
from service import what_if
from service.cards import of_text, running
from tests.api import Api, api
from tests.commands import kizashi
from tests.world import DAY_0, GROUP, RULES, TOPIC, World

DEFAULT = (RULES / "scorecards" / "default.yaml").read_text(encoding="utf-8")
ONBOARDING = (RULES / "scorecards" / "onboarding.yaml").read_text(encoding="utf-8")
HARSH = DEFAULT.replace(
    "bands: {green: 70, yellow: 40, hysteresis: 3}", "bands: {green: 90, yellow: 60, hysteresis: 0}"
)
SHY = DEFAULT.replace("minimum_confidence: 0.4", "minimum_confidence: 1")
ACCOUNTS = 12
PATH = "/api/v1/scorecards/what-if"


@pytest.fixture
async def world(engine: AsyncEngine) -> World:
    """Accounts from lively to silent, one of them ended, two currencies."""
    world = await World(engine).start()
    events: list[dict[str, Any]] = []
    for number in range(ACCOUNTS):
        account = f"a{number:02}"
        traits = {"mrr": 100 * (number % 5), "currency": ("EUR", "JPY")[number % 2], "seats": 5, "name": f"N {number}"}
        ended = {"status": "ended"} if number == 7 else {}
        events.append({"kind": "group", "account_id": account, "traits": {**traits, **ended},
                       "at": DAY_0 - timedelta(days=60)})  # fmt: skip
        for ago in range(number, 56, 1 + number):
            at = DAY_0 - timedelta(days=ago, hours=1)
            user = f"u{ago % (ACCOUNTS - number)}"
            events.append({"kind": "login", "account_id": account, "user_id": user, "at": at})
            events.append({"kind": "usage", "account_id": account, "user_id": user, "feature": f"f{ago % 4}",
                           "quantity": 1, "at": at})  # fmt: skip
        if number % 3 == 0:
            events.append({"kind": "payment", "account_id": account, "payment_id": "p", "status": "failed",
                           "at": DAY_0 - timedelta(days=2)})  # fmt: skip
    await world.events(*events)
    return world


@pytest.fixture
async def service(engine: AsyncEngine, world: World) -> AsyncIterator[Api]:
    settings: dict[str, Any] = {"consumer_group": GROUP, "events_topics": [TOPIC], "rules_dir": RULES}
    async with api(engine, board_open=True, secret_key="a long random string for tests", **settings) as made:
        made.now = world.now
        yield made


async def one_by_one(engine: AsyncEngine, world: World, text: str) -> dict[str, tuple[Any, ...]]:
    """Of each account alone: score and band before and after, where the band differs."""
    before = running(RULES).cards
    after = of_text(text, "default.yaml", before)
    found = {}
    async with engine.connect() as conn:
        rows = (await conn.execute(select(health))).all()
        learnt = await conn.scalar(select(fleets.c.payload).order_by(fleets.c.day.desc()).limit(1))
        fleet = SHIPPED if learnt is None else of_json(learnt)
        for row in rows:
            refs = {*before.refs, *after.refs}
            facts = await reading.read(conn, [row.account_id], now=world.now, refs=refs, fleet=fleet)
            table = compute(facts, [world.now], refs, Observed(world.now))
            old, new = (cards.score(table, facts, [row.band], [None]) for cards in (before, after))
            if row.status != "ended" and old.band != new.band:
                found[row.account_id] = (old.score[0], old.band[0], new.score[0], new.band[0])
    return found


@pytest.mark.parametrize("text", [HARSH, SHY, DEFAULT.replace("weight: 4", "weight: 40")])
async def test_it_is_what_each_account_alone_says(
    service: Api, engine: AsyncEngine, world: World, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await one_by_one(engine, world, text)
    assert expected or "weight: 40" in text
    monkeypatch.setattr(what_if, "PAGE", 5)
    monkeypatch.setattr(what_if, "SECONDS", 0.0)  # a page a request
    items, looked_at, changed, cursor, money = [], 0, 0, None, 0.0
    while True:
        answer = await service.post(PATH, {"scorecard": text, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        part = answer.json()
        assert [item["mrr"] or 0 for item in part["items"]] == sorted(
            [item["mrr"] or 0 for item in part["items"]], reverse=True
        )
        items += part["items"]
        looked_at, changed = looked_at + part["looked_at"], changed + part["changed"]
        money += sum(total["mrr"] for total in part["totals"])
        assert sum(total["accounts"] for total in part["totals"]) == part["looked_at"]
        cursor = part["next_cursor"]
        if cursor is None:
            break
    assert (looked_at, changed) == (ACCOUNTS - 1, len(items))
    assert money == sum(100 * (number % 5) for number in range(ACCOUNTS) if number != 7)
    found = {
        item["account_id"]: (item["score_before"], item["band_before"], item["score_after"], item["band_after"])
        for item in items
    }
    assert found.keys() == expected.keys()
    for account_id, (old, old_band, new, new_band) in expected.items():
        assert found[account_id] == (old, old_band, None if new_band is None else new, new_band)


async def test_the_measure_that_matters_most_is_named(service: Api) -> None:
    strict = DEFAULT.replace("limit: 40", "limit: 5")
    part = (await service.post(PATH, {"scorecard": strict})).json()
    assert part["items"] and {item["measure"] for item in part["items"]} == {"payment-failing"}
    assert all(item["contribution_after"] < item["contribution_before"] for item in part["items"])
    assert set(part["items"][0]["reason"]) == {"en", "ja"}
    shy = (await service.post(PATH, {"scorecard": SHY})).json()
    assert shy["become_unknown"] == shy["changed"] > 0
    shipped = {path.name: path.read_text(encoding="utf-8") for path in (RULES / "scorecards").glob("*.yaml")}
    same = (await service.post(PATH, {"scorecards": shipped})).json()
    assert (same["changed"], same["before"]) == (0, same["after"])


async def test_nothing_is_written_and_a_past_day_can_be_asked(service: Api, world: World, engine: AsyncEngine) -> None:
    async with engine.connect() as conn:
        before = (await conn.execute(select(health).order_by(health.c.account_id))).all()
    on = (world.now - timedelta(days=20)).date()
    part = (await service.post(PATH, {"scorecard": HARSH, "day": on.isoformat()})).json()
    assert part["at"].startswith(f"{on}T23:59:59") and part["looked_at"] == ACCOUNTS - 1
    async with engine.connect() as conn:
        assert (await conn.execute(select(health).order_by(health.c.account_id))).all() == before
        assert len((await conn.execute(select(score_history))).all()) == ACCOUNTS


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({}, "scorecard"), ({"scorecard": DEFAULT, "scorecards": {"a.yaml": DEFAULT}}, "scorecard"),
        ({"scorecard": DEFAULT.replace("churn_odds\n", "churn_ods\n", 1)}, "scorecard.yaml:38:5"),
        ({"scorecard": "a: &a [*a]"}, "scorecard.yaml:1:4"), ({"scorecard": "x" * 40_000}, "scorecard"),
        ({"scorecard": ONBOARDING.replace("scorecard: onboarding", "scorecard: default")}, "scorecard.yaml:1:1"),
        ({"scorecards": {"onboarding.yaml": ONBOARDING}}, "scorecards:1:1"), ({"scorecard": DEFAULT, "day": 5}, "day"),
        ({"scorecard": DEFAULT, "day": "2026-03-03"}, "day"), ({"scorecard": DEFAULT, "day": "1969-01-01"}, "day"),
        ({"scorecard": DEFAULT, "cursor": "nonsense"}, "cursor"), ({"scorecards": {"../x.yaml": DEFAULT}}, None),
    ],
)  # fmt: skip
async def test_bad_questions(service: Api, wish: dict[str, Any], field: str | None) -> None:
    answer = await service.post(PATH, wish)
    assert answer.status_code == 422, answer.text
    error = answer.json()["errors"][0]
    assert error["problem"] and error["remedy"]
    assert field is None or error["field"] == field


async def test_explaining_over_the_api(service: Api, world: World) -> None:
    row = await world.health_of("a03")
    found = (await service.get("/api/v1/accounts/a03/explain")).json()
    assert (found["now"]["score"], found["now"]["band"]) == (row.score, row.band)
    assert found["now"]["explanation"]["en"].startswith("Health score ")
    on = (world.now - timedelta(days=10)).date().isoformat()
    past = (await service.get("/api/v1/accounts/a03/explain", day=on)).json()
    assert (past["day"], past["recorded"]) == (on, None)
    assert [each["code"] for each in past["differences"]] == ["not_recorded"]
    strict = {"scorecard": DEFAULT.replace("limit: 40", "limit: 5")}
    under = (await service.post("/api/v1/accounts/a03/explain", strict)).json()
    assert under["now"]["score"] == 5 and under["differences"][0]["code"] == "card"
    assert (await service.get("/api/v1/accounts/nobody/explain")).status_code == 404
    assert (await service.get("/api/v1/accounts/a03/explain", day="2027-01-01")).status_code == 422
    assert (await service.post("/api/v1/accounts/a03/explain", {"scorecard": "x: ["})).status_code == 422


async def test_reading_is_enough_and_needed(service: Api) -> None:
    for scope, status in (("read", 200), ("write", 403), ("ingest", 403)):
        headers = await service.key_with(scope)
        got = await service.client.get("/api/v1/accounts/a03/explain", headers=headers)
        posted = await service.client.post(PATH, json={"scorecard": DEFAULT}, headers=headers)
        assert (got.status_code, posted.status_code) == (status, status)


async def test_questions_take_turns(service: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(what_if, "WAIT_SECONDS", 0.05)
    async with service.deps.questions:
        answer = await service.post(PATH, {"scorecard": DEFAULT})
    assert answer.status_code == 503 and answer.headers["Retry-After"]
    assert (await service.post(PATH, {"scorecard": DEFAULT})).status_code == 200


async def test_the_commands(service: Api, world: World, engine: AsyncEngine, tmp_path: Path) -> None:
    card = tmp_path / "default.yaml"
    card.write_text(HARSH, encoding="utf-8")
    url = engine.url.render_as_string(hide_password=False)
    environment = {"KIZASHI_DATABASE_URL": url, "KIZASHI_RULES_DIR": str(RULES), "KIZASHI_CONSUMER_GROUP": GROUP,
                   "KIZASHI_EVENTS_TOPICS": json.dumps([TOPIC])}  # fmt: skip
    day = (world.now - timedelta(days=3)).date().isoformat()
    plain = kizashi("explain", "a03", "--day", day, "--json", environment=environment)
    assert plain.exit_code == 0, plain.output
    assert json.loads(plain.stdout)["now"] == (await service.get("/api/v1/accounts/a03/explain", day=day)).json()["now"]
    shown = kizashi("explain", "a03", "--day", day, "--scorecard", str(card), environment=environment)
    assert shown.exit_code == 0, shown.output
    assert f"N 3 (a03), end of {day} (UTC)" in shown.stdout and "Nothing was recorded on that day." in shown.stdout
    asked = kizashi("what-if", "--scorecards", str(card), "--day", day, "--json", "--limit", "3",
                    environment=environment)  # fmt: skip
    assert asked.exit_code == 0, asked.output
    answer = json.loads(asked.stdout)
    whole = (await service.post(PATH, {"scorecard": HARSH, "day": day})).json()
    assert answer["totals"] == whole["totals"] and answer["changed"] == whole["changed"] > 3
    assert answer["items"] == whole["items"][:3]
    table = kizashi("what-if", "--scorecards", str(RULES / "scorecards"), "--day", day, environment=environment)
    assert "0 of 11 accounts would change band." in table.stdout
    table = kizashi("what-if", "--scorecards", str(card), "--day", day, environment=environment)
    assert f"{whole['changed']} of 11 accounts would change band." in table.stdout and "mostly by" in table.stdout
    one = kizashi("what-if", "--scorecards", str(card), "--day", day, "--account", "a03", environment=environment)
    assert "default@" in one.stdout and "→" in one.stdout
    for wrong in (["explain", "nobody"], ["what-if", "--scorecards", str(card), "--account", "nobody"]):
        assert kizashi(*wrong, environment=environment).exit_code == 1
    assert kizashi("explain", "a03", "--day", "soon", environment=environment).exit_code == 2
    assert kizashi("explain", "a03", "--day", "2999-01-01", environment=environment).exit_code == 2
    card.write_text("scorecard: [", encoding="utf-8")
    bad = kizashi("what-if", "--scorecards", str(card), environment=environment)
    assert bad.exit_code == 1 and "default.yaml:1:" in bad.stderr
