"""The pages that are read: the accounts at risk, one account, the alerts, one alert."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from service import queries
from service.board import formats, kin, lines, measures, score, timeline
from service.board.forms import ALERT_TABS, AlertForm, RiskForm
from service.board.render import account_url
from service.board.site import Refused, Visit
from service.queries import Activity, AlertDetail, AlertItem, Choices, OpenAlert, Portfolio, RiskItem
from service.queries.archived import with_events

ROWS = 50
SPARK_DAYS = 28
COURSE_DAYS = 90
TIMELINE_LINES = 30
SNOOZE_DAYS = 7
OVERRIDE_DAYS = 30
DONE = {
    "acknowledge": "Acknowledged. Reminders stop.",
    "snooze": "Snoozed. It comes back on the chosen day if it still holds.",
    "resolve": "Resolved. Thank you for the outcome.",
    "reopen": "Reopened.",
    "contact": "Logged. It is on the timeline in a moment.",
    "override": "The score is set. The page follows in a moment.",
    "override-ended": "Taken back: the measures decide again.",
}
CONTACTS = {"call": "Call", "mail": "Mail", "meeting": "Meeting"}
LOGGED = re.compile(r"(call|mail|meeting)\.([0-9a-f]{24})")
"""Kind and id of a contact that was just logged."""


@dataclass(frozen=True, kw_only=True)
class Option:
    value: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the portfolio's bar, in hundredths."""

    band: str
    accounts: int
    x: float
    width: float


async def accounts(visit: Visit) -> Response:
    """GET /"""
    form = RiskForm.read(visit.request.query_params, visit.words)
    deps, now = visit.board.deps, visit.page.now
    async with deps.reading() as conn:
        found = await queries.risk_list(conn, form.where, form.sort, form.cursor, ROWS, now, stream=deps.stream)
        courses = await queries.activity(conn, [item.account_id for item in found.items], SPARK_DAYS, now)
        portfolio = await queries.portfolio(conn)
        open_alerts = await queries.count_alerts(conn, AlertForm().where)
        choices = await queries.filters(conn)
    return visit.show(
        "accounts.html",
        form=form,
        fresh=found,
        rows=[risk_row(visit, item, courses[item.account_id]) for item in found.items],
        next_cursor=found.next_cursor,
        portfolio=portfolio,
        open_alerts=open_alerts,
        segments=segments(portfolio),
        choices={
            "owners": _owners(choices, form.owner),
            "rules": _rules(visit, choices),
            "plans": [Option(value=p, label=p) for p in choices.plans],
        },
    )


def segments(portfolio: Portfolio) -> list[Segment]:
    """Worst first; bands without accounts are left out, but for the three that everybody looks for."""
    counts = {"red": portfolio.red, "yellow": portfolio.yellow, "green": portfolio.green, "unknown": portfolio.unknown}
    made: list[Segment] = []
    x = 0.0
    for band, count in counts.items():
        width = 100 * count / portfolio.accounts if portfolio.accounts else 0.0
        if count or band != "unknown":
            made.append(Segment(band=band, accounts=count, x=round(x, 2), width=round(width, 2)))
        x += width
    return made


@dataclass(frozen=True, kw_only=True)
class RiskRow:
    item: RiskItem
    top: OpenAlert | None
    change: str
    spark: formats.Sparkline
    spark_label: str


def risk_row(visit: Visit, item: RiskItem, course: Activity) -> RiskRow:
    change = item.score_change_28d
    return RiskRow(
        item=item,
        top=item.alerts[0] if item.alerts else None,
        change=visit.words("{points} in 28 days", points=formats.signed(round(change)))
        if change and abs(change) >= 1
        else "",
        spark=formats.sparkline(course.events),
        spark_label=timeline.spark_label(course.events, visit.words),
    )


def _owners(choices: Choices, chosen: str) -> list[Option]:
    """Whoever is ``chosen`` is among them, so that the form says what the list shows."""
    made = [
        Option(value=owner.owner, label=f"{owner.name or owner.owner} ({owner.accounts})") for owner in choices.owners
    ]
    if chosen and chosen not in {option.value for option in made}:
        made.append(Option(value=chosen, label=chosen))
    return made


def _rules(visit: Visit, choices: Choices) -> list[Option]:
    rules = visit.board.rules
    made = [
        Option(value=rule.rule_id, label=f"{rules.title(rule.rule_id, visit.words)} ({rule.open_episodes})")
        for rule in choices.rules
    ]
    return sorted(made, key=lambda option: option.label)


async def account(visit: Visit) -> Response:
    """GET /accounts/{account_id}"""
    return await show_account(visit)


async def show_account(
    visit: Visit, *, status: int = 200, problem: str | None = None, sent: Mapping[str, str] | None = None
) -> Response:
    """Also after a form that could not be carried out: with the ``problem``, and the form as it was ``sent``."""
    context = await _account_context(visit)
    live_url = _live_url(visit, fingerprint(visit, context))
    if sent is not None:
        context["sent"] = {**context["sent"], **sent}
    done = visit.request.query_params.get("done")
    today = visit.page.now.date()
    return visit.show(
        "account.html",
        status=status,
        done=visit.words(DONE[done]) if done in DONE else None,
        problem=problem,
        today=today.isoformat(),
        in_a_month=(today + timedelta(days=OVERRIDE_DAYS)).isoformat(),
        live_url=live_url,
        **context,
    )


async def account_live(visit: Visit) -> Response:
    """GET /live/accounts/{account_id}: the page's changing part, or 204 when it is as the reader has it."""
    context = await _account_context(visit)
    mark = fingerprint(visit, context)
    if visit.request.query_params.get("seen") == mark:
        return Response(status_code=204)
    return visit.show("account_live.html", live_url=_live_url(visit, mark), **context)


def fingerprint(visit: Visit, context: Mapping[str, Any]) -> str:
    """Of what a reader would see, so that a poll says nothing until something is different."""
    return hashlib.sha256(visit.html("account_live.html", live_url="", **context).encode()).hexdigest()[:16]


def _live_url(visit: Visit, mark: str) -> str:
    kept = {name: visit.request.query_params.get(name) or "" for name in ("before", "logged")}
    query = {"seen": mark, **kept}
    own = account_url(visit.request.path_params["account_id"])
    return f"/live{own}?{urlencode({name: value for name, value in query.items() if value})}"


async def _account_context(visit: Visit) -> dict[str, Any]:
    account_id = visit.request.path_params["account_id"]
    before = visit.request.query_params.get("before") or None
    deps, now, words = visit.board.deps, visit.page.now, visit.words
    if "\0" in account_id:
        raise no_account(visit)
    async with deps.reading() as conn:
        found = await queries.account(conn, account_id, now, stream=deps.stream)
        if found is None:
            raise no_account(visit)
        children = await queries.children_of(conn, account_id) if found.rollup else ()
        past = await queries.timeline(conn, account_id, before, TIMELINE_LINES)
        pending = await _pending(visit, conn, account_id)
        scores = await queries.score_history(conn, account_id, COURSE_DAYS, now)
        course = (await queries.activity(conn, [account_id], COURSE_DAYS, now))[account_id]
    past = await with_events(deps.settings, deps.engine, account_id, past)
    own = account_url(account_id)
    return {
        "account": found,
        "parent_problem": kin.parent_problem(found.parent, words),
        "below": kin.below(found.rollup, words),
        "children": children,
        "alerts": [alert_entry(visit, alert) for alert in sorted(found.alerts, key=_pressing)],
        "why": measures.why(found.contributions, found.score, words),
        "signals": measures.signal_lines(found.signals, words, visit.board.rules.catalogue),
        "scores": score.score_rows(scores),
        "course": score.score_course(found, scores, words),
        "by_hand": score.by_hand(found.override, words),
        "days": day_rows(course),
        "timeline": timeline.timeline_lines(past.items, words),
        "pending": pending,
        "contacts": [(code, words(label)) for code, label in CONTACTS.items()],
        "sent": {"contact": "", "when": "", "note": "", "score": "", "until": "", "reason": ""},
        "older_url": f"{own}?{urlencode({'before': past.next_cursor})}" if past.next_cursor else None,
        "newest_url": own if before else None,
    }


async def _pending(visit: Visit, conn: AsyncConnection, account_id: str) -> str | None:
    """The line of a contact that was logged a moment ago, until the consumers have applied it."""
    logged = LOGGED.fullmatch(visit.request.query_params.get("logged") or "")
    if logged is None or await queries.record_exists(conn, account_id, "contact", logged[2]):
        return None
    return visit.words(timeline.SIMPLE["contact", logged[1]][0])


def _pressing(alert: AlertItem) -> tuple[int, datetime]:
    """Worst first, then the oldest."""
    return list(formats.SEVERITIES).index(alert.severity) if alert.severity in formats.SEVERITIES else 9, alert.since


def no_account(visit: Visit) -> Refused:
    return Refused(
        404, visit.words("No such account"), visit.words("Nothing has been heard of it here. Check the address.")
    )


@dataclass(frozen=True, kw_only=True)
class DayRow:
    day: date
    events: int
    logins: int


def day_rows(course: Activity) -> list[DayRow]:
    return [
        DayRow(day=course.start + timedelta(days=place), events=events, logins=logins)
        for place, (events, logins) in enumerate(zip(course.events, course.logins, strict=True))
    ]


@dataclass(frozen=True, kw_only=True)
class AlertEntry:
    """An alert in a list. ``ending`` says how a closed one ended."""

    alert: AlertItem
    title: str
    suggestion: str
    ending: str


def alert_entry(visit: Visit, alert: AlertItem) -> AlertEntry:
    words = visit.words
    ending = (
        formats.OUTCOMES[alert.outcome] if alert.outcome in formats.OUTCOMES else lines.ENDINGS.get(alert.state, "")
    )
    return AlertEntry(
        alert=alert,
        title=visit.board.rules.title(alert.rule_id, words),
        suggestion=visit.board.rules.suggestion(alert.rule_id, words),
        ending=words(ending) if ending else "",
    )


async def alerts(visit: Visit) -> Response:
    """GET /alerts"""
    words, deps = visit.words, visit.board.deps
    form = AlertForm.read(visit.request.query_params)
    async with deps.reading() as conn:
        found = await queries.alerts(conn, form.where, form.cursor, ROWS)
        choices = await queries.filters(conn)
        fresh = await queries.freshness(conn, visit.page.now, stream=deps.stream)
    done = visit.request.query_params.get("done")
    title, text = _nothing(visit, form)
    return visit.show(
        "alerts.html",
        form=form,
        fresh=fresh,
        tabs=[(code, words(label)) for code, label in ALERT_TABS.items()],
        rows=[alert_entry(visit, alert) for alert in found.items],
        next_cursor=found.next_cursor,
        selects=[
            ("owner", words("Owner"), form.owner, _owners(choices, form.owner)),
            ("rule", words("Rule"), form.rule, _rules(visit, choices)),
        ],
        done=words(DONE[done]) if done in DONE else None,
        empty_title=title,
        empty_text=text,
    )


def _nothing(visit: Visit, form: AlertForm) -> tuple[str, str]:
    words = visit.words
    if form.owner or form.rule or form.account:
        return words("No alert matches"), words("Loosen a filter to see more.")
    if form.state == "snoozed":
        return words("Nothing is snoozed"), words("Snoozed alerts wait here until their day.")
    if form.state == "closed":
        return words("No closed alerts yet"), words("Resolved and withdrawn alerts are kept here with their outcome.")
    return words("No open alerts"), words("Nothing asks for your attention right now.")


async def alert(visit: Visit) -> Response:
    """GET /alerts/{episode_id}"""
    done = visit.request.query_params.get("done")
    return await show_alert(visit, done=visit.words(DONE[done]) if done in DONE else None)


def episode_id_of(visit: Visit) -> UUID:
    try:
        return UUID(visit.request.path_params["episode_id"])
    except ValueError:
        raise no_alert(visit) from None


def no_alert(visit: Visit) -> Refused:
    return Refused(404, visit.words("No such alert"), visit.words("It may have been removed with its account."))


async def show_alert(
    visit: Visit,
    *,
    status: int = 200,
    done: str | None = None,
    problem: str | None = None,
    sent: Mapping[str, str] | None = None,
) -> Response:
    """The page of one alert; after a refused action with the ``problem`` and what was ``sent``."""
    async with visit.board.deps.reading() as conn:
        detail = await queries.alert(conn, episode_id_of(visit))
    if detail is None:
        raise no_alert(visit)
    return visit.show(
        "alert.html",
        status=status,
        done=done,
        problem=problem,
        sent={"action": "", "reason": "", "outcome": "", "until": "", **(sent or {})},
        **_alert_context(visit, detail),
    )


def _alert_context(visit: Visit, detail: AlertDetail) -> dict[str, Any]:
    words, alert, today = visit.words, detail.alert, visit.page.now.date()
    rules = visit.board.rules
    return {
        "detail": detail,
        "title": rules.title(alert.rule_id, words),
        "suggestion": rules.suggestion(alert.rule_id, words),
        "state": words(lines.STATES.get(alert.state, alert.state)),
        "signals": measures.signal_lines(detail.signals, words, visit.board.rules.catalogue),
        "why": measures.why(detail.contributions, alert.score, words),
        "steps": [lines.step(transition, alert.reason, words) for transition in detail.transitions],
        "deliveries": [lines.delivery_line(delivery, words) for delivery in detail.deliveries],
        "outcomes": [(code, words(label)) for code, label in formats.OUTCOMES.items()],
        "today": today.isoformat(),  # where the reader is, tomorrow may have begun or be long in coming
        "in_a_week": (today + timedelta(days=SNOOZE_DAYS)).isoformat(),
    }
