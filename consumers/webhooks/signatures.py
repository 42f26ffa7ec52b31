"""Whose call is it? One small pure function per scheme of signing, found by its name. Pure.

Every scheme compares in constant time, signs the body's bytes as they came, and where its vendor sends a time, refuses
what is older or newer than the tolerance: a call that was overheard is worthless soon after.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Secrets = Sequence[bytes]
Refusal = Literal["missing", "wrong", "stale"]
"""Why a call is not believed: no signature at all, another one, or one of another time."""

_WHOLE: Final = re.compile(r"[0-9]{1,16}")


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request as it came. ``headers`` have lower-case names; ``url`` is the address that its sender knows."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    now: datetime


class Signature(BaseModel):
    """How calls are signed. Options that a scheme does not use are refused: nobody shall trust a check not made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheme: Literal[
        "stripe", "hmac", "zendesk", "hubspot", "surveymonkey", "standard-webhooks", "token", "basic", "none"
    ] = Field(description="How calls are signed; none: not at all, then the caller needs a key of scope `ingest`")
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$")] | None = Field(
        default=None, description="Of `hmac` and `token`: the header that carries it"
    )
    algorithm: Literal["sha1", "sha256", "sha512"] = Field(default="sha256", description="Of `hmac`")
    encoding: Literal["hex", "base64"] = Field(default="hex", description="Of `hmac`")
    prefix: str = Field(default="", max_length=50, description="Of `hmac`: what stands before it, such as sha256=")
    tolerance_seconds: int = Field(default=300, ge=1, le=86_400, description="Of schemes that sign a time")


def problem_of(signature: Signature) -> tuple[str, str] | None:
    """(key, what is wrong with it): keys that the scheme has no use for, or lacks."""
    allowed = _SCHEMES[signature.scheme].options
    for key in sorted(signature.model_fields_set - {"scheme"}):
        if key not in allowed:
            uses = f"it takes {', '.join(allowed)}" if allowed else "it takes no options"
            return key, f"{signature.scheme} has no {key}: remove it; {uses}"
    if signature.scheme == "hmac" and signature.header is None:
        return "header", "hmac needs header: the name of the header that carries the signature"
    return None


def refusal(signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    """None when one of the secrets fits. Several are taken so that they can be changed without losing a call.

    Not for the scheme `none`. Raises ValueError without a secret."""
    if not secrets:
        raise ValueError("a signature cannot be checked without a secret")
    return _SCHEMES[signature.scheme].check(signature, secrets, call)


def _stripe(signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    header = call.headers.get("stripe-signature")
    if header is None:
        return "missing"
    parts = [part.strip().partition("=") for part in header.split(",")]
    at = next((value for name, _, value in parts if name == "t"), "")
    given = [value for name, _, value in parts if name == "v1"]
    text = at.encode() + b"." + call.body
    if not _any(secrets, given, lambda secret: hmac.digest(secret, text, "sha256").hex()):
        return "wrong"
    return _stale(_epoch(at, 1), signature, call)


def _hmac(signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    given = call.headers.get((signature.header or "").lower())
    if given is None:
        return "missing"

    def expected(secret: bytes) -> str:
        digest = hmac.digest(secret, call.body, signature.algorithm)
        return signature.prefix + (digest.hex() if signature.encoding == "hex" else _base64(digest))

    if signature.encoding == "base64":
        return None if _any(secrets, [given], expected) else "wrong"
    return None if _any(secrets, [given.lower()], lambda secret: expected(secret).lower()) else "wrong"


def _zendesk(signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    given = call.headers.get("x-zendesk-webhook-signature")
    at = call.headers.get("x-zendesk-webhook-signature-timestamp")
    if given is None or at is None:
        return "missing"
    text = at.encode() + call.body
    if not _any(secrets, [given], lambda secret: _base64(hmac.digest(secret, text, "sha256"))):
        return "wrong"
    try:
        stamped = datetime.fromisoformat(at)
    except ValueError:
        return "stale"
    return _stale(stamped if stamped.tzinfo else None, signature, call)


def _hubspot(signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    given = call.headers.get("x-hubspot-signature-v3")
    at = call.headers.get("x-hubspot-request-timestamp")
    if given is None or at is None:
        return "missing"
    text = call.method.encode() + call.url.encode() + call.body + at.encode()
    if not _any(secrets, [given], lambda secret: _base64(hmac.digest(secret, text, "sha256"))):
        return "wrong"
    return _stale(_epoch(at, 1000), signature, call)


def _surveymonkey(_signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    # The secret is "<client id>&<client secret>", joined by whoever sets the variable.
    given = call.headers.get("sm-signature")
    if given is None:
        return "missing"
    fits = _any(secrets, [given], lambda secret: _base64(hmac.digest(secret, call.body, "sha1")))
    return None if fits else "wrong"


def _standard_webhooks(signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    message_id, at, given = (
        call.headers.get(f"webhook-{name}") or call.headers.get(f"svix-{name}")
        for name in ("id", "timestamp", "signature")
    )
    if message_id is None or at is None or given is None:
        return "missing"
    text = f"{message_id}.{at}.".encode() + call.body
    offered = [part.removeprefix("v1,") for part in given.split() if part.startswith("v1,")]
    if not _any(secrets, offered, lambda secret: _base64(hmac.digest(standard_key(secret), text, "sha256"))):
        return "wrong"
    return _stale(_epoch(at, 1), signature, call)


def standard_key(secret: bytes) -> bytes:
    """The bytes behind ``whsec_…``; anything else is taken as it is."""
    try:
        return base64.b64decode(secret.removeprefix(b"whsec_"), validate=True)
    except binascii.Error:
        return secret


def _token(signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    """A shared token: `Authorization: Bearer …`, or a header of its own."""
    if signature.header is not None:
        given = call.headers.get(signature.header.lower())
    else:
        scheme, _, given = call.headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else None
    if not given:
        return "missing"
    return None if _any_bytes(secrets, [given.encode()], lambda secret: secret) else "wrong"


def _basic(_signature: Signature, secrets: Secrets, call: Call) -> Refusal | None:
    """`Authorization: Basic …`; the secret is ``user:password``."""
    scheme, _, given = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "missing"
    try:
        pair = base64.b64decode(given.strip(), validate=True)
    except binascii.Error:
        return "wrong"
    return None if _any_bytes(secrets, [pair], lambda secret: secret) else "wrong"


def _any(secrets: Secrets, given: Sequence[str], expected: Callable[[bytes], str]) -> bool:
    return _any_bytes(secrets, [text.encode() for text in given], lambda secret: expected(secret).encode())


def _any_bytes(secrets: Secrets, given: Sequence[bytes], expected: Callable[[bytes], bytes]) -> bool:
    """All pairs are compared: how long it takes says nothing of which one fitted."""
    found = False
    for secret in secrets:
        wanted = expected(secret)
        for text in given[:_MOST_OFFERED]:
            found |= hmac.compare_digest(text, wanted)
    return found


_MOST_OFFERED: Final = 10


def _stale(at: datetime | None, signature: Signature, call: Call) -> Refusal | None:
    fresh = at is not None and abs(call.now - at) <= timedelta(seconds=signature.tolerance_seconds)
    return None if fresh else "stale"


def _epoch(text: str, per_second: int) -> datetime | None:
    if not _WHOLE.fullmatch(text):
        return None
    try:
        return datetime.fromtimestamp(int(text) / per_second, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@dataclass(frozen=True)
class _Scheme:
    check: Callable[[Signature, Secrets, Call], Refusal | None]
    options: tuple[str, ...] = ()


_TIMED: Final = ("tolerance_seconds",)
_SCHEMES: Final[Mapping[str, _Scheme]] = {
    "stripe": _Scheme(_stripe, _TIMED),
    "hmac": _Scheme(_hmac, ("algorithm", "encoding", "header", "prefix")),
    "zendesk": _Scheme(_zendesk, _TIMED),
    "hubspot": _Scheme(_hubspot, _TIMED),
    "surveymonkey": _Scheme(_surveymonkey),
    "standard-webhooks": _Scheme(_standard_webhooks, _TIMED),
    "token": _Scheme(_token, ("header",)),
    "basic": _Scheme(_basic),
    "none": _Scheme(lambda _signature, _secrets, _call: "missing"),
}
