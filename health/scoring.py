"""One scorecard at work: signals of some accounts become scores, bands and lines. Pure.

Every account starts from the full mark, a line of +100; each measure takes away what it lost, a worst-of group what its
worst measure costs beyond the weighted mean, each cap what lies above its limit; a person's override is a last, signed
line. Lines are whole tenths and add up to the score exactly. See ``docs/scorecards.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from threading import Lock

import numpy as np

from health.arrays import Bools, Floats, Ints
from health.catalogue import SignalRef
from health.custom import NONE, CustomSignal, with_catalogue
from health.score_lines import (
    MOST_SAID,
    Contribution,
    Line,
    Override,
    Said,
    Wording,
    coded,
    full_mark,
    overridden,
    worst_of,
)
from health.scorecard_file import Bands, Cap, Card, Measure, used
from health.signals.table import SignalTable

BANDS = ("red", "yellow", "green")
_RANKS = {band: rank for rank, band in enumerate(BANDS)}
FULL = 1000  # tenths
_LESS_THAN_BORDER = 0.1


@dataclass(frozen=True, kw_only=True)
class CardScores:
    """Of the accounts of one card; see ``health.scorecards.Scores``."""

    score: Floats
    band: list[str | None]
    contributions: list[list[Contribution]]
    confidence: Floats
    incomplete: Bools
    overridden: Bools
    at_risk: Floats


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """Signals of a card's measures and caps: values and whether unknown for want of observation, (A, M) and (A, C)."""

    points: Floats
    unseen: Bools
    cap_hit: Bools
    cap_unseen: Bools


@dataclass(frozen=True, kw_only=True)
class _Combined:
    """``weights`` and ``lost`` (A, M): the real share of each measure, and what it lost of 100; ``extra`` (A, W): what
    worst-of groups lose beyond; ``worst`` (A, W): the place of the measure that is to blame."""

    weights: Floats
    lost: Floats
    extra: Floats
    worst: Ints

    @property
    def tenths(self) -> Ints:
        return np.asarray(np.rint((self.weights.sum(1) * 100 - self.lost.sum(1) - self.extra.sum(1)) * 10), np.int64)


class CardInForce:
    """A card, ready to score."""

    def __init__(self, card: Card, version: str, declared: Mapping[str, CustomSignal] = NONE) -> None:
        """``declared``: the signals of configuration that the card was read with."""
        self.card = card
        self.name = f"{card.scorecard}@{version}"
        self._mappings = [_Mapping.of(measure) for measure in card.measures]
        catalogue = with_catalogue(declared)
        self._shares: list[list[float]] = []
        """Weights of the measures: they follow from which of them are known, whose numbers are in ``_patterns``."""
        self._patterns: dict[bytes, int] = {}
        self._writing = Lock()
        """What is kept of lines is of all threads: the API scores in several."""
        wordings = [Wording.of(measure, catalogue) for measure in card.measures]
        self._said = [
            Said(wording, place, self._shares, mapping.points)
            for place, (wording, mapping) in enumerate(zip(wordings, self._mappings, strict=True))
        ]
        self._cap_wordings = [Wording.of(cap, catalogue) for cap in card.caps]
        parts: list[Measure | Cap] = [*card.measures, *card.caps]
        self._columns = [str(SignalRef.parse(part.signal)) for part in parts]
        named = [*(part.signal for part in parts), *(name for part in parts for name in part.reason.mentioned)]
        self.refs = tuple(dict.fromkeys(SignalRef.parse(name) for name in named))
        """The signals that scoring and its reasons need."""
        self.custom = used(card, declared)
        groups = list(card.groups)
        self._group_of = np.array([groups.index(measure.group) for measure in card.measures])
        self._weight = np.array([measure.weight for measure in card.measures])
        group_weight = np.array([part.weight for part in card.groups.values()])
        self._group_weight = group_weight / group_weight.sum()
        self._full_weights = self._weights(np.ones((1, len(card.measures)), dtype=np.bool_))
        self._limits = [self._limit(place) for place in range(len(card.caps))]
        self._worst_groups = [
            (group, np.flatnonzero(self._group_of == place))
            for place, (group, part) in enumerate(card.groups.items())
            if part.combine == "worst"
        ]

    def score(
        self,
        table: SignalTable,
        places: Ints,
        previous_bands: Sequence[str | None],
        overrides: Sequence[Override | None],
    ) -> CardScores:
        """The accounts at ``places`` of ``table``, at its last instant; the sequences are of these accounts."""
        inputs = self._inputs(table, places)
        present = np.isfinite(inputs.points)
        combined = self._combine(inputs.points, present)
        confidence = (self._full_weights * present).sum(axis=1)
        known = (confidence >= self.card.minimum_confidence) & (confidence > 0)
        before_caps = combined.tenths
        lost = _whole(np.column_stack([combined.lost, combined.extra]) * 10, FULL - before_caps)
        lost[~known] = 0
        tenths, taken = self._capped(before_caps, inputs.cap_hit)
        taken[~known] = 0
        is_set = np.array([override is not None for override in overrides], dtype=np.bool_)
        computed = np.where(known, tenths, FULL)
        final = computed.copy()
        final[is_set] = [round(override.score * 10) for override in overrides if override is not None]
        score = np.where(known | is_set, final / 10, np.nan)
        incomplete = np.asarray(np.column_stack([inputs.unseen, inputs.cap_unseen]).any(axis=1)) & ~is_set
        rank = self._bands(score, inputs, incomplete, is_set, previous_bands)
        lines = self._lines(table, places, inputs, combined, lost, taken, known | is_set)
        for place in np.flatnonzero(is_set).tolist():
            if (override := overrides[place]) is not None:
                lines[place].append(overridden(override, int(final[place] - computed[place])))
        shares = np.array([getattr(self.card.mrr_at_risk, band) for band in BANDS])
        return CardScores(
            score=score,
            band=[BANDS[place] if place >= 0 else None for place in rank.tolist()],
            contributions=lines,
            confidence=confidence,
            incomplete=incomplete,
            overridden=is_set,
            at_risk=np.where(rank >= 0, shares[rank], np.nan),
        )

    def _inputs(self, table: SignalTable, places: Ints) -> _Inputs:
        values = np.array([table.columns[name][:, -1] for name in self._columns], dtype=np.float64)[:, places]
        nowhere = np.zeros((len(table.account_ids), 1), dtype=np.bool_)
        unseen = np.array([table.incomplete.get(name, nowhere)[:, -1] for name in self._columns])[:, places].T
        count = len(self._mappings)
        marks = [mapping.points(column) for mapping, column in zip(self._mappings, values, strict=False)]
        hits = np.zeros((len(places), len(self.card.caps)), dtype=np.bool_)
        for place, (cap, column) in enumerate(zip(self.card.caps, values[count:], strict=True)):
            hits[:, place] = column >= cap.at_least if cap.at_least is not None else column < (cap.below or 0)
        return _Inputs(
            points=np.stack(marks, axis=1),  # one account after the other, as they are summed
            unseen=unseen[:, :count],
            cap_hit=hits,
            cap_unseen=unseen[:, count:],
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

    def _combine(self, points: Floats, present: Bools) -> _Combined:
        weights = self._weights(present)
        lost = weights * (100 - np.where(present, points, 100.0))
        extra = np.zeros((len(points), len(self._worst_groups)))
        worst = np.zeros(extra.shape, dtype=np.int64)
        for place, (_, members) in enumerate(self._worst_groups):
            own = np.where(present[:, members], points[:, members], np.inf)
            worst[:, place] = members[np.argmin(own, axis=1)]
            share = weights[:, members].sum(axis=1)
            least = np.where(share > 0, own.min(axis=1), 100)
            extra[:, place] = np.maximum(share * (100 - least) - lost[:, members].sum(axis=1), 0)
        return _Combined(weights=weights, lost=lost, extra=extra, worst=worst)

    def _limit(self, place: int) -> int:
        limit = self.card.caps[place].limit
        if limit == "red":
            limit = self.card.bands.yellow - _LESS_THAN_BORDER
        elif limit == "yellow":
            limit = self.card.bands.green - _LESS_THAN_BORDER
        return round(float(limit) * 10)

    def _capped(self, tenths: Ints, hit: Bools) -> tuple[Ints, Ints]:
        """The scores under the caps (A,), and what each took (A, C), in the order of the file."""
        taken = np.zeros(hit.shape, dtype=np.int64)
        for place in range(hit.shape[1]):
            taken[:, place] = np.where(hit[:, place], np.maximum(tenths - self._limits[place], 0), 0)
            tenths = tenths - taken[:, place]
        return tenths, taken

    def _bands(
        self, score: Floats, inputs: _Inputs, incomplete: Bools, by_hand: Bools, previous: Sequence[str | None]
    ) -> Ints:
        """Places in ``BANDS``, -1 for none. While data is incomplete, the previous band stays as long as the missing
        values could bear it out. A score set by hand has the band that it names: hysteresis is for measurements."""
        before = np.array([_RANKS.get(band or "", -1) for band in previous], dtype=np.int64)
        band = ranks(score, np.where(by_hand, -1, before), self.card.bands)
        if not incomplete.any():
            return band
        present = np.isfinite(inputs.points) | inputs.unseen
        at_worst = self._combine(np.where(inputs.unseen, 0.0, inputs.points), present).tenths
        at_best = self._combine(np.where(inputs.unseen, 100.0, inputs.points), present).tenths
        worst, _ = self._capped(at_worst, inputs.cap_hit | inputs.cap_unseen)
        best, _ = self._capped(at_best, inputs.cap_hit)
        possible = (ranks(worst / 10, before, self.card.bands) <= before) & (
            before <= ranks(best / 10, before, self.card.bands)
        )
        return np.where(incomplete & (before >= 0) & possible, before, band)

    def _numbered(self, present: Bools, weights: Floats) -> Ints:
        """The place among the ``_shares`` of each account's weights. (A, 1)"""
        if len(self._shares) > MOST_SAID:
            self._patterns.clear()
            self._shares.clear()
            for said in self._said:
                said.clear()
        bits = np.packbits(present, axis=1)
        patterns = bits.view(f"V{bits.shape[1]}")[:, 0].tolist()
        for pattern in set(patterns) - self._patterns.keys():
            self._patterns[pattern] = len(self._shares)
            self._shares.append(weights[patterns.index(pattern)].tolist())
        return np.array(list(map(self._patterns.__getitem__, patterns)), dtype=np.int64)[:, None]

    def _lines(
        self,
        table: SignalTable,
        places: Ints,
        inputs: _Inputs,
        combined: _Combined,
        lost: Ints,
        taken: Ints,
        scored: Bools,
    ) -> list[list[Contribution]]:
        columns = {name: table.columns[name][places, -1] for name in map(str, self.refs)}
        present = np.isfinite(inputs.points)
        with self._writing:
            codes = coded(self._numbered(present, combined.weights), lost[:, : len(self._said)], inputs.unseen)
            measured = [said.of(code, columns) for said, code in zip(self._said, codes.T, strict=True)]
        lines: list[list[Contribution]] = list(map(list, zip(repeat(Line(full_mark())), *measured, strict=False)))
        for place in np.flatnonzero(~scored).tolist():
            del lines[place][0]
        for number, (group, _) in enumerate(self._worst_groups, len(self._said)):
            blame = combined.worst[:, number - len(self._said)]
            for place in np.flatnonzero(lost[:, number]).tolist():
                lines[place].append(worst_of(group, measured[blame[place]][place], int(lost[place, number])))
        for number, wording in enumerate(self._cap_wordings):
            for place in np.flatnonzero(taken[:, number]).tolist():
                values = table.row(int(places[place]), names=wording.spoken)
                lines[place].append(wording.capped(values, self._limits[number] / 10, int(taken[place, number])))
        return lines


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


@dataclass(frozen=True, kw_only=True)
class _Mapping:
    """What points a measure's values make: by a line through ``bounds`` and ``marks``, or by steps."""

    bounds: Floats
    marks: Floats
    by_line: bool

    @classmethod
    def of(cls, measure: Measure) -> _Mapping:
        bounds, marks = (np.array(column, dtype=np.float64) for column in zip(*measure.mapping, strict=True))
        return cls(bounds=bounds, marks=marks, by_line=measure.line is not None)

    def points(self, values: Floats) -> Floats:
        """0 to 100, NaN for an unknown value. Beyond the ends of the line or steps, the end's points."""
        if self.by_line:
            return np.interp(values, self.bounds, self.marks)
        place = np.searchsorted(self.bounds, values, side="right") - 1
        return np.where(np.isnan(values), np.nan, self.marks[np.maximum(place, 0)])


def ranks(score: Floats, before: Ints, bands: Bands) -> Ints:
    """Places in ``BANDS``, -1 for an unknown score. Downwards the borders hold as they are, so that a warning does not
    wait; upwards a band is entered ``hysteresis`` points above its border. ``before`` -1: no band yet."""
    plain = (score >= bands.yellow).astype(np.int64) + (score >= bands.green)
    risen = (score >= bands.yellow + bands.hysteresis).astype(np.int64) + (score >= bands.green + bands.hysteresis)
    rank = np.where((before >= 0) & (plain > before), np.maximum(before, risen), plain)
    return np.where(np.isnan(score), -1, rank)
