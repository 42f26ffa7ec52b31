"""Commercial signals: renewal, money, seats, payments, and the attributes that rules name. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from health.arrays import Bools, Floats, Ints, Texts
from health.columns import Facts
from health.gaps import Observed
from health.instants import DAY, NEVER, Instants
from health.signals.view import Definition, View, attribute_instants, count_in_state, state_at, status_instants

FAILING = ("failed", "overdue")
FAILED_WINDOW_US = 30 * DAY


def _days_to_renewal(view: View, _: str | None) -> Floats:
    renewal = view.facts.renewal_at[:, None]
    return view.known((renewal - view.day_us) // DAY, (renewal != NEVER) & view.stands("renewal_on"))


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


def _payment_instants(facts: Facts, _: str | None) -> tuple[Ints, Instants]:
    return status_instants(facts.payments)


def _payment_expiries(facts: Facts, _: str | None) -> tuple[Ints, Instants]:
    account, at = status_instants(facts.payments)
    failed = [facts.payments.status_at[status] for status in FAILING if status in facts.payments.status_at]
    expiry = [np.where(times == NEVER, NEVER, times + FAILED_WINDOW_US) for times in failed]
    return (
        np.concatenate([account, np.tile(facts.payments.account, len(expiry))]),
        np.concatenate([at, *expiry]),
    )


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
        values=_days_to_renewal, borders=_has_renewal, instants=attribute_instants("renewal_on")
    ),
    "mrr": _number("mrr"),
    "seats": _number("seats"),
    "failed_payments": Definition(values=_failed_payments, instants=_payment_instants),
    "failed_payments_30d": Definition(values=_failed_payments_30d, instants=_payment_expiries),
    "plan": _text("plan"),
    "status": _text("status"),
    "segment": _text("segment"),
    "touch_model": _text("touch_model"),
    "owner": _text("owner"),
}
