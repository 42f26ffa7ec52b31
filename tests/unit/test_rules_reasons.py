"""The sentence of an alert, in English and Japanese."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pytest

from alerts.rules.reasons import Template, TemplateProblem, fill, parse_template
from health.catalogue import SIGNALS, Signal, SignalRef

CATALOGUE = {
    **SIGNALS,
    "renewal_on": Signal(name="renewal_on", type="date", unit="", meaning={"en": "", "ja": ""}, needs=()),
}


def template(source: str) -> Template:
    result = parse_template(source, CATALOGUE)
    assert isinstance(result, Template), result
    return result


@pytest.mark.parametrize(
    ("source", "row", "en", "ja"),
    [
        ("{days_since_login:days}", {"days_since_login": 14.0}, "14 days", "14日間"),
        ("{days_since_login:days}", {"days_since_login": 1.0}, "1 day", "1日間"),
        ("{days_since_login:days}", {"days_since_login": 1400.9}, "1,400 days", "1,400日間"),
        ("{usage_change_28d:percent}", {"usage_change_28d": -0.524}, "-52%", "-52%"),
        ("{-usage_change_28d:percent}", {"usage_change_28d": -0.524}, "52%", "52%"),
        ("{open_tickets:int}", {"open_tickets": 3.0}, "3", "3"),
        ("{score}", {"score": 61.25}, "61.25", "61.25"),
        ("{score}", {"score": 61.0}, "61", "61"),
        ("{mrr:money}", {"mrr": 1200.0}, "1,200", "1,200"),
        ("{renewal_on}", {"renewal_on": date(2026, 3, 9)}, "March 9, 2026", "2026年3月9日"),
        ("{renewal_on:date}", {"renewal_on": "2026-03-09"}, "March 9, 2026", "2026年3月9日"),
        ("{band:band}", {"band": "red"}, "red", "赤"),
        ("{plan}", {"plan": "Pro {x}"}, "Pro {x}", "Pro {x}"),
        ("{feature_used['export']}", {"feature_used['export']": True}, "yes", "はい"),
        ("{days_since_feature['a:b']:days}", {"days_since_feature['a:b']": 2.0}, "2 days", "2日間"),
    ],
)
def test_values_read_naturally_in_both_languages(source: str, row: dict[str, Any], en: str, ja: str) -> None:
    assert fill(template(source), row, "en") == en
    assert fill(template(source), row, "ja") == ja


def test_money_has_its_currency_when_that_is_known() -> None:
    assert fill(template("{mrr:money}"), {"mrr": 120000.0}, "ja", "JPY") == "￥120,000"
    assert fill(template("{mrr:money}"), {"mrr": 1200.5}, "en", "USD") == "$1,200.50"
    assert fill(template("{mrr:money}"), {"mrr": 1200.0}, "en", "EUR") == "€1,200"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("format_", ["days", "percent", "int", "money", "number"])
def test_what_is_not_known_never_stops_an_alert(value: float | None, format_: str) -> None:
    assert fill(template(f"a {{-mrr:{format_}}} b"), {"mrr": value}, "en") == "a unknown b"
    assert fill(template(f"{{mrr:{format_}}}です"), {}, "ja") == "不明です"


def test_a_template_knows_its_signals() -> None:
    found = template("{mrr:money} and {days_since_feature['export']:days}").refs
    assert found == {SignalRef("mrr"), SignalRef("days_since_feature", "export")}


@pytest.mark.parametrize(
    ("source", "offset", "problem", "nearest"),
    [
        ("No login for {days_since_logn:days}", 14, "no signal is called 'days_since_logn'", "days_since_login"),
        ("{days_since_login:dais}", 18, "there is no format 'dais'", "days"),
        ("{days_since_feature:days}", 1, "written differently", "days_since_feature['…']"),
        ("{mrr['x']}", 1, "written differently", "mrr"),
        ("{plan:days}", 1, "is a text", None),
        ("{mrr:date}", 1, "is a number", None),
        ("{-plan}", 2, "only a number has a negative", None),
        ("{mrr} left {over", 11, "brace", None),
        ("over} {mrr}", 4, "brace", None),
        ("{}", 1, "is not a signal", None),
        ("{mrr.__class__}", 1, "is not a signal", None),
    ],
)
def test_a_bad_template_is_refused_at_its_place(source: str, offset: int, problem: str, nearest: str | None) -> None:
    result = parse_template(source, CATALOGUE)
    assert isinstance(result, TemplateProblem)
    assert problem in result.problem
    assert (result.offset, result.nearest) == (offset, nearest)
