"""What the board says of an account's past, entry by entry. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from service.board import formats
from service.board.measures import STATUSES
from service.board.words import Words
from service.queries import TimelineEntry

Tone = str
"""``good``, ``bad``, ``use`` or nothing: the shape of an entry's mark; the wording says the same."""

DETRACTOR, PROMOTER = 6, 9

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


def spark_label(values: Sequence[int], words: Words) -> str:
    """What the sparkline shows, for those who cannot see it: halves compare well enough."""
    half = len(values) // 2
    return words(
        "Activity: {before} in the 14 days before, {after} in the last 14",
        before=sum(values[:half]),
        after=sum(values[half:]),
    )
