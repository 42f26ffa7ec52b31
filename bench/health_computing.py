"""What an evaluation computes, by columns beside plain Python, account by account, in turns, on the same facts.

Signals, scores with their lines, the shipped rules with their levels, and when each account is due next: nothing of it
reads or writes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.rules import RuleBook, evaluate_all, load
from bench import health_plain
from bench.health_plain_judging import Judge, Judged
from bench.ingest import ROOT
from health import facts as reading
from health import scorecards, signals
from health.catalogue import SCORE_COURSE, SIGNALS, SignalRef
from health.columns import Facts
from health.gaps import Observed
from health.instants import NEVER, spread_us
from health.rhythm import SHIPPED, Fleet
from health.scorecards import Scorecards, Scores

CLOSE: Final = 1e-9
TENTH: Final = 0.1001
"""Where a score lies between two tenths, the last digit of a sum decides."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """CPU seconds of each turn, for ``accounts`` accounts."""

    accounts: int
    signals: int
    columns: Sequence[float]
    plain: Sequence[float]

    @property
    def ratio(self) -> float:
        """Turn by turn, then the median."""
        return statistics.median(slow / fast for fast, slow in zip(self.columns, self.plain, strict=True))


@dataclass(frozen=True, kw_only=True)
class Computed:
    """By columns. ``holding``: (rules, accounts); ``levels``: of every level with a condition, of rules that hold for
    some; ``due`` in µs."""

    table: signals.SignalTable
    scores: Scores
    holding: Any
    levels: Any
    due: Any


async def compare(
    engine: AsyncEngine, ids: Sequence[str], now: datetime, product: Sequence[str], turns: int
) -> Compared:
    """Raises AssertionError where the two do not agree."""
    fleet = Fleet(**{**vars(SHIPPED), "features": tuple(product)})
    async with engine.connect() as conn:
        facts = await reading.read(conn, ids, now=now, fleet=fleet)
    book, cards = load(ROOT / "rules", SIGNALS), scorecards.load(ROOT / "rules" / "scorecards")
    known, judge = health_plain.unpacked(facts), Judge(book, cards)
    found = [health_plain.signals(account, facts.now_us, fleet) for account in known]
    refs = [SignalRef.parse(name) for name in found[0]]
    _agree(_columns(facts, refs, book, cards), found, _plain(known, facts, judge), book)  # warms up, too
    columns, plain = [], []
    for _ in range(turns):
        fresh = facts.take(np.arange(len(facts)))  # nothing kept from the turn before
        began = time.process_time()
        _columns(fresh, refs, book, cards)
        between = time.process_time()
        _plain(known, facts, judge)
        columns.append(between - began)
        plain.append(time.process_time() - between)
    return Compared(accounts=len(ids), signals=len(refs), columns=columns, plain=plain)


def _columns(facts: Facts, refs: Sequence[SignalRef], book: RuleBook, cards: Scorecards) -> Computed:
    observed = Observed(facts.now)
    table = signals.compute(facts, [facts.now], refs, observed)
    scores = cards.score(table, facts, [None] * len(facts))
    columns = {name: column[:, -1] for name, column in table.columns.items()}
    made = {"score": scores.score, "band": np.array([*scores.band, None], dtype=object)[:-1]}
    unknown = np.full(len(facts), np.nan)
    columns |= made
    missing = {str(ref) for ref in book.refs} - columns.keys()  # of parents and of past scores: unknown on both sides
    columns |= {name: np.full(len(facts), None) if name in _TEXTS else unknown for name in missing}
    gone = np.isin(facts.texts["status"].astype(str), ("ended", "paused"))
    holding = np.array(evaluate_all([rule.when for rule in book.rules], columns)) == 1.0
    for place, rule in enumerate(book.rules):
        if not rule.names_status:
            holding[place, gone] = False
    asked = holding.any(axis=1).tolist()
    graded = [rule for rule, holds in zip(book.rules, asked, strict=True) if holds]
    levels = evaluate_all([level.when for rule in graded for level in rule.levels if level.when], columns)
    due = signals.next_change(facts, facts.now, refs, observed).astype(np.int64)
    return Computed(table=table, scores=scores, holding=holding, levels=levels, due=due)


_TEXTS: Final = frozenset(name for name, signal in SIGNALS.items() if signal.type == "text")


def _plain(known: Sequence[health_plain.Account], facts: Facts, judge: Judge) -> list[tuple[Judged, int | None]]:
    result = []
    for account, spread in zip(known, spread_us(facts.account_ids).tolist(), strict=True):
        found = health_plain.signals(account, facts.now_us, facts.fleet)
        result.append((judge.judge(found), health_plain.next_change(account, facts.now_us, spread)))
    return result


def _agree(
    ours: Computed,
    found: Sequence[dict[str, Any]],
    plain: Sequence[tuple[Judged, int | None]],
    book: RuleBook,
) -> None:
    assert not {ref.name for ref in book.refs} & SCORE_COURSE - {"score_change_28d"}
    levels = iter(ours.levels)
    graded = [rule for rule, holds in zip(book.rules, ours.holding, strict=True) if holds.any()]
    met = {rule.id: [None if level.when is None else next(levels) for level in rule.levels] for rule in graded}
    for place, (own, (judged, due)) in enumerate(zip(found, plain, strict=True)):
        account, row = ours.table.account_ids[place], ours.table.row(place)
        for name, value in own.items():
            _same(f"{account}: {name}", row[name], value)
        scores = ours.scores
        score = float(scores.score[place])
        _same(f"{account}: score", None if math.isnan(score) else score, judged.score, apart=TENTH)
        _same(f"{account}: card", scores.scorecard[place], judged.card)
        lines = scores.contributions[place]
        _same(f"{account}: lines", [line["measure"] for line in lines], [line["measure"] for line in judged.lines])
        for line, plain_line in zip(lines, judged.lines, strict=True):
            _same(f"{account}: {line}", line["contribution"], plain_line["contribution"], apart=TENTH)
            _same(f"{account}: {line['measure']}", line["reason"], plain_line["reason"])
        if score == judged.score:
            holding = {}
            for rule, holds in zip(book.rules, ours.holding[:, place], strict=True):
                if holds:
                    hits = (one is None or one[place] == 1.0 for one in met[rule.id])
                    holding[rule.id] = next(
                        str(level.level) for level, hit in zip(rule.levels, hits, strict=True) if hit
                    )
            _same(f"{account}: rules", holding, judged.holding)
        _same(f"{account}: due", None if ours.due[place] == NEVER else int(ours.due[place]), due)


def _same(what: str, ours: Any, plain: Any, *, apart: float = 0.0) -> None:
    numbers = all(isinstance(value, int | float) for value in (ours, plain))
    same = math.isclose(ours, plain, rel_tol=CLOSE, abs_tol=apart) if numbers else ours == plain
    assert same, f"{what} is {ours} by columns, {plain} in plain Python"
