"""Carries uploads out: what is stored is read, the plan made anew, and only the plan that was confirmed is applied."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from consumers.broker import BrokerError
from consumers.formats.items import Item
from health.tables import account_attributes, accounts, people
from service import audit
from service.deps import Deps
from service.errors import Problem, unavailable
from service.uploads import rows as rows_of
from service.uploads.columns import ACCOUNT_COLUMNS, PEOPLE_COLUMNS, Columns, match
from service.uploads.plan import PERSON_FIELDS, SOURCE, Plan, Planned, Stored, UploadKind, plan_accounts, plan_people
from service.uploads.rows import Refused, Row
from service.uploads.sheet import SheetFault, read

SLICE: Final = 500
"""Events given to the intake at once, so that an upload does not crowd out what comes in by itself."""


class UploadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`applied`: whether the plan was carried out. `unacknowledged`: rows that the broker did not confirm in time; send
    the file again for them, the others then count as unchanged."""

    plan: Plan
    applied: bool
    stored: int
    unacknowledged: int


async def preview(deps: Deps, kind: UploadKind, raw: bytes, now: datetime) -> Planned:
    """Changes nothing. Raises Problem 422 for a file that cannot be used as a whole."""
    columns, rows = await asyncio.to_thread(_parsed, kind, raw)
    async with deps.reading() as conn:
        return await _planned(conn, kind, columns, rows, now, lock=False)


async def apply(
    deps: Deps, kind: UploadKind, raw: bytes, *, expected: str | None, actor: str, now: datetime
) -> UploadAnswer:
    """Carries the plan out if it is still the one whose hash is ``expected`` (None: whatever it is). Raises Problem:
    422 for the file, 409 for another plan, 503."""
    columns, rows = await asyncio.to_thread(_parsed, kind, raw)
    async with deps.writing() as conn:
        planned = await _planned(conn, kind, columns, rows, now, lock=True)
        plan = planned.plan
        if expected is not None and expected != plan.hash:
            words = "what is stored has changed since the preview: look at a new one, and confirm that"
            raise Problem(409, "changed-meanwhile", words)
        counts = {"rows": plan.rows, "new": plan.new, "changed": plan.changed, "refused": plan.refused}
        await audit.note(conn, actor=actor, action=f"upload.{kind}", subject=plan.hash[:16], detail=counts, now=now)
        statuses = Counter(await _send(deps, planned, now))
        if planned.people:
            await _store_people(conn, planned.people, now)
            statuses["accepted"] = len(planned.people)
    return UploadAnswer(plan=plan, applied=True, stored=statuses["accepted"], unacknowledged=statuses["unacknowledged"])


def _parsed(kind: UploadKind, raw: bytes) -> tuple[Columns, list[Row | Refused]]:
    try:
        sheet = read(raw)
        if kind == "accounts":
            columns = match(sheet, ACCOUNT_COLUMNS, "account_id")
            return columns, list(rows_of.accounts(sheet, columns))
        columns = match(sheet, PEOPLE_COLUMNS, "person_id")
        return columns, list(rows_of.people(sheet, columns))
    except SheetFault as fault:
        raise Problem(422, "unusable-file", str(fault)) from None


async def _planned(
    conn: AsyncConnection, kind: UploadKind, columns: Columns, rows: list[Row | Refused], now: datetime, *, lock: bool
) -> Planned:
    if kind == "accounts":
        stored = await _accounts(conn, [row.key for row in rows if isinstance(row, Row)])
        return plan_accounts(rows, columns, stored, now)
    return plan_people(rows, columns, await _people(conn, lock=lock))


async def _accounts(conn: AsyncConnection, keys: Iterable[str]) -> dict[str, Stored]:
    wanted = list(keys)
    exist = await conn.scalars(select(accounts.c.account_id).where(accounts.c.account_id.in_(wanted)))
    found = {account_id: Stored() for account_id in exist}
    table = account_attributes.c
    for row in await conn.execute(select(table.account_id, table.fields).where(table.account_id.in_(wanted))):
        values = {name: register.get("v") for name, register in row.fields.items()}
        keys_ = {name: str(register.get("k")) for name, register in row.fields.items()}
        found[row.account_id] = Stored(values=values, keys=keys_)
    return found


async def _people(conn: AsyncConnection, *, lock: bool) -> dict[str, Mapping[str, Any]]:
    query = select(people)
    if lock:
        query = query.order_by(people.c.person_id).with_for_update()
    found = await conn.execute(query)
    return {row["person_id"]: {name: row[name] for name in PERSON_FIELDS} for row in found.mappings()}


async def _send(deps: Deps, planned: Planned, now: datetime) -> list[str]:
    items = [Item(event_id=event.event_id, events=(event,)) for event in planned.events]
    statuses: list[str] = []
    for start in range(0, len(items), SLICE):
        try:
            taken = await deps.intake.take(items[start : start + SLICE], source=SOURCE, now=now)
        except BrokerError as error:
            if "accepted" not in statuses:
                raise unavailable(str(error)) from error
            break
        statuses += [each.status for each in taken]
        if "accepted" not in statuses:
            raise unavailable("the broker did not acknowledge in time: send the file again")
        if statuses[-1] == "unacknowledged":
            break
    return statuses + ["unacknowledged"] * (len(items) - len(statuses))


async def _store_people(conn: AsyncConnection, made: Mapping[str, Mapping[str, Any]], now: datetime) -> None:
    for person_id, values in sorted(made.items()):
        row = {**values, "updated_at": now}
        statement = insert(people).values(person_id=person_id, **row)
        await conn.execute(statement.on_conflict_do_update(index_elements=["person_id"], set_=row))
