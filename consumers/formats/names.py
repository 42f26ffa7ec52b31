"""What vendors' names and values mean here: ids, instants, sign-ins, attributes of accounts, traits. Pure.

Numbers may come as text and ids as numbers; what is absent, null or empty is None. Nothing here raises anything but
BadEvent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

import msgspec

from consumers.backfill.values import Unfit, as_day, as_number, as_text
from consumers.events import AccountTraits, BadEvent, bad, start_instant
from consumers.kinds import MAX_NUMBER

Object = Mapping[str, Any]
EMPTY: Final[Object] = {}
LONGEST_ID: Final = 200
DEEPEST_TRAIT: Final = 4
LONGEST_TRAIT: Final = 2000
LONGEST_NAME: Final = 100
MOST_TRAITS: Final = 100

_SEPARATORS: Final = re.compile(r"[\W_]+")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIGITS: Final = re.compile(r"\d{9,16}(\.\d+)?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_FROM: Final = 10**11
"""Numbers from here on are milliseconds: as seconds they would lie beyond the year 5000."""

LOGIN_NAMES: Final = frozenset({
    "login", "loggedin", "signin", "signedin", "userlogin", "userloggedin", "usersignin", "usersignedin",
    "loginsuccess", "loginsucceeded", "loginsuccessful", "successfullogin", "logincompleted", "signincompleted",
    "accountlogin", "accountloggedin", "authenticated", "userauthenticated", "sessionlogin", "ログイン",
})  # fmt: skip
"""Names of events that say that somebody signed in, in lower case and without separators."""

ATTRIBUTES: Final[Mapping[str, str]] = {
    "name": "name", "companyname": "name", "accountname": "name", "organizationname": "name",
    "plan": "plan", "planname": "plan", "subscriptionplan": "plan",
    "mrr": "mrr", "monthlyspend": "mrr", "monthlyrecurringrevenue": "mrr",
    "currency": "currency", "currencycode": "currency",
    "owner": "owner", "ownerid": "owner", "accountowner": "owner", "accountmanager": "owner", "csm": "owner",
    "csmemail": "csm_email",
    "renewalon": "renewal_on", "renewaldate": "renewal_on", "renewson": "renewal_on", "renewsat": "renewal_on",
    "segment": "segment", "customersegment": "segment",
    "status": "status", "accountstatus": "status",
    "seats": "seats", "seatcount": "seats", "licenses": "seats", "licences": "seats", "licensedseats": "seats",
    "startedat": "started_at", "createdat": "started_at", "created": "started_at", "startdate": "started_at",
    "customersince": "started_at",
    "timezone": "timezone", "tz": "timezone",
    "country": "country", "countrycode": "country", "addresscountry": "country",
    "touchmodel": "touch_model",
    "parentaccountid": "parent_account_id", "parentid": "parent_account_id",
}  # fmt: skip
"""A vendor's trait, in lower case and without separators: the attribute it is here. `employees` is none of them: people
of a company are not seats."""
_OURS: Final = frozenset(ATTRIBUTES.values())


@lru_cache(4096)
def plain(name: str) -> str:
    """In lower case and without separators."""
    return _SEPARATORS.sub("", name.lower())


def is_login(name: str) -> bool:
    return plain(name.removeprefix("$")) in LOGIN_NAMES


def an_object(value: object) -> Object:
    """Itself when it is an object, else an empty one."""
    return value if isinstance(value, dict) else EMPTY


def identifier(value: object, field: str) -> str | None:
    """An id as text. Raises BadEvent for what cannot be one."""
    if isinstance(value, str):
        return value.strip() or None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad(field, "is neither text nor a number", f"give `{field}` as text")
    return as_text(value)


def text_of(value: object) -> str | None:
    """Text that says something, else None."""
    return value.strip() or None if isinstance(value, str) else None


def short_id(text: str) -> str:
    """An event id as ours may be: one that is too long is replaced by its hash."""
    return text if len(text) <= LONGEST_ID else "h_" + _digest(text.encode("utf-8", "surrogatepass"))


def feature(name: str) -> str:
    """A vendor's name of an event as ours may be: without control characters, and cut where it is too long."""
    return _tidy(name, LONGEST_NAME)


def _tidy(text: str, longest: int) -> str:
    if _CONTROLS.search(text):
        text = " ".join(_CONTROLS.sub(" ", text).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def content_id(item: bytes) -> str:
    """The id of an item that has none: the hash of its content, so that a retry has the same one."""
    return "c_" + _digest(item)


def derived_id(event_id: str, part: str) -> str:
    """The id of a further event out of the same item."""
    return short_id(f"{event_id}:{part}")


def instant(value: object, field: str) -> datetime | None:
    """A time as text (ISO 8601; without an offset it is UTC), or as seconds or milliseconds since 1970."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str) and not _DIGITS.fullmatch(value.strip()):
            return _utc(value.strip())
        number = as_number(value)
        seconds = number / 1000 if abs(number) >= _MILLISECONDS_FROM else number
        return _EPOCH + timedelta(seconds=seconds)
    except (Unfit, OverflowError, ValueError):
        raise bad(field, "is not a time", "give ISO 8601, such as 2026-05-01T09:30:00Z") from None


def instant_or_none(value: object) -> datetime | None:
    """For what only measures a clock: None when it says nothing that can be read."""
    try:
        return instant(value, "")
    except BadEvent:
        return None


def _utc(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def account_traits(traits: Object, ours: Mapping[str, str]) -> dict[str, Any]:
    """The traits of an account under our names. ``ours``: names agreed with the source, by the vendor's.

    A value that does not fit the attribute its name stands for (a status of the vendor's own) is kept as `sent_<name>`.
    """
    found: dict[str, Any] = {}
    for name, value in flat(traits):
        attribute = ours.get(name) or ATTRIBUTES.get(plain(name))
        if attribute is None:
            found[name] = value
            continue
        exact = name in (attribute, *(theirs for theirs, our in ours.items() if our == attribute))
        if attribute in found and not exact:
            found[name] = value  # another name for what was said already
            continue
        fitting = value if value is None else _fitting(attribute, value)
        if fitting is None and value is not None:
            found[f"sent_{attribute}"] = value
        else:
            found[attribute] = fitting
    if len(found) > MOST_TRAITS:
        found = dict(sorted(found.items(), key=lambda item: item[0] not in _OURS))  # else in their order
    return dict(islice(found.items(), MOST_TRAITS))


def user_traits(traits: Object) -> dict[str, Any]:
    """The traits of a user: scalars, objects laid flat."""
    return dict(islice(dict(flat(traits)).items(), MOST_TRAITS))


def flat(traits: Object, prefix: str = "", depth: int = DEEPEST_TRAIT) -> Iterator[tuple[str, Any]]:
    """Scalars under their names; within objects `address.city`; lists, and what lies deeper, as JSON. What ours may not
    be is made so that it may: one line of a user's biography must not cost the whole call, and the binding with it."""
    for name, value in traits.items():
        if isinstance(value, dict) and depth > 1:
            yield from flat(value, f"{prefix}{name}.", depth - 1)
        elif key := feature(f"{prefix}{name}"):
            yield key, _scalar(value, key)


def _scalar(value: object, name: str) -> object:
    if isinstance(value, (dict, list)):
        return _tidy(_json(value, name), LONGEST_TRAIT)
    if isinstance(value, (int, float)) and abs(value) > MAX_NUMBER:
        return str(value)
    return _tidy(value, LONGEST_TRAIT) if isinstance(value, str) else value


def _json(value: object, name: str) -> str:
    try:
        return msgspec.json.encode(value, order="sorted").decode()
    except RecursionError:
        raise bad(f"traits.{name}", "is nested too deeply", "flatten the trait", "too_deep") from None


def _fitting(attribute: str, value: object) -> Any:
    """The value as that attribute takes it, None when it cannot be one."""
    try:
        made: Any = _CONVERSIONS.get(attribute, as_text)(value)
        msgspec.convert({attribute: made}, AccountTraits)
    except (Unfit, msgspec.ValidationError, ValueError, OverflowError):
        return None
    if attribute == "currency" and not (made.isascii() and made.isalpha()):
        return None
    return made


def _seats(value: object) -> int:
    number = as_number(value)
    if int(number) != number:
        raise Unfit("is not whole", "count whole seats")
    return int(number)


def _day(value: object) -> str:
    at = instant(value, "day") if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    day = as_day(value) if at is None else at.date()
    if day.year < 1900:
        raise Unfit("lies before 1900", "give a later day")
    return day.isoformat()


def _start(value: object) -> str:
    if isinstance(value, str) and start_instant(value.strip()) is not None:
        return value.strip()
    at = instant(value, "started_at")
    text = "" if at is None else at.isoformat()
    if start_instant(text) is None:
        raise Unfit("is not a time", "give a time or a date")
    return text


_CONVERSIONS: Final[Mapping[str, Any]] = {
    "mrr": as_number,
    "seats": _seats,
    "currency": lambda value: as_text(value).strip().upper(),
    "status": lambda value: as_text(value).strip().lower(),
    "renewal_on": _day,
    "started_at": _start,
}


def fitted(value: object, target: str) -> Any:
    """A value for a field of an event, by what the field is made of: text, number, date or anything."""
    try:
        if target == "text":
            return as_text(value)
        if target == "number":
            return as_number(value)
        if target == "date":
            return _day(value)
    except Unfit as unfit:
        raise bad("", unfit.problem, unfit.remedy) from None
    return value


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
