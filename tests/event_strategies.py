"""Hypothesis strategies for events of every kind, crowded into few accounts, ids and instants so that they collide."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from consumers.events import (
    Contact,
    Custom,
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

ACCOUNTS = ("acme", "アカウント", 'o\'brien \\ {x,y} "q"')
USERS = ("u1", "u2", "ü-3")
SOURCES = ("default", "web", "crm:eu")
START = datetime(2026, 1, 30, 21, 0, tzinfo=UTC)
ZONES = (UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-9, minutes=-30)))
STEPS = (timedelta(0), timedelta(microseconds=1), timedelta(minutes=59), timedelta(hours=3), timedelta(days=1, hours=1),
         timedelta(days=27), timedelta(days=31), timedelta(days=61, seconds=7))  # fmt: skip

instants = st.builds(
    lambda steps, zone: (START + sum(steps, timedelta(0))).astimezone(zone),
    st.lists(st.sampled_from(STEPS), max_size=3),
    st.sampled_from(ZONES),
)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
names = st.sampled_from(("export", "import", "レポート", 'a,b{}"'))
days = st.dates(date(2025, 12, 1), date(2027, 1, 1))
numbers = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6, allow_nan=False).filter(lambda x: x != 0)
money = st.integers(0, 10**6) | st.decimals(0, 10**6, places=2).map(float)
scalars = st.none() | st.booleans() | numbers | texts
GROUP_TRAITS: dict[str, st.SearchStrategy[Any]] = {
    "plan": st.none() | st.sampled_from(("pro", "free")),
    "mrr": st.none() | money,
    "currency": st.sampled_from(("USD", "JPY")),
    "owner": st.none() | st.sampled_from(("mika", "sato")),
    "renewal_on": days.map(str),
    "status": st.sampled_from(("active", "paused", "ended", "trial")),
    "seats": st.integers(0, 500),
    "started_at": days.map(str) | instants.map(lambda at: at.isoformat()),
    "favourite": scalars,
}


def _own(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def _common(user: st.SearchStrategy[str | None]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "event_id": st.integers(0, 40).map(lambda n: f"e{n}"),
            "account_id": st.sampled_from(ACCOUNTS),
            "timestamp": instants,
            "user_id": user,
            "source": st.sampled_from(SOURCES),
        }
    )


def _kind(kind: Any, own: st.SearchStrategy[dict[str, Any]], required: dict[str, st.SearchStrategy[Any]]) -> Any:
    users = st.sampled_from(USERS) if kind is Identify else st.none() | st.sampled_from(USERS)
    return st.builds(
        lambda common, extra, needed: kind(**{**common, **extra, **needed}),
        _common(users),
        own,
        st.fixed_dictionaries(required),
    )


_ids = st.sampled_from(("1", "2"))
quantities = st.integers(0, 5000) | st.integers(0, 5_000_000).map(lambda n: n / 1000)

kinds: dict[str, st.SearchStrategy[Event]] = {
    "login": _kind(Login, _own(), {}),
    "usage": _kind(Usage, _own(quantity=quantities), {"feature": names}),
    "identify": _kind(
        Identify, _own(), {"traits": st.dictionaries(st.sampled_from(("name", "role", "x")), scalars, max_size=3)}
    ),
    "group": _kind(Group, _own(), {"traits": st.fixed_dictionaries({}, optional=GROUP_TRAITS)}),
    "milestone": _kind(
        Milestone, _own(status=st.sampled_from(("planned", "reached")), due_on=days), {"milestone": names}
    ),
    "goal": _kind(
        Goal, _own(name=texts, signal=st.just("logins_7d"), target=texts | numbers, due_on=days),
        {"goal_id": _ids, "status": st.sampled_from(("set", "reached", "dropped"))},
    ),
    "ticket": _kind(
        Ticket, _own(priority=names, subject=texts),
        {"ticket_id": _ids, "status": st.sampled_from(("open", "pending", "solved", "closed"))},
    ),
    "payment": _kind(
        Payment, _own(amount=money, currency=st.just("EUR"), due_on=days),
        {"payment_id": _ids, "status": st.sampled_from(("failed", "paid", "overdue", "refunded"))},
    ),
    "survey": _kind(
        Survey, _own(comment=texts),
        {"survey_id": _ids, "survey": st.sampled_from(("nps", "csat")), "score": st.integers(0, 10)},
    ),
    "session": _kind(
        Session, _own(title=texts),
        {"session_id": _ids, "session": st.sampled_from(("webinar", "training", "community"))},
    ),
    "contact": _kind(
        Contact, _own(note=texts), {"contact_id": _ids, "contact": st.sampled_from(("call", "mail", "meeting"))}
    ),
    "subscription": _kind(
        Subscription,
        _own(mrr=money, currency=st.just("USD"), plan=names, seats=st.integers(0, 9), renewal_on=days,
             effective_on=days),
        {"change": st.sampled_from(("trial_started", "started", "renewed", "expanded", "contracted",
                                    "cancellation_noticed", "not_renewed", "ended"))},
    ),
    "custom": _kind(
        Custom,
        _own(value=numbers, properties=st.dictionaries(texts, scalars | st.lists(scalars, max_size=2), max_size=2)),
        {"name": names},
    ),
}  # fmt: skip

events: st.SearchStrategy[Event] = st.one_of(*kinds.values())
busy_events: st.SearchStrategy[Event] = st.one_of(kinds["login"], kinds["usage"], events)


def event_sets(max_size: int = 40) -> st.SearchStrategy[list[Event]]:
    """Distinct events: no two of one (source, account, event id)."""
    return st.lists(
        busy_events, min_size=1, max_size=max_size, unique_by=lambda e: (e.source, e.account_id, e.event_id)
    )
