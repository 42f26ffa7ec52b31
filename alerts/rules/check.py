"""A rulebook's own tests: every rule against the accounts that its file describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from alerts.rules.document import RulebookError
from alerts.rules.loader import load
from alerts.rules.model import Expected, Place, Rule, RuleBook, RuleCase, render_reason
from health.catalogue import Signal
from health.yamlfile import FileProblem

OUTCOMES: Mapping[bool | None, Expected] = {True: "fires", False: "silent", None: "unknown"}


def check(rules_dir: Path, catalogue: Mapping[str, Signal]) -> tuple[FileProblem, ...]:
    """Everything wrong with a directory of rules: what does not load, else each test that fails. Empty: all is well."""
    try:
        book = load(rules_dir, catalogue)
    except RulebookError as error:
        return error.problems
    return check_book(book)


def check_book(book: RuleBook) -> tuple[FileProblem, ...]:
    """The failing tests of a loaded rulebook, and the rules that have no test of firing or of staying silent."""
    return tuple(problem for rule in book.rules for problem in _check_rule(rule))


def _check_rule(rule: Rule) -> Iterator[FileProblem]:
    for case in rule.tests:
        for problem in _check_case(rule, case):
            yield _at(case.place, f"rule {rule.id}: {problem}")
    for wanted in ("fires", "silent"):
        if not any(case.expect == wanted for case in rule.tests):
            problem = f"rule {rule.id} has no test where it {'fires' if wanted == 'fires' else 'stays silent'}"
            yield _at(rule.place, problem)


def _at(place: Place, problem: str) -> FileProblem:
    return FileProblem(file=place.file, line=place.line, column=place.column, problem=problem)


def _check_case(rule: Rule, case: RuleCase) -> Iterator[str]:
    outcome = OUTCOMES[rule.when.holds(case.given)]
    if outcome != case.expect:
        yield f"expected {case.expect}, but it is {outcome}"
        return
    severity = rule.severity_for(case.given)
    if case.severity is not None and severity != case.severity:
        yield f"expected severity {case.severity}, but it is {severity}"
    for language, sentence in case.reason.items():
        written = render_reason(rule, case.given, language)
        if written != sentence:
            yield f"expected the reason {sentence!r}, but it reads {written!r}"
