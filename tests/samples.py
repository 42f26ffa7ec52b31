"""A small company for pages to show: accounts of every kind with their health, alerts, history and deliveries.

Everything is relative to ``now`` and always the same for the same ``now``. It writes what the pipeline would have
written; tests of the pipeline itself do not use it.
"""

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.tables import deliveries, delivery_attempts, episodes, rule_activations, transitions
from consumers.tables import stream_offsets
from health import tables as facts

HISTORY_DAYS = 120
NAMESPACE = uuid.UUID("8d4e6c3a-2f0b-4c53-9a38-52f0a1f6a1b7")
PEOPLE = {"aiko": "Aiko Tanaka", "ben": "Ben Okafor", "carla": "Carla Reyes"}
FEATURES = ("report", "export", "dashboard", "automation")

# name, kind, plan, MRR, currency, owner, renewal in days, segment
COMPANIES: Sequence[tuple[str, str, str, int, str, str, int, str]] = (
    ("Northwind Traders", "silent", "enterprise", 8400, "USD", "aiko", 54, "mid-market"),
    ("Brightside Clinics", "fading", "enterprise", 12500, "USD", "ben", 83, "enterprise"),
    ("Harbor Freightways", "payment", "pro", 3200, "USD", "carla", 121, "mid-market"),
    ("Kestrel Analytics", "champion", "pro", 2750, "USD", "aiko", 40, "mid-market"),
    ("Maple & Rowe", "onboarding", "pro", 1900, "USD", "ben", 301, "small"),
    ("Solstice Energy", "healthy", "enterprise", 15200, "USD", "aiko", 190, "enterprise"),
    ("Tidewater Logistics", "healthy", "pro", 4100, "USD", "carla", 77, "mid-market"),
    ("Juniper Hotels", "seasonal", "pro", 3600, "USD", "ben", 210, "mid-market"),
    ("Orchard Street Foods", "detractor", "starter", 480, "USD", "carla", 26, "small"),
    ("Blue Ridge Dental", "healthy", "starter", 390, "USD", "ben", 150, "small"),
    ("Cobalt Mining Supply", "fading", "pro", 2950, "USD", "carla", 18, "mid-market"),
    ("Lumen Schools", "healthy", "pro", 2200, "USD", "aiko", 260, "mid-market"),
    ("青葉ソフトウェア", "healthy", "pro", 380000, "JPY", "aiko", 47, "mid-market"),
    ("Pine Barrens Outfitters", "expanding", "pro", 3300, "USD", "aiko", 330, "small"),
    ("Quarry Lane Partners", "tickets", "pro", 1750, "USD", "ben", 95, "small"),
    ("Redwood Senior Living", "healthy", "enterprise", 9800, "USD", "carla", 140, "enterprise"),
    ("Stonebridge Legal", "healthy", "pro", 2600, "USD", "ben", 64, "small"),
    ("Vantage Point Media", "trial", "trial", 0, "USD", "carla", 12, "small"),
)

# measure, signal, group, weight in hundredths, reason
MEASURES: Sequence[tuple[str, str, str, int, str, str]] = (
    ("login-recency", "days_since_login", "Engagement", 25, "no login for {} days", "{}日ログインなし"),
    ("people", "active_users_28d", "Adoption", 10, "active users in 28 days: {}", "28日間の利用ユーザー{}名"),
    (
        "usage-trend",
        "usage_change_28d",
        "Engagement",
        15,
        "usage {} against the 28 days before",
        "利用量は前の28日間に対して{}",
    ),
    ("seats-in-use", "seat_utilisation", "Deployment", 20, "{} of the seats in use", "シート利用率{}"),
    ("breadth", "features_used_28d", "Adoption", 10, "features used in 28 days: {}", "28日間に使われた機能{}個"),
    ("tickets", "open_tickets", "ROI", 5, "open tickets: {}", "未解決チケット{}件"),
    ("payments", "failed_payments", "ROI", 5, "failed or overdue payments: {}", "失敗・延滞中の支払い{}件"),
    ("nps", "nps_last", "ROI", 10, "last NPS answer: {}", "直近のNPS回答{}点"),
)
# the share of each weight that is kept
SHARES: Mapping[str, Sequence[float]] = {
    "healthy": (1, 0.9, 0.8, 0.85, 0.9, 1, 1, 0.9),
    "expanding": (1, 1, 1, 1, 0.9, 1, 1, 1),
    "silent": (0, 0, 0, 0.2, 0.1, 1, 1, 0.6),
    "fading": (0.7, 0.4, 0.1, 0.4, 0.5, 0.8, 1, 0.5),
    "payment": (0.9, 0.7, 0.5, 0.6, 0.6, 0.9, 0, 0.6),
    "champion": (0.6, 0.3, 0.3, 0.4, 0.6, 0.9, 1, 0.4),
    "onboarding": (0.4, 0.2, 0.5, 0.2, 0.2, 0.8, 1, 0.5),
    "seasonal": (0.8, 0.7, 0.5, 0.8, 0.8, 1, 1, 0.8),
    "detractor": (0.6, 0.5, 0.4, 0.5, 0.5, 0.5, 1, 0),
    "tickets": (0.9, 0.6, 0.6, 0.6, 0.7, 0, 1, 0.4),
    "trial": (0.9, 0.5, 0.5, 0.3, 0.3, 1, 1, 0.5),
}
# kind: rule, severity, since days ago, reasons
ALERTS: Mapping[str, Sequence[tuple[str, str, int, str, str]]] = {
    "silent": (
        ("no-login", "critical", 8, "No login for 22 days.", "22日間ログインがありません。"),
        ("score-red", "critical", 5, "The score fell to 19 and is red now.", "スコアが19に下がり、赤になりました。"),
        ("renewal-60", "warning", 3, "The contract renews in 57 days.", "契約更新まで57日です。"),
    ),
    "fading": (
        (
            "usage-halved", "critical", 6,
            "Usage fell by 78% against the previous four weeks (213 events in the last 28 days).",
            "利用量が直前の4週間に比べて78%減少しています（直近28日間で213件）。",
        ),
    ),
    "payment": (
        ("payment-failed", "warning", 2, "1 payment stands failed or overdue.", "未払いの支払いが1件あります。"),
    ),
    "champion": (("score-fell", "warning", 4, "The score fell by 24 in 28 days.", "スコアが28日間で24下がりました。"),),
    "onboarding": (
        (
            "core-feature-unused:export", "warning", 9, "export has never been used, 39 days after the start.",
            "利用開始から39日が経過しましたが、exportは一度も使われていません。",
        ),
    ),
    "detractor": (("nps-detractor", "warning", 3, "The last NPS answer is 3.", "直近のNPSの回答は3点です。"),),
    "tickets": (("many-open-tickets", "warning", 1, "4 tickets are open.", "未解決の問い合わせが4件あります。"),),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What tests refer to: ids by the company's name."""

    now: datetime
    accounts: dict[str, str] = field(default_factory=dict)
    episodes: dict[tuple[str, str], uuid.UUID] = field(default_factory=dict)


async def fill(
    conn: AsyncConnection, now: datetime, *, topic: str = "kizashi.events", group: str = "kizashi"
) -> Sample:
    """Writes the company; ``conn`` in a transaction of the caller's."""
    sample = Sample(now=now)
    chance = random.Random(7)
    await conn.execute(insert(facts.people), [_person(key, name, now) for key, name in PEOPLE.items()])
    await conn.execute(
        insert(stream_offsets).values(
            group_id=group, topic=topic, partition=0, next_offset=1, complete_through=now, updated_at=now
        )
    )
    rules = sorted({rule for several in ALERTS.values() for rule, *_ in several})
    await conn.execute(
        insert(rule_activations),
        [{"rule_id": rule, "rule_version": "1f0c", "activated_at": now - timedelta(days=60)} for rule in rules],
    )
    for place, company in enumerate(COMPANIES):
        await _company(conn, sample, place, company, chance)
    await _closed_alert(conn, sample)
    return sample


def _person(key: str, name: str, now: datetime) -> dict[str, Any]:
    language = "ja" if key == "aiko" else "en"
    return {"person_id": key, "name": name, "email": f"{key}@example.com", "language": language, "updated_at": now}


async def _company(
    conn: AsyncConnection, sample: Sample, place: int, company: tuple[str, str, str, int, str, str, int, str],
    chance: random.Random,
) -> None:  # fmt: skip
    name, kind, plan, mrr, currency, owner, renews_in, segment = company
    account_id, now = f"acct_{1001 + place}", sample.now
    sample.accounts[name] = account_id
    counts = _course(kind, chance)
    quiet = next((days for days, (_, events) in enumerate(reversed(counts)) if events), HISTORY_DAYS)
    last_seen = now - timedelta(days=quiet, minutes=17 + 41 * place)
    started = now - timedelta(days=39 if kind == "onboarding" else 9 if kind == "trial" else 400 + 31 * place)
    contributions = _contributions(kind, quiet, chance)
    score = round(sum(line["contribution"] for line in contributions), 1)
    band = _band(score)
    row = {
        "name": name, "plan": plan, "owner": owner, "segment": segment, "mrr": Decimal(mrr), "currency": currency,
        "status": "trial" if kind == "trial" else "active", "renewal_on": now.date() + timedelta(days=renews_in),
    }  # fmt: skip
    await conn.execute(
        insert(facts.health).values(
            account_id=account_id, **row, score=score, band=band,
            mrr_at_risk=Decimal(mrr) * {"red": 2, "yellow": 1, "green": 0}[band] / 2,
            open_alerts=len(ALERTS.get(kind, ())), last_seen_at=last_seen, last_login_at=last_seen,
            signals=_signals(kind, quiet, contributions), contributions=contributions, scorecard="default@3f9ac2",
            facts_version=1, evaluated_at=now - timedelta(seconds=40),
        )
    )  # fmt: skip
    await conn.execute(
        insert(facts.accounts).values(
            account_id=account_id, first_event_at=started, last_event_at=last_seen, started_at=started,
            last_login_at=last_seen, last_activity_at=last_seen, last_contact_at=now - timedelta(days=11),
            events=sum(events for _, events in counts), logins=sum(logins for logins, _ in counts), version=1,
            changed_at=now,
        )
    )  # fmt: skip
    registers = {field: {"v": _json(value), "t": _micros(started), "k": "crm:g1"} for field, value in row.items()}
    await conn.execute(insert(facts.account_attributes).values(account_id=account_id, fields=registers))
    await conn.execute(insert(facts.account_months), _months(account_id, counts, now))
    await conn.execute(insert(facts.feature_months), _feature_months(account_id, counts, now))
    await conn.execute(insert(facts.score_history), _scores(account_id, kind, score, now))
    await conn.execute(insert(facts.account_history), _history(account_id, plan, mrr, started, now))
    await conn.execute(insert(facts.record_events), _records(account_id, kind, now))
    for rule, severity, days, english, japanese in ALERTS.get(kind, ()):
        reason = {"en": english, "ja": japanese}
        await _alert(conn, sample, name, row, rule, severity, days, reason, score, contributions)


def _band(score: float) -> str:
    return "green" if score >= 70 else "yellow" if score >= 40 else "red"


def _json(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value.isoformat() if isinstance(value, date) else value


def _micros(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


def _course(kind: str, chance: random.Random) -> list[tuple[int, int]]:
    """(logins, events) per day, oldest first, today last."""
    made = []
    for day in range(HISTORY_DAYS):
        ago = HISTORY_DAYS - 1 - day
        level = {"expanding": 30 + day / 3, "onboarding": 6, "trial": 9, "seasonal": 18 if ago > 40 else 11}.get(
            kind, 34
        )
        if kind == "fading":
            level = 40 if ago > 50 else max(3.0, 40 * ago / 50)
        if kind == "champion" and ago < 30:
            level = 12
        if kind == "silent" and ago < 50:
            level = max(0.0, 34 * (ago - 22) / 28)
        if (kind == "onboarding" and ago > 39) or (kind == "trial" and ago > 9) or (kind == "silent" and ago <= 22):
            level = 0
        weekend = 0.25 if ago % 7 in {2, 3} and ago > 0 else 1.0
        events = int(level * weekend * chance.uniform(0.6, 1.4))
        made.append((events // 5 + (1 if events else 0), events + (1 if events else 0)))
    return made


def _contributions(kind: str, quiet: int, chance: random.Random) -> list[dict[str, Any]]:
    values: dict[str, Any] = {
        "days_since_login": quiet, "active_users_28d": 4, "usage_change_28d": -0.12, "seat_utilisation": 0.46,
        "features_used_28d": 3, "open_tickets": 4 if kind == "tickets" else 0,
        "failed_payments": 1 if kind == "payment" else 0, "nps_last": 3 if kind == "detractor" else 8,
    }  # fmt: skip
    lines: list[dict[str, Any]] = [
        {
            "measure": "full_mark", "group": None, "signal": None, "value": None, "points": 100.0, "weight": 1.0,
            "contribution": 100.0, "reason": {"en": "full mark", "ja": "満点"},
        }
    ]  # fmt: skip
    for (measure, signal, group, weight, english, japanese), share in zip(MEASURES, SHARES[kind], strict=True):
        kept = min(1.0, max(0.0, share + (chance.uniform(-0.08, 0.08) if 0 < share < 1 else 0)))
        value = values[signal]
        spoken = f"{value:.0%}" if isinstance(value, float) else value
        lines.append(
            {
                "measure": measure, "group": group, "signal": signal, "value": value, "points": round(100 * kept, 1),
                "weight": weight / 100, "contribution": -round(weight * (1 - kept), 1) + 0.0,
                "reason": {"en": english.format(spoken), "ja": japanese.format(spoken)},
            }
        )  # fmt: skip
    return lines


def _signals(kind: str, quiet: int, contributions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    change = {"silent": -41.0, "fading": -27.5, "champion": -24.0, "expanding": 6.5, "payment": -9.0}.get(kind, -0.4)
    return {
        **{line["signal"]: line["value"] for line in contributions if line["signal"]},
        "days_since_activity": quiet, "score_change_28d": change, "logins_7d": 9, "days_since_feature['export']": None,
        "feature_used['report']": True,
    }  # fmt: skip


def _months(account_id: str, counts: Sequence[tuple[int, int]], now: datetime) -> list[dict[str, Any]]:
    months: dict[date, dict[str, Any]] = {}
    for day, (logins, events) in _by_day(counts, now):
        month = day.replace(day=1)
        row = months.setdefault(
            month, {"account_id": account_id, "month": month, "logins": [0] * 31, "events": [0] * 31, "active_days": 0}
        )
        row["logins"][day.day - 1], row["events"][day.day - 1] = logins, events
        row["active_days"] |= (1 << (day.day - 1)) if events else 0
    return list(months.values())


def _feature_months(account_id: str, counts: Sequence[tuple[int, int]], now: datetime) -> list[dict[str, Any]]:
    rows: dict[tuple[date, str], dict[str, Any]] = {}
    for day, (logins, events) in _by_day(counts, now):
        for place, feature in enumerate(FEATURES[:3]):
            quantity = (events - logins) // (place + 2)
            key = (day.replace(day=1), feature)
            row = rows.setdefault(
                key,
                {
                    "account_id": account_id,
                    "month": key[0],
                    "feature": feature,
                    "quantities": [0] * 31,
                    "active_days": 0,
                },
            )
            row["quantities"][day.day - 1] = quantity * facts.QUANTITY_SCALE
    return list(rows.values())


def _by_day(counts: Sequence[tuple[int, int]], now: datetime) -> list[tuple[date, tuple[int, int]]]:
    today = now.astimezone(UTC).date()
    return [(today - timedelta(days=len(counts) - 1 - place), both) for place, both in enumerate(counts)]


def _scores(account_id: str, kind: str, score: float, now: datetime) -> list[dict[str, Any]]:
    start = {"healthy": score - 3, "expanding": score - 14, "onboarding": 52.0, "trial": 50.0}.get(kind, 84.0)
    days = 39 if kind == "onboarding" else 9 if kind == "trial" else 90
    rows = []
    for ago in range(days, -1, -1):
        gone = min(1.0, max(0.0, (50 - ago) / 50)) if days == 90 else (days - ago) / days
        value = round(start + (score - start) * gone + (ago % 5 - 2) * 0.6, 1) if ago else score
        day = now.date() - timedelta(days=ago)
        rows.append(
            {"account_id": account_id, "day": day, "score": value, "band": _band(value), "scorecard": "default"}
        )
    return rows


def _history(account_id: str, plan: str, mrr: int, started: datetime, now: datetime) -> list[dict[str, Any]]:
    def row(attribute: str, value: Any, at: datetime, key: str) -> dict[str, Any]:
        return {
            "account_id": account_id, "attribute": attribute, "valid_from": at, "event_key": key, "value": value,
            "known_at": at,
        }  # fmt: skip

    return [
        row("plan", "starter" if plan != "trial" else "trial", started, "crm:g1"),
        row("plan", plan, now - timedelta(days=8, hours=3), "crm:g2"),
        row("mrr", mrr, now - timedelta(days=8, hours=3), "crm:g2"),
    ]


def _records(account_id: str, kind: str, now: datetime) -> list[dict[str, Any]]:
    def row(record: str, record_id: str, days: float, **data: Any) -> dict[str, Any]:
        at = now - timedelta(days=days)
        return {
            "account_id": account_id, "kind": record, "record_id": record_id, "at": at,
            "event_key": f"crm:{record_id}-{days}", "user_id": None, "data": data, "known_at": at,
        }  # fmt: skip

    rows = [
        row("contact", "c1", 11.2, contact="call", by="Aiko Tanaka", note="Asked for the new export format."),
        row("milestone", "go-live", 30.4, milestone="Go-live", status="reached"),
        row(
            "survey", "s1", 3.1, survey="nps", score=3 if kind == "detractor" else 8, comment="Support answers quickly."
        ),
        row("ticket", "t1", 6.2, status="open", priority="high", subject="Export fails for large files"),
        row("ticket", "t1", 5.1, status="solved", subject="Export fails for large files"),
        row("subscription", "main", 8.1, change="expanded", plan="pro"),
    ]
    if kind == "payment":
        rows.append(row("payment", "p9", 2.2, status="failed", amount=3200, currency="USD"))
    return rows


async def _alert(
    conn: AsyncConnection, sample: Sample, name: str, row: Mapping[str, Any], rule: str, severity: str, days: int,
    reason: Mapping[str, str], score: float, contributions: Sequence[Mapping[str, Any]],
    ending: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    account_id, opened = sample.accounts[name], sample.now - timedelta(days=days, hours=2)
    episode_id = uuid.uuid5(NAMESPACE, f"{account_id}:{rule}")
    sample.episodes[name, rule] = episode_id
    await conn.execute(
        insert(episodes).values(
            episode_id=episode_id, rule_id=rule, account_id=account_id, severity=severity, since=opened,
            owner=row["owner"], opened_at=opened + timedelta(seconds=3), mrr=row["mrr"], rule_version="1f0c",
            scorecard="default@3f9ac2",
            reason=reason, signals={"days_since_login": 22, "mrr": float(row["mrr"])}, score=score,
            contributions=contributions, updated_at=opened, **(ending or {"state": "open"}),
        )
    )  # fmt: skip
    opening = await conn.scalar(
        insert(transitions)
        .values(episode_id=episode_id, kind="opened", at=opened, reason=reason["en"], actor="kizashi")
        .returning(transitions.c.transition_id)
    )
    for channel, target, tries in (("slack", "team", 2), ("email", f"person:{row['owner']}", 1)):
        delivery_id = uuid.uuid5(NAMESPACE, f"{episode_id}:{channel}")
        await conn.execute(
            insert(deliveries).values(
                delivery_id=delivery_id, transition_id=opening, episode_id=episode_id, account_id=account_id,
                channel=channel, target=target, language="en", message={}, status="sent", attempt=tries,
                next_attempt_at=opened, created_at=opened, sent_at=opened + timedelta(seconds=4 * tries),
            )
        )  # fmt: skip
        for attempt in range(1, tries + 1):
            last = attempt == tries
            await conn.execute(
                insert(delivery_attempts).values(
                    delivery_id=delivery_id, attempt=attempt, started_at=opened + timedelta(seconds=3 * attempt),
                    finished_at=opened + timedelta(seconds=3 * attempt + 1), outcome="sent" if last else "retry",
                    status_code=200 if last else 429, detail=None if last else "rate limited",
                )
            )  # fmt: skip


async def _closed_alert(conn: AsyncConnection, sample: Sample) -> None:
    name = "Tidewater Logistics"
    closed = {"state": "resolved", "closed_at": sample.now - timedelta(days=20), "outcome": "saved", "version": 3}
    reason = {"en": "No login for 15 days.", "ja": "15日間ログインがありません。"}
    row = {"owner": "carla", "mrr": Decimal(4100)}
    await _alert(conn, sample, name, row, "no-login", "warning", 27, reason, 38.0, [], closed)
    episode_id = sample.episodes[name, "no-login"]
    data = {"outcome": "saved"}
    at = sample.now - timedelta(days=20)
    await conn.execute(
        insert(transitions).values(
            episode_id=episode_id, kind="resolved", at=at, reason="New admin trained", actor="board:carla", data=data
        )
    )
