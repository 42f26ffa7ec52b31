"""A small world with a clock of its own: events go in through the real consumer store, alerts come out of the real
outbox.

Only Kafka and the wire to Slack are left out. Days count from ``DAY_0``; the clock moves only when told to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts.context import ContextSource
from alerts.evaluator import Evaluator
from alerts.routing import Channels
from alerts.tables import deliveries, episodes, transitions
from consumers import progress
from consumers.applier import Applier, Limits
from consumers.broker import Record
from consumers.records import Position
from consumers.tables import stream_offsets
from health.tables import health, people

DAY_0 = datetime(2026, 3, 2, 9, tzinfo=UTC)
TOPIC, GROUP = "events", "world"
RULES = Path(__file__).parent.parent / "rules"


@dataclass
class Told:
    """A message in the outbox."""

    kind: str
    rule: str
    account: str
    channel: str
    target: str
    language: str


class World:
    """Use ``event`` and ``pass_days``, then ask what is open and who was told."""

    def __init__(
        self, engine: AsyncEngine, rules_dir: Path = RULES, *, cadences: Mapping[str, timedelta] | None = None
    ) -> None:
        self._cadences = dict(cadences or {})
        self.engine = engine
        self.now = DAY_0
        self._rules_dir = rules_dir
        self._number = 0
        self._position = Position(topic=TOPIC, partition=0, next_offset=0, epoch=0)
        self._applier = Applier(engine, GROUP, Limits())
        self.observing = True

    async def start(self) -> World:
        async with self.engine.begin() as conn:
            row = {"group_id": GROUP, "topic": TOPIC, "partition": 0, "next_offset": 0, "updated_at": self.now}
            await conn.execute(insert(stream_offsets).values(complete_through=self.now, **row))
            await conn.execute(
                insert(people).values(
                    person_id="mina", name="Mina", email="mina@example.com", language="ja", updated_at=self.now
                )
            )
        self.boot()
        await self.evaluate()
        return self

    def boot(self) -> None:
        """A new evaluator process: nothing is remembered but what the database holds."""
        self.evaluator = self.another(lambda: self.now)

    def another(self, clock: Callable[[], datetime]) -> Evaluator:
        """One more evaluator, on a host with this clock."""

        async def through(conn: AsyncConnection) -> datetime | None:
            return (await progress.read(conn, GROUP, [TOPIC])).complete_through

        context = ContextSource(
            self.engine,
            self._rules_dir,
            channels=Channels(slack_team=True, email=True, default_recipient="cs@example.com"),
            public_url="https://kizashi.example.com/",
            progress=through,
            cadences=lambda: self._cadences,
            every=timedelta(0),
            guard_every=timedelta(minutes=1),
        )
        return Evaluator(engine=self.engine, context=context, clock=clock, coalesce=timedelta(0))

    def rewire(self) -> None:
        """After another database was put in place: consumer and evaluator begin anew, where it says they stood."""
        self._applier = Applier(self.engine, GROUP, Limits())
        self.boot()

    async def forget_progress(self) -> None:
        async with self.engine.begin() as conn:
            await conn.execute(update(stream_offsets).values(complete_through=None))

    async def event(self, kind: str, account: str = "acme", *, at: datetime | None = None, **fields: Any) -> None:
        await self.events({"kind": kind, "account_id": account, "at": at, **fields})

    async def events(self, *events: Mapping[str, Any]) -> None:
        """Applies events in one batch, as the consumer would, at the present instant; evaluates what they touched."""
        records: list[Record] = []
        for fields in events:
            self._number += 1
            event = {"event_id": f"event-{self._number}", **fields}
            at = event.pop("at", None) or self.now
            event["timestamp"] = at.isoformat()
            offset = self._position.next_offset + len(records)
            value = msgspec.json.encode(event)
            records.append(
                Record(topic=TOPIC, partition=0, offset=offset, timestamp_ms=int(self.now.timestamp() * 1000),
                       key=event["account_id"].encode(), value=value, headers=())
            )  # fmt: skip
        place = (TOPIC, 0)
        applied = await self._applier.apply({place: records}, {place: self._position}, now=self.now, catching_up=False)
        assert applied is not None and not applied.dead_letters, applied
        self._position = applied.positions[place]
        await self.evaluate()

    async def evaluate(self) -> None:
        if self.observing:
            async with self.engine.begin() as conn:
                await conn.execute(update(stream_offsets).values(complete_through=self.now))
        await self.evaluator.drain()

    async def until(self, day: float) -> None:
        """Moves the clock to a day counted from day 0, stopping whenever an account becomes due, as a running
        service does.
        """
        end = DAY_0 + timedelta(days=day)
        while self.now < end:
            async with self.engine.connect() as conn:
                due = await conn.scalar(select(func.min(health.c.due_at)))
            # While ingestion stands still, crossings are tried again each minute: a few looks a day show as much.
            soonest = self.now + (timedelta(milliseconds=1) if self.observing else timedelta(hours=6))
            self.now = end if due is None else min(max(due, soonest), end)
            await self.evaluate()

    async def open(self, account: str = "acme") -> dict[str, Any]:
        """Open episodes by rule."""
        async with self.engine.connect() as conn:
            where = (episodes.c.account_id == account) & (episodes.c.state == "open")
            return {row.rule_id: row for row in await conn.execute(select(episodes).where(where))}

    async def episodes(self, rule: str, account: str = "acme") -> list[Any]:
        async with self.engine.connect() as conn:
            query = select(episodes).where(episodes.c.account_id == account, episodes.c.rule_id == rule)
            return list(await conn.execute(query.order_by(episodes.c.opened_at)))

    async def history(self, rule: str, account: str = "acme") -> list[tuple[str, float]]:
        """The transitions of a rule's episodes, with the day of each."""
        async with self.engine.connect() as conn:
            query = (
                select(transitions.c.kind, transitions.c.at)
                .join(episodes, episodes.c.episode_id == transitions.c.episode_id)
                .where(episodes.c.account_id == account, episodes.c.rule_id == rule)
                .order_by(transitions.c.transition_id)
            )
            return [(row.kind, round((row.at - DAY_0) / timedelta(days=1), 2)) for row in await conn.execute(query)]

    async def told(self, rule: str | None = None) -> list[Told]:
        async with self.engine.connect() as conn:
            rows = await conn.execute(select(deliveries).order_by(deliveries.c.transition_id, deliveries.c.channel))
            found = [
                Told(row.message["kind"], row.message["rule_id"], row.account_id, row.channel, row.target, row.language)
                for row in rows
            ]
        return [told for told in found if rule is None or told.rule == rule]

    async def health_of(self, account: str = "acme") -> Any:
        async with self.engine.connect() as conn:
            return (await conn.execute(select(health).where(health.c.account_id == account))).one()
