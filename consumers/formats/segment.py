"""Segment's and RudderStack's calls, from their libraries over HTTP and from their pipelines in Kafka. Pure.

track, identify, group, page, screen and alias, one at a time or as `batch` and `import`. The account is the `groupId`
of a group call; of others `context.groupId`, `groups`, or a property or trait named like an account's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from consumers.events import bad
from consumers.formats import names
from consumers.formats.canonical import Limits
from consumers.formats.items import Item, Translation
from consumers.formats.making import ALIAS, NOT_AN_ACCOUNT, Maker, Origin, Said
from consumers.formats.names import Object
from consumers.sources import Source

CALLS: Final = ("track", "identify", "group", "page", "screen", "alias")
_LETTERS: Final[Mapping[str, str]] = {call[0]: call for call in CALLS}
"""How Segment's library for browsers names them in its paths."""
_TIMES: Final = ("timestamp", "originalTimestamp", "sentAt")


def translate(
    document: object, *, call: str, source: Source, now: datetime, limits: Limits, origin: Origin | None = None
) -> Translation:
    """``call``: the last part of the path (`batch`, `import`, `track`, `t`, …), or empty for a record that says its
    `type` itself. Raises BadEvent when there are no items to read."""
    maker = Maker(source, now, limits, origin)
    whole = names.an_object(document)
    call = _LETTERS.get(call, call)
    batch = document if isinstance(document, list) else whole.get("batch")
    if call in ("batch", "import", "") and batch is not None:
        if not isinstance(batch, list):
            raise bad("batch", "is not a list", "send the calls as `batch`", "malformed")
        items = [_with_context(item, whole.get("context")) for item in batch]
    elif call in ("batch", "import"):
        raise bad("batch", "is missing", "send the calls as `batch`", "missing_field")
    else:
        items = [document]
    one = call if call in CALLS else None
    sent_at = names.instant_or_none(whole.get("sentAt"))
    read = _Reader(maker, one, sent_at)
    return Translation(items=maker.each(items, read.item, _own_id), sent_at=sent_at)


def _own_id(item: Object) -> str | None:
    return names.text_of(item.get("messageId"))


def _with_context(item: object, context: object) -> object:
    """What a batch says of all its calls holds where the call says nothing."""
    if not isinstance(item, dict) or not isinstance(context, dict):
        return item
    return {**item, "context": {**context, **names.an_object(item.get("context"))}}


class _Reader:
    def __init__(self, maker: Maker, call: str | None, sent_at: datetime | None) -> None:
        self._maker = maker
        self._call = call
        self._sent_at = sent_at

    def item(self, item: Object, event_id: str) -> Item:
        call = self._call or item.get("type")
        said = self._said(item, event_id)
        if call == "track":
            return self._track(said)
        if call == "identify":
            traits = self._traits(item)
            return self._maker.user(said, traits, self._maker.company_in(traits))
        if call == "group":
            return self._group(said)
        if call in ("page", "screen"):
            return self._page(said, call)
        if call == "alias":
            return Item(event_id=event_id, ignored=ALIAS)
        raise bad("type", "is no call", f"use one of {', '.join(CALLS)}", "unknown_kind")

    def _said(self, item: Object, event_id: str) -> Said:
        context = names.an_object(item.get("context"))
        properties = names.an_object(item.get("properties"))
        traits, user_traits = names.an_object(item.get("traits")), names.an_object(context.get("traits"))
        at = next((at for key in _TIMES if (at := names.instant(item.get(key), key)) is not None), None)
        account = (
            names.identifier(context.get("groupId"), "context.groupId")
            or self._maker.group_of(item.get("groups"))
            or self._maker.group_of(context.get("groups"))
        )
        return Said(
            item=item,
            event_id=event_id,
            at=at or self._sent_at or self._maker.arrived,
            user_id=names.identifier(item.get("userId"), "userId"),
            account_id=account,
            places=(properties, context, traits, user_traits),
            properties=properties,
        )

    def _track(self, said: Said) -> Item:
        name = names.text_of(said.item.get("event"))
        if name is None:
            raise bad("event", "is missing", "name the event", "missing_field")
        return self._maker.happened(said, name)

    def _group(self, said: Said) -> Item:
        item, traits = said.item, self._traits(said.item)
        said.account_id = names.identifier(item.get("groupId"), "groupId")
        said.places = ()
        group_type = item.get("groupType") or traits.get("groupType") or traits.get("group_type")
        if group_type is not None and not self._maker.is_account(group_type):
            return Item(event_id=said.event_id, ignored=NOT_AN_ACCOUNT)
        return self._maker.account(said, traits)

    def _page(self, said: Said, call: str) -> Item:
        name = names.text_of(said.item.get("name")) or names.text_of(said.properties.get("name"))
        feature = call if name is None else f"{call}: {name}"
        mapped = self._maker.mapped(said, feature)
        return mapped or self._maker.happened(said, call, feature=feature, login=False)

    @staticmethod
    def _traits(item: Object) -> Object:
        """RudderStack puts them into the context."""
        traits: Any = item.get("traits")
        return (
            traits
            if isinstance(traits, dict) and traits
            else names.an_object(names.an_object(item.get("context")).get("traits"))
        )
