"""What a vendor's request or record becomes: the one shape between the formats (pure) and the intake (acting)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from consumers.events import BadEvent, Event

UNPLACED: Final = ""
"""The ``account_id`` of an event whose user is known and whose account is not yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """At ``at`` (event time) the user belonged to the account; the last one by (time, event id) holds."""

    user_id: str
    account_id: str
    at: datetime
    event_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One item of a request, in its order. Exactly one of ``events``, ``ignored`` and ``error`` says what it is;
    a binding may come with any events, or with none."""

    event_id: str | None = None
    events: tuple[Event, ...] = ()  # checked; those with account_id UNPLACED wait for their user's account
    binding: Binding | None = None
    ignored: str | None = None  # why it carries nothing that is kept
    error: BadEvent | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation:
    """A request or record, translated. ``sent_at``: the sender's clock when it sent, where the format says so."""

    items: tuple[Item, ...]
    sent_at: datetime | None = None
