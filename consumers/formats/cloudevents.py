"""CloudEvents 1.0: structured, batched, and binary put together from headers and data. Pure.

The type `kizashi.<kind>` carries one of our events in `data`; any other type is the name of an event, which the
source's rules may map. The id is the event's `source` and `id`, which together are unique.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from consumers.events import KINDS, bad
from consumers.formats import names
from consumers.formats.canonical import Limits
from consumers.formats.items import Item, Translation
from consumers.formats.making import Maker, Origin, Said
from consumers.formats.names import EMPTY, Object
from consumers.sources import Source

OURS: Final = "kizashi."
"""What the type of our own kinds begins with."""
STRUCTURED: Final = "application/cloudevents"
"""What the content type of structured events and batches begins with."""
_REQUIRED: Final = ("id", "source", "type")
_ACCOUNT_EXTENSIONS: Final = ("accountid", "account", "tenantid", "tenant", "organizationid", "workspaceid")
_USER_FIELDS: Final = ("user_id", "userId", "userid")


def translate(
    document: object, *, call: str, source: Source, now: datetime, limits: Limits, origin: Origin | None = None
) -> Translation:
    """``call`` makes no difference: one event, or a list of them."""
    del call
    maker = Maker(source, now, limits, origin)
    events = document if isinstance(document, list) else [document]
    return Translation(items=maker.each(events, lambda item, event_id: _item(maker, item, event_id), _own_id))


def assembled(
    headers: Iterable[tuple[str, str]], body: bytes | None, *, prefix: str, percent: bool
) -> dict[str, Any] | None:
    """The structured form of a binary event, None when no header begins with ``prefix`` (`ce-` over HTTP, whose values
    are percent-encoded; `ce_` in Kafka, where they are not). Raises BadEvent when the data are not JSON."""
    event: dict[str, Any] = {}
    for name, value in headers:
        lower = name.lower()
        if lower.startswith(prefix):
            event[lower.removeprefix(prefix)] = unquote(value.strip().strip('"')) if percent else value
        elif lower == "content-type":
            event.setdefault("datacontenttype", value)
    if not event.keys() - {"datacontenttype"}:
        return None
    if body:
        event["data"] = _json(body)
    return event


def _own_id(item: Object) -> str | None:
    id_, source = names.text_of(item.get("id")), names.text_of(item.get("source"))
    return None if id_ is None or source is None else f"{source}#{id_}"


def _item(maker: Maker, item: Object, event_id: str) -> Item:
    for name in _REQUIRED:
        if names.text_of(item.get(name)) is None:
            raise bad(name, "is missing", f"CloudEvents have an attribute `{name}`, as text", "missing_field")
    version = item.get("specversion")
    if version != "1.0":
        raise bad("specversion", "is not 1.0", "send CloudEvents 1.0")
    data = _data(item)
    said = Said(
        item={**item, "data": data},
        event_id=event_id,
        at=names.instant(item.get("time"), "time")
        or names.instant(data.get("timestamp"), "data.timestamp")
        or maker.arrived,
        user_id=_user_id(item, data),
        account_id=_account_id(item),
        places=(data,),
        properties=data,
    )
    if not maker.source.account and said.account_id is None and maker.account_of(said) is None:
        said.account_id = names.identifier(item.get("subject"), "subject")
    type_: str = item["type"].strip()
    kind = type_.removeprefix(OURS) if type_.startswith(OURS) else None
    mapped = maker.mapped(said, type_)
    if mapped is not None:
        return mapped
    if kind is not None and kind in KINDS:
        return maker.as_it_is(said, kind, data)
    return maker.happened(said, type_)


def _account_id(item: Object) -> str | None:
    for name in _ACCOUNT_EXTENSIONS:
        found = names.identifier(item.get(name), name)
        if found is not None:
            return found
    return None


def _user_id(item: Object, data: Object) -> str | None:
    for place in (item, data):
        for name in _USER_FIELDS:
            found = names.identifier(place.get(name), name)
            if found is not None:
                return found
    return None


def _data(item: Object) -> Object:
    encoded = item.get("data_base64")
    if isinstance(encoded, str):
        try:
            content = _json(base64.b64decode(encoded, validate=True))
        except binascii.Error:
            raise bad("data_base64", "is not base64", "encode the data, or send them as `data`") from None
    else:
        content = item.get("data")
    return content if isinstance(content, Mapping) else EMPTY


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise bad("data", "is nested too deeply", "flatten the data", "too_deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad("data", f"is not JSON: {error}", "send JSON as data", "malformed") from None
