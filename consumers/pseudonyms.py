"""Pseudonyms: what stands for a user's id when ids are to be hashed at the door (``KIZASHI_HASH_USER_IDS``). Pure.

The intake replaces ids before an event is produced or waits; the consumers replace those of producers that write to
the topic themselves. So that the second does not hash what the first has hashed, a pseudonym proves that it is ours:
its last 32 bits are a keyed checksum of the first 96. A plain id of the same look is hashed like any other, but for one
in four thousand million. The price: 96 bits tell users apart instead of 128, which is ample.

Another secret key gives other pseudonyms: everybody would count as a new user, and erasing one by the plain id would
miss what was stored under the old key.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from msgspec.structs import replace

from consumers.events import Event, Identify

PREFIX: Final = "u_"
ID_DIGITS: Final = 24
CHECK_DIGITS: Final = 8
LENGTH: Final = len(PREFIX) + ID_DIGITS + CHECK_DIGITS
REMEMBERED: Final = 1 << 16

PERSONAL_TRAITS: Final = frozenset({
    "email", "emailaddress", "mail", "name", "firstname", "lastname", "fullname", "givenname", "familyname", "surname",
    "nickname", "displayname", "username", "login", "phone", "phonenumber", "mobile", "mobilephone", "telephone", "fax",
    "address", "street", "city", "postalcode", "zip", "zipcode", "birthday", "birthdate", "dateofbirth", "dob", "age",
    "gender", "sex", "avatar", "avatarurl", "photo", "picture", "image", "ip", "ipaddress", "ssn", "twitter",
    "linkedin", "facebook", "github", "website",
})  # fmt: skip
"""Names of traits that say who somebody is, in lower case and without separators."""

_SEPARATORS: Final = re.compile(r"[^a-z0-9]")
_MAIL: Final = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")


class Pseudonyms:
    """Made of a secret of at least 16 bytes. Keeps the newest plain ids in memory with their pseudonyms, for speed."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("the secret of the pseudonyms is too short: use at least 16 bytes")
        self._key = hmac.digest(secret, b"kizashi user pseudonyms", sha256)
        self.of = lru_cache(maxsize=REMEMBERED)(self._of)
        """The pseudonym of a user's id: `u_` and 32 hex digits. One that was made here stays as it is."""

    def _of(self, user_id: str) -> str:
        if self.is_ours(user_id):
            return user_id
        head = hmac.digest(self._key, b"id:" + user_id.encode(), sha256).hex()[:ID_DIGITS]
        return f"{PREFIX}{head}{self._check(head)}"

    def is_ours(self, user_id: str) -> bool:
        """Whether this was made here, with this secret."""
        if len(user_id) != LENGTH or not user_id.startswith(PREFIX):
            return False
        head, check = user_id[len(PREFIX) : -CHECK_DIGITS], user_id[-CHECK_DIGITS:]
        return hmac.compare_digest(check.encode(), self._check(head).encode())

    def event(self, event: Event) -> Event:
        """The event with its user under a pseudonym, and without traits that say who the user is."""
        if event.user_id is None:
            return event
        user_id = self.of(event.user_id)
        if type(event) is Identify:
            return replace(event, user_id=user_id, traits=impersonal(event.traits))
        return event if user_id == event.user_id else replace(event, user_id=user_id)

    def _check(self, head: str) -> str:
        return hmac.digest(self._key, b"check:" + head.encode(), sha256).hex()[:CHECK_DIGITS]


def impersonal(traits: Mapping[str, Any]) -> dict[str, Any]:
    """The traits that do not say who somebody is, by their name (``PERSONAL_TRAITS``) or as an e-mail address."""
    return {name: value for name, value in traits.items() if not is_personal(name, value)}


def is_personal(name: str, value: object) -> bool:
    return _SEPARATORS.sub("", name.lower()) in PERSONAL_TRAITS or (
        isinstance(value, str) and _MAIL.search(value) is not None
    )
