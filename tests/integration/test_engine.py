"""The engine: what a statement was given never reaches an exception's words, nor so the log."""

from __future__ import annotations

import traceback

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

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
