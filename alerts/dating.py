"""Since when rules hold for the accounts of a batch: whose episodes need a date, and from which facts it is found.

Pure, but for the dates of today that ``alerts/remembered.py`` keeps. ``alerts/since.py`` finds those of rules without
scores, most from the facts that the batch was judged by, some from the history of attributes and users besides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from alerts import holding, since
from alerts.episodes import Episode
from alerts.remembered import LAST, Remembered
from alerts.rules import Rule
from health import signals
from health.catalogue import SignalRef, check
from health.columns import Facts
from health.custom import CustomSignal
from health.hierarchy import cards_changed
from health.instants import from_us, to_us

if TYPE_CHECKING:
    import numpy.typing as npt

    from alerts.observing import AccountRow, Batch, Pair

Key = tuple[int, int]
"""(rule, account), by number and place."""
Dates = dict[Key, datetime]

_WITHOUT_HISTORY: Final = frozenset(
    {"accounts", "account_months", "features", "surveys", "tickets", "payments", "milestones", "sessions", "gaps"}
)
"""What signals may need so that the facts of a live evaluation tell their past as well."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """``remembered`` are dates of today; ``undated`` hold and need one, ``denied`` do not hold, and perhaps never
    did."""

    remembered: Dates
    undated: Sequence[Pair]
    denied: Sequence[Pair]

    def without(self, places: Collection[int]) -> Asked:
        """Of all accounts but those at ``places``, of which nothing is known."""
        if not places:
            return self
        return Asked(
            remembered={key: at for key, at in self.remembered.items() if key[1] not in places},
            undated=[pair for pair in self.undated if pair.place not in places],
            denied=[pair for pair in self.denied if pair.place not in places],
        )


@dataclass(frozen=True, kw_only=True)
class History:
    """The facts of some accounts with the history of their attributes: ``row_of`` their place in the batch."""

    facts: Facts
    row_of: Mapping[int, int]


def needs_date(row: AccountRow, rule: Rule, episode: Episode | None, *, scored: bool) -> bool:
    """New episodes need a date; an open silence a new one when an event shows that the present stretch began later."""
    if episode is None:
        return True
    if not episode.open:
        return episode.cleared_at is not None
    return row.news and rule.absence and not scored


def deniable(row: AccountRow, rule: Rule, episode: Episode, *, scored: bool) -> bool:
    """Whether an event may have come that shows an open absence alert never to have been true."""
    return episode.open and row.news and rule.absence and not scored


def ask(batch: Batch, verdicts: npt.NDArray[np.float64], pairs: Sequence[Pair]) -> Asked:
    rules = batch.context.rulebook.rules
    scored = [since.scored(rule) for rule in rules]
    memory = _memory(batch)
    remembered: Dates = {}
    undated, denied = [], []
    for pair, verdict in zip(pairs, _of(verdicts, pairs), strict=True):
        rule, row, episode = rules[pair.rule], batch.rows[pair.place], pair.episode
        if verdict == 1.0 and needs_date(row, rule, episode, scored=scored[pair.rule]):
            at = memory.date_of(rule, pair.place) if _seen_false_at(row, episode) is None else None
            if at is None:
                undated.append(pair)
            else:
                remembered[pair.rule, pair.place] = at
        elif (
            verdict == 0.0
            and episode is not None
            and deniable(row, rule, episode, scored=scored[pair.rule])
            and not _began_since(batch, rule, pair.place, episode.opened_at)
        ):
            denied.append(pair)
    return Asked(remembered=remembered, undated=undated, denied=denied)


def _began_since(batch: Batch, rule: Rule, place: int, at: datetime) -> bool:
    """Whether all that a condition speaks of counts from after ``at``, when it is unknown for that: the common case of
    a silence that ends."""
    columns = [LAST.get(ref.name) for ref in rule.when.refs]
    return (
        all(column is not None and getattr(batch.facts, column)[place] > to_us(at) for column in columns)
        and rule.when.holds({}) is None
    )


def _memory(batch: Batch) -> Remembered:
    context = batch.context
    return Remembered(context.memory, batch.facts, batch.lineage.umbrella, context.observed, context.rulebook.custom)


def _of(verdicts: npt.NDArray[np.float64], pairs: Sequence[Pair]) -> list[float]:
    found: list[float] = verdicts[[pair.rule for pair in pairs], [pair.place for pair in pairs]].tolist()
    return found


def in_history(batch: Batch, asked: Asked) -> tuple[list[int], frozenset[SignalRef]]:
    """The places of the accounts, and the signals, whose past the facts of the batch do not tell."""
    rules, places = batch.context.rulebook.rules, set()
    refs: frozenset[SignalRef] = frozenset()
    for pair in (*asked.undated, *asked.denied):
        rule = rules[pair.rule]
        if not since.scored(rule) and needs_history(rule.when.refs, batch.context.rulebook.custom):
            places.add(pair.place)
            refs |= rule.when.refs
    return sorted(places), refs


def needs_history(refs: Iterable[SignalRef], custom: Mapping[str, CustomSignal]) -> bool:
    """Whether signals look at what attributes were, or at users further back than a live evaluation does."""
    return any(ref.name in custom or not _WITHOUT_HISTORY.issuperset(check(ref).needs) for ref in refs)


def dates(batch: Batch, asked: Asked, history: History | None) -> Dates:
    """Since when the rules hold that need a date."""
    found = dict(asked.remembered)
    memory = _memory(batch)
    for rule, some in _by_rule(batch, asked.undated):
        if since.scored(rule):
            found |= {(pair.rule, pair.place): _since_scored(batch, rule, pair.place) for pair in some}
            continue
        facts, index = _facts_of(batch, rule, some, history)
        false_at = [_seen_false_at(batch.rows[pair.place], pair.episode) for pair in some]
        began = since.began(rule, facts, index, false_at, batch.context.observed, batch.now)
        for pair, at, unseen in zip(some, began, false_at, strict=True):
            found[pair.rule, pair.place] = at
            if unseen is None:
                memory.remember(rule, pair.place, at)
    return found


def disproved(batch: Batch, asked: Asked, history: History | None) -> frozenset[Key]:
    """Open absence alerts that an event which arrived late shows never to have been true."""
    found: set[Key] = set()
    for rule, some in _by_rule(batch, asked.denied):
        facts, index = _facts_of(batch, rule, some, history)
        opened_at = [pair.episode.opened_at for pair in some if pair.episode is not None]
        denied = since.disproved(rule, facts, index, opened_at, batch.context.observed)
        found |= {(pair.rule, pair.place) for pair, is_denied in zip(some, denied, strict=True) if is_denied}
    return frozenset(found)


def _by_rule(batch: Batch, pairs: Sequence[Pair]) -> list[tuple[Rule, list[Pair]]]:
    found: dict[int, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair.rule, []).append(pair)
    return [(batch.context.rulebook.rules[number], some) for number, some in found.items()]


def _facts_of(batch: Batch, rule: Rule, some: Sequence[Pair], history: History | None) -> tuple[Facts, list[int]]:
    if not needs_history(rule.when.refs, batch.context.rulebook.custom):
        return batch.facts, [pair.place for pair in some]
    assert history is not None
    return history.facts, [history.row_of[pair.place] for pair in some]


def _seen_false_at(row: AccountRow, episode: Episode | None) -> datetime | None:
    """When the rule was last seen false. What was seen amid an import says nothing: half of the facts were missing."""
    if episode is None or episode.cleared_at is None:
        return None
    amid_import = row.imported_until is not None and episode.cleared_at <= row.imported_until
    return None if amid_import else episode.cleared_at


def same_cards(batch: Batch, place: int) -> bool:
    """Whether the account and those below it are scored by the cards of the last look."""
    row = batch.rows[place]
    return row.scorecard == batch.scores.scorecard[place] and not cards_changed(
        row.cards_below, batch.lineage.below.cards[place]
    )


def comparable(batch: Batch, rule: Rule, place: int) -> bool:
    """Whether the last evaluation would have shown it: same scorecards, the rule live, the account's import where it
    is.
    """
    row, live = batch.rows[place], batch.context.activated_at.get(rule.id)
    return (
        row.evaluated_at is not None
        and same_cards(batch, place)
        and (live is None or live <= row.evaluated_at)
        and row.import_seen == row.imported_until
    )


def _since_scored(batch: Batch, rule: Rule, place: int) -> datetime:
    row = batch.rows[place]
    kept = holding.known(row.holding, rule)
    if kept is not None:
        return kept.since
    last_step = None
    if row.evaluated_at is not None and row.evaluated_at < batch.now:
        one = batch.facts.take(np.array([place], dtype=np.int64))
        steps = signals.steps(one, batch.context.refs, row.evaluated_at, batch.now, batch.context.observed)[0]
        passed = steps[~np.isnat(steps)]
        last_step = from_us(int(passed[-1].astype(np.int64))) if len(passed) else None
    judged_alike = comparable(batch, rule, place)
    return since.of_scored(row.last_event_at, row.evaluated_at, last_step, batch.now, comparable=judged_alike)
