"""What the board says, line by line: timeline entries, contributions, transitions, deliveries. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from health.catalogue import SIGNALS, SignalRef
from service.board import formats
from service.board.words import Words
from service.queries import DeliveryItem, TimelineEntry, Transition

Tone = str
"""``good``, ``bad``, ``use`` or nothing: the shape of an entry's mark; the wording says the same."""

DETRACTOR, PROMOTER = 6, 9
WORST_NAMED = 2

STATES = {"open": "Open", "resolved": "Resolved", "withdrawn": "Withdrawn"}
ENDINGS = {"resolved": "No longer true", "withdrawn": "Withdrawn: it was not so"}
STATUSES = {"active": "Active", "trial": "Trial", "paused": "Paused", "ended": "Ended"}
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

SIMPLE: Mapping[tuple[str, str], tuple[str, Tone]] = {
    ("ticket", "open"): ("Ticket opened", ""),
    ("ticket", "pending"): ("Ticket waiting", ""),
    ("ticket", "solved"): ("Ticket solved", "good"),
    ("ticket", "closed"): ("Ticket closed", "good"),
    ("payment", "failed"): ("Payment failed", "bad"),
    ("payment", "paid"): ("Payment received", "good"),
    ("payment", "overdue"): ("Payment overdue", "bad"),
    ("payment", "refunded"): ("Payment refunded", ""),
    ("milestone", "planned"): ("Milestone planned", ""),
    ("milestone", "reached"): ("Milestone reached", "good"),
    ("goal", "set"): ("Goal set", ""),
    ("goal", "reached"): ("Goal reached", "good"),
    ("goal", "dropped"): ("Goal dropped", "bad"),
    ("contact", "call"): ("Call with the customer", ""),
    ("contact", "mail"): ("Mail to the customer", ""),
    ("contact", "meeting"): ("Meeting with the customer", ""),
    ("session", "webinar"): ("Attended a webinar", "good"),
    ("session", "training"): ("Attended a training", "good"),
    ("session", "community"): ("Active in the community", "good"),
    ("subscription", "trial_started"): ("Trial started", ""),
    ("subscription", "started"): ("Subscription started", "good"),
    ("subscription", "renewed"): ("Subscription renewed", "good"),
    ("subscription", "expanded"): ("Subscription expanded", "good"),
    ("subscription", "contracted"): ("Subscription reduced", "bad"),
    ("subscription", "cancellation_noticed"): ("Cancellation noticed", "bad"),
    ("subscription", "not_renewed"): ("Subscription not renewed", "bad"),
    ("subscription", "ended"): ("Subscription ended", "bad"),
}
VARIETY = {"session": "session", "contact": "contact", "subscription": "change"}
"""Which field of a kind names its variety, where it is not ``status``."""

ATTRIBUTES = {
    "plan": "Plan",
    "mrr": "MRR",
    "currency": "Currency",
    "owner": "Owner",
    "renewal_on": "Renewal",
    "segment": "Segment",
    "status": "Status",
    "seats": "Seats",
}


@dataclass(frozen=True, kw_only=True)
class TimelineLine:
    """``day`` is set for the lines that sum up a day."""

    anchor: str
    what: str
    detail: str
    note: str
    tone: Tone
    at: datetime
    day: date | None
    last_at: datetime | None


def timeline_line(entry: TimelineEntry, words: Words) -> TimelineLine:
    what, detail, note, tone = _told(entry, words)
    return TimelineLine(
        anchor=hashlib.sha256(entry.entry_id.encode()).hexdigest()[:12],
        what=what,
        detail=detail,
        note=note,
        tone=tone,
        at=entry.at,
        day=entry.day,
        last_at=entry.last_at,
    )


def _told(entry: TimelineEntry, words: Words) -> tuple[str, str, str, Tone]:
    data = entry.data
    if entry.kind == "logins":
        return words.count("{n} login", "{n} logins", entry.count or 0), "", "", "use"
    if entry.kind == "usage":
        features = ", ".join(
            f"{name} × {formats.number(n, words, digits=3)}" for name, n in (data.get("features") or {}).items()
        )
        return words.count("{n} use", "{n} uses", entry.count or 0), features, "", "use"
    if entry.kind == "attribute":
        return _attribute(entry, words)
    if entry.kind == "survey":
        return _survey(data, words)
    variety = str(data.get(VARIETY.get(entry.kind, "status")) or ("reached" if entry.kind == "milestone" else ""))
    wording, tone = SIMPLE.get((entry.kind, variety), ("", ""))
    what = words(wording) if wording else " ".join(filter(None, (entry.kind, variety.replace("_", " "))))
    return what, _details(entry, words), str(data.get("note") or ""), tone


def _details(entry: TimelineEntry, words: Words) -> str:
    data = entry.data
    parts = [str(data[field]) for field in ("name", "milestone", "subject", "title", "by", "plan") if data.get(field)]
    parts += [
        formats.money(data[field], data.get("currency"), words)
        for field in ("amount", "mrr", "value")
        if isinstance(data.get(field), (int, float))
    ]
    if data.get("priority"):
        parts.append(words("priority {priority}", priority=data["priority"]))
    if data.get("due_on"):
        parts.append(words("due {day}", day=_day(data["due_on"], words)))
    return ", ".join(parts)


def _survey(data: Mapping[str, Any], words: Words) -> tuple[str, str, str, Tone]:
    score = data.get("score")
    name = "NPS" if data.get("survey") == "nps" else "CSAT"
    tone = ""
    if name == "NPS" and isinstance(score, (int, float)):
        tone = "bad" if score <= DETRACTOR else "good" if score >= PROMOTER else ""
    shown = formats.number(score, words) if isinstance(score, (int, float)) else formats.NOTHING
    return words("{survey} answer: {score}", survey=name, score=shown), "", str(data.get("comment") or ""), tone


def _attribute(entry: TimelineEntry, words: Words) -> tuple[str, str, str, Tone]:
    name = entry.record_id or ""
    label = words(ATTRIBUTES[name]) if name in ATTRIBUTES else name
    value, before = (_attribute_value(name, entry.data.get(field), words) for field in ("value", "previous"))
    return label, f"{before} → {value}" if entry.data.get("previous") is not None else value, "", ""


def _attribute_value(name: str, value: Any, words: Words) -> str:
    if value is None:
        return words("none")
    if name == "renewal_on":
        return _day(value, words)
    if name == "status":
        return words(STATUSES[value]) if value in STATUSES else str(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return formats.number(value, words, digits=2)
    return str(value)


def _day(value: Any, words: Words) -> str:
    try:
        return formats.day(date.fromisoformat(str(value)), words)
    except ValueError:
        return str(value)


@dataclass(frozen=True, kw_only=True)
class WhyLine:
    """``track`` and ``fill`` are the bar's lengths in hundredths; ``possible`` is None for caps and overrides."""

    title: str
    value: str
    reason: str
    points: float
    possible: float | None
    track: float
    fill: float


@dataclass(frozen=True, kw_only=True)
class Why:
    """The lines add up to ``total``, the score."""

    sentence: str
    lines: tuple[WhyLine, ...]
    total: float


def why(contributions: Sequence[Mapping[str, Any]], score: float | None, band: str | None, words: Words) -> Why | None:
    """None when there is no score to explain."""
    if score is None or not contributions:
        return None
    weights = sum(float(raw.get("weight") or 0) for raw in contributions)
    possible = [
        100 * float(raw["weight"]) / weights if raw.get("weight") and weights else None for raw in contributions
    ]
    largest = max([*(p for p in possible if p), *(abs(_points(raw)) for raw in contributions), 1.0])
    lines = tuple(_why_line(raw, most, largest, words) for raw, most in zip(contributions, possible, strict=True))
    return Why(sentence=_why_sentence(lines, score, band, words), lines=lines, total=score)


def _points(raw: Mapping[str, Any]) -> float:
    return float(raw.get("contribution") or 0.0)


def _why_line(raw: Mapping[str, Any], possible: float | None, largest: float, words: Words) -> WhyLine:
    measure = str(raw.get("measure") or "")
    return WhyLine(
        title=localised(raw["title"], words) if raw.get("title") else measure_name(measure, words),
        value=formats.value_of(raw.get("value"), unit_of(measure), words),
        reason=localised(raw.get("reason"), words),
        points=_points(raw),
        possible=possible,
        track=round(100 * (possible or 0) / largest, 1),
        fill=round(100 * abs(_points(raw)) / largest, 1),
    )


def _why_sentence(lines: Sequence[WhyLine], score: float, band: str | None, words: Words) -> str:
    shown = formats.number(score, words)
    losses = sorted(((line.possible or 0.0) - line.points, line.title) for line in lines)
    worst = [title for loss, title in reversed(losses) if loss > 1][:WORST_NAMED]
    if not worst or band == "green":
        return words("Score {score} of 100.", score=shown)
    titles = words("{a} and {b}", a=worst[0], b=worst[1]) if len(worst) > 1 else worst[0]
    return words("Score {score} of 100. Most points are lost on: {titles}.", score=shown, titles=titles)


def localised(text: Any, words: Words) -> str:
    """``{"en": …, "ja": …}`` in the page's language, else English; plain text as it is."""
    if isinstance(text, Mapping):
        return str(text.get(words.language) or text.get("en") or "")
    return "" if text is None else str(text)


def measure_name(measure: str, words: Words) -> str:
    """The catalogue's meaning up to its first border: what comes after it is for whoever writes rules."""
    try:
        reference = SignalRef.parse(measure)
    except ValueError:
        return measure
    signal = SIGNALS.get(reference.name)
    if signal is None:
        return measure.replace("_", " ").capitalize()
    meaning = signal.meaning[words.language]
    for border in (";", "。", "(", "(", ": "):
        meaning = meaning.partition(border)[0]
    return f"{meaning.strip()}: {reference.argument}" if reference.argument else meaning.strip()


def unit_of(measure: str) -> str | None:
    try:
        signal = SIGNALS.get(SignalRef.parse(measure).name)
    except ValueError:
        return None
    return signal.unit if signal else None


@dataclass(frozen=True, kw_only=True)
class SignalLine:
    reference: str
    meaning: str
    value: str


def signal_lines(signals: Mapping[str, Any], words: Words) -> list[SignalLine]:
    """In the catalogue's order, those that it does not know last."""
    order = {name: place for place, name in enumerate(SIGNALS)}
    return [
        SignalLine(
            reference=reference,
            meaning=measure_name(reference, words),
            value=formats.value_of(signals[reference], unit_of(reference), words),
        )
        for reference in sorted(signals, key=lambda r: (order.get(r.partition("[")[0], len(order)), r))
    ]


@dataclass(frozen=True, kw_only=True)
class Step:
    at: datetime
    what: str
    reason: str
    actor: str
    tone: Tone


def step(transition: Transition, words: Words) -> Step:
    what = words(TRANSITIONS.get(transition.kind, transition.kind))
    outcome = transition.data.get("outcome")
    if outcome in formats.OUTCOMES:
        what = f"{what}: {words(formats.OUTCOMES[outcome])}"
    repeated = {transition.kind, str(outcome or "").replace("_", " ")}
    return Step(
        at=transition.at,
        what=what,
        reason="" if transition.reason in repeated else transition.reason,
        actor=actor_name(transition.actor),
        tone={"opened": "bad", "reopened": "bad", "escalated": "bad", "resolved": "good", "withdrawn": "good"}.get(
            transition.kind, ""
        ),
    )


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


def spark_label(values: Sequence[int], words: Words) -> str:
    """What the sparkline shows, for those who cannot see it: halves compare well enough."""
    half = len(values) // 2
    return words(
        "Activity: {before} in the 14 days before, {after} in the last 14",
        before=sum(values[:half]),
        after=sum(values[half:]),
    )
