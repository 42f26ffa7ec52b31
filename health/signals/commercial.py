"""Commercial signals: renewal, money, seats, payments, and the attributes that rules name. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from health.arrays import Bools, Floats, Texts
from health.columns import Facts
from health.gaps import Observed
from health.instants import DAY, NEVER
from health.signals import business
from health.signals.view import (
    Definition,
    Pairs,
    View,
    attribute_instants,
    count_in_state,
    in_status,
    past_number,
    state_at,
    status_instants,
)

FAILING = ("failed", "overdue")
FAILED_WINDOW_US = 30 * DAY


def _days_to_renewal(view: View, _: str | None) -> Floats:
    renewal = view.facts.renewal_at[:, None]
    return view.known(renewal // DAY - view.date, (renewal != NEVER) & view.stands("renewal_on"))


def _business_days_to_renewal(view: View, _: str | None) -> Floats:
    renewal = view.facts.renewal_at[:, None]
    return business.until(view, renewal // DAY, (renewal != NEVER) & view.stands("renewal_on"))


def _has_renewal(facts: Facts, _: Observed) -> Bools:
    dated: Bools = facts.renewal_at != NEVER
    return dated


def _failed_payments(view: View, _: str | None) -> Floats:
    count = count_in_state(view, view.facts.payments, FAILING)
    return np.where(view.t >= view.facts.first_day_us, count, np.nan)


def _failed_payments_30d(view: View, _: str | None) -> Floats:
    payments = view.facts.payments
    state = state_at(view, payments, FAILING)
    recent = state.inside & (state.since > view.rows_t(payments) - FAILED_WINDOW_US)
    known = (view.count(payments, state.unknown) == 0) & (view.t >= view.facts.first_day_us)
    return view.known(view.count(payments, recent), known)


def _days_overdue(view: View, _: str | None) -> Floats:
    payments = view.facts.payments
    state = state_at(view, payments, FAILING)
    worst = np.zeros(view.t.shape, dtype=np.int64)
    failing = np.flatnonzero(state.inside.any(axis=1))  # of all payments a few
    account, due_at = payments.account[failing], payments.due_at[failing]
    failed_on = view.facts.places.dates(state.since[failing], account)
    late = view.date[account] - np.where(due_at == NEVER, NEVER, due_at // DAY)[:, None]
    late = np.where((due_at == NEVER)[:, None], view.date[account] - failed_on, late)
    np.maximum.at(worst, account, np.where(state.inside[failing], late, 0))
    known = (view.count(payments, state.unknown) == 0) & (view.t >= view.facts.first_day_us)
    return view.known(worst, known)


def _someone_failing(facts: Facts, _: Observed) -> Bools:
    payments = facts.payments
    found = np.zeros(len(facts), dtype=np.bool_)
    ever = [payments.status_at[status] != NEVER for status in FAILING if status in payments.status_at]
    found[payments.account[in_status(payments, FAILING, np.any(ever, axis=0))]] = True
    return found


def _mrr_change(days: int) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        then = past_number(view, "mrr", view.t - days * DAY)
        before = np.where(then > 0, then, np.nan)
        now = view.number("mrr")
        if not view.only_live:
            now = np.where(view.live, now, past_number(view, "mrr", view.t))
        change = (now - before) / before
        return view.known(change, np.isfinite(change))

    def instants(facts: Facts, _: str | None) -> list[Pairs]:
        history = facts.history
        mrr = history.among("attribute", ("mrr",))
        account, at = history.account[mrr], history.at[mrr]
        return [(account, at), (account, at + days * DAY)]

    return Definition(values=values, instants=instants)


def _payment_instants(facts: Facts, _: str | None) -> list[Pairs]:
    return status_instants(facts.payments)


def _payment_expiries(facts: Facts, _: str | None) -> list[Pairs]:
    payments = facts.payments
    failed = [payments.status_at[status] for status in FAILING if status in payments.status_at]
    return [*status_instants(payments), *((payments.account, at + FAILED_WINDOW_US) for at in failed)]


def _number(attribute: str) -> Definition:
    def values(view: View, _: str | None) -> Floats:
        return view.number(attribute)

    return Definition(values=values, instants=attribute_instants(attribute))


def _text(attribute: str) -> Definition:
    def values(view: View, _: str | None) -> Texts:
        return view.text(attribute)

    return Definition(values=values, instants=attribute_instants(attribute))


SIGNALS: Mapping[str, Definition] = {
    "days_to_renewal": Definition(
        values=_days_to_renewal, borders=_has_renewal, zoned=True, instants=attribute_instants("renewal_on")
    ),
    "business_days_to_renewal": Definition(
        values=_business_days_to_renewal, borders=_has_renewal, zoned=True, instants=attribute_instants("renewal_on")
    ),
    "mrr": _number("mrr"),
    "mrr_change_28d": _mrr_change(28),
    "mrr_change_90d": _mrr_change(90),
    "seats": _number("seats"),
    "failed_payments": Definition(values=_failed_payments, instants=_payment_instants),
    "failed_payments_30d": Definition(values=_failed_payments_30d, instants=_payment_expiries),
    "payment_days_overdue": Definition(
        values=_days_overdue, borders=_someone_failing, zoned=True, instants=_payment_instants
    ),
    "plan": _text("plan"),
    "status": _text("status"),
    "segment": _text("segment"),
    "touch_model": _text("touch_model"),
    "country": _text("country"),
    "timezone": _text("timezone"),
    "owner": _text("owner"),
}
