"""What a parent was told of an account goes with the account: its id and the name beside it; so do users in it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.tables import episodes
from health.tables import health, score_history, touched, users
from tests import canary
from tests.integration.test_erasure import ACCOUNT, MAIL, NOW, USER, apply, eraser, event, forget, to_records

TITLE = "Canary Shop"
PARENT, ABOVE_IT, OTHER = "parent-1", "parent-2", "somebody-else"


async def family(engine: AsyncEngine, title: str) -> None:
    """ACCOUNT below PARENT below ABOVE_IT, who were both told that it is the worst; and one that has the same name."""
    told = f"2 of 3 accounts below are red. The worst is {title} ({ACCOUNT}), with a score of 12."
    worst = {"account_id": ACCOUNT, "name": title, "score": 12.0, "mrr": 5.0}
    rollup = {"children": 3, "red": 2, "worst": worst}
    reason = {"en": told, "ja": f"最も低いのは{title} ({ACCOUNT})です。"}
    line = {"measure": "worst-child", "value": 12, "reason": reason}
    rows: list[dict[str, Any]] = [
        {"account_id": ACCOUNT, "name": title, "parent_id": PARENT},
        {"account_id": PARENT, "name": title, "parent_id": ABOVE_IT, "rollup": rollup, "as_child": rollup},
        {"account_id": ABOVE_IT, "name": "Group", "rollup": rollup},
        {"account_id": OTHER, "name": title},
    ]
    async with engine.begin() as conn:
        for row in rows:
            await conn.execute(insert(health).values(signals={"worst_child": f"{title} ({ACCOUNT})"}, **row))
        await conn.execute(
            insert(score_history).values(account_id=PARENT, day=NOW.date(), scorecard="c", contributions=[line])
        )
        await conn.execute(
            insert(episodes).values(
                episode_id=uuid4(), rule_id="children-red", account_id=ABOVE_IT, state="open", severity="info",
                since=NOW, opened_at=NOW, rule_version="v", reason={"en": told}, contributions=[line], updated_at=NOW,
                signals={"worst_child": f"{title} ({ACCOUNT})"},
            )
        )  # fmt: skip
    await apply(engine, to_records([event(1, "login", account_id=ACCOUNT, user_id=USER)]))


async def test_an_erased_account_is_named_by_none_of_its_parents(engine: AsyncEngine) -> None:
    await family(engine, TITLE)
    async with engine.begin() as conn:
        await conn.execute(health.update().where(health.c.account_id == OTHER).values(signals={}))

    done = await forget(eraser(engine), ACCOUNT, None)

    assert await canary.places(engine, ACCOUNT) == set()
    assert await canary.places(engine, f"{TITLE} (") == set()
    async with engine.connect() as conn:
        rows = {row.account_id: row for row in await conn.execute(select(health))}
        (episode,) = (await conn.execute(select(episodes))).all()
        queue = (await conn.scalars(select(touched.c.account_ids))).all()
    assert rows.keys() == {PARENT, ABOVE_IT, OTHER}
    assert rows[PARENT].name == rows[OTHER].name == TITLE, "others may be called the same"
    assert rows[ABOVE_IT].rollup["worst"] == {"account_id": "(erased)", "name": "(erased)", "score": 12.0, "mrr": 5.0}
    assert episode.reason["en"] == "2 of 3 accounts below are red. The worst is (erased), with a score of 12."
    assert [PARENT, ABOVE_IT] in queue, "they are looked at again"
    assert done.counts["episodes"] == len(("reason", "signals", "contributions"))


async def test_nor_is_an_erased_user_by_whose_name_the_account_goes(engine: AsyncEngine) -> None:
    await family(engine, f"Shop of {MAIL}")
    await apply_identify(engine)

    await forget(eraser(engine), None, USER)

    left = await canary.places(engine, MAIL)
    async with engine.connect() as conn:
        names = {row.account_id: row.name for row in await conn.execute(select(health))}
    assert left == {"health.name", "health.signals"}
    assert names == {
        ACCOUNT: "Shop of (erased)", PARENT: "Shop of (erased)", ABOVE_IT: "Group", OTHER: f"Shop of {MAIL}",
    }  # fmt: skip


async def apply_identify(engine: AsyncEngine) -> None:
    """The user's traits give the address."""
    fields = {"email": {"v": MAIL, "t": 1, "k": "s:1"}}
    row = {"account_id": ACCOUNT, "user_id": USER, "fields": fields, "first_identified_at": NOW}
    async with engine.begin() as conn:
        await conn.execute(insert(users).values(row))
