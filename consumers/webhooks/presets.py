"""The tools that are understood without a mapping: one entry each, found by its name. Pure.

A new one is a function from a call to drafts of events, an entry here, a section of docs/webhooks.md, and its tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from consumers.webhooks import crm, helpdesks, stripe, surveys
from consumers.webhooks.drafts import Drafts
from consumers.webhooks.options import CrmOptions, HubspotOptions, Options, SurveyOptions
from consumers.webhooks.signatures import Signature


def _whole(document: Any) -> list[Any]:
    return [document]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """``parts``: what stands or falls alone within a call. ``account`` and ``user``: where each part names them."""

    signature: Signature
    drafts: Callable[[Any, Any], Drafts]
    parts: Callable[[Any], list[Any]] = _whole
    options: type[Options] = Options
    account: str | None = None
    user: str | None = None


PRESETS: Final[Mapping[str, Preset]] = {
    "stripe": Preset(signature=Signature(scheme="stripe"), drafts=stripe.events, account=stripe.ACCOUNT),
    "zendesk": Preset(
        signature=Signature(scheme="zendesk"), drafts=helpdesks.zendesk, account=helpdesks.ZENDESK_ACCOUNT
    ),
    "intercom": Preset(
        signature=Signature(scheme="hmac", header="X-Hub-Signature", algorithm="sha1", prefix="sha1="),
        drafts=helpdesks.intercom,
        account=helpdesks.INTERCOM_ACCOUNT,
        user=helpdesks.INTERCOM_USER,
    ),
    "typeform": Preset(
        signature=Signature(scheme="hmac", header="Typeform-Signature", encoding="base64", prefix="sha256="),
        drafts=surveys.typeform,
        options=SurveyOptions,
        account=surveys.TYPEFORM_ACCOUNT,
        user=surveys.TYPEFORM_USER,
    ),
    "surveymonkey": Preset(
        signature=Signature(scheme="surveymonkey"),
        drafts=surveys.surveymonkey,
        options=SurveyOptions,
        account=surveys.SURVEYMONKEY_ACCOUNT,
        user=surveys.SURVEYMONKEY_USER,
    ),
    "hubspot": Preset(
        signature=Signature(scheme="hubspot"),
        drafts=crm.hubspot,
        parts=crm.hubspot_parts,
        options=HubspotOptions,
    ),
    "salesforce": Preset(
        signature=Signature(scheme="token"),
        drafts=crm.salesforce,
        parts=crm.salesforce_parts,
        options=CrmOptions,
        account=crm.SALESFORCE_ACCOUNT,
    ),
}
