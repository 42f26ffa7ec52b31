"""What the board says, line by line: timeline entries, contributions, transitions, deliveries. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from health.catalogue import SIGNALS, Signal, SignalRef
from health.scorecards import FULL_MARK, explain
from service.board import formats
from service.board.words import Words
from service.queries import DeliveryItem, TimelineEntry, Transition

Tone = str
"""``good``, ``bad``, ``use`` or nothing: the shape of an entry's mark; the wording says the same."""

DETRACTOR, PROMOTER = 6, 9

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


GROUPS = {"Deployment": "Deployment", "Engagement": "Engagement", "Adoption": "Adoption", "ROI": "ROI",
          "Children": "Children"}  # fmt: skip
"""Of the scorecard that comes with the service; other cards' groups are shown as their authors wrote them."""

SIGNAL_NAMES = {
    "days_since_login": "Days since login",
    "days_since_activity": "Days since activity",
    "business_days_since_login": "Business days since login",
    "business_days_since_activity": "Business days since activity",
    "logins_7d": "Logins, 7 days",
    "logins_14d": "Logins, 14 days",
    "logins_28d": "Logins, 28 days",
    "logins_90d": "Logins, 90 days",
    "events_7d": "Activity, 7 days",
    "events_14d": "Activity, 14 days",
    "events_28d": "Activity, 28 days",
    "events_90d": "Activity, 90 days",
    "active_days_7d": "Active days of 7",
    "active_days_14d": "Active days of 14",
    "active_days_28d": "Active days of 28",
    "active_days_90d": "Active days of 90",
    "usage_change_28d": "Usage against the 28 days before",
    "usage_change_7d_28d": "Usage this week against the weeks before",
    "usage_change_28d_year": "Usage against a year ago",
    "active_users_7d": "Active users, 7 days",
    "active_users_14d": "Active users, 14 days",
    "active_users_28d": "Active users, 28 days",
    "active_users_90d": "Active users, 90 days",
    "weekly_active_share": "Weekly share of active users",
    "champion_silent_days": "Champion's silence",
    "champion_gone": "Champion gone",
    "seat_utilisation": "Seats in use",
    "seat_utilisation_change_28d": "Change of seats in use, 28 days",
    "features_used_7d": "Features used, 7 days",
    "features_used_14d": "Features used, 14 days",
    "features_used_28d": "Features used, 28 days",
    "features_used_90d": "Features used, 90 days",
    "feature_breadth_90d": "Breadth of features, 90 days",
    "features_never_used": "Features never used",
    "feature_used": "Feature ever used",
    "days_since_feature": "Days since feature",
    "silence_ratio": "Silence against the usual pause",
    "pause_tail": "Share of longer pauses",
    "churn_odds": "Odds of leaving",
    "days_to_renewal": "Days to renewal",
    "business_days_to_renewal": "Business days to renewal",
    "mrr": "MRR",
    "mrr_change_28d": "MRR change, 28 days",
    "mrr_change_90d": "MRR change, 90 days",
    "seats": "Seats",
    "parent_account_id": "Parent account",
    "children": "Accounts below",
    "children_score": "Mean score below",
    "children_red": "Red accounts below",
    "children_mrr": "MRR below",
    "children_mrr_at_risk": "MRR at risk below",
    "worst_child": "Worst account below",
    "worst_child_score": "Score of the worst below",
    "failed_payments": "Failed payments",
    "failed_payments_30d": "Failed payments, 30 days",
    "payment_days_overdue": "Days overdue",
    "plan": "Plan",
    "status": "Status",
    "segment": "Segment",
    "touch_model": "Touch model",
    "country": "Country",
    "timezone": "Time zone",
    "owner": "Owner",
    "open_tickets": "Open tickets",
    "tickets_opened_7d": "New tickets, 7 days",
    "tickets_opened_28d": "New tickets, 28 days",
    "ticket_spike": "New tickets against the weeks before",
    "hours_to_resolve_90d": "Hours to resolve a ticket, 90 days",
    "nps_last": "Last NPS answer",
    "nps_detractor": "NPS detractor",
    "csat_last": "Last CSAT answer",
    "days_since_survey": "Days since survey",
    "days_since_contact": "Days since our contact",
    "business_days_since_contact": "Business days since our contact",
    "sessions_attended_28d": "Sessions attended, 28 days",
    "sessions_attended_90d": "Sessions attended, 90 days",
    "days_since_start": "Days since start",
    "onboarding_day": "Day of onboarding",
    "milestones_done": "Milestones reached",
    "onboarding_overdue_milestones": "Overdue milestones",
    "goals_reached": "Goals reached",
    "goals_reached_share": "Goals reached, share",
    "goals_progress": "Progress of the goals",
    "goals_on_track": "Goals reached or on track",
    "goals_behind": "Goals behind their pace",
    "goals_overdue": "Goals overdue",
    "goal_most_behind": "Goal most behind",
    "lifecycle_stage": "Stage of life",
    "usual_pause": "Usual pause",
    "score": "Score",
    "score_change_28d": "Score change, 28 days",
    "score_change_7d": "Score change, 7 days",
    "score_trend": "Score trend per week",
    "band": "Health",
}
"""Short names for people; a signal without one goes by the catalogue's meaning."""


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


def timeline_lines(entries: Sequence[TimelineEntry], words: Words) -> list[TimelineLine]:
    """One line each, but the uses and the logins of one day share theirs."""
    made: list[TimelineLine] = []
    for entry in entries:
        line = timeline_line(entry, words)
        if made and line.day is not None and made[-1].day == line.day:
            before = made.pop()
            line = replace(
                before,
                what=words("{a}, {b}", a=before.what, b=line.what),
                detail=before.detail or line.detail,
                last_at=max(filter(None, (before.last_at, line.last_at)), default=None),
            )
        made.append(line)
    return made


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
    """``most`` is what the line can take away at worst, None for the full mark and for caps; ``track`` and ``fill`` are
    the bar's lengths in hundredths."""

    text: str
    group: str
    points: float
    most: float | None
    track: float
    fill: float


@dataclass(frozen=True, kw_only=True)
class Why:
    """The lines add up to ``total``, the score."""

    sentence: str
    lines: tuple[WhyLine, ...]
    total: float


def why(contributions: Sequence[Mapping[str, Any]], score: float | None, words: Words) -> Why | None:
    """The full mark, then what was lost, most first. None when there is no score to explain."""
    if score is None or not contributions:
        return None
    ordered = sorted(contributions, key=lambda raw: (raw["measure"] != FULL_MARK, raw["contribution"]))
    scale = max([1.0, *(max(_most(raw) or 0.0, -raw["contribution"]) for raw in contributions)])
    return Why(
        sentence=explain([dict(raw) for raw in contributions], words.language),
        lines=tuple(_why_line(raw, scale, words) for raw in ordered),
        total=score,
    )


def _most(raw: Mapping[str, Any]) -> float | None:
    measured = raw["measure"] != FULL_MARK and raw.get("weight") is not None
    return 100 * float(raw["weight"]) if measured else None


def _why_line(raw: Mapping[str, Any], scale: float, words: Words) -> WhyLine:
    text, most, points = localised(raw.get("reason"), words), _most(raw), float(raw["contribution"])
    if (
        most is not None and raw.get("points", most) is None and raw.get("signal")
    ):  # the reason of missing data names nothing
        text = f"{measure_name(raw['signal'], words)}: {text}"
    group = str(raw.get("group") or "")
    return WhyLine(
        text=text[:1].upper() + text[1:],
        group=words(GROUPS[group]) if group in GROUPS else group,
        points=points,
        most=most,
        track=round(100 * (most or 0.0) / scale, 1),
        fill=round(100 * max(0.0, -points) / scale, 1),
    )


def localised(text: Any, words: Words) -> str:
    """``{"en": …, "ja": …}`` in the page's language, else English; plain text as it is."""
    if isinstance(text, Mapping):
        return str(text.get(words.language) or text.get("en") or "")
    return "" if text is None else str(text)


def measure_name(measure: str, words: Words, catalogue: Mapping[str, Signal] = SIGNALS) -> str:
    """What people call a signal, such as ``Days since feature: export``."""
    try:
        reference = SignalRef.parse(measure)
    except ValueError:
        return measure
    name = (
        words(SIGNAL_NAMES[reference.name])
        if reference.name in SIGNAL_NAMES
        else _meaning(reference.name, words, catalogue)
    )
    return f"{name}: {reference.argument}" if reference.argument else name


def _meaning(signal: str, words: Words, catalogue: Mapping[str, Signal]) -> str:
    if signal not in catalogue:
        return signal.replace("_", " ").capitalize()
    return catalogue[signal].meaning[words.language]


def meaning_of(measure: str, words: Words, catalogue: Mapping[str, Signal] = SIGNALS) -> str:
    """The catalogue's whole meaning, for hovering, and from when on one of our own is right; empty when it does not
    know the signal."""
    signal = catalogue.get(measure.partition("[")[0])
    if signal is None:
        return ""
    valid = "" if signal.valid is None else f" ({signal.valid[words.language]})"
    return signal.meaning[words.language] + valid


def unit_of(measure: str, catalogue: Mapping[str, Signal] = SIGNALS) -> str | None:
    try:
        signal = catalogue.get(SignalRef.parse(measure).name)
    except ValueError:
        return None
    return (signal.unit or signal.type) if signal else None


@dataclass(frozen=True, kw_only=True)
class SignalLine:
    reference: str
    name: str
    meaning: str
    value: str


def signal_lines(
    signals: Mapping[str, Any], words: Words, catalogue: Mapping[str, Signal] = SIGNALS
) -> list[SignalLine]:
    """In the catalogue's order, those that it does not know last."""
    order = {name: place for place, name in enumerate(catalogue)}
    return [
        SignalLine(
            reference=reference,
            name=measure_name(reference, words, catalogue),
            meaning=meaning_of(reference, words, catalogue),
            value=_value(reference, signals[reference], words, catalogue),
        )
        for reference in sorted(signals, key=lambda r: (order.get(r.partition("[")[0], len(order)), r))
    ]


def _value(reference: str, value: Any, words: Words, catalogue: Mapping[str, Signal]) -> str:
    named = {"band": formats.BANDS, "status": STATUSES}.get(reference, {})
    return words(named[value]) if value in named else formats.value_of(value, unit_of(reference, catalogue), words)


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


def spark_label(values: Sequence[int], words: Words) -> str:
    """What the sparkline shows, for those who cannot see it: halves compare well enough."""
    half = len(values) // 2
    return words(
        "Activity: {before} in the 14 days before, {after} in the last 14",
        before=sum(values[:half]),
        after=sum(values[half:]),
    )
