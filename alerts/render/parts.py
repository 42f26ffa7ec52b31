"""What every channel says, as cleaned plain text; the channels' files only give it their form."""

from __future__ import annotations

from dataclasses import dataclass

from alerts.render.clean import clean
from alerts.render.view import CLOSING, AlertView, Language, in_language
from alerts.render.wording import KIND_TITLES, LEADS, day, instant, money, number, points, word

MAX_NAME = 80
MAX_TITLE = 60
MAX_PLAN = 60
MAX_SENTENCE = 500
SHOWN_CONTRIBUTIONS = 3


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Plain text, one line each; "" where there is nothing to say. ``facts`` are (label, value) in reading order."""

    title: str
    lead: str
    who: str
    facts: tuple[tuple[str, str], ...]
    why_label: str
    why: str
    owner: str
    health: str
    contributions: tuple[str, ...]
    next_step: str
    url: str


def parts(view: AlertView, language: Language) -> Parts:
    who = clean(view.account_name or view.account_id, MAX_NAME) or "?"
    title = KIND_TITLES[language][view.kind].format(
        title=clean(in_language(view.rule_title, language) or view.rule_id, MAX_TITLE),
        who=who,
        severity=word(view.severity, language),
    )
    closing = view.kind in CLOSING
    return Parts(
        title=title,
        lead=LEADS[language][view.kind],
        who=who,
        facts=tuple(_facts(view, language)),
        why_label=word("why_then" if closing else "why", language),
        why=clean(in_language(view.reasons, language), MAX_SENTENCE),
        owner=clean(view.owner_name or "", MAX_NAME) or word("nobody", language),
        health=_health(view, language),
        contributions=() if closing else _contributions(view, language),
        next_step="" if closing else clean(in_language(view.suggestion, language), MAX_SENTENCE),
        url=_safe_url(view.url),
    )


def _facts(view: AlertView, language: Language) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if view.mrr is not None:
        facts.append((word("mrr", language), money(view.mrr, view.currency, language)))
    if plan := clean(view.plan or "", MAX_PLAN):
        facts.append((word("plan", language), plan))
    if view.renewal_on is not None:
        facts.append((word("renewal", language), day(view.renewal_on, view.at, view.timezone, language)))
    facts.append((word("since", language), instant(view.since, view.at, view.timezone, language)))
    if not view.account_id:  # operations' own alert
        return facts
    for key, at in (("last_seen", view.last_seen_at), ("last_login", view.last_login_at)):
        shown = word("never", language) if at is None else instant(at, view.at, view.timezone, language)
        facts.append((word(key, language), shown))
    return facts


def _health(view: AlertView, language: Language) -> str:
    if view.score is None or view.band is None:
        return ""
    return word("score", language, score=number(view.score, language), band=word(view.band, language))


def _contributions(view: AlertView, language: Language) -> tuple[str, ...]:
    return tuple(
        f"{clean(in_language(line.title, language), MAX_TITLE)} {points(line.points, language)}"
        for line in view.contributions[:SHOWN_CONTRIBUTIONS]
    )


def _safe_url(url: str) -> str:
    """Only a web address becomes a link."""
    return url if url.startswith(("https://", "http://")) and clean(url, 2000) == url else ""
