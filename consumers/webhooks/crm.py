"""HubSpot's companies and Salesforce's accounts: their fields become the account's attributes. Pure.

HubSpot tells single changes, in lists; its workflows and Salesforce's flows send whole records. Each field is a
register of its own that keeps the value of the latest time, so that any mixture, in any order, ends the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

from consumers.backfill.mapping import trait_target
from consumers.backfill.values import Unfit, as_day, as_number, as_text
from consumers.webhooks.drafts import Draft, Drafts, Ignored, Unmapped, at, compiled, instant, line, need, text_of
from consumers.webhooks.drafts import found as search
from consumers.webhooks.options import CrmOptions, HubspotOptions, Options

HUBSPOT_FIELDS: Final[Mapping[str, str]] = {
    "name": "name", "mrr": "mrr", "monthly_recurring_revenue": "mrr", "currency": "currency",
    "deal_currency_code": "currency", "renewal_date": "renewal_on", "hubspot_owner_id": "sales_owner", "csm": "owner",
    "plan": "plan", "segment": "segment", "seats": "seats", "country": "country",
}  # fmt: skip
SALESFORCE_FIELDS: Final[Mapping[str, str]] = {
    "Name": "name", "MRR__c": "mrr", "CurrencyIsoCode": "currency", "Renewal_Date__c": "renewal_on",
    "OwnerId": "sales_owner", "CSM__c": "owner", "Plan__c": "plan", "Segment__c": "segment", "Seats__c": "seats",
    "BillingCountry": "country", "ParentId": "parent_account_id",
}  # fmt: skip
SALESFORCE_ACCOUNT: Final = "Account_ID__c || Id"

_COMPANY: Final = "0-2"
_MILLISECONDS: Final = re.compile(r"-?\d{11,14}")


def hubspot_parts(document: Any) -> list[Any]:
    """Of a list of notifications, or of one record of a workflow."""
    return document if isinstance(document, list) else [document]


def hubspot(part: Any, options: Options) -> Drafts:
    assert isinstance(options, HubspotOptions)
    if isinstance(at(part, "properties"), Mapping):
        return _hubspot_record(part, options)
    kind = text_of(need(part, "subscriptionType"), "subscriptionType")
    what = kind.rpartition(".")[2]
    if not (kind.startswith("company.") or (kind.startswith("object.") and at(part, "objectTypeId") == _COMPANY)):
        return Ignored(f"{kind} is not asked for")
    if what not in {"creation", "propertyChange"}:
        return Ignored(f"{kind} is not asked for")
    if options.account_property is not None:
        return Ignored("single changes do not say the account's id: send whole companies by a workflow")
    # A new company has no traits yet; its event puts it on the list.
    traits: dict[str, Any] = {}
    if what == "propertyChange":
        name = text_of(need(part, "propertyName"), "propertyName")
        traits = traits_of({name: at(part, "propertyValue")}, HUBSPOT_FIELDS, options)
        if not traits:
            return Ignored(f"the property {name} is not asked for")
    object_id = text_of(need(part, "objectId"), "objectId")
    at_ms = text_of(need(part, "occurredAt"), "occurredAt")
    # HubSpot's own eventId is not promised to be unique.
    event_id = f"{object_id}:{at(part, 'propertyName') or what}:{at_ms}"
    draft = _group(event_id, instant(need(part, "occurredAt"), "occurredAt", per_second=1000), traits)
    return [{**draft, "account_id": object_id}]


def _hubspot_record(part: Any, options: HubspotOptions) -> Drafts:
    properties = {name: _plain(value) for name, value in part["properties"].items()}
    object_id = at(part, "objectId") or at(part, "companyId") or at(part, "id") or properties.get("hs_object_id")
    if object_id is None:
        raise Unmapped("objectId", "is missing", "send the company by a workflow's webhook, with all its properties")
    account = object_id if options.account_property is None else properties.get(options.account_property)
    when = properties.get("hs_lastmodifieddate") or at(part, "updatedAt")
    if when is None or when == "":
        raise Unmapped("properties.hs_lastmodifieddate", "is missing", "let the workflow send all properties")
    traits = traits_of(properties, HUBSPOT_FIELDS, options)
    if not traits:
        return Ignored("no property that is asked for")
    event_id = f"{text_of(object_id, 'objectId')}:{text_of(when, 'hs_lastmodifieddate')}"
    draft = _group(event_id, _time(when, "hs_lastmodifieddate"), traits)
    return [draft if account is None or account == "" else {**draft, "account_id": text_of(account, "account")}]


def _plain(value: Any) -> Any:
    return value.get("value") if isinstance(value, Mapping) else value


def salesforce_parts(document: Any) -> list[Any]:
    """Of one account, a list, or an object with a list under ``records``."""
    records = at(document, "records")
    if isinstance(records, list):
        return records
    return document if isinstance(document, list) else [document]


def salesforce(part: Any, options: Options) -> Drafts:
    """Of an account's record with the names of Salesforce's own fields, as a flow sends it."""
    assert isinstance(options, CrmOptions)
    kind = at(part, "attributes", "type")
    if kind not in {None, "Account"}:
        return Ignored(f"{kind} is not asked for")
    record_id = text_of(need(part, "Id"), "Id")
    when = at(part, "LastModifiedDate") or at(part, "SystemModstamp")
    if when is None:
        raise Unmapped("LastModifiedDate", "is missing", "send it along: it says which change is the later one")
    traits = traits_of(part, SALESFORCE_FIELDS, options)
    if not traits:
        return Ignored("no field that is asked for")
    return [_group(f"{record_id}:{text_of(when, 'LastModifiedDate')}", _time(when, "LastModifiedDate"), traits)]


def _group(event_id: str, timestamp: str, traits: Mapping[str, Any]) -> Draft:
    return {"kind": "group", "event_id": event_id, "timestamp": timestamp, "traits": dict(traits)}


def traits_of(values: Mapping[str, Any], usual: Mapping[str, str], options: CrmOptions) -> dict[str, Any]:
    """The traits that are in ``values``; a dotted field reaches into objects. An empty value takes a trait away."""
    fields = {**usual, **options.fields}
    # Chosen fields come last: they win over usual ones of the same trait.
    traits: dict[str, Any] = {}
    for field, trait in fields.items():
        if trait is None:
            continue
        if field in values:
            traits[trait] = _value(values[field], field, trait, options)
        elif "." in field and (inner := search(compiled(_quoted(field)), values)) is not None:
            traits[trait] = _value(inner, field, trait, options)
    return {**options.constants, **traits} if "mrr" in traits or len(traits) > 1 else traits


def _quoted(field: str) -> str:
    return ".".join(f'"{name}"' for name in field.replace('"', "").split("."))


def _value(value: Any, field: str, trait: str, options: CrmOptions) -> Any:
    if value is None or value == "":
        return None
    known = options.values.get(trait, {})
    try:
        if as_text(value) in known:
            return known[as_text(value)]
        target = trait_target("group", trait)
        if target == "number":
            return as_number(value.replace(",", "") if isinstance(value, str) else value)
        if target in {"date", "time_or_date"}:
            return _day(value)
        if target == "text":
            return line(as_text(value)) if trait != "currency" else as_text(value).upper()
        return value if isinstance(value, bool | int | float) else line(as_text(value), 2000)
    except Unfit as unfit:
        raise Unmapped(field, f"{unfit.problem}, as {trait} has to be", unfit.remedy) from None


def _day(value: Any) -> str:
    """A day, an instant's UTC day, or HubSpot's milliseconds."""
    if isinstance(value, int) or (isinstance(value, str) and _MILLISECONDS.fullmatch(value.strip())):
        return instant(value, "a date", per_second=1000)[:10]
    found: date = as_day(value)
    return found.isoformat()


def _time(value: Any, field: str) -> str:
    text = text_of(value, field).strip()
    if _MILLISECONDS.fullmatch(text):
        return instant(text, field, per_second=1000)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Unmapped(field, "is not a time", "expected RFC 3339, or milliseconds since 1970") from None
    # Salesforce's own are in UTC, with +0000 or without.
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()
