"""Zendesk's and Intercom's events: tickets and conversations become tickets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from consumers.webhooks.drafts import Drafts, Ignored, Unmapped, at, instant, line, need, text_of, trimmed
from consumers.webhooks.options import Options

ZENDESK_ACCOUNT: Final = "detail.organization_id"
INTERCOM_ACCOUNT: Final = "data.item.custom_attributes.account_id || data.item.company.company_id"
INTERCOM_USER: Final = "data.item.contacts.contacts[0].external_id"

_ZENDESK_PREFIX: Final = "zen:event-type:ticket."
_ZENDESK_STATUS: Final[Mapping[str, str]] = {
    "new": "open", "open": "open", "pending": "pending", "hold": "pending", "solved": "solved", "closed": "closed",
    "deleted": "closed",
}  # fmt: skip
_ZENDESK_TOLD: Final = frozenset(
    {"created", "status_changed", "priority_changed", "subject_changed", "organization_changed", "merged", "undeleted"}
)
_ZENDESK_GONE: Final = frozenset({"soft_deleted", "permanently_deleted", "marked_as_spam"})

_INTERCOM_TOPICS: Final[Mapping[str, str]] = {
    "conversation.user.created": "open", "conversation.user.replied": "open", "conversation.admin.opened": "open",
    "conversation.admin.unsnoozed": "open", "conversation.contact.attached": "open",
    "conversation.admin.snoozed": "pending", "conversation.admin.closed": "solved", "conversation.deleted": "closed",
}  # fmt: skip


def zendesk(document: Any, _: Options) -> Drafts:
    """Of one event of a webhook that is connected to ticket events; each carries the whole ticket."""
    kind = text_of(need(document, "type"), "type")
    what = kind.removeprefix(_ZENDESK_PREFIX)
    if what == kind or what not in _ZENDESK_TOLD | _ZENDESK_GONE:
        return Ignored(f"{kind} is not asked for")
    ticket = need(document, "detail")
    if what in _ZENDESK_GONE:
        status = "closed"
    else:
        said = text_of(need(ticket, "status"), "detail.status").lower()
        if said not in _ZENDESK_STATUS:
            raise Unmapped("detail.status", f"is {said!r}", f"expected one of {', '.join(_ZENDESK_STATUS)}")
        status = _ZENDESK_STATUS[said]
    priority = line(at(ticket, "priority"), 100)
    return [
        trimmed({
            "kind": "ticket", "event_id": text_of(need(document, "id"), "id"), "timestamp": _zendesk_time(document),
            "ticket_id": text_of(need(ticket, "id"), "detail.id"), "status": status,
            "priority": None if priority is None else priority.lower(), "subject": line(at(ticket, "subject")),
        })
    ]  # fmt: skip


def _zendesk_time(document: Any) -> str:
    said = text_of(need(document, "time"), "time")
    try:
        # Nine decimals come; events have six.
        found = datetime.fromisoformat(said)
    except ValueError:
        raise Unmapped("time", "is not a time", "expected RFC 3339") from None
    if found.tzinfo is None:
        raise Unmapped("time", "has no offset from UTC", "expected RFC 3339")
    return found.isoformat()


def intercom(document: Any, _: Options) -> Drafts:
    """Of one notification about a conversation."""
    topic = text_of(need(document, "topic"), "topic")
    if topic not in _INTERCOM_TOPICS:
        return Ignored(f"{topic} is not asked for")
    item = need(document, "data", "item")
    status = _INTERCOM_TOPICS[topic]
    # A user's thanks to a closed conversation that stays closed opens nothing.
    if topic == "conversation.user.replied" and at(item, "state") == "closed":
        return Ignored("a reply that leaves the conversation closed")
    said = at(document, "created_at") or at(item, "updated_at")
    if said is None:
        raise Unmapped("created_at", "is missing", "look at the call: its shape has changed")
    subject = line(at(item, "title")) or line(at(item, "source", "subject")) or line(at(item, "source", "body"))
    return [
        trimmed({
            "kind": "ticket", "event_id": text_of(need(document, "id"), "id"), "timestamp": instant(said, "created_at"),
            "ticket_id": text_of(need(item, "id"), "data.item.id"), "status": status, "subject": subject,
            "priority": "high" if at(item, "priority") == "priority" else None,
        })
    ]  # fmt: skip
