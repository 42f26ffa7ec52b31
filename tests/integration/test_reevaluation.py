"""Rounds: everybody once, newest risk first, at a bounded rate, over restarts, several evaluators and newer rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import reevaluation
from alerts.doors import EVERYBODY
from alerts.reevaluation import Page, Reevaluation, Round, Walk, charged, may_go_on
from alerts.tables import episodes
from health.tables import accounts, health, reevaluations, touched

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
SECOND = timedelta(seconds=1)


async def add(conn: AsyncConnection, names: Sequence[str], **of_health: object) -> None:
    await conn.execute(insert(accounts), [{"account_id": name, "version": 1, "changed_at": NOW} for name in names])
    await conn.execute(insert(health), [{"account_id": name, "evaluated_at": NOW, **of_health} for name in names])


async def alert(conn: AsyncConnection, account_id: str, opened_at: datetime, state: str = "open") -> None:
    await conn.execute(
        insert(episodes).values(
            episode_id=uuid4(), rule_id=f"rule-{uuid4()}", account_id=account_id, state=state, severity="info",
            since=opened_at, opened_at=opened_at, rule_version="v", reason={}, signals={}, updated_at=NOW,
        )
    )  # fmt: skip


async def evaluated(conn: AsyncConnection, account_ids: Sequence[str], number: int) -> None:
    await conn.execute(update(health).where(health.c.account_id.in_(account_ids)).values(round=number))


async def pages(engine: AsyncEngine, number: int, most: int, walk: Walk | None = None) -> tuple[list[list[str]], Walk]:
    """What is handed out until the walk has come round, each page evaluated; and where the walk stands then."""
    walk = (walk or Walk()).of(number)
    found = []
    while True:
        async with engine.begin() as conn:
            page = await reevaluation.take(conn, walk, most)
            await evaluated(conn, page.account_ids, number)
        walk = page.walk
        found.append(page.account_ids)
        if page.finished:
            return found, walk


async def begun(engine: AsyncEngine, now: datetime = NOW) -> int:
    async with engine.begin() as conn:
        return await reevaluation.begin(conn, "rules", now)


async def test_newest_risk_first_then_everybody_once(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await add(conn, [f"calm-{n:02}" for n in range(20)], mrr_at_risk=0)
        for n in range(6):
            await add(conn, [f"risk-{n}"], mrr_at_risk=100 * n + 100)
        await add(conn, ["new-alert", "old-alert", "past-alert"])
        await alert(conn, "old-alert", NOW - timedelta(days=9))
        await alert(conn, "new-alert", NOW - timedelta(hours=1))
        await alert(conn, "risk-0", NOW - timedelta(days=1))
        await alert(conn, "past-alert", NOW, state="resolved")
    number = await begun(engine)
    found, _ = await pages(engine, number, 2)
    assert found[:2] == [["new-alert", "risk-0"], ["old-alert"]]
    assert found[2] == ["risk-4", "risk-5"], "the greatest amounts"
    assert found[3] == ["calm-00", "calm-01"], "every fourth page is of the circle"
    everybody = [name for page in found for name in page]
    assert len(everybody) == len(set(everybody)) == 29


async def test_who_is_up_to_date_is_not_done_again_after_a_restart(engine: AsyncEngine) -> None:
    names = [f"account-{n:02}" for n in range(12)]
    async with engine.begin() as conn:
        await add(conn, names)
    number = await begun(engine)
    async with engine.begin() as conn:
        await evaluated(conn, names[3:7], number)  # through another door, or by a process that has ended since
    found, _ = await pages(engine, number, 5)
    assert sorted(name for page in found for name in page) == names[:3] + names[7:]


async def test_rounds_in_quick_succession_leave_nobody_out(engine: AsyncEngine) -> None:
    """Each new round comes after a few pages; were its circle to begin anew, the last ids would never be reached."""
    names = [f"account-{n:02}" for n in range(30)]
    async with engine.begin() as conn:
        await add(conn, names, mrr_at_risk=10)
    walk, seen = Walk(), set()
    for _ in range(15):
        number = await begun(engine)
        walk = walk.of(number)
        for _ in range(4):
            async with engine.begin() as conn:
                page = await reevaluation.take(conn, walk, 2)
                await evaluated(conn, page.account_ids, number)
            walk = page.walk
            seen.update(page.account_ids)
    assert seen == set(names)


async def test_a_circle_that_began_amid_the_ids_comes_round_to_where_it_began(engine: AsyncEngine) -> None:
    names = [f"account-{n:02}" for n in range(10)]
    async with engine.begin() as conn:
        await add(conn, names)
    first = await begun(engine)
    walk = Walk(after="account-04").of(first)
    found, walk = await pages(engine, first, 3, walk)
    in_order = [name for page in found for name in page]
    assert in_order == names[5:] + names[:5]
    found, _ = await pages(engine, await begun(engine), 4, walk)
    assert sorted(name for page in found for name in page) == names


async def test_a_newer_round_takes_the_place_of_one_that_goes_on(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await add(conn, ["a", "b"])
        first = await reevaluation.begin(conn, "rules", NOW)
        await conn.execute(insert(touched), [{"everyone_since": EVERYBODY, "created_at": NOW}] * 2)
        await reevaluation.begin_asked(conn, NOW + SECOND)
        await reevaluation.begin_asked(conn, NOW + SECOND)
        rows = (await conn.execute(select(reevaluations).order_by(reevaluations.c.round))).all()
        current = await reevaluation.running(conn)
    assert [(row.why, row.state, row.accounts) for row in rows] == [("rules", "replaced", 2), ("asked", "running", 2)]
    assert current is not None and current.number == first + 1


async def test_what_other_doors_did_counts_and_the_end_is_noted(engine: AsyncEngine) -> None:
    async with engine.begin() as conn:
        await add(conn, ["a", "b", "c"])
    number = await begun(engine)
    part = Reevaluation(rate=1000.0, caught_up=1)

    async def due(paced: bool = True, now: datetime = NOW) -> Round | None:
        async with engine.begin() as conn:
            return await part.due(conn, now, paced=paced, crowded=False)

    current = await due()
    assert current is not None and (current.number, current.left) == (number, 3)
    page = Page(account_ids=["a"], walk=Walk(round=number))
    async with engine.begin() as conn:
        await part.settle(conn, current, page, 1, NOW)
    part.settled(current, page, 1, NOW)
    assert part.caught_up == 0
    current = await due()
    assert current is not None and (current.done, current.left) == (2, 1)
    last = Page(account_ids=["c"], walk=Walk(round=number), finished=True)
    async with engine.begin() as conn:
        await part.settle(conn, current, last, 1, NOW)
    assert await due() is None
    async with engine.connect() as conn:
        row = (await conn.execute(select(reevaluations))).one()
    assert (row.state, row.done, row.ended_at) == ("done", 3, NOW)


async def test_two_evaluators_share_a_round_and_nobody_is_left_out(engine: AsyncEngine) -> None:
    names = [f"account-{n:03}" for n in range(120)]
    async with engine.begin() as conn:
        await add(conn, names)
    number = await begun(engine)
    both = await asyncio.gather(pages(engine, number, 7), pages(engine, number, 5))
    assert {name for found, _ in both for page in found for name in page} == set(names)


@pytest.mark.parametrize(
    ("ahead", "last_page", "crowded", "expected"),
    [
        (0.0, None, False, True),
        (1.0, None, False, True),
        (1.1, None, False, False),
        (0.0, 1.0, True, False),
        (0.0, 2.0, True, True),
        (0.0, 0.1, False, True),
        (7200.0, None, False, True),  # the clock was set back by two hours
    ],
)
def test_a_page_comes_by_the_rate_and_gives_way_to_a_crowd(
    ahead: float, last_page: float | None, crowded: bool, expected: bool
) -> None:
    last = None if last_page is None else NOW - last_page * SECOND
    assert may_go_on(NOW + ahead * SECOND, last, NOW, crowded=crowded) is expected


def test_a_pause_saves_up_a_second_of_the_rate_and_no_more() -> None:
    assert charged(NOW, 500, 1000.0, NOW) == NOW + SECOND / 2
    assert charged(NOW - 60 * SECOND, 500, 1000.0, NOW) == NOW - SECOND / 2
    assert charged(NOW + timedelta(hours=2), 500, 1000.0, NOW) == NOW - SECOND / 2
