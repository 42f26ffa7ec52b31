"""Users without an account: their events wait in Postgres until a group or identify call ties them to one.

The account is decided once, in the transaction that ties the user, and written to the waiting row; only then is the
event produced, and then the row deleted. A crash in between produces it again with the same id and account, and the
consumer's dedup drops the second. Whoever ties a user and whoever makes one of its events wait hold the same lock, so
that an event either sees the binding or is seen by it: none is left behind.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from zlib import crc32

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumers.events import BadEvent, Event, bad, encode, made
from consumers.formats.items import UNPLACED, Binding

LOCKS: Final = 128
"""Users share so many locks: one each would fill Postgres' table of locks."""
LOCK_SPACE: Final = 0x6B697A61
CACHED_USERS: Final = 65_536
CACHED_SECONDS: Final = 10.0
COUNTED_SECONDS: Final = 10.0
RELEASED_AT_ONCE: Final = 500
LETTER_TOPIC: Final = "waiting"
"""The topic of dead letters made of events whose user never got an account; their offset is the row's id."""

NO_ACCOUNT: Final = bad(
    "account_id", "is not known: no group call has tied the user to an account",
    "send a group call, or name the account", "no_account",
)  # fmt: skip
FULL: Final = bad(
    "account_id", "is not known, and too many events wait for this user or in total", "send a group call first",
    "no_account",
)  # fmt: skip

_LOCK: Final = text("SELECT pg_advisory_xact_lock(:space, stripe) FROM unnest(CAST(:stripes AS int[])) AS u(stripe)")
_BIND: Final = text("""
INSERT INTO user_accounts AS t (user_id, account_id, bound_at, event_id, updated_at)
SELECT u.user_id, u.account_id, u.bound_at, u.event_id, :now
FROM unnest(CAST(:users AS text[]), CAST(:accounts AS text[]), CAST(:at AS timestamptz[]), CAST(:ids AS text[]))
    AS u(user_id, account_id, bound_at, event_id)
ON CONFLICT (user_id) DO UPDATE SET account_id = excluded.account_id, bound_at = excluded.bound_at,
    event_id = excluded.event_id, updated_at = excluded.updated_at
WHERE (excluded.bound_at, excluded.event_id COLLATE "C") > (t.bound_at, t.event_id COLLATE "C")
""")
_DECIDE: Final = text("""
UPDATE waiting_events w SET account_id = b.account_id FROM user_accounts b
WHERE b.user_id = w.user_id AND w.user_id = ANY(CAST(:users AS text[])) AND w.account_id IS NULL
""")
_ACCOUNTS: Final = text("SELECT user_id, account_id FROM user_accounts WHERE user_id = ANY(CAST(:users AS text[]))")
_COUNTS: Final = text(
    "SELECT user_id, count(*) AS events FROM waiting_events WHERE user_id = ANY(CAST(:users AS text[])) GROUP BY 1"
)
_PRESENT: Final = text("""
SELECT w.user_id, w.source, w.event_id FROM waiting_events w
JOIN unnest(CAST(:users AS text[]), CAST(:sources AS text[]), CAST(:ids AS text[])) AS u(user_id, source, event_id)
    ON w.user_id = u.user_id AND w.source = u.source AND w.event_id = u.event_id
""")
_PARK: Final = text("""
INSERT INTO waiting_events (user_id, source, event_id, event, created_at)
SELECT u.user_id, u.source, u.event_id, u.event, :now
FROM unnest(CAST(:users AS text[]), CAST(:sources AS text[]), CAST(:ids AS text[]), CAST(:events AS bytea[]))
    AS u(user_id, source, event_id, event)
ON CONFLICT (user_id, source, event_id) DO NOTHING
""")
_TOTAL: Final = text("SELECT count(*) FROM (SELECT 1 FROM waiting_events LIMIT :most) AS found")
_DECIDED: Final = text("""
SELECT waiting_id, account_id, event FROM waiting_events
WHERE account_id IS NOT NULL ORDER BY waiting_id LIMIT :most
""")
_DELETE: Final = text("DELETE FROM waiting_events WHERE waiting_id = ANY(CAST(:ids AS bigint[]))")
_BURY: Final = """
WITH gone AS (DELETE FROM waiting_events WHERE waiting_id IN ({which}) RETURNING *)
INSERT INTO dead_letters
    (topic, partition, record_offset, record_timestamp, key, value, errors, reason, created_at)
SELECT :topic, 0, waiting_id, created_at, convert_to(user_id, 'UTF8'), event, CAST(:errors AS jsonb), :reason, :now
FROM gone ON CONFLICT (topic, partition, record_offset) DO NOTHING
"""
_EXPIRE: Final = text(
    _BURY.format(
        which="""
    SELECT waiting_id FROM waiting_events WHERE account_id IS NULL AND created_at < :before
    ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED"""
    )
)
_BURY_ONE: Final = text(_BURY.format(which=":waiting_id"))


@dataclass(frozen=True, kw_only=True)
class WaitingLimits:
    """How much may wait. Beyond ``per_user`` and ``total`` events are refused; after ``age`` they are dead letters.
    ``total`` is held to within what arrives in some seconds."""

    per_user: int = 1_000
    total: int = 1_000_000
    age: timedelta = timedelta(days=14)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """``accounts``: of the users that have one. ``parked``, ``full``: places, among the events asked for, of those that
    wait now and of those there is no room for. ``decided``: so many waiting events have their account now."""

    accounts: dict[str, str] = field(default_factory=dict)
    parked: frozenset[int] = frozenset()
    full: frozenset[int] = frozenset()
    decided: int = 0


class Waiting:
    """One per process and database; remembers for some seconds which accounts it has read."""

    def __init__(self, engine: AsyncEngine, limits: WaitingLimits) -> None:
        self._engine = engine
        self._limits = limits
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._total = 0
        self._counted_at = float("-inf")

    async def settle(self, bindings: Sequence[Binding], events: Sequence[Event], now: datetime) -> Settled:
        """Stores the bindings and finds the accounts of the events' users; events whose user has none wait from now on.
        One transaction, or none when memory knows all. Raises what SQLAlchemy raises."""
        users = {event.user_id for event in events if event.user_id is not None}
        accounts = {} if bindings else self._remembered(users)
        if not bindings and len(accounts) == len(users):
            return Settled(accounts=accounts)
        last = _last(bindings)
        decided, accounts, parked, full = 0, {}, frozenset[int](), frozenset[int]()
        async with self._engine.begin() as conn:
            await conn.execute(_LOCK, {"space": LOCK_SPACE, "stripes": _stripes([*users, *last])})
            if last:
                decided = await _bind(conn, last, now)
            if users:
                accounts = {
                    row.user_id: row.account_id for row in await conn.execute(_ACCOUNTS, {"users": sorted(users)})
                }
                homeless = [place for place, event in enumerate(events) if event.user_id not in accounts]
                if homeless:
                    parked, full = await self._park(conn, events, homeless, now)
        for user_id in last:
            self._known.pop(user_id, None)
        self._remember(accounts)
        return Settled(accounts=accounts, parked=parked, full=full, decided=decided)

    async def decided(self, now: datetime) -> list[tuple[int, Event]]:
        """Waiting events whose account is known, oldest first, with the ids of their rows; at most
        ``RELEASED_AT_ONCE``. One that can no longer be read becomes a dead letter."""
        async with self._engine.begin() as conn:
            rows = (await conn.execute(_DECIDED, {"most": RELEASED_AT_ONCE})).all()
            found = []
            for row in rows:
                try:
                    found.append((row.waiting_id, _placed(row.event, row.account_id)))
                except BadEvent as error:
                    await conn.execute(_BURY_ONE, {"waiting_id": row.waiting_id, "now": now, **_letter(error)})
        return found

    async def bury(self, waiting_id: int, error: BadEvent, now: datetime) -> None:
        """Makes a dead letter of a waiting event that will never be taken."""
        async with self._engine.begin() as conn:
            await conn.execute(_BURY_ONE, {"waiting_id": waiting_id, "now": now, **_letter(error)})

    async def delete(self, ids: Sequence[int]) -> None:
        """What was produced waits no longer."""
        async with self._engine.begin() as conn:
            await conn.execute(_DELETE, {"ids": list(ids)})

    async def expire(self, now: datetime) -> int:
        """What has waited too long becomes dead letters; says how many."""
        letter = {**_letter(NO_ACCOUNT), "now": now, "before": now - self._limits.age, "most": 1_000}
        count = 0
        while True:
            async with self._engine.begin() as conn:
                moved = (await conn.execute(_EXPIRE, letter)).rowcount
            count += moved
            if moved < 1_000:
                return count

    async def count(self) -> int:
        """How many events wait; at most one more than may."""
        async with self._engine.connect() as conn:
            return await self._count(conn)

    async def _park(
        self, conn: AsyncConnection, events: Sequence[Event], places: Sequence[int], now: datetime
    ) -> tuple[frozenset[int], frozenset[int]]:
        taken, full = await self._with_room(conn, events, places)
        chosen = [events[place] for place in taken]
        if chosen:
            columns = {**_keys(chosen), "events": [encode(event) for event in chosen], "now": now}
            self._total += (await conn.execute(_PARK, columns)).rowcount
        return frozenset(taken), frozenset(full)

    async def _with_room(
        self, conn: AsyncConnection, events: Sequence[Event], places: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        if time.monotonic() - self._counted_at > COUNTED_SECONDS:
            await self._count(conn)
        users = {event.user_id for event in (events[place] for place in places)}
        counts: Counter[str] = Counter()
        for row in await conn.execute(_COUNTS, {"users": sorted(str(user) for user in users)}):
            counts[row.user_id] = row.events
        room = self._limits.total - self._total
        taken: list[int] = []
        over: list[int] = []
        for place in places:
            user = str(events[place].user_id)
            if counts[user] < self._limits.per_user and len(taken) < room:
                counts[user] += 1
                taken.append(place)
            else:
                over.append(place)
        if not over:
            return taken, []
        # What waits already is not refused when it is sent again.
        present = {tuple(row) for row in await conn.execute(_PRESENT, _keys([events[place] for place in over]))}
        again = {place for place in over if _key(events[place]) in present}
        return [*taken, *sorted(again)], [place for place in over if place not in again]

    async def _count(self, conn: AsyncConnection) -> int:
        self._total = int(await conn.scalar(_TOTAL, {"most": self._limits.total + 1}) or 0)
        self._counted_at = time.monotonic()
        return self._total

    def _remembered(self, users: Iterable[str]) -> dict[str, str]:
        since = time.monotonic() - CACHED_SECONDS
        found = {}
        for user in users:
            known = self._known.get(user)
            if known is not None and known[1] >= since:
                found[user] = known[0]
        return found

    def _remember(self, accounts: dict[str, str]) -> None:
        at = time.monotonic()
        for user, account in accounts.items():
            self._known[user] = account, at
            self._known.move_to_end(user)
        while len(self._known) > CACHED_USERS:
            self._known.popitem(last=False)


async def _bind(conn: AsyncConnection, last: dict[str, Binding], now: datetime) -> int:
    chosen = [last[user] for user in sorted(last)]
    columns = {
        "users": [each.user_id for each in chosen],
        "accounts": [each.account_id for each in chosen],
        "at": [each.at for each in chosen],
        "ids": [each.event_id for each in chosen],
        "now": now,
    }
    await conn.execute(_BIND, columns)
    return int((await conn.execute(_DECIDE, {"users": columns["users"]})).rowcount)


def _last(bindings: Iterable[Binding]) -> dict[str, Binding]:
    last: dict[str, Binding] = {}
    for binding in bindings:
        other = last.get(binding.user_id)
        if other is None or (binding.at, binding.event_id.encode()) > (other.at, other.event_id.encode()):
            last[binding.user_id] = binding
    return last


def _stripes(users: Iterable[str]) -> list[int]:
    return sorted({crc32(user.encode()) % LOCKS for user in users})


def _key(event: Event) -> tuple[str, str, str]:
    return str(event.user_id), event.source, event.event_id


def _keys(events: Sequence[Event]) -> dict[str, Any]:
    users, sources, ids = zip(*map(_key, events), strict=True)
    return {"users": list(users), "sources": list(sources), "ids": list(ids)}


def unplaced(stored: bytes | None) -> Event:
    """A waiting event as it was stored, to be taken once more: by now its user may have an account. Raises BadEvent."""
    event: Event = msgspec.structs.replace(_placed(stored or b"{}", "-"), account_id=UNPLACED)
    return event


def _placed(stored: bytes, account_id: str) -> Event:
    fields = msgspec.json.decode(stored)
    return made({**fields, "account_id": account_id})


def _letter(error: BadEvent) -> dict[str, Any]:
    problems = [{"item": 0, "field": p.field, "problem": p.problem, "remedy": p.remedy} for p in error.problems]
    return {"topic": LETTER_TOPIC, "errors": msgspec.json.encode(problems).decode(), "reason": error.reason}
