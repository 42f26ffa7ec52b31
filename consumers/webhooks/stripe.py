"""Stripe's events: invoices become payments, changes of subscriptions become subscription events. Pure.

MRR is what the items cost at list price, before discounts and taxes, by month. Stripe sends amounts in the smallest
unit of their currency, and events in no order: each carries the whole subscription, and the later one stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from consumers.webhooks.drafts import Draft, Drafts, Ignored, Unmapped, at, day, line, need, number_of, text_of, trimmed
from consumers.webhooks.drafts import instant as instant_of
from consumers.webhooks.options import Options

ACCOUNT: Final = (
    "data.object.metadata.account_id || data.object.parent.subscription_details.metadata.account_id"
    " || data.object.subscription_details.metadata.account_id || data.object.customer.id || data.object.customer"
)

_ZERO_DECIMALS: Final = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
)
_THREE_DECIMALS: Final = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
_PER_MONTH: Final[Mapping[str, Decimal]] = {
    "day": Decimal("365.25") / 12,
    "week": Decimal("365.25") / 84,
    "month": Decimal(1),
    "year": Decimal(1) / 12,
}
_MOST: Final = Decimal(10) ** 18
_NOT_YET: Final = frozenset({"incomplete", "incomplete_expired"})
_GIVEN_UP: Final = frozenset({"canceled", "unpaid", "incomplete_expired"})
# Events of one second have one time: what usually follows is laid a moment later, so that it stands.
_RANK: Final[Mapping[str, str]] = {
    "customer.subscription.created": ".000", "customer.subscription.updated": ".001",
    "customer.subscription.deleted": ".002",
}  # fmt: skip


def events(document: Any, _: Options) -> Drafts:
    """Of one Stripe event."""
    kind = need(document, "type")
    item = need(document, "data", "object")
    if kind in {"invoice.paid", "invoice.payment_failed", "invoice.overdue"}:
        return _payment(document, kind, item)
    if kind in _RANK:
        return _subscription(document, kind, item)
    return Ignored(f"{kind} is not asked for")


def _payment(document: Any, kind: str, invoice: Any) -> Drafts:
    status = {"invoice.paid": "paid", "invoice.payment_failed": "failed"}.get(kind, "overdue")
    currency = text_of(need(invoice, "currency"), "currency").upper()
    field = "amount_paid" if status == "paid" else "amount_due"
    amount = _major(_decimal(need(invoice, field), field), currency)
    if not amount:
        return Ignored("an invoice of nothing")
    due = at(invoice, "due_date")
    return [
        trimmed({
            "kind": "payment", "event_id": text_of(need(document, "id"), "id"),
            "timestamp": instant_of(need(document, "created"), "created"), "payment_id": need(invoice, "id"),
            "status": status, "amount": amount, "currency": currency,
            "due_on": None if due is None else day(due, "due_date"),
        })
    ]  # fmt: skip


def _subscription(document: Any, kind: str, now: Any) -> Drafts:
    change = _change(document, kind, now)
    if isinstance(change, Ignored):
        return change
    items = need(now, "items", "data")
    currency = text_of(need(now, "currency"), "currency").upper()
    ends_on = _ends_on(now)
    draft: Draft = {
        "kind": "subscription",
        "event_id": text_of(need(document, "id"), "id"),
        "timestamp": instant_of(need(document, "created"), "created").replace("+00:00", f"{_RANK[kind]}+00:00"),
        "subscription_id": need(now, "id"),
        "change": change,
    }
    if change != "ended":
        draft |= {
            # A trial brings nothing in yet.
            "mrr": 0 if change == "trial_started" else mrr(items, currency),
            "currency": currency, "plan": _plan(items), "seats": _seats(items),
            "renewal_on": ends_on or _period_end(now),
        }  # fmt: skip
    return [trimmed(draft)]


def _change(document: Any, kind: str, now: Any) -> str | Ignored:
    status = need(now, "status")
    if kind == "customer.subscription.deleted":
        return Ignored("it never began") if status == "incomplete_expired" else "ended"
    if status in _NOT_YET:
        return Ignored("it has not begun yet")
    if kind == "customer.subscription.created":
        return "trial_started" if status == "trialing" else "started"
    return _update(now, status, at(document, "data", "previous_attributes") or {})


def _update(now: Any, status: str, before: Mapping[str, Any]) -> str | Ignored:
    was = before.get("status")
    if status in _GIVEN_UP:
        return "ended" if status == "canceled" else Ignored(f"it is {status}; its end is an event of its own")
    if was in _NOT_YET or (was == "trialing" and status == "active"):
        return "trial_started" if status == "trialing" else "started"
    if _ends_on(now) is not None and ("cancel_at" in before or "cancel_at_period_end" in before):
        return "cancellation_noticed"
    changed = _compared(now, before)
    if changed is not None:
        return changed
    if "current_period_end" in before or "cancel_at_period_end" in before or "cancel_at" in before:
        return "renewed"
    return Ignored("nothing changed that is kept")


def _compared(now: Any, before: Mapping[str, Any]) -> str | None:
    """What the items say that they were against what they are."""
    currency = text_of(need(now, "currency"), "currency").upper()
    items = need(now, "items", "data")
    old = at(before, "items", "data")
    if old is None and "quantity" in before and len(items) == 1:
        old = [{**items[0], "quantity": before["quantity"]}]
    if not isinstance(old, list):
        return None
    # The parts of an item that stayed as they were may be left out of what it was.
    by_id = {at(item, "id"): item for item in items if isinstance(item, Mapping)}
    whole = [{**by_id.get(at(item, "id"), {}), **item} for item in old if isinstance(item, Mapping)]
    was, is_ = mrr(whole, currency), mrr(items, currency)
    if was is not None and is_ is not None and was != is_:
        return "expanded" if is_ > was else "contracted"
    periods = [{at(item, "current_period_end") for item in each} for each in (whole, items)]
    return "renewed" if periods[0] != periods[1] or _plan(whole) != _plan(items) else None


def mrr(items: Any, currency: str) -> float | int | None:
    """Per month, in whole units of the currency; None where a price is not fixed (tiers)."""
    total = Decimal(0)
    if not isinstance(items, list):
        raise Unmapped("items.data", "is not a list", "look at the call: its shape has changed")
    for item in items:
        price = at(item, "price") or at(item, "plan")
        recurring = at(price, "recurring") or price
        if at(recurring, "usage_type") == "metered":
            continue
        minor = at(price, "unit_amount_decimal") or at(price, "unit_amount") or at(price, "amount")
        if minor is None and at(price, "unit_amount") != 0 and at(price, "amount") != 0:
            return None
        months = _PER_MONTH.get(at(recurring, "interval") or "")
        if months is None:
            raise Unmapped("items.data.price.recurring.interval", "is missing or unknown", "expected day to year")
        count = _decimal(at(recurring, "interval_count") or 1, "interval_count")
        quantity = _decimal(at(item, "quantity") if at(item, "quantity") is not None else 1, "quantity")
        total += _decimal(minor or 0, "unit_amount") * quantity * months / count
    return _major(total, currency)


def _decimal(value: Any, field: str) -> Decimal:
    try:
        found = Decimal(text_of(value, field))
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or abs(found) > _MOST:
        raise Unmapped(field, "is not a number", "look at the call: its shape has changed")
    return found


def _major(minor: Decimal, currency: str) -> float | int:
    places = 0 if currency in _ZERO_DECIMALS else 3 if currency in _THREE_DECIMALS else 2
    amount = float(round(minor.scaleb(-places), 2))
    return int(amount) if amount.is_integer() else amount


def _seats(items: Any) -> int | None:
    counts = [at(item, "quantity") for item in items if at(item, "quantity") is not None]
    return int(sum(number_of(count, "quantity") for count in counts)) if counts else None


def _plan(items: Any) -> str | None:
    """The name of the first item's price, else its key, else its id."""
    price = at(items, 0, "price") or at(items, 0, "plan")
    named = at(price, "nickname") or at(price, "lookup_key") or at(price, "product", "name") or at(price, "id")
    return line(named, 100)


def _ends_on(now: Any) -> str | None:
    if at(now, "cancel_at") is not None:
        return day(at(now, "cancel_at"), "cancel_at")
    return _period_end(now) if at(now, "cancel_at_period_end") else None


def _period_end(now: Any) -> str | None:
    """Since 2025 the items have periods of their own; the first to end is the next renewal."""
    ends = [at(item, "current_period_end") for item in at(now, "items", "data") or []]
    known = [number_of(end, "current_period_end") for end in (*ends, at(now, "current_period_end")) if end is not None]
    return day(min(known), "current_period_end") if known else None
