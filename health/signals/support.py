"""Signals of support and of what people say: tickets, surveys, our own contacts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.columns import Facts, Records
from health.instants import DAY, ENDLESS, HOUR, NEVER, Instants
from health.signals.activity import business_days_since, origin, since_last
from health.signals.view import (
    Definition,
    LivelyWithin,
    Pairs,
    View,
    count_in_state,
    latest,
    state_at,
    status_instants,
)

OPEN = ("open", "pending")
RESOLVED = ("solved", "closed")
WEEK_DAYS = 7
SPIKE_BASE_DAYS = 28
RESOLVE_DAYS = 90
MOST_OF_DETRACTORS = 6


def _open_tickets(view: View, _: str | None) -> Floats:
    count = count_in_state(view, view.facts.tickets, OPEN)
    return np.where(view.t >= view.facts.first_day_us, count, np.nan)


def _ticket_instants(facts: Facts, _: str | None) -> list[Pairs]:
    return status_instants(facts.tickets)


def _opened(view: View, days: int, *, shift: int = 0) -> Ints:
    """Tickets first heard of in the ``days`` times 24 hours that ended ``shift`` days before t. (A, T)."""
    tickets = view.facts.tickets
    age = view.rows_t(tickets) - tickets.first_at[:, None]
    return view.count(tickets, (age >= shift * DAY) & (age < (shift + days) * DAY))


def _tickets_opened(days: int) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        return view.known(_opened(view, days), _reaches(view, days))

    return Definition(values=values, instants=_leaving(0, days), reach_days=days)


def _ticket_spike(view: View, _: str | None) -> Floats:
    usual = np.maximum(_opened(view, SPIKE_BASE_DAYS, shift=WEEK_DAYS), 1) * (WEEK_DAYS / SPIKE_BASE_DAYS)
    return view.known(_opened(view, WEEK_DAYS) / usual, _reaches(view, WEEK_DAYS + SPIKE_BASE_DAYS))


def _leaving(*days: int) -> Callable[[Facts, str | None], list[Pairs]]:
    """When tickets have been known for so many days."""
    return lambda facts, _: [(facts.tickets.account, facts.tickets.first_at + n * DAY) for n in days]


def _reaches(view: View, days: int) -> Bools:
    whole: Bools = view.t - days * DAY >= view.facts.first_day_us
    return whole


def _hours_to_resolve(view: View, _: str | None) -> Floats:
    """A ticket that was reopened counts by its last solution; a later closing does not."""
    tickets, t = view.facts.tickets, view.rows_t(view.facts.tickets)
    state = state_at(view, tickets, RESOLVED)
    reopened = np.maximum.reduce([_taken(tickets, status, t, NEVER) for status in OPEN])
    resolved = np.full(t.shape, ENDLESS, dtype=np.int64)
    for status in RESOLVED:
        at = _taken(tickets, status, t, ENDLESS)
        np.minimum(resolved, np.where(at >= reopened, at, ENDLESS), out=resolved)
    counted = state.inside & (resolved > t - RESOLVE_DAYS * DAY)
    hours = np.where(counted, resolved - tickets.first_at[:, None], 0) / HOUR
    total = np.zeros(view.t.shape)
    np.add.at(total, tickets.account, hours)
    number = view.count(tickets, counted)
    known = (view.count(tickets, state.unknown) == 0) & _reaches(view, RESOLVE_DAYS) & (number > 0)
    return view.known(total / np.maximum(number, 1), known)


def _taken(tickets: Records, status: str, t: Instants, otherwise: int) -> Instants:
    at = tickets.status_at[status][:, None]
    return np.where((at != NEVER) & (at <= t), at, otherwise)


def _resolve_instants(facts: Facts, _: str | None) -> list[Pairs]:
    tickets = facts.tickets
    leaving = [tickets.status_at[status] + RESOLVE_DAYS * DAY for status in RESOLVED]
    return [*status_instants(tickets), *((tickets.account, at) for at in leaving)]


def _latest_score(view: View, scores: Floats) -> Floats:
    surveys = view.facts.surveys
    place = latest(view, surveys, surveys.at, np.isfinite(scores), view.t)
    return view.known(np.append(scores, np.nan)[place], view.t >= view.facts.first_day_us)


def _nps_last(view: View, _: str | None) -> Floats:
    return _latest_score(view, view.facts.surveys.nps)


def _detractor(view: View, _: str | None) -> Floats:
    nps = _nps_last(view, None)
    return np.where(np.isnan(nps), np.nan, nps <= MOST_OF_DETRACTORS)


def _csat_last(view: View, _: str | None) -> Floats:
    return _latest_score(view, view.facts.surveys.csat)


def _sessions(days: int) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        sessions = view.facts.sessions
        age = view.rows_t(sessions) - sessions.at[:, None]
        return view.known(view.count(sessions, (age >= 0) & (age < days * DAY)), _reaches(view, days))

    def instants(facts: Facts, _: str | None) -> list[Pairs]:
        sessions = facts.sessions
        return [(sessions.account, sessions.at), (sessions.account, sessions.at + days * DAY)]

    # So many times 24 hours begin within the day before that many days.
    return Definition(values=values, instants=instants, borders=LivelyWithin(days + 1), window_days=days + 1)


def _days_since_survey(view: View, _: str | None) -> Floats:
    surveys = view.facts.surveys
    place = latest(view, surveys, surveys.at, np.ones(len(surveys.at), dtype=np.bool_), view.t)
    at = np.append(surveys.at, NEVER)[place]
    days = view.elapsed_days(np.where(place < 0, view.facts.start[:, None], at))
    return np.where(view.t >= view.facts.first_day_us, days, np.nan)


def _survey_origins(facts: Facts, _: str | None) -> Iterator[Instants]:
    """From the latest answer; for the past, from each earlier one and from the start."""
    surveys = facts.surveys
    counts = np.bincount(surveys.account, minlength=len(facts))
    ends, answers = np.cumsum(counts), np.append(surveys.at, NEVER)
    for place in range(max(int(counts.max(initial=0)), 1)):
        answered = answers[np.where(counts > place, ends - 1 - place, -1)]
        yield answered if place else origin(facts, answered)
    yield facts.start


def _survey_instants(facts: Facts, _: str | None) -> list[Pairs]:
    return [(facts.surveys.account, facts.surveys.at)]


SIGNALS: Mapping[str, Definition] = {
    "open_tickets": Definition(values=_open_tickets, instants=_ticket_instants),
    "tickets_opened_7d": _tickets_opened(7),
    "tickets_opened_28d": _tickets_opened(28),
    "ticket_spike": Definition(
        values=_ticket_spike,
        instants=_leaving(0, WEEK_DAYS, WEEK_DAYS + SPIKE_BASE_DAYS),
        reach_days=WEEK_DAYS + SPIKE_BASE_DAYS,
    ),
    "hours_to_resolve_90d": Definition(values=_hours_to_resolve, instants=_resolve_instants, reach_days=RESOLVE_DAYS),
    "nps_last": Definition(values=_nps_last, instants=_survey_instants),
    "nps_detractor": Definition(values=_detractor, instants=_survey_instants),
    "csat_last": Definition(values=_csat_last, instants=_survey_instants),
    "days_since_survey": Definition(values=_days_since_survey, origins=_survey_origins, instants=_survey_instants),
    "days_since_contact": since_last(lambda facts: facts.last_contact_at),
    "business_days_since_contact": business_days_since(lambda facts: facts.last_contact_at),
    "sessions_attended_28d": _sessions(28),
    "sessions_attended_90d": _sessions(90),
}
