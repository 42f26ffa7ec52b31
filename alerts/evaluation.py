"""One evaluation of a batch of accounts, inside the caller's transaction and after their health rows are locked.

facts → signals → score → rules → episodes → outbox. What is decided is pure (``health``, ``alerts/episodes.py``,
``alerts/routing.py``); this module reads the facts, puts the decisions together and writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import dating, holding, lineage, store
from alerts.changes import Changes
from alerts.context import Context
from alerts.episodes import Change, Episode, Observation, Policy, advance, unmoved
from alerts.health_row import write_health
from alerts.holding import Holding
from alerts.lineage import NO_FACTS
from alerts.observing import AccountRow, Batch, Pair, holding_pairs, judge, observe, pairs, severities
from alerts.rules import Rule
from health import driver, overrides, score_course, signals
from health import facts as reading
from health.instants import ENDLESS, NEVER, from_us, to_us
from health.scorecards import Scores
from health.signals import SignalTable

READINGS = 3
"""How often the facts are read until they fit together."""

TORN_RETRY = timedelta(seconds=1)
UNKNOWN_RETRY = timedelta(hours=1)
"""When a timer of an episode is due but its rule unknown. The end of a hold has everybody looked at anyway."""

SOONEST = timedelta(milliseconds=500)
"""Never due again before this, so that a step that cannot be taken yet does not spin."""


@dataclass(kw_only=True)
class Outcome:
    """What a batch came to, for the metrics."""

    accounts: int = 0
    waited_since: list[datetime] = field(default_factory=list)
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)


async def evaluate(
    conn: AsyncConnection, account_ids: Sequence[str], context: Context, oldest: datetime | None, now: datetime
) -> Outcome:
    """Evaluates accounts (sorted, locked) and writes all that follows from it."""
    seen = await _read_whole(conn, account_ids, context, oldest, now)
    batch = seen.batch
    waited = [row.waiting_since for row in batch.rows if row.waiting_since is not None]
    outcome = Outcome(accounts=len(account_ids), waited_since=waited)
    decided = _Decided(batch=batch, outcome=outcome, changes=Changes(batch=batch))
    for place in seen.torn:
        decided.due[place] = now + TORN_RETRY
    decided.open_now.update(episode.account_id for episode in seen.episodes.values() if episode.open)
    decided.kept = holding.unknown_now([row.holding for row in batch.rows], context.rulebook.rules, seen.verdicts)
    _decide(seen, decided)
    _retire(decided, seen.episodes)
    await decided.changes.write(conn)
    await write_health(conn, batch, _due(batch, decided.due), decided.open_now, decided.kept)
    return outcome


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """``verdicts`` (rules, accounts); ``torn``: places whose facts changed at every reading."""

    batch: Batch
    verdicts: npt.NDArray[np.float64]
    episodes: Mapping[tuple[str, str], Episode]
    pairs: Sequence[Pair]
    asked: dating.Asked
    history: dating.History | None
    torn: Sequence[int]


@dataclass(kw_only=True)
class _Decided:
    """``due`` and ``kept`` by the accounts' places, ``open_now`` by their ids."""

    batch: Batch
    outcome: Outcome
    changes: Changes
    due: dict[int, datetime] = field(default_factory=dict)
    open_now: Counter[str] = field(default_factory=Counter)
    kept: list[dict[str, Holding]] = field(default_factory=list)

    def look_at(self, place: int, at: datetime | None) -> None:
        if at is not None:
            self.due[place] = min(at, self.due.get(place, at))

    def changed(self, rule: Rule, pair: Pair, change: Change) -> None:
        before = pair.episode
        self.open_now[change.episode.account_id] += change.episode.open - (before is not None and before.open)
        if change.transition is not None:
            self.outcome.transitions[(rule.id, change.transition.kind)] += 1
        self.changes.of(rule, pair.place, before, change)


def _decide(seen: _Seen, decided: _Decided) -> None:
    """What becomes of every pair. Most stay as they are, which is told without putting together why."""
    batch, now = seen.batch, seen.batch.now
    began, denied = dating.dates(batch, seen.asked, seen.history), dating.disproved(batch, seen.asked, seen.history)
    rules = [(rule, _policy(rule)) for rule in batch.context.rulebook.rules]
    where = [pair.rule for pair in seen.pairs], [pair.place for pair in seen.pairs]
    levels = severities(batch, seen.verdicts)[where].tolist()
    for pair, verdict, level in zip(seen.pairs, seen.verdicts[where].tolist(), levels, strict=True):
        (rule, policy), episode, place = rules[pair.rule], pair.episode, pair.place
        holds = None if verdict != verdict else verdict == 1.0  # noqa: PLR0124 - NaN
        severity, at = rule.levels[level].level, began.get((pair.rule, place))
        arriving = holds and episode is not None and _still_arriving(episode, batch.rows[place])
        if (
            episode is not None
            and episode.open
            and not arriving
            and unmoved(episode, holds, severity, at or episode.since, now)
        ):
            decided.look_at(place, _timer(episode, holds, episode.since, policy, now))
            continue
        observation = observe(batch, pair, verdict, severity, at, denied=(pair.rule, place) in denied)
        change = advance(rule.id, batch.facts.account_ids[place], episode, observation, policy, now)
        after = change.episode if change else episode
        decided.look_at(place, _timer(after, holds, observation.since, policy, now))
        waits = None if after is not None and after.open else holding.begun(rule, observation, policy.for_, now)
        if waits is not None:
            decided.kept[place][rule.id] = waits
        if arriving and episode is not None:
            decided.changes.explain_again(rule, place, episode)
        if change is not None:
            decided.changed(rule, pair, change)


def _policy(rule: Rule) -> Policy:
    return Policy(for_=rule.for_, renotify=rule.renotify, cooldown=rule.cooldown, notify_resolved=rule.notify_resolved)


async def _read_whole(
    conn: AsyncConnection, account_ids: Sequence[str], context: Context, oldest: datetime | None, now: datetime
) -> _Seen:
    """The batch, what the rules say of it, its episodes, and the history of those that need a date."""
    attempts = READINGS
    while True:
        batch = await _read(conn, account_ids, context, oldest, now)
        verdicts = judge(batch)
        episodes = await store.newest_episodes(conn, account_ids, holding_pairs(batch, verdicts))
        found = pairs(batch, verdicts, episodes)
        asked = dating.ask(batch, verdicts, found)
        history = await _read_history(conn, batch, asked)
        torn = await _changed_meanwhile(conn, batch)
        attempts -= 1
        if not torn or not attempts:
            break
    # Facts that a consumer changed while we read them may not fit together: unknown, and looked at again at once.
    verdicts[:, torn] = np.nan
    return _Seen(
        batch=batch, verdicts=verdicts, episodes=episodes, pairs=found, asked=asked.without(torn), history=history,
        torn=torn,
    )  # fmt: skip


async def _read(
    conn: AsyncConnection, account_ids: Sequence[str], context: Context, oldest: datetime | None, now: datetime
) -> Batch:
    # The version first: facts that arrive while we read are then newer than what we say we have evaluated.
    rows = await _account_rows(conn, account_ids)
    facts = await reading.read(
        conn, account_ids, now=now, refs=context.refs, fleet=context.fleet, custom=context.rulebook.custom
    )
    kin = await lineage.read(conn, facts, rows)
    table = signals.compute(facts, [now], context.refs, context.observed)
    by_hand = await overrides.read(conn, account_ids, now)
    scores = context.scorecards.score(table, facts, [row.band for row in rows], by_hand)
    _fill_in(table, scores)
    past = await score_course.read(conn, account_ids, scores.scorecard, now, table.columns)
    table.columns.update(score_course.changes(past, scores, table.columns))
    return Batch(
        now=now, context=context, facts=facts, rows=rows, table=table, scores=scores, overrides=by_hand,
        oldest_event_at=oldest, lineage=kin,
    )  # fmt: skip


_ACCOUNT_ROWS: Final = f"""
SELECT h.account_id, coalesce(a.version, {NO_FACTS}), a.last_event_at, a.last_activity_at, a.last_login_at,
  a.imported_until, h.evaluated_at, h.waiting_since, h.imported_until, h.scorecard, h.band, h.parent_id,
  h.parent_problem, h.round, h.facts_version IS DISTINCT FROM a.version, h.as_child, h.rollup->'cards', h.holding
FROM health h LEFT JOIN accounts a USING (account_id) WHERE h.account_id = ANY($1::text[])
"""  # noqa: S608 - made of the number above


async def _account_rows(conn: AsyncConnection, account_ids: Sequence[str]) -> list[AccountRow]:
    found = {row[0]: row for row in await driver.fetch(conn, _ACCOUNT_ROWS, account_ids)}
    return [_account_row(found[account_id]) for account_id in account_ids]


def _account_row(row: Iterable[Any]) -> AccountRow:
    *plain, cards, waits = row
    return AccountRow(*(*plain, cards or {}, holding.read(waits)))


_CHANGED: Final = f"""
SELECT seen.place FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS seen(account_id, version, place)
LEFT JOIN accounts a USING (account_id) WHERE coalesce(a.version, {NO_FACTS}) <> seen.version
"""  # noqa: S608 - made of the number above


async def _changed_meanwhile(conn: AsyncConnection, batch: Batch) -> list[int]:
    versions = [row.version for row in batch.rows]
    return [row[0] - 1 for row in await driver.fetch(conn, _CHANGED, batch.facts.account_ids, versions)]


def _fill_in(table: SignalTable, scores: Scores) -> None:
    """The signals that the scorecard makes. A score that lacks unobserved days is not comparable: unknown to the
    rules.
    """
    made: dict[str, npt.NDArray[Any]] = {
        "score": np.where(scores.incomplete, np.nan, scores.score)[:, None],
        "band": np.array([[band] for band in scores.band], dtype=object),
    }
    table.columns.update({name: made[name] for name in made if name in table.columns})


async def _read_history(conn: AsyncConnection, batch: Batch, asked: dating.Asked) -> dating.History | None:
    places, refs = dating.in_history(batch, asked)
    if not places:
        return None
    context = batch.context
    facts = await reading.read(
        conn,
        [batch.facts.account_ids[place] for place in places],
        now=batch.now,
        refs=refs,
        history=True,
        days=batch.facts.days,
        fleet=context.fleet,
        custom=context.rulebook.custom,
    )
    return dating.History(facts=facts, row_of={place: row for row, place in enumerate(places)})


def _still_arriving(episode: Episode, row: AccountRow) -> bool:
    """Opened amid an import, of which more has come since: its explanation was made from half of the facts."""
    arrived = row.imported_until
    return episode.open and episode.pre_existing and row.news and arrived is not None and arrived >= episode.opened_at


def _retire(decided: _Decided, episodes: Mapping[tuple[str, str], Episode]) -> None:
    """Episodes of rules that are no longer there resolve by themselves, quietly."""
    batch = decided.batch
    running = {rule.id for rule in batch.context.rulebook.rules}
    seen = Observation(holds=False, reason="the rule was switched off or removed", data={"code": "rule_gone"})
    for (rule_id, account_id), episode in episodes.items():
        if rule_id in running or not episode.open:
            continue
        change = advance(rule_id, account_id, episode, seen, Policy(), batch.now)
        assert change is not None and change.transition is not None
        decided.changes.ended(change)
        decided.outcome.transitions[(rule_id, change.transition.kind)] += 1
        decided.open_now[account_id] -= 1


def _timer(
    episode: Episode | None, holds: bool | None, began: datetime | None, policy: Policy, now: datetime
) -> datetime | None:
    """When the episode itself wants to be looked at: a snooze's end, a reminder, or the end of ``for``."""
    if episode is not None and episode.open:
        overdue = holds is None and episode.next_at is not None and episode.next_at <= now
        return now + UNKNOWN_RETRY if overdue else episode.next_at
    if holds and began is not None and began + policy.for_ > now:
        return began + policy.for_
    return None


def _due(batch: Batch, timers: Mapping[int, datetime]) -> list[datetime | None]:
    at = signals.next_change(batch.facts, batch.now, batch.context.refs, batch.context.observed).view(np.int64)
    soonest = np.where(at == NEVER, ENDLESS, at)
    expiries = {place: one.expires_at for place, one in enumerate(batch.overrides) if one is not None}
    for place, timer in (*timers.items(), *expiries.items()):
        if timer is not None:
            soonest[place] = min(soonest[place], to_us(timer))
    soonest = np.maximum(soonest, to_us(batch.now + SOONEST))
    return [None if at == ENDLESS else from_us(at) for at in soonest.tolist()]
