"""The engine: what a statement was given never reaches an exception's words, nor so the log."""

from __future__ import annotations

import traceback

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from health import driver
from service.db import make_engine

SECRET = "hush@customer.example"


@pytest.mark.parametrize(
    ("statement", "about"),
    [
        ("SELECT CAST(:given AS text) FROM nowhere", 'relation "nowhere" does not exist'),
        ("INSERT INTO notes VALUES (:given), (:given)", 'violates unique constraint "notes_pkey"'),
        ("INSERT INTO notes VALUES (NULL), (:given)", "violates not-null constraint"),
        (f"SELECT {', '.join(f'CAST(:a{n} AS text)' for n in range(11))}, CAST(:given AS int)", "argument $12"),
        ("SELECT CAST(:given AS int)", "invalid input for query argument $1"),
    ],
)
async def test_a_failing_statement_says_what_is_wrong_but_not_with_which_values(
    engine: AsyncEngine, statement: str, about: str
) -> None:
    async with engine.connect() as conn:
        await conn.execute(text("CREATE TEMPORARY TABLE notes (note text PRIMARY KEY)"))
        with pytest.raises(DBAPIError) as failed:
            await conn.execute(text(statement), {"given": SECRET} | {f"a{n}": SECRET for n in range(11)})
    told = "".join(traceback.format_exception(failed.value))
    assert about in told
    assert SECRET not in told


@pytest.mark.parametrize(
    ("statement", "values", "about"),
    [
        ("INSERT INTO notes VALUES ($1), ($1)", [SECRET], 'violates unique constraint "notes_pkey"'),
        ("SELECT CAST($1 AS int)", [SECRET], "invalid input for query argument $1"),
        ("SELECT $1", [SECRET, SECRET], "the server expects 1 argument"),
    ],
)
async def test_nor_one_that_goes_straight_to_the_driver(
    engine: AsyncEngine, statement: str, values: list[str], about: str
) -> None:
    async with engine.connect() as conn:
        await driver.execute(conn, "CREATE TEMPORARY TABLE notes (note text PRIMARY KEY)")
        with pytest.raises(DBAPIError) as failed:
            await driver.fetch(conn, statement, *values)
    told = "".join(traceback.format_exception(failed.value))
    assert about in told
    assert SECRET not in told
    assert not failed.value.connection_invalidated


async def test_what_goes_straight_to_the_driver_is_part_of_the_transaction(engine: AsyncEngine) -> None:
    async def count(conn: AsyncConnection) -> int:
        return int((await driver.fetchrow(conn, "SELECT count(*) AS n FROM kept_notes"))["n"])

    async with engine.begin() as conn:
        await driver.execute(conn, "CREATE TABLE kept_notes (note text)")
    async with engine.connect() as conn, conn.begin() as transaction:
        await driver.execute(conn, "INSERT INTO kept_notes VALUES ($1)", "first of its transaction")
        assert await count(conn) == 1
        await transaction.rollback()
    async with engine.connect() as conn:
        assert await count(conn) == 0
        await driver.execute(conn, "DROP TABLE kept_notes")


async def test_a_connection_that_is_lost_is_told_as_such(engine: AsyncEngine) -> None:
    pids: list[int] = []

    async def lose(other: AsyncConnection) -> None:
        async with engine.connect() as conn, conn.begin():
            pids.append((await driver.fetchrow(conn, "SELECT pg_backend_pid() AS pid"))["pid"])
            await driver.execute(other, "SELECT pg_terminate_backend($1)", pids[0])
            await driver.fetch(conn, "SELECT pg_sleep(10)")

    async with engine.connect() as other:
        with pytest.raises(DBAPIError) as failed:
            await lose(other)
    assert failed.value.connection_invalidated
    async with engine.connect() as conn:  # a new one
        assert (await driver.fetchrow(conn, "SELECT pg_backend_pid() AS pid"))["pid"] != pids[0]


async def test_after_a_restart_of_the_server_one_statement_fails_not_one_of_each_connection(
    engine: AsyncEngine, database: str
) -> None:
    connections = [await engine.connect() for _ in range(3)]
    for conn in connections:
        await conn.execute(text("SELECT 1"))
    for conn in connections:
        await conn.close()
    other = make_engine(database)
    async with other.connect() as conn:
        await driver.execute(
            conn,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
    await other.dispose()
    failed = 0
    for _ in range(6):
        try:
            async with engine.connect() as conn:
                await driver.fetchrow(conn, "SELECT 1", begin=False)
        except DBAPIError:
            failed += 1
    assert failed == 1
