"""Every wording of the board exists in every language, with the same places for values."""

import ast
import re
import string
from pathlib import Path
from typing import get_args

import pytest

from consumers.bad_events import Reason
from health.catalogue import SIGNALS
from service.board import formats, forms, gaps, kin, letters, lines, measures, pages, timeline, uploads, words
from service.board.words import LANGUAGES, Words, catalogue, choose

BOARD = Path(words.__file__).parent
TABLES = (
    formats.BANDS, formats.SEVERITIES, formats.OUTCOMES, forms.ALERT_TABS, pages.DONE, pages.CONTACTS,
    uploads.KINDS, uploads.FIELDS,
    lines.STATES, lines.ENDINGS, measures.STATUSES, lines.TRANSITIONS, lines.DELIVERY_STATUSES, lines.ATTEMPTS,
    lines.CHANNELS, lines.WHYS, measures.GROUPS, timeline.ATTRIBUTES, measures.SIGNAL_NAMES,
    letters.TABS, letters.REASONS, letters.DONE, gaps.STATES, gaps.DONE, gaps.REFUSED, kin.PROBLEMS,
)  # fmt: skip
DRAWN = re.compile(r"""\b(?:_|say)(\.count)?\(\s*(?:"([^"]*)"|'([^']*)')(?:,\s*"([^"]*)")?""")


def written() -> set[str]:
    """All English wording: in calls of ``words`` and ``_``, and in the tables of labels."""
    found = {text for table in TABLES for text in table.values()}
    found |= {text for text, _ in timeline.SIMPLE.values()}
    found |= {"Unknown"}
    for path in BOARD.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found |= set(_spoken(node))
    found |= {"{n} min ago", "in {n} min", "{n} h ago", "in {n} h", "{n} days ago", "in {n} days"}
    for path in (BOARD / "templates").glob("*.html"):
        for count, double, single, many in DRAWN.findall(path.read_text(encoding="utf-8")):
            found.add(many if count else double or single)
    return found


def _spoken(call: ast.Call) -> list[str]:
    function = call.func
    strings = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if isinstance(function, ast.Attribute) and function.attr == "count" and _is_words(function.value):
        return strings[1:2]
    return strings[:1] if _is_words(function) else []


def _is_words(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "words") or (
        isinstance(node, ast.Attribute) and node.attr == "words"
    )


def test_every_reason_of_a_dead_letter_has_a_name() -> None:
    assert set(letters.REASONS) == set(get_args(Reason))


def test_every_signal_has_a_name() -> None:
    assert set(measures.SIGNAL_NAMES) == set(SIGNALS)


OTHERS = [language for language in LANGUAGES if language != "en"]


@pytest.mark.parametrize("language", OTHERS)
def test_every_wording_is_translated_and_none_is_stale(language: words.Language) -> None:
    assert set(catalogue(language)) == written()


@pytest.mark.parametrize("language", OTHERS)
def test_translations_have_the_same_places_for_values(language: words.Language) -> None:
    def places(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert [english for english, other in catalogue(language).items() if places(english) != places(other)] == []


def test_plurals() -> None:
    assert Words("en").count("{n} account", "{n} accounts", 1) == "1 account"
    assert Words("en").count("{n} account", "{n} accounts", 2) == "2 accounts"
    assert Words("ja").count("{n} account", "{n} accounts", 1) == "1社"


@pytest.mark.parametrize(
    ("cookie", "header", "expected"),
    [
        (None, None, "en"),
        ("ja", "en", "ja"),
        ("xx", "ja", "ja"),
        (None, "ja-JP,ja;q=0.9,en;q=0.8", "ja"),
        (None, "fr, en;q=0.5, ja;q=0.4", "en"),
        (None, "en;q=0.1, ja;q=0.9", "ja"),
        (None, "ja;q=0, de", "en"),
        (None, ";;q=,ja;q=x", "en"),
    ],
)
def test_language_of_a_page(cookie: str | None, header: str | None, expected: str) -> None:
    assert choose(cookie, header) == expected
