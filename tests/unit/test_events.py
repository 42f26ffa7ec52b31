"""What an event may look like, and what its producer is told when it does not."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.events import (
    MAX_EVENT_BYTES,
    BadEvent,
    Event,
    Login,
    Usage,
    check_time,
    decode,
    encode,
    json_schema,
    thousandths,
)
from tests.event_strategies import events

GOOD: dict[str, Any] = {
    "kind": "login", "event_id": "e1", "account_id": "acme", "timestamp": "2026-05-01T09:30:00+09:00",
}  # fmt: skip
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def problems(**changes: Any) -> dict[str, str]:
    """Field -> problem of GOOD with changes; ``...`` leaves the field out."""
    data = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    with pytest.raises(BadEvent) as caught:
        decode(json.dumps(data).encode())
    assert all(problem.problem and problem.remedy for problem in caught.value.problems)
    return {problem.field: problem.problem for problem in caught.value.problems}


def reason(raw: bytes) -> str:
    with pytest.raises(BadEvent) as caught:
        decode(raw)
    assert caught.value.problems[0].problem
    return caught.value.reason


def test_a_good_event_is_decoded_and_unknown_fields_are_ignored() -> None:
    event = decode(json.dumps({**GOOD, "properties": {"any": [1]}, "whatever": None}).encode())
    assert event == Login(event_id="e1", account_id="acme", timestamp=datetime(2026, 5, 1, 0, 30, tzinfo=UTC))
    assert (event.kind, event.key) == ("login", "default:e1")


@given(event=events)
def test_encoding_and_decoding_gives_the_same_event(event: Event) -> None:
    assert decode(encode(event)) == event


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"event_id": ...}, "event_id", "is missing"),
        ({"event_id": ""}, "event_id", "shorter than 1"),
        ({"event_id": 7}, "event_id", "expected text, got a whole number"),
        ({"event_id": "x" * 201}, "event_id", "longer than 200"),
        ({"account_id": "a\0b"}, "account_id", "U+0000"),
        ({"account_id": "a\nb"}, "account_id", "U+000A"),
        ({"account_id": "."}, "account_id", "another place"),
        ({"account_id": "..", "kind": "custom", "name": "x"}, "account_id", "another place"),
        ({"user_id": "\x9f"}, "user_id", "U+009F"),
        ({"timestamp": "2026-05-01T09:30:00"}, "timestamp", "no offset"),
        ({"timestamp": "2026-05-01"}, "timestamp", "not an RFC 3339 time"),
        ({"timestamp": 1714555800}, "timestamp", "expected"),
        ({"timestamp": "1969-12-31T00:00:00Z"}, "timestamp", "1969"),
        ({"timestamp": "9999-12-31T23:59:59-01:00"}, "timestamp", "9999"),
        ({"source": "web app"}, "source", "characters"),
        ({"import_id": "i"}, "import_row", "is missing"),
        ({"import_row": 3}, "import_id", "is missing"),
        ({"import_id": "i", "import_row": -1}, "import_row", "less than 0"),
        ({"import_id": "i", "import_row": 2**63}, "import_row", "greater than"),
        ({"kind": "usage"}, "feature", "is missing"),
        ({"kind": "usage", "feature": "f", "quantity": -1}, "quantity", "less than 0"),
        ({"kind": "usage", "feature": "f", "quantity": 1.0005}, "quantity", "3 decimals"),
        ({"kind": "usage", "feature": "f", "quantity": 1_000_000_001}, "quantity", "greater than 1000000000"),
        ({"kind": "usage", "feature": "f", "quantity": 10**30}, "quantity", "greater than"),
        ({"kind": "usage", "feature": "f\x07"}, "feature", "U+0007"),
        ({"kind": "identify", "traits": {}}, "user_id", "is missing"),
        ({"kind": "group", "traits": {"address": {"city": "x"}}}, "traits[…]", "expected"),
        ({"kind": "group", "traits": {"mrr": "a lot"}}, "traits.mrr", "expected a number or null, got text"),
        ({"kind": "group", "traits": {"mrr": -1}}, "traits.mrr", "less than 0"),
        ({"kind": "group", "traits": {"currency": "usd"}}, "traits.currency", "currency code"),
        ({"kind": "group", "traits": {"status": "activ"}}, "traits.status", "unknown value"),
        ({"kind": "group", "traits": {"renewal_on": "soon"}}, "traits.renewal_on", "not a date"),
        ({"kind": "group", "traits": {"started_at": "2026-05-01T09:30:00"}}, "traits.started_at", "neither"),
        ({"kind": "group", "traits": {"note": "a\0"}}, "traits.note", "U+0000"),
        ({"kind": "ticket", "ticket_id": "t", "status": "opened"}, "status", "unknown value 'opened'"),
        ({"kind": "survey", "survey_id": "s", "survey": "nps", "score": "9"}, "score", "expected a number, got text"),
        ({"kind": "payment", "payment_id": "p", "status": "paid", "amount": 1e13}, "amount", "greater than"),
        ({"kind": "milestone", "milestone": "m", "due_on": "2026-02-30"}, "due_on", "not a date"),
        ({"kind": "custom", "name": "n", "properties": {"a": {"b": "\0"}}}, "properties.a.b", "U+0000"),
        ({"kind": "custom", "name": "n", "properties": {"a": 1e200}}, "properties.a", "out of range"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_field(changes: dict[str, Any], field: str, problem: str) -> None:
    found = problems(**changes)
    assert problem in found[field]


def test_every_fault_is_named_at_once() -> None:
    assert problems(event_id=..., account_id=5, timestamp="x").keys() == {"event_id", "account_id", "timestamp"}


def test_an_unknown_kind_is_told_the_nearest() -> None:
    with pytest.raises(BadEvent) as caught:
        decode(json.dumps({**GOOD, "kind": "tickets"}).encode())
    assert "did you mean 'ticket'?" in caught.value.problems[0].remedy
    assert caught.value.reason == "unknown_kind"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "malformed"),
        (b"null", "malformed"),
        (b"[]", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b'{"kind":"login","event_id":"\xff"}', "malformed"),
        (b'{"kind":"login","event_id":"\\ud800"}', "malformed"),
        (b'{"kind":"usage","quantity":NaN}', "malformed"),
        (b'{"kind":"login"', "malformed"),
        (b'{"kind":"login"} {"kind":"login"}', "malformed"),
        (b'{"kind":[1]}', "unknown_kind"),
        (b"{}", "missing_field"),
        (b'{"kind":"login","x":' + b"[" * 30_000, "too_deep"),
        (b'{"kind":"custom","properties":' + b'{"a":' * 5_000, "too_deep"),
        (b'{"kind":"login","x":"' + b"a" * MAX_EVENT_BYTES + b'"}', "too_large"),
    ],
)
def test_what_is_not_an_event_at_all_is_told_apart(raw: bytes, expected: str) -> None:
    assert reason(raw) == expected


def test_a_hostile_value_is_shown_short_and_plain() -> None:
    with pytest.raises(BadEvent) as caught:
        decode(json.dumps({**GOOD, "kind": "\x1b[31m" + "x" * 10_000}).encode())
    text = str(caught.value)
    assert len(text) < 500
    assert "\x1b" not in text


def test_numbers_beyond_64_bits_in_properties_are_refused() -> None:
    raw = json.dumps({**GOOD, "kind": "custom", "name": "n", "properties": {"a": 10**40}}).encode()
    assert reason(raw) == "bad_value"
    many = raw.replace(b"1" + b"0" * 40, b"9" * 5_000)
    assert reason(many) in {"bad_value", "malformed"}


def test_the_future_is_refused_only_by_check_time() -> None:
    event = decode(json.dumps({**GOOD, "timestamp": "2026-06-01T00:05:00.000001Z"}).encode())
    refused = check_time(event, NOW, timedelta(minutes=5))
    assert refused is not None
    assert refused.reason == "future"
    assert check_time(event, NOW + timedelta(microseconds=1), timedelta(minutes=5)) is None


@given(st.integers(0, 10**12))
def test_quantities_of_three_decimals_are_kept_exactly(whole: int) -> None:
    raw = (
        json.dumps({**GOOD, "kind": "usage", "feature": "f"})[:-1]
        + f', "quantity": {whole // 1000}.{whole % 1000:03d}}}'
    )
    event = decode(raw.encode())
    assert isinstance(event, Usage)
    assert thousandths(event.quantity) == whole


# The schema


def test_the_committed_schema_is_the_one_the_decoder_has(root: Path) -> None:
    committed = json.loads((root / "docs" / "events.schema.json").read_text())
    assert committed == json.loads(msgspec.json.encode(json_schema())), "run: python -m consumers.schema"


def _instant(text: object) -> bool:
    if isinstance(text, str):
        datetime.fromisoformat(text.upper().replace(" ", "T"))
    return True


def _validator() -> jsonschema.Draft202012Validator:
    checker = jsonschema.FormatChecker(formats=["date"])
    checker.checks("date-time", raises=ValueError)(_instant)
    # Decimals, because in binary no multiple of 0.001 is one.
    schema = json.loads(msgspec.json.encode(json_schema()), parse_float=Decimal)
    jsonschema.Draft202012Validator.check_schema(json.loads(msgspec.json.encode(json_schema())))
    return jsonschema.Draft202012Validator(schema, format_checker=checker)


VALIDATOR = _validator()
junk = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(-1e15, 1e15).map(lambda x: float(f"{x:.12g}")),
    st.text(st.characters(codec="utf-8"), max_size=8), st.just("x" * 300), st.lists(st.integers(), max_size=1),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), st.integers() | st.just([0]), max_size=2),
    st.sampled_from(("2026-05-01", "2026-02-30", "1850-01-01", "2026-05-01T09:30:00Z", "2026-05-01t09:30:00.5-0330",
                     "2026-05-01T24:00:00Z", "2300-01-01T00:00:00Z", "2026-05-01T09:30:00Z\n", "USD", "usd", "open",
                     ".", "..", "...")),
)  # fmt: skip


@settings(max_examples=400)
@given(event=events, name=st.integers(0, 40), value=junk | st.just(...), inside=st.booleans())
def test_schema_and_decoder_agree(event: Event, name: int, value: Any, inside: bool) -> None:
    data = json.loads(encode(event))
    fields = [field for field in type(event).__struct_fields__ if field != "received_at"]
    target, names = data, fields
    if inside and "traits" in data:
        target = data["traits"]
        names = ["mrr", "status", "seats", "started_at", "renewal_on", "currency", "name", "other", "timezone"]
    chosen = names[name % len(names)]
    target.pop(chosen, None)
    if value is not ...:
        target[chosen] = value
    raw = json.dumps(data)
    try:
        decode(raw.encode())
        problem = None
    except BadEvent as error:
        problem = error
    faults = [fault.message for fault in VALIDATOR.iter_errors(json.loads(raw, parse_float=Decimal))]
    assert (problem is None) == (not faults), f"{raw}\ndecoder: {problem}\nschema: {faults}"
