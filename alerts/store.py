"""Episodes and transitions in Postgres: reading them after the lock, writing what was decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ScalarSelect, TextClause, func, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.episodes import Episode, Transition
from alerts.tables import episodes, transitions
from health.ids import among

PART = 1000
"""Rows a statement."""

_IDENTITY = {"episode_id": "uuid", "rule_id": "text", "account_id": "text", "opened_at": "timestamptz"}
_STATE = {
    "state": "text",
    "severity": "text",
    "pre_existing": "boolean",
    "since": "timestamptz",
    "closed_at": "timestamptz",
    "cleared_at": "timestamptz",
    "acknowledged_at": "timestamptz",
    "acknowledged_by": "text",
    "snoozed_until": "timestamptz",
    "outcome": "text",
    "next_at": "timestamptz",
    "version": "int",
}
_SNAPSHOT = {
    "owner": "text",
    "mrr": "numeric",
    "rule_version": "text",
    "scorecard": "text",
    "reason": "jsonb",
    "signals": "jsonb",
    "score": "numeric",
    "contributions": "jsonb",
}
_TRANSITION = {"kind": "text", "at": "timestamptz", "reason": "text", "actor": "text", "data": "jsonb"}
_ID = {"episode_id": "uuid"}
_UPDATED = {"updated_at": "timestamptz"}
_STATE_COLUMNS = tuple(_STATE)


def recordset(columns: Mapping[str, str]) -> str:
    """The rows of the JSON array ``:rows``, as ``r``."""
    types = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
    return f"jsonb_to_recordset(CAST(:rows AS jsonb)) AS r({types})"


def _update(columns: Mapping[str, str]) -> TextClause:
    written = ", ".join(f"{name} = r.{name}" for name in columns)
    return text(f"""
UPDATE episodes e SET {written} FROM {recordset({**_ID, **columns})} WHERE e.episode_id = r.episode_id
""")  # noqa: S608 - made of the names above


_EPISODE = {**_IDENTITY, **_STATE, **_SNAPSHOT, **_UPDATED}
_INSERT_EPISODES = text(f"""
INSERT INTO episodes ({", ".join(_EPISODE)}) SELECT {", ".join(_EPISODE)} FROM {recordset(_EPISODE)}
""")  # noqa: S608 - made of the names above
_SAVE_EPISODES = _update({**_STATE, **_UPDATED})
_SAVE_SNAPSHOTS = _update({**_SNAPSHOT, **_UPDATED})
_INSERT_TRANSITIONS = text(f"""
INSERT INTO transitions (episode_id, {", ".join(_TRANSITION)}) SELECT episode_id, {", ".join(_TRANSITION)}
FROM {recordset({"place": "int", **_ID, **_TRANSITION})} ORDER BY place
RETURNING episode_id, transition_id
""").columns(transitions.c.episode_id, transitions.c.transition_id)  # noqa: S608 - made of the names above
_encode = msgspec.json.Encoder().encode


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
        .where(episodes.c.account_id == among(account_ids))
        .order_by(
            episodes.c.account_id, episodes.c.rule_id, (episodes.c.state == "open").desc(), episodes.c.opened_at.desc()
        )
    )
    found = (Episode(**dict(zip(_NAMES, row, strict=True))) for row in rows.all())
    return {(episode.rule_id, episode.account_id): episode for episode in found}


async def insert_episodes(
    conn: AsyncConnection, opened: Sequence[tuple[Episode, Mapping[str, Any]]], now: datetime
) -> None:
    """Each with its snapshot: what explains the alert later (owner, mrr, rule version, reason, signals, score,
    contributions)."""
    rows = [{**_identity(episode), **_state(episode), **snapshot, "updated_at": now} for episode, snapshot in opened]
    for part in parts(rows):
        await conn.execute(_INSERT_EPISODES, {"rows": part})


async def save_snapshots(conn: AsyncConnection, snapshots: Mapping[UUID, Mapping[str, Any]], now: datetime) -> None:
    """Replaces what explains alerts that nobody has been told of."""
    rows = [{"episode_id": episode_id, **snapshot, "updated_at": now} for episode_id, snapshot in snapshots.items()]
    for part in parts(rows):
        await conn.execute(_SAVE_SNAPSHOTS, {"rows": part})


async def save_episodes(conn: AsyncConnection, changed: Sequence[Episode], now: datetime) -> None:
    rows = [{"episode_id": episode.episode_id, **_state(episode), "updated_at": now} for episode in changed]
    for part in parts(rows):
        await conn.execute(_SAVE_EPISODES, {"rows": part})


async def insert_transitions(conn: AsyncConnection, transitions: Sequence[tuple[UUID, Transition]]) -> dict[UUID, int]:
    """The transitions' ids, by their episode: at most one of each; ascending in the order given."""
    rows = [
        {"place": place, "episode_id": episode_id, **{name: getattr(transition, name) for name in _TRANSITION}}
        for place, (episode_id, transition) in enumerate(transitions)
    ]
    ids: dict[UUID, int] = {}
    for part in parts(rows):
        ids |= {row.episode_id: row.transition_id for row in await conn.execute(_INSERT_TRANSITIONS, {"rows": part})}
    return ids


def parts(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """JSON for ``jsonb_to_recordset``: a statement writes many rows, but no JSON grows beyond what Postgres takes."""
    for start in range(0, len(rows), PART):
        yield _encode(rows[start : start + PART]).decode()


def _identity(episode: Episode) -> dict[str, Any]:
    return {name: getattr(episode, name) for name in _IDENTITY}


def _state(episode: Episode) -> dict[str, Any]:
    return {name: getattr(episode, name) for name in _STATE_COLUMNS}


def count_open(account_id: str) -> ScalarSelect[int]:
    return (
        select(func.count())
        .select_from(episodes)
        .where(episodes.c.account_id == account_id, episodes.c.state == "open")
        .scalar_subquery()
    )
