"""Whom an erasure or an export is about, and by what names that one is known. Pure."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

import msgspec

from consumers.erasure.scrub import IsErased, clean, clean_told, names_match, normal

Kind = Literal["account", "user"]
_ADDRESS = re.compile(r"[^\s@<>\"',;]+@[^\s@<>\"',;]+\.[^\s@<>\"',;]+")
_NAMES_SOMEBODY = re.compile(r"(?i)id$|user|account|customer|company|organi[sz]ation|group|team|workspace")
"""Keys whose numbers are ids, not amounts."""
_MAIL_TRAITS = frozenset({"email", "mail", "emailaddress", "username", "login"})


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An account, or a user: in one account, or wherever that id is found."""

    account_id: str | None = None
    user_id: str | None = None
    pseudonym: str | None = None
    mails: tuple[str, ...] = ()  # addresses that the user's own traits give
    accounts: tuple[str, ...] = ()  # where the user was found
    above: tuple[str, ...] = ()  # accounts that were told of the account, as its parents
    title: str | None = None  # the account's name, as they were told it

    def __post_init__(self) -> None:
        if not self.account_id and not self.user_id:
            raise ValueError("name an account or a user")

    @property
    def kind(self) -> Kind:
        return "account" if self.user_id is None else "user"

    @property
    def ids(self) -> tuple[str, ...]:
        """What stands in columns for user ids."""
        return tuple(dict.fromkeys(each for each in (self.user_id, self.pseudonym) if each))

    @property
    def names(self) -> tuple[str, ...]:
        """All texts that name the subject."""
        if self.user_id is None:
            assert self.account_id is not None
            return (self.account_id,)
        return tuple(dict.fromkeys((*self.ids, *self.mails)))

    @property
    def is_named(self) -> IsErased:
        return names_match(self.names)

    def clean(self, value: Any) -> Any:
        """A JSON value without the subject's names; the very same object when there is none."""
        if self.account_id is not None and self.user_id is None:
            return clean_told(value, self.account_id, self.title)
        return clean(value, self.is_named)

    def found(self, accounts: tuple[str, ...], mails: tuple[str, ...]) -> Subject:
        return replace(self, accounts=tuple(sorted({*self.accounts, *accounts})), mails=_joined(self.mails, mails))

    def fingerprint(self, salt: bytes) -> str:
        """Names the subject where it must not stand in plain words: in the audit, and once it is erased."""
        name = "\0".join((self.kind, self.account_id or "", self.user_id or ""))
        return f"{self.kind}:{hmac.digest(salt, name.encode(), sha256).hex()[:32]}"


def _joined(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*map(normal, one), *map(normal, other)}))


def addresses_of(traits: Mapping[str, Any]) -> tuple[str, ...]:
    """The e-mail addresses in a user's registers (``users.fields``), by the names of their traits."""
    found: set[str] = set()
    for name, register in traits.items():
        value = register.get("v") if isinstance(register, Mapping) else register
        if isinstance(value, str) and re.sub(r"[^a-z]", "", name.lower()) in _MAIL_TRAITS:
            found.update(normal(address) for address in _ADDRESS.findall(value))
    return tuple(sorted(found))


class Mentions:
    """Looks for a subject in bytes of any format: as a value of JSON, or as a word."""

    def __init__(self, subject: Subject) -> None:
        self._is_named = subject.is_named
        words = "|".join(re.escape(name) for name in subject.names)
        self._words = re.compile(rf"(?<![\w@.+-])(?:{words})(?![\w@+-]|\.\w)", re.IGNORECASE)

    def __call__(self, raw: bytes | None) -> bool:
        if not raw:
            return False
        try:
            return self.value(msgspec.json.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._words.search(raw.decode("utf-8", errors="replace")) is not None

    def value(self, value: Any) -> bool:
        """In decoded JSON; ids are often sent as numbers."""
        return any(self._is_named(text) or self._in_text(text) for text in texts_of(value))

    def _in_text(self, text: str) -> bool:
        return len(text) > 5 and self._words.search(text) is not None


def texts_of(value: Any, key: str = "") -> Iterator[str]:
    """Every text in a JSON value, keys too, and numbers that are ids."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from texts_of(inner, str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from texts_of(inner, key)
    elif isinstance(value, int) and not isinstance(value, bool) and _NAMES_SOMEBODY.search(key):
        yield str(value)
