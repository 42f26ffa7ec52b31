"""The fleet of ``bench/health.py``: accounts with everything that is kept of them, as the consumers would have left it.

A day's use is Poisson with a rate of the account's own, lower at weekends; one account in eight has stopped, one in
eight is fading. The rest is such that the shipped rules hold for as many as they would in a company: nearly all use the
core features, one in seven is a detractor, three in a hundred owe a payment, three have just been cut. Everything
follows from ``seed``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from alerts.rules import RuleBook, load
from health import scorecards
from health.catalogue import SIGNALS, SignalRef

RULES: Final = 20
SIGNALS_IN_USE: Final = 60
YEAR_MONTHS: Final = 14
"""Months of counts per account: what the signal against last year reads."""
RECENT_MONTHS: Final = 6
"""Months of users and features; older ones lie in the tables and are not read."""
FEATURES: Final = 40
CORE: Final = (0, 1)
"""The features that the shipped rules speak of."""
CORE_USED: Final = 0.95
FAILED: Final = 0.0025
"""Of payments; an account has twelve."""
CUT: Final = 0.03
NPS: Final = (0.02, 0.01, 0.01, 0.01, 0.02, 0.03, 0.05, 0.15, 0.25, 0.25, 0.2)
"""How often each answer from 0 to 10 is given."""
SCORE_DAYS: Final = 35
ZONES: Final = ("UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York")
COUNTRIES: Final = ("DE", "JP", "US", "GB")
TICKET: Final = ("open", "pending", "solved", "closed")
Rows = list[tuple[Any, ...]]


def write_rules(shipped: Path, folder: Path) -> RuleBook:
    """The shipped rules, lists and scorecards, and as many rules more as make ``RULES``, one at least, that name other
    signals of the whole catalogue until ``SIGNALS_IN_USE`` are named: such as never hold, so that what fires is what
    fires for everybody."""
    shutil.copytree(shipped, folder)
    book = load(folder, SIGNALS)
    refs = book.refs.union(scorecards.load(folder / "scorecards").refs)
    named = {ref.name for ref in refs}
    others = [name for name in SIGNALS if name not in named]
    missing = max(SIGNALS_IN_USE - len(refs), 0)
    rest = [others[n * len(others) // missing] for n in range(missing)]
    more = max(RULES - len(book.rules), 1)
    parts = [rest[n::more] for n in range(more)]
    rules = [_rule(f"wide-{n}", [_never(name) for name in part]) for n, part in enumerate(parts)]
    (folder / "wide.yaml").write_text(json.dumps({"rules": rules}), encoding="utf-8")
    return load(folder, SIGNALS)


def _never(name: str) -> str:
    signal = SIGNALS[name]
    if signal.parameter is not None:
        return f"{name}['report'] > 1000000"
    return {"text": f"{name} = 'nobody'", "boolean": f"({name} AND mrr < -1)"}.get(signal.type, f"{name} > 100000000")


def _rule(rule_id: str, conditions: Sequence[str]) -> dict[str, Any]:
    words = {"en": rule_id, "ja": rule_id}
    return {
        "id": rule_id, "title": words, "when": " OR ".join(conditions), "severity": "info", "reason": words,
        "suggestion": words,
    }  # fmt: skip


def signals_in_use(book: RuleBook, folder: Path) -> frozenset[SignalRef]:
    return book.refs.union(scorecards.load(folder / "scorecards").refs)


class Fleet:
    """``size`` accounts at ``now``."""

    def __init__(self, size: int, now: datetime, card: str, seed: int = 1) -> None:
        self.now = now
        self.ids = [f"acct-{n:06d}" for n in range(size)]
        self._card = card
        self._rng = np.random.default_rng(seed)
        self._today = now.date()
        self._days = self._activity(size)
        self._mrr = self._rng.integers(50, 5000, size)
        self._core = self._rng.random((size, len(CORE))) < CORE_USED

    def _activity(self, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Events per account and day, today last."""
        days = (self._today - _months_back(self._today, YEAR_MONTHS - 1)).days + 1
        rate = self._rng.lognormal(1.0, 1.0, size)[:, None] * np.ones(days)
        weekend = [(self._today - timedelta(days=days - 1 - d)).weekday() >= 5 for d in range(days)]
        rate[:, weekend] *= 0.2
        kind = self._rng.integers(8, size=size)
        rate[kind == 0] *= np.linspace(1, 0, days) > self._rng.random((kind == 0).sum())[:, None] * 0.2
        rate[kind == 1, -28:] *= 0.3
        return self._rng.poisson(rate)

    async def store(self, connection: Any) -> None:
        for table, columns, rows in self._tables():
            await connection.copy_records_to_table(table, columns=columns, records=rows)

    def _tables(self) -> Iterator[tuple[str, list[str], Rows]]:
        yield "accounts", [
            "account_id", "first_event_at", "last_event_at", "started_at", "last_login_at", "last_activity_at",
            "last_contact_at", "events", "logins", "version", "changed_at", "sources",
        ], list(map(self._account, range(len(self.ids))))  # fmt: skip
        yield (
            "account_attributes",
            ["account_id", "fields"],
            [(account, json.dumps(self._attributes(place))) for place, account in enumerate(self.ids)],
        )
        yield (
            "account_history",
            ["account_id", "attribute", "valid_from", "event_key", "value", "known_at"],
            [
                (account, name, self._ago(days), f"crm:{days}", value, self.now)
                for place, account in enumerate(self.ids)
                for days, mrr in zip((390, 200, 60), self._paid(place), strict=True)
                for name, value in (("mrr", str(mrr)), ("seats", "10"), ("plan", '"team"'))
            ],
        )
        yield "account_months", ["account_id", "month", "logins", "events", "active_days"], self._months()
        yield "user_months", ["account_id", "month", "user_id", "active_days", "last_at"], self._users()
        yield (
            "features",
            ["account_id", "feature", "first_at", "last_at", "quantity"],
            [
                (account, _feature(n), self._ago(400), self._last_use(place, n), 5000)
                for place, account in enumerate(self.ids)
                for n in self._chosen(place, 10)
            ],
        )
        yield "feature_months", ["account_id", "month", "feature", "quantities", "active_days"], self._feature_months()
        yield (
            "records",
            ["account_id", "kind", "record_id", "first_at", "last_at", "fields"],
            [row for account in self.ids for row in self._records(account)],
        )
        yield (
            "score_history",
            ["account_id", "day", "score", "band", "scorecard"],
            [
                (account, self._today - timedelta(days=back), 50.0 + back % 20, "yellow", self._card)
                for account in self.ids
                for back in range(1, SCORE_DAYS + 1)
            ],
        )

    def _account(self, place: int) -> tuple[Any, ...]:
        active = np.flatnonzero(self._days[place])
        last = self._ago(float(self._days.shape[1] - 1 - active[-1]) + 0.02) if len(active) else None
        return (
            self.ids[place], self._ago(420), last or self._ago(420), self._ago(float(self._rng.integers(20, 900))),
            last, last, self._ago(float(self._rng.integers(1, 90))), int(self._days[place].sum()), 50, 3, self.now, 1,
        )  # fmt: skip

    def _paid(self, place: int) -> tuple[int, int, int]:
        """MRR 390, 200 and 60 days ago."""
        now, cut = int(self._mrr[place]), self._rng.random() < CUT
        return now * 8 // 10, now * 9 // 10, now * 2 if cut else now

    def _chosen(self, place: int, count: int) -> list[int]:
        """Features of an account."""
        others = len(CORE) + self._rng.choice(FEATURES - len(CORE), size=count - len(CORE), replace=False)
        return [*(n for n in CORE if self._core[place, n]), *map(int, others)]

    def _last_use(self, place: int, feature: int) -> datetime:
        active = np.flatnonzero(self._days[place])
        ago = self._days.shape[1] - 1 - int(active[-1]) if len(active) else 300
        return self._ago(ago + float(self._rng.integers(8 if feature in CORE else 60)) + 0.05)

    def _attributes(self, place: int) -> dict[str, Any]:
        rng = self._rng
        zone = int(rng.integers(len(ZONES)))
        values = {
            "plan": ("free", "team", "pro")[int(rng.integers(3))], "mrr": float(self._mrr[place]),
            "seats": int(rng.integers(5, 60)), "status": "trial" if rng.random() < 0.05 else "active",
            "segment": "smb", "touch_model": "high", "owner": f"owner-{int(rng.integers(20))}",
            "name": "An account of the bench", "currency": "EUR", "timezone": ZONES[zone], "country": COUNTRIES[zone],
            "renewal_on": (self._today + timedelta(days=int(rng.integers(-20, 360)))).isoformat(),
        }  # fmt: skip
        return {name: self._register(value, 60) for name, value in values.items()}

    def _months(self) -> Rows:
        rows: Rows = []
        first = self._today - timedelta(days=self._days.shape[1] - 1)
        for month, start, stop in _spans(first, self._today):
            counts = np.zeros((len(self.ids), 31), dtype=np.int64)
            counts[:, : stop - start] = self._days[:, start:stop]
            logins = counts // 4
            marks = (counts > 0) @ (1 << np.arange(31, dtype=np.int64))
            for account, of_logins, of_events, mark in zip(
                self.ids, logins.tolist(), counts.tolist(), marks.tolist(), strict=True
            ):
                if mark:
                    rows.append((account, month, of_logins, of_events, mark))
        return rows

    def _users(self) -> Rows:
        rows: Rows = []
        sizes = np.clip(self._rng.lognormal(1.5, 0.7, len(self.ids)).astype(np.int64), 1, 60)
        for month in self._recent():
            for account, size in zip(self.ids, sizes.tolist(), strict=True):
                for user in np.flatnonzero(self._rng.random(size) < 0.7).tolist():
                    rows.append((account, month, f"{account}-user-{user:02d}", self._mask(), self.now))
        return rows

    def _feature_months(self) -> Rows:
        zeros = [0] * 31
        theirs = {account: self._chosen(place, 8) for place, account in enumerate(self.ids)}
        return [
            (account, month, _feature(n), zeros, self._mask())
            for month in self._recent()
            for account in self.ids
            for n in theirs[account]
        ]

    def _records(self, account: str) -> Rows:
        rng, rows = self._rng, []
        for n in range(int(rng.integers(6))):
            first = float(rng.integers(2, 200))
            taken = {"open": first} | ({"solved": first * 0.9, "closed": first * 0.8} if rng.random() < 0.8 else {})
            rows.append(self._record(account, "ticket", f"t{n}", taken))
        rows += [self._payment(account, n) for n in range(12)]
        for n in range(4):
            at = self._ago(n * 90 + 5)
            answer = {"survey": self._register("nps", n), "score": self._register(int(rng.choice(11, p=NPS)), n)}
            rows.append((account, "survey", f"s{n}", at, at, json.dumps(answer)))
        milestones = ({"planned": 300.0, "reached": 250.0 - n} for n in range(4))
        rows += [self._record(account, "milestone", f"m{n}", taken) for n, taken in enumerate(milestones)]
        rows.append(self._record(account, "goal", "g0", {"set": 300.0, "reached": 30.0}))
        for n in range(int(rng.integers(6))):
            at = self._ago(n * 20 + 1)
            rows.append((account, "session", f"x{n}", at, at, "{}"))
        return rows

    def _payment(self, account: str, number: int) -> tuple[Any, ...]:
        status = "failed" if self._rng.random() < FAILED else "paid"
        due_on = (self._today - timedelta(days=number * 30)).isoformat()
        return self._record(account, "payment", f"p{number}", {status: number * 30 + 3.0}, due_on=due_on)

    def _record(self, account: str, kind: str, record_id: str, taken: dict[str, float], **more: Any) -> tuple[Any, ...]:
        newest = min(taken, key=lambda status: taken[status])
        fields = {f"{status}_at": self._register(self._ago(days).isoformat(), days) for status, days in taken.items()}
        fields["status"] = self._register(newest, taken[newest])
        fields |= {name: self._register(value, taken[newest]) for name, value in more.items()}
        return (account, kind, record_id, self._ago(max(taken.values())), self._ago(taken[newest]), json.dumps(fields))

    def _recent(self) -> list[date]:
        return [_months_back(self._today, n) for n in range(RECENT_MONTHS)]

    def _mask(self) -> int:
        return int(self._rng.integers(1, 1 << 20)) & int(self._rng.integers(1, 1 << 20)) | 1

    def _ago(self, days: float) -> datetime:
        return self.now - timedelta(days=days)

    def _register(self, value: Any, days: float) -> dict[str, Any]:
        at = int(self._ago(days).timestamp() * 1_000_000)
        return {"v": value, "t": at, "k": "crm:1"}


NEWS: Final = """
WITH news AS (
  UPDATE accounts SET version = version + 1, changed_at = $2::timestamptz, last_event_at = $2, last_activity_at = $2,
    last_login_at = CASE WHEN hashtext(account_id || $2::text) % 7 = 0 THEN $2::timestamptz ELSE last_login_at END
  WHERE account_id = ANY($1::text[]) RETURNING account_id
)
UPDATE account_months m SET events[$3::int] = events[$3::int] + 1, active_days = active_days | (1 << ($3::int - 1))
FROM news WHERE m.account_id = news.account_id AND m.month = $4
"""
"""An event more of today for each of some accounts: one in seven is a login."""

TOUCH: Final = "INSERT INTO touched (account_ids, oldest_event_at, created_at) VALUES ($1::text[], $2, $2)"


async def touch(connection: Any, account_ids: Sequence[str], at: datetime) -> None:
    """What a consumer's batch does to the accounts it touches."""
    chosen = sorted(account_ids)
    async with connection.transaction():
        await connection.execute(NEWS, chosen, at, at.day, at.date().replace(day=1))
        await connection.execute(TOUCH, chosen, at)


def features() -> tuple[str, ...]:
    """Those of the product."""
    return tuple(_feature(number) for number in range(FEATURES))


def start_of_bench() -> datetime:
    """In the middle of a day, so that no run crosses midnight."""
    return datetime(2026, 3, 18, 12, tzinfo=UTC)


def _feature(number: int) -> str:
    return ("report", "export")[number] if number < 2 else f"feature-{number:02d}"


def _months_back(day: date, months: int) -> date:
    number = day.year * 12 + day.month - 1 - months
    return date(number // 12, number % 12 + 1, 1)


def _spans(first: date, last: date) -> Iterator[tuple[date, int, int]]:
    """(month, first place, place after the last) of the days from ``first``, which begins a month, to ``last``."""
    month = first
    while month <= last:
        following = _months_back(month, -1)
        yield month, (month - first).days, (min(following, last + timedelta(days=1)) - first).days
        month = following
