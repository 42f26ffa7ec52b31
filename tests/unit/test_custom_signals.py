"""Signals of configuration: what a file may say, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.rules.document import RulebookError
from alerts.rules.loader import load as load_rules
from health.catalogue import SIGNALS, SignalRef
from health.columns import Chosen, Facts
from health.custom import SCHEMA, CustomSignal, load, schema_text
from health.gaps import Gap, Observed
from health.instants import to_us
from health.scorecards import Scorecards
from health.scorecards import load as load_cards
from health.signals import compute, next_change
from health.signals_page import page
from health.yamlfile import FileError
from tests.facts import Account, facts

NOW = datetime(2025, 6, 15, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""When attributes are read as having been set: their earlier values are not kept."""
OBSERVED = Observed(NOW)
MEANING = "meaning: {en: ours, ja: 自社}"


def declared(folder: Path, *lines: str) -> Mapping[str, CustomSignal]:
    folder.joinpath("signals.yaml").write_text("signals:\n" + "".join(f"  - {{{line}, {MEANING}}}\n" for line in lines))
    return load(folder)


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def known(signal: CustomSignal, events: Sequence[tuple[datetime, float | None, str | None]]) -> Facts:
    rows = sorted(events, key=lambda event: event[0])
    texts = np.empty(len(rows), dtype=object)
    texts[:] = [text for _, _, text in rows]
    chosen = Chosen(
        account=np.zeros(len(rows), dtype=np.int64),
        at=np.array([to_us(at) for at, _, _ in rows], dtype=np.int64),
        number=np.array([np.nan if number is None else number for _, number, _ in rows], dtype=np.float64),
        text=texts,
    )
    name = signal.spec.name
    made = facts(NOW, [Account(start=ago(24 * 300))], days=150)
    return replace(made, custom={name: signal}, chosen={name: chosen})


def value(signal: CustomSignal, events: Sequence[Any], at: datetime = NOW, observed: Observed = OBSERVED) -> Any:
    name = signal.spec.name
    return compute(known(signal, events), [at], [SignalRef(name)], observed).row(0)[name]


EVENTS = [(ago(1), 2.0, "a"), (ago(30), None, "b"), (ago(24 * 7), 5.0, "a"), (ago(24 * 40), 9.0, "c")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("name: x, measure: count, event: custom, days: 7", 2),
        ("name: x, measure: sum, event: custom, of: value, days: 7", 2),
        ("name: x, measure: sum, event: custom, of: value, days: 8", 7),
        ("name: x, measure: distinct, event: custom, of: user, days: 50", 3),
        ("name: x, measure: last, event: custom, of: value", 2),
        ("name: x, measure: last, event: custom, of: properties.tier, type: text", "a"),
        ("name: x, measure: attribute, of: employees", None),
    ],
)
def test_measures(tmp_path: Path, line: str, expected: Any) -> None:
    signal = declared(tmp_path, line)["x"]
    events = [] if signal.spec.measure == "attribute" else EVENTS
    assert value(signal, events) == expected


def test_usage_counts_utc_days_of_which_today_is_the_last(tmp_path: Path) -> None:
    signal = declared(tmp_path, "name: x, measure: sum, event: usage, of: quantity, days: 7")["x"]
    midnight = NOW.replace(hour=0)
    events = [(midnight - timedelta(days=days), 2.0**days, None) for days in (0, 6, 7)]
    assert value(signal, events) == 1 + 64
    assert value(signal, events, at=midnight) == 64
    assert value(signal, events, at=midnight + timedelta(hours=1)) is None


def test_a_window_that_was_not_observed_is_unknown(tmp_path: Path) -> None:
    signal = declared(tmp_path, "name: x, measure: count, event: custom, days: 7")["x"]
    gap = Gap("app", ago(50), ago(40), "lost")
    assert value(signal, EVENTS, observed=Observed(NOW, (gap,))) is None


def test_it_says_from_when_on_it_is_valid(tmp_path: Path) -> None:
    lines = ("name: x, measure: count, event: custom, days: 7", "name: y, measure: attribute, of: employees")
    made = declared(tmp_path, *lines)
    assert made["x"].signal.valid is not None
    assert made["x"].signal.valid["en"] == "exact back to the first event"
    assert made["y"].signal.valid is not None
    assert "not kept" in made["y"].signal.valid["en"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("name: mrr, measure: count, event: custom, days: 7", "signals.yaml:2:6: mrr is a signal of the catalogue"),
        ("name: x, measure: count, days: 7", "x: count needs an event"),
        ("name: x, measure: count, event: custom", "x: count needs a window; add days"),
        ("name: x, measure: sum, event: custom, days: 7", "x: sum needs of"),
        ("name: x, measure: count, event: custom, of: y, days: 7", "count counts events; remove of"),
        ("name: x, measure: count, event: usage, days: 7", "usage is kept as quantities per day and feature"),
        ("name: x, measure: sum, of: quantity, event: usage, days: 7, where: {plan: a}", "send it as a custom event"),
        ("name: x, measure: sum, of: value, event: login, days: 7", "use measure: count without where"),
        ("name: x, measure: attribute, of: plan", "plan is a signal already"),
        ("name: x, measure: attribute, of: employees, days: 7", "an attribute has no days"),
        ("name: x, mesure: count, event: custom, days: 7", "did you mean measure"),
        ("name: x, measure: median, event: custom, days: 7", "is one of count, sum"),
    ],
)
def test_what_cannot_be_is_refused_with_place_and_remedy(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(FileError) as refused:
        declared(tmp_path, line)
    assert problem in str(refused.value)
    assert str(refused.value).startswith("signals.yaml:2:")


def test_the_same_name_twice(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="declared twice"):
        declared(tmp_path, *["name: x, measure: count, event: custom, days: 7"] * 2)


RULES = """\
rules:
  - id: exports
    title: {en: Exports, ja: 輸出}
    severity: info
    when: big_exports > 3
    reason: {en: "{big_exports} exports", ja: "{big_exports}件"}
    suggestion: {en: Ask, ja: 確認}
"""


def test_rules_speak_of_them_and_have_another_version_when_they_change(tmp_path: Path) -> None:
    line = "name: big_exports, measure: count, event: custom, where: {name: export}, days: "
    tmp_path.joinpath("own.yaml").write_text(RULES)
    with pytest.raises(RulebookError, match="big_exports"):
        load_rules(tmp_path, SIGNALS)
    declared(tmp_path, line + "7")
    week = load_rules(tmp_path, SIGNALS)
    assert week.refs == {SignalRef("big_exports")}
    assert week.rules[0].absence
    declared(tmp_path, line + "8")
    assert load_rules(tmp_path, SIGNALS).version != week.version
    tmp_path.joinpath("signals.yaml").write_text("signals: [{}]")
    with pytest.raises(RulebookError, match=r"signals.yaml:1"):
        load_rules(tmp_path, SIGNALS)


def test_the_example_of_the_docs_is_taken(tmp_path: Path) -> None:
    example = page().split("```yaml\n")[1].split("```")[0]
    tmp_path.joinpath("signals.yaml").write_text(example, encoding="utf-8")
    assert set(load(tmp_path)) == {"exports_28d", "employees"}


def test_the_schema_is_the_models() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run python -m health.custom"
    json.loads(schema_text())


KINDS = (
    "count, event: custom", "sum, event: custom, of: value", "distinct, event: custom, of: user",
    "last, event: custom, of: value", "last, event: custom, of: properties.tier, type: text",
    "sum, event: usage, of: quantity", "distinct, event: usage, of: day", "count, event: login",
)  # fmt: skip
WITHOUT_WINDOW = (
    "last, event: custom, of: value", "last, event: custom, of: name, type: text", "attribute, of: employees",
    "attribute, of: town, type: text",
)  # fmt: skip
DAYS = st.sampled_from([1, 2, 7, 28]) | st.integers(1, 40)
HOURS = DAYS.map(lambda days: days * 24) | st.integers(1, 24 * 60)
"""Half of them on the edges of windows."""
Event = tuple[datetime, float | None, str | None]
happened = st.tuples(HOURS.map(ago), st.none() | st.integers(-3, 9).map(float), st.none() | st.sampled_from("abc"))


@st.composite
def lines(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 3)) == 0:
        return f"name: x, measure: {draw(st.sampled_from(WITHOUT_WINDOW))}"
    return f"name: x, measure: {draw(st.sampled_from(KINDS))}, days: {draw(DAYS)}"


@st.composite
def unlooked(draw: st.DrawFn) -> Observed:
    begin, length = draw(HOURS), draw(st.integers(0, 50))
    gaps = (Gap("app", ago(begin), ago(begin - length), "lost"),) if length and begin > length else ()
    return Observed(NOW + timedelta(days=400), gaps)


def midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def told(line: str, signal: CustomSignal, events: Sequence[Event]) -> list[Event]:
    """Of the drawn events, what would have been read for the signal."""
    if signal.spec.measure == "attribute":
        return [(EPOCH, number, text) for _, number, text in events[:1]]
    if signal.by_day:
        return [(midnight(at), number or 0.0, str(midnight(at).date())) for at, number, _ in events]
    return list(events)


def measured(signal: CustomSignal, inside: Sequence[Event]) -> Any:
    """What the words of the docs say, of the events of the window in the order of time."""
    spec = signal.spec
    numbers = [number for _, number, _ in inside if number is not None]
    if spec.measure == "distinct":
        return len({text for _, _, text in inside if text is not None})
    if spec.measure == "sum" or signal.by_day:
        return sum(numbers)
    if spec.measure == "count":
        return len(inside)
    _, number, text = inside[-1] if inside else (None, None, None)
    return text if spec.type == "text" else number


def expected(signal: CustomSignal, events: Sequence[Event], at: datetime, observed: Observed) -> Any:
    days, ordered = signal.spec.days, sorted(events, key=lambda event: event[0])
    by_then = [event for event in ordered if event[0] <= at]
    if days is None:
        return measured(signal, by_then)
    first = midnight(at) - timedelta(days=days - 1 if signal.by_day else days)
    if any(max(first, gap.from_at) < min(gap.until_at, at) for gap in observed.gaps if gap.until_at):
        return None
    if not signal.by_day:
        return measured(signal, [event for event in by_then if event[0] > at - timedelta(days=days)])
    whole = measured(signal, [event for event in by_then if event[0] >= first])
    without = measured(signal, [event for event in by_then if first <= event[0] < midnight(at)])
    if at >= NOW or whole == without:
        return whole
    return without if at == midnight(at) else None


@settings(max_examples=250)
@given(
    lines(), st.lists(happened, max_size=5, unique_by=lambda event: event[0]), unlooked(), st.lists(HOURS, max_size=4)
)
def test_all_kinds_are_what_a_plain_reading_of_the_events_gives(
    tmp_path_factory: pytest.TempPathFactory, line: str, events: list[Event], observed: Observed, hours: list[int]
) -> None:
    signal = declared(tmp_path_factory.getbasetemp(), line)["x"]
    read = told(line, signal, events)
    at = [NOW, NOW + timedelta(days=3), *(ago(hour) for hour in hours), *(midnight(ago(hour)) for hour in hours)]
    column = compute(known(signal, read), at, [SignalRef("x")], observed).columns["x"][0].tolist()
    assert [None if cell != cell else cell for cell in column] == [  # noqa: PLR0124 - NaN is unknown
        expected(signal, read, instant, observed) for instant in at
    ]


@settings(max_examples=150)
@given(lines(), st.lists(happened, max_size=5, unique_by=lambda event: event[0]), unlooked())
def test_nothing_changes_before_next_change(
    tmp_path_factory: pytest.TempPathFactory, line: str, events: list[Event], observed: Observed
) -> None:
    signal = declared(tmp_path_factory.getbasetemp(), line)["x"]
    made = known(signal, told(line, signal, events))
    due = next_change(made, NOW, [SignalRef("x")], observed, spread_borders=False)[0]
    until = NOW + timedelta(days=70) if np.isnat(due) else due.item().replace(tzinfo=UTC)
    grid = [NOW + timedelta(hours=3 * n) for n in range(int((until - NOW) / timedelta(hours=3)))]
    column = compute(made, [NOW, *grid, until - timedelta(microseconds=1)], [SignalRef("x")], observed).columns["x"]
    assert len({None if cell != cell else cell for cell in column[0].tolist()}) == 1  # noqa: PLR0124 - NaN is unknown


CARD = """\
scorecard: ours
title: {{en: Ours, ja: 自社}}
{match}groups: {{ROI: 1}}
measures:
  - {{id: sent, group: ROI, signal: {signal}, weight: 1, line: [[0, 0], [10, 100]],
     reason: {{en: "{{value}} in a week, {{mrr}} paid", ja: "週{{value}}"}}}}
"""
SENT = "name: sent_7d, measure: count, event: custom, days: 7, unit: times"
TIER = "name: tier, measure: attribute, of: tier, type: text"


def carded(folder: Path, *lines: str, match: str = "", signal: str = "sent_7d") -> Scorecards:
    folder.joinpath("ours.yaml").write_text(CARD.format(match=match, signal=signal), encoding="utf-8")
    rules = folder / "rules"
    rules.mkdir(exist_ok=True)
    return load_cards(folder, declared(rules, *lines))


def test_scorecards_speak_of_them(tmp_path: Path) -> None:
    cards = carded(tmp_path, SENT)
    assert set(cards.custom) == {"sent_7d"}
    made = known(cards.custom["sent_7d"], EVENTS)
    scores = cards.score(compute(made, [NOW], cards.refs, OBSERVED), made, [None])
    assert scores.score.tolist() == [20]
    assert scores.contributions[0][1]["reason"]["en"] == "2 times in a week, unknown paid"
    gap = Observed(NOW, (Gap("app", ago(50), ago(40), "lost"),))
    assert cards.score(compute(made, [NOW], cards.refs, gap), made, [None]).incomplete.tolist() == [True]


def test_a_card_has_another_version_when_a_signal_that_it_uses_is_made_otherwise(tmp_path: Path) -> None:
    name = carded(tmp_path, SENT).name
    assert carded(tmp_path, SENT, TIER).name == name, "one that it does not use"
    assert carded(tmp_path, SENT.replace("days: 7", "days: 8")).name != name


@pytest.mark.parametrize(
    ("lines", "match", "signal", "problem"),
    [
        ((TIER,), "", "sent_7d", "ours.yaml:5:28: there is no signal called 'sent_7d'"),
        ((SENT,), "", "sent_8d", "there is no signal called 'sent_8d' (did you mean sent_7d?)"),
        ((SENT, TIER), "", "tier", "tier is a text; a scorecard takes numbers and booleans"),
        ((SENT,), "", "\"sent_7d['x']\"", "sent_7d takes no argument"),
        ((SENT,), "match: {sent_7d: {below: 3}}\n", "sent_7d", "sent_7d may be missing for want of data"),
        ((SENT, TIER), "match: {tier: {below: 3}}\n", "sent_7d", "tier is a text; give the texts it may be"),
    ],
)
def test_faults_of_a_card_that_speaks_of_them(
    tmp_path: Path, lines: Sequence[str], match: str, signal: str, problem: str
) -> None:
    with pytest.raises(FileError) as refused:
        carded(tmp_path, *lines, match=match, signal=signal)
    assert problem in str(refused.value)


def test_an_attribute_of_ones_own_says_whose_card_it_is(tmp_path: Path) -> None:
    general = CARD.replace("scorecard: ours", "scorecard: general").format(match="", signal="mrr")
    tmp_path.joinpath("zz.yaml").write_text(general, encoding="utf-8")
    cards = carded(tmp_path, SENT, TIER, match="match: {tier: [gold]}\n")
    for tier, name in (("gold", "ours"), ("tin", "general"), (None, "general")):
        made = known(cards.custom["tier"], [] if tier is None else [(EPOCH, None, tier)])
        nothing = known(cards.custom["sent_7d"], []).chosen
        made = replace(made, custom=cards.custom, chosen={**made.chosen, **nothing})
        table = compute(made, [NOW], cards.refs, OBSERVED)
        assert cards.score(table, made, [None]).scorecard[0].partition("@")[0] == name
