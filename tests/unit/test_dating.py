"""Dates that are remembered for a day, and dates for which the facts of a live evaluation are enough."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from alerts import dating, since
from alerts.remembered import Memory, Remembered
from alerts.rules.expression import Compiled, compile_expression
from health import signals
from health.catalogue import SIGNALS, SignalRef
from health.columns import Facts
from health.custom import NONE
from health.gaps import Gap, Observed
from health.instants import Instants
from tests.facts import Account, Record, facts

NOON = datetime(2025, 6, 15, 12, tzinfo=UTC)
DAYS = 450
DAY = timedelta(days=1)
CONDITIONS = (
    "days_since_login >= 14",
    "days_since_login % 5 = 3 OR days_since_activity >= 7",
    "usage_change_28d <= -0.5 AND days_since_start >= 56 AND events_28d < 40",
    "NOT feature_used['export'] AND days_since_start >= 30",
    "feature_used['export'] AND days_since_feature['export'] >= 28",
    "nps_last <= 6 AND days_since_survey <= 180",
    "logins_7d = 0 OR active_days_28d <= 2",
    "champion_gone AND days_since_start >= 56",
)


def ago(hours: float) -> datetime:
    return NOON - timedelta(hours=hours)


def rule(condition: str) -> Any:
    compiled = compile_expression(condition, SIGNALS)
    assert isinstance(compiled, Compiled), compiled
    return SimpleNamespace(when=compiled, version=condition)


def made(account: Account, now: datetime) -> Facts:
    return facts(now, [account], days=DAYS)


def remembered(memory: Memory, known: Facts, observed: Observed) -> Remembered:
    return Remembered(memory, known, np.zeros(1, dtype=np.bool_), observed, NONE)


def holds(asked: Any, known: Facts, observed: Observed) -> bool:
    table = signals.compute(known, [known.now], asked.when.refs, observed)
    return bool(asked.when.evaluate(table.columns)[0, 0] == 1.0)


def dated(asked: Any, known: Facts, observed: Observed) -> datetime:
    return since.began(asked, known, [0], [None], observed, known.now)[0]


LAST = {"last_login": ago(24 * 40), "last_activity": ago(24 * 9), "start": ago(24 * 400)}


def silent(**more: Any) -> Account:
    known: dict[str, Any] = {"events": dict.fromkeys(range(30, 60), 5) | {9: 1}, **LAST}
    return Account(**{**known, **more})


def remembered_after(before: Account, after: Account, condition: str, *gaps: Gap) -> datetime | None:
    """What is remembered of ``before`` when ``after`` is looked at an hour later."""
    memory = Memory()
    asked, early, late = rule(condition), made(before, NOON), made(after, NOON + timedelta(hours=1))
    remembered(memory, early, Observed(NOON)).remember(asked, 0, dated(asked, early, Observed(NOON)))
    return remembered(memory, late, Observed(late.now, gaps)).date_of(asked, 0)


def test_what_was_used_today_does_not_date_a_missing_login_anew() -> None:
    after = silent(last_activity=NOON, events={**silent().events, 0: 3})
    assert remembered_after(silent(), after, "days_since_login >= 14") == ago(24 * 26)
    assert remembered_after(silent(), after, "events_28d < 10") is not None, "counts of past days are the same"


@pytest.mark.parametrize(
    ("condition", "more"),
    [
        ("days_since_login >= 14", {"last_login": ago(24 * 20)}),
        ("events_28d < 10", {"events": {**silent().events, 3: 1}}),
        ("days_since_start >= 30 AND NOT feature_used['export']", {"start": ago(24 * 500)}),
        ("days_since_start >= 30 AND NOT feature_used['export']", {"features": {"export": (ago(1), ago(1))}}),
        ("nps_last <= 6 OR days_since_start >= 1", {"surveys": [(ago(2), 3.0)]}),
        ("mrr > 0 OR days_since_login >= 14", {}),
    ],
)
def test_what_moves_a_date_has_it_found_anew(condition: str, more: Mapping[str, Any]) -> None:
    assert remembered_after(silent(), silent(**more), condition) is None


def test_a_gap_has_every_date_found_anew() -> None:
    gap = Gap(None, ago(24 * 30), ago(24 * 28), "lost")
    assert remembered_after(silent(), silent(), "days_since_login >= 14") is not None
    assert remembered_after(silent(), silent(), "days_since_login >= 14", gap) is None


def test_a_date_of_today_and_a_date_of_yesterday_are_not_remembered() -> None:
    today = silent(last_login=ago(24 * 14 + 3))
    assert remembered_after(today, today, "days_since_login >= 14") is None
    memory = Memory()
    asked, known = rule("days_since_login >= 14"), made(silent(), NOON)
    remembered(memory, known, Observed(NOON)).remember(asked, 0, dated(asked, known, Observed(NOON)))
    assert remembered(memory, made(silent(), NOON + DAY), Observed(NOON + DAY)).date_of(asked, 0) is None


def test_what_is_remembered_holds_nothing_of_its_batch() -> None:
    """Gaps are made anew for each batch, and some are never over."""
    memory = Memory()
    asked, known = rule("days_since_login >= 14"), made(silent(), NOON)
    gap = Gap(None, ago(24 * 18), ago(24 * 16), "lost")
    observed = Observed(NOON, (gap,))
    remembered(memory, known, observed).remember(asked, 0, dated(asked, known, observed))
    assert len(memory.dates) == 1
    reached: list[object] = [memory.dates]
    for each in reached:
        reached += gc.get_referents(each) if isinstance(each, dict | tuple) else []
    assert asked.version in reached
    assert not any(isinstance(each, Gap) for each in reached)


def test_nothing_is_remembered_before_the_position_has_passed_midnight() -> None:
    midnight = NOON.replace(hour=0)
    for now, through in ((midnight, midnight), (midnight + timedelta(minutes=1), midnight - timedelta(seconds=1))):
        memory = Memory()
        asked, known = rule("days_since_login >= 14"), made(silent(), now)
        remembered(memory, known, Observed(through)).remember(asked, 0, dated(asked, known, Observed(through)))
        assert remembered(memory, made(silent(), NOON), Observed(NOON)).date_of(asked, 0) is None


hours = st.integers(0, 24 * 60)
counts = st.dictionaries(st.integers(0, 70), st.integers(1, 9), max_size=12)


@st.composite
def accounts(draw: st.DrawFn) -> tuple[Account, Account]:
    """One account, and the same after some more events."""
    first: dict[str, Any] = {
        "start": ago(24 * draw(st.sampled_from([20, 90, 400]))),
        "last_login": draw(st.none() | hours.map(ago)),
        "last_activity": draw(st.none() | hours.map(ago)),
        "events": draw(counts),
        "logins": draw(counts),
        "users": draw(st.lists(st.lists(st.integers(0, 110), max_size=6), max_size=3)),
        "features": draw(st.dictionaries(st.sampled_from(["export", "share"]), hours.map(lambda n: (ago(n), ago(n))))),
        "surveys": draw(st.lists(st.tuples(hours.map(ago), st.floats(0, 10)), max_size=2)),
    }
    users = [day for user in first["users"] for day in user]
    first["events"] = {**first["events"], **dict.fromkeys(users, 1)}
    after = dict(first)
    for name in draw(st.lists(st.sampled_from(["last_login", "events today", "events", "feature", "survey", "users"]))):
        at = draw(hours)
        if name == "last_login":
            after[name] = ago(at)
        elif name == "feature":
            after["features"] = {**after["features"], draw(st.sampled_from(["export", "share"])): (ago(at), ago(at))}
        elif name == "survey":
            after["surveys"] = [*after["surveys"], (ago(at), 2.0)]
        else:
            day = 0 if name == "events today" else at // 24
            after["events"] = {**after["events"], day: after["events"].get(day, 0) + 1}
            if name == "users":
                after["users"] = [*after["users"], [day]]
    return Account(**first), Account(**after)


@settings(max_examples=150)
@given(accounts(), st.sampled_from(CONDITIONS), st.integers(1, 11 * 60), st.booleans())
def test_a_date_that_is_remembered_is_the_date_that_would_be_found(
    known: tuple[Account, Account], condition: str, later: int, gap: bool
) -> None:
    asked, gaps = rule(condition), (Gap(None, ago(24 * 18), ago(24 * 16), "lost"),) if gap else ()
    looks = [
        (made(account, now), Observed(now, gaps))
        for account, now in zip(known, (NOON, NOON + timedelta(minutes=later)), strict=True)
    ]
    assume(all(holds(asked, *look) for look in looks))
    memory = Memory()
    (before, observed), (after, observed_later) = looks
    remembered(memory, before, observed).remember(asked, 0, dated(asked, before, observed))
    found = remembered(memory, after, observed_later).date_of(asked, 0)
    assert found is None or found == dated(asked, after, observed_later)


@pytest.mark.parametrize(
    ("condition", "last_login", "asked_for"),
    [
        ("days_since_login >= 14", ago(1), False),
        ("days_since_login >= 14", ago(48), True),
        ("days_since_login >= 14 OR days_since_start > 10", ago(1), True),
        ("coalesce(days_since_login, 0) >= 14", ago(1), True),
    ],
)
def test_a_silence_that_a_later_login_ends_was_one_when_it_was_told(
    condition: str, last_login: datetime, asked_for: bool
) -> None:
    """Whether the past is asked at all: at the alert's opening nothing was known of a silence that began later."""
    asked, known = rule(condition), made(silent(last_login=last_login), NOON)
    batch: Any = SimpleNamespace(facts=known)
    opened_at = ago(24)
    assert dating._began_since(batch, asked, 0, opened_at) is not asked_for
    if not asked_for:
        assert since.disproved(asked, known, [0], [opened_at], Observed(NOON)) == [False]


class Untold(Mapping[str, Instants]):
    """History that must not be asked for."""

    def __getitem__(self, name: str) -> Instants:
        raise AssertionError(f"the history of {name} was asked for")

    def get(self, name: str, default: Any = None) -> Any:
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_signals_without_history_ask_for_none() -> None:
    """Of attributes, and of users further back than a live evaluation reads."""
    refs = [SignalRef(name, "export" if signal.parameter else None) for name, signal in SIGNALS.items()]
    plain = [ref for ref in refs if not dating.needs_history([ref], NONE)]
    assert {"days_since_login", "usage_change_28d", "feature_used"} <= {ref.name for ref in plain}
    assert not {"mrr", "champion_gone", "active_users_28d", "lifecycle_stage"} & {ref.name for ref in plain}
    record = Record(taken={"open": ago(50), "planned": ago(60), "failed": ago(70)}, due_on=NOON.date())
    account = silent(tickets=[record], payments=[record], milestones=[record], surveys=[(ago(90), 3.0)],
                     users=[[1, 2, 100]], feature_days={"export": [1, 100]})  # fmt: skip
    known = made(account, NOON)
    users, used = known.users, known.feature_days
    short = replace(known, known_from=Untold(), users=replace(users, active=users.active[:, -92:]),
                    feature_days=replace(used, active=used.active[:, -92:]))  # fmt: skip
    at: Sequence[datetime] = [NOON - DAY * back for back in range(0, 300, 7)]
    past = signals.compute(known, at, plain, Observed(NOON)).columns
    for name, values in signals.compute(short, at, plain, Observed(NOON)).columns.items():
        np.testing.assert_array_equal(values, past[name], name)
    assert signals.steps(short, plain, NOON - DAY * 300, NOON, Observed(NOON)).size
