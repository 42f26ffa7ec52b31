"""What the evaluator keeps of its reasons, for readers of another language than the reason's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from alerts.tables import episodes, transitions
from tests.world import RULES, World

RULE = "no-login"


async def kept(engine: AsyncEngine) -> list[dict[str, Any]]:
    """Data of the rule's transitions, oldest first."""
    joined = transitions.join(episodes, episodes.c.episode_id == transitions.c.episode_id)
    query = select(transitions.c.data).select_from(joined).where(episodes.c.rule_id == RULE)
    async with engine.connect() as conn:
        return list((await conn.execute(query.order_by(transitions.c.transition_id))).scalars())


async def test_signals_behind_and_the_account_that_ended(engine: AsyncEngine) -> None:
    world = await World(engine).start()
    await world.event("login", user_id="u")
    await world.until(14.5)
    await world.event("subscription", change="ended")
    opened, closed = await kept(engine)
    assert opened["signals"] == {"days_since_login": 14}
    assert closed == {"code": "account_gone", "status": "ended"}


async def test_the_rule_that_is_gone(engine: AsyncEngine, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    shutil.copytree(RULES, rules)
    world = await World(engine, rules).start()
    await world.event("login", user_id="u")
    await world.until(14.5)
    pack = rules / "churn.yaml"
    pack.write_text(pack.read_text().replace("  - id: no-login\n", "  - id: no-login\n    enabled: false\n"))
    await world.until(14.6)
    assert (await kept(engine))[-1] == {"code": "rule_gone"}
