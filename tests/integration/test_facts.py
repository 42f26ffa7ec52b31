"""Facts come out of a real Postgres as the columns they went in as."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from health import facts as facts_door
from health.catalogue import SCORE_SIGNALS, SIGNALS, SignalRef
from health.custom import load as load_custom
from health.gaps import Observed
from health.instants import NEVER, to_us
from health.rhythm import SHIPPED
from health.signals import compute
from health.tables import (
    account_attributes,
    account_history,
    account_months,
    accounts,
    feature_months,
    features,
    health,
    record_events,
    records,
    user_months,
)

NOW = datetime(2025, 3, 2, 9, 30, tzinfo=UTC)
OBSERVED = Observed(NOW)
FLEET = replace(SHIPPED, features=("export", "import", "share"))


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def register(value: Any, at: datetime) -> dict[str, Any]:
    return {"v": value, "t": to_us(at), "k": "test:1"}


def month_of(counts: dict[int, int]) -> list[int]:
    return [counts.get(day, 0) for day in range(1, 32)]


def mask(*days: int) -> int:
    return sum(1 << (day - 1) for day in days)


def record(account_id: str, kind: str, record_id: str, taken: dict[str, datetime], **more: Any) -> dict[str, Any]:
    status = max(taken, key=lambda name: taken[name])
    fields = {f"{name}_at": register(at.isoformat(), at) for name, at in taken.items()}
    fields["status"] = register(status, taken[status])
    fields |= {name: register(value, taken[status]) for name, value in more.items()}
    times = sorted(taken.values())
    return {"account_id": account_id, "kind": kind, "record_id": record_id, "first_at": times[0], "last_at": times[-1],
            "fields": fields}  # fmt: skip


async def store(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await conn.execute(
            accounts.insert(),
            [
                {"account_id": "acme", "first_event_at": ago(90), "last_event_at": ago(1), "started_at": ago(100),
                 "last_login_at": ago(14), "last_activity_at": ago(1), "last_contact_at": None, "changed_at": NOW},
                {"account_id": "日本", "first_event_at": ago(30), "last_event_at": ago(30), "started_at": None,
                 "last_login_at": None, "last_activity_at": None, "last_contact_at": ago(2.5), "changed_at": NOW},
            ],
        )  # fmt: skip
        await conn.execute(health.insert(), [{"account_id": "only-listed", "created_at": ago(5)}])
        await conn.execute(
            account_attributes.insert(),
            {"account_id": "acme", "fields": {
                "plan": register("pro", ago(80)), "mrr": register(1200.5, ago(80)), "seats": register(4, ago(80)),
                "renewal_on": register("2025-04-01", ago(80)), "owner": register(None, ago(80)),
                "name": register("Acme 株式会社", ago(80)), "timezone": register("Asia/Tokyo", ago(80)),
                "country": register("JP", ago(80))}},
        )  # fmt: skip
        history: list[tuple[str, object, int]] = [
            ("mrr", 1000, 99),
            ("mrr", 1200.5, 80),
            ("seats", 5, 80),
            ("seats", 4, 20),
        ]
        history += [("plan", "basic", 80), ("plan", "basic", 70), ("plan", "pro", 40), ("plan", "pro", 10)]
        await conn.execute(
            account_history.insert(),
            [{"account_id": "acme", "attribute": name, "valid_from": ago(days), "event_key": f"test:{days}",
              "value": value, "known_at": NOW} for name, value, days in history],
        )  # fmt: skip
        await conn.execute(
            account_months.insert(),
            [
                {"account_id": "acme", "month": date(2025, 2, 1), "logins": month_of({16: 2}),
                 "events": month_of({16: 5, 28: 7}), "active_days": mask(16, 28)},
                {"account_id": "acme", "month": date(2025, 3, 1), "logins": month_of({}),
                 "events": month_of({1: 3}), "active_days": mask(1)},
            ],
        )  # fmt: skip
        await conn.execute(
            user_months.insert(),
            [
                {"account_id": "acme", "month": date(2025, 2, 1), "user_id": "u1", "active_days": mask(16),
                 "last_at": ago(14)},
                {"account_id": "acme", "month": date(2025, 3, 1), "user_id": "u1", "active_days": mask(1),
                 "last_at": ago(1)},
                {"account_id": "acme", "month": date(2025, 2, 1), "user_id": "u2", "active_days": mask(28),
                 "last_at": ago(2)},
                {"account_id": "acme", "month": date(2025, 1, 1), "user_id": "u3", "active_days": mask(5),
                 "last_at": ago(56)},
            ],
        )  # fmt: skip
        await conn.execute(
            features.insert(),
            {"account_id": "acme", "feature": "export", "first_at": ago(60), "last_at": ago(20), "quantity": 1000},
        )
        await conn.execute(
            feature_months.insert(),
            [
                {"account_id": "acme", "month": date(2025, 2, 1), "feature": "export", "quantities": month_of({}),
                 "active_days": mask(10)},
                {"account_id": "acme", "month": date(2025, 3, 1), "feature": "odd", "quantities": month_of({}),
                 "active_days": mask(1)},
                {"account_id": "acme", "month": date(2024, 1, 1), "feature": "odd", "quantities": month_of({}),
                 "active_days": mask(1, 31)},
            ],
        )  # fmt: skip
        await conn.execute(
            records.insert(),
            [
                record("acme", "ticket", "t1", {"open": ago(9), "pending": ago(8)}),
                record("acme", "ticket", "t2", {"open": ago(9), "solved": ago(2)}),
                record("acme", "ticket", "old", {"open": ago(300)}),
                record("acme", "payment", "p1", {"failed": ago(3)}),
                record("acme", "payment", "p2", {"failed": ago(3), "paid": ago(1)}),
                record("acme", "milestone", "live", {"planned": ago(50)}, due_on="2025-02-20"),
                record("acme", "milestone", "kickoff", {"reached": ago(95)}),
                record("acme", "goal", "g1", {"set": ago(50), "reached": ago(5)}),
                record(
                    "acme",
                    "goal",
                    "g2",
                    {"set": ago(20)},
                    due_on="2025-04-01",
                    signal="seat_utilisation",
                    target="80 %",
                ),
                record(
                    "acme",
                    "goal",
                    "g3",
                    {"set": ago(40)},
                    due_on="2025-03-12",
                    signal="active_users_28d",
                    target=8,
                    name="全員で利用",
                ),
                record("acme", "goal", "g4", {"dropped": ago(40)}, signal="hours_saved", target=8),
                record("acme", "session", "w1", {"held": ago(3)}),
                record("acme", "session", "w2", {"held": ago(60)}),
                record("acme", "survey", "s1", {"given": ago(200)}, survey="nps", score=3),
                record("acme", "survey", "s2", {"given": ago(12)}, survey="csat", score=5),
            ],
        )


async def test_signals_from_stored_facts(engine: AsyncEngine) -> None:
    await store(engine)
    refs = [SignalRef(name, "export" if signal.parameter else None) for name, signal in SIGNALS.items()]
    async with engine.connect() as conn:
        facts = await facts_door.read(conn, ["日本", "acme", "unheard-of", "only-listed"], now=NOW, fleet=FLEET)
    row = compute(facts, [NOW], refs, OBSERVED).row(1)
    rhythm = [row.pop(name) for name in ("silence_ratio", "usual_pause", "pause_tail", "churn_odds")]
    assert None not in rhythm
    assert row == {
        "days_since_login": 14, "days_since_activity": 1, "business_days_since_login": 9,
        "business_days_since_activity": 0, "logins_7d": 0, "logins_14d": 0, "logins_28d": 2, "logins_90d": 2,
        "events_7d": 10, "events_14d": 10, "events_28d": 15, "events_90d": 15, "active_days_7d": 2,
        "active_days_14d": 2, "active_days_28d": 3, "active_days_90d": 3, "usage_change_28d": None,
        "usage_change_7d_28d": 1.0 * (10 - 5 / 4) / (5 / 4), "usage_change_28d_year": None, "active_users_7d": 2,
        "active_users_14d": 2, "active_users_28d": 2, "active_users_90d": 3, "weekly_active_share": 1,
        "champion_silent_days": 0, "champion_gone": 0, "seat_utilisation": 0.5,
        "seat_utilisation_change_28d": 2 / 4 - 0 / 5, "features_used_7d": 1, "features_used_14d": 1,
        "features_used_28d": 2, "features_used_90d": 2, "feature_breadth_90d": 1 / 3, "features_never_used": 2,
        "feature_used['export']": 1, "days_since_feature['export']": 20, "days_to_renewal": 30,
        "business_days_to_renewal": 20, "mrr": 1200.5, "mrr_change_28d": 0.0, "mrr_change_90d": 0.2005, "seats": 4,
        "failed_payments": 1, "failed_payments_30d": 1, "payment_days_overdue": 3, "plan": "pro", "status": None,
        "segment": None, "touch_model": None, "country": "JP", "timezone": "Asia/Tokyo", "owner": None,
        "open_tickets": 2, "tickets_opened_7d": 0, "tickets_opened_28d": 2, "ticket_spike": 0,
        "hours_to_resolve_90d": 7 * 24, "nps_last": 3, "nps_detractor": 1, "csat_last": 5, "days_since_survey": 12,
        "days_since_contact": 100, "business_days_since_contact": 66, "sessions_attended_28d": 1,
        "sessions_attended_90d": 2, "days_since_start": 100, "onboarding_day": None, "milestones_done": 1,
        "onboarding_overdue_milestones": 1, "goals_reached": 1, "goals_reached_share": 1 / 3,
        "goals_progress": (1 + 0.5 / 0.8 + 2 / 8) / 3, "goals_on_track": 2 / 3, "goals_behind": 1, "goals_overdue": 0,
        "goal_most_behind": "全員で利用: 2 (≥ 8)", "lifecycle_stage": "renewal",
        **dict.fromkeys(name for name, signal in SIGNALS.items() if "health" in signal.needs), "children": 0,
        "parent_account_id": None, **dict.fromkeys(SCORE_SIGNALS),
    }  # fmt: skip
    assert facts.texts["name"][1] == "Acme 株式会社"
    sparse = compute(facts, [NOW], refs, OBSERVED)
    assert sparse.row(0)["days_since_login"] == 30
    assert sparse.row(0)["days_since_contact"] == 2
    assert set(sparse.row(2).values()) == {None}
    assert sparse.row(3)["days_since_login"] == 5


async def test_history_tells_since_when_a_value_stands(engine: AsyncEngine) -> None:
    await store(engine)
    async with engine.connect() as conn:
        facts = await facts_door.read(conn, ["acme"], now=NOW, history=True)
    assert facts.known_from["plan"][0] == to_us(ago(40))
    assert facts.known_from["owner"][0] == NEVER
    plan = compute(facts, [ago(41), ago(40), NOW], [SignalRef("plan")], OBSERVED).columns["plan"][0]
    assert plan.tolist() == [None, "pro", "pro"]


async def test_of_several_values_of_one_instant_the_greatest_key_counts(engine: AsyncEngine) -> None:
    rows = [("b", "mrr", 5, "z", 30), ("b", "mrr", 5, "Z", 20), ("b", "mrr", 5, "é", 40), ("b", "seats", 5, "a", 7),
            ("a", "mrr", 5, "a", 1), ("a", "mrr", 9, "b", 2), ("b", "mrr", 9, "b", 3)]  # fmt: skip
    async with engine.begin() as conn:
        await conn.execute(
            account_history.insert(),
            [{"account_id": account_id, "attribute": name, "valid_from": ago(days), "event_key": key, "value": value,
              "known_at": NOW} for account_id, name, days, key, value in rows],
        )  # fmt: skip
        kept = (await facts_door.read(conn, ["b", "a"], now=NOW)).history
    found = [(place, name, value) for place, name, value in zip(kept.account, kept.attribute, kept.value, strict=True)]
    assert [each for each in found if each[1] == "mrr"] == [(0, "mrr", 3), (0, "mrr", 40), (1, "mrr", 2), (1, "mrr", 1)]
    assert [each for each in found if each[1] == "seats"] == [(0, "seats", 7)]


async def test_nothing_stored_and_nothing_asked(engine: AsyncEngine) -> None:
    async with engine.connect() as conn:
        empty = await facts_door.read(conn, [], now=NOW)
        unknown = await facts_door.read(conn, ["x"], now=NOW)
    assert len(empty) == 0
    assert unknown.events.shape == (1, 364 + 28 + facts_door.LOOK_BACK_DAYS)


async def test_only_what_the_signals_need_is_read(engine: AsyncEngine) -> None:
    await store(engine)
    async with engine.connect() as conn:
        whole = await facts_door.read(conn, ["acme"], now=NOW, fleet=FLEET)
        for name, signal in SIGNALS.items():
            ref = SignalRef(name, "export" if signal.parameter else None)
            part = await facts_door.read(conn, ["acme"], now=NOW, fleet=FLEET, refs=[ref])
            assert compute(part, [NOW], [ref], OBSERVED).row(0) == compute(whole, [NOW], [ref], OBSERVED).row(0)
    part = await read_plain(engine, "days_since_login")
    assert part.events.sum() == 0
    assert not any(len(rows.account) for rows in (part.users, part.features, part.tickets, part.surveys))


async def test_counts_of_a_year_are_read_where_a_signal_looks_that_far(engine: AsyncEngine) -> None:
    months = [date(2023, 12, 1), *(date(2024, month, 1) for month in range(1, 13))]
    months += [date(2025, 1, 1), date(2025, 2, 1), date(2025, 3, 1)]
    async with engine.begin() as conn:
        await conn.execute(
            account_months.insert(),
            [{"account_id": "acme", "month": month, "logins": [1] * 31, "events": [number] * 31,
              "active_days": (1 << 31) - 1} for number, month in enumerate(months, start=1)],
        )  # fmt: skip
        await conn.execute(accounts.insert(), {"account_id": "acme", "started_at": ago(500), "changed_at": NOW})
        year, logins = SignalRef("usage_change_28d_year"), SignalRef("logins_28d")
        both = await facts_door.read(conn, ["acme"], now=NOW, refs=[year, logins])
        one = await facts_door.read(conn, ["acme"], now=NOW, refs=[year])
        marks = await facts_door.read(conn, ["acme"], now=NOW, refs=[SignalRef("active_days_7d")])
    recent, then = 26 * 15 + 2 * 16, 25 * 3 + 3 * 4  # 2025-02-03 to 03-02; 2024-02-05 to 03-03
    row = {"usage_change_28d_year": (recent - then) / then, "logins_28d": 28}
    assert compute(both, [NOW], [year, logins], OBSERVED).row(0) == row
    assert both.active.all() and both.events.all() and both.logins.all()
    assert one.active.all() and one.events.all() and not one.logins.any()
    assert marks.active.all() and not marks.events.any() and not marks.logins.any()


async def test_a_goal_is_measured_by_a_signal_that_nothing_else_names(engine: AsyncEngine) -> None:
    await store(engine)
    refs = [SignalRef("goals_progress")]
    async with engine.connect() as conn:
        facts = await facts_door.read(conn, ["acme"], now=NOW, refs=refs)
    assert len(facts.users.account) and facts.goals.signal.tolist().count("active_users_28d") == 1
    assert compute(facts, [NOW], refs, OBSERVED).row(0)["goals_progress"] == (1 + 0.5 / 0.8 + 2 / 8) / 3


async def read_plain(engine: AsyncEngine, name: str) -> Any:
    async with engine.connect() as conn:
        return await facts_door.read(conn, ["acme"], now=NOW, refs=[SignalRef(name)])


async def test_signals_of_configuration(engine: AsyncEngine, tmp_path: Path) -> None:
    await store(engine)
    async with engine.begin() as conn:
        await conn.execute(account_months.update().values(logins=month_of({1: 3, 28: 2})))
        await conn.execute(
            feature_months.insert(),
            {"account_id": "日本", "month": date(2025, 2, 1), "feature": "export",
             "quantities": month_of({2: 9000, 4: 1500, 20: 500}), "active_days": mask(2, 4, 20)},
        )  # fmt: skip
        await conn.execute(
            record_events.insert(),
            [{"account_id": account_id, "kind": "custom", "record_id": name, "at": ago(days), "event_key": f"t:{days}",
              "user_id": user, "data": {"name": name, "value": value, "properties": {"tier": tier}}, "known_at": NOW}
             for account_id, name, days, user, value, tier in (
                 ("日本", "upload", 1, "u1", 4.5, "a"), ("日本", "upload", 2, "u1", None, "b"),
                 ("日本", "upload", 6.9, "u2", 2, "a"), ("日本", "upload", 7.1, "u3", 100, "a"),
                 ("日本", "other", 3, "u4", 50, "a"), ("acme", "upload", 3, "u5", 7, "c"))],
        )  # fmt: skip
    lines = (
        "name: exports, measure: sum, event: usage, of: quantity, where: {feature: export}, days: 28",
        "name: use_days, measure: distinct, event: usage, of: day, days: 28",
        "name: logins_3d, measure: count, event: login, days: 3",
        "name: uploads, measure: count, event: custom, where: {name: upload}, days: 7",
        "name: bytes, measure: sum, event: custom, of: value, where: {name: [upload], properties.tier: a}, days: 7",
        "name: people, measure: distinct, event: custom, of: user, days: 7",
        "name: tier, measure: last, event: custom, of: properties.tier, where: {name: upload}, type: text",
        "name: sized, measure: last, event: custom, of: value, where: {name: upload}",
        "name: town, measure: attribute, of: name, type: text",
    )
    text = "".join(f"  - {{{line}, meaning: {{en: ours, ja: 自社}}}}\n" for line in lines)
    tmp_path.joinpath("signals.yaml").write_text("signals:\n" + text)
    custom = load_custom(tmp_path)
    refs = [SignalRef(name) for name in custom]
    async with engine.connect() as conn:
        facts = await facts_door.read(conn, ["acme", "unheard-of", "日本"], now=NOW, refs=refs, custom=custom)
    assert compute(facts, [NOW], refs, OBSERVED).row(2) == {
        "exports": 2.0, "use_days": 2, "logins_3d": 0, "uploads": 3, "bytes": 6.5, "people": 3, "tier": "a",
        "sized": 4.5, "town": None,
    }  # fmt: skip
    acme = compute(facts.take(np.array([2, 0])), [NOW], refs, OBSERVED).row(1)
    assert (acme["uploads"], acme["tier"], acme["town"], acme["logins_3d"]) == (1, "c", "Acme 株式会社", 5)


async def test_a_naive_now_is_refused(engine: AsyncEngine) -> None:
    async with engine.connect() as conn:
        with pytest.raises(ValueError, match="no time zone"):
            await facts_door.read(conn, ["x"], now=datetime(2025, 1, 1))  # noqa: DTZ001 - what it refuses
