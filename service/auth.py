"""API keys: made, checked and revoked here, for the API, the board's sign-in and the command line alike.

A key reads `kz_<key id>_<secret>`: the id finds the row, the secret holds 256 random bits. Only the SHA-256 of the
whole is stored; at that entropy a slow hash would protect nothing. From outside, unknown, expired and revoked keys look
the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.clock import Clock
from service.errors import database_is_away
from service.tables import api_keys

Scope = Literal["ingest", "read", "write"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
"""A key's name is the default `source` of the events it sends, and names the actor of what it does."""

PRESENTED = re.compile(r"kz_([0-9a-z]{10})_[A-Za-z0-9_-]{43}")
ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 10
USED_AT_RESOLUTION = timedelta(minutes=1)
CACHE_SECONDS = 3.0
CACHE_SIZE = 1024
TRUSTED_SECONDS = 600.0
"""How long a key that was just known is taken while the database does not answer: events are accepted by the broker
alone, and nobody can revoke a key meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key without its secret."""

    key_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def live(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


async def create(
    conn: AsyncConnection, *, name: str, scopes: Collection[str], expires_at: datetime | None, now: datetime
) -> tuple[str, Key]:
    """(the key to present, which nobody can read again; its row). Raises ValueError naming what is wrong."""
    if not NAME.fullmatch(name):
        raise ValueError("name: use 1 to 64 of the characters A-Z a-z 0-9 _ . : - and begin with a letter or digit")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ValueError(f"scopes: give one or more of {', '.join(SCOPES)}")
    if expires_at is not None and expires_at <= now:
        raise ValueError("expires_at: lies in the past; give a later instant, or none")
    key_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
    presented = f"kz_{key_id}_{secrets.token_urlsafe(32)}"
    row = {
        "key_id": key_id,
        "name": name,
        "hash": _hash(presented),
        "scopes": [scope for scope in SCOPES if scope in scopes],
        "created_at": now,
        "expires_at": expires_at,
    }
    await conn.execute(insert(api_keys).values(row))
    return presented, _key({**row, "revoked_at": None, "last_used_at": None})


async def verify(conn: AsyncConnection, presented: str, now: datetime) -> Key | None:
    """The live key that was presented, or None. Notes its use, at most once a minute."""
    match = PRESENTED.fullmatch(presented)
    if match is None:
        return None
    row = (await conn.execute(select(api_keys).where(api_keys.c.key_id == match[1]))).mappings().one_or_none()
    if row is None or not hmac.compare_digest(bytes(row["hash"]), _hash(presented)):
        return None
    key = _key(row)
    if not key.live(now):
        return None
    before = now - USED_AT_RESOLUTION
    if key.last_used_at is None or key.last_used_at < before:
        unused = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < before)
        await conn.execute(update(api_keys).where(api_keys.c.key_id == key.key_id, unused).values(last_used_at=now))
    return key


async def revoke(conn: AsyncConnection, key_id: str, now: datetime) -> bool:
    """False when there is no such key. Revoking twice keeps the first time."""
    found = await conn.scalar(select(api_keys.c.key_id).where(api_keys.c.key_id == key_id))
    await conn.execute(
        update(api_keys).where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    return found is not None


async def list_keys(conn: AsyncConnection) -> list[Key]:
    """All keys, newest first, the revoked ones too."""
    rows = await conn.execute(select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.key_id))
    return [_key(row) for row in rows.mappings()]


def _hash(presented: str) -> bytes:
    return hashlib.sha256(presented.encode()).digest()


def _key(row: Any) -> Key:
    return Key(
        key_id=row["key_id"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )


class KeyRing:
    """`verify` with a memory of a few seconds, so that a stream of events is not a stream of queries.

    A key revoked in another process works here for at most CACHE_SECONDS more; its expiry is checked each time. While
    the database is away a key known before is trusted for TRUSTED_SECONDS.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        *,
        cache_seconds: float = CACHE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._seconds = cache_seconds
        self._monotonic = monotonic
        self._known: dict[bytes, tuple[float, Key]] = {}
        self._asking: dict[bytes, asyncio.Task[Key | None]] = {}

    async def verify(self, presented: str) -> Key | None:
        if PRESENTED.fullmatch(presented) is None:
            return None
        digest = _hash(presented)
        known = self._known.get(digest)
        if known is not None and known[0] > self._monotonic():
            return known[1] if known[1].live(self._clock()) else None
        asking = self._asking.get(digest)
        if asking is None:
            # Of many requests at once, the first asks for all: their number must not become one of queries.
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest, presented))
            asking.add_done_callback(lambda done: self._asked(digest, done))
        try:
            return await asyncio.shield(asking)
        except Exception as error:
            if known is None or not database_is_away(error) or known[0] + TRUSTED_SECONDS < self._monotonic():
                raise
            return known[1] if known[1].live(self._clock()) else None

    async def _ask(self, digest: bytes, presented: str) -> Key | None:
        async with self._engine.begin() as conn:
            key = await verify(conn, presented, self._clock())
        if key is None:
            self._known.pop(digest, None)
            return None
        if len(self._known) >= CACHE_SIZE:
            self._known.clear()
        self._known[digest] = (self._monotonic() + self._seconds, key)
        return key

    def _asked(self, digest: bytes, done: asyncio.Task[Key | None]) -> None:
        self._asking.pop(digest, None)
        if not done.cancelled():
            done.exception()  # whoever asked may be gone: looked at here, so that it is not complained of

    def forget(self, key_id: str) -> None:
        """Of a key that was just revoked here."""
        self._known = {digest: known for digest, known in self._known.items() if known[1].key_id != key_id}
