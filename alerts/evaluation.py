"""One evaluation of a batch of accounts, inside the caller's transaction and after their health rows are locked.

facts → signals → score → rules → episodes → outbox. What is decided is pure (``health``, ``alerts/episodes.py``,
``alerts/routing.py``); this module reads the facts, puts the decisions together and writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import holding, lineage, store
from alerts.changes import Changes
from alerts.context import Context
from alerts.episodes import Episode, Observation, Policy, advance
from alerts.health_row import write_health
from alerts.lineage import NO_FACTS
from alerts.observing import AccountRow, Batch, Dated, deniable, judge, needs_date, observe_all
from health import facts as reading
from health import overrides, score_course, signals
from health.catalogue import SignalRef
from health.ids import among
from health.instants import from_us
from health.scorecards import Scores
from health.signals import SignalTable
from health.tables import accounts, health

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
    episodes = await store.newest_episodes(conn, account_ids)
    batch, verdicts, dated, torn = await _read_whole(conn, account_ids, episodes, context, oldest, now)
    # Facts that a consumer changed while we read them may not fit together: unknown, and looked at again at once.
    verdicts[:, torn] = np.nan
    waited = [row.waiting_since for row in batch.rows if row.waiting_since is not None]
    outcome = Outcome(accounts=len(account_ids), waited_since=waited)
    due: list[datetime | None] = [now + TORN_RETRY if place in torn else None for place in range(len(account_ids))]
    open_now: Counter[str] = Counter(episode.account_id for episode in episodes.values() if episode.open)
    kept = holding.unknown_now([row.holding for row in batch.rows], context.rulebook.rules, verdicts)
    changes = Changes(batch=batch)
    for rule, observations in observe_all(batch, verdicts, episodes, dated):
        policy = Policy(
            for_=rule.for_, renotify=rule.renotify, cooldown=rule.cooldown, notify_resolved=rule.notify_resolved
        )
        for place, seen in observations:
            account_id = account_ids[place]
            before = episodes.get((rule.id, account_id))
            change = advance(rule.id, account_id, before, seen, policy, now)
            after = change.episode if change else before
            due[place] = _earliest(due[place], _timer(after, seen, policy, now))
            waits = None if after is not None and after.open else holding.begun(rule, seen, policy.for_, now)
            if waits is not None:
                kept[place][rule.id] = waits
            if seen.holds and before is not None and _still_arriving(before, batch.rows[place]):
                changes.explain_again(rule, place, before)
            if change is None:
                continue
            open_now[account_id] += after.open - (before is not None and before.open)  # type: ignore[union-attr]
            if change.transition is not None:
                outcome.transitions[(rule.id, change.transition.kind)] += 1
            changes.of(rule, place, before, change)
    _retire(changes, episodes, outcome, open_now)
    await changes.write(conn)
    await write_health(conn, batch, _due(batch, due), open_now, kept)
    return outcome


async def _read_whole(
    conn: AsyncConnection,
    account_ids: Sequence[str],
    episodes: Mapping[tuple[str, str], Episode],
    context: Context,
    oldest: datetime | None,
    now: datetime,
) -> tuple[Batch, npt.NDArray[np.float64], Dated, list[int]]:
    """The batch, what the rules say of it, its history, and the places whose facts changed at every reading."""
    attempts = READINGS
    while True:
        batch = await _read(conn, account_ids, context, oldest, now)
        verdicts = judge(batch)
        dated = await _read_history(conn, batch, verdicts, episodes)
        torn = await _changed_meanwhile(conn, batch)
        attempts -= 1
        if not torn or not attempts:
            return batch, verdicts, dated, torn


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


async def _account_rows(conn: AsyncConnection, account_ids: Sequence[str]) -> list[AccountRow]:
    query = (
        select(
            health.c.account_id,
            health.c.evaluated_at,
            health.c.band,
            health.c.facts_version,
            health.c.scorecard,
            health.c.waiting_since,
            health.c.parent_id,
            health.c.parent_problem,
            health.c.as_child,
            health.c.round,
            health.c.holding,
            health.c.rollup["cards"].label("cards_below"),
            health.c.imported_until.label("import_seen"),
            accounts.c.version,
            accounts.c.last_event_at,
            accounts.c.last_activity_at,
            accounts.c.last_login_at,
            accounts.c.imported_until,
        )
        .outerjoin_from(health, accounts, accounts.c.account_id == health.c.account_id)
        .where(health.c.account_id == among(account_ids))
    )
    found = {row.account_id: row for row in await conn.execute(query)}
    return [
        AccountRow(
            version=NO_FACTS if row.version is None else row.version,
            last_event_at=row.last_event_at,
            last_activity_at=row.last_activity_at,
            last_login_at=row.last_login_at,
            imported_until=row.imported_until,
            evaluated_at=row.evaluated_at,
            waiting_since=row.waiting_since,
            parent_id=row.parent_id,
            parent_problem=row.parent_problem,
            as_child=row.as_child,
            cards_below=row.cards_below or {},
            round=row.round,
            holding=holding.read(row.holding),
            import_seen=row.import_seen,
            scorecard=row.scorecard,
            band=row.band,
            news=row.facts_version != row.version,
        )
        for row in (found[account_id] for account_id in account_ids)
    ]


async def _changed_meanwhile(conn: AsyncConnection, batch: Batch) -> list[int]:
    chosen = accounts.c.account_id == among(batch.facts.account_ids)
    query = select(accounts.c.account_id, accounts.c.version).where(chosen)
    versions = {row.account_id: row.version for row in await conn.execute(query)}
    known = zip(batch.facts.account_ids, batch.rows, strict=True)
    return [place for place, (account_id, row) in enumerate(known) if versions.get(account_id, NO_FACTS) != row.version]


def _fill_in(table: SignalTable, scores: Scores) -> None:
    """The signals that the scorecard makes. A score that lacks unobserved days is not comparable: unknown to the
    rules.
    """
    made: dict[str, npt.NDArray[Any]] = {
        "score": np.where(scores.incomplete, np.nan, scores.score)[:, None],
        "band": np.array([[band] for band in scores.band], dtype=object),
    }
    table.columns.update({name: made[name] for name in made if name in table.columns})


async def _read_history(
    conn: AsyncConnection, batch: Batch, verdicts: npt.NDArray[np.float64], episodes: Mapping[tuple[str, str], Episode]
) -> Dated:
    needed: set[int] = set()
    spoken_of: set[SignalRef] = set()
    for number, rule in enumerate(batch.context.rulebook.rules):
        for place, account_id in enumerate(batch.facts.account_ids):
            episode, verdict = episodes.get((rule.id, account_id)), verdicts[number, place]
            undated = verdict == 1.0 and needs_date(batch.rows[place], rule, episode)
            denied = verdict == 0.0 and episode is not None and deniable(batch.rows[place], rule, episode)
            if undated or denied:
                needed.add(place)
                spoken_of |= rule.when.refs
    if not needed:
        return Dated(facts=None, row_of={})
    places = sorted(needed)
    account_ids = [batch.facts.account_ids[place] for place in places]
    context = batch.context
    facts = await reading.read(
        conn,
        account_ids,
        now=batch.now,
        refs=spoken_of,
        history=True,
        days=batch.facts.days,
        fleet=context.fleet,
        custom=context.rulebook.custom,
    )
    return Dated(facts=facts, row_of={place: row for row, place in enumerate(places)})


def _still_arriving(episode: Episode, row: AccountRow) -> bool:
    """Opened amid an import, of which more has come since: its explanation was made from half of the facts."""
    arrived = row.imported_until
    return episode.open and episode.pre_existing and row.news and arrived is not None and arrived >= episode.opened_at


def _retire(
    changes: Changes,
    episodes: Mapping[tuple[str, str], Episode],
    outcome: Outcome,
    open_now: Counter[str],
) -> None:
    """Episodes of rules that are no longer there resolve by themselves, quietly."""
    batch = changes.batch
    running = {rule.id for rule in batch.context.rulebook.rules}
    seen = Observation(holds=False, reason="the rule was switched off or removed", data={"code": "rule_gone"})
    for (rule_id, account_id), episode in episodes.items():
        if rule_id in running or not episode.open:
            continue
        change = advance(rule_id, account_id, episode, seen, Policy(), batch.now)
        assert change is not None and change.transition is not None
        changes.ended(change)
        outcome.transitions[(rule_id, change.transition.kind)] += 1
        open_now[account_id] -= 1


def _timer(episode: Episode | None, seen: Observation, policy: Policy, now: datetime) -> datetime | None:
    """When the episode itself wants to be looked at: a snooze's end, a reminder, or the end of ``for``."""
    if episode is not None and episode.open:
        overdue = seen.holds is None and episode.next_at is not None and episode.next_at <= now
        return now + UNKNOWN_RETRY if overdue else episode.next_at
    if seen.holds and seen.since is not None and seen.since + policy.for_ > now:
        return seen.since + policy.for_
    return None


def _earliest(first: datetime | None, second: datetime | None) -> datetime | None:
    return min((at for at in (first, second) if at is not None), default=None)


def _due(batch: Batch, timers: Sequence[datetime | None]) -> list[datetime | None]:
    changes = signals.next_change(batch.facts, batch.now, batch.context.refs, batch.context.observed)
    result = []
    for change, timer, by_hand in zip(changes, timers, batch.overrides, strict=True):
        at = None if np.isnat(change) else from_us(int(change.astype(np.int64)))
        soonest = _earliest(_earliest(at, timer), None if by_hand is None else by_hand.expires_at)
        result.append(None if soonest is None else max(soonest, batch.now + SOONEST))
    return result
