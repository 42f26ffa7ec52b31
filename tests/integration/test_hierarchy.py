"""Parents with real connections: two evaluators at once, and what the API shows."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import datetime

from sqlalchemy import cast, func, insert, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts.evaluator import Evaluator
from health import past
from health.catalogue import SignalRef
from health.gaps import Observed
from health.rhythm import SHIPPED
from health.signals import compute
from health.tables import account_attributes, health, touched
from service import queries
from service.queries import RiskFilter
from service.queries.types import Stream
from tests.world import GROUP, TOPIC, World

STREAM = Stream(group=GROUP, topics=(TOPIC,))


async def family(world: World, parents: int = 2, children: int = 3) -> None:
    await world.events(
        *(
            {"kind": "group", "account_id": f"{p}-{c}",
             "traits": {"parent_account_id": f"p{p}", "mrr": 100 * (c + 1), "name": f"Child {c}", "currency": "USD"}}
            for p in range(parents)
            for c in range(children)
        )
    )  # fmt: skip


async def _move(conn: AsyncConnection, account_id: str, parent: str, now: datetime) -> None:
    """As a consumer would have stored it."""
    register = {"parent_account_id": {"v": parent, "t": int(now.timestamp() * 1_000_000) + 1, "k": "t:move"}}
    fields = account_attributes.c.fields.op("||")(cast(register, JSONB))
    await conn.execute(
        update(account_attributes).values(fields=fields).where(account_attributes.c.account_id == account_id)
    )
    await conn.execute(insert(touched).values(account_ids=[account_id], created_at=now))


async def test_two_evaluators_at_parents_and_children_never_wait_for_each_other_in_a_ring(engine: AsyncEngine) -> None:
    """Everybody is named in every order, in batches that hold a child without its parent and the other way round."""
    world = await World(engine).start()
    await family(world, 6, 6)
    names = [f"p{p}" for p in range(6)] + [f"{p}-{c}" for p in range(6) for c in range(6)]
    chance = random.Random(3)
    async with engine.begin() as conn:
        for number in range(40):
            some = sorted(chance.sample(names, 9))
            await conn.execute(insert(touched).values(account_ids=some, created_at=world.now))
            if number % 4 == 0:
                await _move(conn, chance.choice(names[6:]), f"p{chance.randrange(6)}", world.now)
    one = world.evaluator
    two = replace(one, batch=7)
    one.batch = 11

    async def work(evaluator: Evaluator) -> None:
        while await evaluator.step():
            pass

    await asyncio.wait_for(asyncio.gather(work(one), work(two)), 120)
    await world.evaluate()
    async with engine.connect() as conn:
        assert await conn.scalar(select(func.count()).select_from(touched)) == 0
        rows = (await conn.execute(select(health).where(health.c.account_id.like("p%")))).all()
        assert [row.problem for row in rows] == [None] * 6
        named = account_attributes.c.fields["parent_account_id"]["v"].astext
        counted = await conn.execute(select(named.label("parent"), func.count().label("children")).group_by(named))
        known = {row.parent: row.children for row in counted}
    assert {row.account_id: row.rollup["children"] for row in rows if row.rollup} == known
    assert sum(known.values()) == 36


async def test_the_api_shows_who_is_above_and_what_is_below(engine: AsyncEngine) -> None:
    world = await World(engine).start()
    await family(world, 1)
    async with engine.connect() as conn:
        parent = await queries.account(conn, "p0", world.now, stream=STREAM)
        child = await queries.account(conn, "0-2", world.now, stream=STREAM)
        below = await queries.children_of(conn, "p0")
        listed = await queries.risk_list(conn, RiskFilter(parent="p0"), "score", None, 10, world.now, stream=STREAM)
        nobody = await queries.risk_list(conn, RiskFilter(parent="0-2"), "score", None, 10, world.now, stream=STREAM)
    assert parent is not None and child is not None
    assert parent.parent is None and parent.rollup is not None and child.rollup is None
    assert (parent.rollup.children, parent.rollup.mrr, parent.rollup.currency) == (3, 600.0, "USD")
    assert child.parent is not None and (child.parent.account_id, child.parent.problem) == ("p0", None)
    assert {one.account_id for one in below} == {"0-0", "0-1", "0-2"} == {one.account_id for one in listed.items}
    assert [one.score for one in below] == sorted(one.score for one in below if one.score is not None)
    assert nobody.items == ()


async def test_a_past_day_knows_what_the_children_scored_then(engine: AsyncEngine) -> None:
    world = await World(engine).start()
    await family(world, 1, 1)
    async with engine.begin() as conn:
        then = await conn.scalar(select(health.c.score).where(health.c.account_id == "0-0"))
        day: datetime = world.now.replace(hour=23, minute=59, second=59, microsecond=999999)
        refs = [SignalRef("children_score"), SignalRef("worst_child")]
        known = await past.read(conn, ["p0"], at=day, refs=refs, fleet=SHIPPED)
    assert then is not None
    row = compute(known, [day], refs, Observed(day)).row(0)
    assert row == {"children_score": then, "worst_child": "Child 0 (0-0)"}
