"""The migrations make exactly the schema that the tables declare, and can be taken back."""

from __future__ import annotations

import asyncio

import pytest
from alembic import command
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from health.source_bits import ANY, source_bit
from health.tables import accounts
from service.db import alembic_config, make_engine, migrate
from tests.integration.test_erasure import apply, event, to_records


async def test_the_migrations_and_the_tables_agree(database: str) -> None:
    await asyncio.to_thread(command.check, alembic_config(database))


async def test_there_and_back(empty_database: str) -> None:
    await asyncio.to_thread(migrate, empty_database)
    await asyncio.to_thread(command.downgrade, alembic_config(empty_database), "base")
    engine = make_engine(empty_database)
    async with engine.connect() as conn:
        left = await conn.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        functions = await conn.scalar(text("SELECT count(*) FROM pg_proc WHERE proname LIKE 'kizashi%'"))
    await engine.dispose()
    assert (left, functions) == (1, 0), "alembic's own table is all that stays"
    await asyncio.to_thread(migrate, empty_database)


AT_0002 = (
    """INSERT INTO accounts (account_id, first_event_at, last_event_at, events, logins, version, changed_at)
       VALUES ('acme', '2026-01-01Z', '2026-04-01Z', 7, 3, 5, '2026-04-01Z')""",
    """INSERT INTO account_attributes VALUES ('acme', '{"mrr": {"v": 900, "t": 1, "k": "crm:1"}}')""",
    """INSERT INTO sources VALUES ('web', '2026-01-01Z', '2026-04-01Z', '2026-04-01Z')""",
    """INSERT INTO gaps (source, from_at, until_at, state, reason, noticed_at)
       VALUES ('web', '2026-02-01Z', '2026-02-02Z', 'lost', 'fell silent', '2026-02-01Z')""",
    """INSERT INTO health (account_id, score, band) VALUES ('acme', 71.5, 'green')""",
    """INSERT INTO score_history (account_id, day, score, scorecard) VALUES ('acme', '2026-04-01', 71.5, 'card@1')""",
    """INSERT INTO episodes (episode_id, rule_id, account_id, state, severity, since, opened_at, rule_version, reason,
           signals, contributions, updated_at)
       VALUES (gen_random_uuid(), 'r', 'acme', 'open', 'info', '2026-03-01Z', '2026-03-01Z', 'v', '{}', '{}', '[]',
           '2026-03-01Z')""",
)
"""What a release of the schema 0002 has stored, of every kind."""


async def test_an_upgrade_keeps_what_is_stored_and_knows_of_no_account_where_its_events_came_from(
    empty_database: str,
) -> None:
    config = alembic_config(empty_database)
    await asyncio.to_thread(command.upgrade, config, "0002")
    engine = make_engine(empty_database)
    async with engine.begin() as conn:
        for statement in AT_0002:
            await conn.execute(text(statement))
    before = await _counted(engine)
    assert set(before.values()) == {0, 1}

    await asyncio.to_thread(migrate, empty_database)
    assert {name: count for name, count in (await _counted(engine)).items() if name in before} == before
    await apply(
        engine, to_records([event(1, "login", source="app"), event(2, "login", account_id="new", source="app")])
    )
    assert await _sources(engine) == {"acme": ANY, "new": source_bit("app")}, "any source may have told us of acme"

    await asyncio.to_thread(command.downgrade, config, "0002")
    after = await _counted(engine)
    assert after.keys() == before.keys()
    assert all(after[name] >= count for name, count in before.items())
    await asyncio.to_thread(migrate, empty_database)
    assert await _sources(engine) == {"acme": ANY, "new": ANY}
    await engine.dispose()


async def _counted(engine: AsyncEngine) -> dict[str, int]:
    """How many rows each table has, but for alembic's."""
    async with engine.connect() as conn:
        names = await conn.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        return {
            name: int(await conn.scalar(text(f'SELECT count(*) FROM "{name}"')) or 0)
            for name in sorted(names)
            if name != "alembic_version"
        }


async def _sources(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as conn:
        return {row.account_id: row.sources for row in await conn.execute(select(accounts))}


async def test_the_hot_account_row_has_no_index_beside_its_key(engine: AsyncEngine) -> None:
    async with engine.connect() as conn:
        names = (await conn.scalars(text("SELECT indexname FROM pg_indexes WHERE tablename = 'accounts'"))).all()
    assert names == ["pk_accounts"]


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(30)", "SELECT 1 FROM pg_sleep(30)"])
async def test_no_statement_waits_for_ever(database: str, statement: str) -> None:
    engine = make_engine(database, timeout_seconds=0.5)
    with pytest.raises((DBAPIError, TimeoutError)):
        async with engine.connect() as conn:
            await conn.execute(text(statement))
    await engine.dispose()
