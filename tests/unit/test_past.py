"""Whatever the reader of facts reads is turned back for a past day."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from health import custom_facts
from health.catalogue import SIGNALS, SignalRef
from health.facts_queries import statement
from health.facts_wanted import Wanted
from health.past import _TABLES, turned_back
from health.tables import metadata

BOUNDED = {"record_events"}
"""Read with its own bound, ``at <= now``."""


def read_queries() -> Iterator[str]:
    refs = frozenset(SignalRef(name, signal.parameter) for name, signal in SIGNALS.items())
    yield from (part.text for part in statement(Wanted.of(refs, history=True)).parts.values())
    yield from (query for query in vars(custom_facts).values() if isinstance(query, str) and "SELECT" in query)


def read_tables() -> Iterator[tuple[str, str]]:
    for query in read_queries():
        for name in re.findall(r"\b(?:FROM|JOIN)\s+([a-z_]+)\b(?!\()", query):
            if name in metadata.tables:
                yield name, query


def test_every_table_that_is_read_is_turned_back() -> None:
    turned = set(re.findall(r"^(\w+) AS NOT MATERIALIZED", _TABLES, flags=re.MULTILINE))
    found = {name for name, _ in read_tables()}
    assert {"accounts", "account_months", "records", "features", "health"} <= found
    assert found - BOUNDED <= turned
    for name, query in read_tables():
        assert name not in BOUNDED or "at <= $2" in query or "max(at) AS said_at" in query


def test_a_clause_of_a_query_would_stand_beside_the_tables() -> None:
    assert turned_back("SELECT * FROM accounts").startswith("WITH account_months AS")
    with pytest.raises(TypeError, match="clause"):
        turned_back("\nWITH RECURSIVE a AS (SELECT 1) SELECT * FROM a")
