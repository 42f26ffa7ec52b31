"""Who would change band under other scorecards, and how much money is behind it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from health.columns import Facts
from health.explaining import line_changes
from health.scorecard_file import FULL_MARK
from health.scorecards import Scores

UNKNOWN = "unknown"
_NO_SCORE = {
    "en": "too little is known for a score under it",
    "ja": "このスコアカードでは情報が不足しスコアを算出できません",
}
_A_SCORE = {"en": "enough is known for a score under it", "ja": "このスコアカードではスコアを算出できます"}
_BORDERS = {"en": "the score stays, the borders of the bands differ", "ja": "スコアは同じで、判定の境界が異なります"}


class BandChange(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose band would be another. ``measure``: the line that moves the score most the way it goes."""

    account_id: str
    name: str | None
    owner: str | None
    plan: str | None
    mrr: float | None
    currency: str | None
    score_before: float | None
    score_after: float | None
    band_before: str | None
    band_after: str | None
    scorecard_before: str
    scorecard_after: str
    measure: str | None
    contribution_before: float | None
    contribution_after: float | None
    reason: dict[str, str]


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts that go from one band to another (or stay), and their MRR in one currency."""

    band_before: str | None
    band_after: str | None
    currency: str | None
    accounts: int
    mrr: float


@dataclass(kw_only=True)
class Tally:
    """Sums over any number of batches."""

    accounts: Counter[tuple[str | None, str | None, str | None]] = field(default_factory=Counter)
    cents: Counter[tuple[str | None, str | None, str | None]] = field(default_factory=Counter)
    """MRR in ten-thousandths, so that the order of batches does not matter."""

    def add(self, other: Tally) -> None:
        self.accounts.update(other.accounts)
        self.cents.update(other.cents)

    @property
    def looked_at(self) -> int:
        return self.accounts.total()

    @property
    def changed(self) -> int:
        return sum(count for (before, after, _), count in self.accounts.items() if before != after)

    @property
    def become_unknown(self) -> int:
        return sum(n for (before, after, _), n in self.accounts.items() if after is None and before is not None)

    def totals(self) -> list[Total]:
        """Changes first, the largest number of accounts first."""
        rows = [
            Total(band_before=before, band_after=after, currency=currency, accounts=count,
                  mrr=self.cents[before, after, currency] / 10_000)
            for (before, after, currency), count in self.accounts.items()
        ]  # fmt: skip
        return sorted(
            rows,
            key=lambda row: (row.band_before == row.band_after, -row.accounts, *map(str, msgspec.structs.astuple(row))),
        )


def compare(facts: Facts, before: Scores, after: Scores, places: Sequence[int]) -> tuple[Tally, list[BandChange]]:
    """The accounts at ``places``, scored twice from the same facts; changes in the order of the accounts."""
    tally, changes = Tally(), []
    mrrs, currencies = facts.numbers["mrr"].tolist(), facts.texts["currency"]
    for place in places:
        mrr = None if math.isnan(mrrs[place]) else float(mrrs[place])
        key = (before.band[place], after.band[place], currencies[place])
        tally.accounts[key] += 1
        tally.cents[key] += round((mrr or 0) * 10_000)
        if before.band[place] != after.band[place]:
            changes.append(_change(facts, before, after, place, mrr))
    return tally, changes


def _change(facts: Facts, before: Scores, after: Scores, place: int, mrr: float | None) -> BandChange:
    old, new = (_number(scores.score[place]) for scores in (before, after))
    measure, lost, taken, reason = _most(before, after, place, old, new)
    texts = {name: facts.texts[name][place] for name in ("name", "owner", "plan", "currency")}
    return BandChange(
        account_id=facts.account_ids[place],
        **texts,
        mrr=mrr,
        score_before=old,
        score_after=new,
        band_before=before.band[place],
        band_after=after.band[place],
        scorecard_before=before.scorecard[place],
        scorecard_after=after.scorecard[place],
        measure=measure,
        contribution_before=lost,
        contribution_after=taken,
        reason=reason,
    )


def _most(
    before: Scores, after: Scores, place: int, old: float | None, new: float | None
) -> tuple[str | None, float | None, float | None, dict[str, str]]:
    if old is None or new is None:
        return None, None, None, _NO_SCORE if new is None else _A_SCORE
    down = new < old
    for change in _moving(before.contributions[place], after.contributions[place]):
        if change.after != change.before and (change.after < change.before) == down:
            return change.measure, change.before, change.after, change.reason
    return None, None, None, _BORDERS


def _moving(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Iterator[Any]:
    return (change for change in line_changes(before, after) if change.measure != FULL_MARK)


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
