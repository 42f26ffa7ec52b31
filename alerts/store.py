"""Episodes and transitions in Postgres: reading them after the lock, writing what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import ScalarSelect, func, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.episodes import Episode, Transition
from alerts.tables import episodes, transitions

_STATE_COLUMNS = (
    "state",
    "pre_existing",
    "severity",
    "since",
    "closed_at",
    "cleared_at",
    "acknowledged_at",
    "acknowledged_by",
    "snoozed_until",
    "outcome",
    "next_at",
    "version",
)


_COLUMNS = (
    episodes.c.episode_id,
    episodes.c.rule_id,
    episodes.c.account_id,
    episodes.c.opened_at,
    *(episodes.c[name] for name in _STATE_COLUMNS),
)
_NAMES = tuple(column.name for column in _COLUMNS)


def to_episode(row: Any) -> Episode:
    return Episode(
        episode_id=row.episode_id,
        rule_id=row.rule_id,
        account_id=row.account_id,
        opened_at=row.opened_at,
        **{name: getattr(row, name) for name in _STATE_COLUMNS},
    )


async def newest_episodes(conn: AsyncConnection, account_ids: Sequence[str]) -> dict[tuple[str, str], Episode]:
    """The newest episode of each (rule, account), open or closed. Read after the accounts' health rows are locked."""
    # Without the snapshots: they are most of a row, and nobody asks for them here.
    rows = await conn.execute(
        select(*_COLUMNS)
        .ext(distinct_on(episodes.c.account_id, episodes.c.rule_id))
        .where(episodes.c.account_id.in_(account_ids))
        .order_by(
            episodes.c.account_id, episodes.c.rule_id, (episodes.c.state == "open").desc(), episodes.c.opened_at.desc()
        )
    )
    found = (Episode(**dict(zip(_NAMES, row, strict=True))) for row in rows.all())
    return {(episode.rule_id, episode.account_id): episode for episode in found}


async def insert_episode(conn: AsyncConnection, episode: Episode, snapshot: Mapping[str, Any], now: datetime) -> None:
    """``snapshot``: what explains the alert later (owner, mrr, rule version, reason, signals, score, contributions)."""
    await conn.execute(
        insert(episodes).values(
            episode_id=episode.episode_id,
            rule_id=episode.rule_id,
            account_id=episode.account_id,
            opened_at=episode.opened_at,
            updated_at=now,
            **{name: getattr(episode, name) for name in _STATE_COLUMNS},
            **snapshot,
        )
    )


async def save_snapshot(conn: AsyncConnection, episode_id: UUID, snapshot: Mapping[str, Any], now: datetime) -> None:
    """Replaces what explains an alert that nobody has been told of."""
    statement = update(episodes).where(episodes.c.episode_id == episode_id)
    await conn.execute(statement.values(updated_at=now, **snapshot))


async def save_episode(conn: AsyncConnection, episode: Episode, now: datetime) -> None:
    await conn.execute(
        update(episodes)
        .where(episodes.c.episode_id == episode.episode_id)
        .values(updated_at=now, **{name: getattr(episode, name) for name in _STATE_COLUMNS})
    )


async def insert_transition(conn: AsyncConnection, episode_id: UUID, transition: Transition) -> int:
    statement = (
        insert(transitions)
        .values(
            episode_id=episode_id,
            kind=transition.kind,
            at=transition.at,
            reason=transition.reason,
            actor=transition.actor,
            data=transition.data,
        )
        .returning(transitions.c.transition_id)
    )
    return cast(int, await conn.scalar(statement))


def count_open(account_id: str) -> ScalarSelect[int]:
    return (
        select(func.count())
        .select_from(episodes)
        .where(episodes.c.account_id == account_id, episodes.c.state == "open")
        .scalar_subquery()
    )
