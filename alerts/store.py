"""Episodes and transitions in Postgres: reading them after the lock, writing what was decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.episodes import Episode, Transition
from alerts.tables import episodes
from health import driver

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


def recordset(columns: Mapping[str, str], rows: str = ":rows") -> str:
    """The rows of the JSON array that ``rows`` stands for, as ``r``."""
    types = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
    return f"jsonb_to_recordset(CAST({rows} AS jsonb)) AS r({types})"


def _update(columns: Mapping[str, str]) -> str:
    written = ", ".join(f"{name} = r.{name}" for name in columns)
    return f"""
UPDATE episodes e SET {written} FROM {recordset({**_ID, **columns}, "$1")} WHERE e.episode_id = r.episode_id
"""  # noqa: S608 - made of the names above


_EPISODE = {**_IDENTITY, **_STATE, **_SNAPSHOT, **_UPDATED}
_INSERT_EPISODES = f"""
INSERT INTO episodes ({", ".join(_EPISODE)}) SELECT {", ".join(_EPISODE)} FROM {recordset(_EPISODE, "$1")}
"""  # noqa: S608 - made of the names above
_SAVE_EPISODES = _update({**_STATE, **_UPDATED})
_SAVE_SNAPSHOTS = _update({**_SNAPSHOT, **_UPDATED})
_INSERT_TRANSITIONS = f"""
INSERT INTO transitions (episode_id, {", ".join(_TRANSITION)}) SELECT episode_id, {", ".join(_TRANSITION)}
FROM {recordset({"place": "int", **_ID, **_TRANSITION}, "$1")} ORDER BY place
RETURNING episode_id, transition_id
"""  # noqa: S608 - made of the names above
_encode = msgspec.json.Encoder().encode


def to_episode(row: Any) -> Episode:
    return Episode(
        episode_id=row.episode_id,
        rule_id=row.rule_id,
        account_id=row.account_id,
        opened_at=row.opened_at,
        **{name: getattr(row, name) for name in _STATE_COLUMNS},
    )


_READ: Final = (*_IDENTITY, *_STATE_COLUMNS)
# Without the snapshots: they are most of a row, and nobody asks for them here.
_NEWEST: Final = f"""
SELECT {", ".join(_READ)} FROM (
  SELECT DISTINCT ON (account_id, rule_id) {", ".join(_READ)} FROM episodes WHERE account_id = ANY($1::text[])
  ORDER BY account_id, rule_id, (state = 'open') DESC, opened_at DESC
) AS e
WHERE state = 'open' OR cleared_at IS NULL OR (rule_id, account_id) IN (SELECT * FROM unnest($2::text[], $3::text[]))
"""  # noqa: S608 - made of the names above


async def newest_episodes(
    conn: AsyncConnection, account_ids: Sequence[str], holding: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Episode]:
    """The newest episode of each (rule, account), open or closed. Read after the accounts' health rows are locked.
    One that is over is left out, unless its rule is among those ``holding``: nothing else can change it."""
    rules, accounts = [rule for rule, _ in holding], [account for _, account in holding]
    rows = await driver.fetch(conn, _NEWEST, account_ids, rules, accounts)
    return {(row[1], row[2]): Episode(**dict(zip(_READ, row, strict=True))) for row in rows}


async def insert_episodes(
    conn: AsyncConnection, opened: Sequence[tuple[Episode, Mapping[str, Any]]], now: datetime
) -> None:
    """Each with its snapshot: what explains the alert later (owner, mrr, rule version, reason, signals, score,
    contributions)."""
    rows = [{**_identity(episode), **_state(episode), **snapshot, "updated_at": now} for episode, snapshot in opened]
    for part in parts(rows):
        await driver.execute(conn, _INSERT_EPISODES, part)


async def save_snapshots(conn: AsyncConnection, snapshots: Mapping[UUID, Mapping[str, Any]], now: datetime) -> None:
    """Replaces what explains alerts that nobody has been told of."""
    rows = [{"episode_id": episode_id, **snapshot, "updated_at": now} for episode_id, snapshot in snapshots.items()]
    for part in parts(rows):
        await driver.execute(conn, _SAVE_SNAPSHOTS, part)


async def save_episodes(conn: AsyncConnection, changed: Sequence[Episode], now: datetime) -> None:
    rows = [{"episode_id": episode.episode_id, **_state(episode), "updated_at": now} for episode in changed]
    for part in parts(rows):
        await driver.execute(conn, _SAVE_EPISODES, part)


async def insert_transitions(conn: AsyncConnection, transitions: Sequence[tuple[UUID, Transition]]) -> dict[UUID, int]:
    """The transitions' ids, by their episode: at most one of each; ascending in the order given."""
    rows = [
        {"place": place, "episode_id": episode_id, **{name: getattr(transition, name) for name in _TRANSITION}}
        for place, (episode_id, transition) in enumerate(transitions)
    ]
    ids: dict[UUID, int] = {}
    for part in parts(rows):
        ids |= {row[0]: row[1] for row in await driver.fetch(conn, _INSERT_TRANSITIONS, part)}
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
