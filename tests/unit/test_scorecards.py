"""Scorecards: the lines add up, missing data is shared out and said, bands do not flutter, faults are named."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from health.catalogue import SIGNALS
from health.gaps import Gap, Observed
from health.score_lines import Line, full_mark, spoken
from health.scorecard_file import Bands, Card, schema_text
from health.scorecards import FULL_MARK, CardInForce, Override, Scorecards, Scores, explain, load, ranks
from health.signals import SignalTable, compute
from health.yamlfile import FileError
from tests.facts import Account, facts

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
DEFAULT = load(ROOT / "rules" / "scorecards")

GOOD: Mapping[str, float] = {
    "seat_utilisation": 0.9, "onboarding_overdue_milestones": 0, "days_since_login": 0, "days_since_activity": 0,
    "usage_change_28d": 0.1, "active_days_28d": 20, "active_users_28d": 9, "features_used_28d": 8,
    "goals_progress": 1, "goals_on_track": 1, "nps_last": 10, "open_tickets": 0, "failed_payments": 0,
    "churn_odds": 0.4, "usual_pause": 1.8, "pause_tail": 0.6,
}  # fmt: skip


def table(*rows: Mapping[str, float | None], unseen: tuple[str, ...] = ()) -> SignalTable:
    columns = {
        name: np.array([[np.nan if row.get(name) is None else float(row[name] or 0)] for row in rows])
        for name in {*GOOD, *(str(ref) for ref in DEFAULT.refs if SIGNALS[ref.name].type == "number")}
    }
    columns["status"] = np.full((len(rows), 1), None, dtype=object)
    columns["goal_most_behind"] = np.full((len(rows), 1), None, dtype=object)
    return SignalTable(
        account_ids=tuple(f"a{n}" for n in range(len(rows))),
        at=np.zeros((len(rows), 1), dtype=np.int64),
        columns=columns,
        incomplete={name: np.ones((len(rows), 1), dtype=np.bool_) for name in unseen},
    )


def scored(
    signals: SignalTable,
    *previous: str | None,
    card: Scorecards = DEFAULT,
    overrides: Sequence[Override | None] | None = None,
) -> Scores:
    accounts = [Account(account_id=account_id) for account_id in signals.account_ids]
    return card.score(signals, facts(NOW, accounts), previous or [None] * len(accounts), overrides)


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
    assert scores.scorecard == [DEFAULT.cards[-1].name]
    assert re.fullmatch(r"default@[0-9a-f]{12}", DEFAULT.cards[-1].name)
    assert explain(scores.contributions[0], "en") == "Health score 100: nothing counts against it."


def test_silence_costs_its_share_and_the_cap_makes_it_red() -> None:
    scores = scored(
        table({**GOOD, "days_since_login": 30}, {**GOOD, "days_since_login": 30, "days_since_activity": 30})
    )
    assert lines(scores)["login-recency"] == -12.0, "three tenths of the 40 of Engagement"
    assert scores.score.tolist() == [88.0, 39.9]
    assert scores.band == ["green", "red"]
    assert lines(scores, 1)["silent"] == pytest.approx(-48.1)
    assert explain(scores.contributions[1], "en") == (
        "Health score 39.9: silent for 30 days: red (−48.1); no login for 30 days (−12)."
    )
    assert explain(scores.contributions[1], "ja") == "スコア39.9:30日利用なしのため赤(−48.1)、30日ログインなし(−12)。"


def test_what_is_said_of_several_accounts_is_written_once_and_is_the_line() -> None:
    first, second = scored(table(GOOD, {**GOOD, "days_since_login": 30})).contributions
    assert {type(line) for line in first} == {Line}
    assert [json.loads(line.written()) for line in first if isinstance(line, Line)] == first
    assert [one is other for one, other in zip(first, second, strict=True)].count(False) == 1
    assert all(line.written() is line.written() for line in first if isinstance(line, Line))


def test_lines_that_differ_in_one_thing_alone_are_others() -> None:
    """By the value, by the weight (another measure has no data), by why a value is missing."""
    missing = {**GOOD, "nps_last": None}
    found = {
        name: {line["measure"]: line for line in scored(signals).contributions[0]}
        for name, signals in (
            ("good", table(GOOD)),
            ("late", table({**GOOD, "days_since_login": 30})),
            ("missing", table(missing)),
            ("unseen", table(missing, unseen=("nps_last",))),
        )
    }
    assert {name: lines["login-recency"]["value"] for name, lines in found.items()} == {
        "good": 0, "late": 30, "missing": 0, "unseen": 0,
    }  # fmt: skip
    assert found["good"]["goals"]["weight"] < found["missing"]["goals"]["weight"] == found["unseen"]["goals"]["weight"]
    assert found["missing"]["nps"]["reason"] != found["unseen"]["nps"]["reason"]


def test_threads_that_score_by_the_same_card_do_not_mix_up_its_lines() -> None:
    """Which measures are known differs from account to account, and so do the weights."""
    chance = Random(3)
    tables = [
        table(*({name: value if chance.random() < 0.6 else None for name, value in GOOD.items()} for _ in range(100)))
        for _ in range(4)
    ]
    expected = [scored(each).contributions for each in tables]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            card = load(ROOT / "rules" / "scorecards")
            with ThreadPoolExecutor(4) as threads:
                found = [scores.contributions for scores in threads.map(partial(scored, card=card), tables)]
            assert found == expected
    finally:
        sys.setswitchinterval(interval)


def test_a_card_that_forgets_what_it_said_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**GOOD, name: value} for name in GOOD for value in (None, 3.0)]
    expected = scored(table(*rows)).contributions
    card = load(ROOT / "rules" / "scorecards")
    monkeypatch.setattr("health.scoring.MOST_SAID", 2)
    monkeypatch.setattr("health.score_lines.MOST_SAID", 2)
    for row, said in zip(rows, expected, strict=True):
        assert scored(table(row), card=card).contributions == [said]
    assert scored(table(*rows), card=card).contributions == expected


def test_the_rhythm_is_told_in_a_sentence() -> None:
    worse = {**GOOD, "churn_odds": 2.6, "days_since_activity": 12, "usual_pause": 2.2, "pause_tail": 0.03}
    scores = scored(table(worse))
    points = {line["measure"]: line["points"] for line in scores.contributions[0]}
    assert points["rhythm"] == pytest.approx(70 - 30 * np.log2(2.6), abs=1.5), "by the rule's own formula"
    assert scores.band == ["yellow"], "doubled odds are not green"
    assert explain(scores.contributions[0], "en") == (
        "Health score 69.9: odds of leaving 2.6 times the average: not green (−18.8); silent for 12 days, usually back "
        "after 2 days, 3% of pauses by it and accounts like it lasted longer, odds of leaving 2.6 times the average "
        "(−11.3)."
    )
    assert explain(scores.contributions[0], "ja") == (
        "スコア69.9:解約オッズが平均の2.6倍のため緑にしない(−18.8)、12日利用なし、通常の利用間隔は約2日、"
        "同社や似た顧客の中断のうちこれより長いものは3%、解約オッズは平均の2.6倍(−11.3)。"
    )


@pytest.mark.parametrize(
    ("value", "unit", "en", "ja"),
    [
        (1_500_000.0, "money", "1,500,000", "1,500,000"),
        (1_234_567.0, "events", "1,234,567", "1,234,567"),
        (-1234.5, "money", "−1,234.5", "−1,234.5"),
        (3.3333333, "hours", "3.33", "3.33"),
        (-0.3, "days", "0 days", "0日"),
        (-0.001, "change", "0%", "0%"),
        (-0.25, "change", "−25%", "−25%"),
        (0.0, "times", "0 times", "0倍"),
        (2.64, "times", "2.6 times", "2.6倍"),
        (99.7, "times", "100 times", "100倍"),
        (1313.0, "times", "over 100 times", "100倍超"),
        (None, "days", "unknown", "不明"),
        (1.0, "boolean", "yes", "はい"),
        (0.0, "boolean", "no", "いいえ"),
    ],
)
def test_a_value_is_written_as_people_write_it(value: float | None, unit: str, en: str, ja: str) -> None:
    assert spoken(value, unit) == (en, ja)


def test_a_name_keeps_its_brackets_in_every_language() -> None:
    reason = dict.fromkeys(("en", "ja"), "Acme (UK) 29")
    told = [full_mark(), {"measure": "children", "contribution": -12.5, "reason": reason}]
    assert explain(told, "en") == "Health score 87.5: Acme (UK) 29 (−12.5)."
    assert explain(told, "ja") == "スコア87.5:Acme (UK) 29(−12.5)。"


@pytest.mark.parametrize("odds", [0.5, 0.8, 1, 1.2, 1.41, 1.7, 2, 3, 4, 4.7, 5.04, 9])
def test_every_doubling_of_the_odds_costs_thirty_points(odds: float) -> None:
    line = next(
        line for line in scored(table({**GOOD, "churn_odds": odds})).contributions[0] if line["measure"] == "rhythm"
    )
    assert line["points"] == pytest.approx(np.clip(70 - 30 * np.log2(odds), 0, 100), abs=1)


def test_trials_and_the_first_ninety_days_of_a_plan_have_a_card_of_their_own() -> None:
    rows = table(
        {**GOOD, "onboarding_day": 3}, {**GOOD, "onboarding_day": 3, "onboarding_overdue_milestones": None}, GOOD
    )
    rows.columns["status"][2, 0] = "trial"
    names = [name.partition("@")[0] for name in scored(rows).scorecard]
    assert names == ["onboarding", "default", "onboarding"]
    assert [card.card.scorecard for card in DEFAULT.cards] == ["onboarding", "parents", "default"]


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
    assert weights["login-recency"] == 0.15
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


@settings(max_examples=150)
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


@st.composite
def cards(draw: st.DrawFn) -> Scorecards:
    """Any card over the signals of GOOD: lines and steps, weights, worst-of groups, caps, borders."""
    signals = draw(st.lists(st.sampled_from(sorted(GOOD)), min_size=1, max_size=8))
    groups = draw(st.lists(st.sampled_from(["Deployment", "Engagement", "Adoption", "ROI"]), min_size=1, unique=True))
    belongs = [*groups, *draw(st.lists(st.sampled_from(groups), min_size=8, max_size=8))]
    signals += [signals[0]] * (len(groups) - len(signals))
    weights, marks = st.floats(0.01, 1000), st.floats(0, 100)
    bounds = st.lists(st.floats(-3, 60), min_size=2, max_size=4, unique=True).map(sorted)
    said = {"en": "it is {value}", "ja": "{value}"}
    measures = [
        {"id": f"m{number}", "group": belongs[number], "signal": signal, "weight": draw(weights), "reason": said,
         draw(st.sampled_from(["line", "steps"])): [(bound, draw(marks)) for bound in draw(bounds)]}
        for number, signal in enumerate(signals)
    ]  # fmt: skip
    caps = [
        {"id": f"c{number}", "signal": draw(st.sampled_from(sorted(GOOD))), "reason": said,
         draw(st.sampled_from(["at_least", "below"])): draw(st.floats(-3, 60)),
         "limit": draw(marks | st.sampled_from(["yellow", "red"]))}
        for number in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    combine = st.sampled_from(["weighted", "worst"])
    content = {
        "scorecard": "any", "title": said, "measures": measures, "caps": caps,
        "groups": {group: {"weight": draw(weights), "combine": draw(combine)} for group in groups},
        "minimum_confidence": draw(st.floats(0, 1)),
    }  # fmt: skip
    return Scorecards([CardInForce(Card.model_validate(content), "1")])


overrides = st.none() | st.builds(
    Override,
    score=st.integers(0, 1000).map(lambda tenth: tenth / 10),
    reason=st.just("they told us"), author=st.just("mina"), expires_at=st.just(NOW + timedelta(days=30)),
)  # fmt: skip


@settings(max_examples=60)
@given(cards(), st.lists(st.tuples(values, overrides), min_size=1, max_size=4), st.booleans())
def test_lines_of_any_card_add_up_with_caps_worst_of_and_overrides(
    card: Scorecards, accounts: list[tuple[dict[str, float | None], Override | None]], unseen: bool
) -> None:
    by_hand = [override for _, override in accounts]
    signals = table(*(row for row, _ in accounts), unseen=tuple(GOOD) if unseen else ())
    scores = scored(signals, *["yellow"] * len(accounts), card=card, overrides=by_hand)
    for place, score in enumerate(scores.score.tolist()):
        override = by_hand[place]
        if np.isnan(score):
            assert override is None and FULL_MARK not in lines(scores, place)
            continue
        assert 0 <= score <= 100
        assert tenths(scores, place) == round(score * 10)
        if override is not None:
            assert score == override.score and not scores.incomplete[place]
            assert scores.contributions[place][-1]["measure"] == "override"
        signed = {FULL_MARK, "override"}
        assert all(amount <= 0 for name, amount in lines(scores, place).items() if name not in signed)
        assert explain(scores.contributions[place], "en").startswith(f"Health score {score:g}")


WORST = """\
scorecard: strict
title: {en: Strict, ja: 厳格}
groups: {Engagement: {weight: 3, combine: worst}, ROI: 1}
measures:
  - {id: login, group: Engagement, signal: days_since_login, weight: 1, line: [[0, 100], [30, 0]],
     reason: {en: "no login for {value}", ja: "{value}ログインなし"}}
  - {id: people, group: Engagement, signal: active_users_28d, weight: 1, line: [[0, 0], [10, 100]],
     reason: {en: "{value} users on {active_days_28d}", ja: "{value}名が{active_days_28d}"}}
  - {id: nps, group: ROI, signal: nps_last, weight: 1, line: [[0, 0], [10, 100]],
     reason: {en: "NPS {value}", ja: "NPS {value}"}}
"""


def test_a_group_may_count_as_its_worst_measure(tmp_path: Path) -> None:
    card = load(write(tmp_path, WORST))
    rows = table({**GOOD, "days_since_login": 0, "active_users_28d": 4, "nps_last": 10},
                 {**GOOD, "days_since_login": None, "active_users_28d": 4, "nps_last": 10})  # fmt: skip
    scores = scored(rows, card=card)
    assert scores.score.tolist() == [55, 55], "three quarters of the worst, whatever the other"
    assert lines(scores) == {FULL_MARK: 100, "login": 0, "people": -22.5, "nps": 0, "worst-of-engagement": -22.5}
    assert lines(scores, 1) == {FULL_MARK: 100, "login": 0, "people": -45, "nps": 0}
    assert scores.contributions[0][-1]["reason"] == {
        "en": "Engagement counts as its worst measure: 4 users on 20 days",
        "ja": "エンゲージメントは最も低い項目で評価:4名が20日",
    }
    unknown = scored(table({**GOOD, "active_users_28d": 4, "active_days_28d": None}), card=card)
    assert "4 users on unknown" in explain(unknown.contributions[0], "en")


def test_a_person_may_know_better_in_both_directions_and_against_caps() -> None:
    late = Override(score=72, reason="pays on the 5th", author="Mina", expires_at=datetime(2025, 7, 5, tzinfo=UTC))
    rows = table({**GOOD, "failed_payments": 1}, GOOD, {"nps_last": 3}, GOOD)
    scores = scored(rows, "yellow", "green", None, None, overrides=[late, replace(late, score=10), late, None])
    assert scores.score.tolist() == [72, 10, 72, 100]
    assert scores.band == ["green", "red", "green", "green"], "without hysteresis"
    assert [lines(scores, place).get("override") for place in range(4)] == [32, -90, -28, None]
    assert [tenths(scores, place) for place in range(4)] == [720, 100, 720, 1000]
    assert scores.overridden.tolist() == [True, True, True, False]
    assert explain(scores.contributions[0], "en").startswith(
        "Health score 72: set to 72 by Mina until 2025-07-05: pays on the 5th (+32); "
    )
    assert explain(scores.contributions[1], "ja") == "スコア10:Minaが2025-07-05まで10に設定:pays on the 5th(−90)。"


def test_a_score_set_by_hand_is_known_while_data_is_incomplete() -> None:
    blind = {**GOOD, "active_users_28d": None}
    by_hand = Override(score=50, reason="known", author="Mina", expires_at=NOW)
    scores = scored(table(blind, blind, unseen=("active_users_28d",)), "green", "green", overrides=[by_hand, None])
    assert scores.incomplete.tolist() == [False, True]
    assert scores.band == ["yellow", "green"]


def matched(tmp_path: Path, **attributes: object) -> str:
    """The card of an account with these signals, among two with match and one without."""
    match = "match: [{plan: [pro, max], touch_model: high}, {days_since_start: {below: 90}, seats: {at_least: 5}}]\n"
    for name, head in (("b-first", match), ("c-second", "match: {plan: pro}\n"), ("a-last", "")):
        card = head + CARD.replace("scorecard: small", f"scorecard: {name}")
        (tmp_path / f"{name}.yaml").write_text(card, encoding="utf-8")
    cards = load(tmp_path)
    names = ("plan", "touch_model", "days_since_start", "seats", "days_since_login")
    assert {str(ref) for ref in cards.refs} == set(names)
    columns = {
        name: np.array([[attributes.get(name, None if name in {"plan", "touch_model"} else np.nan)]],
                       dtype=object if name in {"plan", "touch_model"} else np.float64)
        for name in names
    }  # fmt: skip
    one = SignalTable(account_ids=("a",), at=np.zeros((1, 1), dtype=np.int64), columns=columns, incomplete={})
    return scored(one, card=cards).scorecard[0].partition("@")[0]


def test_the_first_card_whose_match_is_met_scores_an_account(tmp_path: Path) -> None:
    assert matched(tmp_path, plan="pro", touch_model="high") == "b-first"
    assert matched(tmp_path, plan="max", touch_model="low") == "a-last"
    assert matched(tmp_path, plan="pro", touch_model="low") == "c-second"
    assert matched(tmp_path, plan="pro", days_since_start=89.0, seats=5.0) == "b-first"
    assert matched(tmp_path, plan="pro", days_since_start=90.0, seats=5.0) == "c-second"
    assert matched(tmp_path, days_since_start=3.0) == "a-last", "the unknown meets no condition"


def test_accounts_of_several_cards_keep_their_places(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(
        CARD.replace("scorecard: small", "scorecard: few\nmatch: {open_tickets: {below: 1}}").replace("30, 0", "10, 0"),
        encoding="utf-8",
    )
    cards = load(write(tmp_path, CARD))
    rows = [{"days_since_login": 3, "open_tickets": number % 2} for number in range(5)]
    scores = scored(table(*rows), card=cards)
    assert scores.score.tolist() == [70, 90, 70, 90, 70]
    assert [name.partition("@")[0] for name in scores.scorecard] == ["few", "small", "few", "small", "few"]
    assert cards.name == "+".join(card.name for card in cards.cards)


@settings(max_examples=50)
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
    weak = {
        **GOOD,
        "churn_odds": 5,
        "days_since_login": 30,
        "nps_last": 0,
        "goals_progress": 0,
        "features_used_28d": 0,
    }
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


def test_mrr_at_risk(tmp_path: Path) -> None:
    scores = scored(table(GOOD, {**GOOD, "days_since_activity": 30}, {**GOOD, "failed_payments": 1}, {}))
    assert scores.band == ["green", "red", "yellow", None]
    assert scores.at_risk[:3].tolist() == [0, 1, 0.5]
    assert np.isnan(scores.at_risk[3])
    milder = load(write(tmp_path, CARD + "mrr_at_risk: {yellow: 0.2}\n"))
    assert scored(table({"days_since_login": 15}), card=milder).at_risk.tolist() == [0.2]


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
         ("card.yaml:6:5: measures.0.group is one of Deployment, Engagement, Adoption, ROI, Children"
         " (did you mean Engagement?)")),
        ("group: Engagement", "group: ROI", "card.yaml:6:5: groups gives no weight for ROI"),
        ("weight: 1", "weight: 0", "card.yaml:8:5: measures.0.weight: Input should be greater than 0"),
        ("    weight: 1\n", "", "card.yaml:5:5: measures.0.weight is missing"),
        ("weight: 1", "wieght: 1",
         "8:5: measures.0.wieght: there is no such key; remove it or correct its name (did you mean weight?)"),
        ("weight: 1", "weight: 1\n    weight: 2", "card.yaml:9:5: weight is given twice"),
        ("[30, 0]", "[0, 0]", "card.yaml:5:5: measures.0: the values of line or steps must ascend"),
        ("[30, 0]", "[30, 101]", "card.yaml:9:27: measures.0.line.1.1: Input should be less than or equal to 100"),
        ("{value}ログイン", "{valeu}ログイン",
         "card.yaml:10:5: there is no signal called 'valeu' (did you mean value?)"),
        ("{value}ログイン", "{valueログイン", "measures.0.reason: a brace is not closed"),
        ("{value}ログイン", "{score}ログイン", "score comes from the scorecard and cannot go into it"),
        ("id: login", "id: override", "card.yaml:5:5: the id override is kept for a line of our own"),
        ("{Engagement: 1}", "{Engagement: {weight: 1, combine: worts}}",
         "groups.Engagement.combine is one of weighted, worst (did you mean worst?)"),
        ("groups:", "match: {plan: {below: 3}}\ngroups:", "card.yaml:3:9: plan is a text; give the texts it may be"),
        ("groups:", "match: [{seats: pro}]\ngroups:", "card.yaml:3:10: seats is a number; give at_least or below"),
        ("groups:", "match: {paln: pro}\ngroups:", "there is no signal called 'paln' (did you mean plan?)"),
        ("groups:", "match: {logins_28d: {below: 3}}\ngroups:",
         "logins_28d may be missing for want of data; whose card is whose must not hang on it"),
        ("groups:", "match: {}\ngroups:", "an entry without conditions would match everybody"),
        ("groups:", "match: {mrr: {}}\ngroups:", "give either a list of texts, or at_least and below"),
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
    with pytest.raises(FileError, match="no scorecard without match here"):
        load(tmp_path)
    aliased = CARD.replace("title: {en: Small, ja: 小}", "title: &t {en: Small, ja: 小}\ncaps: [*t]")
    with pytest.raises(FileError, match="aliases are not taken"):
        load(write(tmp_path, aliased))
    write(tmp_path, CARD)
    (tmp_path / "other.yaml").write_text(CARD.replace("small", "other"), encoding="utf-8")
    with pytest.raises(FileError, match=r"other.yaml:1:1: card.yaml is without match, too, and takes everybody"):
        load(tmp_path)
    (tmp_path / "other.yaml").write_text("match: {plan: pro}\n" + CARD, encoding="utf-8")
    with pytest.raises(FileError, match=r"other.yaml:1:1: card.yaml is called small, too; name it otherwise"):
        load(tmp_path)
    (tmp_path / "card.yaml").unlink()
    with pytest.raises(FileError, match="no scorecard without match here"):
        load(tmp_path)


def test_the_schema_in_the_repository_is_the_codes() -> None:
    kept = (ROOT / "rules" / "scorecards.schema.json").read_text(encoding="utf-8")
    assert kept == schema_text(), "run python -m health.scorecard_file"
    validator = jsonschema.Draft202012Validator(json.loads(kept))
    for path in (ROOT / "rules" / "scorecards").glob("*.yaml"):
        validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert not validator.is_valid(yaml.safe_load(CARD.replace("weight: 1", "weight: 0")))


def test_the_shipped_cards_use_what_the_catalogue_has() -> None:
    assert {ref.name for ref in DEFAULT.refs} <= set(SIGNALS)
    assert {*GOOD, "goal_most_behind"} == {str(ref) for ref in DEFAULT.cards[-1].refs}


def test_the_goal_that_is_most_behind_is_named() -> None:
    signals = table({**GOOD, "goals_on_track": 0.5})
    signals.columns["goal_most_behind"][0, 0] = "Everybody: 2 (≥ 8)"
    scores = scored(signals)
    assert "goals on track: 50%, most behind: Everybody: 2 (≥ 8) (−1)" in explain(scores.contributions[0], "en")
