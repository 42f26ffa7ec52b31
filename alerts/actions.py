"""What a person does with an alert, by API or board: the pure transition of ``alerts/episodes.py``, under the lock.

Lock order health → episode → outbox, as everywhere; the caller owns the transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import episodes
from alerts.episodes import Episode, NotAllowed
from alerts.outbox import cancel_waiting
from alerts.store import count_open, insert_transitions, save_episodes, to_episode
from alerts.tables import episodes as table
from health.tables import health

__all__ = ["Action", "Conflict", "NotAllowed", "NotFound", "act"]

Action = Literal["acknowledge", "snooze", "resolve", "reopen"]


class NotFound(Exception):
    """There is no such alert."""


class Conflict(Exception):
    """Somebody else changed the alert meanwhile; ``current`` is its version now."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the alert has changed meanwhile: it is at version {current}")
        self.current = current


async def act(
    conn: AsyncConnection,
    episode_id: UUID,
    action: Action,
    *,
    expected_version: int | None,
    actor: str,
    reason: str = "",
    until: datetime | None = None,
    outcome: str | None = None,
    now: datetime,
) -> Episode:
    """Carries one action out and returns the episode after it.

    Raises NotFound, Conflict (``expected_version`` is not the current one) or NotAllowed (with a reason for the
    reader).
    """
    account_id = await conn.scalar(select(table.c.account_id).where(table.c.episode_id == episode_id))
    if account_id is None:
        raise NotFound(f"there is no alert {episode_id}")
    await conn.execute(select(health.c.account_id).where(health.c.account_id == account_id).with_for_update())
    row = (await conn.execute(select(table).where(table.c.episode_id == episode_id).with_for_update())).one_or_none()
    if row is None:  # erased while we waited
        raise NotFound(f"there is no alert {episode_id}")
    episode = to_episode(row)
    if expected_version is not None and episode.version != expected_version:
        raise Conflict(episode.version)
    change = _decide(episode, action, actor, reason, until, outcome, now)
    if action == "reopen" and await _other_open(conn, episode):
        raise NotAllowed("a newer alert of this rule is open for this account")
    await save_episodes(conn, [change.episode], now)
    if not change.episode.open:
        await cancel_waiting(conn, [episode_id], now)
    if change.transition is not None:
        await insert_transitions(conn, [(episode_id, change.transition)])
    values: dict[str, Any] = {"open_alerts": count_open(account_id)}
    if change.episode.next_at is not None:
        values["due_at"] = func.least(func.coalesce(health.c.due_at, change.episode.next_at), change.episode.next_at)
    await conn.execute(update(health).where(health.c.account_id == account_id).values(**values))
    return change.episode


def _decide(
    episode: Episode,
    action: Action,
    actor: str,
    reason: str,
    until: datetime | None,
    outcome: str | None,
    now: datetime,
) -> episodes.Change:
    if action == "acknowledge":
        return episodes.acknowledge(episode, actor, reason, now)
    if action == "snooze":
        if until is None:
            raise NotAllowed("until is missing: say when the alert should come back")
        return episodes.snooze(episode, actor, reason, until, now)
    if action == "resolve":
        if outcome not in episodes.OUTCOMES:
            raise NotAllowed(f"outcome must be one of {', '.join(episodes.OUTCOMES)}")
        return episodes.resolve(episode, actor, reason, outcome, now)
    return episodes.reopen(episode, actor, reason, now)


async def _other_open(conn: AsyncConnection, episode: Episode) -> bool:
    found = await conn.scalar(
        select(table.c.episode_id).where(
            table.c.rule_id == episode.rule_id,
            table.c.account_id == episode.account_id,
            table.c.state == "open",
            table.c.episode_id != episode.episode_id,
        )
    )
    return found is not None
