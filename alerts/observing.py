"""What an evaluation saw: which rules hold for which accounts of a batch, since when, and what a late event disproves.

Pure; ``alerts/evaluation.py`` reads the batch and carries out what follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from alerts import dating, holding, since
from alerts.episodes import Episode, Observation
from alerts.holding import Holding
from alerts.lineage import leaves_umbrellas
from alerts.rules import Rule, Severity, evaluate_all
from health.columns import Facts
from health.scorecards import Override, Scores
from health.signals import SignalTable

if TYPE_CHECKING:
    from alerts.context import Context
    from alerts.lineage import Lineage

GONE = frozenset({"ended", "paused"})
"""Statuses in which an account leaves every rule that does not ask for the status itself."""


class AccountRow(msgspec.Struct, frozen=True):
    """Of the account and its health row, what is not among the signals; in the order of the query that reads it."""

    account_id: str
    version: int
    last_event_at: datetime | None
    last_activity_at: datetime | None
    last_login_at: datetime | None
    imported_until: datetime | None
    evaluated_at: datetime | None
    waiting_since: datetime | None
    import_seen: datetime | None
    scorecard: str | None
    band: str | None
    parent_id: str | None
    parent_problem: str | None
    round: int
    news: bool
    """Whether facts have come since the last evaluation, rather than time alone."""
    as_child: Mapping[str, Any] | None
    cards_below: Mapping[str, int]
    holding: Mapping[str, Holding]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything known of a batch at one instant. Arrays and lists are in the order of ``facts.account_ids``."""

    now: datetime
    context: Context
    facts: Facts
    rows: Sequence[AccountRow]
    table: SignalTable
    scores: Scores
    overrides: Sequence[Override | None]
    oldest_event_at: datetime | None
    lineage: Lineage

    @cached_property
    def plain(self) -> Mapping[str, list[Any]]:
        """The signals as plain values, column by column, None for unknown."""
        columns = {name: column[:, -1].tolist() for name, column in self.table.columns.items()}
        return {name: [None if v != v else v for v in column] for name, column in columns.items()}  # noqa: PLR0124

    def signals_of(self, place: int, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Of one account, by ``str(ref)``; all unless ``names`` says which."""
        if names is not None:
            return self.table.row(place, names=names)
        return {name: column[place] for name, column in self.plain.items()}


def judge(batch: Batch) -> npt.NDArray[np.float64]:
    """(rules, accounts): 1.0, 0.0 or NaN. Gone accounts leave, umbrellas some; while data is held, absence is not
    believed."""
    rules = batch.context.rulebook.rules
    columns = {name: column[:, -1] for name, column in batch.table.columns.items()}
    verdicts = np.array(evaluate_all([rule.when for rule in rules], columns), dtype=np.float64).reshape(
        len(rules), len(batch.facts)
    )
    gone = np.array([status in GONE for status in batch.facts.texts["status"]], dtype=np.bool_)
    held = batch.context.observed.held_since(batch.now) is not None
    for place, rule in enumerate(rules):
        if not rule.names_status:
            verdicts[place, gone] = 0.0
        if leaves_umbrellas(rule):
            verdicts[place, batch.lineage.umbrella] = 0.0
        if rule.absence and held:
            verdicts[place, verdicts[place] == 1.0] = np.nan
    return verdicts


class Pair(msgspec.Struct, frozen=True):
    """A rule, by its number, and an account, by its place, of which something is to be seen."""

    rule: int
    place: int
    episode: Episode | None


def holding_pairs(batch: Batch, verdicts: npt.NDArray[np.float64]) -> list[tuple[str, str]]:
    """(rule, account) wherever a rule holds, by their ids."""
    rules, accounts = batch.context.rulebook.rules, batch.facts.account_ids
    return [(rules[number].id, accounts[place]) for number, place in _where(verdicts == 1.0)]


def _where(chosen: npt.NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    numbers, places = np.nonzero(chosen)
    return zip(numbers.tolist(), places.tolist(), strict=True)


def pairs(batch: Batch, verdicts: npt.NDArray[np.float64], episodes: Mapping[tuple[str, str], Episode]) -> list[Pair]:
    """Where a rule holds, or has an episode that is not over; rule by rule, in the order of the accounts."""
    rule_of = {rule.id: number for number, rule in enumerate(batch.context.rulebook.rules)}
    place_of = {account_id: place for place, account_id in enumerate(batch.facts.account_ids)}
    found: dict[tuple[int, int], Episode | None] = dict.fromkeys(_where(verdicts == 1.0))
    for (rule_id, account_id), episode in episodes.items():
        number = rule_of.get(rule_id)
        if number is not None:
            key = number, place_of[account_id]
            if key in found or not over(episode):
                found[key] = episode
    return [Pair(number, place, episode) for (number, place), episode in sorted(found.items(), key=itemgetter(0))]


def severities(batch: Batch, verdicts: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(rules, accounts): the number of the rule's level, in one look at the conditions of all levels; the last level
    where the rule holds for nobody."""
    rules, size = batch.context.rulebook.rules, len(batch.facts)
    last = np.array([len(rule.levels) - 1 for rule in rules], dtype=np.int64)
    found = np.repeat(last[:, None], size, axis=1)
    holds_for_some = (verdicts == 1.0).any(axis=1).tolist()
    in_force = [n for n, rule in enumerate(rules) if holds_for_some[n] and len(rule.levels) > 1]
    conditions = [level.when for n in in_force for level in rules[n].levels if level.when is not None]
    columns = {name: column[:, -1] for name, column in batch.table.columns.items()}
    met = iter(evaluate_all(conditions, columns) if conditions else ())
    for number in in_force:
        open_yet = np.ones(size, dtype=np.bool_)
        for place, level in enumerate(rules[number].levels):
            holds = open_yet if level.when is None else open_yet & (next(met) == 1.0)
            found[number, holds] = place
            open_yet = open_yet & ~holds
    return found


def over(episode: Episode) -> bool:
    """Closed, and seen not to hold since: nothing but its rule's holding again can change it."""
    return not episode.open and episode.cleared_at is not None


def observe(
    batch: Batch, pair: Pair, verdict: float, severity: Severity, began: datetime | None, *, denied: bool
) -> Observation:
    """``began``: since when it holds; None: as its episode says."""
    place, episode, rule = pair.place, pair.episode, batch.context.rulebook.rules[pair.rule]
    if math.isnan(verdict):
        return Observation(holds=None, reason="unknown")
    row = batch.signals_of(place, sorted(map(str, rule.when.refs)))
    ours = _is_ours(batch, rule, place)
    if verdict == 0.0:
        status = batch.facts.texts["status"][place]
        if not rule.names_status and status in GONE:
            left = {"code": "account_gone", "status": status}
            return Observation(holds=False, reason=f"the account is {status}", data=left)
        if leaves_umbrellas(rule) and batch.lineage.umbrella[place]:
            return Observation(holds=False, reason="the account only holds others", data={"code": "umbrella"})
        because = _because(row)
        return Observation(holds=False, reason=because, disproved=denied, data=_behind(row), ours=ours)
    starts = [batch.context.activated_at.get(rule.id), batch.rows[place].imported_until]
    if since.scored(rule) and batch.rows[place].evaluated_at is not None:
        kept = holding.known(batch.rows[place].holding, rule)
        if kept is not None:
            starts.append(kept.live_from)
        elif not dating.comparable(batch, rule, place):
            starts.append(batch.now)
    return Observation(
        holds=True,
        reason=_because(row),
        data=_behind(row),
        severity=severity,
        since=began or (episode.since if episode else batch.now),
        live_from=max((start for start in starts if start is not None), default=None),
        ours=ours,
    )


def _is_ours(batch: Batch, rule: Rule, place: int) -> bool:
    """Whether the rule's condition or its levels, or the scorecard that these speak of, changed since the last look."""
    looked_at = batch.rows[place].evaluated_at
    if looked_at is None:
        return False
    context = batch.context
    changes = (context.activated_at.get(rule.id), context.levels_at.get(rule.id))
    if any(change is not None and change > looked_at for change in changes):
        return True
    return since.graded(rule) and not dating.same_cards(batch, place)


def _because(row: Mapping[str, Any]) -> str:
    """The signals behind a verdict, for the transition's reason: ``days_since_login = 14``."""
    return ", ".join(f"{name} = {_shown(value)}" for name, value in row.items())


def _behind(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same as data, to be worded in the reader's language."""
    return {"signals": dict(row)}


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
