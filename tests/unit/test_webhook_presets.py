"""What each tool's calls become, in its documented shapes; what is not asked for; and what has changed its shape."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.events import Event, encode
from consumers.formats.canonical import Limits
from consumers.formats.items import UNPLACED, Item
from consumers.webhooks import file
from consumers.webhooks.translate import translate
from tests import webhook_calls as calls
from tests.naive_facts import naive
from tests.webhook_calls import AT, MONTH, NOW

DAY = 24 * 3600


def hook(tmp_path: Path, preset: str, **more: Any) -> file.Hook:
    path = tmp_path / "webhooks.yaml"
    given = {"preset": preset, "secret_env": "SECRET", **more}
    path.write_text(json.dumps({"webhooks": {preset: given}}), encoding="utf-8")
    return file.load(path)[preset]


def items(found: file.Hook, document: Any) -> list[Item]:
    return [part.item for part in translate(found, calls.raw(document), now=NOW, limits=Limits())]


def events_of(item: Item) -> Any:
    return item.events


def only(found: file.Hook, document: Any) -> dict[str, Any]:
    """The one event of the call, as JSON has it."""
    (item,) = items(found, document)
    assert item.error is None, item.error
    (event,) = item.events
    value: dict[str, Any] = msgspec.json.decode(encode(event))
    assert value.pop("source") == found.name
    return value


def ignored(found: file.Hook, document: Any) -> str:
    (item,) = items(found, document)
    assert item.ignored is not None, item
    assert item.events == ()
    return item.ignored


def fault(found: file.Hook, document: Any) -> tuple[str, str]:
    (item,) = items(found, document)
    assert item.error is not None
    return item.error.problems[0].field, item.error.problems[0].problem


# Stripe


def test_stripe_an_invoice_that_was_paid(tmp_path: Path) -> None:
    assert only(hook(tmp_path, "stripe"), calls.stripe("invoice.paid", calls.invoice())) == {
        "kind": "payment", "event_id": "evt_1", "account_id": "acme", "timestamp": "2026-05-01T11:59:00Z",
        "payment_id": "in_1", "status": "paid", "amount": 49, "currency": "USD",
    }  # fmt: skip


def test_stripe_one_that_failed_is_the_same_payment(tmp_path: Path) -> None:
    failed = calls.invoice(amount_paid=0, amount_due=4950, due_date=AT + DAY, status="open")
    event = only(hook(tmp_path, "stripe"), calls.stripe("invoice.payment_failed", failed, id="evt_2"))
    assert (event["payment_id"], event["status"], event["amount"], event["due_on"]) == (
        "in_1", "failed", 49.5, "2026-05-02",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("currency", "minor", "amount"), [("jpy", 4900, 4900), ("kwd", 4900, 4.9), ("usd", 1, 0.01), ("ugx", 500, 5)]
)
def test_stripe_amounts_are_in_the_smallest_unit(tmp_path: Path, currency: str, minor: int, amount: float) -> None:
    paid = calls.invoice(currency=currency, amount_paid=minor)
    assert only(hook(tmp_path, "stripe"), calls.stripe("invoice.paid", paid))["amount"] == amount


@pytest.mark.parametrize(
    ("items_", "currency", "mrr"),
    [
        ([calls.item(4900, 3)], "usd", 147),
        ([calls.item(58_800, 1, interval="year")], "usd", 49),
        ([calls.item(12_000, 2, interval="month", count=3)], "usd", 80),
        ([calls.item(1000, 1, interval="week")], "usd", 43.48),
        ([calls.item(100, 1, interval="day")], "usd", 30.44),
        ([calls.item(9800, 5)], "jpy", 49_000),
        ([calls.item(100_000, 1, interval="year")], "jpy", 8333.33),
        ([calls.item(4900, 1), calls.item(1000, 2, "si_2")], "usd", 69),
        ([calls.item(4900, 1), calls.item(5, None, "si_2", recurring={"interval": "month", "usage_type": "metered"})],
         "usd", 49),
        ([calls.item(0, 1)], "usd", 0),
        ([calls.item(None, 4, billing_scheme="tiered")], "usd", None),
        ([calls.item(None, 100, unit_amount_decimal="0.5")], "usd", 0.5),
    ],
)  # fmt: skip
def test_stripe_mrr(tmp_path: Path, items_: list[dict[str, Any]], currency: str, mrr: float | None) -> None:
    begun = calls.subscription(items_, currency=currency)
    assert only(hook(tmp_path, "stripe"), calls.stripe("customer.subscription.created", begun)).get("mrr") == mrr


def test_stripe_a_subscription_that_begins(tmp_path: Path) -> None:
    begun = calls.stripe("customer.subscription.created", calls.subscription([calls.item(4900, 3)]))
    assert only(hook(tmp_path, "stripe"), begun) == {
        "kind": "subscription", "event_id": "evt_1", "account_id": "acme", "timestamp": "2026-05-01T11:59:00Z",
        "subscription_id": "sub_1", "change": "started", "mrr": 147, "currency": "USD", "plan": "Pro", "seats": 3,
        "renewal_on": "2026-05-31",
    }  # fmt: skip


def old_item(**changes: Any) -> dict[str, Any]:
    return {"items": {"object": "list", "data": [{**calls.item(), **changes}]}}


@pytest.mark.parametrize(
    "odd", [calls.item(10**17, 10**17), calls.item(100, 1, count="0"), calls.item(100, 1, count=-1, interval="")]
)
def test_stripe_numbers_beyond_all_measure_are_kept_as_a_letter(tmp_path: Path, odd: dict[str, Any]) -> None:
    """A fault would be answered 500, and Stripe would send it again for days."""
    begun = calls.stripe("customer.subscription.created", calls.subscription([odd]))
    (item,) = items(hook(tmp_path, "stripe"), begun)
    assert item.error is not None and item.events == ()


@pytest.mark.parametrize(
    ("now", "before", "change"),
    [
        ({"status": "trialing"}, {"status": "incomplete"}, "trial_started"),
        ({}, {"status": "incomplete"}, "started"),
        ({}, {"status": "trialing"}, "started"),
        ({"cancel_at_period_end": True}, {"cancel_at_period_end": False}, "cancellation_noticed"),
        ({"cancel_at": AT + MONTH}, {"cancel_at": None}, "cancellation_noticed"),
        ({}, {"cancel_at_period_end": True}, "renewed"),
        ({}, old_item(quantity=2), "contracted"),
        ({}, old_item(price=calls.price(2900)), "expanded"),
        ({}, {"quantity": 3}, "contracted"),
        ({}, old_item(current_period_end=AT), "renewed"),
        ({}, {"items": {"data": [{"id": "si_1", "current_period_end": AT}]}}, "renewed"),
        ({}, {"current_period_end": AT, "latest_invoice": "in_0"}, "renewed"),
        ({"status": "canceled"}, {"status": "active"}, "ended"),
    ],
)
def test_stripe_updates(tmp_path: Path, now: dict[str, Any], before: dict[str, Any], change: str) -> None:
    updated = calls.stripe("customer.subscription.updated", calls.subscription(**now), before)
    assert only(hook(tmp_path, "stripe"), updated)["change"] == change


@pytest.mark.parametrize(
    ("kind", "now", "before"),
    [
        ("customer.subscription.updated", {}, {"metadata": {"x": "y"}}),
        ("customer.subscription.updated", {}, {"default_payment_method": None}),
        ("customer.subscription.updated", {"status": "past_due"}, {"status": "active"}),
        ("customer.subscription.updated", {"status": "unpaid"}, {"status": "past_due"}),
        ("customer.subscription.created", {"status": "incomplete"}, None),
        ("customer.subscription.deleted", {"status": "incomplete_expired"}, None),
        ("customer.subscription.trial_will_end", {}, None),
        ("charge.succeeded", {}, None),
    ],
)
def test_stripe_what_is_not_asked_for(
    tmp_path: Path, kind: str, now: dict[str, Any], before: dict[str, Any] | None
) -> None:
    assert ignored(hook(tmp_path, "stripe"), calls.stripe(kind, calls.subscription(**now), before))


def test_stripe_an_invoice_of_nothing(tmp_path: Path) -> None:
    paid = calls.stripe("invoice.paid", calls.invoice(amount_paid=0))
    assert ignored(hook(tmp_path, "stripe"), paid) == "an invoice of nothing"


def test_stripe_a_cancellation_renews_no_more(tmp_path: Path) -> None:
    leaving = calls.subscription(cancel_at=AT + 10 * DAY)
    event = only(hook(tmp_path, "stripe"), calls.stripe("customer.subscription.updated", leaving, {"cancel_at": None}))
    assert event["renewal_on"] == "2026-05-11"


def test_stripe_a_trial_brings_nothing_in_yet(tmp_path: Path) -> None:
    trial = calls.stripe("customer.subscription.created", calls.subscription(status="trialing"))
    assert (only(hook(tmp_path, "stripe"), trial)["change"], only(hook(tmp_path, "stripe"), trial)["mrr"]) == (
        "trial_started", 0,
    )  # fmt: skip


def test_stripe_the_shape_before_2025(tmp_path: Path) -> None:
    old = calls.subscription(current_period_end=AT + 5 * DAY)
    for part in old["items"]["data"]:
        del part["current_period_end"]
        part["plan"] = {"id": "pro", "amount": 990, "interval": "month", "interval_count": 1, "usage_type": "licensed"}
        del part["price"]
    event = only(hook(tmp_path, "stripe"), calls.stripe("customer.subscription.created", old))
    assert (event["mrr"], event["plan"], event["renewal_on"]) == (9.9, "pro", "2026-05-06")
    bill = calls.invoice(subscription_details={"metadata": {"account_id": "acme"}})
    del bill["parent"]
    assert only(hook(tmp_path, "stripe"), calls.stripe("invoice.paid", bill))["account_id"] == "acme"


def test_stripe_without_metadata_the_customer_is_the_account(tmp_path: Path) -> None:
    bare = calls.stripe("customer.subscription.created", calls.subscription(metadata={}))
    assert only(hook(tmp_path, "stripe"), bare)["account_id"] == "cus_1"
    own = hook(tmp_path, "stripe", account="data.object.metadata.tenant")
    assert fault(own, bare)[0] == "account_id"
    named = calls.stripe("customer.subscription.created", calls.subscription(metadata={"tenant": 7}))
    assert only(own, named)["account_id"] == "7"


def test_stripe_in_any_order_the_last_stands(tmp_path: Path) -> None:
    """Created, changed and ended within a second and later, retried and shuffled: the facts are the same."""
    found = hook(tmp_path, "stripe")
    told = [
        calls.stripe("customer.subscription.created", calls.subscription(), id="evt_9"),
        calls.stripe(
            "customer.subscription.updated",
            calls.subscription([calls.item(4900, 5)]),
            old_item(quantity=1),
            id="evt_5",
        ),
        calls.stripe("customer.subscription.deleted", calls.subscription(status="canceled"), id="evt_1"),
    ]
    events = [item.events[0] for call in told for item in items(found, call)]
    assert len({event.timestamp for event in events}) == 3
    assert max(event.timestamp for event in events) - min(event.timestamp for event in events) < timedelta(seconds=1)
    outcomes = {json.dumps(facts(order), sort_keys=True) for order in permutations(events)}
    assert len(outcomes) == 1
    assert json.loads(outcomes.pop()) == {
        "currency": "USD", "mrr": 245, "plan": "Pro", "renewal_on": "2026-05-31", "seats": 5, "status": "ended",
    }  # fmt: skip


def facts(events: Any) -> dict[str, Any]:
    (row,) = naive((event, NOW) for event in events)["account_attributes"].values()
    return {name: register["v"] for name, register in row["fields"].items()}


@pytest.mark.parametrize(
    "broken",
    [
        {"data": {"object": None}},
        {"data": [1]},
        {"created": "yesterday"},
        {"created": 10**30},
        {"data": {"object": {**calls.subscription(), "items": {"data": "none"}}}},
        {"data": {"object": {**calls.subscription(), "items": {"data": [calls.item(recurring=3)]}}}},
        {"data": {"object": {**calls.subscription(), "id": {"x": 1}}}},
        {"data": {"object": {**calls.subscription(), "currency": "dollars"}}},
        {"created": AT + 2 * DAY},
    ],
)
def test_stripe_another_shape_is_kept_with_its_fault(tmp_path: Path, broken: dict[str, Any]) -> None:
    call = {**calls.stripe("customer.subscription.created", calls.subscription()), **broken}
    (item,) = items(hook(tmp_path, "stripe"), call)
    assert item.error is not None
    assert item.error.problems[0].remedy


# Zendesk and Intercom


def test_zendesk(tmp_path: Path) -> None:
    assert only(hook(tmp_path, "zendesk"), calls.zendesk()) == {
        "kind": "ticket", "event_id": "772c6c2f-0000-4000-8000-2b4cf7d2ef01", "account_id": "8447346622462",
        "timestamp": "2026-05-01T11:59:00.123456Z", "ticket_id": "5158", "status": "solved", "priority": "high",
        "subject": "Export is slow",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "status"),
    [("NEW", "open"), ("OPEN", "open"), ("pending", "pending"), ("HOLD", "pending"), ("CLOSED", "closed")],
)
def test_zendesk_statuses(tmp_path: Path, said: str, status: str) -> None:
    assert only(hook(tmp_path, "zendesk"), calls.zendesk("created", {"status": said}))["status"] == status


def test_zendesk_other_events(tmp_path: Path) -> None:
    found = hook(tmp_path, "zendesk")
    assert ignored(found, calls.zendesk("comment_added"))
    assert ignored(found, {**calls.zendesk(), "type": "zen:event-type:user.created"})
    assert only(found, calls.zendesk("soft_deleted"))["status"] == "closed"
    assert fault(found, calls.zendesk(detail={"status": "LOST"})) == ("detail.status", "is 'lost'")


def test_zendesk_a_ticket_of_nobody(tmp_path: Path) -> None:
    stranger = calls.zendesk(detail={"organization_id": None})
    assert fault(hook(tmp_path, "zendesk"), stranger)[0] == "account_id"
    assert ignored(hook(tmp_path, "zendesk", without_account="ignore"), stranger)
    own = hook(tmp_path, "zendesk", account="detail.external_id")
    assert only(own, calls.zendesk(detail={"external_id": "acme"}))["account_id"] == "acme"


@pytest.mark.parametrize(
    ("topic", "state", "status"),
    [
        ("conversation.user.created", "open", "open"),
        ("conversation.user.replied", "open", "open"),
        ("conversation.admin.snoozed", "snoozed", "pending"),
        ("conversation.admin.closed", "closed", "solved"),
        ("conversation.admin.opened", "open", "open"),
    ],
)
def test_intercom(tmp_path: Path, topic: str, state: str, status: str) -> None:
    event = only(hook(tmp_path, "intercom"), calls.intercom(topic, state))
    assert event == {
        "kind": "ticket", "event_id": "notif_1", "account_id": UNPLACED, "user_id": "u-17",
        "timestamp": "2026-05-01T11:59:00Z", "ticket_id": "147", "status": status, "subject": "Where is my export ?",
    }  # fmt: skip


def test_intercom_others(tmp_path: Path) -> None:
    found = hook(tmp_path, "intercom")
    assert ignored(found, calls.intercom("ping"))
    assert ignored(found, calls.intercom("conversation.user.replied", "closed"))
    named = calls.intercom(custom_attributes={"account_id": "acme"})
    event = only(found, named)
    assert event["account_id"] == "acme"
    assert "user_id" not in event
    nobody = calls.intercom(contacts={"type": "contact.list", "contacts": []})
    assert fault(found, nobody)[0] == "account_id"


# Surveys

SCORES = [
    calls.answer("nps", "q1", number=9),
    calls.answer("opinion_scale", "happy", number=4),
    calls.answer("long_text", "why", text="Fast.\r\nGood people\x07"),
]


def test_typeform(tmp_path: Path) -> None:
    assert only(hook(tmp_path, "typeform"), calls.typeform(SCORES)) == {
        "kind": "survey", "event_id": "a3a12ec6:nps", "account_id": "acme", "timestamp": "2026-05-01T11:59:00Z",
        "survey_id": "a3a12ec6:nps", "survey": "nps", "score": 9, "comment": "Fast.\nGood people",
    }  # fmt: skip


def test_typeform_questions_by_their_reference(tmp_path: Path) -> None:
    chosen = hook(tmp_path, "typeform", options={"csat": "happy", "nps": "id-q1", "comment": "absent"})
    (item,) = items(chosen, calls.typeform(SCORES, {"user_id": "u-17"}))
    assert [(event.survey, event.score, event.comment) for event in events_of(item)] == [
        ("nps", 9, None),
        ("csat", 4, None),
    ]
    assert {event.account_id for event in item.events} == {UNPLACED}
    assert {event.user_id for event in item.events} == {"u-17"}


def test_typeform_nothing_to_keep(tmp_path: Path) -> None:
    found = hook(tmp_path, "typeform")
    assert ignored(found, calls.typeform(SCORES[1:]))
    assert ignored(found, calls.typeform([], event_type="form_response_partial"))
    assert fault(found, calls.typeform([calls.answer("nps", "q", number=11)], {}))[0] == "account_id"
    assert fault(found, calls.typeform([calls.answer("nps", "q", number=1000)]))[0] == "score"


def test_surveymonkey_its_notice_has_no_answers(tmp_path: Path) -> None:
    found = hook(tmp_path, "surveymonkey", options={"nps": "51", "comment": "52"})
    assert "no answers" in ignored(found, calls.SURVEYMONKEY_NOTICE)


def test_surveymonkey_the_details_of_a_response(tmp_path: Path) -> None:
    found = hook(tmp_path, "surveymonkey", options={"nps": "51", "comment": "52"})
    event = only(found, calls.surveymonkey())
    assert (event["survey"], event["score"], event["comment"], event["event_id"]) == (
        "nps", 9, "Fast", "987654321:nps",
    )  # fmt: skip
    assert ignored(found, calls.surveymonkey(response_status="partial"))
    assert ignored(hook(tmp_path, "surveymonkey"), calls.surveymonkey())


# CRM


def test_hubspot_single_changes(tmp_path: Path) -> None:
    told = [
        calls.hubspot(),
        calls.hubspot("renewal_date", "1790726400000"),
        calls.hubspot("name", "Acme"),
        calls.hubspot("name", ""),
        calls.hubspot("hubspot_owner_id", "468810689"),
        calls.hubspot("phone", "1"),
        calls.hubspot(subscriptionType="company.creation"),
        calls.hubspot("mrr", "lots"),
        calls.hubspot(subscriptionType="deal.propertyChange"),
        calls.hubspot("name", "B", subscriptionType="object.propertyChange", objectTypeId="0-2"),
        calls.hubspot("name", "C", subscriptionType="object.propertyChange", objectTypeId="0-1"),
    ]
    found = hook(tmp_path, "hubspot", options={
        "values": {"sales_owner": {"468810689": "joe"}}, "constants": {"currency": "EUR"},
    })  # fmt: skip
    answers = items(found, told)
    traits = [events_of(item)[0].traits if item.events else item.ignored or item.error for item in answers]
    assert traits[:5] == [
        {"currency": "EUR", "mrr": 490}, {"renewal_on": "2026-09-30"}, {"name": "Acme"}, {"name": None},
        {"sales_owner": "joe"},
    ]  # fmt: skip
    assert traits[5] == "the property phone is not asked for"
    assert traits[6] == {}
    assert answers[7].error is not None and answers[7].error.problems[0].field == "mrr"
    assert traits[8] == "deal.propertyChange is not asked for"
    assert traits[9] == {"name": "B"}
    assert answers[10].ignored
    assert answers[0].event_id == f"6355821024:mrr:{AT * 1000}"
    assert {item.events[0].account_id for item in answers if item.events} == {"6355821024"}


def test_hubspot_a_fault_keeps_only_its_own_part(tmp_path: Path) -> None:
    body = calls.raw([calls.hubspot(), calls.hubspot("mrr", "lots")])
    good, bad = translate(hook(tmp_path, "hubspot"), body, now=NOW, limits=Limits())
    assert good.item.error is None
    again = translate(hook(tmp_path, "hubspot"), bad.raw.replace(b"lots", b"20"), now=NOW, limits=Limits())
    assert [part.item.error for part in again] == [None]


def test_hubspot_whole_companies_by_a_workflow(tmp_path: Path) -> None:
    company = {
        "objectId": 6355821024, "objectTypeId": "0-2",
        "properties": {"name": {"value": "Acme"}, "mrr": {"value": "1,490.50"}, "tenant": {"value": "acme"},
                       "health": {"value": "Customer"}, "hs_lastmodifieddate": {"value": str(AT * 1000)}},
    }  # fmt: skip
    found = hook(tmp_path, "hubspot", options={
        "account_property": "tenant", "fields": {"health": "status", "name": None},
        "values": {"status": {"Customer": "active"}},
    })  # fmt: skip
    assert only(found, company) == {
        "kind": "group", "event_id": f"6355821024:{AT * 1000}", "account_id": "acme",
        "timestamp": "2026-05-01T11:59:00Z", "traits": {"mrr": 1490.5, "status": "active"},
    }  # fmt: skip
    assert "single changes" in ignored(found, [calls.hubspot()])
    del company["properties"]["tenant"]  # type: ignore[attr-defined]
    assert fault(found, company)[0] == "account_id"


def test_salesforce(tmp_path: Path) -> None:
    assert only(hook(tmp_path, "salesforce"), calls.salesforce()) == {
        "kind": "group", "event_id": "001xx000003DGb2AAG:2026-05-01T11:59:00.000+0000",
        "account_id": "001xx000003DGb2AAG", "timestamp": "2026-05-01T11:59:00Z",
        "traits": {"name": "Acme Corp", "mrr": 490.5, "currency": "EUR", "renewal_on": "2026-09-30",
                   "sales_owner": "005xx000001X8Uz", "owner": "mina", "seats": 25},
    }  # fmt: skip


def test_salesforce_lists_own_fields_and_faults(tmp_path: Path) -> None:
    found = hook(tmp_path, "salesforce", options={"fields": {"Owner.Email": "sales_owner", "OwnerId": None}})
    told = {"records": [
        calls.salesforce(Account_ID__c="acme", Owner={"Email": "joe@example.com"}),
        calls.salesforce(LastModifiedDate=None),
        calls.salesforce(Renewal_Date__c="soon"),
        calls.salesforce(attributes={"type": "Contact"}),
        "what",
    ]}  # fmt: skip
    first, second, third, fourth, fifth = items(found, told)
    assert first.events[0].account_id == "acme"
    assert msgspec.to_builtins(first.events[0])["traits"]["sales_owner"] == "joe@example.com"
    assert [item.error.problems[0].field if item.error else None for item in (second, third, fourth, fifth)] == [
        "LastModifiedDate", "Renewal_Date__c", None, "Id",
    ]  # fmt: skip
    assert fourth.ignored


# All of them


EVERY: dict[str, Any] = {
    "stripe": calls.stripe("customer.subscription.created", calls.subscription()), "zendesk": calls.zendesk(),
    "intercom": calls.intercom(), "typeform": calls.typeform(SCORES), "surveymonkey": calls.surveymonkey(),
    "hubspot": [calls.hubspot()], "salesforce": calls.salesforce(),
}  # fmt: skip


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))


def spoilt(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = spoilt(node[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("preset", EVERY)
def test_whatever_a_tool_sends_is_answered(tmp_path: Path, preset: str) -> None:
    """Each value of a call replaced by anything: an item comes of it, and never an exception or a broken event."""
    found = hook(tmp_path, preset, **({"options": {"nps": "51"}} if preset == "surveymonkey" else {}))
    for path in leaves(EVERY[preset]):
        anything: tuple[Any, ...] = (None, "", "x" * 5000, "\x00", -1, 1.5, True, [], {}, [[]], {"a": {}}, 10**20)
        for value in anything:
            for item in items(found, spoilt(EVERY[preset], path, value)):
                said = [bool(item.events), item.ignored is not None, item.error is not None]
                assert sum(said) == 1, (path, value)


@pytest.mark.parametrize("preset", EVERY)
def test_a_retry_is_the_same_event(tmp_path: Path, preset: str) -> None:
    found = hook(tmp_path, preset, **({"options": {"nps": "51"}} if preset == "surveymonkey" else {}))

    def told() -> list[Event]:
        return [event for item in items(found, EVERY[preset]) for event in item.events]

    assert told()
    assert told() == told()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"null", b"3", b'"x"', b"[]", b"{}"])
@pytest.mark.parametrize("preset", EVERY)
def test_bodies_that_are_no_calls(tmp_path: Path, preset: str, body: bytes) -> None:
    for part in translate(hook(tmp_path, preset), body, now=NOW, limits=Limits()):
        assert part.item.events == ()
        assert part.item.error is not None or part.item.ignored is not None
