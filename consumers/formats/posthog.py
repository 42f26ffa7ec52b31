"""PostHog's events: from its libraries over HTTP (single, batch, v1) and from its pipeline's topics. Pure.

The account is the group of the account's type in `properties.$groups`, or a property named like an account's id.
`$groupidentify` carries a throwaway distinct id, which is never a user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from consumers.events import bad
from consumers.formats import names
from consumers.formats.canonical import Limits
from consumers.formats.items import Item, Translation
from consumers.formats.making import ALIAS, NOT_AN_ACCOUNT, OWN, Maker, Origin, Said
from consumers.formats.names import EMPTY, Object
from consumers.sources import Source

_FEATURES: Final[Mapping[str, str]] = {"$pageview": "page", "$screen": "screen"}
_CLICKHOUSE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?")
_THROWAWAY: Final = "$groupidentify"


def translate(
    document: object, *, call: str, source: Source, now: datetime, limits: Limits, origin: Origin | None = None
) -> Translation:
    """``call`` makes no difference: one event, a list, or an object with `batch`. Raises BadEvent when there are no
    events to read."""
    del call
    maker = Maker(source, now, limits, origin)
    whole = names.an_object(document)
    items: object = document if isinstance(document, list) else whole.get("batch")
    if items is None and isinstance(document, dict):
        items = [document]
    if not isinstance(items, list):
        raise bad("batch", "is not a list of events", "send one event, or a list of them as `batch`", "malformed")
    sent_at = names.instant_or_none(whole.get("sent_at")) or names.instant_or_none(whole.get("created_at"))
    read = _Reader(maker, sent_at)
    return Translation(items=maker.each([_opened(item) for item in items], read.item, _own_id), sent_at=sent_at)


def _opened(item: object) -> object:
    """Pipelines carry the event, or its properties, as JSON in a text."""
    if not isinstance(item, dict):
        return item
    data = item.get("data")
    if isinstance(data, str) and "event" not in item:
        inner = _decoded(data)
        if isinstance(inner, dict):
            kept = {key: item[key] for key in ("uuid", "distinct_id") if item.get(key)}
            return {**inner, **kept, "now": item.get("now")}
    properties = item.get("properties")
    if isinstance(properties, str):
        return {**item, "properties": _decoded(properties)}
    return item


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None


def _own_id(item: Object) -> str | None:
    return names.text_of(item.get("uuid"))


class _Reader:
    def __init__(self, maker: Maker, sent_at: datetime | None) -> None:
        self._maker = maker
        self._sent_at = sent_at

    def item(self, item: Object, event_id: str) -> Item:
        name = names.text_of(item.get("event"))
        if name is None:
            raise bad("event", "is missing", "name the event", "missing_field")
        properties = item.get("properties")
        if properties is not None and not isinstance(properties, dict):
            raise bad("properties", "is not an object", "send the properties as an object", "malformed")
        said = self._said(item, event_id, properties or EMPTY)
        if name == _THROWAWAY:
            return self._group(said)
        if name in ("$identify", "$set"):
            return self._maker.user(said, _set(said))
        if name in ("$create_alias", "$merge_dangerously"):
            return Item(event_id=event_id, ignored=ALIAS)
        mapped = self._maker.mapped(said, name)
        if mapped is not None:
            return mapped
        if name in _FEATURES:
            return self._page(said, _FEATURES[name])
        if name.startswith("$") and not names.is_login(name):
            return Item(event_id=event_id, ignored=OWN)
        return self._maker.happened(said, name)

    def _said(self, item: Object, event_id: str, properties: Object) -> Said:
        return Said(
            item=item,
            event_id=event_id,
            at=self._at(item, properties),
            user_id=None if _is_anonymous(item, properties) else _distinct_id(item, properties),
            account_id=self._maker.group_of(properties.get("$groups")),
            places=(properties, _set_of(item, properties)),
            properties=properties,
        )

    def _at(self, item: Object, properties: Object) -> datetime:
        given = item.get("timestamp") or properties.get("timestamp")
        if isinstance(given, str) and _CLICKHOUSE.fullmatch(given):
            given = given.replace(" ", "T") + "Z"
        at = names.instant(given, "timestamp")
        if at is not None:
            return at
        sent = self._sent_at or names.instant_or_none(item.get("sent_at")) or names.instant_or_none(item.get("now"))
        return _earlier(sent or self._maker.arrived, item.get("offset"))

    def _group(self, said: Said) -> Item:
        properties = said.properties
        if not self._maker.is_account(properties.get("$group_type")):
            return Item(event_id=said.event_id, ignored=NOT_AN_ACCOUNT)
        said.user_id = None
        said.places = ()
        said.account_id = names.identifier(properties.get("$group_key"), "properties.$group_key")
        return self._maker.account(said, names.an_object(properties.get("$group_set")))

    def _page(self, said: Said, feature: str) -> Item:
        name = names.text_of(said.properties.get("$screen_name")) if feature == "screen" else None
        return self._maker.happened(
            said, feature, feature=feature if name is None else f"{feature}: {name}", login=False
        )


def _distinct_id(item: Object, properties: Object) -> str | None:
    given = item.get("distinct_id")
    return names.identifier(properties.get("distinct_id") if given is None else given, "distinct_id")


def _is_anonymous(item: Object, properties: Object) -> bool:
    """Whether the distinct id stands for a device, or for nobody."""
    if item.get("event") == "$identify":
        return False
    options = names.an_object(item.get("options"))
    personless = False in (properties.get("$process_person_profile"), options.get("process_person_profile"))
    device = properties.get("$device_id")
    return (
        personless
        or properties.get("$is_identified") is False
        or (device is not None and device == (item.get("distinct_id") or properties.get("distinct_id")))
    )


def _set_of(item: Object, properties: Object) -> Object:
    return names.an_object(item.get("$set") or properties.get("$set"))


def _set(said: Said) -> Object:
    """What is set of a person; `$set_once` only where `$set` says nothing; `$unset` takes away."""
    once = names.an_object(said.item.get("$set_once") or said.properties.get("$set_once"))
    unset = said.item.get("$unset") or said.properties.get("$unset")
    gone = [name for name in unset if isinstance(name, str)] if isinstance(unset, list) else []
    return {**once, **_set_of(said.item, said.properties), **dict.fromkeys(gone)}


def _earlier(at: datetime, milliseconds: object) -> datetime:
    """Libraries for browsers may say how long before its sending an event was, in `offset`."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, (int, float)):
        return at
    try:
        return at - timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise bad("offset", "is out of range", "give milliseconds before the sending") from None
