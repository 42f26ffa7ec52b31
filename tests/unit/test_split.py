"""A request body becomes items, each with its own verdict."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.events import BadEvent, Login
from consumers.formats.canonical import Item, Limits, split

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LIMITS = Limits(batch_max_events=5)


def event(n: int = 1, **changes: Any) -> bytes:
    data = {"kind": "login", "event_id": f"e{n}", "account_id": "acme", "timestamp": "2026-05-01T09:30:00Z"}
    return json.dumps({**data, **changes}).encode()


def verdicts(body: bytes) -> list[str]:
    """The event's id, or the reason it was refused."""
    items: list[Item] = split(body, now=NOW, limits=LIMITS)
    assert [index for index, _, _ in items] == list(range(len(items)))
    return [found.reason if isinstance(found, BadEvent) else found.event_id for _, found, _ in items]


PRETTY = json.dumps(json.loads(event(7)), indent=2).encode()
NESTED = b"""{
  "kind": "custom", "name": "n", "event_id": "e8", "account_id": "a", "timestamp": "2026-05-01T09:30:00Z",
  "properties":
  {"x": "}{][,"}
}"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (event(1), ["e1"]),
        (b"\xef\xbb\xbf \r\n" + event(1) + b"\n\n", ["e1"]),
        (PRETTY, ["e7"]),
        (NESTED, ["e8"]),
        (b"[" + event(1) + b" , " + event(2) + b"]", ["e1", "e2"]),
        (b"[]", []),
        (event(1) + b"\n" + event(2), ["e1", "e2"]),
        (event(1) + b"\r\n\r\n" + event(2) + b"\r\n", ["e1", "e2"]),
        (event(1) + b"\nnope\n" + event(2), ["e1", "malformed", "e2"]),
        (b'{"x": NaN}\n' + event(2), ["malformed", "e2"]),
        (b"[" + event(1) + b', {"x": NaN}, ' + event(2) + b"]", ["e1", "malformed", "e2"]),
        (b"[" + event(1) + b', "]}, {[", ' + event(2) + b", {", ["e1", "malformed", "e2", "malformed"]),
        (b"[1, null, " + event(1) + b"]", ["malformed", "malformed", "e1"]),
        (b"[" + event(1) + b"] trailing", ["e1", "malformed"]),
        (event(1, timestamp="2099-01-01T00:00:00Z"), ["future"]),
        (event(1, kind="logon"), ["unknown_kind"]),
        (b"[" + event(1, x="y" * 40_000) + b"," + event(2) + b"]", ["too_large", "e2"]),
        (b"plain text", ["malformed"]),
        (b"[" * 200_000, ["too_large"]),
        (b'{"a":' * 6_000, ["too_deep"]),
    ],
)
def test_bodies(body: bytes, expected: list[str]) -> None:
    assert verdicts(body) == expected


@pytest.mark.parametrize("body", [b"", b" \n", b"[" + b",".join([event()] * 6) + b"]", b"\n".join([event()] * 6)])
def test_a_body_that_cannot_be_taken_as_a_whole_is_refused(body: bytes) -> None:
    with pytest.raises(BadEvent):
        split(body, now=NOW, limits=LIMITS)


def test_of_a_key_given_twice_the_last_counts() -> None:
    body = event(1)[:-1] + b', "event_id": "again"}'
    ((_, found, length),) = split(body, now=NOW, limits=LIMITS)
    assert isinstance(found, Login)
    assert (found.event_id, length) == ("again", len(body))


@given(st.binary(max_size=60) | st.text('[]{},:"\\ \nnull1e-.\u00e9', max_size=60).map(str.encode))
def test_no_body_breaks_the_splitter(body: bytes) -> None:
    for wrapped in (body, b"[" + body, b"[" + event(1) + b"," + body, event(1) + b"\n" + body):
        with suppress(BadEvent):
            for _, found, _ in split(wrapped, now=NOW, limits=Limits(batch_max_events=100)):
                assert isinstance(found, (BadEvent, Login))
