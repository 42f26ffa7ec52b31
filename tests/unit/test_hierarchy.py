"""What children come to: held against one plain account after the other, and by example."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from health.catalogue import SignalRef
from health.columns import Children
from health.gaps import Observed
from health.hierarchy import DEPTH, Own, as_child, cards_changed, link, roll_up
from health.signals import compute, next_change
from tests.facts import Account, facts

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
REFS = [SignalRef(name) for name in ("children", "children_score", "children_red", "children_mrr",
                                     "children_mrr_at_risk", "worst_child", "worst_child_score")]  # fmt: skip


def own(name: str, score: float | None = 80.0, mrr: float | None = 100.0, **more: Any) -> Own:
    values: dict[str, Any] = {
        "name": name.title(), "status": "active", "band": "red" if score is not None and score < 40 else "green",
        "at_risk": 0.0 if mrr is None else mrr * (score is not None and score < 40), "currency": "USD",
        "incomplete": False, "umbrella": False, "card": "default@1", **more,
    }  # fmt: skip
    return Own(account_id=name, score=score, mrr=mrr, **values)


def parent_of(*told: Mapping[str, Any]) -> Any:
    return roll_up(Children.of([0] * len(told), told), 1).below(0)


def family(*members: Own) -> Any:
    return parent_of(*(as_child(member, None) for member in members))


def test_the_mean_is_weighted_by_mrr_and_the_worst_is_named() -> None:
    below = family(own("a", 90.0, 900.0), own("b", 30.0, 100.0))
    assert (below["score"], below["children"], below["red"]) == (84.0, 2, 1)
    assert (below["mrr"], below["mrr_at_risk"], below["currency"]) == (1000.0, 100.0, "USD")
    assert below["worst"] == {"account_id": "b", "name": "B", "score": 30.0, "mrr": 100.0}


@pytest.mark.parametrize(
    ("members", "mean"),
    [
        ([own("a", 90.0, None), own("b", 30.0, None)], 60.0),
        ([own("a", 90.0, 0.0), own("b", 30.0, 0.0)], 60.0),
        ([own("a", 90.0, 0.0), own("b", 30.0, 10.0)], 30.0),
        ([own("a", 90.0, 300.0), own("b", 30.0, 100.0), own("c", 0.0, None)], 50.0),
        ([own("a", 90.0, 900.0), own("b", 30.0, 100.0, currency="JPY")], 60.0),
        ([own("a", 90.0, 900.0), own("b", 30.0, 100.0, currency=None)], 84.0),
        ([own("a", 90.0, 900.0), own("b", None, 100.0)], 90.0),
        ([own("a", None, 900.0)], None),
    ],
    ids=[
        "none known",
        "all free",
        "one free",
        "one unknown",
        "currencies",
        "no currency",
        "no score",
        "no score at all",
    ],
)
def test_weights(members: Sequence[Own], mean: float | None) -> None:
    assert family(*members)["score"] == mean


def test_of_equals_the_worst_is_the_one_with_most_money() -> None:
    assert family(own("a", 30.0, 10.0), own("b", 30.0, 20.0), own("c", 30.0, None))["worst"]["account_id"] == "b"


@pytest.mark.parametrize("status", ["ended", "paused"])
def test_who_has_left_counts_for_nothing_but_what_is_below_it_does(status: str) -> None:
    gone = own("gone", 5.0, 400.0, status=status)
    assert family(gone, own("a", 80.0)) == family(own("a", 80.0))
    under = family(own("leaf", 20.0, 50.0))
    told = as_child(gone, under)
    assert (told["children"], told["red"], told["score"], told["mrr"]) == (1, 1, 20.0, 50.0)
    assert told["worst"]["account_id"] == "leaf"


def test_an_umbrella_only_hands_on_what_is_below_it() -> None:
    under = family(own("leaf", 20.0, 50.0), own("bough", 90.0, 50.0))
    told = as_child(own("holding", 55.0, None, umbrella=True), under)
    assert (told["children"], told["red"], told["score"], told["mrr"]) == (2, 1, 55.0, 100.0)
    assert parent_of(told)["worst"]["account_id"] == "leaf"


def test_the_worst_of_all_levels_is_named() -> None:
    middle = as_child(own("middle", 50.0, 10.0), family(own("leaf", 20.0, 5.0)))
    assert parent_of(middle)["worst"]["account_id"] == "leaf"
    assert parent_of(as_child(own("middle", 10.0, 10.0), family(own("leaf", 20.0, 5.0))))["worst"]["score"] == 10.0


def test_money_of_several_currencies_is_never_added_up_further_above_either() -> None:
    mixed = family(own("a", 90.0, 900.0), own("b", 30.0, 100.0, currency="JPY"))
    assert (mixed["mrr"], mixed["mrr_at_risk"], mixed["currency"], mixed["mixed"]) == (None, None, None, True)
    top = parent_of(as_child(own("middle", 50.0, 10.0), mixed), as_child(own("c", 80.0, 30.0), None))
    assert (top["mrr"], top["mixed"], top["score"]) == (None, True, 65.0)


def test_links_that_do_not_count_say_why() -> None:
    assert link("a", None, False, 1).followed is None
    assert link("a", "b", False, DEPTH).followed == "b"
    assert [link("a", *rest).problem for rest in (("a", True, 1), ("b", True, 2), ("b", False, DEPTH + 1))] == [
        "itself", "cycle", "too_deep",
    ]  # fmt: skip


# Held against a plain reference

NUMBERS = st.none() | st.sampled_from([0.0, 1.0, 12.5, 100.0, 1999.99])
scores = st.none() | st.integers(0, 1000).map(lambda tenths: tenths / 10)


@st.composite
def members(draw: st.DrawFn, name: str) -> Own:
    score, mrr = draw(scores), draw(NUMBERS)
    return own(
        name, score, mrr,
        status=draw(st.sampled_from(["active", "trial", "paused", "ended", None])),
        band=None if score is None else draw(st.sampled_from(["red", "yellow", "green"])),
        currency=draw(st.sampled_from(["USD", "USD", "USD", "JPY", None])),
        incomplete=draw(st.booleans()), umbrella=draw(st.booleans()), card=draw(st.sampled_from(["a@1", "a@2", "b@1"])),
    )  # fmt: skip


@st.composite
def told_by(draw: st.DrawFn, name: str, depth: int = 2) -> dict[str, Any]:
    below = None
    if depth and draw(st.booleans()):
        parts = [draw(told_by(f"{name}.{number}", depth - 1)) for number in range(draw(st.integers(1, 3)))]
        below = naive(parts)
    return as_child(draw(members(name)), below)


def naive(told: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not told:
        return None
    priced = [one for one in told if one["mrr"] is not None and one["children"]]
    currencies = {one["currency"] for one in priced} - {None}
    mixed = len(currencies) > 1 or any(one["mixed"] for one in told)
    scored = [one for one in told if one["score"] is not None]
    known = [one["mrr"] for one in scored if one in priced]
    weights = [one["mrr"] if one in priced else sum(known) / len(known) if known else 0.0 for one in scored]
    if mixed or not sum(known) > 0:
        weights = [1.0 for _ in scored]
    worst = [one["worst"] for one in told if one["worst"] is not None]
    worst.sort(key=lambda one: (one["score"], -(-1 if one["mrr"] is None else one["mrr"])))
    mean = sum(w * one["score"] for w, one in zip(weights, scored, strict=True)) / sum(weights) if scored else None
    return {
        "children": sum(one["children"] for one in told),
        "red": sum(one["red"] for one in told),
        "score": None if mean is None else float(np.round(mean, 1)),
        "mrr": float(np.round(sum(one["mrr"] for one in priced), 4)) if priced and not mixed else None,
        "mrr_at_risk": float(np.round(sum(one["mrr_at_risk"] for one in priced), 4)) if priced and not mixed else None,
        "currency": next(iter(currencies), None) if len(currencies) == 1 else None,
        "mixed": mixed,
        "incomplete": any(one["incomplete"] for one in scored),
        "worst": worst[0] if worst else None,
        "cards": dict(sum((Counter(one["cards"]) for one in told), Counter())),
    }


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({"a@1": 2}, {"a@1": 1, "a@2": 1}, True),
        ({"a@1": 1, "a@2": 1}, {"a@2": 2}, True),
        ({"a@1": 2}, {"a@1": 3}, False),
        ({"a@1": 2}, {"a@1": 2, "b@1": 1}, False),
        ({"a@1": 2, "b@1": 1}, {"a@1": 2}, False),
        ({}, {"a@1": 1}, False),
    ],
)
def test_another_card_is_told_from_who_joins_or_leaves(
    before: dict[str, int], now: dict[str, int], changed: bool
) -> None:
    assert cards_changed(before, now) is changed


@settings(max_examples=300)
@given(st.data(), st.integers(1, 4))
def test_equal_to_the_reference(data: st.DataObject, size: int) -> None:
    rows = sorted(data.draw(st.lists(st.integers(0, size - 1), max_size=10)))
    told = [data.draw(told_by(f"c{number}")) for number in range(len(rows))]
    found = roll_up(Children.of(rows, told), size)
    for place in range(size):
        mine = [one for row, one in zip(rows, told, strict=True) if row == place]
        assert found.below(place) == naive(mine)


@settings(max_examples=100)
@given(st.data())
def test_the_mean_lies_between_the_children_and_the_worst_is_no_better_than_any(data: st.DataObject) -> None:
    told = [as_child(data.draw(members(f"c{number}")), None) for number in range(data.draw(st.integers(1, 8)))]
    found = parent_of(*told)
    marks = [one["score"] for one in told if one["score"] is not None]
    if found["score"] is not None:
        assert min(marks) - 0.05 <= found["score"] <= max(marks) + 0.05
    below = [one["worst"]["score"] for one in told if one["worst"]]
    assert (found["worst"] or {"score": math.inf})["score"] == min(below, default=math.inf)


def test_the_signals_of_a_parent() -> None:
    told = [as_child(own("x", 90.0, 900.0), None), as_child(replace(own("y", 30.0, 100.0), name=None), None)]
    known = replace(facts(NOW, [Account(start=NOW), Account(start=NOW)]), children=Children.of([0, 0], told))
    table = compute(known, [NOW - timedelta(days=1), NOW], REFS, Observed(NOW))
    assert [table.row(0)[str(ref)] for ref in REFS] == [2.0, 84.0, 1.0, 1000.0, 100.0, "y", 30.0]
    assert [table.row(1)[str(ref)] for ref in REFS] == [0.0, None, None, None, None, None, None]
    assert all(table.row(0, 0)[str(ref)] is None for ref in REFS), "what children said yesterday is not kept"
    assert np.isnat(next_change(known, NOW, REFS, Observed(NOW))).all()


def test_an_incomplete_score_below_makes_the_mean_incomplete_not_unknown() -> None:
    told = [as_child(own("x", 90.0, incomplete=True), None)]
    known = replace(facts(NOW, [Account(start=NOW)]), children=Children.of([0], told))
    table = compute(known, [NOW], REFS, Observed(NOW))
    assert table.columns["children_score"][0, 0] == 90.0
    assert table.incomplete["children_score"].all()


def test_nobody_misses_the_use_of_an_umbrella() -> None:
    start = NOW - timedelta(days=60)
    told = [as_child(own("x"), None)] * 2
    known = replace(
        facts(NOW, [Account(start=start), Account(start=start, last_login=start), Account(start=start)]),
        children=Children.of([0, 1], told),
    )
    refs = [SignalRef("days_since_login"), SignalRef("events_28d"), SignalRef("feature_used", "export")]
    table = compute(known, [NOW], [*refs, SignalRef("days_since_contact")], Observed(NOW))
    unknown = dict.fromkeys(map(str, refs))
    assert table.row(0) == {**unknown, "days_since_contact": 60.0}
    assert table.row(1)["days_since_login"] == 60.0 == table.row(2)["days_since_login"]
    assert not table.incomplete["events_28d"][0].any()
