"""Pseudonyms, tombstones, and taking names out of texts: the deciding half of privacy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.applier import Limits, read_records
from consumers.broker import Record
from consumers.dedup import event_hash
from consumers.erasure.facts import hashes_of
from consumers.erasure.scrub import clean, names_match
from consumers.erasure.subjects import Mentions, Subject, addresses_of
from consumers.erasure.tombstones import EVERYWHERE, Tombstones, account_hash, user_hash
from consumers.events import Custom, Event, Group, Identify, Login, Survey, Ticket
from consumers.fold import fold, to_us
from consumers.formats.items import UNPLACED, Binding, Item
from consumers.kinds import ERASED_USER
from consumers.pseudonyms import Pseudonyms

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
BEFORE, AFTER = to_us(NOW) - 1, to_us(NOW)
SALT = b"s" * 32
COMMON: dict[str, Any] = {"event_id": "e1", "account_id": "acme", "timestamp": NOW, "user_id": "u-1"}
NAME = "jo@example.org"


def stones(*, account: str | None = None, user: str | None = None, where: str | None = None) -> Tombstones:
    accounts = {} if account is None else {account_hash(SALT, account): to_us(NOW)}
    scope = EVERYWHERE if where is None else account_hash(SALT, where)
    users = {} if user is None else {scope: {user_hash(SALT, name): to_us(NOW) for name in (user, NAME)}}
    return Tombstones(salt=SALT, accounts=accounts, users=users)


def test_somebody_is_found_in_json_however_deep() -> None:
    """Also where the decoder goes just deeper than we: else one such letter would stand in the way of every erasure."""
    mentions = Mentions(Subject(user_id="canary-user"))
    for depth in range(700, 1001):
        assert mentions(b"[" * depth + b'"canary-user"' + b"]" * depth), depth
        assert not mentions(b"[" * depth + b'"somebody-else"' + b"]" * depth), depth


def test_nobody_erased_is_nothing_to_ask() -> None:
    assert not Tombstones(salt=SALT)
    assert stones(account="acme") and stones(user="u-1")


def test_an_erased_account_is_dropped_until_it_was_erased() -> None:
    erased = stones(account="acme")
    login = Login(**COMMON)
    assert erased.apply(login, BEFORE) is None
    assert erased.apply(login, AFTER) is login
    assert erased.apply(msgspec.structs.replace(login, account_id="other"), BEFORE) is not None


def test_an_erased_user_is_nobody_and_still_counts_for_the_company() -> None:
    erased = stones(user="u-1")
    custom = erased.apply(Custom(name="invited", properties={"whom": "x"}, **COMMON), BEFORE)
    assert isinstance(custom, Custom) and (custom.user_id, custom.properties) == (ERASED_USER, None)
    assert erased.apply(Identify(traits={}, **COMMON), BEFORE) is None
    survey = erased.apply(Survey(survey_id="s", survey="nps", score=3, comment="mine", **COMMON), BEFORE)
    assert isinstance(survey, Survey) and (survey.comment, survey.score) == (None, 3)
    for each in (custom, survey, erased.apply(Login(**COMMON), BEFORE)):
        assert each is not None
        rows = fold([(each, BEFORE)], now=NOW).rows
        assert not rows["user_months"] and not rows["users"]
        assert all(row[5] is None for row in rows["record_events"])
    assert fold([(custom, BEFORE)], now=NOW).rows["accounts"][0][7] == 1, "activity of somebody"
    assert erased.apply(Login(**COMMON), AFTER) == Login(**COMMON)


def test_others_name_an_erased_user() -> None:
    erased = stones(user="u-1")
    group = Group(traits={"champion": "JO@Example.org", "plan": "pro"}, **{**COMMON, "user_id": "u-2"})
    left = erased.apply(group, BEFORE)
    assert isinstance(left, Group) and left.traits == {"champion": ERASED_USER, "plan": "pro"}
    ticket = Ticket(ticket_id="t", status="open", subject=f"From <{NAME}>: help", **{**COMMON, "user_id": None})
    left = erased.apply(ticket, BEFORE)
    assert isinstance(left, Ticket) and left.subject == f"From <{ERASED_USER}>: help"
    assert erased.apply(ticket, AFTER) is ticket


def test_a_user_erased_in_one_account_stays_in_the_others() -> None:
    erased = stones(user="u-1", where="acme")
    login = Login(**COMMON)
    left = erased.apply(login, BEFORE)
    assert left is not None and left.user_id == ERASED_USER
    elsewhere = msgspec.structs.replace(login, account_id="other")
    assert erased.apply(elsewhere, BEFORE) is elsewhere


@pytest.mark.parametrize(
    ("stamp_ms", "applied"),
    [(int(NOW.timestamp() * 1000) - 1, 0), (int(NOW.timestamp() * 1000) + 1, 1), (-1, 0), (2**50, 0)],
)
def test_where_the_arrival_is_not_known_what_happened_before_arrived_before(stamp_ms: int, applied: int) -> None:
    """A producer's clock that is wrong, or none, brings nobody back."""
    value = msgspec.json.encode({**COMMON, "kind": "login", "timestamp": NOW - timedelta(hours=1)})
    record = Record(topic="t", partition=0, offset=0, timestamp_ms=stamp_ms, key=b"acme", value=value, headers=())
    later = NOW + timedelta(minutes=5)
    reading = read_records([record], {}, later, Limits(), erased=stones(account="acme"))
    assert (len(reading.events), reading.erased) == (applied, 1 - applied)


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        (b"acme", b"{", 0),
        (b"other", b'{"account_id": "acme", "kind": 1}', 0),
        (b"other", b'{"who": "jo\\u0040example.org"}', 0),
        (b"other", b'{"half": "u-1', 1),  # too short to be told from other words
        (b"other", b"half jo@example.org", 0),
        (b"other", b"{}", 1),
    ],
)
def test_records_that_cannot_be_read_are_not_kept_when_they_name_the_erased(
    key: bytes, value: bytes, kept: int
) -> None:
    record = Record(topic="t", partition=0, offset=0, timestamp_ms=BEFORE // 1000 - 1, key=key, value=value, headers=())
    erased = Tombstones(salt=SALT, accounts=stones(account="acme").accounts, users=stones(user="u-1").users)
    reading = read_records([record], {}, NOW + timedelta(minutes=5), Limits(), erased=erased)
    assert len(reading.dead_letters) == kept


def test_pseudonyms_are_stable_and_made_once() -> None:
    made, other = Pseudonyms(b"k" * 16), Pseudonyms(b"o" * 16)
    name = made.of("u-1")
    assert name.startswith("u_") and len(name) == 34 and made.of(name) == name and made.is_ours(name)
    assert other.of("u-1") != name and not other.is_ours(name) and other.of(name) != name
    looks = "u_" + "0" * 32
    assert made.of(looks) != looks, "a plain id of the same look is hashed"
    with pytest.raises(ValueError, match="too short"):
        Pseudonyms(b"short")


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_two_ids_have_two_pseudonyms(one: str, other: str) -> None:
    try:
        one.encode(), other.encode()
    except UnicodeEncodeError:
        return
    made = Pseudonyms(b"k" * 16)
    assert (made.of(one) == made.of(other)) == (one == other)


def test_a_user_under_a_pseudonym_has_no_personal_traits() -> None:
    made = Pseudonyms(b"k" * 16)
    traits: dict[str, str | int | float | bool | None] = {
        "First Name": "Jo",
        "e-mail": "x",
        "plan": "pro",
        "note": f"write to {NAME}",
        "seats": 3,
    }
    identify = made.event(Identify(traits=traits, **COMMON))
    assert isinstance(identify, Identify)
    assert (identify.user_id, identify.traits) == (made.of("u-1"), {"plan": "pro", "seats": 3})
    assert made.event(identify) == identify
    nobody: Event = Login(**{**COMMON, "user_id": None})
    assert made.event(nobody) is nobody
    erased = Tombstones(salt=SALT, users={EVERYWHERE: {user_hash(SALT, made.of("u-1")): to_us(NOW)}})
    left = erased.apply(made.event(Login(**COMMON)), BEFORE)
    assert left is not None and left.user_id == ERASED_USER


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("jo@example.org", ERASED_USER),
        ("Dear JO@EXAMPLE.ORG, hello", f"Dear {ERASED_USER}, hello"),
        ("mailto:jo@example.org", f"mailto:{ERASED_USER}"),
        ("nojo@example.org", "nojo@example.org"),
        ("42", ERASED_USER),
        ("42 seats", "42 seats"),
        ("user-4711 left.", f"{ERASED_USER} left."),
        ({"a": [{"jo@example.org": 1}]}, {"a": [{ERASED_USER: 1}]}),
        (42, 42),
        (None, None),
    ],
)
def test_names_go_and_nothing_else(value: Any, cleaned: Any) -> None:
    found = clean(value, names_match(["jo@example.org", "42", "user-4711"]))
    assert found == cleaned
    if value == cleaned:
        assert found is value


def test_mentions_in_bytes_of_any_format() -> None:
    of_account = Mentions(Subject(account_id="42"))
    assert (
        of_account(b'{"account_id": 42}') and of_account(b'{"groupId": "42"}') and of_account(b"<account>42</account>")
    )
    assert not of_account(b'{"amount": 42}') and not of_account(b"4242") and not of_account(None)
    of_user = Mentions(Subject(user_id="u-17", mails=(NAME,)))
    assert of_user(b'["re: Jo\\u0040example.org"]') and of_user(b"\xff jo@example.org \xfe")
    assert not of_user(b'["u-171"]')


def test_addresses_come_from_the_users_own_traits() -> None:
    fields = {"email": {"v": "Jo <JO@example.org>"}, "manager": {"v": "boss@example.org"}, "E-Mail": {"v": None}}
    assert addresses_of(fields) == (NAME,)
    with pytest.raises(ValueError, match="account or a user"):
        Subject()


@pytest.mark.parametrize(("source", "event_id"), [("web", "e1"), ("a:b", "c:d:e"), ("default", "x")])
def test_hashes_are_found_again_from_event_keys(source: str, event_id: str) -> None:
    event = Login(**{**COMMON, "source": source, "event_id": event_id})
    assert event_hash(event) in set(hashes_of("acme", event.key))


def test_the_relay_takes_in_what_is_left() -> None:
    erased = Tombstones(salt=SALT, accounts=stones(account="acme").accounts, users=stones(user="u-1").users)
    binding = Binding(user_id="u-1", account_id="other", at=NOW, event_id="b")
    unplaced = Login(**{**COMMON, "account_id": UNPLACED})
    for item in (Item(binding=binding), Item(events=(unplaced,)), Item(events=(Login(**COMMON),))):
        left = erased.item(item, BEFORE)
        assert (left.events, left.binding, left.ignored) == ((), None, "erased")
        assert erased.item(item, AFTER) == item
    ignored = Item(ignored="a page view")
    assert erased.item(ignored, BEFORE) == ignored
