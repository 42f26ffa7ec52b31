"""The migrations make exactly the schema that the tables declare, and can be taken back."""

from __future__ import annotations

import asyncio

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.db import alembic_config, make_engine, migrate


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
