"""A scorecard that somebody sends is refused with a line, whatever it holds, and costs little."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from health import scorecards
from health.scorecard_file import parse_card
from health.scoring import CardInForce
from health.yamlfile import FileError

CARDS = Path(__file__).resolve().parents[2] / "rules" / "scorecards"
CARD = (CARDS / "default.yaml").read_text(encoding="utf-8")
PLACE = "[14, 40]"
BOMB = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(20))
HOSTILE = {
    "aliases": BOMB,
    "itself": "a: &a [*a]",
    "digits": CARD.replace(PLACE, f"[{'9' * 20_000}, 40]"),
    "too large for a float": CARD.replace(PLACE, f"[{'9' * 400}, 40]"),
    "base sixty": CARD.replace(PLACE, f"[{':'.join(['59'] * 5_000)}.5, 40]"),
    "infinite": CARD.replace(PLACE, "[.inf, 40]"),
    "no number": CARD.replace(PLACE, "[.nan, 40]"),
    "a cap at no number": CARD.replace("at_least: 30", "at_least: .nan"),
    "deep": "[" * 20_000,
    "code": "!!python/object/apply:os.system [x]",
    "a NUL": CARD.replace("title:", "ti\0tle:"),
    "a lone surrogate": CARD.replace("Health", "\ud800"),
    "two documents": CARD + "\n---\na: 1\n",
    "many measures": CARD.replace("caps:\n", "".join(
        f"  - {{id: m{n}, group: ROI, signal: mrr, weight: 1, line: [[0, 0], [1, 1]], reason: {{en: a, ja: b}}}}\n"
        for n in range(100)
    ) + "caps:\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_with_a_line(name: str) -> None:
    began = time.process_time()
    with pytest.raises(FileError) as refused:
        scorecards.parse({"sent.yaml": HOSTILE[name]})
    assert time.process_time() - began < 5
    assert all(problem.file == "sent.yaml" and problem.line >= 1 for problem in refused.value.problems)


def test_a_text_is_the_card_of_its_file() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in CARDS.glob("*.yaml")}
    assert scorecards.parse(texts).name == scorecards.load(CARDS).name


def card(text: str) -> CardInForce:
    return CardInForce(*parse_card(text, "sent.yaml"))


def names(cards: scorecards.Scorecards) -> list[str]:
    return [known.card.scorecard for known in cards.cards]


def test_one_card_takes_the_place_of_another() -> None:
    running = scorecards.load(CARDS)
    assert names(running) == ["onboarding", "parents", "default"]
    onboarding = (CARDS / "onboarding.yaml").read_text(encoding="utf-8")
    same = scorecards.replaced(running, card(onboarding.replace("at_least: 14", "at_least: 10")))
    assert names(same) == ["onboarding", "parents", "default"] and same.name != running.name
    everybody = scorecards.replaced(running, card(CARD.replace("scorecard: default", "scorecard: other")))
    assert names(everybody) == ["onboarding", "parents", "other"]
    further = scorecards.replaced(running, card(onboarding.replace("scorecard: onboarding", "scorecard: trial")))
    assert names(further) == ["trial", "onboarding", "parents", "default"]
    with pytest.raises(ValueError, match="leave match out"):
        scorecards.replaced(running, card(onboarding.replace("scorecard: onboarding", "scorecard: default")))
