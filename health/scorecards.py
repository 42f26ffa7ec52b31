"""The scorecards in force: whose card is whose, and the scores of a batch. Pure but for ``load``.

``health/scoring.py`` is one card's arithmetic, ``health/score_lines.py`` its words, ``docs/scorecards.md`` the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.catalogue import SignalRef
from health.columns import Facts
from health.custom import NONE, CustomSignal
from health.score_lines import Contribution, Override, explain
from health.scorecard_file import FULL_MARK, Card, Condition, load_card, parse_card
from health.scoring import BANDS, CardInForce, ranks
from health.signals.table import SignalTable
from health.yamlfile import FileError, FileProblem

__all__ = ["BANDS", "FULL_MARK", "CardInForce", "Override", "Scorecards", "Scores", "explain", "load", "ranks"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One entry per account. ``score`` NaN: too little is known.

    ``confidence`` is the share of the card's weight that had data. ``incomplete``: a measure is missing because time
    was not observed, so the score is not comparable with others; the band was kept if the missing values allow it.
    ``overridden``: a person set it. ``at_risk`` is the share of the MRR that the band puts at risk; NaN without one.
    """

    score: Floats
    band: list[str | None]
    contributions: list[list[Contribution]]
    scorecard: list[str]
    confidence: Floats
    incomplete: Bools
    overridden: Bools
    at_risk: Floats


class Scorecards:
    """The scorecards in force, in the order in which they are tried; the last takes whoever is left."""

    def __init__(self, cards: Sequence[CardInForce]) -> None:
        """Raises ValueError unless the last card, and no other, is without ``match``."""
        if [card.card.match is None for card in cards] != [False] * (len(cards) - 1) + [True]:
            raise ValueError("the last scorecard, and no other, is without match")
        self.cards = tuple(cards)
        self.name = "+".join(card.name for card in self.cards)

    @property
    def refs(self) -> tuple[SignalRef, ...]:
        """The signals that choosing cards and scoring need."""
        matched = [SignalRef.parse(name) for card in self.cards for entry in card.card.match or [] for name in entry]
        return tuple(dict.fromkeys([*(ref for card in self.cards for ref in card.refs), *matched]))

    @property
    def custom(self) -> Mapping[str, CustomSignal]:
        """The signals of configuration among them, as the cards were read with them."""
        return {name: signal for card in self.cards for name, signal in card.custom.items()}

    def choose(self, table: SignalTable) -> Ints:
        """The place in ``cards`` of each account's card, at the last instant of ``table``. (A,)."""
        chosen = np.full(len(table.account_ids), len(self.cards) - 1, dtype=np.int64)
        for place in range(len(self.cards) - 2, -1, -1):
            for entry in self.cards[place].card.match or []:
                met = np.ones(len(chosen), dtype=np.bool_)
                for name, condition in entry.items():
                    met &= _meets(condition, table.columns[str(SignalRef.parse(name))][:, -1])
                chosen[met] = place
        return chosen

    def score(
        self,
        table: SignalTable,
        facts: Facts,
        previous_bands: Sequence[str | None],
        overrides: Sequence[Override | None] | None = None,
    ) -> Scores:
        """Scores the accounts of ``table`` at its last instant; ``previous_bands`` as they stand, None at first.

        ``overrides``: what people set and has not expired. Raises ValueError for what is not of the same accounts.
        """
        size = len(table.account_ids)
        standing = [None] * size if overrides is None else overrides
        if not len(facts) == size == len(previous_bands) == len(standing):
            raise ValueError("signals, facts, previous bands and overrides are not of the same accounts")
        chosen = self.choose(table)
        score, confidence, at_risk = np.full(size, np.nan), np.zeros(size), np.full(size, np.nan)
        incomplete, by_hand = np.zeros(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_)
        band: list[str | None] = [None] * size
        contributions: list[list[Contribution]] = [[]] * size
        for number in np.unique(chosen).tolist():
            places = np.flatnonzero(chosen == number)
            listed = places.tolist()
            part = self.cards[number].score(
                table, places, [previous_bands[place] for place in listed], [standing[place] for place in listed]
            )
            score[places], confidence[places], at_risk[places] = part.score, part.confidence, part.at_risk
            incomplete[places], by_hand[places] = part.incomplete, part.overridden
            for place, own, lines in zip(listed, part.band, part.contributions, strict=True):
                band[place], contributions[place] = own, lines
        return Scores(
            score=score,
            band=band,
            contributions=contributions,
            scorecard=[self.cards[number].name for number in chosen.tolist()],
            confidence=confidence,
            incomplete=incomplete,
            overridden=by_hand,
            at_risk=at_risk,
        )


def _meets(condition: Condition, values: Any) -> Bools:
    if condition.one_of is not None:
        return np.array([value in condition.one_of for value in values.tolist()], dtype=np.bool_)
    met = np.isfinite(values)
    if condition.at_least is not None:
        met &= values >= condition.at_least
    if condition.below is not None:
        met &= values < condition.below
    return np.asarray(met, dtype=np.bool_)


def load(directory: Path, declared: Mapping[str, CustomSignal] = NONE) -> Scorecards:
    """The scorecards of a folder: those with ``match`` in the order of their file names, then the one without. They may
    speak of the signals of configuration that are ``declared``.

    Raises ``FileError`` with every fault; also when there is no card for everybody else, or more than one, or two of
    one name.
    """
    files = {path.name: partial(load_card, path, declared) for path in sorted(directory.glob("*.yaml"))}
    return _in_force(files, directory.name, declared)


def parse(texts: Mapping[str, str], declared: Mapping[str, CustomSignal] = NONE) -> Scorecards:
    """The same from texts by the names that their files would have."""
    files = {name: partial(parse_card, text, name, declared) for name, text in sorted(texts.items())}
    return _in_force(files, "scorecards", declared)


def replaced(cards: Scorecards, card: CardInForce) -> Scorecards:
    """``cards`` with ``card`` in the place of the one of its name; else, without ``match``, of the one that takes
    everybody; else tried before all others."""
    named = [known.card.scorecard == card.card.scorecard for known in cards.cards]
    kept = [known for known, same in zip(cards.cards, named, strict=True) if not same]
    if card.card.match is None:
        return Scorecards([*(known for known in kept if known.card.match is not None), card])
    place = named.index(True) if True in named else 0
    if place == len(kept):
        raise ValueError(f"{card.card.scorecard} takes everybody whom no other card matches: leave match out")
    return Scorecards([*kept[:place], card, *kept[place:]])


def _in_force(
    files: Mapping[str, Callable[[], tuple[Card, str]]], folder: str, declared: Mapping[str, CustomSignal]
) -> Scorecards:
    cards: list[tuple[str, CardInForce]] = []
    problems: list[FileProblem] = []
    for file, read in files.items():
        try:
            cards.append((file, CardInForce(*read(), declared)))
        except FileError as error:
            problems += error.problems
    for number, (file, card) in enumerate(cards):
        twin = next((other for other, known in cards[:number] if known.card.scorecard == card.card.scorecard), None)
        if twin is not None:
            words = f"{twin} is called {card.card.scorecard}, too; name it otherwise"
            problems.append(FileProblem(file=file, line=1, column=1, problem=words))
    general = [entry for entry in cards if entry[1].card.match is None]
    if not general and not problems:
        words = "no scorecard without match here; add default.yaml, for everybody whom no other card matches"
        problems.append(FileProblem(file=folder, line=1, column=1, problem=words))
    for file, _ in general[1:]:
        words = f"{general[0][0]} is without match, too, and takes everybody; say in one of them whose card it is"
        problems.append(FileProblem(file=file, line=1, column=1, problem=words))
    if problems:
        raise FileError(problems)
    ordered = sorted(cards, key=lambda entry: (entry[1].card.match is None, entry[0]))
    return Scorecards([card for _, card in ordered])
