"""The evaluator's loop under load: a crossing is told in time, and one thing that goes wrong stops nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import erasure, reevaluation
from alerts import evaluator as evaluators
from alerts.actions import NotFound, act
from alerts.activation import activate, newest_version
from alerts.doors import EVERYBODY
from alerts.evaluation import evaluate
from alerts.evaluator import Evaluator
from consumers.tables import stream_offsets
from health import fleet
from health.tables import accounts, health, reevaluations, touched
from tests.world import DAY_0, World

SECOND = timedelta(seconds=1)
OTHERS = [f"other-{number:03}" for number in range(120)]
BUSY = OTHERS[:60]
"""The rest is looked at by the round alone, so that it goes on."""
CROSSING = DAY_0 + timedelta(days=14)


async def until(met: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await met():  # noqa: ASYNC110 - what is waited for is in the database
            await asyncio.sleep(0.05)


async def applied(engine: AsyncEngine, through: datetime) -> None:
    async with engine.begin() as conn:
        await conn.execute(update(stream_offsets).values(complete_through=through))


async def apply_on(engine: AsyncEngine, clock: Callable[[], datetime]) -> None:
    """Consumers that say about every second how far they have come."""
    while True:
        await applied(engine, clock() - SECOND)
        await asyncio.sleep(0.5)


async def touch_on(engine: AsyncEngine, clock: Callable[[], datetime]) -> None:
    """Many more accounts than a batch, always."""
    while True:
        async with engine.begin() as conn:
            await conn.execute(insert(touched).values(account_ids=BUSY, created_at=clock()))
        await asyncio.sleep(0.05)


async def test_a_crossing_is_told_in_time_amid_a_round_and_a_load_of_touched_accounts(engine: AsyncEngine) -> None:
    world = await World(engine).start()
    await world.event("login", user_id="u")
    world.now = CROSSING - timedelta(hours=25)  # none of them is due soon
    # Each of its own source: too little of any for its silence to be noticed.
    await world.events(*({"kind": "login", "account_id": name, "user_id": "u", "source": name} for name in OTHERS))
    world.now = CROSSING - 3 * SECOND
    await world.evaluate()
    assert "no-login" not in await world.open()

    began = time.monotonic()

    def clock() -> datetime:
        """At half the pace, for machines that are busy with other tests."""
        return CROSSING - 3 * SECOND + timedelta(seconds=(time.monotonic() - began) / 2)

    one = world.another(clock)
    one.batch, one.reevaluate_per_second = 5, 5.0
    one.__post_init__()
    async with engine.begin() as conn:
        await conn.execute(insert(touched).values(everyone_since=EVERYBODY, created_at=clock()))
    stop = asyncio.Event()
    loop = asyncio.create_task(one.run(stop))
    others = [asyncio.create_task(touch_on(engine, clock)), asyncio.create_task(apply_on(engine, clock))]

    async def told() -> bool:
        return "no-login" in await world.open()

    try:
        await until(told)
        async with engine.connect() as conn:
            last = (await conn.execute(select(reevaluations).order_by(reevaluations.c.round.desc()))).first()
            waiting = await conn.scalar(select(touched.c.touched_id).limit(1))
    finally:
        stop.set()
        for other in others:
            other.cancel()
        await asyncio.gather(loop, *others, return_exceptions=True)
    loop.result()
    episode = (await world.open())["no-login"]
    assert episode.since == CROSSING
    assert timedelta(0) <= episode.opened_at - CROSSING < 5 * SECOND
    assert last is not None and (last.why, last.state) == ("asked", "running") and last.done > 0
    assert waiting is not None, "the load was more than could be worked off"


async def test_a_look_that_waited_for_its_accounts_is_of_the_present(engine: AsyncEngine) -> None:
    """Were it of when it began to wait, it would undo what another saw meanwhile."""
    world = await World(engine).start()
    await world.event("login", user_id="u")
    world.now = CROSSING - 2 * SECOND
    await world.evaluate()
    async with engine.begin() as conn:
        await conn.execute(select(health).where(health.c.account_id == "acme").with_for_update())
        async with engine.begin() as other:
            await other.execute(insert(touched).values(account_ids=["acme"], urgent=True, created_at=world.now))
        waits = asyncio.create_task(world.evaluator.step())
        await until(lambda: _blocked(engine))
        world.now = CROSSING + SECOND
        await applied(engine, world.now)
    await waits
    assert (await world.health_of()).evaluated_at == CROSSING + SECOND
    assert (await world.open())["no-login"].opened_at == CROSSING + SECOND


async def test_an_action_on_an_alert_that_is_erased_meanwhile_finds_none(engine: AsyncEngine) -> None:
    world = await World(engine).start()
    await world.event("payment", payment_id="p", status="failed")
    episode_id = (await world.open())["payment-failed"].episode_id

    async def resolve() -> None:
        async with engine.begin() as conn:
            await act(
                conn, episode_id, "resolve", expected_version=None, actor="mina", outcome="saved", now=world.now
            )  # fmt: skip

    async with engine.begin() as conn:
        await erasure.lock(conn, ["acme"])
        waits = asyncio.create_task(resolve())
        await until(lambda: _blocked(engine))
        await erasure.erase_account(conn, "acme")
    with pytest.raises(NotFound):
        await waits


async def _blocked(engine: AsyncEngine) -> bool:
    async with engine.connect() as conn:
        waiting = await conn.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(waiting.scalar_one())


async def test_rounds_are_numbered_as_they_are_committed(engine: AsyncEngine) -> None:
    async with engine.connect() as first, engine.connect() as second:
        await first.begin()
        await second.begin()
        one = await reevaluation.begin(first, "rules", DAY_0)
        other = asyncio.create_task(reevaluation.begin(second, "observed", DAY_0))
        await until(lambda: _blocked(engine))
        await first.commit()
        assert await other == one + 1
        await second.commit()
    async with engine.connect() as conn:
        states = select(reevaluations.c.state).order_by(reevaluations.c.round)
        assert list(await conn.scalars(states)) == ["replaced", "running"]


async def test_a_rulebook_is_the_newest_though_the_one_before_was_loaded_by_a_clock_ahead(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await activate(conn, "one", {}, [], DAY_0 + timedelta(hours=1))
        await activate(conn, "two", {}, [], DAY_0)
        assert await newest_version(conn) == "two"
        await activate(conn, "one", {}, [], DAY_0 + SECOND)
        assert await newest_version(conn) == "one"


async def test_a_batch_at_fault_is_begun_anew_and_nothing_of_it_is_lost_meanwhile(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await World(engine).start()
    async with engine.begin() as conn:
        await conn.execute(insert(touched).values(account_ids=["a", "b"], created_at=world.now))
    faults: list[Exception] = [ValueError("odd facts"), ConnectionResetError("away")]

    async def failing(conn: AsyncConnection, account_ids: list[str], *more: Any) -> Any:
        if faults:
            raise faults.pop(0)
        return await evaluate(conn, account_ids, *more)

    monkeypatch.setattr(evaluators, "evaluate", failing)
    with pytest.raises(ConnectionResetError):
        await world.evaluator.step()
    async with engine.connect() as conn:
        assert await conn.scalar(select(touched.c.account_ids)) == ["a", "b"]
    faults.append(ValueError("odd facts"))
    assert await world.evaluator.step() == 2
    assert [(await world.health_of(name)).problem for name in ("a", "b")] == [None, None]
    async with engine.connect() as conn:
        assert await conn.scalar(select(touched.c.touched_id)) is None


async def test_other_doors_come_in_between_the_parts_of_a_sweep(engine: AsyncEngine) -> None:
    world = await World(engine).start()
    await world.event("login", user_id="u")
    names = [f"missed-{number}" for number in range(5)]
    async with engine.begin() as conn:
        long_ago = [{"account_id": name, "version": 1, "changed_at": DAY_0 - timedelta(hours=1)} for name in names]
        await conn.execute(insert(accounts), long_ago)
    world.now = CROSSING - SECOND
    await world.evaluate()
    one = world.evaluator
    one.batch = 2
    await one.begin_sweep()
    assert await one.sweep() == 2
    world.now = CROSSING
    await applied(engine, world.now)
    await one.step()
    assert "no-login" in await world.open()
    assert [await one.sweep(), await one.sweep(), await one.sweep()] == [2, 1, 0]


async def test_a_day_that_cannot_be_closed_is_tried_again(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[datetime] = []

    async def close_day(_: AsyncEngine, now: datetime) -> bool:
        tried.append(now)
        raise ValueError("odd data")

    monkeypatch.setattr(fleet, "close_day", close_day)
    monkeypatch.setattr(evaluators, "CLOSING_SECONDS", 0.01)
    one: Evaluator = World(engine).another(lambda: datetime(2026, 3, 2, tzinfo=UTC))
    stop = asyncio.Event()
    running = asyncio.create_task(one.run(stop))

    async def again() -> bool:
        return len(tried) > 1

    await until(again)
    stop.set()
    await running
