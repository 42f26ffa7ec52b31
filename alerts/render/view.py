"""The alert view: everything a reader is told of one transition, frozen when it happened.

The evaluator builds it and stores it in ``deliveries.message``; the renderers turn it into a channel's form, days later
perhaps, after a retry. So it carries values and both languages' sentences, never references that could have changed.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import msgspec

Language = Literal["en", "ja"]
Severity = Literal["info", "warning", "critical"]
Band = Literal["green", "yellow", "red"]
Kind = Literal["opened", "reopened", "renotified", "escalated", "resolved", "withdrawn"]

CLOSING: frozenset[Kind] = frozenset({"resolved", "withdrawn"})
"""Kinds that take back what an earlier message said."""

Words = dict[str, str]
"""A sentence by language: ``{"en": …, "ja": …}``; English is the fallback."""


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One signed line of the score: how many points a measure gives (+) or takes (-)."""

    title: Words
    points: float


class AlertView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a message says. Instants are aware; ``timezone`` (IANA) and the delivery's language are its reader's."""

    episode_id: UUID
    account_id: str
    account_name: str | None = None
    mrr: Decimal | None = None
    """Per month, in ``currency``."""
    currency: str | None = None
    """ISO 4217."""
    plan: str | None = None
    renewal_on: date | None = None
    rule_id: str
    rule_title: Words
    severity: Severity
    kind: Kind
    at: datetime
    """When the transition happened; ages ("14 days") are counted up to here."""
    reasons: Words
    """Why, as one full sentence."""
    transition_reason: str | None = None
    """The machine's reason of this transition, for resolved, withdrawn and the webhook."""
    since: datetime
    """Since when it has been true, by event time."""
    opened_at: datetime
    last_seen_at: datetime | None = None
    last_login_at: datetime | None = None
    score: float | None = None
    band: Band | None = None
    contributions: tuple[Contribution, ...] = ()
    """The strongest first; three are shown."""
    owner_name: str | None = None
    owner_slack_id: str | None = None
    reader_slack_id: str | None = None
    """Whom the message is for, when that is not the owner (a stand-in)."""
    suggestion: Words = msgspec.field(default_factory=dict)
    url: str
    """The account on the board."""
    unsubscribe_url: str | None = None
    """Accepts POST (RFC 8058)."""
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        for name in ("at", "since", "opened_at", "last_seen_at", "last_login_at"):
            value = getattr(self, name)
            if value is not None and value.tzinfo is None:
                raise ValueError(f"{name}: naive datetime; give it a time zone")


def to_json(view: AlertView) -> dict[str, Any]:
    """The view as plain JSON values (decimals and instants as strings), for a JSONB column."""
    return msgspec.to_builtins(view)  # type: ignore[no-any-return]


def from_json(value: Any) -> AlertView:
    """Inverse of ``to_json``; raises ``msgspec.ValidationError`` naming the field."""
    return msgspec.convert(value, AlertView)


def language_of(tag: str) -> Language:
    """The language we have words in for a tag such as ``ja-JP``; English for any other."""
    return "ja" if tag.lower().replace("_", "-").split("-")[0] == "ja" else "en"


def in_language(words: Words, language: Language) -> str:
    """The sentence in ``language``, else in English, else in whatever there is; "" when there is none."""
    return words.get(language) or words.get("en") or next(iter(words.values()), "")
