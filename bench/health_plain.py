"""The signals of one account in plain Python, as one would write them for one account: lists, loops and dictionaries.

For ``bench/health.py``: what computing by columns is worth. Values at the present instant, nothing missed by gaps;
those that need calendars or the rhythm of the fleet are left out on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from health.columns import Facts, Records
from health.instants import DAY, HOUR, NEVER

WINDOWS: Final = (7, 14, 28, 90)
Days = Sequence[int]
Instant = int | None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A ticket or a payment: when each status was last taken."""

    status: str
    first_at: int
    taken: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Account:
    """All that is known of one account; the days end today."""

    start: Instant
    last: dict[str, Instant]
    logins: Days
    events: Days
    active: Days
    users: list[Days]
    used: dict[str, Days]
    first_used: dict[str, int]
    tickets: list[Ticket]
    payments: list[Ticket]
    surveys: list[tuple[int, float, float]]
    sessions: list[int]
    history: list[tuple[str, int, float]]
    mrr: float | None
    seats: float | None


def unpacked(facts: Facts) -> list[Account]:
    """The same facts, account by account."""

    def rows(part: Any) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in range(len(facts))]
        for row, account in enumerate(part.account.tolist()):
            found[account].append(row)
        return found

    users, used, features = rows(facts.users), rows(facts.feature_days), rows(facts.features)
    surveys, sessions, history = rows(facts.surveys), rows(facts.sessions), rows(facts.history)
    tickets, payments = _records(facts.tickets, rows(facts.tickets)), _records(facts.payments, rows(facts.payments))
    answers = list(zip(*(c.tolist() for c in (facts.surveys.at, facts.surveys.nps, facts.surveys.csat)), strict=True))
    values = list(zip(*(c.tolist() for c in (facts.history.attribute, facts.history.at, facts.history.value)),
                      strict=True))  # fmt: skip
    lasts = {"login": facts.last_login_at, "activity": facts.last_activity_at, "contact": facts.last_contact_at}
    return [
        Account(
            start=_at(int(facts.start[n])),
            last={name: _at(int(at[n])) for name, at in lasts.items()},
            logins=facts.logins[n].tolist(),
            events=facts.events[n].tolist(),
            active=facts.active[n].tolist(),
            users=[facts.users.active[row].tolist() for row in users[n]],
            used={facts.feature_days.name[row]: facts.feature_days.active[row].tolist() for row in used[n]},
            first_used={facts.features.name[row]: int(facts.features.first_at[row]) for row in features[n]},
            tickets=tickets[n],
            payments=payments[n],
            surveys=[answers[row] for row in surveys[n]],
            sessions=[int(facts.sessions.at[row]) for row in sessions[n]],
            history=[values[row] for row in history[n]],
            mrr=_known(float(facts.numbers["mrr"][n])),
            seats=_known(float(facts.numbers["seats"][n])),
        )
        for n in range(len(facts))
    ]


def _records(records: Records, rows: list[list[int]]) -> list[list[Ticket]]:
    def one(row: int) -> Ticket:
        taken = {name: int(at[row]) for name, at in records.status_at.items() if at[row] != NEVER}
        return Ticket(status=records.status[row], first_at=int(records.first_at[row]), taken=taken)

    return [[one(row) for row in own] for own in rows]


def _at(value: int) -> Instant:
    return None if value == NEVER else value


def _known(value: float) -> float | None:
    return None if value != value else value  # noqa: PLR0124 - NaN alone differs


def signals(account: Account, now: int, product: Sequence[str]) -> dict[str, float | None]:
    """By name; None for unknown. ``product``: the features of the fleet."""
    if account.start is None:
        return {}
    found: dict[str, float | None] = {}
    for part in (_activity, _adoption, _support, _commercial):
        part(account, now, product, found)
    return found


def _since(account: Account, last: Instant, now: int) -> float | None:
    origin = account.start if last is None else last
    return None if origin is None or origin > now else (now - origin) // DAY


def _activity(account: Account, now: int, _: Sequence[str], found: dict[str, float | None]) -> None:
    for name in ("login", "activity", "contact"):
        found[f"days_since_{name}"] = _since(account, account.last[name], now)
    found["days_since_start"] = _since(account, None, now)
    for name, days in (("logins", account.logins), ("events", account.events), ("active_days", account.active)):
        for length in WINDOWS:
            found[f"{name}_{length}d"] = sum(days[-length:])
    for name, recent, base in (("usage_change_28d", 28, 28), ("usage_change_7d_28d", 7, 28)):
        usual = sum(account.events[-recent - base : -recent]) * (recent / base)
        found[name] = (sum(account.events[-recent:]) - usual) / usual if usual else None


def _adoption(account: Account, now: int, product: Sequence[str], found: dict[str, float | None]) -> None:
    for length in WINDOWS:
        found[f"active_users_{length}d"] = sum(any(user[-length:]) for user in account.users)
        found[f"features_used_{length}d"] = sum(any(days[-length:]) for days in account.used.values())
    month = found["active_users_28d"] or 0
    found["weekly_active_share"] = (found["active_users_7d"] or 0) / month if month else None
    found["seat_utilisation"] = month / account.seats if account.seats else None
    before = sum(any(user[-56:-28]) for user in account.users)
    end = now - now % DAY - 27 * DAY - 1
    seats = _was(account, "seats", end)
    found["seat_utilisation_change_28d"] = month / account.seats - before / seats if account.seats and seats else None
    counts = [sum(user[-90:]) for user in account.users]
    most = max(counts, default=0)
    if most:
        pauses = [user[::-1].index(True) for user, n in zip(account.users, counts, strict=True) if n == most]
        found["champion_silent_days"] = max(0, min(pauses) - 1)
        found["champion_gone"] = float(min(pauses) >= 28 and month > 0)
    ours = [name for name in account.used if name in product]
    if product:
        found["feature_breadth_90d"] = sum(any(account.used[name][-90:]) for name in ours) / len(product)
        tried = sum(name in product and at <= now for name, at in account.first_used.items())
        found["features_never_used"] = len(product) - tried


def _was(account: Account, attribute: str, by: int) -> float | None:
    values = [value for name, at, value in account.history if name == attribute and at <= by]
    return values[-1] if values else None


def _support(account: Account, now: int, _: Sequence[str], found: dict[str, float | None]) -> None:
    found["open_tickets"] = sum(ticket.status in ("open", "pending") for ticket in account.tickets)
    ages = [now - ticket.first_at for ticket in account.tickets]
    for length in (7, 28):
        found[f"tickets_opened_{length}d"] = sum(0 <= age < length * DAY for age in ages)
    usual = max(sum(7 * DAY <= age < 35 * DAY for age in ages), 1) / 4
    found["ticket_spike"] = sum(0 <= age < 7 * DAY for age in ages) / usual
    hours = [_hours(ticket) for ticket in account.tickets if ticket.status in ("solved", "closed")]
    recent = [length for at, length in hours if at > now - 90 * DAY]
    found["hours_to_resolve_90d"] = sum(recent) / len(recent) if recent else None
    nps = [answer for _, answer, _ in account.surveys if _known(answer) is not None]
    csat = [answer for _, _, answer in account.surveys if _known(answer) is not None]
    found["nps_last"] = nps[-1] if nps else None
    found["nps_detractor"] = float(nps[-1] <= 6) if nps else None
    found["csat_last"] = csat[-1] if csat else None
    found["days_since_survey"] = _since(account, max((at for at, _, _ in account.surveys), default=None), now)
    for length in (28, 90):
        found[f"sessions_attended_{length}d"] = sum(0 <= now - at < length * DAY for at in account.sessions)


def _hours(ticket: Ticket) -> tuple[int, float]:
    reopened = max((at for name, at in ticket.taken.items() if name in ("open", "pending")), default=0)
    solved = min(at for name, at in ticket.taken.items() if name in ("solved", "closed") and at >= reopened)
    return solved, (solved - ticket.first_at) / HOUR


def _commercial(account: Account, now: int, _: Sequence[str], found: dict[str, float | None]) -> None:
    found["mrr"], found["seats"] = account.mrr, account.seats
    for length in (28, 90):
        before = _was(account, "mrr", now - length * DAY)
        known = before is not None and before > 0 and account.mrr is not None
        found[f"mrr_change_{length}d"] = (account.mrr - before) / before if known else None  # type: ignore[operator]
    failing = [payment for payment in account.payments if payment.status in ("failed", "overdue")]
    found["failed_payments"] = len(failing)
    since: Callable[[Ticket], int] = lambda payment: payment.taken[payment.status]  # noqa: E731
    found["failed_payments_30d"] = sum(since(payment) > now - 30 * DAY for payment in failing)
