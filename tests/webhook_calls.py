"""Calls as the vendors document them, written anew with our own sample company, and the signing that each does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
AT = int(NOW.timestamp()) - 60
"""When things happened, in Unix seconds: 2026-05-01T11:59:00Z."""
MONTH = 30 * 24 * 3600


def raw(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


# Stripe


def price(amount: int | None, *, interval: str = "month", count: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": "price_pro", "object": "price", "active": True, "billing_scheme": "per_unit", "currency": "usd",
        "lookup_key": None, "nickname": "Pro", "product": "prod_1",
        "recurring": {"interval": interval, "interval_count": count, "usage_type": "licensed"}, "type": "recurring",
        "unit_amount": amount, "unit_amount_decimal": None if amount is None else str(amount), **more,
    }  # fmt: skip


def item(amount: int | None = 4900, quantity: int | None = 1, item_id: str = "si_1", **more: Any) -> dict[str, Any]:
    found = {
        "id": item_id, "object": "subscription_item", "current_period_start": AT, "current_period_end": AT + MONTH,
        "price": price(amount, **more), "quantity": quantity, "metadata": {},
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def subscription(items: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "sub_1", "object": "subscription", "cancel_at": None, "cancel_at_period_end": False, "canceled_at": None,
        "created": AT - MONTH, "currency": "usd", "customer": "cus_1", "ended_at": None,
        "items": {"object": "list", "data": items or [item()], "has_more": False},
        "metadata": {"account_id": "acme"}, "status": "active", "trial_end": None, **more,
    }  # fmt: skip


def stripe(kind: str, thing: dict[str, Any], previous: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"object": thing}
    if previous is not None:
        data["previous_attributes"] = previous
    return {
        "id": "evt_1", "object": "event", "api_version": "2025-03-31.basil", "created": AT, "data": data,
        "livemode": True, "pending_webhooks": 1, "request": {"id": None, "idempotency_key": None}, "type": kind, **more,
    }  # fmt: skip


def invoice(**more: Any) -> dict[str, Any]:
    return {
        "id": "in_1", "object": "invoice", "amount_due": 4900, "amount_paid": 4900, "amount_remaining": 0,
        "attempt_count": 1, "currency": "usd", "customer": "cus_1", "due_date": None, "metadata": {},
        "parent": {"type": "subscription_details", "subscription_details": {
            "subscription": "sub_1", "metadata": {"account_id": "acme"}}},
        "status": "paid", **more,
    }  # fmt: skip


def sign_stripe(body: bytes, secret: str, at: int) -> dict[str, str]:
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={digest},v0=ignored"}


# Zendesk and Intercom


def zendesk(kind: str = "status_changed", detail: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "account_id": 12514403, "id": "772c6c2f-0000-4000-8000-2b4cf7d2ef01",
        "detail": {
            "actor_id": "8447388090494", "assignee_id": "8447388090494", "brand_id": "8447346621310",
            "created_at": "2026-05-01T09:00:00Z", "custom_status": "4488", "description": "It is slow",
            "external_id": None, "form_id": "8646151517822", "group_id": "8447320466430", "id": "5158",
            "is_public": True, "organization_id": "8447346622462", "priority": "HIGH",
            "requester_id": "8447388090494", "status": "SOLVED", "subject": "Export is slow",
            "submitter_id": "8447388090494", "tags": ["export"], "type": "INCIDENT",
            "updated_at": "2026-05-01T11:59:00Z", "via": {"channel": "web_service"}, **(detail or {}),
        },
        "event": {"current": "SOLVED", "previous": "OPEN"}, "subject": "zen:ticket:5158",
        "time": "2026-05-01T11:59:00.123456789Z", "type": f"zen:event-type:ticket.{kind}",
        "zendesk_event_version": "2022-06-20", **more,
    }  # fmt: skip


def sign_zendesk(body: bytes, secret: str, at: str) -> dict[str, str]:
    digest = hmac.new(secret.encode(), at.encode() + body, hashlib.sha256).digest()
    return {
        "X-Zendesk-Webhook-Signature": base64.b64encode(digest).decode(),
        "X-Zendesk-Webhook-Signature-Timestamp": at,
    }


def intercom(topic: str = "conversation.user.created", state: str = "open", **more: Any) -> dict[str, Any]:
    return {
        "type": "notification_event", "app_id": "a86dr8yl", "id": "notif_1", "topic": topic, "created_at": AT,
        "delivery_attempts": 1, "delivery_status": "pending", "first_sent_at": AT + 1, "links": {}, "self": None,
        "data": {"type": "notification_event_data", "item": {
            "type": "conversation", "id": "147", "created_at": AT - 900, "updated_at": AT, "state": state, "open": True,
            "priority": "not_priority", "title": None, "custom_attributes": {},
            "source": {"type": "conversation", "subject": "<p>Where is my <b>export</b>?</p>", "body": "<p>Hello</p>"},
            "contacts": {"type": "contact.list", "contacts": [
                {"type": "contact", "id": "66f1", "external_id": "u-17"}]},
            **more,
        }},
    }  # fmt: skip


def sign_hub(body: bytes, secret: str, algorithm: str = "sha1") -> dict[str, str]:
    return {"X-Hub-Signature": f"{algorithm}={hmac.new(secret.encode(), body, algorithm).hexdigest()}"}


# Surveys


def answer(kind: str, ref: str, **value: Any) -> dict[str, Any]:
    return {"type": next(iter(value)), **value, "field": {"id": f"id-{ref}", "type": kind, "ref": ref}}


def typeform(answers: list[dict[str, Any]], hidden: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "event_id": "01KBYWTT", "event_type": "form_response",
        "form_response": {
            "form_id": "lT4Z3j", "token": "a3a12ec6", "landed_at": "2026-05-01T11:50:00Z",
            "submitted_at": "2026-05-01T11:59:00Z", "hidden": {"account_id": "acme"} if hidden is None else hidden,
            "definition": {"id": "lT4Z3j", "title": "How are we doing?", "fields": []}, "answers": answers,
        },
        **more,
    }  # fmt: skip


def sign_typeform(body: bytes, secret: str) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    return {"Typeform-Signature": f"sha256={base64.b64encode(digest).decode()}"}


SURVEYMONKEY_NOTICE: dict[str, Any] = {
    "name": "Kizashi", "filter_type": "survey", "filter_id": "1234", "event_type": "response_completed",
    "event_id": "10027615456", "object_type": "response", "object_id": "987654321",
    "event_datetime": "2026-05-01T11:59:00.000000+00:00",
    "resources": {"respondent_id": "987654321", "recipient_id": "0", "collector_id": "111", "survey_id": "1234",
                  "user_id": "77"},
}  # fmt: skip


def surveymonkey(**more: Any) -> dict[str, Any]:
    return {
        "id": "987654321", "survey_id": "1234", "collector_id": "111", "response_status": "completed",
        "custom_variables": {"account_id": "acme"}, "date_created": "2026-05-01T11:50:00+00:00",
        "date_modified": "2026-05-01T11:59:00+00:00",
        "pages": [{"id": "1", "questions": [
            {"id": "51", "answers": [{"choice_id": "9", "row_id": "2", "choice_metadata": {"weight": "9"}}]},
            {"id": "52", "answers": [{"text": "Fast"}]},
        ]}],
        **more,
    }  # fmt: skip


def sign_surveymonkey(body: bytes, secret: str) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha1).digest()
    return {"Sm-Signature": base64.b64encode(digest).decode(), "Sm-Apikey": secret.partition("&")[0]}


# CRM


def hubspot(name: str = "mrr", value: str = "490", **more: Any) -> dict[str, Any]:
    return {
        "eventId": 3418880613, "subscriptionId": 1859972, "portalId": 27356661, "appId": 1109808,
        "occurredAt": AT * 1000, "subscriptionType": "company.propertyChange", "attemptNumber": 0,
        "objectId": 6355821024, "propertyName": name, "propertyValue": value, "changeSource": "CRM_UI", **more,
    }  # fmt: skip


def sign_hubspot(body: bytes, secret: str, url: str, at_ms: int) -> dict[str, str]:
    text = b"POST" + url.encode() + body + str(at_ms).encode()
    digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return {
        "X-HubSpot-Signature-v3": base64.b64encode(digest).decode(),
        "X-HubSpot-Request-Timestamp": str(at_ms),
    }


def salesforce(**more: Any) -> dict[str, Any]:
    return {
        "attributes": {"type": "Account"}, "Id": "001xx000003DGb2AAG", "Name": "Acme Corp", "MRR__c": 490.5,
        "OwnerId": "005xx000001X8Uz", "CurrencyIsoCode": "EUR", "Renewal_Date__c": "2026-09-30", "CSM__c": "mina",
        "Seats__c": 25.0, "LastModifiedDate": "2026-05-01T11:59:00.000+0000", **more,
    }  # fmt: skip
