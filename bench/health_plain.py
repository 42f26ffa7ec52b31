"""The signals of one account in plain Python, as one would write them for one account: lists, loops and dictionaries.

For ``bench/health.py``: what computing by columns is worth. Values at the present instant, nothing missed by gaps;
those that need calendars of holidays or last year's days are left out on both sides. ``bench/health_plain_judging.py``
scores and judges with them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

from health import rhythm
from health.columns import Facts, Records
from health.instants import DAY, HOUR, NEVER, from_us
from health.rhythm import BIN_BORDERS, BUCKET_BORDERS, DECAY, NEWCOMERS, PRIOR_PAUSES, PRIOR_TAIL, Fleet

WINDOWS: Final = (7, 14, 28, 90)
NAMED_FEATURES: Final = ("report", "export")
_BORDERS: Final = [int(border) for border in BIN_BORDERS]
_BUCKETS: Final = BUCKET_BORDERS.tolist()
Days = Sequence[int]
Instant = int | None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A ticket, a payment, a milestone or a goal: when each status was last taken."""

    status: str
    first_at: int
    taken: dict[str, int]
    due_at: Instant


@dataclass(frozen=True, kw_only=True)
class Account:
    """All that is known of one account; the days end today."""

    account_id: str
    start: Instant
    status: str | None
    zone: tzinfo
    renewal_at: Instant
    days: Days
    """On which it was active, as far back as its rhythm goes, ascending, since 1970."""
    last: dict[str, Instant]
    logins: Days
    events: Days
    active: Days
    users: list[Days]
    used: dict[str, Days]
    first_used: dict[str, int]
    last_used: dict[str, int]
    tickets: list[Ticket]
    payments: list[Ticket]
    milestones: list[Ticket]
    goals: list[Ticket]
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
    assert not any(facts.goals.signal.tolist()), "goals measured by a signal are left out"
    records = [facts.tickets, facts.payments, facts.milestones, facts.goals]
    tickets, payments, milestones, goals = (_records(part, rows(part)) for part in records)
    active = rows(facts.active_days)
    answers = list(zip(*(c.tolist() for c in (facts.surveys.at, facts.surveys.nps, facts.surveys.csat)), strict=True))
    values = list(zip(*(c.tolist() for c in (facts.history.attribute, facts.history.at, facts.history.value)),
                      strict=True))  # fmt: skip
    lasts = {"login": facts.last_login_at, "activity": facts.last_activity_at, "contact": facts.last_contact_at}
    return [
        Account(
            account_id=facts.account_ids[n],
            start=_at(int(facts.start[n])),
            status=facts.texts["status"][n],
            zone=ZoneInfo(facts.texts["timezone"][n] or "UTC"),
            renewal_at=_at(int(facts.renewal_at[n])),
            days=facts.active_days.day[active[n]].tolist(),
            last={name: _at(int(at[n])) for name, at in lasts.items()},
            logins=facts.logins[n].tolist(),
            events=facts.events[n].tolist(),
            active=facts.active[n].tolist(),
            users=[facts.users.active[row].tolist() for row in users[n]],
            used={facts.feature_days.name[row]: facts.feature_days.active[row].tolist() for row in used[n]},
            first_used={facts.features.name[row]: int(facts.features.first_at[row]) for row in features[n]},
            last_used={facts.features.name[row]: int(facts.features.last_at[row]) for row in features[n]},
            tickets=tickets[n],
            payments=payments[n],
            milestones=milestones[n],
            goals=goals[n],
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
        due_at = _at(int(records.due_at[row]))
        return Ticket(status=records.status[row], first_at=int(records.first_at[row]), taken=taken, due_at=due_at)

    return [[one(row) for row in own] for own in rows]


def _at(value: int) -> Instant:
    return None if value == NEVER else value


def _known(value: float) -> float | None:
    return None if value != value else value  # noqa: PLR0124 - NaN alone differs


Found = dict[str, Any]


def signals(account: Account, now: int, fleet: Fleet) -> Found:
    """By name; None for unknown."""
    if account.start is None:
        return {}
    found: Found = {}
    for part in (_activity, _adoption, _support, _commercial, _life):
        part(account, now, fleet.features, found)
    _rhythm(account, now, fleet, found)
    return found


def _since(account: Account, last: Instant, now: int) -> float | None:
    origin = account.start if last is None else last
    return None if origin is None or origin > now else (now - origin) // DAY


def _activity(account: Account, now: int, _: Sequence[str], found: Found) -> None:
    for name in ("login", "activity", "contact"):
        found[f"days_since_{name}"] = _since(account, account.last[name], now)
    found["days_since_start"] = _since(account, None, now)
    for name, days in (("logins", account.logins), ("events", account.events), ("active_days", account.active)):
        for length in WINDOWS:
            found[f"{name}_{length}d"] = sum(days[-length:])
    for name, recent, base in (("usage_change_28d", 28, 28), ("usage_change_7d_28d", 7, 28)):
        usual = sum(account.events[-recent - base : -recent]) * (recent / base)
        found[name] = (sum(account.events[-recent:]) - usual) / usual if usual else None


def _adoption(account: Account, now: int, product: Sequence[str], found: Found) -> None:
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
    for name in NAMED_FEATURES:
        found[f"feature_used['{name}']"] = float(name in account.first_used and account.first_used[name] <= now)
        found[f"days_since_feature['{name}']"] = _since(account, account.last_used.get(name), now)


def _was(account: Account, attribute: str, by: int) -> float | None:
    values = [value for name, at, value in account.history if name == attribute and at <= by]
    return values[-1] if values else None


def _support(account: Account, now: int, _: Sequence[str], found: Found) -> None:
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


def _commercial(account: Account, now: int, _: Sequence[str], found: Found) -> None:
    found["mrr"], found["seats"] = account.mrr, account.seats
    for length in (28, 90):
        before = _was(account, "mrr", now - length * DAY)
        known = before is not None and before > 0 and account.mrr is not None
        found[f"mrr_change_{length}d"] = (account.mrr - before) / before if known else None  # type: ignore[operator]
    failing = [payment for payment in account.payments if payment.status in ("failed", "overdue")]
    found["failed_payments"] = len(failing)
    since: Callable[[Ticket], int] = lambda payment: payment.taken[payment.status]  # noqa: E731
    found["failed_payments_30d"] = sum(since(payment) > now - 30 * DAY for payment in failing)


def _life(account: Account, now: int, _: Sequence[str], found: Found) -> None:
    assert account.start is not None
    today = from_us(now).astimezone(account.zone).date()
    day = (today - from_us(account.start).astimezone(account.zone).date()).days + 1
    found["onboarding_day"] = day if 1 <= day <= 90 else None
    renewal = None if account.renewal_at is None else from_us(account.renewal_at).date()
    found["days_to_renewal"] = left = None if renewal is None else (renewal - today).days
    stage = "onboarding" if day <= 90 else "renewal" if left is not None and left <= 90 else "adoption"
    found["lifecycle_stage"] = account.status if account.status in ("paused", "ended", "trial") else stage
    found["status"] = account.status
    late = [one for one in account.milestones if one.status == "planned" and _late(one, today)]
    found["milestones_done"] = sum(one.status == "reached" for one in account.milestones)
    found["onboarding_overdue_milestones"] = len(late) if account.milestones else None
    reached = sum(goal.status == "reached" for goal in account.goals)
    standing = [goal for goal in account.goals if goal.status == "set"]
    overdue = [goal for goal in standing if _late(goal, today)]
    number = reached + len(standing)
    found["goals_reached"] = reached if account.goals else None
    found["goals_reached_share"] = found["goals_progress"] = reached / number if number else None
    found["goals_on_track"] = (number - len(overdue)) / number if number else None
    found["goals_overdue"], found["goals_behind"] = (len(overdue), 0) if account.goals else (None, None)
    found["goal_most_behind"] = "—" if account.goals and not overdue else None
    found["children"] = 0


def _late(record: Ticket, today: Any) -> bool:
    return record.due_at is not None and from_us(record.due_at).date() < today


def _rhythm(account: Account, now: int, fleet: Fleet, found: Found) -> None:
    """The rule of ``health/rhythm.py`` for a fleet whose clock is plain."""
    assert account.start is not None
    today, days = now // DAY, account.days
    counted = today if days and days[-1] == today else today - 1
    began = min(account.start // DAY, days[0] if days else today)
    silence = max(counted - (days[-1] if days else account.start // DAY), 0)
    weight = length = outlasting = 0.0
    for before, day in pairwise(days):
        pause = day - before
        place = min(max(bisect_left(_BORDERS, pause) - 1, 0), len(_BORDERS) - 2)
        low, high = _BORDERS[place], _BORDERS[place + 1]
        weight = weight * DECAY + 1
        length = length * DECAY + pause
        outlasting = outlasting * DECAY + min(max((high - silence) / (high - low), 0), 1)
    usual = (PRIOR_PAUSES * fleet.mean_pause + length) / (PRIOR_PAUSES + weight)
    tails = fleet.tails[NEWCOMERS if len(days) < 2 else bisect_left(_BUCKETS, usual)]
    tail = (PRIOR_TAIL * float(tails[min(silence, len(tails) - 1)]) + outlasting) / (PRIOR_TAIL + weight)
    recent = len(days) - bisect_right(days, counted - fleet.recent_days)
    z = fleet.intercept + rhythm.AGE_WEIGHT * math.log1p(len(days)) + rhythm.RECENT_WEIGHT * math.log1p(recent)
    z -= rhythm.TAIL_WEIGHT * math.log(max(tail, rhythm.TAIL_FLOOR))
    z += rhythm.LONG_SILENCE_WEIGHT * math.log(max(silence / fleet.recent_days, 1))
    odds = math.exp(z) * (1 - fleet.base_rate) / fleet.base_rate
    values = {"silence_ratio": silence / usual, "usual_pause": usual, "pause_tail": tail, "churn_odds": odds}
    found.update(values if began <= counted else dict.fromkeys(values))


def next_change(account: Account, now: int, spread: int) -> int | None:
    """When a signal may change next by time alone; work of day borders is put off by ``spread``."""
    if account.start is None:
        return None
    midnight = now - now % DAY + DAY
    local = from_us(now).astimezone(account.zone)
    tomorrow = datetime.combine(local.date() + timedelta(days=1), datetime.min.time(), tzinfo=account.zone)
    own = int(tomorrow.astimezone(UTC).timestamp()) * 1_000_000
    at = [midnight + spread, own + spread]
    answers = max((at for at, _, _ in account.surveys), default=None)
    counted = [*account.last.values(), answers, *(account.last_used.get(name) for name in NAMED_FEATURES)]
    for last in counted:
        origin = account.start if last is None else last
        at.append(origin + ((now - origin) // DAY + 1) * DAY if origin <= now else origin)
    at.append(account.start + ((now - account.start) // DAY + 1) * DAY)
    for ticket in account.tickets:
        at += [ticket.first_at + days * DAY for days in (0, 7, 28, 35)]
        at += [taken + 90 * DAY for name, taken in ticket.taken.items() if name in ("solved", "closed")]
        at += ticket.taken.values()
    for payment in account.payments:
        at += payment.taken.values()
        at += [taken + 30 * DAY for name, taken in payment.taken.items() if name in ("failed", "overdue")]
    for record in (*account.milestones, *account.goals):
        at += record.taken.values()
    at += [session + days * DAY for session in account.sessions for days in (0, 28, 90)]
    at += [since + days * DAY for name, since, _ in account.history if name == "mrr" for days in (0, 28, 90)]
    at += account.first_used.values()
    return min((one for one in at if one > now), default=None)
