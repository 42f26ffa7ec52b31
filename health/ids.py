"""Accounts of a batch in a query."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import CollectionAggregate, Text, any_, cast
from sqlalchemy.dialects.postgresql import ARRAY


def among(account_ids: Iterable[str]) -> CollectionAggregate[bool]:
    """To compare a column of ids with: one parameter, however many there are. ``in_`` makes one of each, which for a
    thousand accounts costs more than the query."""
    return any_(cast(list(account_ids), ARRAY(Text)))
