"""Who is looking: a signed session cookie, and the token that every form must bring back."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

LIFETIME = timedelta(hours=12)
COOKIE = "kizashi_session"


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """``key_id`` is None for a visitor of an open board. ``expires_at`` is aware."""

    session_id: str
    name: str
    key_id: str | None
    scopes: tuple[str, ...]
    expires_at: datetime

    @property
    def actor(self) -> str:
        """As transitions record it."""
        return f"board:{self.name}" if self.key_id else "board"

    @property
    def may_write(self) -> bool:
        return "write" in self.scopes


@dataclass(frozen=True, repr=False)
class Signer:
    """Seals sessions and form tokens with a key that never leaves the process."""

    key: bytes

    @classmethod
    def from_secret(cls, secret: str | None) -> Signer:
        """Without a secret the key is this process's own: a restart signs everybody out."""
        if secret is None:
            return cls(secrets.token_bytes(32))
        return cls(hashlib.sha256(b"kizashi board\0" + secret.encode()).digest())

    def seal(self, session: Session) -> str:
        payload = base64.urlsafe_b64encode(msgspec.json.encode(session)).decode()
        return f"{payload}.{self._mac('session', payload)}"

    def open(self, cookie: str | None, *, now: datetime) -> Session | None:
        """The session, or None when the cookie is missing, forged or out of date."""
        payload, _, mac = (cookie or "").partition(".")
        if not payload or not hmac.compare_digest(mac.encode(), self._mac("session", payload).encode()):
            return None
        session = msgspec.json.decode(base64.urlsafe_b64decode(payload), type=Session)
        return session if session.expires_at > now else None

    def form_token(self, session: Session) -> str:
        return self._mac("form", session.session_id)

    def is_form_token(self, session: Session, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.form_token(session).encode())

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self.key, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()


def new_session(*, name: str, key_id: str | None, scopes: tuple[str, ...], now: datetime) -> Session:
    return Session(
        session_id=secrets.token_urlsafe(18), name=name, key_id=key_id, scopes=scopes, expires_at=now + LIFETIME
    )
