"""The language of conditions: what is taken, what is refused and where, and what comes out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.rules import Compiled, Problem, compile_expression, evaluate_all
from alerts.rules.expression import MAX_CHARACTERS
from health.catalogue import SIGNALS, Signal, SignalRef

DATED = {"renewal_on": Signal(name="renewal_on", type="date", unit="", meaning={"en": "", "ja": ""}, needs=())}


def compiled(source: str) -> Compiled:
    result = compile_expression(source, SIGNALS)
    assert isinstance(result, Compiled), result
    return result


def refused(source: str) -> Problem:
    result = compile_expression(source, SIGNALS)
    assert isinstance(result, Problem), f"{source!r} was taken"
    return result


def test_a_condition_is_true_false_or_unknown_for_each_account() -> None:
    condition = compiled("days_since_login >= 14")
    values = condition.evaluate({"days_since_login": np.array([14.0, 13.0, math.nan])})
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [1.0, 0.0, math.nan])


def test_it_keeps_the_shape_of_the_columns() -> None:
    condition = compiled("mrr > 100 AND plan = 'pro'")
    columns = {
        "mrr": np.array([[50.0, 150.0, math.nan], [200.0, 300.0, 400.0]]),
        "plan": np.array([["pro", "pro", "pro"], ["free", None, "pro"]], dtype=object),
    }
    np.testing.assert_array_equal(condition.evaluate(columns), [[0.0, 1.0, math.nan], [0.0, math.nan, 1.0]])


def test_no_accounts_no_values() -> None:
    assert compiled("mrr > 1").evaluate({"mrr": np.array([])}).shape == (0,)


def test_a_signal_with_an_argument_is_a_column_of_its_own() -> None:
    condition = compiled("days_since_feature['export'] >= 28 AND days_since_feature['report'] < 28")
    assert condition.refs == {SignalRef("days_since_feature", "export"), SignalRef("days_since_feature", "report")}
    columns = {
        "days_since_feature['export']": np.array([30.0, 30.0]),
        "days_since_feature['report']": np.array([1.0, 40.0]),
    }
    np.testing.assert_array_equal(condition.evaluate(columns), [1.0, 0.0])


def test_a_quote_in_an_argument_is_doubled_as_in_sql() -> None:
    condition = compiled("feature_used['it''s']")
    assert condition.refs == {SignalRef("feature_used", "it's")}
    (name,) = map(str, condition.refs)
    np.testing.assert_array_equal(condition.evaluate({name: np.array([1.0])}), [1.0])


def test_a_value_that_is_not_finite_is_unknown() -> None:
    values = compiled("mrr > 1").evaluate({"mrr": np.array([math.inf, -math.inf, math.nan])})
    assert np.isnan(values).all()


@pytest.mark.parametrize("source", ["mrr / seats > 0", "mrr % seats >= 0", "mrr * 1e308 * 1e308 > 0"])
def test_what_has_no_finite_result_is_unknown_for_that_account_alone(source: str) -> None:
    values = compiled(source).evaluate({"mrr": np.array([10.0, 0.0]), "seats": np.array([0.0, 5.0])})
    assert math.isnan(values[0])
    assert not math.isnan(values[1])


def test_several_conditions_are_evaluated_at_once() -> None:
    columns = {"mrr": np.array([1.0, 2.0]), "open_tickets": np.array([3.0, math.nan])}
    first, second, third = evaluate_all([compiled("mrr > 1"), compiled("open_tickets >= 3"), compiled("TRUE")], columns)
    np.testing.assert_array_equal(first, [0.0, 1.0])
    np.testing.assert_array_equal(second, [1.0, math.nan])
    np.testing.assert_array_equal(third, [1.0, 1.0])


def test_a_missing_column_is_named() -> None:
    with pytest.raises(KeyError, match="mrr"):
        compiled("mrr > 1 OR seats > 1").evaluate({"seats": np.array([1.0])})


def test_one_account_is_asked_by_its_row() -> None:
    condition = compiled("feature_used['export'] AND band IN ('red', 'yellow')")
    assert condition.holds({"feature_used['export']": True, "band": "red"}) is True
    assert condition.holds({"feature_used['export']": True, "band": "green"}) is False
    assert condition.holds({"feature_used['export']": True}) is None
    assert condition.holds({"feature_used['export']": False}) is False


def test_names_without_quotes_are_lower_case_as_in_sql() -> None:
    assert compiled("MRR > 1").refs == compiled('"mrr" > 1').refs == {SignalRef("mrr")}


def test_spaces_comments_and_the_case_of_keywords_do_not_change_the_canonical_form() -> None:
    plain = compiled("mrr > 1 and plan in ('Pro', 'x')").canonical
    assert compiled("MRR>1\n  AND plan IN('Pro','x') -- the good ones").canonical == plain
    assert compiled("mrr > 1 and plan in ('pro', 'x')").canonical != plain
    assert compiled("mrr > 2 and plan in ('Pro', 'x')").canonical != plain


def test_a_long_chain_is_not_deep() -> None:
    condition = compiled(" AND ".join(["mrr > 1"] * 200))
    assert condition.evaluate({"mrr": np.array([2.0])}).tolist() == [1.0]


@pytest.mark.parametrize(
    ("source", "line", "column", "problem", "nearest"),
    [
        ("days_since_logn >= 14", 1, 1, "no signal is called 'days_since_logn'", "days_since_login"),
        ("mrr > 1\n  AND\n  opentickets > 3", 3, 3, "no signal is called 'opentickets'", "open_tickets"),
        ("plan = 'x' AND feature_usd['export']", 1, 16, "no signal is called 'feature_usd'", "feature_used"),
        ("plan = enterprize", 1, 8, "a text is written in single quotes: 'enterprize'", None),
        ('plan = "Enterprize"', 1, 8, "a text is written in single quotes: 'Enterprize'", None),
        ("days_since_feature > 3", 1, 1, "needs a feature", "days_since_feature['…']"),
        ("mrr['x'] > 3", 1, 1, "takes no argument", "mrr"),
        ("days_since_feature[3] > 3", 1, 1, "takes one quoted feature", "days_since_feature['…']"),
        ("days_since_feature[plan] > 3", 1, 1, "takes one quoted feature", "days_since_feature['…']"),
        ("days_since_feature[''] > 3", 1, 1, "is empty", "days_since_feature['…']"),
        ("accounts.mrr > 3", 1, 1, "without a dot", None),
        ("mrr", 1, 1, "the condition is a number", None),
        ("plan", 1, 1, "the condition is a text", None),
        ("mrr = 'high'", 1, 1, "a number and a text cannot be compared", None),
        ("mrr > 1 AND 3 + plan > 2", 1, 17, "expected a number, but this is a text", None),
        ("NOT mrr", 1, 5, "expected a boolean, but this is a number", None),
        ("feature_used['a'] < feature_used['b']", 1, 1, "use = or <>", None),
        ("feature_used['a'] BETWEEN TRUE AND TRUE", 1, 1, "BETWEEN compares numbers or texts", None),
        ("mrr = seats = feature_used['a']", 1, 1, "put brackets", None),
        ("mrr IS TRUE", 1, 1, "this is a number", None),
        ("mrr IN ()", 1, 1, "IN takes a list", None),
        ("mrr IN (SELECT 1)", 1, 1, "IN takes a list", None),
        ("GREATST(mrr, 1) > 1", 1, 1, "there is no function GREATST", "GREATEST"),
        ("now() > 1", 1, 1, "there is no function", None),
        ("pg_sleep(10) IS NULL", 1, 1, "there is no function PG_SLEEP", None),
        ("ROUND(mrr, 2) > 1", 1, 1, "ROUND takes one number", None),
        ("plan LIKE 'p%'", 1, 1, "not part of the language", None),
        ("mrr::int > 1", 1, 1, "not part of the language", None),
        ("mrr > :x", 1, 1, "not part of the language", None),
        ("EXISTS (SELECT 1)", 1, 16, "not part of the language", None),
        ("mrr > 1; DROP TABLE accounts", 1, 1, "", None),
        ("SELECT 1", 1, 1, "unexpected 'SELECT'", None),
        ("mrr >", 1, 5, "incomplete near '>'", None),
        ("mrr > 1 seats", 1, 9, "unexpected 'seats'", None),
        ("mrr > 1)", 1, 8, "unexpected ')'", None),
        ("plan = 'pro", 1, 8, "not closed", None),
        ("mrr > 1e999", 1, 7, "not a number that fits", None),
        ("mrr > 1\n\r AND seats > 1", 2, 1, "U+000D is not allowed", None),
        ("plan = 'a\x00'", 1, 10, "U+0000 is not allowed", None),
        ("", 1, 1, "empty", None),
        (" \n ", 1, 1, "empty", None),
        ("9**9**9 > 1", 1, 3, "", None),
        ("().__class__", 1, 1, "", None),
    ],
)
def test_a_refusal_says_where_and_what_is_near(
    source: str, line: int, column: int, problem: str, nearest: str | None
) -> None:
    found = refused(source)
    assert problem in found.problem
    assert found.nearest == nearest
    if problem:
        assert (found.line, found.column) == (line, column)


def test_a_date_cannot_be_compared() -> None:
    result = compile_expression("renewal_on > 3", DATED)
    assert isinstance(result, Problem)
    assert "date" in result.problem


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("(" * 300 + "mrr" + ")" * 300 + " > 1", "deeper"),
        ("NOT " * 900 + "feature_used['a']", "deeper"),
        ("mrr" + " + 1" * 300 + " > 1", "deeper"),
        ("CASE WHEN " * 100 + "TRUE" + " THEN TRUE END" * 100, "deeper"),
        ("mrr > " + "1" * MAX_CHARACTERS, "longer"),
    ],
)
def test_size_and_depth_are_bounded(source: str, problem: str) -> None:
    assert problem in refused(source).problem


def test_an_operand_that_is_compared_often_is_computed_once() -> None:
    """Else every level would take four times as long as the one within: this one for ever."""
    source = "mrr"
    for _ in range(18):
        source = f"CASE WHEN {source} IN (1, 2, 3, 4) THEN 1 ELSE 0 END"
    assert compiled(f"{source} = 1").evaluate({"mrr": np.array([3.0, 5.0])}).tolist() == [1.0, 0.0]
    source = "mrr"
    for _ in range(18):
        source = f"CASE {source} WHEN 1 THEN 2 WHEN 2 THEN 3 WHEN 3 THEN 1 END"
    values = compiled(f"{source} = 3").evaluate({"mrr": np.array([3.0, 1.0, 5.0])})
    np.testing.assert_array_equal(values, [1.0, 0.0, math.nan])


NAMES = ("mrr", "plan", "feature_used['a']", "1", "2.5", "'", "NULL", "COALESCE", "CASE", "WHEN", "THEN", "END")
SIGNS = ("(", ")", "[", "]", ",", "-", "/", "=", "<", "\n", "--", "/*", "$$", "E'", "東", "\\", ";")
PIECES = (*NAMES, *SIGNS, "AND", "OR", "NOT", "IN", "IS", "BETWEEN")


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join) | st.text(max_size=40))
def test_any_text_is_either_compiled_or_refused(source: str) -> None:
    result = compile_expression(source, SIGNALS)
    if isinstance(result, Problem):
        lines = source.split("\n")
        assert 1 <= result.line <= len(lines)
        assert result.column >= 1
    else:
        result.holds({})


@pytest.mark.parametrize(
    "source",
    [
        "0 = COALESCE(mrr, 0)",
        "0 = CASE WHEN mrr > 1 THEN mrr ELSE 0 END",
        "'a' = COALESCE(plan, 'a')",
        "TRUE = COALESCE(feature_used['x'], TRUE)",
        "2 = GREATEST(COALESCE(mrr, 2), 1)",
    ],
)
def test_columns_of_nothing_but_null_keep_their_height(source: str) -> None:
    """Nor does what comes down to a literal."""
    compiled = compile_expression(source, SIGNALS)
    assert isinstance(compiled, Compiled)
    unknown = np.array([np.nan, np.nan])
    columns = {"mrr": unknown, "feature_used['x']": unknown, "plan": np.array([None, None], dtype=object)}
    assert compiled.evaluate(columns).tolist() == [1.0, 1.0]
