"""The read path: lists that page without skipping, filters, courses over time, ETags."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.tables import rulebooks
from consumers.tables import dead_letters, stream_offsets
from health.custom import load as load_custom
from health.tables import (
    account_attributes,
    account_history,
    account_months,
    accounts,
    feature_months,
    gaps,
    people,
    record_events,
    score_history,
    user_months,
)
from tests.api import DAY, NOW, Api, add_accounts, add_alert, api


@pytest.fixture
async def service(engine: AsyncEngine) -> AsyncIterator[Api]:
    async with api(engine) as made:
        yield made


async def pages(service: Api, path: str, cursor: str = "cursor", **query: Any) -> list[dict[str, Any]]:
    """All items, page by page."""
    found: list[dict[str, Any]] = []
    following: str | None = None
    while True:
        answer = await service.get(path, **query, **({} if following is None else {cursor: following}))
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        following = answer.json()["next_cursor"]
        if following is None:
            return found


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["account_id"] for item in items]


ROWS = [
    {
        "account_id": f"a{number:02}",
        "score": None if number % 5 == 4 else float(number * 7 % 4),
        "mrr_at_risk": None if number % 6 == 5 else Decimal(number * 5 % 3),
        "last_seen_at": None if number % 4 == 3 else NOW - (number * 11 % 5) * DAY,
        "renewal_on": None if number % 7 == 6 else date(2026, 6, 1 + number * 3 % 4),
    }
    for number in range(30)
]


@pytest.mark.parametrize(
    ("sort", "field", "sign"),
    [
        ("score", "score", 1),
        ("mrr_at_risk", "mrr_at_risk", -1),
        ("last_seen", "last_seen_at", 1),
        ("renewal", "renewal_on", 1),
    ],
)
@pytest.mark.parametrize("limit", [1, 4, 200])
async def test_pages_are_the_whole_list_in_order(
    service: Api, engine: AsyncEngine, sort: str, field: str, sign: int, limit: int
) -> None:
    await add_accounts(engine, *ROWS)

    def place(row: dict[str, Any]) -> tuple[bool, float, str]:
        value = row[field]
        if isinstance(value, datetime):
            value = value.timestamp()
        elif isinstance(value, date):
            value = value.toordinal()
        return value is None, 0 if value is None else sign * float(value), row["account_id"]

    expected = [row["account_id"] for row in sorted(ROWS, key=place)]
    assert ids(await pages(service, "/api/v1/accounts", sort=sort, limit=limit)) == expected


async def test_rows_that_arrive_meanwhile_shift_nothing(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, *({"account_id": f"m{number}", "score": float(number)} for number in range(6)))
    first = (await service.get("/api/v1/accounts", sort="score", limit=3)).json()
    await add_accounts(engine, {"account_id": "early", "score": 0.5}, {"account_id": "late", "score": 4.5})
    second = (await service.get("/api/v1/accounts", sort="score", limit=50, cursor=first["next_cursor"])).json()
    assert ids(first["items"]) == ["m0", "m1", "m2"]
    assert ids(second["items"]) == ["m3", "m4", "late", "m5"]


async def test_filters(service: Api, engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await conn.execute(insert(people).values(person_id="aiko", name="Aiko Tanaka", updated_at=NOW))
    await add_accounts(
        engine,
        {
            "account_id": "1",
            "name": "Acme 100%",
            "band": "red",
            "owner": "aiko",
            "plan": "pro",
            "mrr": Decimal("900.5"),
        },
        {"account_id": "2", "name": "Bright_Co", "band": "yellow", "owner": "ben", "plan": "pro", "mrr": Decimal(100)},
        {"account_id": "3/x", "name": None, "band": "green", "renewal_on": date(2026, 6, 1)},
        {"account_id": "4", "name": "Gone", "band": "red", "status": "ended"},
    )
    await add_alert(engine, "2", "usage-drop")
    await add_alert(engine, "1", "usage-drop", state="resolved", closed_at=NOW)

    async def found(**query: Any) -> set[str]:
        return set(ids(await pages(service, "/api/v1/accounts", **query)))

    assert await found() == {"1", "2", "3/x"}
    assert await found(include_ended="true") == {"1", "2", "3/x", "4"}
    assert await found(band="red") == {"1"}
    assert await found(band=["red", "yellow"]) == {"1", "2"}
    assert await found(owner="aiko") == {"1"}
    assert await found(plan="pro", min_mrr="900.5") == {"1"}
    assert await found(renews_before="2026-06-01") == set()
    assert await found(renews_before="2026-06-02") == {"3/x"}
    assert await found(rule="usage-drop") == {"2"}
    assert await found(text="ACME") == {"1"}
    assert await found(text="%") == {"1"}
    assert await found(text="_") == {"2"}
    assert await found(text="3/") == {"3/x"}
    [item] = await pages(service, "/api/v1/accounts", rule="usage-drop")
    assert item["alerts"][0]["reason"]["en"] == "No login for 14 days"
    [item] = await pages(service, "/api/v1/accounts", owner="aiko")
    assert (item["owner_name"], item["mrr"]) == ("Aiko Tanaka", 900.5)
    choices = (await service.get("/api/v1/filters")).json()
    assert [owner["owner"] for owner in choices["owners"]] == ["aiko", "ben"]
    assert choices["rules"] == [{"rule_id": "usage-drop", "open_episodes": 1}]


async def test_an_owner_is_named_by_id_or_by_address(service: Api, engine: AsyncEngine) -> None:
    twins = [
        {"person_id": person_id, "name": person_id.upper(), "email": "Shared@Example.com", "updated_at": NOW}
        for person_id in ("aiko", "ben")
    ]
    async with engine.begin() as conn:
        await conn.execute(insert(people), twins)
    await add_accounts(
        engine,
        {"account_id": "1", "owner": "ben"},
        {"account_id": "2", "owner": "shared@example.com"},
        {"account_id": "3", "owner": "nobody@example.com"},
    )
    await add_alert(engine, "2", owner="shared@example.com")
    items = await pages(service, "/api/v1/accounts", sort="score", limit=1)
    assert [(item["account_id"], item["owner_name"]) for item in items] == [("1", "BEN"), ("2", "AIKO"), ("3", None)]
    assert (await service.get("/api/v1/accounts/2")).json()["owner_person"]["person_id"] == "aiko"
    assert [alert["owner_name"] for alert in await pages(service, "/api/v1/alerts")] == ["AIKO"]
    owners = (await service.get("/api/v1/filters")).json()["owners"]
    assert {owner["owner"]: owner["name"] for owner in owners} == {
        "ben": "BEN",
        "aiko": "AIKO",
        "nobody@example.com": None,
    }


async def test_an_owner_is_one_person_however_named(service: Api, engine: AsyncEngine) -> None:
    """By id, or by address in whatever case; an address that two people share means the first of them."""
    found = [
        {"person_id": person_id, "name": person_id.upper(), "email": email, "updated_at": NOW}
        for person_id, email in (("aiko", "Aiko@Example.com"), ("ben", "aiko@example.com"), ("chie", None))
    ]
    async with engine.begin() as conn:
        await conn.execute(insert(people), found)
    for number, owner in enumerate(("aiko", "aiko@example.com", "AIKO@example.com", "ben", "chie", "nobody")):
        await add_accounts(engine, {"account_id": str(number), "owner": owner})
        await add_alert(engine, str(number), owner=owner)
    expected = {
        "aiko": "012", "Aiko@example.COM": "012", "ben": "3", "chie": "4", "nobody": "5", "else": "",
    }  # fmt: skip
    for owner, owned in expected.items():
        for path in ("/api/v1/accounts", "/api/v1/alerts"):
            assert sorted(ids(await pages(service, path, owner=owner))) == list(owned), (path, owner)
    assert sorted(ids(await pages(service, "/api/v1/accounts", owner=["ben", "aiko"]))) == list("0123")
    choices = (await service.get("/api/v1/filters")).json()["owners"]
    assert {choice["owner"]: choice["accounts"] for choice in choices} == {"aiko": 3, "ben": 1, "chie": 1, "nobody": 1}


async def test_the_worst_three_alerts_stand_on_the_list(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1", "open_alerts": 4})
    for rule_id, severity in (("a", "info"), ("b", "critical"), ("c", "warning"), ("d", "info")):
        await add_alert(engine, "1", rule_id, severity=severity)
    [item] = await pages(service, "/api/v1/accounts")
    assert [alert["rule_id"] for alert in item["alerts"]][:2] == ["b", "c"]
    assert len(item["alerts"]) == 3


async def test_the_list_says_how_fresh_it_is_and_is_sent_once(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1", "score": 20.0})
    complete = [NOW - timedelta(seconds=5), NOW - timedelta(seconds=3)]
    async with engine.begin() as conn:
        await conn.execute(
            insert(stream_offsets),
            [
                {
                    "group_id": "kizashi",
                    "topic": "kizashi.events",
                    "partition": partition,
                    "next_offset": 0,
                    "complete_through": through,
                    "updated_at": NOW,
                }
                for partition, through in enumerate(complete)
            ],
        )
    first = await service.get("/api/v1/accounts")
    assert first.json()["as_of"] == "2026-05-01T11:59:55Z"
    assert first.json()["held_since"] is None
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    async with engine.begin() as conn:
        await conn.execute(update(stream_offsets).values(complete_through=NOW))
    again = await service.client.get("/api/v1/accounts", headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    async with engine.begin() as conn:
        await conn.execute(insert(gaps).values(from_at=NOW - DAY, state="open", reason="silence", noticed_at=NOW))
    held = await service.client.get("/api/v1/accounts", headers={"If-None-Match": tag})
    assert held.status_code == 200
    assert held.json()["held_since"] == "2026-04-30T12:00:00Z"
    account = await service.get("/api/v1/accounts/1")
    unchanged = await service.client.get("/api/v1/accounts/1", headers={"If-None-Match": account.headers["ETag"]})
    assert unchanged.status_code == 304


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/v1/accounts", {"cursor": "nonsense"}),
        ("/api/v1/accounts", {"cursor": "WyJhbGVydHMi"}),
        ("/api/v1/accounts", {"band": "purple"}),
        ("/api/v1/accounts", {"limit": "201"}),
        ("/api/v1/accounts", {"limit": "0"}),
        ("/api/v1/accounts", {"colour": "red"}),
        ("/api/v1/accounts", {"text": "a\x00b"}),
        ("/api/v1/accounts", {"min_mrr": "NaN"}),
        ("/api/v1/accounts", {"min_mrr": "1e400"}),
        ("/api/v1/accounts", {"min_mrr": "1e-999999"}),
        ("/api/v1/accounts", {"renews_before": "tomorrow"}),
        ("/api/v1/accounts", {"renews_before": "17000000"}),
        ("/api/v1/alerts", {"acknowledged": "perhaps"}),
        ("/api/v1/dead-letters/99999999999999999999", {}),
    ],
)
async def test_bad_questions_are_answered_with_field_problem_and_remedy(
    service: Api, path: str, query: dict[str, str]
) -> None:
    answer = await service.get(path, **query)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["errors"]
    assert all(error["field"] and error["problem"] and error["remedy"] for error in answer.json()["errors"])


async def test_a_cursor_belongs_to_its_order(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, *({"account_id": str(number), "score": 1.0} for number in range(3)))
    cursor = (await service.get("/api/v1/accounts", sort="score", limit=1)).json()["next_cursor"]
    assert (await service.get("/api/v1/accounts", sort="renewal", cursor=cursor)).status_code == 422
    assert (await service.get("/api/v1/alerts", cursor=cursor)).status_code == 422


async def test_portfolio_never_adds_currencies(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(
        engine,
        {"account_id": "1", "band": "red", "currency": "USD", "mrr": Decimal(100), "mrr_at_risk": Decimal(100)},
        {"account_id": "2", "band": "green", "currency": "USD", "mrr": Decimal(50), "mrr_at_risk": Decimal(0)},
        {"account_id": "3", "band": "yellow", "currency": "JPY", "mrr": Decimal(9000), "mrr_at_risk": Decimal(4500)},
        {"account_id": "4", "band": None, "currency": None},
        {"account_id": "5", "band": "red", "currency": "USD", "mrr": Decimal(7), "status": "ended"},
    )
    found = (await service.get("/api/v1/portfolio")).json()
    assert (found["accounts"], found["green"], found["yellow"], found["red"], found["unknown"]) == (4, 1, 1, 1, 1)
    assert found["totals"] == [
        {"currency": "USD", "accounts": 2, "mrr": 150, "mrr_at_risk": 100},
        {"currency": None, "accounts": 1, "mrr": 0, "mrr_at_risk": 0},
        {"currency": "JPY", "accounts": 1, "mrr": 9000, "mrr_at_risk": 4500},
    ]


async def test_account_with_everything(service: Api, engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await conn.execute(insert(people).values(person_id="aiko", name="Aiko", slack_webhook="sealed", updated_at=NOW))
    await add_accounts(
        engine,
        {
            "account_id": "a/b 1",
            "owner": "aiko",
            "score": 33.5,
            "signals": {"days_since_login": 14},
            "contributions": [{"measure": "logins_28d", "contribution": -3.0}],
        },
    )
    register = {"v": "pro", "t": 1_770_000_000_000_000, "k": "s:1"}
    async with engine.begin() as conn:
        await conn.execute(insert(account_attributes).values(account_id="a/b 1", fields={"plan": register}))
    episode_id = await add_alert(engine, "a/b 1")
    found = (await service.get("/api/v1/accounts/a%2Fb%201")).json()
    assert (found["account_id"], found["score"], found["signals"]) == ("a/b 1", 33.5, {"days_since_login": 14})
    assert found["attributes"] == {"plan": {"value": "pro", "since": "2026-02-02T02:40:00Z"}}
    assert found["owner_person"]["has_slack_webhook"] is True
    assert "sealed" not in str(found)
    assert [alert["episode_id"] for alert in found["alerts"]] == [str(episode_id)]


async def test_an_account_not_yet_evaluated_is_shown_from_its_facts(service: Api, engine: AsyncEngine) -> None:
    register = {"v": "Fresh Ltd", "t": 1_770_000_000_000_000, "k": "s:1"}
    async with engine.begin() as conn:
        await conn.execute(insert(accounts).values(account_id="new", changed_at=NOW, events=3))
        await conn.execute(insert(account_attributes).values(account_id="new", fields={"name": register}))
    found = (await service.get("/api/v1/accounts/new")).json()
    assert (found["name"], found["events"], found["score"]) == ("Fresh Ltd", 3, None)


@pytest.mark.parametrize("tail", ["", "/timeline", "/activity", "/scores"])
async def test_unknown_accounts_are_404(service: Api, tail: str) -> None:
    answer = await service.get(f"/api/v1/accounts/nobody{tail}")
    assert answer.status_code == 404
    assert "nobody" in answer.json()["detail"]


def month(day_counts: dict[int, int]) -> list[int]:
    return [day_counts.get(day, 0) for day in range(1, 32)]


async def add_history(engine: AsyncEngine) -> None:
    """An account with two months of activity, a ticket, a survey, and a plan that changed once."""
    await add_accounts(engine, {"account_id": "h"})
    at = datetime(2026, 4, 30, 9, 0, tzinfo=UTC)
    async with engine.begin() as conn:
        await conn.execute(
            update(accounts).values(last_login_at=NOW - timedelta(hours=2), last_activity_at=NOW - timedelta(hours=1))
        )
        await conn.execute(
            insert(account_months),
            [
                {
                    "account_id": "h",
                    "month": date(2026, 2, 1),
                    "logins": month({28: 1}),
                    "events": month({28: 1}),
                    "active_days": 1 << 27,
                },
                {
                    "account_id": "h",
                    "month": date(2026, 4, 1),
                    "logins": month({30: 2}),
                    "events": month({29: 4, 30: 5}),
                    "active_days": 3 << 28,
                },
                {
                    "account_id": "h",
                    "month": date(2026, 5, 1),
                    "logins": month({1: 1}),
                    "events": month({1: 2}),
                    "active_days": 1,
                },
            ],
        )
        await conn.execute(
            insert(feature_months).values(
                account_id="h",
                month=date(2026, 4, 1),
                feature="export",
                quantities=month({29: 4000}),
                active_days=1 << 28,
            )
        )
        await conn.execute(
            insert(user_months).values(
                account_id="h", month=date(2026, 4, 1), user_id="u", active_days=1 << 28, last_at=at
            )
        )
        await conn.execute(
            insert(record_events),
            [
                {
                    "account_id": "h",
                    "kind": kind,
                    "record_id": "7",
                    "at": at,
                    "event_key": f"s:{kind}",
                    "user_id": None,
                    "data": {"status": "open"},
                    "known_at": NOW,
                }
                for kind in ("ticket", "survey")
            ],
        )
        await conn.execute(
            insert(account_history),
            [
                {
                    "account_id": "h",
                    "attribute": "plan",
                    "valid_from": at - days * DAY,
                    "event_key": f"s:{days}",
                    "value": value,
                    "known_at": NOW,
                }
                for days, value in ((60, "free"), (40, "free"), (20, "pro"))
            ],
        )


async def test_timeline_newest_first_in_pages(service: Api, engine: AsyncEngine) -> None:
    await add_history(engine)
    whole = await pages(service, "/api/v1/accounts/h/timeline", "before", limit=200)
    assert [(entry["kind"], entry["day"], entry["count"]) for entry in whole] == [
        ("usage", "2026-05-01", 1),
        ("logins", "2026-05-01", 1),
        ("usage", "2026-04-30", 3),
        ("logins", "2026-04-30", 2),
        ("ticket", None, None),
        ("survey", None, None),
        ("usage", "2026-04-29", 4),
        ("attribute", None, None),
        ("attribute", None, None),
        ("logins", "2026-02-28", 1),
    ]
    assert whole[0]["last_at"] == "2026-05-01T11:00:00Z"
    assert whole[1]["last_at"] == "2026-05-01T10:00:00Z"
    assert whole[2]["last_at"] == "2026-04-30T09:00:00Z"
    assert whole[6]["data"] == {"features": {"export": 4}}
    assert whole[7]["data"] == {"value": "pro", "previous": "free"}
    for limit in (1, 2, 3):
        assert await pages(service, "/api/v1/accounts/h/timeline", "before", limit=limit) == whole


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6])
async def test_no_page_loses_the_months_below_it(service: Api, engine: AsyncEngine, limit: int) -> None:
    """A line a month: the month in which a page begins gives none to the next."""
    await add_accounts(engine, {"account_id": "sparse"})
    active = {"account_id": "sparse", "logins": month({3: 1}), "events": month({3: 1}), "active_days": 4}
    async with engine.begin() as conn:
        await conn.execute(
            insert(account_months), [{**active, "month": date(2026, number, 1)} for number in range(1, 6)]
        )
    found = await pages(service, "/api/v1/accounts/sparse/timeline", "before", limit=limit)
    assert [entry["day"] for entry in found] == [f"2026-0{number}-03" for number in (5, 4, 3, 2, 1)]


async def test_activity_crosses_months_without_leaking(service: Api, engine: AsyncEngine) -> None:
    await add_history(engine)
    found = (await service.get("/api/v1/accounts/h/activity", days=64)).json()
    assert found["start"] == "2026-02-27"
    events = dict(enumerate(found["events"]))
    assert {index: count for index, count in events.items() if count} == {1: 1, 61: 4, 62: 5, 63: 2}
    assert len(found["events"]) == len(found["logins"]) == 64


async def test_scores_over_the_last_days(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1"})
    async with engine.begin() as conn:
        await conn.execute(
            insert(score_history),
            [
                {
                    "account_id": "1",
                    "day": date(2026, 4, 1 + number),
                    "score": float(number),
                    "band": "red",
                    "scorecard": "d@1",
                }
                for number in range(30)
            ],
        )
    items = (await service.get("/api/v1/accounts/1/scores", days=3)).json()["items"]
    assert [(point["day"], point["score"]) for point in items] == [("2026-04-29", 28.0), ("2026-04-30", 29.0)]


async def test_alerts_page_and_filter(service: Api, engine: AsyncEngine) -> None:
    await add_accounts(engine, {"account_id": "1", "name": "Acme"})
    made = [
        await add_alert(engine, "1", f"r{number}", opened_at=NOW - (number // 3) * DAY, pre_existing=number == 0)
        for number in range(7)
    ]
    whole = await pages(service, "/api/v1/alerts", limit=200)
    assert {alert["episode_id"] for alert in whole} == set(map(str, made))
    assert [alert["opened_at"] for alert in whole] == sorted((alert["opened_at"] for alert in whole), reverse=True)
    assert await pages(service, "/api/v1/alerts", limit=2) == whole
    assert len(await pages(service, "/api/v1/alerts", pre_existing="true")) == 1
    assert len(await pages(service, "/api/v1/alerts", rule=["r1", "r2"], state="open")) == 2
    assert await pages(service, "/api/v1/alerts", acknowledged="true") == []
    detail = (await service.get(f"/api/v1/alerts/{made[0]}")).json()
    assert detail["alert"]["account_name"] == "Acme"
    assert detail["signals"] == {"days_since_login": 14}
    assert [step["kind"] for step in detail["transitions"]] == ["opened"]
    assert detail["deliveries"][0]["attempts"][0]["status_code"] == 404
    assert (await service.get(f"/api/v1/alerts/{uuid4()}")).status_code == 404


async def test_dead_letters_show_their_bytes(service: Api, engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        for number in range(3):
            await conn.execute(
                insert(dead_letters).values(
                    topic="t",
                    partition=0,
                    record_offset=number,
                    value=b"\xff" * 5000,
                    errors=[{"item": 0, "field": "", "problem": "is not JSON", "remedy": "send JSON"}],
                    reason="malformed",
                    created_at=NOW,
                )
            )
    whole = await pages(service, "/api/v1/dead-letters", limit=1)
    assert [letter["record_offset"] for letter in whole] == [2, 1, 0]
    assert whole[0]["value_bytes"] == 5000
    assert len(whole[0]["value"]) < 3000
    number = whole[0]["dead_letter_id"]
    assert len((await service.get(f"/api/v1/dead-letters/{number}")).json()["value"]) > 6000
    discarded = await service.post(f"/api/v1/dead-letters/{number}/discard")
    assert discarded.json()["status"] == "discarded"
    assert (await service.post(f"/api/v1/dead-letters/{number}/discard")).status_code == 409
    assert (await service.post("/api/v1/dead-letters/999/discard")).status_code == 404
    assert len(await pages(service, "/api/v1/dead-letters", status="open")) == 2


async def test_status_and_rules_of_an_empty_service(service: Api) -> None:
    status = (await service.get("/api/v1/status")).json()
    assert (status["as_of"], status["partitions"], status["undelivered"]) == (None, [], 0)
    assert (await service.get("/api/v1/rules")).json()["version"] is None
    signals = (await service.get("/api/v1/signals")).json()["items"]
    assert "days_since_login" in {signal["name"] for signal in signals}
    assert {signal["valid"] for signal in signals} == {None}


async def test_signals_of_configuration_are_listed_as_the_evaluator_runs_them(
    engine: AsyncEngine, service: Api, tmp_path: Path
) -> None:
    lines = ("name: sent_7d, measure: count, event: custom, days: 7", "name: tier, measure: attribute, of: tier")
    meaning = "meaning: {en: ours, ja: 自社}"
    text = "".join(f"  - {{{line}, {meaning}}}\n" for line in lines)
    tmp_path.joinpath("signals.yaml").write_text("signals:\n" + text, encoding="utf-8")
    content = {"signals": [signal.content for signal in load_custom(tmp_path).values()]}
    async with engine.begin() as conn:
        await conn.execute(insert(rulebooks).values(version="1", loaded_at=NOW, content=content))
    sent, tier = (await service.get("/api/v1/signals")).json()["items"][-2:]
    assert (sent["name"], sent["type"], sent["meaning"]) == ("sent_7d", "number", {"en": "ours", "ja": "自社"})
    assert sent["absence"] and not tier["absence"]
    assert sent["valid"] == {"en": "exact back to the first event", "ja": "最初のイベントまでさかのぼって正確"}
    assert "not kept" in tier["valid"]["en"]


async def test_the_list_reads_its_index(engine: AsyncEngine, service: Api) -> None:
    """A page deep in the list must not cost what lies before it."""
    await add_accounts(
        engine, *({"account_id": f"{number:05}", "mrr_at_risk": Decimal(number)} for number in range(3000))
    )
    async with engine.connect() as conn:
        await conn.exec_driver_sql("ANALYZE health")
        plan = await conn.exec_driver_sql(
            "EXPLAIN SELECT * FROM health WHERE coalesce(status, 'active') <> 'ended' AND mrr_at_risk IS NOT NULL "
            "AND mrr_at_risk <= 10 AND (mrr_at_risk < 10 OR account_id > 'x') "
            "ORDER BY mrr_at_risk DESC NULLS LAST, account_id LIMIT 51"
        )
        text = "\n".join(row[0] for row in plan)
    assert "ix_health_mrr_at_risk" in text
    assert "Sort" not in text
