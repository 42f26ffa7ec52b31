"""From what a vendor's item says to our events: the part that all vendors share. Pure.

A vendor's module reads its items into ``Said`` and asks the ``Maker`` for what it means; one bad item never fails its
neighbours. An item without an id gets one from its place in a topic, else from its content, so that a retry has the
same (an item that says no time either: from its arrival, too). An item without a time has the time of its arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from consumers.backfill.mapping import own_fields, target_of
from consumers.bad_events import Problem
from consumers.events import BadEvent, Event, bad, check_time, made
from consumers.formats import names
from consumers.formats.canonical import Limits
from consumers.formats.items import UNPLACED, Binding, Item
from consumers.formats.names import EMPTY, Object
from consumers.sources import SAID_BY_THE_CALL, Rule, Source

ANONYMOUS: Final = "anonymous"  # neither an account nor a user
NOT_AN_ACCOUNT: Final = "other group type"
OWN: Final = "vendor's own"  # what a vendor's library says of itself
ALIAS: Final = "alias"
BY_RULE: Final = "by rule"
IGNORED: Final = (ANONYMOUS, NOT_AN_ACCOUNT, OWN, ALIAS, BY_RULE)
"""Why an item may carry nothing that is kept: labels of a metric."""

_SOMEWHERE: Final = "-"
_TIMES: Final = ("timestamp", "originalTimestamp", "time", "sentAt")
_WHO: Final = "give the account's id, or the id of a user whom a group call ties to one"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a record stood: the id and the time of items that have none of their own."""

    id: str
    at: datetime


@dataclass(kw_only=True, slots=True)
class Said:
    """One item, as far as all vendors are alike. ``places``: objects that may hold the account's id as a property."""

    item: Object
    event_id: str
    at: datetime
    user_id: str | None = None
    account_id: str | None = None  # where the vendor has a place of its own for it
    places: Sequence[Object] = field(default_factory=tuple)
    properties: Object = field(default_factory=lambda: EMPTY)


class Maker:
    """Of one request or record."""

    def __init__(self, source: Source, now: datetime, limits: Limits, origin: Origin | None = None) -> None:
        self.source = source
        self._now = now
        self._limits = limits
        self._origin = origin

    @property
    def arrived(self) -> datetime:
        """The time of items that say none."""
        return self._now if self._origin is None else self._origin.at

    def each(
        self, items: Sequence[object], read: Callable[[Object, str], Item], own_id: Callable[[Object], str | None]
    ) -> tuple[Item, ...]:
        """``read(item, its id)`` of every item. Raises BadEvent for too many of them."""
        if len(items) > self._limits.batch_max_events:
            remedy = f"send at most {self._limits.batch_max_events} events per request"
            raise bad("", "the body has too many events", remedy, "too_large")
        return tuple(self._one(item, index, read, own_id) for index, item in enumerate(items))

    def happened(self, said: Said, name: str, *, feature: str | None = None, login: bool = True) -> Item:
        """A named event: by the source's rules, else a login by its name, else the use of the feature of that name."""
        rule = self.source.rule(name)
        if rule is not None:
            return self._by_rule(said, name, rule)
        if login and names.is_login(name):
            return self._item(said, {"kind": "login"})
        return self._item(said, {"kind": "usage", "feature": names.feature(feature or name)})

    def mapped(self, said: Said, name: str) -> Item | None:
        """By the source's rules; None when there is none for the name."""
        rule = self.source.rule(name)
        return None if rule is None else self._by_rule(said, name, rule)

    def as_it_is(self, said: Said, kind: str, fields: Object) -> Item:
        """An event of ours that travelled in another's envelope: the fields of its kind are those of ours."""
        own = {key: fields[key] for key in (*own_fields(kind), "properties", "traits") if key in fields}
        item = self._item(said, {"kind": kind, **own})
        ties = kind in {"identify", "group"}
        return replace(item, binding=self._binding(said, self.account_of(said))) if ties else item

    def user(self, said: Said, traits: Object, company: Object = EMPTY) -> Item:
        """Who a user is; ties the user to the account, if one is named. ``company``: what is said of the account."""
        if said.user_id is None:
            return Item(event_id=said.event_id, ignored=ANONYMOUS)
        account = self.account_of(said)
        events = [self.event(said, {"kind": "identify", "traits": names.user_traits(traits)}, account)]
        described = names.account_traits(company, self.source.traits)
        if account is not None and described:
            fields = {"kind": "group", "traits": described, "event_id": names.derived_id(said.event_id, "group")}
            events.append(self.event(said, fields, account))
        return Item(event_id=said.event_id, events=tuple(events), binding=self._binding(said, account))

    def account(self, said: Said, traits: Object) -> Item:
        """What an account is; ties the user to it, if one is named. Its id may stand elsewhere than in other calls."""
        account = self.account_of(said) or said.account_id
        if account is None:
            raise bad("account_id", "is missing", "name the account that the group stands for", "missing_field")
        fields = {"kind": "group", "traits": names.account_traits(traits, self.source.traits)}
        event = self.event(said, fields, account)
        return Item(event_id=said.event_id, events=(event,), binding=self._binding(said, account))

    def tied(self, said: Said) -> Item:
        """Only that the user belongs to the account. Raises BadEvent."""
        account = self.account_of(said)
        binding = self._binding(said, account)
        if binding is None:
            return Item(event_id=said.event_id, ignored=ANONYMOUS if account else NOT_AN_ACCOUNT)
        self.event(said, {"kind": "identify", "traits": {}}, account)  # a binding is held to what an event is
        return Item(event_id=said.event_id, binding=binding)

    def account_of(self, said: Said) -> str | None:
        """Where the source's own entry says, else the vendor's place, else a property named like an account's id."""
        for path in self.source.account:
            found = names.identifier(path.of(said.item), path.text)
            if found is not None:
                return found
        if self.source.account:
            return None
        return said.account_id or self._among(said.places)

    def group_of(self, groups: object) -> str | None:
        """The account among groups by type; of several of one type, the first."""
        if not isinstance(groups, dict) or not groups:
            return None
        by_type = {names.plain(str(type_)): value for type_, value in reversed(groups.items())}
        for type_ in self.source.group_types:
            value = by_type.get(names.plain(type_), by_type.get(names.plain(type_) + "id"))
            if isinstance(value, list):
                value = value[0] if value else None
            if isinstance(value, dict):
                value = value.get("id")
            found = names.identifier(value, f"groups.{type_}")
            if found is not None:
                return found
        return None

    def is_account(self, group_type: object) -> bool:
        """Whether groups of this type are accounts."""
        wanted = names.plain(str(group_type)).removesuffix("id")
        return any(names.plain(type_).removesuffix("id") == wanted for type_ in self.source.group_types)

    def company_in(self, traits: Object) -> Object:
        """The object that says what the account is, among the traits of a user: `company: {id, name, plan}`."""
        return next((value for type_ in self.source.group_types if isinstance(value := traits.get(type_), dict)), EMPTY)

    def event(self, said: Said, fields: dict[str, Any], account: str | None) -> Event:
        """Checked; without an account it waits for the user's. Raises BadEvent."""
        event = made(
            {
                "event_id": said.event_id,
                "account_id": _SOMEWHERE if account is None else account,
                "timestamp": said.at,
                "user_id": said.user_id,
                "source": self.source.name,
                **fields,
            },
            self._limits.event_max_bytes,
        )
        late = check_time(event, self._now, self._limits.future_tolerance)
        if late is not None:
            raise late
        if account is not None:
            return event
        placed: Event = msgspec.structs.replace(event, account_id=UNPLACED)
        return placed

    def _one(
        self,
        item: object,
        index: int,
        read: Callable[[Object, str], Item],
        own_id: Callable[[Object], str | None],
    ) -> Item:
        event_id: str | None = None
        try:
            if not isinstance(item, dict):
                raise bad("", "is not an object", "send one JSON object per event", "malformed")
            own = own_id(item)
            event_id = self._given_id(item, index) if own is None else names.short_id(own)
            size, longest = len(_encoded(item)), self._limits.event_max_bytes
            if size > longest:
                raise bad("", f"is {size} bytes long", f"send at most {longest} bytes per event", "too_large")
            return read(item, event_id)
        except BadEvent as error:
            return Item(event_id=event_id, error=error)

    def _given_id(self, item: Object, index: int) -> str:
        if self._origin is not None:
            return names.short_id(self._origin.id if index == 0 else f"{self._origin.id}/{index}")
        content = _encoded(item, order="sorted")
        if not any(item.get(name) for name in _TIMES):
            # Of two such items, nobody can say whether the second is a retry: the same thing may have happened again.
            content += f" {index} {self._now.isoformat()}".encode()
        return names.content_id(content)

    def _item(self, said: Said, fields: dict[str, Any]) -> Item:
        account = names.identifier(fields.pop("account_id", None), "account_id") or self.account_of(said)
        user = names.identifier(fields.get("user_id", said.user_id), "user_id")
        if account is None and user is None:
            return Item(event_id=said.event_id, ignored=ANONYMOUS)
        fields["user_id"] = user
        return Item(event_id=said.event_id, events=(self.event(said, fields, account),))

    def _by_rule(self, said: Said, name: str, rule: Rule) -> Item:
        if rule.kind is None:
            return Item(event_id=said.event_id, ignored=BY_RULE)
        fields: dict[str, Any] = {"kind": rule.kind}
        by_name = SAID_BY_THE_CALL.get(rule.kind)
        if by_name is not None:
            fields[by_name] = name if rule.kind == "milestone" else names.feature(name)
        if rule.kind == "custom" and said.properties:
            fields["properties"] = said.properties
        for key, path in rule.paths.items():
            value = path.of(said.item)
            if value is not None:
                fields[key] = self._field(rule.kind, key, value, path.text)
        fields |= rule.constants
        if rule.kind in {"identify", "group"}:
            traits = names.an_object(fields.get("traits", said.properties))
            is_group = rule.kind == "group"
            fields["traits"] = (
                names.account_traits(traits, self.source.traits) if is_group else names.user_traits(traits)
            )
        return self._item(said, fields)

    def _field(self, kind: str, key: str, value: object, path: str) -> Any:
        if key in {"traits", "properties", "account_id", "user_id"}:
            return value
        try:
            return names.fitted(value, target_of(kind, key))
        except BadEvent as error:
            [problem] = error.problems
            raise BadEvent([Problem(f"{key} ({path})", problem.problem, problem.remedy)], error.reason) from None

    def _among(self, places: Iterable[Object]) -> str | None:
        ranks = self.source.id_names
        for place in places:
            for name in sorted(ranks.keys() & place.keys(), key=ranks.__getitem__):
                found = names.identifier(place[name], name)
                if found is not None:
                    return found
            for type_ in self.source.group_types:
                inner = place.get(type_)
                if isinstance(inner, dict):
                    found = names.identifier(inner.get("id"), f"{type_}.id")
                    if found is not None:
                        return found
        return None

    def _binding(self, said: Said, account: str | None) -> Binding | None:
        if account is None or said.user_id is None:
            return None
        key = f"{self.source.name}:{said.event_id}"
        return Binding(user_id=said.user_id, account_id=account, at=said.at, event_id=key)


def _encoded(item: Object, order: Literal["sorted"] | None = None) -> bytes:
    try:
        return msgspec.json.encode(item, order=order)
    except RecursionError:
        raise bad("", "nested too deeply", "flatten the event", "too_deep") from None
