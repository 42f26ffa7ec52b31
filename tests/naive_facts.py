"""A naive model of the facts: one event after the other, one plain rule per cell, no batches, no SQL.

Written apart from ``consumers/fold.py``, so that the two can be held against each other.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import msgspec

from consumers.events import Event
from health.tables import FACT_TABLES

WALL_CLOCK = {"accounts": {"version", "changed_at", "imported_until"}}
IDS = {kind: f"{kind}_id" for kind in ("goal", "ticket", "payment", "survey", "session", "contact", "subscription")}
IDS["milestone"] = "milestone"
COMMON = {"kind", "event_id", "account_id", "timestamp", "user_id", "source", "import_id", "import_row", "received_at"}
HISTORY = {"plan", "mrr", "currency", "owner", "renewal_on", "segment", "status", "seats"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Connection = Any
"""asyncpg's; generic in its stubs only."""
Rows = dict[tuple[Any, ...], dict[str, Any]]


def naive(arrivals: Iterable[tuple[Event, datetime]]) -> dict[str, Rows]:
    tables: dict[str, Rows] = {table.name: {} for table in FACT_TABLES}
    for event, arrived in arrivals:
        _Adder(tables, event, arrived).add()
    return tables


def _least(*values: Any) -> Any:
    return min((v for v in values if v is not None), default=None)


def _most(*values: Any) -> Any:
    return max((v for v in values if v is not None), default=None)


class _Adder:
    def __init__(self, tables: dict[str, Rows], event: Event, arrived: datetime) -> None:
        self.t = tables
        self.e = event
        self.at = event.timestamp.astimezone(UTC)
        self.arrived = arrived
        self.data = msgspec.to_builtins(event)
        self.key = f"{event.source}:{event.event_id}"

    def add(self) -> None:  # noqa: C901  every kind in one place
        e, at = self.e, self.at
        empty = dict.fromkeys(("started_at", "last_login_at", "last_activity_at", "last_contact_at"))
        account = self.row(
            "accounts", e.account_id, first_event_at=at, last_event_at=at, events=0, logins=0, sources=0, **empty
        )  # fmt: skip
        account["sources"] |= 1 << crc32(e.source.encode()) % 62
        account["first_event_at"] = _least(account["first_event_at"], at)
        account["last_event_at"] = _most(account["last_event_at"], at)
        source = self.row("sources", e.source, first_event_at=at, last_event_at=at, last_live_at=None)
        source["first_event_at"] = min(source["first_event_at"], at)
        source["last_event_at"] = max(source["last_event_at"], at)
        if e.import_id is None:
            source["last_live_at"] = _most(source["last_live_at"], self.arrived)
        counted = e.source if e.import_id is None else f"{e.source}#import"
        self.row("source_hours", counted, at.replace(minute=0, second=0, microsecond=0), events=0)["events"] += 1
        if e.kind in ("login", "usage", "session") or (e.kind == "custom" and e.user_id is not None):
            self.activity(account)
        if e.kind == "usage":
            self.usage()
        if e.kind in IDS:
            self.record()
        if e.kind == "custom":
            self.record_event(self.data["name"], self.own("never"))
        if e.kind == "contact":
            account["last_contact_at"] = _most(account["last_contact_at"], at)
        if e.kind == "identify":
            user = self.row("users", e.account_id, e.user_id, fields={}, first_identified_at=at)
            user["first_identified_at"] = min(user["first_identified_at"], at)
            for name, value in self.data["traits"].items():
                self.write(user["fields"], name, value, at)
        if e.kind == "group":
            for name, value in self.data["traits"].items():
                self.attribute(name, value, at)
            started = self.data["traits"].get("started_at")
            if started is not None:
                began = datetime.fromisoformat(started)
                began = began if began.tzinfo else began.replace(tzinfo=UTC)
                account["started_at"] = _least(account["started_at"], began.astimezone(UTC))
        if e.kind == "subscription":
            self.subscription(account)

    def row(self, table: str, *key: Any, **new: Any) -> dict[str, Any]:
        return self.t[table].setdefault(key, new)

    def activity(self, account: dict[str, Any]) -> None:
        e, at = self.e, self.at
        login = e.kind == "login"
        account["events"] += 1
        account["logins"] += login
        account["last_activity_at"] = _most(account["last_activity_at"], at)
        if login:
            account["last_login_at"] = _most(account["last_login_at"], at)
        month = at.date().replace(day=1)
        row = self.row("account_months", e.account_id, month, logins=[0] * 31, events=[0] * 31, active_days=0)
        row["logins"][at.day - 1] += login
        row["events"][at.day - 1] += 1
        row["active_days"] |= 1 << (at.day - 1)
        if e.user_id is not None:
            row = self.row("user_months", e.account_id, month, e.user_id, active_days=0, last_at=at)
            row["active_days"] |= 1 << (at.day - 1)
            row["last_at"] = max(row["last_at"], at)
        if e.import_id is None and self.arrived.date() > at.date():
            row = self.row("late_arrivals", e.account_id, at.date(), self.arrived.date(), logins=0, events=0)
            row["logins"] += login
            row["events"] += 1

    def usage(self) -> None:
        at, amount = self.at, round(self.data.get("quantity", 1) * 1000)
        row = self.row("features", self.e.account_id, self.data["feature"], first_at=at, last_at=at, quantity=0)
        row["first_at"], row["last_at"] = min(row["first_at"], at), max(row["last_at"], at)
        row["quantity"] += amount
        month = at.date().replace(day=1)
        row = self.row("feature_months", self.e.account_id, month, self.data["feature"], quantities=[0] * 31,
                       active_days=0)  # fmt: skip
        row["quantities"][at.day - 1] += amount
        row["active_days"] |= 1 << (at.day - 1)

    def own(self, record_id: str) -> dict[str, Any]:
        full = {"milestone": {"status": "reached"}}.get(self.e.kind, {})
        own = {k: v for k, v in self.data.items() if k not in COMMON and k != record_id and v is not None}
        return {**full, **own}

    def record(self) -> None:
        kind, at = self.e.kind, self.at
        record_id = getattr(self.e, IDS[kind])
        fields = self.own(IDS[kind])
        seen = fields.get("status")
        if kind == "subscription":
            seen = fields["change"]
            fields["status"] = {"trial_started": "trial", "ended": "ended", "not_renewed": "ended"}.get(seen, "active")
        row = self.row("records", self.e.account_id, kind, record_id, first_at=at, last_at=at, fields={})
        row["first_at"], row["last_at"] = min(row["first_at"], at), max(row["last_at"], at)
        stamped = {f"{seen}_at": at.isoformat().replace("+00:00", "Z")} if seen else {}
        for name, value in {**fields, **stamped}.items():
            self.write(row["fields"], name, value, at)
        self.record_event(record_id, fields)

    def record_event(self, record_id: str, data: dict[str, Any]) -> None:
        row = self.row("record_events", self.e.account_id, self.e.kind, record_id, self.at, self.key,
                       user_id=self.e.user_id, data=data, known_at=self.arrived)  # fmt: skip
        row["known_at"] = min(row["known_at"], self.arrived)

    def subscription(self, account: dict[str, Any]) -> None:
        own = self.own("subscription_id")
        day = own.get("effective_on")
        valid = self.at if day is None else datetime.fromisoformat(day).replace(tzinfo=UTC)
        for name in ("mrr", "currency", "plan", "seats", "renewal_on"):
            if name in own:
                self.attribute(name, own[name], valid)
        change = own["change"]
        status = {"trial_started": "trial", "ended": "ended", "not_renewed": "ended"}.get(change, "active")
        self.attribute("status", status, valid)
        if change in ("started", "trial_started"):
            account["started_at"] = _least(account["started_at"], valid)

    def attribute(self, name: str, value: Any, valid: datetime) -> None:
        fields = self.row("account_attributes", self.e.account_id, fields={})["fields"]
        if valid <= self.at:  # else it is only announced
            self.write(fields, name, value, valid)
        if name in HISTORY:
            row = self.row(
                "account_history", self.e.account_id, name, valid, self.key, value=value, known_at=self.arrived
            )
            row["known_at"] = min(row["known_at"], self.arrived)

    def write(self, fields: dict[str, Any], name: str, value: Any, at: datetime) -> None:
        new = {"v": value, "t": (at - EPOCH) // timedelta(microseconds=1), "k": self.key}
        old = fields.get(name)
        if old is None or (new["t"], new["k"]) >= (old["t"], old["k"]):
            fields[name] = new


async def stored(connection: Connection) -> dict[str, Rows]:
    """The same, read from the database."""
    found: dict[str, Rows] = defaultdict(dict)
    for table in FACT_TABLES:
        keys = [c.name for c in table.columns if c.info["merge"] == "key"]
        rest = [c.name for c in table.columns if c.name not in {*keys, *WALL_CLOCK.get(table.name, set())}]
        found[table.name] = {}
        for row in await connection.fetch(f"SELECT * FROM {table.name}"):
            found[table.name][tuple(row[k] for k in keys)] = {
                name: _plain(table.name, name, row[name]) for name in rest
            }
    return dict(found)


def _plain(table: str, column: str, value: Any) -> Any:
    if column in {"fields", "data"} or (table, column) == ("account_history", "value"):
        return json.loads(value)
    return value


async def clear(connection: Connection) -> None:
    """Empties everything that the consumers write."""
    tables = [t.name for t in FACT_TABLES]
    others = ["stream_offsets", "dedup_batches", "import_marks", "dead_letters", "touched"]
    await connection.execute(f"TRUNCATE {', '.join([*tables, *others])}")


def differences(left: dict[str, Rows], right: dict[str, Rows]) -> list[str]:
    """Readable lines, empty when equal."""
    found: list[str] = []
    for table in sorted(left.keys() | right.keys()):
        a, b = left.get(table, {}), right.get(table, {})
        keys = sorted(a.keys() | b.keys(), key=repr)
        found += [f"{table} {key}: {a.get(key)} != {b.get(key)}" for key in keys if a.get(key) != b.get(key)]
    return found
