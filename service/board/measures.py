"""What the board says of signals: their names and values, and the lines of a score. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from health.catalogue import SIGNALS, Signal, SignalRef
from health.scorecards import FULL_MARK, explain
from service.board import formats
from service.board.words import Words

STATUSES = {"active": "Active", "trial": "Trial", "paused": "Paused", "ended": "Ended"}

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
