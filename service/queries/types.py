"""Result types of the read path: frozen msgspec structs, encoded as they are by the API and shown by the board.

Money is `Decimal` in the account's own currency; instants are aware UTC; a text in two languages is
`{"en": …, "ja": …}`.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import msgspec

Band = Literal["green", "yellow", "red"]
RiskSort = Literal["score", "mrr_at_risk", "last_seen", "renewal"]
"""Each in its one useful direction: worst score, most money, longest unseen, nearest renewal first; unknown last."""

MAX_LIMIT = 200


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """Whose progress says how complete the facts are."""

    group: str
    topics: tuple[str, ...]


class RiskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions are joined by AND, several values of one by OR; an empty one does not filter."""

    bands: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()  # an open episode of any of them
    plans: tuple[str, ...] = ()
    min_mrr: Decimal | None = None  # in each account's own currency
    renews_before: date | None = None
    parent: str | None = None  # the account that they name as their parent
    text: str | None = None  # part of the name or the id
    include_ended: bool = False


class OpenAlert(msgspec.Struct, frozen=True, kw_only=True):
    episode_id: UUID
    rule_id: str
    severity: str
    since: datetime
    opened_at: datetime
    pre_existing: bool
    acknowledged_at: datetime | None
    snoozed_until: datetime | None
    reason: dict[str, str]


class RiskItem(msgspec.Struct, frozen=True, kw_only=True):
    account_id: str
    name: str | None
    plan: str | None
    owner: str | None  # as the product wrote it: a person's id or e-mail address
    owner_name: str | None
    segment: str | None
    status: str | None
    mrr: Decimal | None
    currency: str | None
    renewal_on: date | None
    score: float | None
    score_change_28d: float | None
    explanation: dict[str, str] | None  # one sentence, en and ja: the score and what costs it most
    band: str | None
    mrr_at_risk: Decimal | None
    open_alerts: int
    alerts: tuple[OpenAlert, ...]  # the open ones, worst first, at most three
    last_seen_at: datetime | None
    last_login_at: datetime | None
    incomplete_since: datetime | None  # what is known of this account is incomplete since: its absence alerts wait
    incomplete_sources: tuple[str, ...]  # the silent ones among its sources; none: all events wait
    evaluated_at: datetime | None


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    as_of: (
        datetime | None
    )  # all that the broker had at this instant is in the facts; None: a partition has never reported
    held_since: datetime | None  # data is incomplete since: absence alerts wait
    held_sources: tuple[str, ...]  # that are silent; none: all events wait
    stopped: tuple[str, ...]  # "topic/partition: reason"
    heard_at: datetime | None = None  # a consumer last reported


class RiskPage(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[RiskItem, ...]
    next_cursor: str | None
    as_of: datetime | None
    held_since: datetime | None
    held_sources: tuple[str, ...]


class CurrencyTotal(msgspec.Struct, frozen=True, kw_only=True):
    currency: str | None
    accounts: int
    mrr: Decimal
    mrr_at_risk: Decimal


class Portfolio(msgspec.Struct, frozen=True, kw_only=True):
    """Every account that has not ended. Sums are per currency: they are never added across currencies."""

    accounts: int
    green: int
    yellow: int
    red: int
    unknown: int
    open_alerts: int
    totals: tuple[CurrencyTotal, ...]  # largest number of accounts first


class Person(msgspec.Struct, frozen=True, kw_only=True):
    person_id: str
    name: str
    email: str | None
    slack_id: str | None
    has_slack_webhook: bool  # the address itself is a secret and never leaves the database
    language: str
    timezone: str
    role: str
    manager: str | None
    stand_in: str | None
    away_from: datetime | None
    away_until: datetime | None
    updated_at: datetime


class Attribute(msgspec.Struct, frozen=True, kw_only=True):
    value: Any  # a JSON scalar; null is a value
    since: datetime


class ScoreOverride(msgspec.Struct, frozen=True, kw_only=True):
    """A score that a person set; it is a line of its own among the contributions once the account is evaluated."""

    score: float
    reason: str
    author: str  # key:<name>, board:<name>
    created_at: datetime
    expires_at: datetime


class ParentAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Whom an account names as its parent."""

    account_id: str
    name: str | None
    problem: str | None  # itself | cycle | too_deep: why the link does not count


class WorstAccount(msgspec.Struct, frozen=True, kw_only=True):
    account_id: str
    name: str | None
    score: float
    mrr: float | None


class RollUp(msgspec.Struct, frozen=True, kw_only=True):
    """What is below an account, at any depth; `score` is the mean of its own children by MRR."""

    children: int  # that have not ended or paused, and are more than umbrellas
    red: int
    score: float | None
    mrr: float | None  # of several currencies: never added up
    mrr_at_risk: float | None
    currency: str | None
    mixed: bool  # several currencies
    incomplete: bool  # a score below lacks time that was not observed
    worst: WorstAccount | None


class BelowItem(msgspec.Struct, frozen=True, kw_only=True):
    """A child of an account."""

    account_id: str
    name: str | None
    owner: str | None
    status: str | None
    mrr: Decimal | None
    currency: str | None
    renewal_on: date | None
    score: float | None
    band: str | None
    open_alerts: int
    rollup: RollUp | None


class AccountDetail(msgspec.Struct, frozen=True, kw_only=True):
    account_id: str
    name: str | None
    plan: str | None
    owner: str | None
    owner_person: Person | None
    segment: str | None
    status: str | None
    mrr: Decimal | None
    currency: str | None
    renewal_on: date | None
    score: float | None
    band: str | None
    mrr_at_risk: Decimal | None
    scorecard: str | None  # name@version
    signals: dict[str, Any]  # by reference, e.g. days_since_feature['export']
    contributions: list[dict[str, Any]]  # measure, group, weight, points, contribution, value, reason
    explanation: dict[str, str] | None  # one sentence, en and ja: the score and what costs it most
    override: ScoreOverride | None  # what a person set and has not expired
    parent: ParentAccount | None
    rollup: RollUp | None  # of the accounts below it; null when nobody names it as the parent
    attributes: dict[str, Attribute]
    alerts: tuple[AlertItem, ...]  # open, newest first
    first_event_at: datetime | None
    started_at: datetime | None
    last_seen_at: datetime | None
    last_login_at: datetime | None
    last_contact_at: datetime | None
    logins: int
    events: int
    incomplete_since: datetime | None  # what is known of this account is incomplete since: its absence alerts wait
    incomplete_sources: tuple[str, ...]  # the silent ones among its sources; none: all events wait
    problem: str | None
    evaluated_at: datetime | None
    as_of: datetime | None
    held_since: datetime | None
    held_sources: tuple[str, ...]


class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a discrete fact, a changed attribute, or the logins or the usage of one UTC day."""

    entry_id: str
    kind: str  # the kind of a discrete fact (ticket, payment, …), or attribute | logins | usage
    at: datetime  # a day line's latest time if known, else the end of its day
    record_id: str | None  # discrete facts; the name of the attribute
    user_id: str | None
    data: dict[
        str, Any
    ]  # the event's own fields; attribute: {"value", "previous"}; usage: {"features": {name: quantity}}
    day: date | None  # day lines
    count: int | None  # day lines
    last_at: datetime | None  # day lines: the latest time of that day, where it is known


class TimelinePage(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[TimelineEntry, ...]
    next_cursor: str | None


class ScorePoint(msgspec.Struct, frozen=True, kw_only=True):
    day: date
    score: float | None
    band: str | None
    scorecard: str


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """`logins[i]` and `events[i]` belong to the UTC day `start + i`; the last one is today, still going on."""

    start: date
    logins: tuple[int, ...]
    events: tuple[int, ...]  # logins, usage and custom activity


class AlertFilter(msgspec.Struct, frozen=True, kw_only=True):
    states: tuple[str, ...] = ()  # open | resolved | withdrawn
    severities: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    account_id: str | None = None
    acknowledged: bool | None = None
    snoozed: bool | None = None
    pre_existing: bool | None = None


class AlertItem(msgspec.Struct, frozen=True, kw_only=True):
    episode_id: UUID
    rule_id: str
    account_id: str
    account_name: str | None
    state: str
    severity: str
    pre_existing: bool
    since: datetime
    opened_at: datetime
    closed_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    snoozed_until: datetime | None
    outcome: str | None
    owner: str | None
    owner_name: str | None
    mrr: Decimal | None
    currency: str | None
    plan: str | None
    renewal_on: date | None
    score: float | None  # at firing
    band: str | None  # now
    reason: dict[str, str]
    version: int  # expected by actions
    updated_at: datetime


class AlertPage(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[AlertItem, ...]
    next_cursor: str | None


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    transition_id: int
    kind: str
    at: datetime
    reason: str
    actor: str
    data: dict[str, Any]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str
    status_code: int | None
    detail: str | None
    retry_at: datetime | None


class DeliveryFilter(msgspec.Struct, frozen=True, kw_only=True):
    statuses: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    account_id: str | None = None
    episode_id: UUID | None = None


class DeliveryItem(msgspec.Struct, frozen=True, kw_only=True):
    delivery_id: UUID
    transition_id: int
    transition: str  # its kind
    episode_id: UUID
    rule_id: str
    account_id: str
    account_name: str | None
    channel: str
    target: str
    recipient: str | None
    language: str
    status: str
    attempt: int
    next_attempt_at: datetime
    created_at: datetime
    sent_at: datetime | None
    attempts: tuple[Attempt, ...]


class DeliveryPage(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[DeliveryItem, ...]
    next_cursor: str | None


class AlertDetail(msgspec.Struct, frozen=True, kw_only=True):
    alert: AlertItem
    rule_version: str
    scorecard: str | None
    signals: dict[str, Any]  # at firing
    contributions: list[dict[str, Any]]  # at firing
    transitions: tuple[Transition, ...]  # oldest first
    deliveries: tuple[DeliveryItem, ...]  # oldest first


class OwnerChoice(msgspec.Struct, frozen=True, kw_only=True):
    owner: str
    name: str | None
    accounts: int


class RuleChoice(msgspec.Struct, frozen=True, kw_only=True):
    rule_id: str
    open_episodes: int


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What the lists can be filtered by."""

    owners: tuple[OwnerChoice, ...]
    plans: tuple[str, ...]
    rules: tuple[RuleChoice, ...]
