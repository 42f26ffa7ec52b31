"""Scorecards: the lines add up, missing data is shared out and said, bands do not flutter, faults are named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from health.catalogue import SIGNALS
from health.gaps import Gap, Observed
from health.scorecard_file import Bands
from health.scorecards import FULL_MARK, Scorecards, Scores, explain, load, mrr_at_risk, ranks
from health.signals import SignalTable, compute
from health.yamlfile import FileError
from tests.facts import Account, facts

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
DEFAULT = load(ROOT / "rules" / "scorecards")

GOOD: Mapping[str, float] = {
    "seat_utilisation": 0.9, "onboarding_overdue_milestones": 0, "days_since_login": 0, "days_since_activity": 0,
    "usage_change_28d": 0.1, "active_days_28d": 20, "active_users_28d": 9, "features_used_28d": 8, "goals_reached": 2,
    "nps_last": 10, "open_tickets": 0, "failed_payments": 0,
}  # fmt: skip


def table(*rows: Mapping[str, float | None], unseen: tuple[str, ...] = ()) -> SignalTable:
    columns = {
        name: np.array([[np.nan if row.get(name) is None else float(row[name] or 0)] for row in rows]) for name in GOOD
    }
    return SignalTable(
        account_ids=tuple(f"a{n}" for n in range(len(rows))),
        at=np.zeros((len(rows), 1), dtype=np.int64),
        columns=columns,
        incomplete={name: np.ones((len(rows), 1), dtype=np.bool_) for name in unseen},
    )


def scored(signals: SignalTable, *previous: str | None, card: Scorecards = DEFAULT) -> Scores:
    accounts = [Account(account_id=account_id) for account_id in signals.account_ids]
    return card.score(signals, facts(NOW, accounts), previous or [None] * len(accounts))


def lines(scores: Scores, place: int = 0) -> dict[str, float]:
    return {line["measure"]: line["contribution"] for line in scores.contributions[place]}


def tenths(scores: Scores, place: int = 0) -> int:
    parts = [line["contribution"] * 10 for line in scores.contributions[place]]
    assert all(abs(part - round(part)) < 1e-9 for part in parts), "lines are whole tenths"
    return sum(round(part) for part in parts)


def test_a_healthy_account_has_full_marks() -> None:
    scores = scored(table(GOOD))
    assert scores.score.tolist() == [100.0]
    assert scores.band == ["green"]
    assert scores.confidence.tolist() == pytest.approx([1.0])
    assert scores.scorecard == [DEFAULT.name]
    assert re.fullmatch(r"default@[0-9a-f]{12}", DEFAULT.name)
    assert explain(scores.contributions[0], "en") == "Health score 100: nothing counts against it."


def test_silence_costs_its_share_and_the_cap_makes_it_red() -> None:
    scores = scored(
        table({**GOOD, "days_since_login": 30}, {**GOOD, "days_since_login": 30, "days_since_activity": 30})
    )
    assert lines(scores)["login-recency"] == -20.0, "half of the 40 of Engagement"
    assert scores.score.tolist() == [80.0, 39.9]
    assert scores.band == ["green", "red"]
    assert lines(scores, 1)["silent"] == pytest.approx(-40.1)
    assert explain(scores.contributions[1], "en") == (
        "Health score 39.9: silent for 30 days: red (−40.1); no login for 30 days (−20)."
    )
    assert explain(scores.contributions[1], "ja") == "スコア39.9:30日利用なしのため赤(−40.1)、30日ログインなし(−20)。"


def test_a_failing_payment_caps_at_forty() -> None:
    scores = scored(table({**GOOD, "failed_payments": 1}))
    assert scores.score.tolist() == [40.0]
    assert scores.band == ["yellow"]
    assert lines(scores)["payments"] + lines(scores)["payment-failing"] == -60


def test_the_weight_of_a_missing_input_is_shared_and_it_says_so() -> None:
    scores = scored(table({**GOOD, "nps_last": None, "failed_payments": None, "open_tickets": 6}))
    by_measure = {line["measure"]: line for line in scores.contributions[0]}
    assert by_measure["nps"]["reason"]["en"] == "no data; its weight is shared among the others"
    assert (by_measure["nps"]["value"], by_measure["nps"]["points"], by_measure["nps"]["weight"]) == (None, None, 0)
    assert by_measure["tickets"]["weight"] == 0.1, "ROI keeps its 20, goals and tickets halve it"
    assert by_measure["tickets"]["contribution"] == -10
    assert scores.confidence[0] == pytest.approx(1 - 0.2 * 3 / 5)


def test_a_missing_group_is_shared_among_the_others() -> None:
    scores = scored(table({**GOOD, "seat_utilisation": None, "onboarding_overdue_milestones": None}))
    weights = {line["measure"]: line["weight"] for line in scores.contributions[0]}
    assert weights["login-recency"] == 0.25
    assert scores.score.tolist() == [100.0]


def test_below_the_minimum_confidence_there_is_no_score() -> None:
    scores = scored(table({"nps_last": 3}, {}))
    assert np.isnan(scores.score).all()
    assert scores.band == [None, None]
    assert explain(scores.contributions[0], "en") == "Too little is known for a health score."
    assert {line["contribution"] for line in scores.contributions[0]} == {0}


values = st.fixed_dictionaries(
    {name: st.none() | st.floats(-2, 60, allow_nan=False) | st.integers(-1, 12) for name in GOOD}
)


@settings(max_examples=150, deadline=None)
@given(st.lists(values, min_size=1, max_size=5))
def test_lines_add_up_to_the_score_exactly(rows: list[dict[str, float | None]]) -> None:
    scores = scored(table(*rows))
    for place, score in enumerate(scores.score.tolist()):
        if np.isnan(score):
            assert FULL_MARK not in lines(scores, place)
            continue
        assert 0 <= score <= 100
        assert tenths(scores, place) == round(score * 10)
        assert all(amount <= 0 for name, amount in lines(scores, place).items() if name != FULL_MARK)


@settings(max_examples=50, deadline=None)
@given(st.lists(values, min_size=2, max_size=4))
def test_accounts_do_not_influence_each_other(rows: list[dict[str, float | None]]) -> None:
    together = scored(table(*rows))
    for place, row in enumerate(rows):
        alone = scored(table(row))
        assert alone.contributions[0] == together.contributions[place]
        assert alone.band[0] == together.band[place]


@pytest.mark.parametrize(
    ("score", "before", "after"),
    [
        (70, None, "green"), (69.9, None, "yellow"), (39.9, None, "red"), (np.nan, "green", None),
        (69.9, "green", "yellow"), (72.9, "yellow", "yellow"), (73, "yellow", "green"),
        (42.9, "red", "red"), (43, "red", "yellow"), (70, "red", "yellow"), (73, "red", "green"),
        (39.9, "green", "red"),
    ],
)  # fmt: skip
def test_bands_fall_at_the_border_and_rise_three_points_above_it(
    score: float, before: str | None, after: str | None
) -> None:
    places = ("red", "yellow", "green")
    rank = ranks(np.array([score]), np.array([places.index(before) if before else -1]), Bands())[0]
    assert (places[rank] if rank >= 0 else None) == after


def test_missing_for_want_of_observation_does_not_change_the_band() -> None:
    weak = {**GOOD, "days_since_login": 30, "nps_last": 0, "goals_reached": 0, "features_used_28d": 0}
    blind = {**weak, "active_users_28d": None, "active_days_28d": None, "usage_change_28d": None}
    names = ("active_users_28d", "active_days_28d", "usage_change_28d")
    assert scored(table(blind), "green").band == ["red"], "really missing: the rest decides"
    held = scored(table(blind, unseen=names), "yellow")
    assert held.band == ["yellow"]
    assert held.incomplete.tolist() == [True]
    assert "data incomplete" in {line["measure"]: line for line in held.contributions[0]}["people"]["reason"]["en"]
    failing = {**blind, "failed_payments": 1, "days_since_activity": 40}
    assert scored(table(failing, unseen=names), "green").band == ["red"], "no missing value could keep it green"


def test_a_lost_gap_keeps_everybodys_band() -> None:
    def at_day(silent: float, observed: Observed, previous: str | None) -> Scores:
        account = Account(
            start=NOW - timedelta(days=300),
            last_login=NOW - timedelta(days=silent),
            last_activity=NOW - timedelta(days=silent),
            events=dict.fromkeys(range(16, 90), 4),
            users=[range(16, 90)],
            attributes={"seats": 1},
        )
        known = facts(NOW, [account])
        return DEFAULT.score(compute(known, [NOW], DEFAULT.refs, observed), known, [previous])

    lost = Observed(NOW, (Gap("app", NOW - timedelta(days=15.9), NOW - timedelta(hours=1), "lost"),))
    assert at_day(16, Observed(NOW), "green").band == ["yellow"]
    assert at_day(16, lost, "green").band == ["green"]


def test_mrr_at_risk() -> None:
    at_risk = mrr_at_risk(np.array([100.0, 100.0, 100.0, 100.0, np.nan]), ["red", "yellow", "green", None, "red"])
    assert at_risk[:3].tolist() == [100, 50, 0]
    assert np.isnan(at_risk[3:]).all()
    assert mrr_at_risk(np.array([100.0]), ["yellow"], {**DEFAULT.at_risk, "yellow": 0.2}).tolist() == [20]


def write(folder: Path, text: str) -> Path:
    (folder / "card.yaml").write_text(text, encoding="utf-8")
    return folder


CARD = """\
scorecard: small
title: {en: Small, ja: 小}
groups: {Engagement: 1}
measures:
  - id: login
    group: Engagement
    signal: days_since_login
    weight: 1
    line: [[0, 100], [30, 0]]
    reason: {en: "no login for {value}", ja: "{value}ログインなし"}
"""


def test_the_version_is_of_what_the_card_says(tmp_path: Path) -> None:
    plain = load(write(tmp_path, CARD)).name
    assert load(write(tmp_path, "# a comment\n" + CARD)).name == plain
    assert load(write(tmp_path, CARD.replace("30, 0", "31, 0"))).name != plain


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("days_since_login", "days_since_logn",
         "card.yaml:7:5: there is no signal called 'days_since_logn' (did you mean days_since_login?)"),
        ("days_since_login", "days_since_feature",
         "card.yaml:7:5: days_since_feature needs a feature; write days_since_feature['…']"),
        ("days_since_login", "plan", "card.yaml:7:5: plan is a text; a scorecard takes numbers and booleans"),
        ("days_since_login", "score", "card.yaml:7:5: score comes from the scorecard and cannot go into it"),
        ("group: Engagement", "group: Engagment",
         "card.yaml:6:5: measures.0.group is one of Deployment, Engagement, Adoption, ROI (did you mean Engagement?)"),
        ("group: Engagement", "group: ROI", "card.yaml:6:5: groups gives no weight for ROI"),
        ("weight: 1", "weight: 0", "card.yaml:8:5: measures.0.weight: Input should be greater than 0"),
        ("    weight: 1\n", "", "card.yaml:5:5: measures.0.weight is missing"),
        ("weight: 1", "wieght: 1",
         "8:5: measures.0.wieght: there is no such key; remove it or correct its name (did you mean weight?)"),
        ("weight: 1", "weight: 1\n    weight: 2", "card.yaml:9:5: weight is given twice"),
        ("[30, 0]", "[0, 0]", "card.yaml:5:5: measures.0: the values of line or steps must ascend"),
        ("[30, 0]", "[30, 101]", "card.yaml:9:27: measures.0.line.1.1: Input should be less than or equal to 100"),
        ("{value}ログイン", "{valeu}ログイン", "measures.0.reason: only {value} may stand in braces"),
        ("line: [[0", "line: [[[0", "card.yaml:10:5: not YAML"),
        ("title: {", "title: &t {", None),
        ("[30, 0]]", "[30, 0]]\n    steps: [[0, 1], [1, 2]]", "give either line or steps"),
        ("{Engagement: 1}", "{Engagement: 1, ROI: 1}", "card.yaml:3:25: no measure belongs to ROI"),
    ],
)  # fmt: skip
def test_faults_are_named_by_place_and_nearest_name(tmp_path: Path, old: str, new: str, problem: str | None) -> None:
    assert old in CARD
    folder = write(tmp_path, CARD.replace(old, new, 1))
    if problem is None:
        load(folder)
        return
    with pytest.raises(FileError) as refused:
        load(folder)
    assert problem in str(refused.value)


def test_aliases_empty_folders_and_second_cards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no scorecard here"):
        load(tmp_path)
    aliased = CARD.replace("title: {en: Small, ja: 小}", "title: &t {en: Small, ja: 小}\ncaps: [*t]")
    with pytest.raises(FileError, match="aliases are not taken"):
        load(write(tmp_path, aliased))
    (tmp_path / "other.yaml").write_text(CARD, encoding="utf-8")
    with pytest.raises(FileError, match=r"other.yaml:1:1: one scorecard is in force"):
        load(tmp_path)


def test_the_default_card_uses_what_the_catalogue_has() -> None:
    assert {ref.name for ref in DEFAULT.refs} <= set(SIGNALS)
    assert set(GOOD) == {str(ref) for ref in DEFAULT.refs}
