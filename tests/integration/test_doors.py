"""The two doors with real connections: no wake-up is lost, no order of locks deadlocks, nothing is handed out twice."""

from __future__ import annotations

import asyncio
import random
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import doors, reevaluation
from alerts.doors import Last, Work, split_recent
from health.tables import accounts, health, touched

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


async def queue(conn: AsyncConnection, *account_ids: str, urgent: bool = False) -> None:
    row = {"account_ids": sorted(account_ids), "urgent": urgent, "created_at": NOW, "oldest_event_at": NOW}
    await conn.execute(insert(touched).values(row))


async def add_account(conn: AsyncConnection, account_id: str, version: int = 1, changed_at: datetime = NOW) -> None:
    await conn.execute(insert(accounts).values(account_id=account_id, version=version, changed_at=changed_at))


async def queued(engine: AsyncEngine) -> int:
    async with engine.connect() as conn:
        return await conn.scalar(select(func.count()).select_from(touched)) or 0


async def test_a_look_tells_which_doors_have_work_and_takes_nothing(engine: AsyncEngine) -> None:
    async def seen() -> set[str]:
        async with engine.connect() as conn:
            return {name for name, waits in asdict(await doors.look(conn, NOW)).items() if waits}

    assert await seen() == set()
    async with engine.begin() as conn:
        await conn.execute(insert(health), [{"account_id": "a", "due_at": NOW + timedelta(microseconds=1)}])
        await conn.execute(insert(health), [{"account_id": "b"}])
    assert await seen() == set()
    async with engine.begin() as conn:
        await conn.execute(update(health).where(health.c.account_id == "a").values(due_at=NOW))
    assert await seen() == {"due"}
    async with engine.begin() as conn:
        await conn.execute(insert(touched).values(everyone_since=NOW, created_at=NOW))
    assert await seen() == {"due", "everyone"}
    async with engine.begin() as conn:
        await conn.execute(insert(touched).values(everyone_since=doors.EVERYBODY, created_at=NOW))
        await queue(conn, "a")
    assert await seen() == {"due", "everyone", "asked", "touched"}
    async with engine.begin() as conn:
        await reevaluation.begin_asked(conn, NOW)
    async with engine.begin() as conn:
        await doors.take_due(conn, NOW, 5)
        assert await seen() == {"due", "everyone", "running", "touched"}


async def test_touched_rows_are_taken_once_urgent_first(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await queue(conn, "a", "b")
        await queue(conn, "z", urgent=True)
    async with engine.begin() as conn:
        first = await doors.take_touched(conn, 1)
        assert first.account_ids == ["z"] and first.urgent == {"z"}
    async with engine.begin() as conn:
        assert (await doors.take_touched(conn, 1)).account_ids == ["a"]
    async with engine.begin() as conn:
        assert (await doors.take_touched(conn, 5)).account_ids == ["b"]
    async with engine.begin() as conn:
        assert not (await doors.take_touched(conn, 5)).found


async def test_a_rollback_gives_the_queue_rows_back(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await queue(conn, "a")
    async with engine.connect() as conn:
        assert (await doors.take_touched(conn, 5)).found
        await conn.rollback()
    assert await queued(engine) == 1


async def test_a_touch_during_an_evaluation_is_not_lost(engine: AsyncEngine) -> None:
    """The trap: an evaluator that skipped a locked account would delete the queue row and never see the newer facts."""
    async with engine.begin() as conn:
        await add_account(conn, "a", version=1)
        await queue(conn, "a")
    seen: list[int] = []
    locked, may_finish = asyncio.Event(), asyncio.Event()

    async def evaluator(slow: bool) -> None:
        async with engine.begin() as conn:
            work = await doors.take_touched(conn, 10)
            await doors.lock_accounts(conn, work.account_ids, NOW)
            version = await conn.scalar(select(accounts.c.version).where(accounts.c.account_id == "a"))
            if slow:
                locked.set()
                await may_finish.wait()
            await conn.execute(update(health).where(health.c.account_id == "a").values(facts_version=version))
            seen.append(version or 0)

    slow = asyncio.create_task(evaluator(slow=True))
    await locked.wait()
    async with engine.begin() as conn:
        await conn.execute(update(accounts).values(version=2))
        await queue(conn, "a")
    second = asyncio.create_task(evaluator(slow=False))
    await asyncio.sleep(0.2)
    assert not second.done(), "it waits for the account, it does not skip it"
    may_finish.set()
    await asyncio.gather(slow, second)
    assert seen == [1, 2]
    async with engine.connect() as conn:
        assert await conn.scalar(select(health.c.facts_version)) == 2


async def test_concurrent_evaluators_over_overlapping_accounts_do_not_deadlock(engine: AsyncEngine) -> None:
    names = [f"account-{number:02}" for number in range(40)]
    rng = random.Random(7)
    async with engine.begin() as conn:
        for name in names:
            await add_account(conn, name)
        for _ in range(60):
            await queue(conn, *rng.sample(names, 15))

    async def evaluator() -> int:
        total = 0
        while True:
            async with engine.begin() as conn:
                work = await doors.take_touched(conn, 20)
                if not work.found:
                    return total
                await doors.lock_accounts(conn, work.account_ids, NOW)
                await conn.execute(
                    update(health).where(health.c.account_id.in_(work.account_ids)).values(evaluated_at=NOW, due_at=NOW)
                )
                total += len(work.account_ids)

    async def due_door() -> None:
        for _ in range(20):
            async with engine.begin() as conn:
                work = await doors.take_due(conn, NOW, 20)
                late = update(health).where(health.c.account_id.in_(work.account_ids))
                await conn.execute(late.values(due_at=NOW + timedelta(days=1)))
            await asyncio.sleep(0)

    totals = await asyncio.gather(*(evaluator() for _ in range(4)), due_door())
    assert sum(total or 0 for total in totals) > 0
    assert await queued(engine) == 0


async def test_due_accounts_are_skipped_while_locked_and_stay_due(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        rows = [{"account_id": name, "due_at": NOW - timedelta(seconds=place)} for place, name in enumerate("abc")]
        await conn.execute(insert(health), rows)
    async with engine.begin() as first:
        assert (await doors.take_due(first, NOW, 2)).account_ids == ["a", "c"]
        async with engine.begin() as second:
            assert (await doors.take_due(second, NOW, 9)).account_ids == ["b"]
    async with engine.begin() as conn:
        assert (await doors.take_due(conn, NOW, 9)).account_ids == ["a", "b", "c"]
        assert not (await doors.take_due(conn, NOW - timedelta(days=1), 9)).found


async def test_everyone_is_paged_and_markers_are_merged(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        for name in "abcde":
            await add_account(conn, name)
        await conn.execute(insert(health).values(account_id="c", facts_version=1))
        for minutes in (0, 1):
            await conn.execute(insert(touched).values(everyone_since=NOW - timedelta(minutes=minutes), created_at=NOW))
    pages = []
    for _ in range(4):
        async with engine.begin() as conn:
            work = await doors.take_everyone(conn, 2)
            if work.found:
                pages.append(work.account_ids)
    assert pages == [["a", "b"], ["d", "e"], []], "c is evaluated at its present facts already"
    assert await queued(engine) == 0


async def test_a_marker_that_comes_while_one_is_worked_off_is_kept(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        for name in "abc":
            await add_account(conn, name)
        await conn.execute(insert(touched).values(everyone_since=NOW, created_at=NOW))
    async with engine.begin() as conn:
        assert (await doors.take_everyone(conn, 2)).account_ids == ["a", "b"]
    async with engine.begin() as conn:
        await conn.execute(insert(touched).values(everyone_since=NOW, created_at=NOW))
    seen = []
    for _ in range(3):
        async with engine.begin() as conn:
            seen += (await doors.take_everyone(conn, 9)).account_ids
    assert seen == ["c", "a", "b", "c"]


async def test_what_comes_due_now_does_not_stand_behind_what_is_overdue(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        rows = [{"account_id": f"overdue-{n}", "due_at": NOW - timedelta(hours=1, seconds=n)} for n in range(9)]
        await conn.execute(insert(health), [*rows, {"account_id": "crossing", "due_at": NOW}])
    async with engine.begin() as conn:
        assert (await doors.take_due(conn, NOW, 4)).account_ids == ["crossing", "overdue-0", "overdue-7", "overdue-8"]
    async with engine.begin() as conn:
        assert len((await doors.take_due(conn, NOW, 100)).account_ids) == 10


async def test_coalescing_postpones_without_losing(engine: AsyncEngine) -> None:
    second = timedelta(seconds=1)
    work = Work(account_ids=["a", "b", "c"], urgent=frozenset("b"))
    evaluated = {
        name: Last(evaluated_at=NOW - seconds * second, round=0) for name, seconds in (("a", 1), ("b", 1), ("c", 9))
    }
    assert split_recent(work, evaluated, NOW, 5 * second) == (["b", "c"], ["a"])
    async with engine.begin() as conn:
        await conn.execute(insert(health), [{"account_id": "a", "due_at": NOW + 60 * second}])
        await doors.postpone(conn, ["a"], NOW + 5 * second, NOW - 2 * second)
        await doors.postpone(conn, ["a"], NOW + 30 * second, NOW)
        row = (await conn.execute(select(health))).one()
    assert (row.due_at, row.waiting_since) == (NOW + 5 * second, NOW - 2 * second)
