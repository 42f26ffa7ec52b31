"""What an evaluation decided about episodes, collected account by account, then written for the whole batch at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import store
from alerts.episodes import Change, Episode, Transition
from alerts.observing import Batch
from alerts.outbox import cancel_waiting, enqueue
from alerts.rules import Rule
from alerts.telling import snapshot, tell


@dataclass(kw_only=True)
class Changes:
    """At most one change of each episode. Nothing is written before ``write``."""

    batch: Batch
    _opened: list[tuple[Episode, Mapping[str, Any]]] = field(default_factory=list)
    _saved: list[Episode] = field(default_factory=list)
    _snapshots: dict[UUID, Mapping[str, Any]] = field(default_factory=dict)
    _unsaid: list[UUID] = field(default_factory=list)
    _transitions: list[tuple[UUID, Transition]] = field(default_factory=list)
    _told: list[tuple[Rule, int, Change]] = field(default_factory=list)

    def explain_again(self, rule: Rule, place: int, episode: Episode) -> None:
        """Replaces what explains an episode by what is known now."""
        self._snapshots[episode.episode_id] = snapshot(self.batch, rule, place)

    def of(self, rule: Rule, place: int, before: Episode | None, change: Change) -> None:
        if before is not None and before.episode_id == change.episode.episode_id:
            self._saved.append(change.episode)
            if before.open and not change.episode.open and not change.notify:
                self._unsaid.append(before.episode_id)
        else:
            self._opened.append((change.episode, snapshot(self.batch, rule, place)))
        if change.transition is not None:
            self._transitions.append((change.episode.episode_id, change.transition))
            if change.notify:
                self._told.append((rule, place, change))

    def ended(self, change: Change) -> None:
        """Quietly, by itself."""
        assert change.transition is not None
        self._saved.append(change.episode)
        self._unsaid.append(change.episode.episode_id)
        self._transitions.append((change.episode.episode_id, change.transition))

    async def write(self, conn: AsyncConnection) -> None:
        """Episodes, their transitions, and the messages about these."""
        now = self.batch.now
        await store.save_snapshots(conn, self._snapshots, now)
        await store.save_episodes(conn, self._saved, now)
        await store.insert_episodes(conn, self._opened, now)
        await cancel_waiting(conn, self._unsaid, now)
        ids = await store.insert_transitions(conn, self._transitions)
        deliveries = []
        for rule, place, change in self._told:
            deliveries += tell(self.batch, rule, place, change, ids[change.episode.episode_id])
        await enqueue(conn, deliveries)
