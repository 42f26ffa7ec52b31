"""Companies whose sources have a past of eight weeks (office hours, or round the clock), and send on as days pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

from sqlalchemy import delete, insert, select

from health.tables import gaps, health, source_hours, sources
from service.deps import Deps
from service.settings import Settings
from tests.api import FakeProducer
from tests.world import DAY_0, World

RULE = "no-login"
HOUR = timedelta(hours=1)
EIGHT = ("a", "b", "c", "d", "e", "f", "g", "h")


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


def desk(world: World) -> Deps:
    """What the API has at hand."""
    return Deps(settings=Settings(), clock=lambda: world.now, engine=world.engine, producer=FakeProducer())


class Company:
    """A world whose sources send by themselves. ``by_source``: the accounts that log in by each source."""

    def __init__(
        self, world: World, by_source: Mapping[str, Sequence[str]], *, every: int = 6, office: bool = False
    ) -> None:
        """Everybody logs in once in ``every`` hours."""
        self.world, self.by_source, self.office, self.step = world, by_source, office, every * HOUR
        self.silent: set[str] = set()
        """Sources that send nothing: what happens meanwhile is kept in ``unsent``."""
        self.holidays: set[date] = set()
        """Days on which nobody works."""
        self.unsent: list[dict[str, object]] = []

    async def refound(self) -> None:
        """The past of eight weeks up to the present instant, whatever the sources had before."""
        async with self.world.engine.begin() as conn:
            await conn.execute(delete(source_hours))
            await conn.execute(insert(source_hours), self._past(self.world.now.replace(minute=0)))
        await self.send(self.world.now)

    async def founded(self) -> Company:
        async with self.world.engine.begin() as conn:
            await conn.execute(insert(source_hours), self._past(DAY_0))
            for source in self.by_source:
                times = {"first_event_at": DAY_0 - 57 * 24 * HOUR, "last_event_at": DAY_0 - HOUR}
                await conn.execute(insert(sources).values(source=source, last_live_at=DAY_0 - HOUR, **times))
        await self.send(DAY_0)
        return self

    def _past(self, until: datetime) -> list[dict[str, object]]:
        return [
            {"source": source, "hour": until - HOUR * back, "events": len(accounts)}
            for source, accounts in self.by_source.items()
            for back in range(int(self.step / HOUR), 57 * 24, int(self.step / HOUR))
            if self.open_at(until - HOUR * back)
        ]

    def open_at(self, hour: datetime) -> bool:
        if hour.date() in self.holidays:
            return False
        return not self.office or (hour.weekday() < 5 and 8 <= hour.hour < 18)

    async def send(self, at: datetime) -> None:
        """Everybody logs in once."""
        events = [
            {"kind": "login", "account_id": account, "user_id": "u", "source": source, "at": at}
            for source, accounts in self.by_source.items()
            for account in accounts
        ]
        self.unsent += [event for event in events if event["source"] in self.silent]
        if now := [event for event in events if event["source"] not in self.silent]:
            await self.world.events(*now)

    async def until(self, number: float) -> None:
        """Time passes, with a look at each round of logins."""
        while self.world.now + self.step <= day(number):
            self.world.now += self.step
            if self.open_at(self.world.now):
                await self.send(self.world.now)
            await self.world.evaluate()

    async def resend(self) -> None:
        """What was not sent comes after all, in the order in which it happened."""
        late, self.unsent = self.unsent, []
        for start in range(0, len(late), 500):
            await self.world.events(*late[start : start + 500])

    async def opened(self) -> int:
        """Alerts about silence that anybody was told of."""
        return len(await self.world.told(RULE))

    async def states(self) -> list[tuple[str | None, str]]:
        async with self.world.engine.connect() as conn:
            found = await conn.execute(select(gaps.c.source, gaps.c.state).order_by(gaps.c.gap_id))
            return [(row.source, row.state) for row in found]

    async def held(self) -> set[str]:
        async with self.world.engine.connect() as conn:
            query = select(health.c.account_id).where(health.c.incomplete_since.is_not(None))
            return set((await conn.scalars(query)).all())
