"""Laws of the signals, and a plain reference that computes them account by account, instant by instant."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from holidays import country_holidays
from hypothesis import given, settings
from hypothesis import strategies as st

from health import numbers
from health.catalogue import SCORE_SIGNALS, SIGNALS, SignalRef
from health.columns import Facts
from health.gaps import Gap, Observed
from health.rhythm import SHIPPED
from health.signals import compute, next_change, steps
from tests.facts import Account, Record, facts
from tests.rhythm_model import walk

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
DAYS = 450
"""Length of the day arrays."""
FLEET = replace(SHIPPED, features=("export", "import", "share"))
ZONES = {"Asia/Tokyo": 9, "America/Caracas": -4, "Etc/GMT+11": -11, "Mars/Base": 0}
"""Without a change of clocks, so that the reference can add hours."""
CONTRACTS: list[dict[str, str | float]] = [{}, {"seats": 5, "mrr": 10.0, "plan": "pro"}, {"seats": 0}]
REFS = tuple(
    SignalRef(name, "export" if signal.parameter else None)
    for name, signal in SIGNALS.items()
    if name not in SCORE_SIGNALS
)
HOURS = st.integers(1, 24 * 60)
DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def made(known: Sequence[Account]) -> Facts:
    return facts(NOW, known, days=DAYS, fleet=FLEET)


instants = HOURS.map(ago)
days_ago = st.integers(0, 95) | st.integers(0, DAYS - 1)
counts = st.dictionaries(days_ago, st.integers(1, 9), max_size=8)


@st.composite
def taken(draw: st.DrawFn, statuses: Sequence[str]) -> Record:
    chosen = draw(st.lists(st.sampled_from(statuses), min_size=1, max_size=3, unique=True))
    hours = draw(st.lists(HOURS, min_size=len(chosen), max_size=len(chosen), unique=True))
    times = {status: ago(hour) for status, hour in zip(chosen, hours, strict=True)}
    return Record(
        taken=times,
        due_on=draw(st.none() | st.integers(-5, 40).map(lambda days: (NOW - timedelta(days=days)).date())),
        first_at=draw(st.just(None) | st.just(min(times.values()) - timedelta(hours=5))),
    )


MEASURES = ("active_users_28d", "open_tickets", "days_since_login", "days_since_feature['export']", "mrr", "events_7d")


@st.composite
def goals(draw: st.DrawFn) -> Record:
    goal = draw(taken(("set", "reached", "dropped")))
    goal.name = draw(st.sampled_from(["fewer calls", "全員で利用", "x" * 99]))
    if draw(st.integers(0, 3)):
        goal.signal = draw(st.sampled_from(MEASURES))
        goal.target, goal.at_most = draw(st.sampled_from([-1.0, 0.0, 1.0, 2.5, 7.0, 40.0])), draw(st.booleans())
    return goal


@st.composite
def histories(draw: st.DrawFn) -> dict[str, list[tuple[datetime, float]]]:
    """The seats and the MRR that attributes name came to stand last."""
    at = draw(st.lists(HOURS, min_size=3, max_size=3, unique=True))
    seats = [(ago(at[0]), 5.0)] if draw(st.booleans()) else []
    mrr = [(ago(max(at[1:]) + 900), 8.0), (ago(max(at[1:])), 10.0)] if draw(st.booleans()) else []
    return {"seats": seats, "mrr": mrr}


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    uses = draw(st.lists(instants, min_size=2, max_size=2))
    return Account(
        start=draw(st.none() | instants | st.sampled_from([89, 90, 91, 300]).map(lambda days: ago(days * 24 + 3))),
        last_login=draw(st.none() | instants),
        last_activity=draw(st.none() | instants),
        last_contact=draw(st.none() | instants),
        logins=draw(counts),
        events=draw(counts),
        users=draw(st.lists(st.lists(days_ago, max_size=5), max_size=3)),
        feature_days=draw(
            st.dictionaries(st.sampled_from(["export", "import", "odd"]), st.lists(days_ago, max_size=3))
        ),
        features=draw(st.sampled_from([{}, {"export": (min(uses), max(uses)), "other": (min(uses), min(uses))}])),
        tickets=draw(st.lists(taken(("open", "pending", "solved", "closed")), max_size=3)),
        payments=draw(st.lists(taken(("failed", "overdue", "paid")), max_size=2)),
        milestones=draw(st.lists(taken(("planned", "reached")), max_size=2)),
        goals=draw(st.lists(goals(), max_size=3)),
        surveys=draw(st.lists(st.tuples(instants, st.none() | st.integers(0, 10).map(float)), max_size=3)),
        sessions=draw(st.lists(instants, max_size=3)),
        attributes=draw(st.sampled_from(CONTRACTS))
        | draw(st.sampled_from([{}, *({"timezone": zone} for zone in ZONES)]))
        | draw(st.sampled_from([{}, {}, *({"status": status} for status in ("active", "trial", "paused", "ended"))]))
        | draw(st.sampled_from([{}, {"country": "JP"}, {"country": "AE"}, {"country": "Nowhere"}])),
        history=draw(histories()),
        renewal_on=draw(st.none() | st.integers(-9, 9).map(lambda days: (NOW + timedelta(days=days)).date())),
    )


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    """Up to two gaps in the past; the position keeps up."""
    gaps = []
    for _ in range(draw(st.integers(0, 2))):
        begin, length = draw(HOURS), draw(st.integers(1, 200))
        state: Any = draw(st.sampled_from(["lost", "open", "refilled"]))
        gaps.append(Gap("app", ago(begin), min(ago(begin - length), NOW), state))
    return Observed(NOW + timedelta(days=400), tuple(gaps))


# The reference: what the words of the catalogue say, in the plainest way.


def unobserved(start: datetime, end: datetime, observed: Observed) -> timedelta:
    """Hours are enough: the generated gaps begin and end on them."""
    spans = [(gap.from_at, gap.until_at or end) for gap in observed.gaps if gap.state != "refilled"]
    edges = sorted({start, end, *(edge for span in spans for edge in span if start < edge < end)})
    total = timedelta()
    for left, right in pairwise(edges):
        if any(span[0] <= left and right <= span[1] for span in spans):
            total += right - left
    return total


def days_since(account: Account, last: datetime | None, at: datetime, observed: Observed) -> float:
    origin = last or account.start
    if account.start is None or origin is None or origin > at:
        return math.nan
    return (at - origin - unobserved(origin, at, observed)) // DAY


def window(per_day: Sequence[tuple[int, int]], at: datetime, days: int, shift: int = 0) -> tuple[int, int] | None:
    """(without, with) the day of ``at``; None before the arrays."""
    today = (midnight(NOW) - midnight(at)) // DAY
    if today + shift + days - 1 > DAYS - 1:
        return None
    inside = [(ago_, count) for ago_, count in per_day if today + shift <= ago_ < today + shift + days]
    high = sum(count for _, count in inside)
    low = sum(count for ago_, count in inside if ago_ > today or shift)
    return low, high


def settle(low: float, high: float, at: datetime) -> float:
    if at >= NOW:
        return high
    if at == midnight(at) or low == high:
        return low
    return math.nan


def touched(account: Account, at: datetime, days: int, observed: Observed) -> bool:
    begin = midnight(at) - timedelta(days=days - 1)
    begin = max(begin, account.start) if account.start else begin
    return begin < at and unobserved(begin, at, observed) > timedelta()


def count(account: Account, per_day: dict[int, int], at: datetime, days: int, observed: Observed) -> float:
    sums = window(list(per_day.items()), at, days)
    if sums is None or account.start is None or touched(account, at, days, observed):
        return math.nan
    return settle(*sums, at)


def change(account: Account, at: datetime, recent: int, base: int, observed: Observed) -> float:
    per_day = list(account.events.items())
    usual = window(per_day, at, base, recent)
    now = window(per_day, at, recent)
    if usual is None or now is None or account.start is None or touched(account, at, recent + base, observed):
        return math.nan
    if usual[1] == 0:
        return math.nan
    expected = usual[1] * (recent / base)
    return settle((now[0] - expected) / expected, (now[1] - expected) / expected, at)


def status_of(record: Record, at: datetime) -> str | None:
    """The status at an instant, '?' where it is not known, None before the record was heard of."""
    seen = {status: time for status, time in record.taken.items() if time <= at}
    if seen:
        return max(seen, key=lambda status: seen[status])
    return "?" if (record.first_at or min(record.taken.values())) <= at else None


def in_state(account: Account, records: Sequence[Record], at: datetime, *wanted: str) -> float:
    statuses = [status_of(record, at) for record in records]
    if account.start is None or "?" in statuses:
        return math.nan
    return sum(status in wanted for status in statuses)


def by_rhythm(account: Account, name: str, at: datetime, observed: Observed) -> float:
    today, now = (midnight(at) - EPOCH) // DAY, (midnight(NOW) - EPOCH) // DAY
    days = {now - ago_ for ago_ in account.events}
    unsure = today in days and midnight(at) < at < NOW
    counted_days = FLEET.recent_days + 1
    if account.start is None or unsure or (name == "churn_odds" and touched(account, at, counted_days, observed)):
        return math.nan
    counted = today if today in days and at != midnight(at) else today - 1
    start = (account.start - EPOCH) // DAY
    if min({start, *days}) > counted:
        return math.nan
    first = min({start, *days}) - 1000

    def moment(day: int) -> float:
        end = EPOCH + timedelta(days=day + 1)
        return day - unobserved(EPOCH + timedelta(days=first), end, observed) / DAY

    walked = walk(days, counted, SHIPPED, start=start, moment=moment)
    return {
        "silence_ratio": walked.silence_ratio,
        "usual_pause": walked.usual_pause,
        "pause_tail": walked.tail,
        "churn_odds": walked.ratio(SHIPPED),
    }[name]


def local(account: Account, at: datetime) -> date:
    return (at + timedelta(hours=ZONES.get(str(account.attributes.get("timezone")), 0))).date()


holidays_of = lru_cache(lambda country, year: country_holidays(country, years=year))


def is_business(account: Account, day: date) -> bool:
    country = account.attributes.get("country")
    if country not in {"JP", "AE"}:
        return day.weekday() < 5
    return holidays_of(str(country), day.year).is_working_day(day)


def business_since(account: Account, last: datetime | None, at: datetime, observed: Observed) -> float:
    origin = last or account.start
    if account.start is None or origin is None or origin > at:
        return math.nan
    found, day = 0, local(account, origin) + DAY
    while day < local(account, at):
        offset = timedelta(hours=ZONES.get(str(account.attributes.get("timezone")), 0))
        begin = datetime(day.year, day.month, day.day, tzinfo=UTC) - offset
        found += is_business(account, day) and not unobserved(begin, begin + DAY, observed)
        day += DAY
    return found


def business_until(account: Account, day: date, at: datetime) -> int:
    today = local(account, at)
    span = [min(day, today) + DAY * n for n in range(abs((day - today).days))]
    return sum(is_business(account, each) for each in span) * (1 if day >= today else -1)


def distinct(per_row: Sequence[Sequence[int]], at: datetime, days: int, shift: int = 0) -> tuple[float, float]:
    sums = [window([(day, 1) for day in row], at, days, shift) for row in per_row]
    if window([], at, days, shift) is None:
        return math.nan, math.nan
    return sum(s is not None and s[0] > 0 for s in sums), sum(s is not None and s[1] > 0 for s in sums)


def was(account: Account, attribute: str, at: datetime) -> float:
    values = [value for when, value in sorted(account.history.get(attribute, ())) if when <= at]
    return values[-1] if values else math.nan


def champion(account: Account, at: datetime, *, today: bool) -> int | None:
    """How many days before the day of ``at`` the champion was last active."""
    back = (midnight(NOW) - midnight(at)) // DAY
    days = [[d - back for d in set(user) if (0 if today else 1) <= d - back < 90] for user in account.users]
    most = max((len(d) for d in days), default=0)
    return min(min(d) for d in days if len(d) == most) if most else None


def of_champion(account: Account, name: str, at: datetime, observed: Observed) -> float:
    if window([], at, 90) is None or account.start is None or touched(account, at, 90, observed):
        return math.nan
    values = []
    for today, others in zip((False, True), distinct(account.users, at, 28), strict=True):
        last = champion(account, at, today=today)
        if last is None:
            values.append(math.nan)
        elif name == "champion_gone":
            values.append(float(last >= 28 and others > 0))
        else:
            end = midnight(at)
            begin = min(end, end - timedelta(days=last - 1))
            values.append((end - begin - unobserved(begin, end, observed)) // DAY)
    return settle(values[0], values[1], at)


def resolved_hours(account: Account, at: datetime) -> float:
    spans = []
    for ticket in account.tickets:
        status = status_of(ticket, at)
        if status == "?":
            return math.nan
        if status not in {"solved", "closed"}:
            continue
        taken = {name: when for name, when in ticket.taken.items() if when <= at}
        reopened = max((taken[name] for name in ("open", "pending") if name in taken), default=EPOCH)
        solved = min(taken[name] for name in ("solved", "closed") if name in taken and taken[name] >= reopened)
        if solved > at - timedelta(days=90):
            first = ticket.first_at or min(ticket.taken.values())
            spans.append((solved - first) / timedelta(hours=1))
    return sum(spans) / len(spans) if spans else math.nan


def opened(account: Account, at: datetime, days: int, shift: int = 0) -> int:
    first = [ticket.first_at or min(ticket.taken.values()) for ticket in account.tickets]
    end = at - timedelta(days=shift)
    return sum(end - timedelta(days=days) < when <= end for when in first)


def overdue(account: Account, at: datetime) -> float:
    worst = 0
    for payment in account.payments:
        status = status_of(payment, at)
        if status == "?":
            return math.nan
        if status in {"failed", "overdue"}:
            stands = [payment.taken[name] for name in ("failed", "overdue") if name in payment.taken]
            since = max(when for when in stands if when <= at)
            worst = max(worst, (local(account, at) - (payment.due_on or local(account, since))).days)
    return worst


def course(account: Account, goal: Record, at: datetime, observed: Observed) -> tuple[str, float, float, float] | None:
    """(state, progress, shortfall, value of its signal) of a goal that is set; None: not known."""
    value = math.nan
    if goal.signal is not None:
        found = reference(account, SignalRef.parse(goal.signal).name, at, observed)
        value = math.nan if found is None else float(found)
        days = {"active_users_28d": 28, "events_7d": 7}.get(goal.signal)
        if days is not None and touched(account, at, days, observed):
            return None
        if math.isnan(value) and midnight(at) < at < NOW:
            return None
    target = math.nan if goal.target is None else goal.target
    if value <= target if goal.at_most else value >= target:
        return "on track", 1, 0, value
    progress = 0.0
    if target > 0 and value > 0:
        progress = target / value if goal.at_most else value / target
    if goal.due_on is None:
        return "on track", progress, 0, value
    today, begun = local(account, at), local(account, goal.first_at or min(goal.taken.values()))
    if goal.due_on < today:
        return "overdue", progress, 1 - progress, value
    pace = min(max((today - begun).days / max((goal.due_on - begun).days, 1), 0), 1)
    if math.isnan(value) or pace - progress < 0.1:
        return "on track", progress, 0, value
    return "behind", progress, pace - progress, value


def of_goals(account: Account, name: str, at: datetime, observed: Observed) -> Any:
    unknown = None if name == "goal_most_behind" else math.nan
    statuses = [status_of(goal, at) for goal in account.goals]
    if "?" in statuses or not any(statuses):
        return unknown
    reached = statuses.count("reached")
    standing = reached + statuses.count("set")
    if name == "goals_reached":
        return reached
    if name == "goals_reached_share":
        return reached / standing if standing else math.nan
    still_set = [goal for goal, status in zip(account.goals, statuses, strict=True) if status == "set"]
    courses = [course(account, goal, at, observed) for goal in still_set]
    known = [each for each in courses if each is not None]
    if len(known) < len(courses):
        return unknown
    if name in {"goals_behind", "goals_overdue"}:
        return sum(each[0] == name.removeprefix("goals_") for each in known)
    if name == "goal_most_behind":
        late = [(each, goal) for each, goal in zip(known, still_set, strict=True) if each[0] != "on track"]
        if not late:
            return "—"
        (_, _, _, value), goal = max(late, key=lambda pair: pair[0][2])
        sign = "≤" if goal.at_most else "≥"
        measured = (
            "" if math.isnan(value) else f": {numbers.plain(value, 2)} ({sign} {numbers.plain(goal.target or 0.0, 4)})"
        )
        return goal.name[:80] + measured
    good = sum(each[0] == "on track" for each in known) if name == "goals_on_track" else sum(each[1] for each in known)
    return (reached + good) / standing if standing else math.nan


def stage(account: Account, at: datetime) -> str | None:
    if account.start is None or account.start > at:
        return None
    if account.attributes.get("status") in {"paused", "ended", "trial"}:
        return str(account.attributes["status"])
    if (local(account, at) - local(account, account.start)).days < 90:
        return "onboarding"
    near = account.renewal_on is not None and (account.renewal_on - local(account, at)).days <= 90
    return "renewal" if near else "adoption"


def recently_failed(account: Account, at: datetime) -> float:
    statuses = [status_of(payment, at) for payment in account.payments]
    since = [
        max(when for when in payment.taken.values() if when <= at)
        for payment, status in zip(account.payments, statuses, strict=True)
        if status in {"failed", "overdue"}
    ]
    return math.nan if "?" in statuses else sum(when > at - timedelta(days=30) for when in since)


def of_count(account: Account, name: str, days: int, at: datetime, observed: Observed) -> float:
    if name == "logins":
        return count(account, dict(account.logins), at, days, observed)
    if name == "events":
        return count(account, dict(account.events), at, days, observed)
    if name == "active_days":
        return count(account, dict.fromkeys(account.events, 1), at, days, observed)
    rows = account.users if name == "active_users" else list(account.feature_days.values())
    if account.start is None or touched(account, at, days, observed):
        return math.nan
    return settle(*distinct(rows, at, days), at)


COUNTED = re.compile(r"(logins|events|active_days|active_users|features_used)_(\d+)d")


def newer(account: Account, name: str, at: datetime, observed: Observed) -> Any:  # noqa: C901, PLR0912 - a list
    counted = COUNTED.fullmatch(name)
    if counted:
        return of_count(account, counted[1], int(counted[2]), at, observed)
    if account.start is None:
        return math.nan
    last = {"business_days_since_login": account.last_login, "business_days_since_activity": account.last_activity,
            "business_days_since_contact": account.last_contact}  # fmt: skip
    if name in last:
        return business_since(account, last[name], at, observed)
    if name == "usage_change_28d_year":
        then, now = window(list(account.events.items()), at, 28, 364), window(list(account.events.items()), at, 28)
        year_ago = midnight(at) - timedelta(days=363)
        begin = max(year_ago - timedelta(days=28), account.start)
        unseen = begin < year_ago and unobserved(begin, year_ago, observed) > timedelta()
        if then is None or now is None or not then[1] or unseen or touched(account, at, 28, observed):
            return math.nan
        return settle(now[0] / then[1] - 1, now[1] / then[1] - 1, at)
    if name == "weekly_active_share":
        if touched(account, at, 28, observed):
            return math.nan
        week, month = distinct(account.users, at, 7), distinct(account.users, at, 28)
        shares = [a / b if b else math.nan for a, b in zip(week, month, strict=True)]
        return settle(shares[0], shares[1], at)
    if name == "seat_utilisation_change_28d":
        end = midnight(at) - timedelta(days=27) - timedelta(microseconds=1)
        seats, before = float(account.attributes.get("seats", 0)), was(account, "seats", end)
        if touched(account, at, 56, observed) or not seats or not before > 0:
            return math.nan
        return settle(*distinct(account.users, at, 28), at) / seats - distinct(account.users, at, 28, 28)[1] / before
    if name.startswith("champion"):
        return of_champion(account, name, at, observed)
    if name == "feature_breadth_90d":
        ours = [days for feature, days in account.feature_days.items() if feature in FLEET.features]
        return math.nan if touched(account, at, 90, observed) else settle(*distinct(ours, at, 90), at) / 3
    if name == "features_never_used":
        return 3 - sum(first <= at for f, (first, _) in account.features.items() if f in FLEET.features)
    if name == "business_days_to_renewal":
        return math.nan if account.renewal_on is None else business_until(account, account.renewal_on, at)
    if name in {"mrr_change_28d", "mrr_change_90d"}:
        old = was(account, "mrr", at - timedelta(days=28 if name == "mrr_change_28d" else 90))
        new = float(account.attributes.get("mrr", math.nan)) if at >= NOW else was(account, "mrr", at)
        return (new - old) / old
    if name == "payment_days_overdue":
        return overdue(account, at)
    if name in {"tickets_opened_7d", "tickets_opened_28d"}:
        return opened(account, at, 7 if name == "tickets_opened_7d" else 28)
    if name == "ticket_spike":
        return opened(account, at, 7) / (max(opened(account, at, 28, 7), 1) / 4)
    if name == "hours_to_resolve_90d":
        return resolved_hours(account, at)
    if name in {"nps_detractor", "csat_last"}:
        answers = [nps for when, nps in sorted(account.surveys, key=lambda s: s[0]) if when <= at]
        if name == "csat_last":
            return 3 if None in answers else math.nan
        scores = [nps for nps in answers if nps is not None]
        return float(scores[-1] <= 6) if scores else math.nan
    if name in {"sessions_attended_28d", "sessions_attended_90d"}:
        days = 28 if name == "sessions_attended_28d" else 90
        if touched(account, at, days + 1, observed):
            return math.nan
        return sum(at - timedelta(days=days) < when <= at for when in account.sessions)
    if name == "onboarding_day":
        day = (local(account, at) - local(account, account.start)).days + 1
        return day if account.start <= at and 1 <= day <= 90 else math.nan
    if name == "onboarding_overdue_milestones":
        statuses = [status_of(milestone, at) for milestone in account.milestones]
        if "?" in statuses or all(status is None for status in statuses):
            return math.nan
        return sum(
            status == "planned" and milestone.due_on is not None and milestone.due_on < local(account, at)
            for status, milestone in zip(statuses, account.milestones, strict=True)
        )
    raise AssertionError(name)


PLAIN = tuple(
    name for name, signal in SIGNALS.items() if signal.needs == ("account_attributes",) and "days" not in name
)


def reference(account: Account, name: str, at: datetime, observed: Observed) -> Any:  # noqa: C901, PLR0912 - a list
    if name in PLAIN:
        return account.attributes.get(name) if account.start is not None else None
    if name.startswith("goal"):
        unknown = None if name == "goal_most_behind" else math.nan
        return of_goals(account, name, at, observed) if account.start is not None else unknown
    if name == "lifecycle_stage":
        return stage(account, at)
    if name == "failed_payments_30d":
        return recently_failed(account, at) if account.start is not None else math.nan
    first, last = account.features.get("export", (None, None))
    nps = [score for when, score in sorted(account.surveys, key=lambda s: s[0]) if score is not None and when <= at]
    if name == "days_since_login":
        return days_since(account, account.last_login, at, observed)
    if name == "days_since_activity":
        return days_since(account, account.last_activity, at, observed)
    if name == "days_since_contact":
        return days_since(account, account.last_contact, at, observed)
    if name == "days_since_feature":
        return days_since(account, None if first is not None and at < first else last, at, observed)
    if name == "days_since_survey":
        answered = [when for when, _ in account.surveys if when <= at]
        return days_since(account, max(answered, default=None), at, observed)
    if name == "days_since_start":
        return math.nan if account.start is None or account.start > at else (at - account.start) // DAY
    if name == "usage_change_28d":
        return change(account, at, 28, 28, observed)
    if name == "usage_change_7d_28d":
        return change(account, at, 7, 28, observed)
    if name == "seat_utilisation":
        users, seats = of_count(account, "active_users", 28, at, observed), float(account.attributes.get("seats", 0))
        return users / seats if seats else math.nan
    if name == "feature_used":
        return math.nan if account.start is None else float(first is not None and first <= at)
    if name == "open_tickets":
        return in_state(account, account.tickets, at, "open", "pending")
    if name == "failed_payments":
        return in_state(account, account.payments, at, "failed", "overdue")
    if name == "milestones_done":
        return in_state(account, account.milestones, at, "reached")
    if name in {"silence_ratio", "usual_pause", "pause_tail", "churn_odds"}:
        return by_rhythm(account, name, at, observed)
    if name == "nps_last":
        return nps[-1] if nps and account.start else math.nan
    if name == "days_to_renewal":
        return (
            math.nan if not (account.renewal_on and account.start) else (account.renewal_on - local(account, at)).days
        )
    return newer(account, name, at, observed)


@settings(max_examples=120)
@given(st.lists(accounts(), min_size=1, max_size=3), observations(), st.lists(HOURS, max_size=4))
def test_equal_to_the_reference_now_and_then(known: list[Account], observed: Observed, hours: list[int]) -> None:
    at = [NOW, midnight(NOW), *(ago(hour) for hour in hours), *(midnight(ago(hour)) for hour in hours)]
    table = compute(made(known), at, REFS, observed)
    for ref in REFS:
        if "health" in SIGNALS[ref.name].needs:
            continue  # of the accounts below it, which test_hierarchy.py rolls up
        expected = [[reference(account, ref.name, instant, observed) for instant in at] for account in known]
        if SIGNALS[ref.name].type == "text":
            assert table.columns[str(ref)].tolist() == expected, str(ref)
        else:
            numbers = np.array([[math.nan if cell is None else cell for cell in row] for row in expected], float)
            np.testing.assert_allclose(table.columns[str(ref)], numbers, err_msg=str(ref), equal_nan=True)


def plain(column: Any) -> list[list[Any]]:
    """Cells that can be compared: None for unknown."""
    return [[None if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in column.tolist()]


def values_at(known: list[Account], at: list[datetime], observed: Observed) -> dict[str, list[list[Any]]]:
    return {name: plain(column) for name, column in compute(made(known), at, REFS, observed).columns.items()}


@settings(max_examples=80)
@given(accounts(), observations())
def test_nothing_changes_before_next_change(account: Account, observed: Observed) -> None:
    due = next_change(made([account]), NOW, REFS, observed, spread_borders=False)[0]
    horizon = NOW + timedelta(days=40)
    until = horizon if np.isnat(due) else min(horizon, due.item().replace(tzinfo=UTC))
    hours = int((until - NOW) / timedelta(hours=1))
    at = [NOW, *(NOW + timedelta(hours=hour) for hour in range(hours)), until - timedelta(microseconds=1)]
    for name, rows in values_at([account], at, observed).items():
        assert len(set(rows[0])) == 1, f"{name} changes before {until}"


RHYTHM = tuple(
    ref for ref in REFS if "fleets" in SIGNALS[ref.name].needs and "account_months" in SIGNALS[ref.name].needs
)
"""Computed instant by instant, and only days change them."""


@settings(max_examples=40)
@given(accounts(), observations())
def test_each_signal_alone_does_not_change_before_its_next_change(account: Account, observed: Observed) -> None:
    known = made([account])
    horizon = NOW + timedelta(days=70)
    until: dict[SignalRef, datetime] = {}
    for ref in REFS:
        due = next_change(known, NOW, [ref], observed, spread_borders=False)[0]
        until[ref] = horizon if np.isnat(due) else min(horizon, due.item().replace(tzinfo=UTC))
    for refs, hours in ((set(REFS) - set(RHYTHM), 6), (set(RHYTHM), 24)):
        last = [at - timedelta(microseconds=1) for at in set(until.values())]
        grid = [NOW, *(NOW + timedelta(hours=hours * n) for n in range(1, 70 * 24 // hours)), *last]
        columns = compute(known, grid, refs, observed).columns
        for ref in refs:
            row = plain(columns[str(ref)])[0]
            seen = {cell for at, cell in zip(grid, row, strict=True) if at < until[ref]}
            assert len(seen) == 1, f"{ref} changes before {until[ref]}"


@settings(max_examples=80)
@given(accounts(), observations())
def test_between_steps_a_known_value_stays(account: Account, observed: Observed) -> None:
    start = NOW - timedelta(days=20)
    known = made([account])
    found = steps(known, REFS, start, NOW, observed)[0]
    moments = [instant.item().replace(tzinfo=UTC) for instant in found if not np.isnat(instant)]
    assert moments == sorted(set(moments))
    grid = [start + timedelta(hours=3 * n) for n in range(160)]
    values = values_at([account], [*grid, *moments], observed)
    for name, rows in values.items():
        by_time = dict(zip([*grid, *moments], rows[0], strict=True))
        for at in grid:
            before = [moment for moment in moments if moment <= at]
            if before and by_time[at] is not None and by_time[before[-1]] is not None:
                assert by_time[at] == by_time[before[-1]], (name, at, before[-1])


@settings(max_examples=50)
@given(accounts(), observations(), st.integers(0, 2000), st.integers(0, 2000))
def test_a_later_now_never_lowers_a_days_since(account: Account, observed: Observed, one: int, other: int) -> None:
    at = [NOW + timedelta(hours=hour) for hour in sorted((one, other))]
    for name, rows in values_at([account], at, observed).items():
        if "days_since" in name and rows[0][0] is not None:
            assert rows[0][0] <= rows[0][1], name


@settings(max_examples=60)
@given(st.lists(accounts(), min_size=1, max_size=3), observations(), st.lists(HOURS, max_size=4))
def test_live_is_the_last_column_of_history(known: list[Account], observed: Observed, hours: list[int]) -> None:
    past = sorted(ago(hour) for hour in hours)
    history = values_at(known, [*past, NOW], observed)
    for name, rows in values_at(known, [NOW], observed).items():
        assert [row[-1:] for row in history[name]] == rows, name


@settings(max_examples=40)
@given(st.lists(accounts(), min_size=2, max_size=4), observations(), st.randoms())
def test_the_order_of_accounts_does_not_matter(known: list[Account], observed: Observed, random: Any) -> None:
    order = list(range(len(known)))
    random.shuffle(order)
    at = [NOW, ago(30)]
    straight = values_at(known, at, observed)
    shuffled = values_at([known[place] for place in order], at, observed)
    taken_rows = compute(made(known).take(np.array(order)), at, REFS, observed).columns
    for name, rows in straight.items():
        assert shuffled[name] == [rows[place] for place in order]
        assert plain(taken_rows[name]) == shuffled[name]


def test_the_reference_is_not_blind() -> None:
    account = Account(start=ago(24 * 40), events={1: 2}, renewal_on=date(2025, 6, 20))
    assert reference(account, "events_28d", NOW, Observed(NOW)) == 2
    assert reference(account, "days_since_login", NOW, Observed(NOW)) == 40
