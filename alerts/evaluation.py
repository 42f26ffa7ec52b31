"""One evaluation of a batch of accounts, inside the caller's transaction and after their health rows are locked.

facts → signals → score → rules → episodes → outbox. What is decided is pure (``health``, ``alerts/episodes.py``,
``alerts/routing.py``); this module reads the facts, puts the decisions together and writes them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import since, store
from alerts.context import Context
from alerts.episodes import Change, Episode, Observation, Policy, advance
from alerts.health_row import write_health
from alerts.outbox import cancel_waiting, enqueue
from alerts.rules import Rule, evaluate_all
from alerts.telling import snapshot, tell
from health import facts as reading
from health import signals
from health.columns import Facts
from health.instants import from_us
from health.scorecards import Scores
from health.signals import SignalTable
from health.tables import accounts, health

GONE = frozenset({"ended", "paused"})
"""Statuses in which an account leaves every rule that does not ask for the status itself."""

NO_FACTS = -1
"""Version of an account of which no event has come yet."""

READINGS = 3
"""How often the facts are read until they fit together."""

TORN_RETRY = timedelta(seconds=1)
UNKNOWN_RETRY = timedelta(seconds=60)
"""When a timer of an episode is due but its rule unknown."""

SOONEST = timedelta(milliseconds=500)
"""Never due again before this, so that a step that cannot be taken yet does not spin."""


@dataclass(kw_only=True)
class Outcome:
    """What a batch came to, for the metrics."""

    accounts: int = 0
    waited_since: list[datetime] = field(default_factory=list)
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)


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
    oldest_event_at: datetime | None

    def signals_of(self, place: int) -> dict[str, Any]:
        return self.table.row(place)


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
    deliveries = []
    for rule, observations in _observations(batch, verdicts, episodes, dated):
        policy = Policy(
            for_=rule.for_, renotify=rule.renotify, cooldown=rule.cooldown, notify_resolved=rule.notify_resolved
        )
        for place, seen in observations:
            account_id = account_ids[place]
            before = episodes.get((rule.id, account_id))
            change = advance(rule.id, account_id, before, seen, policy, now)
            after = change.episode if change else before
            due[place] = _earliest(due[place], _timer(after, seen, policy, now))
            if seen.holds and before is not None and _still_arriving(before, batch.rows[place]):
                await store.save_snapshot(conn, before.episode_id, snapshot(batch, rule, place), now)
            if change is None:
                continue
            open_now[account_id] += after.open - (before is not None and before.open)  # type: ignore[union-attr]
            if change.transition is not None:
                outcome.transitions[(rule.id, change.transition.kind)] += 1
            deliveries += await _carry_out(conn, batch, rule, place, before, change)
    await _retire(conn, batch, episodes, outcome, open_now)
    await enqueue(conn, deliveries)
    await write_health(conn, batch, _due(batch, due), open_now)
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
        verdicts = _verdicts(batch)
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
    facts = await reading.read(conn, account_ids, now=now)
    table = signals.compute(facts, [now], context.refs, context.observed)
    scores = context.scorecards.score(table, facts, [row.band for row in rows])
    _fill_in(table, facts, scores)
    return Batch(now=now, context=context, facts=facts, rows=rows, table=table, scores=scores, oldest_event_at=oldest)


async def _account_rows(conn: AsyncConnection, account_ids: Sequence[str]) -> list[AccountRow]:
    query = (
        select(
            health.c.account_id,
            health.c.evaluated_at,
            health.c.band,
            health.c.facts_version,
            health.c.scorecard,
            health.c.waiting_since,
            health.c.imported_until.label("import_seen"),
            accounts.c.version,
            accounts.c.last_event_at,
            accounts.c.last_activity_at,
            accounts.c.last_login_at,
            accounts.c.imported_until,
        )
        .outerjoin_from(health, accounts, accounts.c.account_id == health.c.account_id)
        .where(health.c.account_id.in_(account_ids))
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
            import_seen=row.import_seen,
            scorecard=row.scorecard,
            band=row.band,
            news=row.facts_version != row.version,
        )
        for row in (found[account_id] for account_id in account_ids)
    ]


async def _changed_meanwhile(conn: AsyncConnection, batch: Batch) -> list[int]:
    query = select(accounts.c.account_id, accounts.c.version).where(accounts.c.account_id.in_(batch.facts.account_ids))
    versions = {row.account_id: row.version for row in await conn.execute(query)}
    known = zip(batch.facts.account_ids, batch.rows, strict=True)
    return [place for place, (account_id, row) in enumerate(known) if versions.get(account_id, NO_FACTS) != row.version]


def _fill_in(table: SignalTable, facts: Facts, scores: Scores) -> None:
    """The signals that the scorecard makes. A score that lacks unobserved days is not comparable: unknown to the
    rules.
    """
    score = np.where(scores.incomplete, np.nan, scores.score)[:, None]
    made: dict[str, npt.NDArray[Any]] = {
        "score": score,
        "score_change_28d": score - facts.score_28d_ago[:, None],
        "band": np.array([[band] for band in scores.band], dtype=object),
    }
    table.columns.update({name: made[name] for name in made if name in table.columns})


def _verdicts(batch: Batch) -> npt.NDArray[np.float64]:
    """(rules, accounts): 1.0, 0.0 or NaN. Gone accounts leave; while data is held, absence is not believed."""
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
        if rule.absence and held:
            verdicts[place, verdicts[place] == 1.0] = np.nan
    return verdicts


@dataclass(frozen=True, kw_only=True)
class Dated:
    """The facts of the accounts whose episodes need a date, with the history of their attributes."""

    facts: Facts | None
    row_of: Mapping[int, int]


async def _read_history(
    conn: AsyncConnection, batch: Batch, verdicts: npt.NDArray[np.float64], episodes: Mapping[tuple[str, str], Episode]
) -> Dated:
    needed: set[int] = set()
    for number, rule in enumerate(batch.context.rulebook.rules):
        for place, account_id in enumerate(batch.facts.account_ids):
            episode, verdict = episodes.get((rule.id, account_id)), verdicts[number, place]
            if verdict == 1.0 and _date_anew(batch.rows[place], rule, episode):
                needed.add(place)
            if verdict == 0.0 and episode is not None and _deniable(batch.rows[place], rule, episode):
                needed.add(place)
    if not needed:
        return Dated(facts=None, row_of={})
    places = sorted(needed)
    account_ids = [batch.facts.account_ids[place] for place in places]
    facts = await reading.read(conn, account_ids, now=batch.now, history=True)
    return Dated(facts=facts, row_of={place: row for row, place in enumerate(places)})


def _observations(
    batch: Batch,
    verdicts: npt.NDArray[np.float64],
    episodes: Mapping[tuple[str, str], Episode],
    dated: Dated,
) -> list[tuple[Rule, list[tuple[int, Observation]]]]:
    """What was seen of each rule: for accounts where it holds, or that have an episode of it."""
    result = []
    for number, rule in enumerate(batch.context.rulebook.rules):
        known = {
            place: episode
            for place, account_id in enumerate(batch.facts.account_ids)
            if (episode := episodes.get((rule.id, account_id))) is not None
        }
        holding = np.flatnonzero(verdicts[number] == 1.0).tolist()
        undated = [place for place in holding if _date_anew(batch.rows[place], rule, known.get(place))]
        began = _since(batch, rule, undated, known, dated)
        denied = _disproved(batch, rule, [p for p in known if verdicts[number, p] == 0.0], known, dated)
        seen = [
            (place, _observe(batch, rule, place, verdicts[number, place], began, known.get(place), place in denied))
            for place in sorted(set(holding) | set(known))
        ]
        result.append((rule, seen))
    return result


def _date_anew(row: AccountRow, rule: Rule, episode: Episode | None) -> bool:
    """New episodes need a date; an open silence a new one when an event shows that the present stretch began later."""
    if episode is None:
        return True
    if not episode.open:
        return episode.cleared_at is not None
    return row.news and rule.absence and not since.scored(rule)


def _observe(
    batch: Batch,
    rule: Rule,
    place: int,
    verdict: float,
    began: Mapping[int, datetime],
    episode: Episode | None,
    denied: bool,
) -> Observation:
    if math.isnan(verdict):
        return Observation(holds=None, reason="unknown")
    row = batch.signals_of(place)
    if verdict == 0.0:
        status = batch.facts.texts["status"][place]
        if not rule.names_status and status in GONE:
            left = {"code": "account_gone", "status": status}
            return Observation(holds=False, reason=f"the account is {status}", data=left)
        return Observation(holds=False, reason=_because(rule, row), disproved=denied, data=_behind(rule, row))
    starts = [batch.context.activated_at.get(rule.id), batch.rows[place].imported_until]
    if since.scored(rule) and batch.rows[place].evaluated_at is not None and not _comparable(batch, rule, place):
        starts.append(batch.now)
    return Observation(
        holds=True,
        reason=_because(rule, row),
        data=_behind(rule, row),
        severity=rule.severity_for(row),
        since=began.get(place, episode.since if episode else batch.now),
        live_from=max((start for start in starts if start is not None), default=None),
    )


def _because(rule: Rule, row: Mapping[str, Any]) -> str:
    """The signals behind a verdict, for the transition's reason: ``days_since_login = 14``."""
    return ", ".join(f"{ref} = {_shown(row.get(str(ref)))}" for ref in sorted(rule.when.refs, key=str))


def _behind(rule: Rule, row: Mapping[str, Any]) -> dict[str, Any]:
    """The same as data, to be worded in the reader's language."""
    return {"signals": {str(ref): row.get(str(ref)) for ref in sorted(rule.when.refs, key=str)}}


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


def _comparable(batch: Batch, rule: Rule, place: int) -> bool:
    """Whether the last evaluation would have shown it: same scorecard, the rule live, the account's import where it
    is.
    """
    row, live = batch.rows[place], batch.context.activated_at.get(rule.id)
    return (
        row.evaluated_at is not None
        and row.scorecard == batch.scores.scorecard[place]
        and (live is None or live <= row.evaluated_at)
        and row.import_seen == row.imported_until
    )


def _since_scored(batch: Batch, rule: Rule, place: int) -> datetime:
    row = batch.rows[place]
    last_step = None
    if row.evaluated_at is not None and row.evaluated_at < batch.now:
        one = batch.facts.take(np.array([place], dtype=np.int64))
        steps = signals.steps(one, batch.context.refs, row.evaluated_at, batch.now, batch.context.observed)[0]
        passed = steps[~np.isnat(steps)]
        last_step = from_us(int(passed[-1].astype(np.int64))) if len(passed) else None
    comparable = _comparable(batch, rule, place)
    return since.of_scored(row.last_event_at, row.evaluated_at, last_step, batch.now, comparable=comparable)


def _deniable(row: AccountRow, rule: Rule, episode: Episode) -> bool:
    return episode.open and row.news and rule.absence and not since.scored(rule)


def _disproved(
    batch: Batch, rule: Rule, places: Sequence[int], known: Mapping[int, Episode], dated: Dated
) -> frozenset[int]:
    """Open absence alerts that an event which arrived late shows never to have been true."""
    deniable = [place for place in places if _deniable(batch.rows[place], rule, known[place])]
    if not deniable:
        return frozenset()
    assert dated.facts is not None
    rows = [dated.row_of[place] for place in deniable]
    opened_at = [known[place].opened_at for place in deniable]
    denied = since.disproved(rule, dated.facts, rows, opened_at, batch.context.observed)
    return frozenset(place for place, is_denied in zip(deniable, denied, strict=True) if is_denied)


def _still_arriving(episode: Episode, row: AccountRow) -> bool:
    """Opened amid an import, of which more has come since: its explanation was made from half of the facts."""
    arrived = row.imported_until
    return episode.open and episode.pre_existing and row.news and arrived is not None and arrived >= episode.opened_at


async def _carry_out(
    conn: AsyncConnection, batch: Batch, rule: Rule, place: int, before: Episode | None, change: Change
) -> list[Any]:
    """Writes a change; returns the deliveries that it asks for."""
    if before is not None and before.episode_id == change.episode.episode_id:
        await store.save_episode(conn, change.episode, batch.now)
        if before.open and not change.episode.open and not change.notify:
            await cancel_waiting(conn, [before.episode_id], batch.now)
    else:
        await store.insert_episode(conn, change.episode, snapshot(batch, rule, place), batch.now)
    if change.transition is None:
        return []
    transition_id = await store.insert_transition(conn, change.episode.episode_id, change.transition)
    return tell(batch, rule, place, change, transition_id) if change.notify else []


async def _retire(
    conn: AsyncConnection,
    batch: Batch,
    episodes: Mapping[tuple[str, str], Episode],
    outcome: Outcome,
    open_now: Counter[str],
) -> None:
    """Episodes of rules that are no longer there resolve by themselves, quietly."""
    running = {rule.id for rule in batch.context.rulebook.rules}
    seen = Observation(holds=False, reason="the rule was switched off or removed", data={"code": "rule_gone"})
    for (rule_id, account_id), episode in episodes.items():
        if rule_id in running or not episode.open:
            continue
        change = advance(rule_id, account_id, episode, seen, Policy(), batch.now)
        assert change is not None and change.transition is not None
        await store.save_episode(conn, change.episode, batch.now)
        await cancel_waiting(conn, [episode.episode_id], batch.now)
        await store.insert_transition(conn, episode.episode_id, change.transition)
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
    for change, timer in zip(changes, timers, strict=True):
        at = None if np.isnat(change) else from_us(int(change.astype(np.int64)))
        soonest = _earliest(at, timer)
        result.append(None if soonest is None else max(soonest, batch.now + SOONEST))
    return result
