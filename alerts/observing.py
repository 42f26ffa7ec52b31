"""What an evaluation saw: which rules hold for which accounts of a batch, since when, and what a late event disproves.

Pure; ``alerts/evaluation.py`` reads the batch and carries out what follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alerts import holding, since
from alerts.episodes import Episode, Observation
from alerts.holding import Holding
from alerts.lineage import leaves_umbrellas
from alerts.rules import Rule, Severity, evaluate_all
from health import signals
from health.columns import Facts
from health.hierarchy import cards_changed
from health.instants import from_us
from health.scorecards import Override, Scores
from health.signals import SignalTable

if TYPE_CHECKING:
    from alerts.context import Context
    from alerts.lineage import Lineage

GONE = frozenset({"ended", "paused"})
"""Statuses in which an account leaves every rule that does not ask for the status itself."""


@dataclass(frozen=True, kw_only=True)
class AccountRow:
    """Of the account and its health row, what is not among the signals."""

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
    as_child: Mapping[str, Any] | None
    cards_below: Mapping[str, int]
    round: int
    holding: Mapping[str, Holding]
    news: bool
    """Whether facts have come since the last evaluation, rather than time alone."""


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
        return {name: self.plain[name][place] for name in (self.plain if names is None else names)}


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


@dataclass(frozen=True, kw_only=True)
class Dated:
    """The facts of the accounts whose episodes need a date, with the history of their attributes."""

    facts: Facts | None
    row_of: Mapping[int, int]


def observe_all(
    batch: Batch,
    verdicts: npt.NDArray[np.float64],
    episodes: Mapping[tuple[str, str], Episode],
    dated: Dated,
) -> list[tuple[Rule, list[tuple[int, Observation]]]]:
    """What was seen of each rule: for accounts where it holds, or that have an episode of it."""
    result = []
    levels = _severities(batch, verdicts)
    for number, rule in enumerate(batch.context.rulebook.rules):
        known = {
            place: episode
            for place, account_id in enumerate(batch.facts.account_ids)
            if (episode := episodes.get((rule.id, account_id))) is not None
        }
        holding = np.flatnonzero(verdicts[number] == 1.0).tolist()
        undated = [place for place in holding if needs_date(batch.rows[place], rule, known.get(place))]
        began = _since(batch, rule, undated, known, dated)
        denied = _disproved(batch, rule, [p for p in known if verdicts[number, p] == 0.0], known, dated)
        places = sorted(set(holding).union(place for place, episode in known.items() if not over(episode)))
        spoken = sorted(map(str, rule.when.refs))
        seen = []
        for place in places:
            verdict, episode, level = verdicts[number, place], known.get(place), levels[number][place]
            seen.append((place, _observe(batch, rule, spoken, place, verdict, level, began, episode, place in denied)))
        result.append((rule, seen))
    return result


def _severities(batch: Batch, verdicts: npt.NDArray[np.float64]) -> list[list[Severity]]:
    """Of each rule that holds for some account the level of every one, in one look at all conditions; the last level
    where it holds for nobody."""
    rules, size = batch.context.rulebook.rules, len(batch.facts)
    holds_for_some = (verdicts == 1.0).any(axis=1).tolist()
    in_force = [rule for rule, holds in zip(rules, holds_for_some, strict=True) if holds]
    conditions = [level.when for rule in in_force for level in rule.levels if level.when is not None]
    columns = {name: column[:, -1] for name, column in batch.table.columns.items()}
    met = iter(evaluate_all(conditions, columns) if conditions else ())
    found = []
    for rule, asked in zip(rules, holds_for_some, strict=True):
        if not asked:
            found.append([rule.levels[-1].level] * size)
            continue
        first = np.full(size, len(rule.levels) - 1)
        open_yet = np.ones(size, dtype=np.bool_)
        for number, level in enumerate(rule.levels):
            holds = open_yet if level.when is None else open_yet & (next(met) == 1.0)
            first[holds] = number
            open_yet = open_yet & ~holds
        found.append([rule.levels[number].level for number in first.tolist()])
    return found


def over(episode: Episode) -> bool:
    """Closed, and seen not to hold since: nothing but its rule's holding again can change it."""
    return not episode.open and episode.cleared_at is not None


def needs_date(row: AccountRow, rule: Rule, episode: Episode | None) -> bool:
    """New episodes need a date; an open silence a new one when an event shows that the present stretch began later."""
    if episode is None:
        return True
    if not episode.open:
        return episode.cleared_at is not None
    return row.news and rule.absence and not since.scored(rule)


def _observe(
    batch: Batch,
    rule: Rule,
    spoken: Sequence[str],
    place: int,
    verdict: float,
    severity: Severity,
    began: Mapping[int, datetime],
    episode: Episode | None,
    denied: bool,
) -> Observation:
    if math.isnan(verdict):
        return Observation(holds=None, reason="unknown")
    row = batch.signals_of(place, spoken)
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
        elif not _comparable(batch, rule, place):
            starts.append(batch.now)
    return Observation(
        holds=True,
        reason=_because(row),
        data=_behind(row),
        severity=severity,
        since=began.get(place, episode.since if episode else batch.now),
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
    return since.graded(rule) and not _same_cards(batch, place)


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


def _since(
    batch: Batch, rule: Rule, places: Sequence[int], known: Mapping[int, Episode], dated: Dated
) -> dict[int, datetime]:
    if not places:
        return {}
    if not since.scored(rule):
        assert dated.facts is not None
        rows = [dated.row_of[place] for place in places]
        false_at = [_seen_false_at(batch.rows[place], known.get(place)) for place in places]
        began = since.began(rule, dated.facts, rows, false_at, batch.context.observed, batch.now)
        return dict(zip(places, began, strict=True))
    return {place: _since_scored(batch, rule, place) for place in places}


def _seen_false_at(row: AccountRow, episode: Episode | None) -> datetime | None:
    """When the rule was last seen false. What was seen amid an import says nothing: half of the facts were missing."""
    if episode is None or episode.cleared_at is None:
        return None
    amid_import = row.imported_until is not None and episode.cleared_at <= row.imported_until
    return None if amid_import else episode.cleared_at


def _same_cards(batch: Batch, place: int) -> bool:
    """Whether the account and those below it are scored by the cards of the last look."""
    row = batch.rows[place]
    return row.scorecard == batch.scores.scorecard[place] and not cards_changed(
        row.cards_below, batch.lineage.below.cards[place]
    )


def _comparable(batch: Batch, rule: Rule, place: int) -> bool:
    """Whether the last evaluation would have shown it: same scorecards, the rule live, the account's import where it
    is.
    """
    row, live = batch.rows[place], batch.context.activated_at.get(rule.id)
    return (
        row.evaluated_at is not None
        and _same_cards(batch, place)
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
    comparable = _comparable(batch, rule, place)
    return since.of_scored(row.last_event_at, row.evaluated_at, last_step, batch.now, comparable=comparable)


def deniable(row: AccountRow, rule: Rule, episode: Episode) -> bool:
    return episode.open and row.news and rule.absence and not since.scored(rule)


def _disproved(
    batch: Batch, rule: Rule, places: Sequence[int], known: Mapping[int, Episode], dated: Dated
) -> frozenset[int]:
    """Open absence alerts that an event which arrived late shows never to have been true."""
    places_at_issue = [place for place in places if deniable(batch.rows[place], rule, known[place])]
    if not places_at_issue:
        return frozenset()
    assert dated.facts is not None
    rows = [dated.row_of[place] for place in places_at_issue]
    opened_at = [known[place].opened_at for place in places_at_issue]
    denied = since.disproved(rule, dated.facts, rows, opened_at, batch.context.observed)
    return frozenset(place for place, is_denied in zip(places_at_issue, denied, strict=True) if is_denied)
