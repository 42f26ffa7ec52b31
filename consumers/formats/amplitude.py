"""Amplitude's HTTP API v2 and batch API. Pure.

The account is the group of the account's type: in `groups`, or a property of event or user named like an account's id.
`$identify` says what a user is and, with `groups`, ties it to the account; `$groupidentify` says what an account is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from consumers.events import bad
from consumers.formats import names
from consumers.formats.canonical import Limits
from consumers.formats.items import Item, Translation
from consumers.formats.making import NOT_AN_ACCOUNT, OWN, Maker, Origin, Said
from consumers.formats.names import Object
from consumers.sources import Source

_OWN: Final = frozenset({"session_start", "session_end"})
_OWN_PREFIX: Final = "[Amplitude] "
_PAGES: Final = frozenset({"[Amplitude] Page Viewed", "[Amplitude] Screen Viewed"})
_SETTERS: Final = ("$set", "$setOnce")


def translate(
    document: object, *, call: str, source: Source, now: datetime, limits: Limits, origin: Origin | None = None
) -> Translation:
    """``call`` makes no difference. Raises BadEvent when there are no events to read."""
    del call
    maker = Maker(source, now, limits, origin)
    whole = names.an_object(document)
    events = document if isinstance(document, list) else whole.get("events", whole.get("event"))
    if events is None and "event_type" in whole:
        events = whole  # a record of its own, as pipelines write it
    if isinstance(events, dict):
        events = [events]
    if not isinstance(events, list):
        raise bad("events", "is missing", "send a list of events as `events`", "missing_field")
    sent_at = names.instant_or_none(whole.get("client_upload_time"))
    items = maker.each(events, lambda item, event_id: _item(maker, item, event_id), _own_id)
    return Translation(items=items, sent_at=sent_at)


def _own_id(item: Object) -> str | None:
    return names.text_of(item.get("insert_id")) or names.text_of(item.get("$insert_id"))


def _item(maker: Maker, item: Object, event_id: str) -> Item:
    name = names.text_of(item.get("event_type"))
    if name is None:
        raise bad("event_type", "is missing", "name the event", "missing_field")
    properties = names.an_object(item.get("event_properties"))
    said = Said(
        item=item,
        event_id=event_id,
        at=names.instant(item.get("time"), "time") or maker.arrived,
        user_id=names.identifier(item.get("user_id"), "user_id"),
        account_id=maker.group_of(item.get("groups")),
        places=(properties, _traits(item.get("user_properties"))),
        properties=properties,
    )
    if name == "$identify":
        traits = _traits(item.get("user_properties"))
        if not traits and item.get("groups"):
            return maker.tied(said)
        return maker.user(said, traits)
    if name == "$groupidentify":
        if said.account_id is None and item.get("groups") and not maker.source.account:
            return Item(event_id=event_id, ignored=NOT_AN_ACCOUNT)
        said.user_id = None
        return maker.account(said, _traits(item.get("group_properties")))
    return _event(maker, said, name)


def _event(maker: Maker, said: Said, name: str) -> Item:
    mapped = maker.mapped(said, name)
    if mapped is not None:
        return mapped
    if name in _PAGES:
        return maker.happened(said, name, feature="page" if "Page" in name else "screen", login=False)
    if name in _OWN or name.startswith(_OWN_PREFIX):
        return Item(event_id=said.event_id, ignored=OWN)
    return maker.happened(said, name)


def _traits(operations: object) -> Object:
    """What the operations leave: `$set` wins over `$setOnce`, `$unset` takes away. Without operations, as it stands."""
    given = names.an_object(operations)
    if not any(key.startswith("$") for key in given):
        return given
    traits: dict[str, Any] = {}
    for operation in reversed(_SETTERS):
        traits |= names.an_object(given.get(operation))
    return traits | dict.fromkeys(names.an_object(given.get("$unset")))
