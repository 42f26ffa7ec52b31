"""What happens at an account on a day: one function for the history and for the live traffic. Pure.

A day's events depend on (seed, account, day) alone, ids included, so that a restart makes the same events again. Days
and hours are the account's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import Any, Final
from zoneinfo import ZoneInfo

from consumers.events import (
    Contact,
    Event,
    Goal,
    Group,
    Identify,
    Login,
    Milestone,
    Payment,
    Session,
    Subscription,
    Survey,
    Ticket,
    Usage,
)
from service.demo import names
from service.demo.company import Account, Company, Draw

SOURCE: Final = "demo"
CORE_FEATURES: Final = ("report", "export")
"""Those of rules/churn.yaml; a test compares."""
FEATURES: Final = (*CORE_FEATURES, "dashboard", "import", "share", "automation", "api", "comments")
FEATURE_WEIGHTS: Final = (5, 8, 14, 16, 18, 19, 21, 22)  # cumulated
MILESTONES: Final = (("kickoff", 4), ("data-connected", 12), ("first-report", 24), ("go-live", 40))
"""With the day after the start on which each is due."""
TICKET_EVERY: Final = {"fading": 22, "champion_gone": 34, "onboarding_stalled": 20, "payment_failing": 45}
TICKET_EVERY_OTHERWISE: Final = 70
CONTACT_EVERY: Final = {"high-touch": 14, "low-touch": 38, "tech-touch": 90}
SURVEY_EVERY: Final = 88
GOAL_SET_AFTER: Final = 7
SESSION_EVERY: Final = 41
NIGHT: Final = time(1, 30)


class Days:
    """The days of one account."""

    def __init__(self, company: Company, account: Account) -> None:
        self._company = company
        self._account = account
        self._draw = Draw(company.seed, account.account_id)
        self._zone = ZoneInfo(account.timezone)
        self._anchor_day = company.anchor.date()
        self.first = max(company.history_from, account.started_on)

    def between(self, start: datetime, end: datetime) -> list[Event]:
        """The account's events from ``start`` up to, not including, ``end``, in order of time."""
        day = max(start.date() - timedelta(days=1), self.first)
        found: list[Event] = []
        # A working day somewhere else may lie in our yesterday or tomorrow.
        while day <= end.date() + timedelta(days=1):
            found += [event for event in self.on(day) if start <= event.timestamp < end]
            day += timedelta(days=1)
        return sorted(found, key=lambda event: (event.timestamp, event.event_id))

    def on(self, day: date) -> list[Event]:
        """The events of the account's ``day``, in no set order."""
        account, offset = self._account, (day - self._anchor_day).days
        if day < self.first or (account.archetype == "ended" and offset > -account.turn):
            return []
        events = list(self._activity(day, offset))
        events += self._records(day, offset)
        if day == self.first:
            events += self._introduction(day)
        if account.archetype == "expanding" and offset == -account.turn:
            events.append(self._subscription(day, "expanded", mrr=account.mrr))
        if account.archetype == "ended" and offset == -account.turn:
            events.append(self._subscription(day, "ended"))
        return events

    # Activity

    def _activity(self, day: date, offset: int) -> Iterator[Event]:
        account = self._account
        level = self._level(day, offset)
        if level <= 0:
            return
        random = Random(f"{self._company.seed}/{account.account_id}/{day}")
        for number in range(len(account.users)):
            chance = self._presence(number, offset) * level
            if random.random() < chance:
                yield from self._visit(random, day, offset, number)

    def _level(self, day: date, offset: int) -> float:
        """How lively the account is on a day, about 1 on a good one."""
        account = self._account
        week = 1.0 if day.weekday() < 5 else 0.06
        match account.archetype:
            case "silent" if offset > -account.turn:
                return 0.0
            case "fading":
                return week * max(0.12, min(1.0, -offset / 60))
            case "expanding":
                return week * min(1.25, 0.75 + (self._company.history_days + offset) / 300)
            case "onboarding_stalled":
                return week * max(0.15, 0.6 - (day - account.started_on).days / 80)
            case "seasonal":
                return week * (1.1 if day.day >= 24 or day.day <= 4 else 0.25)
            case "payment_failing":
                return week * 0.7
            case _:
                return week

    def _presence(self, number: int, offset: int) -> float:
        """The chance that a user comes on a good working day; the first one is the champion."""
        account = self._account
        if account.archetype == "champion_gone":
            if number == 0:
                return 0.95 if offset < -account.turn else 0.0
            return 0.22
        return 0.85 if number == 0 else max(0.15, 0.62 - 0.12 * number)

    def _visit(self, random: Random, day: date, offset: int, number: int) -> Iterator[Event]:
        account = self._account
        user = user_id(account, number)
        at = self._at(day, random.uniform(8.5, 17.5))
        place = f"{account.account_id}-{day:%y%m%d}"
        yield Login(
            event_id=f"{place}-l{number}", account_id=account.account_id, timestamp=at, user_id=user, source=SOURCE
        )
        used = random.choices(FEATURES, cum_weights=FEATURE_WEIGHTS, k=random.choice((1, 2, 2, 3)))
        if number == 0 and offset % 6 == account.billing_day % 6:
            used += CORE_FEATURES  # nobody healthy forgets the core for weeks
        if account.archetype == "onboarding_stalled":
            used = [feature for feature in used if feature != "export"]
        for feature in sorted(set(used)):
            at += timedelta(minutes=random.uniform(1, 25))
            yield Usage(
                event_id=f"{place}-u{number}-{feature}",
                account_id=account.account_id,
                timestamp=at,
                user_id=user,
                source=SOURCE,
                feature=feature,
                quantity=random.choice((1, 1, 2, 3, 5, 8)),
            )

    # Discrete events

    def _records(self, day: date, offset: int) -> Iterator[Event]:
        account = self._account
        quiet = account.archetype == "silent" and offset > -account.turn
        if not quiet:
            yield from self._tickets(offset)
            yield from self._surveys(offset)
            yield from self._sessions(offset)
        yield from self._payments(day, offset)
        yield from self._contacts(offset)
        yield from self._onboarding(day)
        yield from self._goals(day)

    def _occasions(self, what: str, every: int, offset: int, lasting: int = 0) -> Iterator[tuple[int, int]]:
        """(number, days since) of what recurs, as far as it fell on today or the last ``lasting`` days."""
        phase = self._draw.between(0, every - 1, what, "phase")
        latest = (offset - phase) // every
        for number in range((offset - lasting - phase) // every, latest + 1):
            jitter = self._draw.between(0, every // 3, what, number)
            since = offset - (phase + number * every + jitter)
            if 0 <= since <= lasting:
                yield number, since

    def _tickets(self, offset: int) -> Iterator[Event]:
        account = self._account
        every = TICKET_EVERY.get(account.archetype, TICKET_EVERY_OTHERWISE)
        for number, since in self._occasions("ticket", every, offset, lasting=6 + every // 3):
            draw = Draw(self._company.seed, account.account_id, "ticket", number)
            left_open = account.archetype == "fading" and offset - since > -40
            solved_after = None if left_open else draw.between(1, 6, "solved")
            if since not in {0, solved_after}:
                continue
            subjects = names.TICKETS_JA if account.japanese else names.TICKETS
            yield Ticket(
                **self._common(offset, f"ticket{number}-{since}", 9.0 + 8 * draw.unit("hour", since)),
                user_id=user_id(account, draw.between(0, len(account.users) - 1, "user")),
                ticket_id=f"{account.account_id}-t{number + 100}",
                status="open" if since == 0 else "solved",
                priority=draw.pick(("low", "normal", "high"), "priority"),
                subject=draw.pick(subjects, "subject"),
            )

    def _surveys(self, offset: int) -> Iterator[Event]:
        account = self._account
        for number, _ in self._occasions("nps", SURVEY_EVERY, offset):
            draw = Draw(self._company.seed, account.account_id, "nps", number)
            low, high = {
                "healthy": (7, 10), "expanding": (8, 10), "seasonal": (7, 9), "payment_failing": (6, 8),
            }.get(account.archetype, (4, 8) if offset > -account.turn else (7, 9))  # fmt: skip
            score = draw.between(low, high, "score")
            good = score >= 7
            words = names.PRAISE if good else names.COMPLAINTS
            if account.japanese:
                words = names.PRAISE_JA if good else names.COMPLAINTS_JA
            yield Survey(
                **self._common(offset, f"nps{number}", 10 + 6 * draw.unit("hour")),
                user_id=user_id(account, draw.between(0, len(account.users) - 1, "user")),
                survey_id=f"{account.account_id}-nps{number + 100}",
                survey="nps",
                score=score,
                comment=draw.pick(words, "comment") or None,
            )

    def _sessions(self, offset: int) -> Iterator[Event]:
        account = self._account
        if self._draw.unit("webinars") < 0.7:
            return
        for number, _ in self._occasions("session", SESSION_EVERY, offset):
            yield Session(
                **self._common(offset, f"session{number}", 14.0),
                user_id=user_id(account, number % len(account.users)),
                session_id=f"{account.account_id}-s{number + 100}",
                session="training" if number % 3 == 0 else "webinar",
                title="活用セミナー" if account.japanese else "Getting more out of reports",
            )

    def _contacts(self, offset: int) -> Iterator[Event]:
        account = self._account
        every = CONTACT_EVERY[account.touch_model]
        for number, _ in self._occasions("contact", every, offset):
            yield Contact(
                **self._common(offset, f"contact{number}", 11 + 4 * self._draw.unit("contact", number, "hour")),
                contact_id=f"{account.account_id}-c{number + 100}",
                contact=self._draw.pick(("call", "mail", "mail", "meeting"), "contact", number, "how"),
                by=account.owner,
            )

    def _payments(self, day: date, offset: int) -> Iterator[Event]:
        account = self._account
        if day.day != account.billing_day:
            return
        failing = account.archetype == "payment_failing" and -45 < offset < 0
        yield Payment(
            event_id=f"{account.account_id}-{day:%y%m%d}-payment",
            account_id=account.account_id,
            timestamp=datetime.combine(day, NIGHT, UTC) + timedelta(seconds=round(3600 * self._draw.unit("payment"))),
            source=SOURCE,
            payment_id=f"{account.account_id}-inv-{day:%Y%m}",
            status="failed" if failing else "paid",
            amount=account.mrr,
            currency=account.currency,
        )

    def _onboarding(self, day: date) -> Iterator[Event]:
        account = self._account
        if account.started_on < self._company.history_from:
            return
        age = (day - account.started_on).days
        stalled = account.archetype == "onboarding_stalled"
        for milestone, due in MILESTONES:
            reached = due - self._draw.between(0, 3, "milestone", milestone)
            common: dict[str, Any] = {"milestone": milestone, "due_on": account.started_on + timedelta(days=due)}
            if age == 0:
                yield Milestone(**self._on(day, f"plan-{milestone}", 9.0), **common, status="planned")
            if age == reached and not (stalled and milestone != "kickoff"):
                yield Milestone(**self._on(day, f"reach-{milestone}", 15.0), **common)

    def _goals(self, day: date) -> Iterator[Event]:
        account = self._account
        age = (day - self.first).days
        reached = self._draw.between(50, 140, "goal", "reached")
        told_reached = account.archetype in {"healthy", "expanding"} and self._draw.unit("goal", "told") < 0.5
        if age != GOAL_SET_AFTER and not (age == reached and told_reached):
            return
        english, japanese, signal, target = self._draw.pick(names.GOALS, "goal")
        yield Goal(
            **self._on(day, f"goal-{age}", 13.0),
            goal_id=f"{account.account_id}-g1",
            status="set" if age == GOAL_SET_AFTER else "reached",
            name=japanese if account.japanese else english,
            signal=signal,
            target=len(account.users) if target is None else target,
            due_on=self.first + timedelta(days=GOAL_SET_AFTER + self._draw.between(120, 300, "goal", "due")),
        )

    # Who they are

    def _introduction(self, day: date) -> Iterator[Event]:
        """The first day of the history: the account and its people, as a CRM would send them."""
        account = self._account
        ahead = account.archetype == "expanding"
        mrr = round(account.mrr * 0.7) if ahead else account.mrr
        traits: dict[str, Any] = {
            "name": account.name, "plan": account.plan, "mrr": mrr, "currency": account.currency,
            "owner": account.owner, "renewal_on": account.renewal_on.isoformat(), "segment": account.segment,
            "status": "active", "seats": account.seats, "started_at": account.started_on.isoformat(),
            "timezone": account.timezone, "country": account.country, "touch_model": account.touch_model,
        }  # fmt: skip
        if account.parent_id is not None:
            traits["parent_account_id"] = account.parent_id
        at = datetime.combine(day, NIGHT, UTC)
        place: dict[str, Any] = {"account_id": account.account_id, "timestamp": at, "source": SOURCE}
        yield Group(**place, event_id=f"{account.account_id}-group", traits=traits)
        if account.started_on == day:
            yield self._subscription(day, "started", mrr=mrr)
        for number, name in enumerate(account.users):
            role = names.ROLES[(number + account.billing_day) % len(names.ROLES)]
            traits = {"name": name, "role": role, "email": f"user{number + 1}@{account.account_id}.example"}
            yield Identify(
                **place, event_id=f"{account.account_id}-identify-{number}", user_id=user_id(account, number),
                traits=traits,
            )  # fmt: skip

    def _subscription(self, day: date, change: Any, *, mrr: int | None = None) -> Subscription:
        account = self._account
        return Subscription(
            event_id=f"{account.account_id}-subscription-{change}",
            account_id=account.account_id,
            timestamp=datetime.combine(day, NIGHT, UTC) + timedelta(minutes=10),
            source=SOURCE,
            change=change,
            mrr=mrr,
            currency=None if mrr is None else account.currency,
            seats=None if mrr is None else account.seats,
            effective_on=day,
        )

    def _common(self, offset: int, what: str, hour: float) -> dict[str, Any]:
        return self._on(self._anchor_day + timedelta(days=offset), what, hour)

    def _on(self, day: date, what: str, hour: float) -> dict[str, Any]:
        """What every event says; ``hour`` of the account's own day."""
        return {
            "event_id": f"{self._account.account_id}-{day:%y%m%d}-{what}",
            "account_id": self._account.account_id,
            "timestamp": self._at(day, hour),
            "source": SOURCE,
        }

    def _at(self, day: date, hour: float) -> datetime:
        local = datetime.combine(day, time(int(hour)), self._zone) + timedelta(seconds=round(hour % 1 * 3600, 3))
        return local.astimezone(UTC)


def user_id(account: Account, number: int) -> str:
    return f"{account.account_id}-u{number + 1}"
