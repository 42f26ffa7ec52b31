"""One scorecard at work: signals of some accounts become scores, bands and lines. Pure.

Every account starts from the full mark, a line of +100; each measure takes away what it lost, a worst-of group what its
worst measure costs beyond the weighted mean, each cap what lies above its limit; a person's override is a last, signed
line. Lines are whole tenths and add up to the score exactly. See ``docs/scorecards.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from health.arrays import Bools, Floats, Ints
from health.catalogue import SignalRef
from health.custom import NONE, CustomSignal, with_catalogue
from health.score_lines import NO_MARK, Contribution, Override, Said, Wording, full_mark, overridden, worst_of
from health.scorecard_file import Bands, Cap, Card, Measure, used
from health.signals.table import SignalTable

BANDS = ("red", "yellow", "green")
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
        self._measures = [(measure, SignalRef.parse(measure.signal)) for measure in card.measures]
        self._caps = [(cap, SignalRef.parse(cap.signal)) for cap in card.caps]
        catalogue = with_catalogue(declared)
        self._said = [Said(Wording.of(measure, catalogue)) for measure in card.measures]
        self._cap_wordings = [Wording.of(cap, catalogue) for cap in card.caps]
        parts: list[Measure | Cap] = [*card.measures, *card.caps]
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
        by_hand = np.array([np.nan if override is None else override.score for override in overrides])
        is_set = np.isfinite(by_hand)
        computed = np.where(known, tenths, FULL)
        final = np.where(is_set, np.rint(np.nan_to_num(by_hand) * 10).astype(np.int64), computed)
        score = np.where(known | is_set, final / 10, np.nan)
        incomplete = np.asarray(np.column_stack([inputs.unseen, inputs.cap_unseen]).any(axis=1)) & ~is_set
        rank = self._bands(score, inputs, incomplete, is_set, previous_bands)
        lines = self._lines(table, places, inputs, combined, lost, taken, known | is_set)
        for place, override in enumerate(overrides):
            if override is not None:
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
        never = np.zeros((len(table.account_ids), 1), dtype=np.bool_)

        def column(ref: SignalRef) -> tuple[Floats, Bools]:
            values = table.columns[str(ref)][places, -1].astype(np.float64)
            return values, table.incomplete.get(str(ref), never)[places, -1]

        measured = [column(ref) for _, ref in self._measures]
        capped = [column(ref) for _, ref in self._caps]
        nothing = np.zeros((len(places), 0), dtype=np.bool_)
        hits = [
            values >= cap.at_least if cap.at_least is not None else values < (cap.below or 0)
            for (cap, _), (values, _) in zip(self._caps, capped, strict=True)
        ]
        return _Inputs(
            points=np.column_stack(
                [points(measure, values) for (measure, _), (values, _) in zip(self._measures, measured, strict=True)]
            ),
            unseen=np.column_stack([unseen for _, unseen in measured]),
            cap_hit=np.column_stack(hits) if hits else nothing,
            cap_unseen=np.column_stack([unseen for _, unseen in capped]) if hits else nothing,
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
        lost = weights * (100 - np.nan_to_num(points, nan=100.0))
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
            taken[:, place] = np.where(hit[:, place], np.maximum(tenths - self._limits[place], 0), 0)
            tenths = tenths - taken[:, place]
        return tenths, taken

    def _bands(
        self, score: Floats, inputs: _Inputs, incomplete: Bools, by_hand: Bools, previous: Sequence[str | None]
    ) -> Ints:
        """Places in ``BANDS``, -1 for none. While data is incomplete, the previous band stays as long as the missing
        values could bear it out. A score set by hand has the band that it names: hysteresis is for measurements."""
        before = np.array([BANDS.index(band) if band in BANDS else -1 for band in previous], dtype=np.int64)
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
        spoken = {str(ref): _values(table.columns[str(ref)][places, -1]) for ref in self.refs}
        parts = (np.nan_to_num(inputs.points, nan=NO_MARK), combined.weights, lost, inputs.unseen)
        columns = zip(*(part.T.tolist() for part in parts), strict=False)  # lost has those of the groups behind
        measured = [
            list(map(said.__getitem__, zip(*column, *(spoken[name] for name in said.wording.spoken), strict=True)))
            for said, column in zip(self._said, columns, strict=True)
        ]
        full = [full_mark()]
        by_account = zip(scored.tolist(), *measured, strict=True)
        lines: list[list[Contribution]] = [full + own if has_score else own for has_score, *own in by_account]
        for number, (group, _) in enumerate(self._worst_groups, len(self._measures)):
            blame = combined.worst[:, number - len(self._measures)]
            for place in np.flatnonzero(lost[:, number]).tolist():
                lines[place].append(worst_of(group, measured[blame[place]][place], int(lost[place, number])))
        for number, wording in enumerate(self._cap_wordings):
            for place in np.flatnonzero(taken[:, number]).tolist():
                values = {name: spoken[name][place] for name in wording.spoken}
                lines[place].append(wording.capped(values, self._limits[number] / 10, int(taken[place, number])))
        return lines


def _values(column: npt.NDArray[np.generic]) -> list[object]:
    """None for unknown."""
    return [None if value != value else value for value in column.tolist()]  # noqa: PLR0124 - NaN alone differs


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
