"""What the board says of an alert: its transitions and deliveries, line by line. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.board import formats
from service.board.measures import STATUSES, localised, signal_lines
from service.board.timeline import Tone
from service.board.words import Words
from service.queries import DeliveryItem, Transition

STATES = {"open": "Open", "resolved": "Resolved", "withdrawn": "Withdrawn"}
ENDINGS = {"resolved": "No longer true", "withdrawn": "Withdrawn: it was not so"}
TRANSITIONS = {
    "opened": "Opened",
    "renotified": "Reminded",
    "escalated": "Escalated",
    "acknowledged": "Acknowledged",
    "snoozed": "Snoozed",
    "resolved": "Resolved",
    "withdrawn": "Withdrawn",
    "reopened": "Reopened",
}
WHYS = {
    "began_before": "Began before {at}",
    "began_anew": "Began anew: {at}",
    "within_cooldown": "Within {days} days of {at}",
    "snooze_ended": "The snooze ended and it still holds",
    "not_acknowledged": "Not acknowledged since {at}",
    "disproved": "An event that arrived late shows that it was not so",
    "account_gone": "Status of the account: {status}",
    "umbrella": "Only holds other accounts: their alerts tell it",
    "rule_gone": "The rule was switched off or removed",
    "escalated": "{before} → {after}",
}
"""Of a transition's code; its values are among the transition's data."""
DELIVERY_STATUSES = {
    "pending": "Waiting",
    "leased": "Being sent",
    "sent": "Sent",
    "dead": "Given up",
    "cancelled": "Cancelled",
}
ATTEMPTS = {
    "started": "no answer yet",
    "sent": "accepted",
    "retry": "failed, will be tried again",
    "permanent": "refused for good",
    "abandoned": "interrupted",
}
CHANNELS = {"slack": "Slack", "email": "E-mail", "webhook": "Webhook"}


@dataclass(frozen=True, kw_only=True)
class Step:
    at: datetime
    what: str
    reason: str
    actor: str
    tone: Tone


def step(transition: Transition, why: Mapping[str, str], words: Words) -> Step:
    """``why`` is the alert's reason: where the machine's words repeat it in English, the reader gets theirs."""
    what = words(TRANSITIONS.get(transition.kind, transition.kind))
    outcome = transition.data.get("outcome")
    if outcome in formats.OUTCOMES:
        what = f"{what}: {words(formats.OUTCOMES[outcome])}"
    repeated = {transition.kind, str(outcome or "").replace("_", " ")}
    spoken = _worded(transition.data, words) or _own_words(transition.reason, why, words)
    return Step(
        at=transition.at,
        what=what,
        reason="" if transition.reason in repeated else spoken,
        actor=actor_name(transition.actor),
        tone={"opened": "bad", "reopened": "bad", "escalated": "bad", "resolved": "good", "withdrawn": "good"}.get(
            transition.kind, ""
        ),
    )


def _worded(data: Mapping[str, Any], words: Words) -> str:
    """What a transition's data say of why; empty for what has none, and for codes that are not known here."""
    code = data.get("code")
    if code is not None and code not in WHYS:
        return ""
    parts = [words(WHYS[code], **_values(data, words))] if code else []
    behind = [f"{line.name}: {line.value}" for line in signal_lines(data.get("signals") or {}, words)]
    return " · ".join([*parts, *([", ".join(behind)] if behind else [])])


def _values(data: Mapping[str, Any], words: Words) -> dict[str, str]:
    """For a wording of WHYS."""
    values = {name: str(data[name]) for name in ("days", "status") if name in data}
    if "at" in data:
        at = datetime.fromisoformat(data["at"])
        values["at"] = (
            formats.day(at.date(), words) if data["code"] == "within_cooldown" else formats.absolute(at, words)
        )
    if values.get("status") in STATUSES:
        values["status"] = words(STATUSES[values["status"]])
    for name in ("before", "after"):
        if data.get(name) in formats.SEVERITIES:
            values[name] = words(formats.SEVERITIES[data[name]])
    return values


def _own_words(reason: str, why: Mapping[str, str], words: Words) -> str:
    english = why.get("en")
    return reason.replace(english, localised(why, words)) if english else reason


def actor_name(actor: str) -> str:
    """``board:Aiko`` reads ``Aiko``."""
    return actor.partition(":")[2] or actor.capitalize()


@dataclass(frozen=True, kw_only=True)
class AttemptLine:
    at: datetime
    what: str


@dataclass(frozen=True, kw_only=True)
class DeliveryLine:
    what: str
    status: str
    about: str
    at: datetime
    attempts: tuple[AttemptLine, ...]


def delivery_line(delivery: DeliveryItem, words: Words) -> DeliveryLine:
    channel = words(CHANNELS.get(delivery.channel, delivery.channel))
    attempts = tuple(
        AttemptLine(
            at=attempt.started_at,
            what=" · ".join(
                filter(
                    None,
                    (
                        words(ATTEMPTS.get(attempt.outcome, attempt.outcome)),
                        str(attempt.status_code or ""),
                        attempt.detail,
                    ),
                )
            ),
        )
        for attempt in delivery.attempts
    )
    return DeliveryLine(
        what=words(
            "{channel} to {target}", channel=channel, target=delivery.target.partition(":")[2] or delivery.target
        ),
        status=words(DELIVERY_STATUSES.get(delivery.status, delivery.status)),
        about=words(TRANSITIONS.get(delivery.transition, delivery.transition)),
        at=delivery.sent_at or delivery.created_at,
        attempts=attempts,
    )
