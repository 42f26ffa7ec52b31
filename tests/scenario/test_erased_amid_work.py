"""An account is erased while evaluators and a sender are at work: no deadlock, no word of it, nothing left."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts.channels.base import Message, SendResult, Target
from alerts.delivery import run_sender
from alerts.tables import deliveries
from health.tables import accounts, touched
from service import erasures
from service.erasures import Eraser
from tests import canary
from tests.world import World

ACCOUNT = "canary-7f3a"


class Gate:
    """A channel whose receiver answers once the gate is open; remembers of whom it was told."""

    min_interval = timedelta(0)

    def __init__(self, name: str) -> None:
        self.name = name
        self.opened, self.reached, self.answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.told: list[str] = []

    async def resolve(self, conn: AsyncConnection, name: str) -> Target:
        return Target(name=name, address=name)

    async def send(self, target: Target, message: Message, *, delivery_id: UUID, now: datetime) -> SendResult:
        self.told.append(message.view.account_id)
        self.reached.set()
        await self.opened.wait()
        self.answered.set()
        return SendResult(outcome="sent", detail="taken")

    async def aclose(self) -> None:
        return


async def touch_on(engine: AsyncEngine, world: World, stop: asyncio.Event) -> None:
    """Wakes the evaluators for the account again and again, as long as it exists."""
    while not stop.is_set():
        async with engine.begin() as conn:
            known = select(accounts.c.account_id).where(accounts.c.account_id == ACCOUNT).with_for_update()
            if await conn.scalar(known) is not None:
                await conn.execute(insert(touched).values(account_ids=[ACCOUNT], urgent=True, created_at=world.now))
        await asyncio.sleep(0.005)


async def test_an_account_is_erased_amid_evaluation_and_delivery(engine: AsyncEngine) -> None:
    world = await World(engine).start()
    for account in (ACCOUNT, "acme"):
        await world.event("login", account, user_id="u")
    await world.until(15)  # nobody has signed in for 14 days: both have an alert, and messages that wait
    async with engine.connect() as conn:
        waiting = select(func.count()).select_from(deliveries).where(deliveries.c.status == "pending")
        assert (await conn.execute(waiting.where(deliveries.c.account_id == ACCOUNT))).scalar_one() > 0

    stop, gate = asyncio.Event(), Gate("slack")
    second = World(engine)
    second.now = world.now
    second.boot()
    work = Eraser(engine=engine, pseudonyms=None, archive=None, clock=lambda: world.now + timedelta(seconds=1))
    at_work = [
        asyncio.create_task(world.evaluator.run(stop)),
        asyncio.create_task(second.evaluator.run(stop)),
        asyncio.create_task(touch_on(engine, world, stop)),
        asyncio.create_task(run_sender(engine, {"slack": gate}, stop, lambda: world.now)),
    ]
    async with asyncio.timeout(30):
        await gate.reached.wait()  # the message about acme is on its way; the other waits behind it
    async with engine.begin() as conn:
        asked = await erasures.request(conn, work.named(ACCOUNT, None), by="tests", now=world.now)
    async with asyncio.timeout(60):
        await work.run(asked.erasure_id)
    gate.opened.set()
    async with asyncio.timeout(30):
        await gate.answered.wait()
    await asyncio.sleep(1)  # time enough to send what were still waiting
    stop.set()
    await asyncio.gather(*at_work)
    assert set(gate.told) == {"acme"}
    assert await canary.places(engine, ACCOUNT) == set()
