"""A genuine call to the items that the intake takes: events checked like any other, or what stands in their way. Pure.

The retry of a dead letter comes here too: its value is the part of the call that could not be taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from consumers.backfill.values import Unfit, as_text
from consumers.bad_events import BadEvent, Problem, unreadable
from consumers.events import Event, bad, check_time, decode
from consumers.formats.canonical import Limits
from consumers.formats.items import UNPLACED, Item
from consumers.webhooks.drafts import Draft, Ignored, Unmapped, found
from consumers.webhooks.file import Hook

_ANYBODY: Final = "?"
"""Stands in for an account that is not known yet, while the event is checked."""
_SHAPE: Final = "expected another shape: compare the call with docs/webhooks.md"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a call, as it came, and what became of it."""

    raw: bytes
    item: Item


def translate(hook: Hook, body: bytes, *, now: datetime, limits: Limits) -> list[Part]:
    """Every part of the call. Never raises for what is in it: what cannot be read is an item with its error."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return [Part(raw=body, item=Item(error=unreadable(error)))]
    try:
        parts = hook.parts(document)
    except Unmapped as error:
        return [Part(raw=body, item=Item(error=_refusal(error)))]
    if len(parts) == 1 and parts[0] is document:
        return [Part(raw=body, item=_item(hook, document, now, limits))]
    # More than one part, or one in a list: each is kept alone.
    return [Part(raw=msgspec.json.encode(part), item=_item(hook, part, now, limits)) for part in parts]


def _item(hook: Hook, part: Any, now: datetime, limits: Limits) -> Item:
    try:
        drafts = hook.drafts(part)
        if isinstance(drafts, Ignored):
            return Item(ignored=drafts.why)
        account, user = _named(hook, part)
        events = []
        for draft in drafts:
            own, who = draft.get("account_id") or account, draft.get("user_id") or user
            if own is None and who is None:
                return _stranger(hook)
            events.append(_event(hook, draft, own, who, now, limits))
    except Unmapped as error:
        return Item(error=_refusal(error))
    except BadEvent as error:
        return Item(error=error)
    except (TypeError, AttributeError, KeyError, ValueError, ArithmeticError) as error:
        # A tool changed what stood as an object into a list, or sends numbers beyond all measure.
        return Item(error=bad("", f"cannot be read ({type(error).__name__})", _SHAPE))
    return Item(event_id=events[0].event_id, events=tuple(events))


def _stranger(hook: Hook) -> Item:
    if hook.ignores_strangers:
        return Item(ignored="it names no account")
    remedy = "say where it is with `account` in webhooks.yaml, or ignore such calls with `without_account: ignore`"
    return Item(error=bad("account_id", "is not in the call", remedy, "missing_field"))


def _named(hook: Hook, part: Any) -> tuple[str | None, str | None]:
    found_ = [None if path is None else found(path, part) for path in (hook.account, hook.user)]
    try:
        account, user = (None if value is None or value == "" else as_text(value) for value in found_)
    except Unfit as unfit:
        raise Unmapped("account_id", unfit.problem, "correct `account` or `user` in webhooks.yaml") from None
    return account, user


def _event(hook: Hook, draft: Draft, account: str | None, user: str | None, now: datetime, limits: Limits) -> Event:
    whole = {**draft, "account_id": account or _ANYBODY, "source": hook.name}
    # A user stands in the event where it is theirs, or where only they tell the account.
    if "user_id" not in draft and account is None:
        whole["user_id"] = user
    event = decode(msgspec.json.encode(whole), limits.event_max_bytes)
    late = check_time(event, now, limits.future_tolerance)
    if late is not None:
        raise late
    return event if account is not None else msgspec.structs.replace(event, account_id=UNPLACED)


def _refusal(error: Unmapped) -> BadEvent:
    problem: Problem = error.problem
    return BadEvent((problem,), "missing_field" if "missing" in problem.problem else "bad_value")
