"""What makes alerts while somebody watches: silences that come of age, and things that happen. Pure.

A silence is part of the history: the account's last visit lies so many days before an instant shortly after the
anchor, so that the rule comes true by time alone. An incident is an event of its own, told anew at each start on other
accounts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from consumers.events import Event, Group, Identify, Login, Payment, Session, Survey, Ticket, Usage
from service.demo import names
from service.demo.company import Account, Company, Draw
from service.demo.plans import SOURCE, Days, user_id

VISITS: Final = (Login, Usage, Session)
"""What a silent account does not do; its payments and our mails to it go on."""


@dataclass(frozen=True, kw_only=True)
class Silence:
    """``days`` without a login (14) or without any activity (7) are over so many ``seconds`` after the anchor."""

    seconds: int
    days: int
    comes_back_after: int | None = None


SILENCES: Final = (
    Silence(seconds=25, days=14, comes_back_after=150),
    Silence(seconds=50, days=7),
    Silence(seconds=90, days=14),
    Silence(seconds=180, days=14),
    Silence(seconds=270, days=7),
    Silence(seconds=360, days=14),
    Silence(seconds=540, days=14),
    Silence(seconds=800, days=7),
    Silence(seconds=1_200, days=14),
    Silence(seconds=1_800, days=14),
    Silence(seconds=2_700, days=7),
    Silence(seconds=3_600, days=14),
)
"""Of the first start. The first is told while the rest of the history is still loading."""

What = Literal["payment_failed", "payment_paid", "ticket", "ticket_solved", "detractor"]


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Something that happens ``seconds`` after a start to the account in the given ``role`` of that start."""

    seconds: int
    what: What
    role: int
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """A score that a person sets."""

    account_id: str
    score: float
    reason: str


INCIDENTS: Final = (
    Incident(seconds=35, what="payment_failed", role=0),
    Incident(seconds=60, what="ticket", role=1, number=1),
    Incident(seconds=68, what="ticket", role=1, number=2),
    Incident(seconds=75, what="ticket", role=1, number=3),
    Incident(seconds=120, what="detractor", role=2),
    Incident(seconds=210, what="payment_paid", role=0),
    Incident(seconds=240, what="payment_failed", role=3),
    Incident(seconds=420, what="detractor", role=4),
    Incident(seconds=480, what="ticket_solved", role=1, number=2),
    Incident(seconds=660, what="payment_failed", role=5),
    Incident(seconds=900, what="payment_paid", role=3),
    Incident(seconds=1_500, what="detractor", role=6),
)
ROLES: Final = 1 + max(incident.role for incident in INCIDENTS)


def silent_accounts(company: Company) -> dict[str, Silence]:
    """The accounts that fall silent on purpose: the first healthy ones, one language after the other."""
    chosen = _alternating([account for account in company.accounts if account.archetype == "healthy"])
    return {account.account_id: silence for account, silence in zip(chosen, SILENCES, strict=False)}


def history(company: Company, account: Account, silence: Silence | None) -> list[Event]:
    """What is known of an account at the anchor, in order of time."""
    days = Days(company, account)
    start = company.anchor - timedelta(days=company.history_days + 2)
    events = days.between(start, company.anchor)
    if silence is None:
        return events
    last_visit = _last_visit(company, silence)
    kept = [event for event in events if not isinstance(event, VISITS) or event.timestamp < last_visit]
    kept.append(_farewell(account, silence, last_visit))
    return sorted(kept, key=lambda event: (event.timestamp, event.event_id))


def live(company: Company, start: datetime, end: datetime) -> list[Event]:
    """The company's day as it goes on: all accounts from ``start`` up to ``end``, but for those that fell silent."""
    silent = silent_accounts(company)
    found: list[Event] = []
    for account in company.accounts:
        events = Days(company, account).between(start, end)
        silence = silent.get(account.account_id)
        if silence is not None:
            back = None if silence.comes_back_after is None else company.anchor + _seconds(silence.comes_back_after)
            events = [e for e in events if not isinstance(e, VISITS) or (back is not None and e.timestamp > back)]
            if back is not None and start <= back < end:
                events.append(_comeback(account, back))
        found += events
    return sorted(found, key=lambda event: (event.timestamp, event.event_id))


def incidents(company: Company, started_at: datetime) -> list[Event]:
    """The incidents of one start, in order of time; ids carry its instant."""
    cast = _cast(company, started_at)
    told = [incident for incident in INCIDENTS if incident.role < len(cast)]
    events = [_incident(company, cast[incident.role], incident, started_at) for incident in told]
    return sorted(events, key=lambda event: event.timestamp)


def set_by_hand(company: Company) -> list[ByHand]:
    """Of those whose payment fails, one in each language: its owner knows better."""
    failing = _alternating([account for account in company.accounts if account.archetype == "payment_failing"])
    words = names.KNOWN_BETTER, names.KNOWN_BETTER_JA
    return [ByHand(account_id=each.account_id, score=75, reason=words[each.japanese]) for each in failing[:2]]


def chatter(company: Company, number: int, at: datetime, started_at: datetime) -> Event:
    """One of the small things that healthy accounts do all day; ``number`` counts from the start."""
    silent = silent_accounts(company)
    lively = tuple(
        account
        for account in company.accounts
        if account.archetype in {"healthy", "expanding"} and account.account_id not in silent
    )
    draw = Draw(company.seed, "chatter", _stamp(started_at), number)
    account = draw.pick(lively, "account")
    common: dict[str, Any] = {
        "event_id": f"chatter-{_stamp(started_at)}-{number}",
        "account_id": account.account_id,
        "user_id": user_id(account, draw.between(0, len(account.users) - 1, "user")),
        "timestamp": at,
        "source": SOURCE,
    }
    if draw.unit("login") < 0.15:
        return Login(**common)
    return Usage(**common, feature=draw.pick(("dashboard", "report", "share", "export", "comments"), "feature"))


def _last_visit(company: Company, silence: Silence) -> datetime:
    return company.anchor + _seconds(silence.seconds) - timedelta(days=silence.days)


def _farewell(account: Account, silence: Silence, at: datetime) -> Event:
    common: dict[str, Any] = {
        "event_id": f"{account.account_id}-last-visit", "account_id": account.account_id, "timestamp": at,
        "user_id": user_id(account, 0), "source": SOURCE,
    }  # fmt: skip
    return Login(**common) if silence.days == 14 else Usage(**common, feature="report")


def _comeback(account: Account, at: datetime) -> Event:
    return Login(
        event_id=f"{account.account_id}-comeback", account_id=account.account_id, timestamp=at,
        user_id=user_id(account, 0), source=SOURCE,
    )  # fmt: skip


def _cast(company: Company, started_at: datetime) -> list[Account]:
    """Who plays the roles of this start: healthy accounts, other ones each time."""
    silent = silent_accounts(company)
    healthy = [a for a in company.accounts if a.archetype == "healthy" and a.account_id not in silent]
    draw = Draw(company.seed, "cast", _stamp(started_at))
    return _alternating(sorted(healthy, key=lambda account: draw.unit(account.account_id)))[:ROLES]


def _alternating(accounts: list[Account]) -> list[Account]:
    """English, Japanese, English, …; the rest at the end."""
    english = [account for account in accounts if not account.japanese]
    japanese = [account for account in accounts if account.japanese]
    paired = [account for pair in zip(english, japanese, strict=False) for account in pair]
    return paired + english[len(japanese) :] + japanese[len(english) :]


def _incident(company: Company, account: Account, incident: Incident, started_at: datetime) -> Event:
    stamp = _stamp(started_at)
    common: dict[str, Any] = {
        "event_id": f"{incident.what}-{stamp}-{incident.seconds}", "account_id": account.account_id,
        "timestamp": started_at + _seconds(incident.seconds), "source": SOURCE,
    }  # fmt: skip
    draw = Draw(company.seed, stamp, incident.role, incident.number)
    match incident.what:
        case "payment_failed" | "payment_paid":
            status: Any = incident.what.removeprefix("payment_")
            return Payment(
                **common, payment_id=f"{account.account_id}-inv-{stamp}", status=status, amount=account.mrr,
                currency=account.currency,
            )  # fmt: skip
        case "ticket" | "ticket_solved":
            subjects = names.TICKETS_JA if account.japanese else names.TICKETS
            return Ticket(
                **common, ticket_id=f"{account.account_id}-t-{stamp}-{incident.number}", priority="high",
                status="open" if incident.what == "ticket" else "solved", subject=draw.pick(subjects, "subject"),
                user_id=user_id(account, 0),
            )  # fmt: skip
        case "detractor":
            words = names.COMPLAINTS_JA if account.japanese else names.COMPLAINTS
            return Survey(
                **common, survey_id=f"{account.account_id}-nps-{stamp}", survey="nps",
                score=draw.between(2, 5, "score"), comment=draw.pick(words, "comment"), user_id=user_id(account, 0),
            )  # fmt: skip


def all_history(company: Company) -> Iterator[list[Event]]:
    """The whole history, account after account, first those about whom something will be told soon.

    Within an account first who it is, then what happened, newest first: facts do not mind the order, and an evaluator
    that looks half-way sees an account whose past is not known yet, not one that has just gone silent.
    """
    silent = silent_accounts(company)
    soon = {*silent, *(account.account_id for account in _cast(company, company.anchor))}
    for account in sorted(company.accounts, key=lambda account: account.account_id not in soon):
        events = history(company, account, silent.get(account.account_id))
        known = [event for event in events if isinstance(event, (Group, Identify))]
        yield known + [event for event in reversed(events) if not isinstance(event, (Group, Identify))]


def _seconds(seconds: int) -> timedelta:
    return timedelta(seconds=seconds)


def _stamp(started_at: datetime) -> str:
    return f"{started_at:%Y%m%d%H%M%S}"
