"""A change with an effective day ahead is announced, not in force; it takes effect when its day comes, in any order."""

import random
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.events import Event, Group, Subscription
from health import facts as facts_door
from health.catalogue import SignalRef
from health.columns import Facts
from health.gaps import Observed
from health.instants import to_us
from health.signals import next_change
from tests.integration.test_facts_are_a_function_of_the_set import Feed

MAY, JUNE, JULY = (datetime(2026, month, 1, 9, tzinfo=UTC) for month in (5, 6, 7))
FIRST_OF_JULY = datetime(2026, 7, 1, tzinfo=UTC)


def change(at: datetime, what: Any, effective_on: date | None = None, **more: Any) -> Event:
    return Subscription(
        change=what, effective_on=effective_on, event_id=f"{what}-{at}", account_id="acme", timestamp=at, **more
    )


async def read(engine: AsyncEngine, now: datetime) -> Facts:
    async with engine.connect() as conn:
        return await facts_door.read(conn, ["other", "acme"], now=now, history=True)


async def apply(engine: AsyncEngine, events: list[Event]) -> None:
    feed = Feed(engine)
    await feed.open()
    await feed.apply_in_pieces(events, random.Random(1))


async def test_an_announced_end_ends_on_its_day_and_blocks_nothing_before(engine: AsyncEngine) -> None:
    events = [
        change(MAY, "started", plan="basic", mrr=100),
        change(MAY + timedelta(days=1), "ended", date(2026, 7, 1)),
        Group(event_id="g", account_id="acme", timestamp=JUNE, traits={"plan": "pro"}),
        change(MAY, "expanded", date(2026, 6, 15), mrr=300, renewal_on=date(2027, 7, 1)),
    ]
    await apply(engine, events)
    before = await read(engine, JUNE)
    assert (before.texts["status"][1], before.texts["plan"][1], before.numbers["mrr"][1]) == ("active", "pro", 100)
    due = next_change(before, JUNE, [SignalRef("plan")], Observed(JUNE))
    assert due[1] == np.datetime64("2026-06-15"), "whatever the rules name"
    assert before.known_from["status"][1] == to_us(MAY)
    middle = await read(engine, JUNE + timedelta(days=15))
    assert (middle.texts["status"][1], middle.numbers["mrr"][1]) == ("active", 300)
    due = next_change(middle, middle.now, [SignalRef("plan")], Observed(middle.now))
    assert due[1] == np.datetime64("2026-07-01")
    after = await read(engine, JULY)
    assert (after.texts["status"][1], after.texts["plan"][1], after.numbers["mrr"][1]) == ("ended", "pro", 300)
    assert after.renewal_at[1] == to_us(datetime(2027, 7, 1, tzinfo=UTC))
    assert after.known_from["status"][1] == to_us(FIRST_OF_JULY)
    assert np.isnat(next_change(after, JULY, [SignalRef("plan")], Observed(JULY))[1])


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_who_renewed_for_later_and_then_left_has_left(order: tuple[int, ...], engine: AsyncEngine) -> None:
    events = [
        change(MAY, "started"),
        change(JUNE, "renewed", date(2026, 7, 1)),
        change(JUNE + timedelta(days=1), "ended"),
    ]
    await apply(engine, [events[n] for n in order])
    found = [(await read(engine, at)).texts["status"][1] for at in (JUNE + timedelta(days=2), JULY)]
    assert found == ["ended", "ended"]


async def test_who_left_and_signed_again_for_later_comes_back_on_that_day(engine: AsyncEngine) -> None:
    await apply(engine, [change(MAY, "ended"), change(JUNE, "started", date(2026, 7, 1))])
    found = [(await read(engine, at)).texts["status"][1] for at in (JUNE, JULY)]
    assert found == ["ended", "active"]
