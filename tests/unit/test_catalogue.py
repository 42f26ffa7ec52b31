"""The catalogue, and that code and docs page agree with it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from health import catalogue_schema
from health.catalogue import SCORE_SIGNALS, SIGNALS, SignalRef, check
from health.gaps import Observed
from health.signals import compute
from health.signals.table import DEFINITIONS
from health.signals_page import PAGE, page
from tests.facts import Account, facts


def test_the_docs_page_is_the_catalogues() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m health.signals_page"


def test_the_schema_is_the_catalogues_and_takes_what_is_computed() -> None:
    assert catalogue_schema.FILE.read_text(encoding="utf-8") == catalogue_schema.schema_text(), (
        "run python -m health.catalogue_schema"
    )
    refs = [SignalRef(name, "export" if signal.parameter else None) for name, signal in SIGNALS.items()]
    now = datetime(2025, 6, 15, 12, tzinfo=UTC)
    account = Account(start=now, attributes={"plan": "pro", "mrr": 5}, users=[[1]])
    row = compute(facts(now, [account]), [now], refs, Observed(now)).row(0)
    Draft202012Validator(catalogue_schema.schema()).validate(row)
    wrong = {**row, "plan": 5}
    assert not Draft202012Validator(catalogue_schema.schema()).is_valid(wrong)


def test_every_signal_is_computed_and_every_computed_one_is_named() -> None:
    assert set(DEFINITIONS) | SCORE_SIGNALS == set(SIGNALS)
    assert not set(DEFINITIONS) & SCORE_SIGNALS


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_what_looks_at_unobserved_time_is_absence(name: str) -> None:
    definition = DEFINITIONS[name]
    looks_back = definition.window_days is not None or (definition.origins is not None and definition.observed)
    others = {"feature_used", "features_never_used", "silence_ratio", "usual_pause", "pause_tail", "children_red",
              "children_mrr_at_risk", "worst_child", "worst_child_score"}  # fmt: skip
    elsewhere = name in others or name.startswith("business_days_since") or definition.unseen is not None
    assert SIGNALS[name].absence == (looks_back or elsewhere)


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_whose_days_it_counts_in_is_as_computed(name: str) -> None:
    definition = DEFINITIONS[name]
    by_exact_time = name.startswith("sessions")
    border = "zone" if definition.zoned else "utc" if definition.borders is not None and not by_exact_time else ""
    assert SIGNALS[name].day_border == border


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_every_signal_has_words_in_both_languages(name: str) -> None:
    assert set(SIGNALS[name].meaning) == {"en", "ja"}
    assert all(words and "|" not in words for words in SIGNALS[name].meaning.values())


@given(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True), st.none() | st.text(min_size=1, max_size=30))
def test_a_reference_reads_back(name: str, argument: str | None) -> None:
    ref = SignalRef(name, argument)
    assert SignalRef.parse(str(ref)) == ref


@pytest.mark.parametrize("text", ["", "A", "mrr[", "mrr[1]", "mrr['']", "mrr['a'b']", "mrr['a'] or 1", "a b"])
def test_what_is_not_a_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a signal"):
        SignalRef.parse(text)


def test_references_as_people_write_them() -> None:
    assert SignalRef.parse(" mrr ") == SignalRef("mrr")
    assert SignalRef.parse('days_since_feature["it\'s"]') == SignalRef("days_since_feature", "it's")
    assert str(SignalRef("days_since_feature", "it's")) == "days_since_feature['it''s']"
    assert check(SignalRef("days_since_feature", "x")).unit == "days"
