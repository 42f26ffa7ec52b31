"""What vendors' items become: each call, each place of an account, each oddity. Nothing escapes but BadEvent."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cloudevents.v1.conversion import to_binary as http_binary
from cloudevents.v1.http import CloudEvent
from cloudevents.v1.kafka import to_binary as kafka_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.events import BadEvent, Event, Group, Identify, Login, Usage, decode, encode
from consumers.formats.canonical import Limits
from consumers.formats.cloudevents import assembled
from consumers.formats.items import UNPLACED, Item, Translation
from consumers.formats.making import IGNORED, Origin
from consumers.formats.paths import Path
from consumers.formats.sniff import sniff
from consumers.formats.vendors import TRANSLATE
from consumers.sources import Source, Sources
from tests.event_strategies import events as our_events

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
AT = datetime(2026, 5, 1, 9, tzinfo=UTC)
T = "2026-05-01T09:00:00.000Z"
WEB = Sources().of("web")


def translate(vendor: str, document: object, call: str = "", source: Source = WEB, **more: Any) -> Translation:
    return TRANSLATE[vendor](document, call=call, source=source, now=NOW, limits=Limits(), **more)


def one(vendor: str, document: object, call: str = "", source: Source = WEB) -> Item:
    [item] = translate(vendor, document, call, source).items
    return item


def event(vendor: str, document: object, call: str = "", source: Source = WEB) -> Event:
    item = one(vendor, document, call, source)
    assert item.error is None, item.error
    [found] = item.events
    return found


def segment(type_: str = "track", **fields: Any) -> dict[str, Any]:
    return {"type": type_, "messageId": "m1", "userId": "u1", "timestamp": T, "context": {"groupId": "acme"}, **fields}


def posthog(name: str = "exported", **fields: Any) -> dict[str, Any]:
    properties = {"$groups": {"company": "acme"}}
    return {"event": name, "distinct_id": "u1", "uuid": "q1", "timestamp": T, "properties": properties, **fields}


def amplitude(name: str = "exported", **fields: Any) -> dict[str, Any]:
    return {
        "event_type": name, "user_id": "u1", "insert_id": "i1", "time": 1777626000000, "groups": {"account": "acme"},
        **fields,
    }  # fmt: skip


def cloud(type_: str = "kizashi.login", **fields: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": "1", "source": "/app", "type": type_, "time": T, "subject": "acme",
        "data": {"user_id": "u1"}, **fields,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["Signed In", "User Logged In", "login", "$login", "user_signed_in", "LOGIN SUCCESS"])
@pytest.mark.parametrize(
    ("vendor", "document", "event_id"),
    [
        ("segment", lambda name: segment(event=name), "m1"),
        ("rudderstack", lambda name: segment(event=name), "m1"),
        ("posthog", posthog, "q1"),
        ("amplitude", lambda name: {"events": [amplitude(name)]}, "i1"),
        ("cloudevents", cloud, "/app#1"),
    ],
    ids=["segment", "rudderstack", "posthog", "amplitude", "cloudevents"],
)
def test_sign_ins_are_logins(vendor: str, document: Any, event_id: str, name: str) -> None:
    assert event(vendor, document(name)) == Login(
        event_id=event_id, account_id="acme", user_id="u1", timestamp=AT, source="web"
    )


@pytest.mark.parametrize(
    ("vendor", "document", "feature"),
    [
        ("segment", segment(event="Report Exported"), "Report Exported"),
        ("segment", segment("page", name="Pricing"), "page: Pricing"),
        ("segment", segment("page", properties={"url": "https://x/y?z"}), "page"),
        ("segment", segment("screen", name="Home"), "screen: Home"),
        ("segment", segment("page", name="login"), "page: login"),
        ("posthog", posthog("exported"), "exported"),
        ("posthog", posthog("$pageview"), "page"),
        (
            "posthog",
            posthog("$screen", properties={"$screen_name": "Home", "$groups": {"org": "acme"}}),
            "screen: Home",
        ),
        ("amplitude", {"events": amplitude("exported")}, "exported"),
        ("amplitude", {"events": [amplitude("[Amplitude] Page Viewed")]}, "page"),
        ("cloudevents", cloud("com.example.exported"), "com.example.exported"),
    ],
)
def test_what_else_has_a_name_is_the_use_of_a_feature(vendor: str, document: object, feature: str) -> None:
    found = event(vendor, document)
    assert isinstance(found, Usage)
    assert (found.feature, found.account_id, found.user_id, found.timestamp) == (feature, "acme", "u1", AT)


@pytest.mark.parametrize(
    ("vendor", "document"),
    [
        ("segment", segment(event="x", context={}, properties={"account_id": "acme"})),
        ("segment", segment(event="x", context={}, properties={"workspaceId": "acme"})),
        ("segment", segment(event="x", context={}, properties={"groupId": "acme"})),
        ("segment", segment(event="x", context={"groups": {"team": "acme"}})),
        ("segment", segment(event="x", context={}, groups={"Organization": "acme"})),
        ("segment", segment(event="x", context={"traits": {"company": {"id": "acme", "name": "Acme"}}})),
        ("segment", segment(event="x", context={"tenantId": "acme"})),
        ("segment", segment(event="x", context={"groupId": "acme"}, properties={"account_id": "other"})),
        ("posthog", posthog(properties={"$groups": {"project": "no", "workspace": "acme"}})),
        ("posthog", posthog(properties={"company_id": "acme"})),
        ("posthog", posthog(properties={"$set": {"org_id": "acme"}})),
        ("amplitude", {"events": [amplitude(groups={"org id": ["acme", "second"]})]}),
        ("amplitude", {"events": [amplitude(groups={}, event_properties={"team_id": "acme"})]}),
        ("amplitude", {"events": [amplitude(groups=None, user_properties={"accountId": "acme"})]}),
        ("cloudevents", cloud(subject=None, accountid="acme")),
        ("cloudevents", cloud(subject="other", tenantid="acme")),
        ("cloudevents", cloud(subject="other", data={"user_id": "u1", "account_id": "acme"})),
        ("cloudevents", cloud()),
    ],
)
def test_the_account_is_found_where_the_vendor_puts_it(vendor: str, document: object) -> None:
    assert event(vendor, document).account_id == "acme"


@pytest.mark.parametrize(
    ("vendor", "document"),
    [
        ("segment", segment(event="x", context={})),
        ("posthog", posthog(properties={})),
        ("posthog", posthog(properties=None)),
        ("amplitude", {"events": [amplitude(groups={})]}),
        ("amplitude", {"events": [amplitude(groups={"hobby": "golf"})]}),
        ("cloudevents", cloud(subject=None)),
        ("segment", segment("identify", context={}, traits={"email": "a@b.c", "company": "A name, no id"})),
    ],
)
def test_a_user_without_an_account_waits(vendor: str, document: object) -> None:
    found = event(vendor, document)
    assert (found.account_id, found.user_id) == (UNPLACED, "u1")


def test_an_account_may_be_known_and_its_user_not() -> None:
    found = event("segment", segment(event="x", userId=None, anonymousId="anon"))
    assert (found.account_id, found.user_id) == ("acme", None)


@pytest.mark.parametrize(
    ("vendor", "document", "reason"),
    [
        ("segment", segment(event="x", userId=None, anonymousId="a", context={}), "anonymous"),
        ("segment", segment("identify", userId=None, anonymousId="a"), "anonymous"),
        ("segment", segment("alias", previousId="a"), "alias"),
        ("segment", segment("group", groupId="p", traits={"groupType": "project"}), "other group type"),
        ("posthog", posthog(properties={"$process_person_profile": False}), "anonymous"),
        ("posthog", posthog(properties={}, options={"process_person_profile": False}), "anonymous"),
        ("posthog", posthog(properties={"$is_identified": False}), "anonymous"),
        ("posthog", posthog(properties={"$device_id": "u1"}), "anonymous"),
        ("posthog", posthog("$create_alias"), "alias"),
        ("posthog", posthog("$feature_flag_called"), "vendor's own"),
        ("posthog", posthog("$autocapture"), "vendor's own"),
        ("posthog", posthog("$groupidentify", properties={"$group_type": "project", "$group_key": "p"}),
         "other group type"),
        ("amplitude", {"events": [amplitude(user_id=None, device_id="d", groups={})]}, "anonymous"),
        ("amplitude", {"events": [amplitude("session_start")]}, "vendor's own"),
        ("amplitude", {"events": [amplitude("[Amplitude] Element Clicked")]}, "vendor's own"),
        ("amplitude", {"events": [amplitude("$groupidentify", groups={"project": "p"})]}, "other group type"),
    ],
)  # fmt: skip
def test_what_carries_nothing_says_why(vendor: str, document: object, reason: str) -> None:
    item = one(vendor, document)
    assert (item.ignored, item.events, item.binding, item.error) == (reason, (), None, None)
    assert reason in IGNORED


def test_segments_group_call_describes_the_account_and_ties_the_user() -> None:
    traits = {
        "name": "Acme", "monthlySpend": "49.50", "plan": "Pro", "employees": 400, "createdAt": "2024-02-03T00:00:00Z",
        "address": {"country": "JP"}, "status": "Very Happy", "currency": "jpy", "renewalDate": "2027-01-31T10:00:00Z",
        "licenses": "12", "tags": ["a", "b"], "churned": None, "mrr": "none of your business",
    }  # fmt: skip
    item = one("segment", segment("group", groupId="acme", context={}, traits=traits))
    [found] = item.events
    assert isinstance(found, Group)
    assert found.traits == {
        "name": "Acme", "mrr": 49.5, "plan": "Pro", "employees": 400, "started_at": "2024-02-03T00:00:00Z",
        "country": "JP", "sent_status": "Very Happy", "currency": "JPY", "renewal_on": "2027-01-31", "seats": 12,
        "tags": '["a","b"]', "churned": None, "sent_mrr": "none of your business",
    }  # fmt: skip
    assert item.binding is not None
    assert (item.binding.user_id, item.binding.account_id, item.binding.at) == ("u1", "acme", AT)


def test_the_attributes_own_name_comes_before_its_other_names() -> None:
    for traits in ({"mrr": 10, "monthlySpend": 20}, {"monthlySpend": 20, "mrr": 10}):
        found = event("segment", segment("group", groupId="acme", traits=traits))
        assert isinstance(found, Group)
        assert found.traits["mrr"] == 10


@pytest.mark.parametrize("where", ["traits", "context"])
def test_identify_says_who_a_user_is_and_which_account(where: str) -> None:
    traits = {"email": "a@b.c", "company": {"id": "acme", "name": "Acme", "plan": "pro"}}
    fields = {"traits": traits, "context": {}} if where == "traits" else {"context": {"traits": traits}}
    item = one("rudderstack", segment("identify", **fields))
    who, company = item.events
    assert isinstance(who, Identify)
    assert isinstance(company, Group)
    assert (who.event_id, company.event_id) == ("m1", "m1:group")
    assert who.traits["email"] == "a@b.c"
    assert company.traits["plan"] == "pro"
    assert item.binding is not None
    assert item.binding.account_id == "acme"


def test_posthogs_group_has_no_user_and_its_person_calls_do() -> None:
    properties = {"$group_type": "company", "$group_key": "acme", "$group_set": {"mrr": 5}}
    item = one("posthog", posthog("$groupidentify", distinct_id="c0ffee", properties=properties))
    [found] = item.events
    assert isinstance(found, Group)
    assert (found.account_id, found.user_id, found.traits, item.binding) == ("acme", None, {"mrr": 5}, None)
    who = one("posthog", posthog("$set", **{"$set": {"email": "a@b.c"}, "$set_once": {"first": 1, "email": "old"}}))
    [identified] = who.events
    assert isinstance(identified, Identify)
    assert identified.traits == {"email": "a@b.c", "first": 1}
    assert who.binding is not None
    login = one("posthog", posthog("$identify", properties={"$set": {"a": 1}, "$unset": ["b"], "$device_id": "u1"}))
    assert isinstance(login.events[0], Identify)
    assert login.events[0].traits == {"a": 1, "b": None}


def test_amplitudes_identify_ties_and_describes() -> None:
    tied = one("amplitude", {"events": [amplitude("$identify", user_properties={})]})
    assert tied.events == ()
    assert tied.binding is not None
    assert tied.binding.account_id == "acme"
    for wrong in ({"time": 4102444800000}, {"groups": {"account": "a\0b"}}, {"user_id": "u\0"}, {"user_id": "u" * 201}):
        refused = one("amplitude", {"events": [amplitude("$identify", user_properties={}, **wrong)]})
        assert refused.error is not None and refused.binding is None, wrong
    properties = {"$set": {"role": "admin"}, "$setOnce": {"first": 1}, "$unset": {"old": "-"}}
    who = one("amplitude", {"events": [amplitude("$identify", user_properties=properties)]})
    assert isinstance(who.events[0], Identify)
    assert who.events[0].traits == {"role": "admin", "first": 1, "old": None}
    what = one("amplitude", {"events": [amplitude("$groupidentify", group_properties={"$set": {"plan": "pro"}})]})
    assert isinstance(what.events[0], Group)
    assert (what.events[0].traits, what.events[0].user_id, what.binding) == ({"plan": "pro"}, None, None)


def test_cloudevents_carry_our_own_kinds() -> None:
    data = {"user_id": "u1", "payment_id": "p", "status": "failed", "amount": 3, "event_id": "not this one"}
    found = event("cloudevents", cloud("kizashi.payment", data=data))
    assert (found.kind, found.event_id, found.timestamp) == ("payment", "/app#1", AT)
    group = one("cloudevents", cloud("kizashi.group", data={"user_id": "u1", "traits": {"plan": "pro"}}))
    assert isinstance(group.events[0], Group)
    assert group.binding is not None
    wrong = one("cloudevents", cloud("kizashi.payment", data={"status": "lost"}))
    assert wrong.error is not None
    assert {problem.field for problem in wrong.error.problems} == {"payment_id", "status"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"specversion": "0.3"}, "specversion"), ({"id": ""}, "id"), ({"source": None}, "source"), ({"type": 3}, "type"),
     ({"data_base64": "?"}, "data_base64"), ({"time": "yesterday"}, "time")],
)  # fmt: skip
def test_cloudevents_that_are_none_are_refused(changes: dict[str, Any], field: str) -> None:
    error = one("cloudevents", cloud(**changes)).error
    assert error is not None
    assert error.problems[0].field == field


def test_binary_cloudevents_over_http_and_kafka_are_those_of_the_sdk() -> None:
    attributes = {
        "type": "kizashi.login", "source": "/アプリ", "id": "1", "subject": "アクメ", "time": T,
        "datacontenttype": "application/json",
    }  # fmt: skip
    sent = CloudEvent(attributes, {"user_id": "u1"})
    headers, body = http_binary(sent)
    made = assembled(headers.items(), body, prefix="ce-", percent=True)
    message = kafka_binary(sent)
    value = message.value.encode() if isinstance(message.value, str) else message.value
    ours = assembled(((k, v.decode()) for k, v in message.headers.items()), value, prefix="ce_", percent=False)
    for document in (made, ours):
        found = event("cloudevents", document)
        assert (found.user_id, found.timestamp) == ("u1", AT)
    assert event("cloudevents", ours).account_id == "アクメ"
    assert assembled([("content-type", "application/json")], b"{}", prefix="ce_", percent=False) is None
    percent = assembled([("ce-subject", "%E3%82%A2"), ("ce-id", '"x"')], b"", prefix="ce-", percent=True)
    assert percent == {"subject": "ア", "id": "x"}


@pytest.mark.parametrize("call", ["batch", "import", ""])
def test_a_batch_keeps_its_order_and_isolates_what_is_bad(call: str) -> None:
    batch = [segment(event="a"), 7, segment("zap"), segment(event=None), segment(event="b", timestamp="soon"), None,
             segment(event="c", timestamp="2027-01-01T00:00:00Z"), segment(event="d", messageId="m9")]  # fmt: skip
    found = translate("segment", {"batch": batch, "sentAt": T, "context": {"groupId": "other"}}, call)
    assert [item.error is None for item in found.items] == [True, *[False] * 6, True]
    assert found.sent_at == AT
    assert found.items[-1].event_id == "m9"
    assert found.items[2].event_id == "m1", "a bad item keeps the vendor's id"
    reasons = [item.error.reason for item in found.items if item.error is not None]
    assert reasons == ["malformed", "unknown_kind", "missing_field", "bad_value", "malformed", "future"]


@pytest.mark.parametrize(("letter", "kind"), [("t", "usage"), ("i", "identify"), ("g", "group"), ("p", "usage")])
def test_the_browsers_single_calls(letter: str, kind: str) -> None:
    document = segment(event="x", groupId="acme", traits={"a": 1}, writeKey="k", sentAt=T)
    del document["type"]
    assert event("segment", document, letter).kind == kind


@pytest.mark.parametrize(
    ("vendor", "document"),
    [("segment", {}), ("segment", {"batch": {}}), ("amplitude", {}), ("amplitude", 3), ("posthog", {"batch": 3}),
     ("posthog", "text")],
)  # fmt: skip
def test_a_body_without_items_is_refused_as_a_whole(vendor: str, document: object) -> None:
    with pytest.raises(BadEvent):
        translate(vendor, document, "batch")


def test_too_many_and_too_long() -> None:
    with pytest.raises(BadEvent, match="at most 2500"):
        translate("segment", {"batch": [segment(event="x")] * 2501}, "batch")
    [item] = translate("posthog", [posthog(properties={"a": "x" * 40_000})]).items
    assert item.error is not None
    assert item.error.reason == "too_large"


def test_times_are_those_of_the_vendor() -> None:
    assert event("amplitude", {"events": [amplitude(time="1777626000000")]}).timestamp == AT
    assert event("amplitude", {"events": [amplitude(time=None)]}).timestamp == NOW
    assert event("segment", segment(event="x", timestamp=None, originalTimestamp=T)).timestamp == AT
    assert event("segment", segment(event="x", timestamp="2026-05-01T09:00:00")).timestamp == AT, "no offset: UTC"
    assert event("posthog", posthog(timestamp=None, offset=3_600_000)).timestamp == NOW - timedelta(hours=1)
    whole = {"batch": [posthog(timestamp=None, offset=1000)], "sent_at": T}
    assert event("posthog", whole).timestamp == AT - timedelta(seconds=1)
    early = segment(event="x", timestamp="2026-05-01T10:00:00Z", sentAt="2026-05-01T08:00:00Z")
    assert event("segment", early).timestamp == datetime(2026, 5, 1, 10, tzinfo=UTC), "skew is shown, not corrected"


def test_pipelines_json() -> None:
    clickhouse = {
        "uuid": "q1", "event": "exported", "distinct_id": "u1", "timestamp": "2026-05-01 09:00:00.000000",
        "properties": json.dumps({"$groups": {"company": "acme"}}), "team_id": 2, "created_at": "2026-05-01 09:00:01",
    }  # fmt: skip
    ingestion = {
        "uuid": "q1", "distinct_id": "u1", "ip": "", "token": "phc", "now": T, "sent_at": "",
        "data": json.dumps({"event": "exported", "timestamp": T, "properties": {"$groups": {"company": "acme"}}}),
    }  # fmt: skip
    for record in (clickhouse, ingestion):
        assert sniff(record, {}) == "posthog"
        found = event("posthog", record)
        assert (found.event_id, found.account_id, found.timestamp) == ("q1", "acme", AT)


def test_numbers_are_ids_too() -> None:
    found = event("segment", segment(event="x", userId=42, context={"groupId": 7.0}))
    assert (found.user_id, found.account_id) == ("42", "7")
    refused = one("segment", segment(event="x", userId=True))
    assert refused.error is not None


def test_ids_for_items_that_have_none() -> None:
    bare = {"type": "track", "event": "x", "userId": "u1", "timestamp": T}
    first, same = one("segment", bare), one("segment", dict(reversed(bare.items())))
    assert first.event_id == same.event_id, "a retry has the same id"
    assert first.event_id != one("segment", {**bare, "event": "y"}).event_id
    timeless = {"event": "login", "distinct_id": "u1"}
    twice = translate("posthog", [timeless, timeless]).items
    assert twice[0].event_id != twice[1].event_id, "without id and time, both may have happened"
    long = one("segment", segment(event="x", messageId="m" * 300))
    assert long.event_id is not None
    assert len(long.event_id) <= 200
    placed = translate("segment", bare, origin=Origin(id="t/3/17", at=AT)).items
    assert placed[0].event_id == "t/3/17"
    timeless_record = translate("posthog", timeless, origin=Origin(id="t/3/17", at=AT)).items
    assert timeless_record[0].events[0].timestamp == AT


@pytest.mark.parametrize(
    ("document", "headers", "format_"),
    [
        (segment(event="x"), {}, "segment"), ({"batch": [segment(event="x")]}, {}, "segment"),
        (posthog(), {}, "posthog"), ({"batch": [posthog()]}, {}, "posthog"), ([posthog()], {}, "posthog"),
        ({"event": "x", "properties": {"token": "t", "distinct_id": "d"}}, {}, "posthog"),
        ({"events": [amplitude()]}, {}, "amplitude"), (amplitude(), {}, "amplitude"),
        (cloud(), {}, "cloudevents"), ({"user_id": 1}, {"ce_id": "1"}, "cloudevents"),
        ({}, {"content-type": "application/cloudevents+json"}, "cloudevents"),
        ({"kind": "login", "event_id": "e", "account_id": "a", "timestamp": T}, {}, "canonical"),
        ({"hello": "world"}, {}, None), (3, {}, None), ([], {}, None),
    ],
)  # fmt: skip
def test_formats_are_told_from_their_content(document: object, headers: dict[str, str], format_: str | None) -> None:
    assert sniff(document, headers) == format_


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
WORDS = [
    "type",
    "event",
    "userId",
    "timestamp",
    "messageId",
    "properties",
    "traits",
    "context",
    "groupId",
    "groups",
    "batch",
    "sentAt",
    "distinct_id",
    "uuid",
    "$groups",
    "$group_type",
    "$group_key",
    "$group_set",
    "$set",
    "$unset",
    "offset",
    "data",
    "event_type",
    "events",
    "user_id",
    "time",
    "insert_id",
    "user_properties",
    "group_properties",
    "specversion",
    "id",
    "source",
    "subject",
    "data_base64",
    "accountid",
    "company",
    "name",
    "mrr",
    "seats",
    "createdAt",
    "currency",
]
TEXTS = [
    "track",
    "group",
    "identify",
    "page",
    "$identify",
    "$groupidentify",
    "$pageview",
    "1.0",
    "acme",
    "kizashi.group",
    "kizashi.custom",
    "company",
    "login",
    "999999999999",
    "../..",
    ".",
    "{}",
    '{"event":"x"}',
]
VALUES = (*TEXTS, T, "2026-05-01 09:00:00", "\x00", "", 1e308, 2**63, -1, True)
DOCUMENTS = st.recursive(
    SCALARS | st.sampled_from(VALUES),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=8)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize("vendor", sorted(TRANSLATE))
@settings(max_examples=150)
@given(document=DOCUMENTS, call=st.sampled_from(("", "batch", "track", "g", "p", "httpapi")))
def test_whatever_comes_nothing_escapes_but_a_bad_event(vendor: str, document: object, call: str) -> None:
    try:
        found = translate(vendor, document, call)
    except BadEvent:
        return
    sniff(document, {})
    for item in found.items:
        assert (item.error is None) or (not item.events and item.ignored is None)
        assert item.error is not None or item.ignored is not None or item.events or item.binding
        for made in item.events:
            placed = msgspec.structs.replace(made, account_id=made.account_id or "placed")
            assert decode(encode(placed)) == placed, "what leaves here, the consumers take"
            assert made.account_id or made.user_id, "nothing without an account and a user"


@settings(max_examples=60)
@given(item=st.dictionaries(st.sampled_from(WORDS), DOCUMENTS, max_size=10), place=st.integers(0, 3))
def test_a_bad_neighbour_changes_nothing(item: dict[str, object], place: int) -> None:
    good = [segment(event=f"e{number}", messageId=f"m{number}") for number in range(3)]
    mixed: list[object] = [*good]
    mixed.insert(place, item)
    items = list(translate("segment", {"batch": mixed}, "batch").items)
    del items[place]
    assert tuple(items) == translate("segment", {"batch": good}, "batch").items


@pytest.mark.parametrize("depth", [50, 400, 5_000])
def test_nesting_ends_in_an_answer(depth: int) -> None:
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": [deep]}
    for document in (segment("group", groupId="a", traits=deep), segment("identify", traits=deep)):
        item = one("segment", document)
        assert item.error is None or item.error.reason in {"too_deep", "too_large", "bad_value"}
        assert (item.error is None) == (depth <= 400)


@given(ours=our_events)
@settings(max_examples=60)
def test_our_events_survive_the_envelope(ours: Event) -> None:
    fields = msgspec.json.decode(encode(ours))
    document = cloud(f"kizashi.{ours.kind}", subject=None, accountid=ours.account_id, data=fields)
    document["time"] = fields["timestamp"]
    item = TRANSLATE["cloudevents"](
        document, call="", source=WEB, now=datetime(2028, 1, 1, tzinfo=UTC), limits=Limits()
    ).items[0]
    assert item.error is None, item.error
    made = item.events[0]
    same = msgspec.structs.replace(ours, event_id="/app#1", source="web", received_at=None)
    assert made == same


@pytest.mark.parametrize(
    ("vendor", "group"),
    [
        ("segment", segment("group", groupId="acme", traits={"plan": "pro"}, context={})),
        ("posthog", posthog("$groupidentify", properties={
            "$group_type": "company", "$group_key": "acme", "$group_set": {"plan": "pro"}})),
        ("amplitude", amplitude("$groupidentify", group_properties={"$set": {"plan": "pro"}})),
    ],
)  # fmt: skip
def test_where_a_source_keeps_its_account_ids_is_not_where_group_calls_do(vendor: str, group: dict[str, Any]) -> None:
    elsewhere = Source(name="web", account=(Path("properties.space.id"),))
    found = event(vendor, group, source=elsewhere)
    assert isinstance(found, Group)
    assert (found.account_id, found.traits) == ("acme", {"plan": "pro"})


def test_names_that_ours_may_not_have_lose_no_event() -> None:
    long = one("segment", segment("page", name="請求書　" + "x" * 200)).events[0]
    assert isinstance(long, Usage)
    assert (len(long.feature), long.feature[:11], long.feature[-1]) == (100, "page: 請求書　x", "…")
    lines = event("segment", segment(event="Export\n\u0000Done"))
    assert isinstance(lines, Usage)
    assert lines.feature == "Export Done"
    as_it_is = event("segment", segment(event="請求書　発行"))
    assert isinstance(as_it_is, Usage)
    assert as_it_is.feature == "請求書　発行"


def test_traits_that_ours_may_not_be_cost_neither_the_call_nor_the_binding() -> None:
    odd = {
        "bio": "one\ntwo\u0000", "story": "x" * 3_000, "list": ["y" * 3_000], "k" * 150: 1, "": 2, "big": 10**20,
        "name": "Acme\nInc", **{f"more{number}": number for number in range(150)}, "plan": "pro",
    }  # fmt: skip
    item = one("segment", segment("group", groupId="acme", traits=odd))
    assert item.error is None
    assert item.binding is not None
    [group] = item.events
    assert isinstance(group, Group)
    assert group.traits["bio"] == "one two"
    assert [len(str(group.traits[name])) for name in ("story", "list")] == [2_000, 2_000]
    assert (group.traits["big"], group.traits["name"], group.traits["plan"]) == (str(10**20), "Acme Inc", "pro")
    assert len(group.traits) == 100
    who = one("segment", segment("identify", traits=odd))
    assert who.error is None
    assert isinstance(who.events[0], Identify)
    assert who.events[0].traits["bio"] == "one two"
