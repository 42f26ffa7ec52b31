"""Parents and children: what an account tells its parent, and what a parent's children come to. Pure.

A child tells its parent about itself and everything below it in one value (``as_child``), so a parent looks at its own
children alone, however deep the tree is. The mean goes level by level: a child counts with the score it has, which
holds what is below it, by the MRR of it and all below it. Counts and sums are of all accounts below, each once; the
worst is the worst of them all. ``docs/hierarchy.md`` tells it to readers; ``health/hierarchy_rows.py`` reads the rows.

An *umbrella* has accounts below it and was never used itself: it passes on what is below it and counts for nothing
beside that; and that nobody uses it is no silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from health.arrays import Bools, Floats, Ints, Texts
from health.columns import Children
from health.instants import NEVER, Instants

Problem = Literal["itself", "cycle", "too_deep"]

PARENT = "parent_account_id"
"""The attribute by which an account names its parent."""
LEFT_OUT = frozenset({"ended", "paused"})
"""Statuses in which an account counts for nothing above it; what is below it still does."""
DEPTH = 16
"""Of a tree, at most. A link under more levels is not followed: the way up must end, whatever is named."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """Whom an account names as its parent (None: nobody), and why that does not count (None: it does)."""

    parent_id: str | None = None
    problem: Problem | None = None

    @property
    def followed(self) -> str | None:
        return self.parent_id if self.problem is None else None


def link(account_id: str, named: str | None, returns: bool, depth: int) -> Link:
    """``returns``: going from parent to parent one comes back to the account. ``depth``: how many were passed."""
    if not named:
        return Link()
    if named == account_id:
        return Link(parent_id=named, problem="itself")
    if returns:
        return Link(parent_id=named, problem="cycle")
    return Link(parent_id=named, problem="too_deep" if depth > DEPTH else None)


@dataclass(frozen=True, kw_only=True)
class RollUp:
    """What is below each account, all (A,). ``named``: whether anybody names it as the parent at all.

    ``children`` and ``red`` count accounts; ``score`` is the mean, NaN without one; ``mrr`` and ``at_risk`` are NaN
    when unknown, or of several currencies (``mixed``); ``incomplete``: a score that it is made from lacks unobserved
    time. The worst has the lowest score, of equals the one with the most MRR: ``worst_id`` None without any score.
    ``cards``: how many accounts each scorecard scored, by name@version.
    """

    named: Bools
    children: Ints
    red: Ints
    score: Floats
    mrr: Floats
    at_risk: Floats
    currency: Texts
    mixed: Bools
    incomplete: Bools
    worst_id: Texts
    worst_name: Texts
    worst_score: Floats
    worst_mrr: Floats
    cards: Sequence[Mapping[str, int]]

    def below(self, place: int) -> dict[str, Any] | None:
        """As it is kept and shown; None where nobody names the account."""
        if not self.named[place]:
            return None
        worst = self.worst_id[place]
        return {
            "children": int(self.children[place]),
            "red": int(self.red[place]),
            "score": _known(self.score[place]),
            "mrr": _known(self.mrr[place]),
            "mrr_at_risk": _known(self.at_risk[place]),
            "currency": self.currency[place],
            "mixed": bool(self.mixed[place]),
            "incomplete": bool(self.incomplete[place]),
            "cards": self.cards[place],
            "worst": None
            if worst is None
            else {
                "account_id": worst,
                "name": self.worst_name[place],
                "score": _known(self.worst_score[place]),
                "mrr": _known(self.worst_mrr[place]),
            },
        }


def roll_up(children: Children, size: int) -> RollUp:
    """What the children of ``size`` accounts come to; ``children`` ascending by account, then by their id."""
    place = children.account
    if not len(place):
        return _nobody(size)
    scored = np.isfinite(children.score)
    priced = np.isfinite(children.mrr) & (children.count > 0)
    currency, mixed = _currencies(children, priced, size)
    weight = _weights(children, scored, priced, mixed)
    total = _sum(place, np.where(scored, weight, 0.0), size)
    mean = _sum(place, np.where(scored, weight * np.where(scored, children.score, 0.0), 0.0), size)
    worst = _worst(children, size)
    sums = [np.where(priced, np.nan_to_num(column), 0.0) for column in (children.mrr, children.at_risk)]
    has_price = _count(place[priced], size) > 0
    mrr, at_risk = (np.where(has_price & ~mixed, np.round(_sum(place, column, size), 4), np.nan) for column in sums)
    return RollUp(
        named=_count(place, size) > 0,
        children=_sum(place, children.count, size).astype(np.int64),
        red=_sum(place, children.red, size).astype(np.int64),
        score=np.round(np.divide(mean, total, where=total > 0, out=np.full(size, np.nan)), 1),
        mrr=mrr,
        at_risk=at_risk,
        currency=currency,
        mixed=mixed,
        incomplete=_count(place[scored & children.incomplete], size) > 0,
        worst_id=_with_none(children.worst_id)[worst],
        worst_name=_with_none(children.worst_name)[worst],
        worst_score=np.append(children.worst_score, np.nan)[worst],
        worst_mrr=np.append(children.worst_mrr, np.nan)[worst],
        cards=_cards(children, size),
    )


def _cards(children: Children, size: int) -> list[dict[str, int]]:
    found: list[dict[str, int]] = [{} for _ in range(size)]
    for place, cards in zip(children.account.tolist(), children.cards.tolist(), strict=True):
        for card, number in cards.items():
            found[place][card] = found[place].get(card, 0) + number
    return found


def cards_changed(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """Whether some account below is scored by another card than before. Who joins or leaves alone does not count."""
    more = any(number > before.get(card, 0) for card, number in now.items())
    return more and any(number > now.get(card, 0) for card, number in before.items())


def _nobody(size: int) -> RollUp:
    """Of accounts without children."""
    nothing, unknown, none = np.zeros(size, dtype=np.int64), np.full(size, np.nan), np.full(size, None, dtype=object)
    never = np.zeros(size, dtype=np.bool_)
    return RollUp(
        named=never, children=nothing, red=nothing, score=unknown, mrr=unknown, at_risk=unknown, currency=none,
        mixed=never, incomplete=never, worst_id=none, worst_name=none, worst_score=unknown, worst_mrr=unknown,
        cards=[{} for _ in range(size)],
    )  # fmt: skip


def _currencies(children: Children, priced: Bools, size: int) -> tuple[Texts, Bools]:
    """The currency of each account's children (A,), None for none; and whether there are several. Who names none
    counts in that of the others."""
    names = children.currency.copy()
    names[~priced] = None
    known = sorted({name for name in names.tolist() if name is not None})
    found = np.zeros((size, len(known)), dtype=np.bool_)
    for number, name in enumerate(known):
        found[children.account[names == name], number] = True
    several = found.sum(axis=1)
    one = np.array([*known, None], dtype=object)[np.where(several == 1, found.argmax(axis=1) if known else 0, -1)]
    return one, (several > 1) | (_count(children.account[children.mixed], size) > 0)


def _weights(children: Children, scored: Bools, priced: Bools, mixed: Bools) -> Floats:
    """MRR; an unknown one counts as the mean of the known. Equal weights without any MRR, or in several currencies."""
    size, place = len(mixed), children.account
    counted = scored & priced
    known = np.where(counted, np.nan_to_num(children.mrr), 0.0).clip(0)
    total, number = _sum(place, known, size), _count(place[counted], size)
    mean = np.divide(total, number, where=number > 0, out=np.zeros(size))
    weight = np.where(counted, known, mean[place])
    equal = mixed | (total <= 0)
    return np.where(equal[place], 1.0, weight)


def _worst(children: Children, size: int) -> Ints:
    """The row of each account's worst; the place past the last for none. (A,)"""
    rows = np.flatnonzero(np.isfinite(children.worst_score))
    mrr = np.nan_to_num(children.worst_mrr[rows], nan=-1.0)
    rank = np.lexsort((rows, -mrr, children.worst_score[rows], children.account[rows]))
    ordered = rows[rank]
    found = np.full(size, len(children.account), dtype=np.int64)
    accounts, first = np.unique(children.account[ordered], return_index=True)
    found[accounts] = ordered[first]
    return found


def _sum(place: Ints, values: Floats | Ints, size: int) -> Floats:
    return np.bincount(place, weights=values, minlength=size).astype(np.float64)


def _with_none(texts: Texts) -> Texts:
    return np.array([*texts.tolist(), None], dtype=object)


def _count(place: Ints, size: int) -> Ints:
    return np.bincount(place, minlength=size)


def umbrellas(children: Children, last_login_at: Instants, last_activity_at: Instants) -> Bools:
    """Which accounts are one. (A,)"""
    found = np.zeros(len(last_login_at), dtype=np.bool_)
    found[children.account] = True
    found &= (last_login_at == NEVER) & (last_activity_at == NEVER)
    return found


@dataclass(frozen=True, kw_only=True)
class Own:
    """What an account is by itself, for its parent."""

    account_id: str
    name: str | None
    status: str | None
    score: float | None
    band: str | None
    mrr: float | None
    at_risk: float | None
    currency: str | None
    incomplete: bool
    umbrella: bool
    card: str


def as_child(own: Own, below: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the account tells its parent of itself and of all that is ``below`` it."""
    under = below or {"children": 0, "red": 0, "score": None, "mrr": None, "mrr_at_risk": None, "currency": None,
                      "mixed": False, "incomplete": False, "worst": None, "cards": {}}  # fmt: skip
    gone = own.status in LEFT_OUT
    itself = not gone and not own.umbrella
    money = _money([] if gone else [(own.mrr, own.at_risk, own.currency)], under)
    worst = [under["worst"]] if under["worst"] else []
    if itself and own.score is not None:
        worst.append({"account_id": own.account_id, "name": own.name, "score": own.score, "mrr": own.mrr})
    return {
        "children": under["children"] + itself,
        "red": under["red"] + (itself and own.band == "red"),
        "score": under["score"] if gone else own.score,
        **money,
        "incomplete": under["incomplete"] or (not gone and own.incomplete),
        "worst": min(worst, key=_badness, default=None),
        "cards": under["cards"] if gone else {**under["cards"], own.card: under["cards"].get(own.card, 0) + 1},
    }


def _money(own: Sequence[tuple[float | None, float | None, str | None]], under: Mapping[str, Any]) -> dict[str, Any]:
    parts = [part for part in [*own, (under["mrr"], under["mrr_at_risk"], under["currency"])] if part[0] is not None]
    currencies = sorted({currency for _, _, currency in parts if currency is not None})
    mixed = under["mixed"] or len(currencies) > 1
    known = bool(parts) and not mixed
    return {
        "mrr": round(sum(mrr or 0.0 for mrr, _, _ in parts), 4) if known else None,
        "mrr_at_risk": round(sum(at_risk or 0.0 for _, at_risk, _ in parts), 4) if known else None,
        "currency": currencies[0] if known and currencies else None,
        "mixed": mixed,
    }


def _badness(worst: Mapping[str, Any]) -> tuple[float, float, str]:
    mrr = worst["mrr"]
    return worst["score"], -(-1.0 if mrr is None else mrr), worst["account_id"]


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
