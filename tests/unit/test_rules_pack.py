"""The rules that ship with Kizashi: they load, pass the tests they carry, and are what the docs say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from alerts.rules import Rule, check, load
from alerts.rules.schema import SCHEMAS, schema_text
from health.catalogue import SIGNALS


@pytest.fixture
def rules_dir(root: Path) -> Path:
    return root / "rules"


@pytest.fixture(scope="module")
def pack() -> dict[str, Rule]:
    return {rule.id: rule for rule in load(Path(__file__).resolve().parents[2] / "rules", SIGNALS).rules}


def test_the_pack_passes_its_own_tests(rules_dir: Path) -> None:
    assert [str(problem) for problem in check(rules_dir, SIGNALS)] == []


def test_every_rule_shows_its_sentence_in_both_languages(pack: dict[str, Rule]) -> None:
    for rule in pack.values():
        shown = [case for case in rule.tests if {"en", "ja"} <= set(case.reason)]
        assert shown, f"{rule.id} has no test of its wording in both languages"


def test_every_rule_says_what_it_does_when_nothing_is_known(pack: dict[str, Rule]) -> None:
    for rule in pack.values():
        assert rule.when.holds({}) is None, rule.id


def test_every_level_of_a_severity_is_reached_by_a_test(pack: dict[str, Rule]) -> None:
    for rule in pack.values():
        reached = {rule.severity_for(case.given) for case in rule.tests if case.expect == "fires"}
        assert reached == {level.level for level in rule.levels}, rule.id


def test_an_account_that_just_started_alarms_nobody(pack: dict[str, Rule]) -> None:
    started_today = {
        "days_since_start": 0.0,
        "days_since_login": 0.0,
        "days_since_activity": 0.0,
        "days_since_survey": 0.0,
        "events_28d": 0.0,
        "open_tickets": 0.0,
        "failed_payments": 0.0,
        "mrr": 5000.0,
        "feature_used['export']": False,
        "feature_used['report']": False,
        "days_since_feature['export']": 0.0,
        "days_since_feature['report']": 0.0,
        "days_to_renewal": 365.0,
    }
    assert [rule.id for rule in pack.values() if rule.when.holds(started_today)] == []


def test_one_renewal_is_one_open_alert_at_a_time(pack: dict[str, Rule]) -> None:
    days = {"days_to_renewal": np.arange(-5.0, 100.0)}
    firing = sum(pack[name].when.evaluate(days) for name in ("renewal-90", "renewal-60", "renewal-30"))
    np.testing.assert_array_equal(firing, (days["days_to_renewal"] >= 0) & (days["days_to_renewal"] <= 90))


def test_the_docs_name_every_rule_and_no_other(root: Path, rules_dir: Path) -> None:
    written = {rule["id"] for rule in yaml.safe_load((rules_dir / "churn.yaml").read_text("utf-8"))["rules"]}
    section = (root / "docs" / "rules.md").read_text("utf-8").split("## The rules that ship")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", section, flags=re.MULTILINE)) == written


def test_the_docs_give_conditions_as_they_are(root: Path, pack: dict[str, Rule]) -> None:
    page = (root / "docs" / "rules.md").read_text("utf-8")
    for rule in pack.values():
        if ":" not in rule.id:
            assert f"`{' '.join(rule.when.source.split())}`" in page, rule.id


def test_the_docs_name_every_key_format_and_function(root: Path) -> None:
    from alerts.rules.compiler import FUNCTIONS
    from alerts.rules.loader import RULES_KEYS
    from alerts.rules.reasons import FORMATS

    page = (root / "docs" / "rules.md").read_text("utf-8")
    for word in [*RULES_KEYS["rules"], *RULES_KEYS["tests"], *(f":{name}" for name in FORMATS), *FUNCTIONS]:
        assert f"`{word}`" in page, word


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schema_kept_is_the_schema_meant(rules_dir: Path, name: str) -> None:
    assert (rules_dir / name).read_text("utf-8") == schema_text(SCHEMAS[name]), "run: python -m alerts.rules.schema"


@pytest.mark.parametrize(("file", "schema"), [("churn.yaml", "schema.json"), ("routes.yaml", "routes.schema.json")])
def test_the_files_fit_their_schema(rules_dir: Path, file: str, schema: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads((rules_dir / schema).read_text("utf-8")))
    jsonschema.validate(
        yaml.safe_load((rules_dir / file).read_text("utf-8")), json.loads((rules_dir / schema).read_text("utf-8"))
    )
