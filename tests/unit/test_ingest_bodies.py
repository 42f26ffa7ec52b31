"""What a body is, told from its content; JSON without a field twice."""

from __future__ import annotations

import base64
import gzip
import json
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.bad_events import BadEvent
from service.ingest import bodies, credentials, strict
from service.ingest.limits import Load
from service.ingest.routes import ROUTES, route_of

EVENT = {"event": "export", "properties": {"name": "レポート", "token": "kz_1"}}
TEXT = json.dumps(EVENT, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "body",
    [
        TEXT,
        b"\xef\xbb\xbf" + TEXT,
        urlencode({"data": TEXT.decode()}).encode(),
        urlencode({"data": base64.b64encode(TEXT).decode(), "compression": "base64"}).encode(),
        b"data=" + base64.b64encode(TEXT),  # unescaped: its plus signs read as blanks
        base64.urlsafe_b64encode(TEXT).rstrip(b"="),
    ],
)
def test_forms_and_base64_are_unwrapped(body: bytes) -> None:
    assert json.loads(bodies.unwrap(body).decode("utf-8-sig")) == EVENT


def test_what_is_packed_within_a_form_is_found() -> None:
    packed = b"data=" + quote(base64.b64encode(gzip.compress(TEXT))).encode()
    held = bodies.Held(Load(requests=1, bytes_=10_000))
    assert bodies.inflate(bodies.unwrap(packed), "", most=10_000, held=held) == TEXT


@pytest.mark.parametrize("names", [("api_key", "event"), ("client", "e")])
def test_old_forms_of_amplitude(names: tuple[str, str]) -> None:
    for events in ({"event_type": "a"}, [{"event_type": "a"}]):
        body = urlencode({names[0]: 'kz_"1', names[1]: json.dumps(events)}).encode()
        assert json.loads(bodies.unwrap(body)) == {"api_key": 'kz_"1', "events": [{"event_type": "a"}]}


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a" :1, "a" :2}',
        b'{"x":[{"y":{"b":1,"c":2,"b":3}}]}',
        b'{"":1,"":2}',
        b'{"a":":","a":"\\u003a"}',
        b'{"a":"\\":","a":1}',
    ],
)
def test_a_field_twice_is_refused(body: bytes) -> None:
    with pytest.raises(BadEvent, match="twice"):
        strict.read(body)
    assert not strict.is_plain(body)


_texts = st.text(alphabet=st.sampled_from('ab:" \\\u00e9\n,{}'), max_size=6)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)


@given(_json, st.booleans(), st.sampled_from([None, (",", ":"), (" , ", " : ")]))
def test_what_has_no_field_twice_is_read_as_it_is(
    value: object, ascii_: bool, separators: tuple[str, str] | None
) -> None:
    assert strict.read(json.dumps(value, ensure_ascii=ascii_, separators=separators).encode()) == value


@given(st.lists(st.tuples(_texts, _json), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_a_field_twice_is_found_wherever_it_is(fields: list[tuple[str, object]], ascii_: bool, blank: bool) -> None:
    pairs = [*fields, fields[0]]
    colon = " :" if blank else ":"
    members = [
        json.dumps(name, ensure_ascii=ascii_) + colon + json.dumps(value, ensure_ascii=ascii_) for name, value in pairs
    ]
    with pytest.raises(BadEvent, match="twice"):
        strict.read(f'[1,{{"outer":{{{",".join(members)}}}}}]'.encode())


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Bearer kz_1", "kz_1"),
        (b"bearer  kz_1 ", "kz_1"),
        (b"Basic " + base64.b64encode(b"kz_1:"), "kz_1"),
        (b"Basic " + base64.b64encode(b"kz_1"), "kz_1"),
        (b"Basic rubbish", None),
        (b"Basic " + base64.b64encode(b"\xff:"), None),
        (b"Bearer phc_of_somebody_else", None),
        (b"Digest kz_1", None),
        (b"", None),
    ],
)
def test_keys_in_the_head(header: bytes, found: str | None) -> None:
    assert credentials.in_header(header) == found


@pytest.mark.parametrize(
    "document",
    [
        {"writeKey": "kz_1"},
        {"api_key": "kz_1", "batch": []},
        {"api_key": "phc_other", "token": "kz_1"},
        {"batch": [{"writeKey": "kz_1"}]},
        {"batch": [{"properties": {"token": "kz_1"}}]},
        {"properties": {"token": "kz_1"}},
        [{"event": "a", "properties": {"token": "kz_1"}}],
    ],
)
def test_keys_in_the_body(document: object) -> None:
    assert credentials.in_document(document) == "kz_1"


@pytest.mark.parametrize("document", [None, [], {}, "kz_1", {"writeKey": 1}, {"batch": "x"}, [[{"api_key": "kz_1"}]]])
def test_no_key_in_the_body(document: object) -> None:
    assert credentials.in_document(document) is None


def test_addresses_answer_with_a_slash_and_without() -> None:
    assert len(ROUTES) > 40
    for path, route in ROUTES.items():
        assert route_of(path) is route
        assert (route_of(path + "/") is route) == path.startswith("/ingest/")
    assert route_of("/ingest/segment/v1/batch/x") is None
    assert route_of("/ingest") is None
