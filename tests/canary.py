"""Looks for a text in every column of every table of a live database, and in every file of a folder."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

COLUMNS = text("""
SELECT c.table_schema AS place, c.table_name AS named, c.column_name AS part, c.data_type AS type
FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
WHERE t.table_type = 'BASE TABLE' AND c.table_schema NOT IN ('pg_catalog', 'information_schema')
    AND c.table_name <> 'alembic_version'
ORDER BY 1, 2, 3
""")

HOLDS = """coalesce(bool_or(EXISTS (
    SELECT FROM unnest(CAST(:needles AS text[])) n WHERE position(n IN lower(CAST({} AS text))) > 0)), false)"""


async def columns(engine: AsyncEngine, *types: str) -> set[str]:
    """`table.column` of these types."""
    async with engine.connect() as conn:
        return {f"{row.named}.{row.part}" for row in await conn.execute(COLUMNS) if row.type in types}


async def places(engine: AsyncEngine, *needles: str) -> set[str]:
    """Every `table.column` that holds one of the texts, in any case, also within bytes."""
    tables: dict[tuple[str, str], list[tuple[str, str]]] = {}
    found = set()
    async with engine.connect() as conn:
        for row in await conn.execute(COLUMNS):
            tables.setdefault((row.place, row.named), []).append((row.part, row.type))
        for (place, named), parts in tables.items():
            held = ", ".join(HOLDS.format(f"encode(\"{p}\", 'escape')" if t == "bytea" else f'"{p}"') for p, t in parts)
            query = text(f'SELECT {held} FROM "{place}"."{named}"')
            flags = (await conn.execute(query, {"needles": [needle.lower() for needle in needles]})).one()
            found |= {f"{named}.{part}" for (part, _), flag in zip(parts, flags, strict=True) if flag}
    return found


def files(folder: Path, needle: str) -> list[str]:
    """Files of an archive that hold the text: in their bytes, or unpacked."""
    found = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        held = needle.encode() in path.read_bytes()
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path).with_columns(pl.col(pl.Binary).cast(pl.String))
            held = held or any(needle in str(value) for row in frame.iter_rows() for value in row)
        if held:
            found.append(path.name)
    return found
