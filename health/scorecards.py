"""Scorecards: how signals become a score of 0 to 100, a band, and lines that say why. Pure but for ``load``.

Every account starts from the full mark, a line of +100; each measure takes away what it lost, each cap what lies
above its limit. Lines are whole tenths and add up to the score exactly. See ``docs/scorecards.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.catalogue import SIGNALS, SignalRef
from health.columns import Facts
from health.scorecard_file import AtRisk, Bands, Cap, Card, Measure, load_card
from health.signals.table import SignalTable
from health.yamlfile import FileError, FileProblem

Language = Literal["en", "ja"]
Contribution = dict[str, Any]

BANDS = ("red", "yellow", "green")
FULL_MARK = "full_mark"
FULL = 1000  # tenths
_LESS_THAN_BORDER = 0.1

_FULL_MARK_REASON = {"en": "full mark", "ja": "満点"}
_MISSING = {
    "en": "no data; its weight is shared among the others",
    "ja": "データなし(重みは他の項目に配分)",
}
_INCOMPLETE = {
    "en": "data incomplete; its weight is shared among the others",
    "ja": "データ欠落あり(重みは他の項目に配分)",
}


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One entry per account. ``score`` NaN: too little is known.

    ``confidence`` is the share of the card's weight that had data. ``incomplete``: a measure is missing because time
    was not observed, so the score is not comparable with others; the band was kept if the missing values allow it.
    """

    score: Floats
    band: list[str | None]
    contributions: list[list[Contribution]]
    scorecard: list[str]
    confidence: Floats
    incomplete: Bools


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """Signals of a card's measures and caps: values and whether unknown for want of observation, (A, M) and (A, C)."""

    values: Floats
    points: Floats
    unseen: Bools
    cap_hit: Bools
    cap_unseen: Bools
    cap_values: Floats


class Scorecards:
    """The scorecards in force. One card scores every account."""

    def __init__(self, card: Card, version: str) -> None:
        self.card = card
        self.name = f"{card.scorecard}@{version}"
        self._measures = [(measure, SignalRef.parse(measure.signal)) for measure in card.measures]
        self._caps = [(cap, SignalRef.parse(cap.signal)) for cap in card.caps]
        self._measure_wordings = [_Wording.of(measure, ref) for measure, ref in self._measures]
        self._cap_wordings = [_Wording.of(cap, ref) for cap, ref in self._caps]
        self._group_of = np.array([list(card.groups).index(measure.group) for measure in card.measures])
        self._weight = np.array([measure.weight for measure in card.measures])
        group_weight = np.array(list(card.groups.values()))
        self._group_weight = group_weight / group_weight.sum()

    @property
    def refs(self) -> tuple[SignalRef, ...]:
        """The signals that scoring needs."""
        return tuple(dict.fromkeys(ref for _, ref in [*self._measures, *self._caps]))

    @property
    def at_risk(self) -> Mapping[str, float]:
        """Weights for ``mrr_at_risk``."""
        weights: Mapping[str, float] = self.card.mrr_at_risk.model_dump()
        return weights

    def score(self, table: SignalTable, facts: Facts, previous_bands: Sequence[str | None]) -> Scores:
        """Scores the accounts of ``table`` at its last instant; ``previous_bands`` as they stand, None at first.

        ``facts`` tell which card is whose; with one card they only have to be of the same accounts.
        """
        if not len(facts) == len(table.account_ids) == len(previous_bands):
            raise ValueError("signals, facts and previous bands are not of the same accounts")
        inputs = self._inputs(table)
        present = np.isfinite(inputs.points)
        weights = self._weights(present)
        confidence = (self._weights(np.ones_like(present)) * present).sum(axis=1)
        raw = (weights * np.nan_to_num(inputs.points)).sum(axis=1)
        before_caps = np.rint(raw * 10).astype(np.int64)
        lost = _whole(weights * (100 - np.nan_to_num(inputs.points, nan=100.0)) * 10, FULL - before_caps)
        tenths, taken = self._capped(before_caps, inputs.cap_hit)
        known = (confidence >= self.card.minimum_confidence) & (confidence > 0)
        incomplete = np.asarray(np.column_stack([inputs.unseen, inputs.cap_unseen]).any(axis=1))
        score = np.where(known, tenths / 10, np.nan)
        return Scores(
            score=score,
            band=self._bands(score, inputs, incomplete, previous_bands),
            contributions=self._lines(inputs, weights, lost, taken, known),
            scorecard=[self.name] * len(score),
            confidence=confidence,
            incomplete=incomplete,
        )

    def _inputs(self, table: SignalTable) -> _Inputs:
        never = np.zeros((len(table.account_ids), 1), dtype=np.bool_)

        def column(ref: SignalRef) -> tuple[Floats, Bools]:
            values = table.columns[str(ref)][:, -1].astype(np.float64)
            return values, np.isnan(values) & table.incomplete.get(str(ref), never)[:, -1]

        measured = [column(ref) for _, ref in self._measures]
        capped = [column(ref) for _, ref in self._caps]
        size = (len(table.account_ids), 0)
        hits = [
            values >= cap.at_least if cap.at_least is not None else values < (cap.below or 0)
            for (cap, _), (values, _) in zip(self._caps, capped, strict=True)
        ]
        return _Inputs(
            values=np.column_stack([values for values, _ in measured]),
            points=np.column_stack(
                [points(measure, values) for (measure, _), (values, _) in zip(self._measures, measured, strict=True)]
            ),
            unseen=np.column_stack([unseen for _, unseen in measured]),
            cap_hit=np.column_stack(hits) if hits else np.zeros(size, dtype=np.bool_),
            cap_unseen=np.column_stack([unseen for _, unseen in capped]) if hits else np.zeros(size, dtype=np.bool_),
            cap_values=np.column_stack([values for values, _ in capped]) if hits else np.zeros(size),
        )

    def _weights(self, present: Bools) -> Floats:
        """Weights (A, M) that sum to 1: a missing measure's goes to the rest of its group, a missing group's to the
        rest."""
        own = self._weight * present
        in_group = own @ (self._group_of[:, None] == np.arange(len(self._group_weight)))
        group = self._group_weight * (in_group > 0)
        total = group.sum(axis=1, keepdims=True)
        share = np.divide(group, in_group * np.where(total > 0, total, 1), where=in_group > 0, out=np.zeros_like(group))
        weights: Floats = own * share[:, self._group_of]
        return weights

    def _limit(self, place: int) -> int:
        limit = self._caps[place][0].limit
        if limit == "red":
            limit = self.card.bands.yellow - _LESS_THAN_BORDER
        elif limit == "yellow":
            limit = self.card.bands.green - _LESS_THAN_BORDER
        return round(float(limit) * 10)

    def _capped(self, tenths: Ints, hit: Bools) -> tuple[Ints, Ints]:
        """The scores under the caps (A,), and what each took (A, C), in the order of the file."""
        taken = np.zeros(hit.shape, dtype=np.int64)
        for place in range(hit.shape[1]):
            taken[:, place] = np.where(hit[:, place], np.maximum(tenths - self._limit(place), 0), 0)
            tenths = tenths - taken[:, place]
        return tenths, taken

    def _bands(
        self, score: Floats, inputs: _Inputs, incomplete: Bools, previous: Sequence[str | None]
    ) -> list[str | None]:
        """Bands by the card's borders. While data is incomplete, the previous band stays as long as the missing values
        could bear it out."""
        before = np.array([BANDS.index(band) if band in BANDS else -1 for band in previous], dtype=np.int64)
        band = ranks(score, before, self.card.bands)
        present = np.isfinite(inputs.points) | inputs.unseen
        weights = self._weights(present)
        at_worst = (weights * np.nan_to_num(inputs.points)).sum(axis=1)
        at_best = at_worst + (weights * inputs.unseen).sum(axis=1) * 100
        worst, _ = self._capped(np.rint(at_worst * 10).astype(np.int64), inputs.cap_hit | inputs.cap_unseen)
        best, _ = self._capped(np.rint(at_best * 10).astype(np.int64), inputs.cap_hit)
        possible = (ranks(worst / 10, before, self.card.bands) <= before) & (
            before <= ranks(best / 10, before, self.card.bands)
        )
        band = np.where(incomplete & (before >= 0) & possible, before, band)
        return [BANDS[place] if place >= 0 else None for place in band.tolist()]

    def _lines(
        self, inputs: _Inputs, weights: Floats, lost: Ints, taken: Ints, known: Bools
    ) -> list[list[Contribution]]:
        lines: list[list[Contribution]] = []
        columns = zip(
            inputs.values.tolist(), inputs.points.tolist(), inputs.unseen.tolist(), weights.tolist(), lost.tolist(),
            inputs.cap_values.tolist(), taken.tolist(), known.tolist(), strict=True,
        )  # fmt: skip
        for values, marks, unseen, weight, less, cap_values, cut, scored in columns:
            own = [_full_mark()] if scored else []
            for place, wording in enumerate(self._measure_wordings):
                taken_away = less[place] if scored else 0
                own.append(
                    wording.measured(values[place], marks[place], weight[place], taken_away, unseen=unseen[place])
                )
            own += [
                wording.capped(cap_values[place], self._limit(place) / 10, cut[place])
                for place, wording in enumerate(self._cap_wordings)
                if scored and cut[place]
            ]
            lines.append(own)
        return lines


def load(directory: Path) -> Scorecards:
    """The scorecard of a folder. Raises ``FileError`` with every fault, also when there is no card or more than one."""
    paths = sorted(directory.glob("*.yaml"))
    if len(paths) != 1:
        problem = "no scorecard here; add default.yaml" if not paths else "one scorecard is in force; remove the others"
        file = paths[1].name if paths else directory.name
        raise FileError([FileProblem(file=file, line=1, column=1, problem=problem)])
    return Scorecards(*load_card(paths[0]))


def points(measure: Measure, values: Floats) -> Floats:
    """Points 0..100 of a measure, NaN for an unknown value. Beyond the ends of its line or steps, the end's points."""
    bounds, marks = (np.array(column) for column in zip(*measure.mapping, strict=True))
    if measure.line is not None:
        return np.where(np.isnan(values), np.nan, np.interp(values, bounds, marks))
    place = np.searchsorted(bounds, values, side="right") - 1
    return np.where(np.isnan(values), np.nan, marks[np.clip(place, 0, None)])


def ranks(score: Floats, before: Ints, bands: Bands) -> Ints:
    """Places in ``BANDS``, -1 for an unknown score. Downwards the borders hold as they are, so that a warning does not
    wait; upwards a band is entered ``hysteresis`` points above its border. ``before`` -1: no band yet."""
    plain = (score >= bands.yellow).astype(np.int64) + (score >= bands.green)
    risen = (score >= bands.yellow + bands.hysteresis).astype(np.int64) + (score >= bands.green + bands.hysteresis)
    rank = np.where((before >= 0) & (plain > before), np.maximum(before, risen), plain)
    return np.where(np.isnan(score), -1, rank)


def mrr_at_risk(mrr: Floats, bands: Sequence[str | None], weights: Mapping[str, float] | None = None) -> Floats:
    """The part of each account's MRR that is at risk by its band; NaN where either is unknown."""
    chosen = AtRisk().model_dump() if weights is None else weights
    return mrr * np.array([np.nan if band is None else chosen[band] for band in bands], dtype=np.float64)


def explain(contributions: Sequence[Contribution], language: Language) -> str:
    """One sentence: the score and the three lines that cost it most."""
    japanese = language == "ja"
    if not any(line["measure"] == FULL_MARK for line in contributions):
        return "情報が不足しており、スコアを算出できません。" if japanese else "Too little is known for a health score."
    score = f"{round(sum(line['contribution'] for line in contributions), 1):g}"
    losses = sorted((line for line in contributions if line["contribution"] < 0), key=lambda line: line["contribution"])
    if not losses:
        return f"スコア{score}:減点なし。" if japanese else f"Health score {score}: nothing counts against it."
    named = [f"{line['reason'][language]} (−{-line['contribution']:g})" for line in losses[:3]]
    if japanese:
        return f"スコア{score}:{'、'.join(named)}。".replace(" (", "(").replace(")", ")")
    return f"Health score {score}: {'; '.join(named)}."


def _whole(parts: Floats, totals: Ints) -> Ints:
    """Rounds parts (A, M) to whole numbers that sum to ``totals`` (A,): the largest remainders get what is left
    over."""
    low = np.floor(parts).astype(np.int64)
    left = totals - low.sum(axis=1)
    order = np.argsort(low - parts, axis=1, kind="stable")
    turn = np.empty_like(order)
    np.put_along_axis(turn, order, np.broadcast_to(np.arange(parts.shape[1]), parts.shape), axis=1)
    whole: Ints = low + (turn < left[:, None])
    return whole


def _full_mark() -> Contribution:
    return {"measure": FULL_MARK, "group": None, "signal": None, "value": None, "points": 100.0, "weight": 1.0,
            "contribution": 100.0, "reason": _FULL_MARK_REASON}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wording:
    """Writes the line of one measure or cap; made once per card, since every account has every line."""

    measure: str
    group: str | None
    signal: str
    unit: str
    en: str
    ja: str

    @classmethod
    def of(cls, part: Measure | Cap, ref: SignalRef) -> _Wording:
        group = part.group if isinstance(part, Measure) else None
        unit = SIGNALS[ref.name].unit
        return cls(measure=part.id, group=group, signal=str(ref), unit=unit, en=part.reason.en, ja=part.reason.ja)

    def measured(self, value: float, mark: float, weight: float, lost: int, *, unseen: bool) -> Contribution:
        missing = mark != mark  # noqa: PLR0124 - NaN
        return {
            "measure": self.measure,
            "group": self.group,
            "signal": self.signal,
            "value": None if missing else value,
            "points": None if missing else round(mark, 1),
            "weight": round(weight, 4),
            "contribution": -lost / 10 + 0.0,
            "reason": (_INCOMPLETE if unseen else _MISSING) if missing else self._reason(value),
        }

    def capped(self, value: float, limit: float, taken: int) -> Contribution:
        return {
            "measure": self.measure,
            "group": None,
            "signal": self.signal,
            "value": value,
            "points": limit,
            "weight": None,
            "contribution": -taken / 10,
            "reason": self._reason(value),
        }

    def _reason(self, value: float) -> dict[str, str]:
        en, ja = _spoken(value, self.unit)
        return {"en": self.en.replace("{value}", en), "ja": self.ja.replace("{value}", ja)}


def _spoken(value: float, unit: str) -> tuple[str, str]:
    """A value with its unit, in English and in Japanese."""
    if unit == "days":
        return "1 day" if value == 1 else f"{value:.0f} days", f"{value:.0f}日"
    if unit == "fraction":
        words = f"{value:.0%}"
    elif unit == "change":
        words = f"{value:+.0%}".replace("-", "−")
    else:
        words = f"{value:g}"
    return words, words
