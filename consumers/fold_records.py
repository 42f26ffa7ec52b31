"""The rarer kinds of ``consumers/fold.py``: a row per ticket, payment, …, attributes, history. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from consumers.events import (
    Contact,
    Custom,
    EventBase,
    Goal,
    Group,
    Identify,
    Milestone,
    Payment,
    Session,
    Subscription,
    Survey,
    Ticket,
    start_instant,
)
from consumers.kinds import ERASED_USER
from consumers.registers import write

if TYPE_CHECKING:
    from consumers.fold import State

HISTORY_ATTRIBUTES: Final = ("plan", "mrr", "currency", "owner", "renewal_on", "segment", "status", "seats")
"""As in ``health/tables.py``."""

RECORD_IDS: Final[Mapping[type[EventBase], str]] = {
    Milestone: "milestone", Goal: "goal_id", Ticket: "ticket_id", Payment: "payment_id", Survey: "survey_id",
    Session: "session_id", Contact: "contact_id", Subscription: "subscription_id",
}  # fmt: skip
_COMMON: Final = frozenset(EventBase.__struct_fields__)
_RECORD_KINDS: Final[tuple[type[EventBase], ...]] = (*RECORD_IDS, Custom)
_OWN_FIELDS: Final[Mapping[type[EventBase], tuple[str, ...]]] = {
    kind: tuple(name for name in kind.__struct_fields__ if name not in _COMMON and name != RECORD_IDS.get(kind))
    for kind in _RECORD_KINDS
}
_STATUS_AFTER: Final[Mapping[str, str]] = {"trial_started": "trial", "not_renewed": "ended", "ended": "ended"}
_SUBSCRIPTION_ATTRIBUTES: Final = ("mrr", "currency", "plan", "seats", "renewal_on")
_URGENT: Final = frozenset({Payment, Ticket, Survey, Subscription})

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


def record(state: State, event: EventBase, arrived: int) -> None:
    """Ticket, payment, survey, milestone, goal, session: its own fields, its status, and when each status was seen."""
    _record(state, event, arrived, _own(event), getattr(event, "status", None))


def contact(state: State, event: Contact, arrived: int) -> None:
    """A record that also moves the account's last contact."""
    record(state, event, arrived)
    account, at = state.accounts[event.account_id], _us(event.timestamp)
    if account.last_contact is None or at > account.last_contact:
        account.last_contact = at


def subscription(state: State, event: Subscription, arrived: int) -> None:
    """A record that also writes the account's attributes, valid from ``effective_on``, else from the event.

    What lies ahead of the event is only announced: it stands in the history, and whoever reads the present values
    (``health/facts.py``) takes it in when its day has come.
    """
    own = _own(event)
    status = _STATUS_AFTER.get(event.change, "active")
    _record(state, event, arrived, {**own, "status": status}, event.change)
    day = event.effective_on
    valid_from = _us(event.timestamp if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC))
    for name in _SUBSCRIPTION_ATTRIBUTES:
        if name in own:
            _attribute(state, event, name, own[name], valid_from, arrived)
    _attribute(state, event, "status", status, valid_from, arrived)
    if event.change in {"trial_started", "started"}:
        _started(state, event.account_id, valid_from)


def custom(state: State, event: Custom, arrived: int) -> None:
    """A line of the timeline, nothing else."""
    _record_event(state, event, event.name, arrived, _own(event))


def identify(state: State, event: Identify, _arrived: int) -> None:
    """Attributes of a user."""
    assert event.user_id is not None
    at_us, key = _us(event.timestamp), event.key
    row = state.users.setdefault((event.account_id, event.user_id), [{}, at_us])
    row[1] = min(row[1], at_us)
    for name, value in event.traits.items():
        write(row[0], name, value, at_us, key)


def group(state: State, event: Group, arrived: int) -> None:
    """Attributes of the account; those of ``HISTORY_ATTRIBUTES`` keep their every value."""
    at_us = _us(event.timestamp)
    for name, value in event.traits.items():
        _attribute(state, event, name, value, at_us, arrived)
    started = event.traits.get("started_at")
    if isinstance(started, str) and (at := start_instant(started)) is not None:
        _started(state, event.account_id, _us(at))


def _own(event: EventBase) -> dict[str, Any]:
    """The fields of its kind that the event has; a field left out says nothing."""
    own = {name: getattr(event, name) for name in _OWN_FIELDS[type(event)]}
    return {name: msgspec.to_builtins(value) for name, value in own.items() if value is not None}


def _record(state: State, event: EventBase, arrived: int, fields: dict[str, Any], seen: str | None) -> None:
    kind, at, key = type(event), event.timestamp, event.key
    record_id: str = getattr(event, RECORD_IDS[kind])
    if kind in _URGENT:
        state.urgent.add(event.account_id)
    at_us = _us(at)
    row = state.records.setdefault((event.account_id, event.kind, record_id), [at_us, at_us, {}])
    row[0] = min(row[0], at_us)
    row[1] = max(row[1], at_us)
    for name, value in fields.items():
        write(row[2], name, value, at_us, key)
    if seen is not None:
        iso = at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        write(row[2], f"{seen}_at", iso, at_us, key)
    _record_event(state, event, record_id, arrived, fields)


def _record_event(state: State, event: EventBase, record_id: str, arrived: int, data: dict[str, Any]) -> None:
    place = (event.account_id, event.kind, record_id, _us(event.timestamp), event.key)
    user_id = None if event.user_id == ERASED_USER else event.user_id
    present = state.record_events.setdefault(place, [user_id, _encode(data).decode(), arrived])
    present[2] = min(present[2], arrived)


def _attribute(state: State, event: EventBase, name: str, value: Any, valid_from: int, arrived: int) -> None:
    registers = state.attributes.setdefault(event.account_id, {})
    if valid_from <= _us(event.timestamp):
        write(registers, name, value, valid_from, event.key)
    if name in HISTORY_ATTRIBUTES:
        present = state.history.setdefault(
            (event.account_id, name, valid_from, event.key), [_encode(value).decode(), arrived]
        )
        present[1] = min(present[1], arrived)


def _started(state: State, account_id: str, at: int) -> None:
    account = state.accounts[account_id]
    if account.started is None or at < account.started:
        account.started = at


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
