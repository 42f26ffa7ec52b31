"""Who was erased, and what of an event may still be applied. Pure; ``read`` is the one look at the database.

An event of an erased account that arrived before the erasure is dropped, wherever it comes from again: redelivered,
replayed from Kafka, or from the archive. One of an erased user loses its user and what says who that is, and still
counts for the company. What arrives after the erasure counts as new.

Ids are kept as keyed hashes (HMAC-SHA256 under a salt of this database): enough to recognise them, and of no use to
whoever has only the table. Whoever has the database too can try ids that they guess.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace_item
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from consumers.erasure.scrub import EDGES, WORD, clean, distinctive, normal
from consumers.erasure.subjects import texts_of
from consumers.events import Contact, Custom, Event, EventBase, Identify, Login, Survey, Ticket, Usage
from consumers.formats.items import UNPLACED, Item
from consumers.kinds import ERASED_USER

EVERYWHERE: Final = b""
"""Scope of a user who was erased in every account."""
REMEMBERED: Final = 200_000

READ: Final = "SELECT kind, scope, subject, (extract(epoch FROM erased_at) * 1000000)::bigint AS at FROM tombstones"
READ_SALT: Final = "SELECT salt FROM tombstone_salt"

PERSONAL_FIELDS: Final[Mapping[type[EventBase], str]] = {
    Ticket: "subject", Survey: "comment", Contact: "note", Custom: "properties",
}  # fmt: skip
"""Words that a user wrote, or that were written of one."""
_COMMON: Final = frozenset(EventBase.__struct_fields__)


def account_hash(salt: bytes, account_id: str) -> bytes:
    return hmac.digest(salt, b"account\0" + account_id.encode(), sha256)


def user_hash(salt: bytes, name: str) -> bytes:
    """Of a user's id, pseudonym or e-mail address."""
    return hmac.digest(salt, b"user\0" + normal(name).encode(), sha256)


@dataclass(slots=True)
class _Place:
    """What was erased of one account: all of it before ``before``; ``users`` by hash."""

    before: int | None
    users: Mapping[bytes, int]
    memo: dict[str, int | None] = field(default_factory=dict)


@dataclass(kw_only=True)
class Tombstones:
    """Times are epoch µs. False when nobody was erased: then there is nothing to ask."""

    salt: bytes
    accounts: Mapping[bytes, int] = field(default_factory=dict)
    users: Mapping[bytes, Mapping[bytes, int]] = field(default_factory=dict)  # by scope
    _places: dict[str, _Place] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.accounts or self.users)

    def apply(self, event: Event, arrived_us: int) -> Event | None:
        """What of an event that arrived then may be applied: all, part or, as None, nothing."""
        place = self._places.get(event.account_id) or self._place(event.account_id)
        if place.before is not None and arrived_us < place.before:
            return None
        if not place.users:
            return event
        erased = self._is_erased(place, event.user_id, arrived_us)
        if erased:
            if type(event) is Identify:
                return None
            event = without_user(event)
        kind = type(event)
        if kind is Login or kind is Usage:
            return event
        return _without_names(event, lambda text: self._is_erased(place, text, arrived_us))

    def item(self, item: Item, arrived_us: int) -> Item:
        """What of a translated item may be taken in: its events as by ``apply``; those of an erased user do not wait
        for an account, and no binding ties that user to one."""
        left = [self.apply(event, arrived_us) for event in item.events]
        events = tuple(e for e in left if e is not None and (e.account_id != UNPLACED or e.user_id != ERASED_USER))
        binding = item.binding
        if binding is not None and (
            (self._before_in(binding.account_id, binding.user_id) or 0) > arrived_us
            or self.accounts.get(account_hash(self.salt, binding.account_id), 0) > arrived_us
        ):
            binding = None
        ignored = "erased" if (item.events or item.binding) and not events and binding is None else item.ignored
        return replace_item(item, events=events, binding=binding, ignored=ignored)

    def _before_in(self, account_id: str, user_id: str) -> int | None:
        return self._place(account_id).users.get(user_hash(self.salt, user_id))

    def named_in(self, raws: Iterable[bytes | None], arrived_us: int) -> bool:
        """Whether a record that could not be read, and so has no account, names somebody who was erased since."""
        for raw in raws:
            for text in _words_of(raw or b""):
                if self._before(text) > arrived_us:
                    return True
        return False

    def _before(self, text: str) -> int:
        """When an account or a user of this name was erased, in whatever account; 0: never."""
        named = user_hash(self.salt, text)
        of_users = (users.get(named, 0) for users in self.users.values())
        return max(self.accounts.get(account_hash(self.salt, text), 0), *of_users, 0)

    def _place(self, account_id: str) -> _Place:
        if len(self._places) >= REMEMBERED:
            self._places.clear()
        hashed = account_hash(self.salt, account_id)
        users = {**self.users.get(EVERYWHERE, {}), **self.users.get(hashed, {})}
        place = self._places[account_id] = _Place(self.accounts.get(hashed), users)
        return place

    def _is_erased(self, place: _Place, name: str | None, arrived_us: int) -> bool:
        if name is None:
            return False
        try:
            before = place.memo[name]
        except KeyError:
            if len(place.memo) >= REMEMBERED:
                place.memo.clear()
            before = place.memo[name] = place.users.get(user_hash(self.salt, name))
        return before is not None and arrived_us < before


def of_rows(salt: bytes, rows: Iterable[Any]) -> Tombstones:
    """From rows of the table with kind, scope, subject and at (epoch µs)."""
    accounts: dict[bytes, int] = {}
    users: dict[bytes, dict[bytes, int]] = {}
    for row in rows:
        if row["kind"] == "account":
            accounts[bytes(row["subject"])] = row["at"]
        else:
            users.setdefault(bytes(row["scope"]), {})[bytes(row["subject"])] = row["at"]
    return Tombstones(salt=salt, accounts=accounts, users=users)


def _words_of(raw: bytes) -> set[str]:
    """The whole (a record's key), the values of JSON, and the distinctive words in either."""
    texts = {raw.decode("utf-8", errors="replace")}
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        texts.update(texts_of(msgspec.json.decode(raw)))
    words = {word.strip(EDGES) for text in texts for word in WORD.findall(text)}
    return texts | {word for word in words if distinctive(word)}


async def read(connection: Any) -> Tombstones:
    """All of them, over a connection of asyncpg."""
    rows = await connection.fetch(READ)
    return of_rows(await connection.fetchval(READ_SALT), rows)


def without_user(event: Event) -> Event:
    """The event done by somebody who is no longer known, without that person's words."""
    personal = PERSONAL_FIELDS.get(type(event))
    changes: dict[str, Any] = {"user_id": ERASED_USER}
    if personal is not None:
        changes[personal] = None
    return replace(event, **changes)


def _without_names(event: Event, is_erased: Any) -> Event:
    """Other events name people, too: a champion among the traits, an address in a subject."""
    changes: dict[str, Any] = {}
    for name in event.__struct_fields__:
        if name in _COMMON:
            continue
        value = getattr(event, name)
        cleaned = clean(value, is_erased)
        if cleaned is not value:
            changes[name] = cleaned
    return replace(event, **changes) if changes else event
