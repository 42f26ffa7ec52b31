"""Rules files: what they become, and how every fault is reported in one go with its place."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alerts.rules import RuleBook, RulebookError, check, load
from alerts.rules.document import character_places
from health.catalogue import SIGNALS

RULE = """\
  - id: {id}
    title: {{en: Quiet, ja: 静か}}
    when: {when}
    severity: {severity}
    reason: {{en: "{reason}", ja: "静かです"}}
    suggestion: {{en: Call, ja: 電話}}
{more}"""


def rule(
    *,
    id: str = "quiet",  # noqa: A002 - the word of the file
    when: str = "days_since_login >= 14",
    severity: str = "warning",
    reason: str = "Quiet",
    more: str = "",
) -> str:
    return RULE.format(id=id, when=when, severity=severity, reason=reason, more=more)


def rules(*texts: str, lists: str = "") -> str:
    return lists + "rules:\n" + "".join(texts)


def loaded(folder: Path, *files: str, **named: str) -> RuleBook:
    for number, text in enumerate(files):
        (folder / f"{number}.yaml").write_text(text, encoding="utf-8")
    for name, text in named.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return load(folder, SIGNALS)


def faults(folder: Path, *files: str, **named: str) -> list[str]:
    with pytest.raises(RulebookError) as error:
        loaded(folder, *files, **named)
    lines = str(error.value).replace(f"{folder}/", "").splitlines()
    assert len(lines) == len(error.value.problems)
    return lines


def test_a_rule_becomes_what_it_says(tmp_path: Path) -> None:
    more = "    for: 12h\n    cooldown: 3d\n    renotify: 30m\n    notify_resolved: true\n    tags: [a]\n"
    (found,) = loaded(tmp_path, rules(rule(more=more, reason="Since {mrr:money}"))).rules
    assert found.id == "quiet"
    assert found.title == {"en": "Quiet", "ja": "静か"}
    assert (found.for_, found.cooldown) == (timedelta(hours=12), timedelta(days=3))
    assert (found.renotify, found.notify_resolved, found.tags) == (timedelta(minutes=30), True, ("a",))
    assert {str(ref) for ref in found.when.refs} == {"days_since_login"}
    assert {str(ref) for ref in found.refs} == {"days_since_login", "mrr"}


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    (found,) = loaded(tmp_path, rules(rule())).rules
    assert (found.for_, found.cooldown) == (timedelta(0), timedelta(days=7))
    assert (found.renotify, found.notify_resolved) == (None, False)


def test_absence_is_a_matter_of_the_condition_not_of_the_wording(tmp_path: Path) -> None:
    book = loaded(
        tmp_path,
        rules(
            rule(id="a", when="open_tickets > 3", reason="{days_since_login:days}"),
            rule(id="b", when="open_tickets > 3 OR days_since_login > 3"),
            rule(id="c", when="status = 'paused'"),
        ),
    )
    assert [(found.absence, found.names_status) for found in book.rules] == [
        (False, False),
        (True, False),
        (False, True),
    ]


def test_the_first_level_that_holds_is_taken_and_unknown_does_not_hold(tmp_path: Path) -> None:
    severity = "[{level: critical, when: mrr >= 1000}, {level: warning, when: band = 'red'}, {level: info}]"
    (found,) = loaded(tmp_path, rules(rule(severity=severity))).rules
    assert found.severity_for({"mrr": 1000.0, "band": "red"}) == "critical"
    assert found.severity_for({"mrr": float("nan"), "band": "red"}) == "warning"
    assert found.severity_for({}) == "info"


def test_a_disabled_rule_is_checked_but_left_out(tmp_path: Path) -> None:
    assert loaded(tmp_path, rules(rule(more="    enabled: false\n"))).rules == ()
    assert faults(tmp_path, rules(rule(when="nothing > 3", more="    enabled: false\n")))


def test_a_rule_is_repeated_over_a_list(tmp_path: Path) -> None:
    text = rules(
        rule(when="NOT feature_used['${feature}']", more="    for_each: {feature: core}\n", reason="No ${feature}"),
        rule(id="other", when="days_since_feature['${x}'] > 3", more="    for_each: {x: [one]}\n"),
        lists="lists: {core: [export, 'two words']}\n",
    )
    book = loaded(tmp_path, text)
    assert [found.id for found in book.rules] == ["other:one", "quiet:export", "quiet:two words"]
    assert [*map(str, book.rules[1].refs), *map(str, book.rules[2].refs)] == [
        "feature_used['export']",
        "feature_used['two words']",
    ]
    assert book.rules[1].reason["en"].source == "No export"
    assert len({found.version for found in book.rules}) == 3


def test_an_empty_list_switches_its_rules_off(tmp_path: Path) -> None:
    text = rules(rule(when="feature_used['${f}']", more="    for_each: {f: core}\n"), lists="lists: {core: []}\n")
    assert loaded(tmp_path, text).rules == ()


def test_rewording_makes_a_new_rulebook_but_not_a_new_rule(tmp_path: Path) -> None:
    before = loaded(tmp_path, rules(rule()))
    reworded = loaded(tmp_path, "# a comment\n" + rules(rule(when="days_since_login  >=  14 ", reason="Very quiet")))
    changed = loaded(tmp_path, rules(rule(when="days_since_login >= 15")))
    longer = loaded(tmp_path, rules(rule(more="    for: 1d\n")))
    assert before.rules[0].version == reworded.rules[0].version
    assert len({book.rules[0].version for book in (before, changed, longer)}) == 3
    assert len({book.version for book in (before, reworded, changed, longer)}) == 4


def test_comments_spaces_and_file_names_do_not_make_a_new_rulebook(tmp_path: Path) -> None:
    before = loaded(tmp_path, rules(rule(), rule(id="second")))
    after = loaded(
        tmp_path, "# only this file now\n" + rules(rule(id="second", when="days_since_login>=14")), b=rules(rule())
    )
    assert before.version == after.version


BAD_CASES = """\
    tests:
      - {given: {mrr: 3}, expect: fires}
      - {given: {days_since_login: '3'}, expect: fires}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["0.yaml:1:1: the file is empty"]),
        ("- a\n", ["0.yaml:1:1: a file is a mapping with lists, rules"]),
        (
            "rule: []\n",
            [
                "0.yaml:1:1: rules is missing",
                "0.yaml:1:1: unknown key 'rule'; there are lists, rules (did you mean rules?)",
            ],
        ),
        ("rules: 3\n", ["0.yaml:1:8: rules: should be a valid list"]),
        ("rules: &a []\nlists: *a\n", ["0.yaml:2:8: anchors and aliases are not taken; repeat the text"]),
        ("rules:\n\t- a\n", ["0.yaml:2:1: a tab is used for indentation; YAML wants spaces"]),
        ("rules: [\n", ["0.yaml:2:1: not YAML: …expected the node content…"]),
        ("rules: []\nrules: []\n", ["0.yaml:2:1: 'rules' is given twice"]),
        ("a: \x07\n", ["0.yaml:1:4: the character U+0007 is not allowed in YAML"]),
        (
            rules(rule(severity="critcal")),
            ["0.yaml:5:15: severity is one of critical, warning, info (did you mean critical?)"],
        ),
        (
            rules(rule(severity="[{level: inof}]")),
            ["0.yaml:5:24: severity.level is one of critical, warning, info (did you mean info?)"],
        ),
        (
            rules(rule(severity="[{level: info, when: mrr > 1}]")),
            ["0.yaml:5:16: every line of severity has a condition (when), and only the last has none"],
        ),
        (
            rules(rule(severity="[{level: info, when: mmr > 1}, {level: info}]")),
            ["0.yaml:5:36: no signal is called 'mmr' (did you mean mrr?)"],
        ),
        (rules(rule(more="    fro: 3d\n")), ["0.yaml:8:5: unknown key 'fro'; … (did you mean for?)"]),
        (
            rules(rule(more="    for: 3\n    cooldown: 3w\n")),
            [
                "0.yaml:8:10: for: write a whole number with d, h or m: 7d, 12h, 30m",
                "0.yaml:9:15: cooldown: write a whole number with d, h or m: 7d, 12h, 30m",
            ],
        ),
        (rules(rule(id="Bad Id")), ["0.yaml:2:9: id: an id is lower-case words joined by hyphens: no-login"]),
        (rules(rule(), rule()), ["0.yaml:8:9: rule id 'quiet' is taken by 0.yaml:2"]),
        (rules(rule(when="TRUE")), ["0.yaml:4:11: when: write a text (in quotes if it looks like a number)"]),
        (rules(rule(when="1 = 1")), ["0.yaml:4:11: the condition names no signal"]),
        (rules(rule(reason="{mrr:mony}")), ["0.yaml:6:24: there is no format 'mony'; … (did you mean money?)"]),
        (
            rules(rule(more="    for_each: {f: coer}\n"), lists="lists: {core: [a]}\n"),
            ["0.yaml:9:19: this file has no list called 'coer' (did you mean core?)"],
        ),
        (
            rules(rule(), lists='lists: {core: ["it\'s"]}\n'),
            ["0.yaml:1:16: lists.core: an item has no quotes, braces, backslash or dollar sign"],
        ),
        (
            rules(rule(more=BAD_CASES)),
            ["0.yaml:9:18: the rule does not use a signal 'mrr'", "0.yaml:10:36: signal days_since_login is a number"],
        ),
        (
            rules(rule(more="    tests:\n      - {given: {}, expect: fire}\n")),
            ["0.yaml:9:29: tests.expect is one of fires, silent, unknown (did you mean fires?)"],
        ),
    ],
)
def test_a_fault_is_reported_with_place_problem_and_nearest_name(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    found = faults(tmp_path, text)
    assert len(found) == len(expected)
    for line, pattern in zip(sorted(found), sorted(expected), strict=True):
        assert re.fullmatch(re.escape(pattern).replace("…", ".*"), line), line


def test_a_missing_translation_is_a_fault(tmp_path: Path) -> None:
    assert faults(tmp_path, rules(rule()).replace(", ja: 電話", "")) == ["0.yaml:7:17: suggestion.ja is missing"]


@pytest.mark.parametrize(
    ("when", "line"),
    [
        ("mrr > 1 AND scoer > 3", 4),
        ("'plan = ''x'' AND scoer > 3'", 4),
        ("\"plan = '\\u6771\\t\\x41' AND scoer > 3\"", 4),
        ("mrr > 1\n      AND scoer > 3", 5),
        ("|\n      mrr > 1\n\n      AND\n        scoer > 3", 8),
        (">-  # folded\n      mrr > 1\n      AND scoer > 3", 6),
        ("'mrr > 1\n\n      AND scoer > 3'", 6),
        ("plan = '東京' AND scoer > 3", 4),
    ],
)
def test_a_fault_in_a_condition_is_shown_where_the_file_has_it(tmp_path: Path, when: str, line: int) -> None:
    text = rules(rule(when=when))
    column = text.splitlines()[line - 1].index("scoer") + 1
    assert faults(tmp_path, text) == [f"0.yaml:{line}:{column}: no signal is called 'scoer' (did you mean score?)"]


def test_a_fault_behind_a_list_item_is_shown_once_where_it_is_written(tmp_path: Path) -> None:
    text = rules(rule(when="feature_used['${f}'] AND scoer > 3", more="    for_each: {f: [a-long-name, b]}\n"))
    assert faults(tmp_path, text) == ["0.yaml:4:36: no signal is called 'scoer' (did you mean score?)"]


def test_every_fault_of_every_file_is_reported_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path, rules(rule(when="a > 1"), rule(id="x", when="b > 1")), rules(rule(severity="x", when="c > 1"))
    )
    assert [line.split(" ")[0] for line in found] == ["0.yaml:4:11:", "0.yaml:10:11:", "1.yaml:4:11:", "1.yaml:5:15:"]


def test_one_bad_file_refuses_the_good_ones_too(tmp_path: Path) -> None:
    assert len(faults(tmp_path, rules(rule()), rules(rule(id="x", when="nothing > 1")))) == 1


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("rules: []  # é".encode("latin-1"))
    assert faults(tmp_path) == ["a.yaml:1:1: byte 13 is not UTF-8; save the file as UTF-8"]


def test_a_nest_of_brackets_is_refused(tmp_path: Path) -> None:
    (only,) = faults(tmp_path, "[" * 20_000)
    assert "nested too deep" in only or "not YAML" in only


def test_a_directory_without_rules_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(RulebookError, match="no rules file"):
        load(tmp_path, SIGNALS)
    with pytest.raises(RulebookError, match="no rules file"):
        load(tmp_path / "missing", SIGNALS)


CASES = """\
    tests:
      - given: {days_since_login: 14}
        expect: silent
      - given: {days_since_login: 15, mrr: 3}
        expect: fires
        severity: critical
        reason: {en: Wrong}
      - given: {days_since_login: null}
        expect: fires
"""


def test_check_runs_the_tests_that_a_rule_carries(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rules(rule(more=CASES, reason="MRR {mrr:int}")), encoding="utf-8")
    found = [str(problem).replace(f"{tmp_path}/", "") for problem in check(tmp_path, SIGNALS)]
    assert found == [
        "a.yaml:9:9: rule quiet: expected silent, but it is fires",
        "a.yaml:11:9: rule quiet: expected severity critical, but it is warning",
        "a.yaml:11:9: rule quiet: expected the reason 'Wrong', but it reads 'MRR 3'",
        "a.yaml:15:9: rule quiet: expected fires, but it is unknown",
    ]


def test_check_wants_a_test_of_firing_and_one_of_staying_silent(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rules(rule()), encoding="utf-8")
    found = [problem.problem for problem in check(tmp_path, SIGNALS)]
    assert found == ["rule quiet has no test where it fires", "rule quiet has no test where it stays silent"]


def test_check_reports_what_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rules: 3", encoding="utf-8")
    assert [problem.problem for problem in check(tmp_path, SIGNALS)] == ["rules: should be a valid list"]


LETTERS = st.text(alphabet="ab'\"\\ #:|>-é東\n\t", min_size=1, max_size=60)


@given(text=LETTERS, style=st.sampled_from(["|", ">", "'", '"', None]), width=st.integers(10, 60))
def test_each_character_of_a_text_is_found_again_in_the_file(text: str, style: Any, width: int) -> None:
    written = yaml.safe_dump({"k": {"when": text}}, default_style=style, width=width, allow_unicode=True)
    root = yaml.compose(written, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    node = root.value[0][1].value[0][1]
    assert node.value == text
    places = character_places(written, node)
    assert len(places) == len(text)
    for character, place in zip(text, places, strict=True):
        if character.isspace() or written[place] == "\\":
            continue
        assert written[place] == character
