"""What Postgres sends becomes columns, in whatever order the rows come."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from health.custom import NONE
from health.facts_columns import (
    NOTHING,
    Span,
    account_columns,
    day_columns,
    feature_days,
    months_as_days,
    records,
    users,
    within,
)
from health.facts_queries import KINDS
from health.facts_wanted import Wanted

TODAY = date(2024, 3, 15)
EPOCH = date(2000, 1, 1)
MONTHS = [date(2023, 11, 1), date(2023, 12, 1), date(2024, 1, 1), date(2024, 2, 1), date(2024, 3, 1), date(2024, 4, 1)]


def packed(form: str, values: Iterable[int]) -> bytes:
    return b"".join(struct.pack(f">{form}", value) for value in values)


def array(values: Sequence[int]) -> bytes:
    """As ``array_send`` writes it."""
    return struct.pack(">iiIii", 1, 0, 20, len(values), 1) + b"".join(struct.pack(">iq", 8, v) for v in values)


def wanted(days: int, *columns: str) -> Wanted:
    return Wanted(
        parts=frozenset(), days=days, mark_days=days, counts=True, rhythm=True, known=False,
        logins="logins" in columns, events="events" in columns,
    )  # fmt: skip


def month_rows(rng: np.random.Generator, places: int) -> list[tuple[int, date, list[int], int]]:
    """(place, month, counts, marks) of accounts, shuffled; every mark set that a month of 31 days could have."""
    rows = [
        (place, month, rng.integers(1, 9, 31).tolist(), int(rng.integers(1, 2**31)))
        for place in range(places) for month in MONTHS if rng.random() < 0.8
    ]  # fmt: skip
    rng.shuffle(rows)
    return rows


def sent(rows: Sequence[tuple[int, date, list[int], int]]) -> dict[str, Any]:
    return {
        "place": packed("i", (place for place, *_ in rows)),
        "month": packed("i", ((month - EPOCH).days for _, month, *_ in rows)),
        "active": packed("I", (marks for *_, marks in rows)),
    }


def expected(rows: Sequence[tuple[int, date, list[int], int]], day: date, place: int) -> tuple[int, bool]:
    """The count and the mark of a day."""
    for own, month, counts, marks in rows:
        if own == place and (month.year, month.month) == (day.year, day.month):
            return counts[day.day - 1], bool(marks >> (day.day - 1) & 1)
    return 0, False


@pytest.mark.parametrize("days", [1, 14, 15, 16, 92, 120])
def test_months_come_out_as_days(days: int) -> None:
    rng = np.random.default_rng(days)
    rows = month_rows(rng, 5)
    span = Span.until(TODAY, days)
    told = sent(rows)
    month = np.array([(month - EPOCH).days for _, month, *_ in rows])
    told["events"] = b"".join(
        array(counts) for (_, _, counts, _), some in zip(rows, within(month, span), strict=True) if some
    )
    columns = day_columns(told, 6, span, wanted(days, "events"))
    assert columns["events"].shape == columns["active"].shape == columns["logins"].shape == (6, days)
    assert not columns["logins"].any() and not columns["events"][5].any()
    for place in range(6):
        for back in range(days):
            count, mark = expected(rows, TODAY - timedelta(days=back), place)
            assert (columns["events"][place, -1 - back], columns["active"][place, -1 - back]) == (count, mark)


def test_days_of_activity_come_in_order() -> None:
    rows = month_rows(np.random.default_rng(2), 3)
    account, day = months_as_days(sent(rows))
    pairs = [
        (place, (month - date(1970, 1, 1)).days + bit)
        for place, month, _, marks in rows for bit in range(31) if marks >> bit & 1
    ]  # fmt: skip
    assert list(zip(account.tolist(), day.tolist(), strict=True)) == sorted(pairs)


def test_months_of_a_user_are_one_row_and_the_same_user_of_another_account_is_another() -> None:
    rows: list[tuple[int, date, list[int], int]] = [
        (1, MONTHS[3], [], 1),
        (0, MONTHS[4], [], 2),
        (1, MONTHS[4], [], 4),
        (0, MONTHS[4], [], 8),
    ]
    span = Span.until(TODAY, 92)
    told = sent(rows)
    found = users(told | {"user_hash": packed("q", [-7, -7, -7, 3])}, span)
    assert found.account.tolist() == [0, 0, 1]
    marked = sorted(map(tuple, (np.flatnonzero(row).tolist() for row in found.active)))
    first = (date(2024, 3, 1) - (TODAY - timedelta(days=91))).days
    assert marked == sorted([(first + 1,), (first + 3,), (first - 29, first + 2)])
    used = feature_days(told | {"feature_hash": packed("q", [-7, -7, -7, 3])}, span, {-7: "export", 3: "share"})
    assert sorted(zip(used.account.tolist(), used.name, strict=True)) == [(0, "export"), (0, "share"), (1, "export")]


def test_nothing_sent_is_empty() -> None:
    span = Span.until(TODAY, 92)
    assert day_columns(NOTHING, 2, span, wanted(92))["active"].shape == (2, 92)
    assert users(NOTHING, span).active.shape == (0, 92)
    assert all(not len(rows.account) for rows in records(NOTHING, NONE).values())


def test_a_day_array_of_another_length_is_refused() -> None:
    told = sent([(0, MONTHS[4], [], 1)]) | {"events": array([1] * 30)}
    with pytest.raises(ValueError, match="rebuild account_months"):
        day_columns(told, 1, Span.until(TODAY, 92), wanted(92, "events"))


def test_accounts_come_in_their_order() -> None:
    texts = {name: [None, None] for name in ("plan", "status", "segment", "touch_model", "owner", "currency",
             "timezone", "country", "parent_account_id", "renewal_on")}  # fmt: skip
    never = packed("q", [np.iinfo(np.int64).min] * 2)
    row = texts | {"place": packed("i", [1, 0]), "name": ["b", "a"], "mrr": ["12", "a lot"], "seats": [None, "3"]}
    row |= {f"{name}_at": never for name in ("started", "first_event", "created", "last_login", "last_activity",
            "last_contact")}  # fmt: skip
    found = account_columns(row)
    assert found["texts"]["name"].tolist() == ["a", "b"]
    assert np.isnan(found["numbers"]["mrr"][0]) and found["numbers"]["mrr"][1] == 12
    assert found["numbers"]["seats"][0] == 3


def test_a_status_that_stands_counts_for_its_own_kind_alone() -> None:
    at = {f"at_{n}": packed("q", [100 + n] * 4) for n in range(4)}
    row = at | {
        "place": packed("i", [2, 0, 2, 1]), "kind": packed("i", map(KINDS.index, ("goal", "ticket", "ticket", "goal"))),
        "status": ["reached", "solved", "failed", "odd"], "due_on": ["2024-03-01", None, "?", None],
        "name": ["late", "early"], "signal": ["active_users_28d", None], "target": ["8", "5"],
        "first_at": packed("q", [0] * 4), "status_at": packed("q", [500] * 4),
    }  # fmt: skip
    found = records(row, NONE)
    tickets, goals = found["tickets"], found["goals"]
    assert tickets.account.tolist() == [0, 2] and goals.account.tolist() == [1, 2]
    assert {name: at.tolist() for name, at in tickets.status_at.items()} == {
        "open": [100, 100], "pending": [101, 101], "solved": [500, 102], "closed": [103, 103],
    }  # fmt: skip
    assert goals.status_at["reached"].tolist() == [101, 500]
    assert goals.name.tolist() == ["early", "late"] and goals.signal.tolist() == [None, "active_users_28d"]
    assert not len(found["payments"].account)
