"""Who an account's owner is: products name people by id or by e-mail address."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Label, func, or_, select

from health.tables import people

Owner = ColumnElement[str | None] | str


def named(owner: Owner) -> ColumnElement[bool]:
    return or_(people.c.person_id == owner, func.lower(people.c.email) == func.lower(owner))


def by_id_first(owner: Owner) -> tuple[ColumnElement[Any], ...]:
    """The order in which one of several is taken."""
    return (people.c.person_id == owner).desc(), people.c.person_id


def owner_name(owner: ColumnElement[str | None]) -> Label[str | None]:
    """As a subquery: a join would repeat the row when two people share an address."""
    found = select(people.c.name).where(named(owner)).order_by(*by_id_first(owner)).limit(1)
    return found.correlate_except(people).scalar_subquery().label("owner_name")
