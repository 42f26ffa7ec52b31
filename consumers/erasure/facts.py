"""Erases from the facts: an account's rows as a whole; of a user's company, only what is that user's.

One transaction does what must not be torn: it locks the positions of all partitions, sets the tombstones, moves the
epochs, and erases. A batch in flight either committed before, and is erased with the rest, or finds its epoch gone and
is undone, to be read again by a consumer that knows the tombstones. Nothing that arrives later is touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import blake2b
from typing import Any, Final

import msgspec
from sqlalchemy import Table, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from consumers.erasure.subjects import Subject, addresses_of
from consumers.erasure.tombstones import EVERYWHERE, account_hash, user_hash
from consumers.tables import stream_offsets, tombstones
from health.tables import (
    FACT_TABLES,
    account_attributes,
    account_history,
    accounts,
    record_events,
    records,
    touched,
    user_months,
    users,
)

Counts = dict[str, int]
"""Rows erased or cleaned per table."""

OF_ACCOUNT: Final = tuple(table for table in FACT_TABLES if "account_id" in table.c)
PERSONAL_DATA: Final[Mapping[str, str]] = {
    "ticket": "subject", "survey": "comment", "contact": "note", "custom": "properties",
}  # fmt: skip
"""As in ``tombstones.PERSONAL_FIELDS``, by kind."""
CLEANED: Final[tuple[tuple[Table, str], ...]] = (
    (record_events, "data"),
    (records, "fields"),
    (users, "fields"),
    (account_history, "value"),
    (account_attributes, "fields"),
)
"""JSON of a user's accounts in which others may have named that user."""

FIND: Final = """
SELECT DISTINCT account_id FROM (
    SELECT account_id FROM user_months WHERE user_id = ANY(CAST(:ids AS text[]))
    UNION ALL SELECT account_id FROM users WHERE user_id = ANY(CAST(:ids AS text[]))
    UNION ALL SELECT account_id FROM record_events WHERE user_id = ANY(CAST(:ids AS text[]))
    UNION ALL SELECT account_id FROM user_accounts WHERE user_id = ANY(CAST(:ids AS text[]))
) AS found
"""
NAMED: Final = (
    "EXISTS (SELECT FROM unnest(CAST(:names AS text[])) AS n WHERE position(n IN lower(CAST({} AS text))) > 0)"
)
BUMP: Final = "UPDATE stream_offsets SET epoch = epoch + 1"
UNTOUCH: Final = """
UPDATE touched SET account_ids = array_remove(account_ids, CAST(:account AS text))
WHERE account_ids @> ARRAY[CAST(:account AS text)]
"""
UNTOUCH_MARKERS: Final = """
UPDATE touched SET after_account_id = (SELECT max(account_id) FROM accounts WHERE account_id < :account COLLATE "C")
WHERE after_account_id = :account
"""
UNTOUCH_SWEEP: Final = """
UPDATE sweeps SET after_account_id =
    coalesce((SELECT max(account_id) FROM accounts WHERE account_id < :account COLLATE "C"), '')
WHERE after_account_id = :account
"""


@dataclass(frozen=True, kw_only=True)
class Erased:
    """``hashes``: of the account's events as far as the facts name them, by event day, for ``letters.erase_seen``."""

    counts: Counts
    hashes: Mapping[date, frozenset[int]]


async def find(conn: AsyncConnection, subject: Subject) -> Subject:
    """The subject with the accounts in which a user is found and the addresses that are known. Reads whole tables when
    the account is not given: give it time."""
    if subject.user_id is None:
        return subject
    if subject.account_id is not None:
        places = (subject.account_id,)
    else:
        places = tuple((await conn.scalars(text(FIND), {"ids": list(subject.ids)})).all())
    rows = await conn.scalars(
        select(users.c.fields).where(users.c.account_id.in_(places), users.c.user_id.in_(subject.ids))
    )
    return subject.found(places, tuple(address for fields in rows for address in addresses_of(fields)))


async def fence(
    conn: AsyncConnection, subject: Subject, *, salt: bytes, by: str, clock: Callable[[], datetime]
) -> datetime:
    """Sets the tombstones and undoes every batch in flight. Waits for those that are being committed. Returns the
    instant of the erasure."""
    keys = (stream_offsets.c.topic, stream_offsets.c.partition, stream_offsets.c.group_id)
    await conn.execute(select(*keys).order_by(*keys).with_for_update())
    now = clock()  # not earlier: what was applied until the locks were held had arrived before
    if subject.user_id is None:
        assert subject.account_id is not None
        rows = [("account", EVERYWHERE, account_hash(salt, subject.account_id))]
    else:
        scope = EVERYWHERE if subject.account_id is None else account_hash(salt, subject.account_id)
        rows = [("user", scope, user_hash(salt, name)) for name in subject.names]
    values = [
        {"kind": kind, "scope": scope, "subject": hashed, "erased_at": now, "requested_by": by}
        for kind, scope, hashed in rows
    ]
    new = insert(tombstones).values(values)
    await conn.execute(
        new.on_conflict_do_update(
            index_elements=["kind", "scope", "subject"],
            set_={"erased_at": func.greatest(tombstones.c.erased_at, new.excluded.erased_at), "requested_by": by},
        )
    )
    await conn.execute(text(BUMP))
    return now


async def erase(conn: AsyncConnection, subject: Subject, now: datetime, *, change: bool = True) -> Erased:
    """Within the transaction of ``fence``. Without ``change`` only counts."""
    if subject.user_id is None:
        return await _erase_account(conn, str(subject.account_id), change)
    return Erased(counts=await _erase_user(conn, subject, now, change), hashes={})


async def _erase_account(conn: AsyncConnection, account_id: str, change: bool) -> Erased:
    hashes = await _hashes(conn, account_id) if change else {}
    counts: Counts = {}
    for table in OF_ACCOUNT:
        counts[table.name] = await remove(conn, table, table.c.account_id == account_id, change=change)
    counts["touched"] = await _untouch(conn, account_id, change)
    return Erased(counts=counts, hashes=hashes)


async def _untouch(conn: AsyncConnection, account_id: str, change: bool) -> int:
    if not change:
        named = touched.c.account_ids.contains([account_id]) | (touched.c.after_account_id == account_id)
        return int(await conn.scalar(select(func.count()).select_from(touched).where(named)) or 0)
    changed = (await conn.execute(text(UNTOUCH), {"account": account_id})).rowcount
    await conn.execute(delete(touched).where(touched.c.account_ids == []))
    await conn.execute(text(UNTOUCH_SWEEP), {"account": account_id})
    return int(changed + (await conn.execute(text(UNTOUCH_MARKERS), {"account": account_id})).rowcount)


async def _hashes(conn: AsyncConnection, account_id: str) -> dict[date, frozenset[int]]:
    """Of every event that some fact still names by its key, on the days around which it can have happened."""
    found: dict[date, set[int]] = {}
    events = select(record_events.c.at, record_events.c.event_key).where(record_events.c.account_id == account_id)
    history = select(account_history.c.valid_from, account_history.c.event_key)
    rows = [(row[0], row[1]) for row in await conn.execute(events)]
    rows += [(row[0], row[1]) for row in await conn.execute(history.where(account_history.c.account_id == account_id))]
    for table in (account_attributes, records, users):
        for fields in await conn.scalars(select(table.c.fields).where(table.c.account_id == account_id)):
            rows += [(_at(register["t"]), register["k"]) for register in fields.values()]
    for at, key in rows:
        found.setdefault(at.astimezone(UTC).date(), set()).update(hashes_of(account_id, key))
    return {day: frozenset(hashes) for day, hashes in found.items()}


def hashes_of(account_id: str, event_key: str) -> Iterable[int]:
    """As ``dedup.event_hash``, for a key `source:event_id`; both may hold colons, so each reading of it."""
    for match in re.finditer(":", event_key):
        source, event_id = event_key[: match.start()], event_key[match.end() :]
        if source and event_id and len(source) <= 64:
            name = f"{source}\0{account_id}\0{event_id}"
            yield int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def _at(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)


async def _erase_user(conn: AsyncConnection, subject: Subject, now: datetime, change: bool) -> Counts:
    counts: Counts = {}
    places, ids = list(subject.accounts), list(subject.ids)
    counts["record_events"] = await _own_words(conn, places, ids, change)
    for table in (users, user_months):
        own = table.c.account_id.in_(places) & table.c.user_id.in_(ids)
        counts[table.name] = await remove(conn, table, own, change=change)
    for table, column in CLEANED:
        where: Any = table.c.account_id.in_(places)
        if table is users:  # the user's own are gone, or counted
            where &= users.c.user_id.not_in(ids)
        cleaned = await clean_column(conn, table, column, subject, where=where, change=change)
        counts[table.name] = counts.get(table.name, 0) + cleaned
    known = select(accounts.c.account_id).where(accounts.c.account_id.in_(places)).order_by(accounts.c.account_id)
    if change and (found := (await conn.scalars(known)).all()):
        await conn.execute(insert(touched).values(account_ids=list(found), created_at=now))
    return counts


async def _own_words(conn: AsyncConnection, places: Sequence[str], ids: Sequence[str], change: bool) -> int:
    """The user's own discrete facts stay the company's: without the user, and without words of the user."""
    t = record_events.c
    own = t.account_id.in_(places) & t.user_id.in_(ids)
    if not change:
        return int(await conn.scalar(select(func.count()).select_from(record_events).where(own)) or 0)
    rows = (await conn.execute(select(t.account_id, t.kind, t.record_id, t.data).where(own))).all()
    data: Any = t.data
    for name in PERSONAL_DATA.values():
        data = data.op("-")(name)
    await conn.execute(update(record_events).where(own).values(user_id=None, data=data))
    for account_id, kind, record_id in sorted(
        {tuple(row[:3]) for row in rows if PERSONAL_DATA.get(row.kind) in row.data}
    ):
        await _rebuild(conn, account_id, kind, record_id, PERSONAL_DATA[kind])
    return len(rows)


async def _rebuild(conn: AsyncConnection, account_id: str, kind: str, record_id: str, field: str) -> None:
    """A record's field as the remaining events have it: the newest by (time, key), or none."""
    t = record_events.c
    same = (t.account_id == account_id) & (t.kind == kind) & (t.record_id == record_id) & t.data.has_key(field)
    micros = (func.extract("epoch", t.at) * 1_000_000).cast(stream_offsets.c.epoch.type)
    newest = select(t.data[field].label("v"), micros.label("t"), t.event_key.label("k")).where(same)
    ordered = newest.order_by(t.at.desc(), t.event_key.collate("C").desc()).limit(1)
    row = (await conn.execute(ordered)).mappings().one_or_none()
    r = records.c
    fields = r.fields.op("-")(field) if row is None else r.fields.op("||")({field: dict(row)})
    place = (r.account_id == account_id) & (r.kind == kind) & (r.record_id == record_id)
    await conn.execute(update(records).where(place).values(fields=fields))


async def remove(conn: AsyncConnection, table: Table, where: Any, *, change: bool) -> int:
    """Deletes rows, or only counts them."""
    if not change:
        return int(await conn.scalar(select(func.count()).select_from(table).where(where)) or 0)
    return int((await conn.execute(delete(table).where(where))).rowcount)


async def clean_column(
    conn: AsyncConnection, table: Table, column: str, subject: Subject, *, where: Any, change: bool
) -> int:
    """Takes the subject's names out of a column of text or JSON; returns in how many rows. The database picks rows that
    hold the letters, ``scrub`` decides."""
    keys = list(table.primary_key.columns)
    named = text(NAMED.format(f"{table.name}.{column}")).bindparams(names=[as_stored(name) for name in subject.names])
    rows = (await conn.execute(select(*keys, table.c[column]).where(where, named))).all()
    count = 0
    for row in rows:
        value = row[-1]
        cleaned = subject.clean(value)
        if cleaned is value:
            continue
        count += 1
        if change:
            this = [key == at for key, at in zip(keys, row[:-1], strict=True)]
            await conn.execute(update(table).where(*this).values({column: cleaned}))
    return count


def as_stored(name: str) -> str:
    """As it stands in JSON that Postgres shows as text."""
    return msgspec.json.encode(name).decode()[1:-1].lower()
