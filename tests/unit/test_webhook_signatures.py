"""Whose call it is: right and wrong secrets, bodies, times and headers, scheme by scheme."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from consumers.webhooks.signatures import Call, Signature, problem_of, refusal
from tests import webhook_calls as calls
from tests.webhook_calls import NOW

BODY = '{"name": "アクメ", "at":  1.0}'.encode()
SECRET = "a-secret-of-the-vendor"
STANDARD = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
URL = "https://kizashi.example.com/ingest/webhooks/hubspot"
Headers = Callable[[bytes, str, float], dict[str, str]]


def standard(body: bytes, secret: str, at: float) -> dict[str, str]:
    when = NOW + timedelta(seconds=at - NOW.timestamp())
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at)),
        "webhook-signature": Webhook(secret).sign("msg_1", when, body.decode()),
    }


def basic(_: bytes, secret: str, __: float) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()}


def iso(at: float) -> str:
    return (NOW + timedelta(seconds=at - NOW.timestamp())).isoformat().replace("+00:00", "Z")


TIMED: dict[str, tuple[dict[str, Any], Headers]] = {
    "stripe": ({"scheme": "stripe"}, lambda body, secret, at: calls.sign_stripe(body, secret, int(at))),
    "zendesk": ({"scheme": "zendesk"}, lambda body, secret, at: calls.sign_zendesk(body, secret, iso(at))),
    "hubspot": ({"scheme": "hubspot"}, lambda body, secret, at: calls.sign_hubspot(body, secret, URL, int(at * 1000))),
    "standard": ({"scheme": "standard-webhooks"}, standard),
}
UNTIMED: dict[str, tuple[dict[str, Any], Headers]] = {
    "intercom": (
        {"scheme": "hmac", "header": "X-Hub-Signature", "algorithm": "sha1", "prefix": "sha1="},
        lambda body, secret, _: calls.sign_hub(body, secret),
    ),
    "hub in capitals": (
        {"scheme": "hmac", "header": "X-Hub-Signature", "prefix": "sha256="},
        lambda body, secret, _: {"X-Hub-Signature": calls.sign_hub(body, secret, "sha256")["X-Hub-Signature"].upper()},
    ),
    "bare hex": (
        {"scheme": "hmac", "header": "X-Sum", "algorithm": "sha512"},
        lambda body, secret, _: {"X-Sum": hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()},
    ),
    "typeform": (
        {"scheme": "hmac", "header": "Typeform-Signature", "encoding": "base64", "prefix": "sha256="},
        lambda body, secret, _: calls.sign_typeform(body, secret),
    ),
    "surveymonkey": ({"scheme": "surveymonkey"}, lambda body, secret, _: calls.sign_surveymonkey(body, secret)),
}
SHARED: dict[str, tuple[dict[str, Any], Headers]] = {
    "bearer": ({"scheme": "token"}, lambda _, secret, __: {"Authorization": f"Bearer {secret}"}),
    "own header": ({"scheme": "token", "header": "X-Token"}, lambda _, secret, __: {"x-token": secret}),
    "basic": ({"scheme": "basic"}, basic),
}
ALL = {**TIMED, **UNTIMED, **SHARED}


def secret_for(name: str) -> str:
    return STANDARD if name == "standard" else SECRET


def asked(name: str, *, at: float = 0.0, body: bytes = BODY, secret: str = "", **more: Any) -> Any:
    options, headers_of = ALL[name]
    signature = Signature.model_validate(options)
    assert problem_of(signature) is None
    headers = headers_of(BODY, secret or secret_for(name), NOW.timestamp() + at)
    call = Call(
        method="POST", url=URL, headers={key.lower(): value for key, value in headers.items()}, body=body, now=NOW
    )
    secrets = [one.encode() for one in more.get("secrets", [secret_for(name)])]
    return refusal(signature, secrets, more.get("call", lambda c: c)(call))


@pytest.mark.parametrize("name", ALL)
def test_the_right_secret_over_these_very_bytes(name: str) -> None:
    assert asked(name) is None


@pytest.mark.parametrize("name", ALL)
def test_another_secret(name: str) -> None:
    other = "whsec_" + base64.b64encode(b"another-secret-another-s").decode() if name == "standard" else "another"
    assert asked(name, secret=other) == "wrong"


@pytest.mark.parametrize("name", ALL)
def test_while_the_secret_changes_both_are_taken(name: str) -> None:
    other = "whsec_" + base64.b64encode(b"another-secret-another-s").decode()
    assert asked(name, secrets=[other, secret_for(name)]) is None
    assert asked(name, secrets=[secret_for(name), other]) is None


@pytest.mark.parametrize("name", [*TIMED, *UNTIMED])
def test_a_body_that_says_the_same_in_other_bytes(name: str) -> None:
    assert asked(name, body=BODY.replace(b"1.0", b"1")) == "wrong"


@pytest.mark.parametrize("name", ALL)
def test_no_signature_at_all(name: str) -> None:
    assert asked(name, call=lambda c: Call(method=c.method, url=c.url, headers={}, body=c.body, now=c.now)) == "missing"


@pytest.mark.parametrize("name", ALL)
def test_rubbish_in_every_header(name: str) -> None:
    def spoilt(call: Call) -> Call:
        headers = dict.fromkeys(call.headers, "é, t=x,v1=,,=\x7f")
        return Call(method=call.method, url=call.url, headers=headers, body=call.body, now=call.now)

    assert asked(name, call=spoilt) in {"missing", "wrong", "stale"}


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize(("at", "expected"), [(-299, None), (299, None), (-301, "stale"), (301, "stale")])
def test_what_was_overheard_is_worthless_soon_after(name: str, at: float, expected: str | None) -> None:
    assert asked(name, at=at) == expected


def test_hubspot_signs_the_address_and_the_method_too() -> None:
    def elsewhere(call: Call) -> Call:
        return Call(method="POST", url=call.url + "?x=1", headers=call.headers, body=call.body, now=call.now)

    assert asked("hubspot", call=elsewhere) == "wrong"


def test_a_call_without_a_body() -> None:
    headers = calls.sign_zendesk(b"", SECRET, "2026-05-01T12:00:00Z")
    lower = {key.lower(): value for key, value in headers.items()}
    call = Call(method="POST", url=URL, headers=lower, body=b"", now=NOW)
    assert refusal(Signature(scheme="zendesk"), [SECRET.encode()], call) is None


def test_without_a_secret_nothing_is_believed() -> None:
    with pytest.raises(ValueError, match="without a secret"):
        refusal(Signature(scheme="stripe"), [], Call(method="POST", url=URL, headers={}, body=b"", now=NOW))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"scheme": "stripe", "header": "X"}, "header"),
        ({"scheme": "token", "tolerance_seconds": 10}, "tolerance_seconds"),
        ({"scheme": "hmac"}, "header"),
        ({"scheme": "surveymonkey", "algorithm": "sha256"}, "algorithm"),
    ],
)
def test_options_that_would_do_nothing_are_refused(given: dict[str, Any], key: str) -> None:
    problem = problem_of(Signature.model_validate(given))
    assert problem is not None
    assert problem[0] == key
