"""Who an account's owner is: products name people by id or by e-mail address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Label, ScalarSelect, Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from health.tables import people

Owner = ColumnElement[str | None] | str
ADDRESS = func.lower(people.c.email)


def named(owner: Owner) -> ColumnElement[bool]:
    return or_(people.c.person_id == owner, func.lower(owner) == ADDRESS)


def by_id_first(owner: Owner) -> tuple[ColumnElement[Any], ...]:
    """The order in which one of several is taken."""
    return (people.c.person_id == owner).desc(), people.c.person_id


def owner_name(owner: ColumnElement[str | None]) -> Label[str | None]:
    return _of_person(people.c.name, owner).label("owner_name")


def owner_id(owner: ColumnElement[str | None]) -> Label[str | None]:
    return _of_person(people.c.person_id, owner).label("owner_id")


def _of_person(value: ColumnElement[Any], owner: ColumnElement[str | None]) -> ScalarSelect[Any]:
    """As a subquery: a join would repeat the row when two people share an address."""
    found = select(value).where(named(owner)).order_by(*by_id_first(owner)).limit(1)
    return found.correlate_except(people).scalar_subquery()


async def owned_by(
    conn: AsyncConnection, owner: ColumnElement[str | None], names: Sequence[str]
) -> ColumnElement[bool]:
    """Whether ``owner`` is one of those whom ``names`` name, however either writes it: by id or by address."""
    lowered = [name.lower() for name in names]
    rows = (await conn.execute(_people_of(or_(people.c.person_id.in_(names), ADDRESS.in_(lowered))))).all()
    ids = {row.person_id for row in rows}
    holders = await _holders(conn, {row.address for row in rows if row.address is not None})
    wanted = {name if name in ids else holders.get(name.lower(), name) for name in names}
    addresses = [address for address, person_id in holders.items() if person_id in wanted]
    named_so = owner.in_(sorted(wanted))
    return or_(named_so, func.lower(owner).in_(addresses)) if addresses else named_so


async def _holders(conn: AsyncConnection, addresses: set[str]) -> dict[str, str]:
    """Whom each address means: of several people who share it, the first by id."""
    if not addresses:
        return {}
    rows = await conn.execute(_people_of(ADDRESS.in_(sorted(addresses))).order_by(people.c.person_id.desc()))
    return {row.address: row.person_id for row in rows}


def _people_of(condition: ColumnElement[bool]) -> Select[Any]:
    return select(people.c.person_id, ADDRESS.label("address")).where(condition)
