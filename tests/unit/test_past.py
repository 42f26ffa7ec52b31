"""Whatever the reader of facts reads is turned back for a past day."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import TextClause, text

from health import custom_facts, facts_queries, hierarchy_rows
from health.past import _TABLES, Rewound
from health.tables import metadata

BOUNDED = {"record_events"}
"""Read with its own bound, ``at <= now``."""


def read_tables() -> Iterator[tuple[str, str]]:
    queries = [query for module in (facts_queries, custom_facts) for query in vars(module).values()]
    for query in [*queries, hierarchy_rows._CHILDREN]:
        if isinstance(query, TextClause):
            for name in re.findall(r"\b(?:FROM|JOIN)\s+([a-z_]+)\b(?!\()", query.text):
                if name in metadata.tables:
                    yield name, query.text


def test_every_table_that_is_read_is_turned_back() -> None:
    turned = set(re.findall(r"^(\w+) AS NOT MATERIALIZED", _TABLES, flags=re.MULTILINE))
    found = {name for name, _ in read_tables()}
    assert {"accounts", "account_months", "records", "features", "health"} <= found
    assert found - BOUNDED <= turned
    for name, query in read_tables():
        assert name not in BOUNDED or "at <= CAST(:now" in query or "max(at) AS said_at" in query


def test_clauses_of_a_query_stay_its_own() -> None:
    rewound = Rewound(None, datetime(2026, 5, 1, tzinfo=UTC))  # type: ignore[arg-type]
    query, values = rewound._turned(text("WITH a AS (SELECT 1) SELECT * FROM a"), {"x": 1})
    assert query.text.startswith("WITH account_months AS") and query.text.endswith(",\na AS (SELECT 1) SELECT * FROM a")
    assert values["x"] == 1 and values["rewound_at"].year == 2026
    with pytest.raises(TypeError, match="recursive"):
        rewound._turned(text("WITH RECURSIVE a AS (SELECT 1) SELECT * FROM a"), {})
