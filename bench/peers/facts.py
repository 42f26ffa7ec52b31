"""What the peers compute: the facts of one account, folded event by event. Pure, standard library only.

The same cells as Kizashi's tables of an account hold for logins and usage, in the shape that a stateful stream
processor keeps anyway: one JSON object an account. ``expected`` is what every table is compared with at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

DAY_MS = 86_400_000
Facts = dict[str, Any]


def new() -> Facts:
    return {
        "first_event_at": None, "last_event_at": None, "last_login_at": None, "events": 0, "logins": 0,
        "months": {}, "users": {}, "features": {}, "feature_months": {}, "late": {},
    }  # fmt: skip


def fold(facts: Facts, event: Mapping[str, Any], arrived_ms: int) -> Facts:
    """Adds an event, in place. Times stay RFC 3339 text in UTC of one length, which compares as time does."""
    at: str = event["timestamp"]
    login = event["kind"] == "login"
    day, month = int(at[8:10]), at[:7]
    bit = 1 << (day - 1)
    facts["events"] += 1
    facts["first_event_at"] = at if facts["first_event_at"] is None else min(facts["first_event_at"], at)
    facts["last_event_at"] = at if facts["last_event_at"] is None else max(facts["last_event_at"], at)
    if login:
        facts["logins"] += 1
        facts["last_login_at"] = at if facts["last_login_at"] is None else max(facts["last_login_at"], at)

    row = facts["months"].setdefault(month, {"logins": {}, "events": {}, "active_days": 0})
    if login:
        row["logins"][str(day)] = row["logins"].get(str(day), 0) + 1
    row["events"][str(day)] = row["events"].get(str(day), 0) + 1
    row["active_days"] |= bit

    users = facts["users"].setdefault(month, {})
    user = users.setdefault(event["user_id"], [0, at])
    user[0] |= bit
    user[1] = max(user[1], at)

    if not login:
        name, quantity = event["feature"], round(event["quantity"] * 1000)
        feature = facts["features"].setdefault(name, [at, at, 0])
        feature[0], feature[1] = min(feature[0], at), max(feature[1], at)
        feature[2] += quantity
        used = facts["feature_months"].setdefault(month, {}).setdefault(name, {"quantities": {}, "active_days": 0})
        used["quantities"][str(day)] = used["quantities"].get(str(day), 0) + quantity
        used["active_days"] |= bit

    arrival = arrived_ms // DAY_MS
    if arrival > date.fromisoformat(at[:10]).toordinal() - 719_163:
        late = facts["late"].setdefault(f"{at[:10]}/{arrival}", [0, 0])
        late[0] += login
        late[1] += 1
    return facts


def expected(events: Iterable[Mapping[str, Any]], arrived_ms: int) -> dict[str, Facts]:
    """By account."""
    found: dict[str, Facts] = {}
    for event in events:
        account = event["account_id"]
        fold(found.setdefault(account, new()), event, arrived_ms)
    return found


def instant(at: datetime | None) -> str | None:
    """As the events write it."""
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
