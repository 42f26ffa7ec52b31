"""Signals of support and of what people say: tickets, surveys, our own contacts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.columns import Facts
from health.instants import NEVER, Instants
from health.signals.activity import origin, since_last
from health.signals.view import Definition, View, count_in_state, status_instants

OPEN = ("open", "pending")


def _open_tickets(view: View, _: str | None) -> Floats:
    count = count_in_state(view, view.facts.tickets, OPEN)
    return np.where(view.t >= view.facts.first_day_us, count, np.nan)


def _ticket_instants(facts: Facts, _: str | None) -> tuple[Ints, Instants]:
    return status_instants(facts.tickets)


def _latest(view: View, chosen: Bools) -> Ints:
    """Place of the latest of the ``chosen`` (R,) answers by t, or -1. (A, T)."""
    surveys = view.facts.surveys
    by_then = chosen[:, None] & (surveys.at[:, None] <= view.rows_t(surveys))
    places = np.full(view.t.shape, -1, dtype=np.int64)
    np.maximum.at(places, surveys.account, np.where(by_then, np.arange(len(surveys.at))[:, None], -1))
    return places


def _nps_last(view: View, _: str | None) -> Floats:
    latest = _latest(view, np.isfinite(view.facts.surveys.nps))
    scores = np.append(view.facts.surveys.nps, np.nan)
    return view.known(scores[latest], view.t >= view.facts.first_day_us)


def _days_since_survey(view: View, _: str | None) -> Floats:
    latest = _latest(view, np.ones(len(view.facts.surveys.at), dtype=np.bool_))
    at = np.append(view.facts.surveys.at, NEVER)[latest]
    days = view.elapsed_days(np.where(latest < 0, view.facts.start[:, None], at))
    return np.where(view.t >= view.facts.first_day_us, days, np.nan)


def _survey_origins(facts: Facts, _: str | None) -> Sequence[Instants]:
    """From the latest answer; for the past, from each earlier one and from the start."""
    surveys = facts.surveys
    ends = np.searchsorted(surveys.account, np.arange(len(facts)), side="right")
    counts = np.bincount(surveys.account, minlength=len(facts))
    answers = np.append(surveys.at, NEVER)
    latest_first = [
        np.where(counts > place, answers[np.where(counts > place, ends - 1 - place, -1)], NEVER)
        for place in range(int(counts.max(initial=0)))
    ]
    latest = latest_first[0] if latest_first else np.full(len(facts), NEVER, dtype=np.int64)
    return (origin(facts, latest), *latest_first[1:], facts.start)


def _survey_instants(facts: Facts, _: str | None) -> tuple[Ints, Instants]:
    return facts.surveys.account, facts.surveys.at


SIGNALS: Mapping[str, Definition] = {
    "open_tickets": Definition(values=_open_tickets, instants=_ticket_instants),
    "nps_last": Definition(values=_nps_last, instants=_survey_instants),
    "days_since_survey": Definition(values=_days_since_survey, origins=_survey_origins, instants=_survey_instants),
    "days_since_contact": since_last(lambda facts: facts.last_contact_at),
}
