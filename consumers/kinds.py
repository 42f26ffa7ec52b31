"""What an event is: one struct per kind, with what its fields must look like. Pure; ``consumers.events`` is the door.

Limits that the types cannot say (control characters, years, decimals) are checked in ``consumers/faults.py`` and said
in the JSON Schema by the patterns here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

MAX_QUANTITY: Final = 1_000_000_000
MAX_NUMBER: Final = 10**15
MAX_MONEY: Final = 10**12
MAX_DEPTH: Final = 8  # of `properties`
DEFAULT_SOURCE: Final = "default"
ERASED_USER: Final = "(erased)"
"""``user_id`` of an event whose user was erased: somebody did it, and nobody knows who any more."""

# The negative look-ahead says the same in Python and in ECMAScript, where `$` differs before a line break.
_CLEAN_PATTERN: Final = r"^(?![\s\S]*[\u0000-\u001f\u007f-\u009f\ud800-\udfff])"
_TIME_PATTERN: Final = r"^(19[7-9]|20\d|21\d)\d-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:?\d\d)(?![\s\S])"
_DATE_PATTERN: Final = r"^(19|2\d|[3-9]\d)\d\d-\d\d-\d\d(?![\s\S])"
# In an address, `.` and `..` mean other places: such an account could not be linked to.
_NO_DOTS_PATTERN: Final = r"^(?!\.\.?(?![\s\S]))" + _CLEAN_PATTERN.removeprefix("^")
DOTS: Final = frozenset({".", ".."})
# Free texts may hold line breaks and tabs.
LONG_CLEAN_PATTERN: Final = r"^(?![\s\S]*[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ud800-\udfff])"


def _text(longest: int, shortest: int = 1, pattern: str = _CLEAN_PATTERN) -> Meta:
    return Meta(min_length=shortest, max_length=longest, extra_json_schema={"pattern": pattern})


Id = Annotated[str, _text(200)]
AccountId = Annotated[str, _text(200, pattern=_NO_DOTS_PATTERN)]
Name = Annotated[str, _text(100)]
Line = Annotated[str, _text(500, 0)]
Long = Annotated[str, _text(4000, 0, LONG_CLEAN_PATTERN)]
Source = Annotated[str, _text(64, pattern=r"^[A-Za-z0-9_.:-]{1,64}(?![\s\S])")]
Time = Annotated[datetime, Meta(tz=True, extra_json_schema={"pattern": _TIME_PATTERN})]
Day = Annotated[date, Meta(extra_json_schema={"pattern": _DATE_PATTERN})]
TimeOrDay = Annotated[str, Meta(extra_json_schema={"anyOf": [
    {"format": "date-time", "pattern": _TIME_PATTERN}, {"format": "date", "pattern": _DATE_PATTERN}]})]  # fmt: skip
Number = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)] | Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Money = Annotated[int, Meta(ge=0, le=MAX_MONEY)] | Annotated[float, Meta(ge=0, le=MAX_MONEY)]
_THREE_DECIMALS: Final = {"multipleOf": 0.001}
Quantity = (
    Annotated[int, Meta(ge=0, le=MAX_QUANTITY)]
    | Annotated[float, Meta(ge=0, le=MAX_QUANTITY, extra_json_schema=_THREE_DECIMALS)]
)
Currency = Annotated[str, Meta(min_length=3, max_length=3, extra_json_schema={"pattern": r"^[A-Z]{3}(?![\s\S])"})]
Count = Annotated[int, Meta(ge=0, le=MAX_QUANTITY)]
TraitText = Annotated[str, _text(2000, 0)]
Traits = Annotated[dict[Name, TraitText | Number | bool | None], Meta(max_length=100)]
AccountStatus = Literal["active", "trial", "paused", "ended"]


class EventBase(msgspec.Struct, kw_only=True, frozen=True, tag_field="kind", omit_defaults=True):
    """What every event has. ``event_id`` is the same on every retry; ``timestamp`` is when it happened, as its producer
    says."""

    event_id: Id
    account_id: AccountId
    timestamp: Time
    user_id: Id | None = None
    source: Source = DEFAULT_SOURCE
    import_id: Id | None = None
    import_row: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    received_at: Time | None = None

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def key(self) -> str:
        """The event's name among all sources; the tie-break between events of equal time."""
        return f"{self.source}:{self.event_id}"


class Login(EventBase, tag="login", frozen=True, gc=False):
    """A user signed in."""


class Usage(EventBase, tag="usage", frozen=True, gc=False):
    """A feature was used; ``quantity`` has at most three decimals."""

    feature: Name
    quantity: Quantity = 1


class Identify(EventBase, tag="identify", frozen=True):
    """Attributes of a user; needs ``user_id``. A trait that is null is a value: it is now unknown."""

    traits: Traits


class AccountTraits(msgspec.Struct, kw_only=True):
    """The traits of an account that have a meaning here, and what they must look like. Any other scalar is kept too."""

    name: Line | None = None
    plan: Name | None = None
    mrr: Money | None = None
    currency: Currency | None = None
    owner: Id | None = None
    renewal_on: Day | None = None
    segment: Name | None = None
    status: AccountStatus | None = None
    seats: Count | None = None
    started_at: TimeOrDay | None = None
    timezone: Name | None = None
    country: Name | None = None
    touch_model: Name | None = None
    parent_account_id: Id | None = None
    csm_email: Annotated[str, _text(320, 0)] | None = None


class Group(EventBase, tag="group", frozen=True):
    """Attributes of the account. A trait that is null is a value: the account no longer has it."""

    traits: Traits


class Milestone(EventBase, tag="milestone", frozen=True):
    milestone: Id
    status: Literal["planned", "reached"] = "reached"
    due_on: Day | None = None


class Goal(EventBase, tag="goal", frozen=True):
    """What the customer wants to reach, with the signal and target that show it."""

    goal_id: Id
    status: Literal["set", "reached", "dropped"]
    name: Line | None = None
    signal: Id | None = None
    target: Line | Number | None = None
    due_on: Day | None = None


class Ticket(EventBase, tag="ticket", frozen=True):
    ticket_id: Id
    status: Literal["open", "pending", "solved", "closed"]
    priority: Name | None = None
    subject: Line | None = None


class Payment(EventBase, tag="payment", frozen=True):
    payment_id: Id
    status: Literal["failed", "paid", "overdue", "refunded"]
    amount: Money | None = None
    currency: Currency | None = None
    due_on: Day | None = None


class Survey(EventBase, tag="survey", frozen=True):
    """An answer: NPS 0 to 10, CSAT on the scale of its survey."""

    survey_id: Id
    survey: Literal["nps", "csat"]
    score: Annotated[int, Meta(ge=0, le=100)] | Annotated[float, Meta(ge=0, le=100)]
    comment: Long | None = None


class Session(EventBase, tag="session", frozen=True):
    """Somebody of the account took part in a webinar, a training, a community event."""

    session_id: Id
    session: Literal["webinar", "training", "community"]
    title: Line | None = None


class Contact(EventBase, tag="contact", frozen=True):
    """We spoke with the account."""

    contact_id: Id
    contact: Literal["call", "mail", "meeting"]
    by: Id | None = None
    note: Long | None = None


SubscriptionChange = Literal["trial_started", "started", "renewed", "expanded", "contracted", "cancellation_noticed",
                             "not_renewed", "ended"]  # fmt: skip


class Subscription(EventBase, tag="subscription", frozen=True):
    """A change of a subscription, in force from ``effective_on`` (UTC), else from ``timestamp``."""

    change: SubscriptionChange
    subscription_id: Id = "main"
    mrr: Money | None = None
    currency: Currency | None = None
    plan: Name | None = None
    seats: Count | None = None
    renewal_on: Day | None = None
    effective_on: Day | None = None


class Custom(EventBase, tag="custom", frozen=True):
    """Anything else worth a line on the timeline; counts as activity when a user did it."""

    name: Name
    value: Number | None = None
    properties: dict[str, Any] | None = None


Event = (
    Login
    | Usage
    | Identify
    | Group
    | Milestone
    | Goal
    | Ticket
    | Payment
    | Survey
    | Session
    | Contact
    | Subscription
    | Custom
)
KINDS: Final[Mapping[str, type[EventBase]]] = {str(struct.__struct_config__.tag): struct for struct in get_args(Event)}
