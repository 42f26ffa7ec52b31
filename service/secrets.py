"""What is made of ``KIZASHI_SECRET_KEY``: the seal of stored secrets, and pseudonyms.

Secrets that must be read back (a person's Slack webhook) are stored sealed.
"""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from consumers.pseudonyms import Pseudonyms
from service.settings import Settings

MIN_KEY_LENGTH = 16


class SecretsError(ValueError):
    """A secret cannot be sealed or opened; says what to do, never what the secret is."""


class Vault:
    """Seals and opens short texts (Fernet: AES-128-CBC, HMAC-SHA256). Without a key it refuses, naming the setting."""

    def __init__(self, secret_key: SecretStr | None) -> None:
        self._fernet = None if secret_key is None else Fernet(_derived(secret_key.get_secret_value()))

    def seal(self, text: str) -> str:
        """A token for the database; another one each time. Raises SecretsError without a key."""
        return self._key().encrypt(text.encode()).decode("ascii")

    def open(self, token: str) -> str:
        """The text behind a token. Raises SecretsError without the key that sealed it."""
        try:
            return self._key().decrypt(token.encode()).decode()
        except InvalidToken:
            raise SecretsError(
                "a stored secret does not open: KIZASHI_SECRET_KEY is not the key it was sealed with; "
                "restore that key or enter the secret anew"
            ) from None

    def _key(self) -> Fernet:
        if self._fernet is None:
            raise SecretsError("KIZASHI_SECRET_KEY is not set: set it to a long random string to store secrets")
        return self._fernet


def pseudonyms_of(settings: Settings, *, always: bool = False) -> Pseudonyms | None:
    """Those that the doors use: None when ids are kept as they are. ``always``: also when ids are no longer hashed, to
    find what was stored while they were."""
    if settings.secret_key is None or not (settings.hash_user_ids or always):
        return None
    return Pseudonyms(settings.secret_key.get_secret_value().encode())


def _derived(secret_key: str) -> bytes:
    if len(secret_key) < MIN_KEY_LENGTH:
        raise SecretsError(f"KIZASHI_SECRET_KEY is too short: use at least {MIN_KEY_LENGTH} random characters")
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"kizashi personal secrets").derive(
        secret_key.encode()
    )
    return base64.urlsafe_b64encode(derived)
