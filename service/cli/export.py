"""``kizashi export``: everything that is held on an account or a user, as one JSON document."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.settings import Settings


def export(
    account: Annotated[
        str | None, typer.Option("--account", help="The account; with --user: only there.", show_default=False)
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="The user's plain id, also where ids are hashed.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; by default standard output.", dir_okay=False)
    ] = None,
) -> None:
    """Write everything that is held on an account, or on a user, as one JSON document (docs/export.schema.json)."""
    from service.doctor.database import DATABASE_ERRORS, cause_of
    from service.settings import load

    if not account and not user:
        raise typer.BadParameter("name somebody: --account ID, --user ID, or both")
    settings = load()
    try:
        if output is None:
            count = asyncio.run(_export(settings, account, user, sys.stdout.buffer))
        else:
            with output.open("wb") as file:
                count = asyncio.run(_export(settings, account, user, file))
    except DATABASE_ERRORS as error:
        problem = type(cause_of(error)).__name__
        typer.echo(f"The database cannot be used ({problem}); `kizashi doctor` says what to do.", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{count:,} rows and events are held." if count else "Nothing is held.", err=True)


async def _export(settings: Settings, account: str | None, user: str | None, file: IO[bytes]) -> int:
    from service import audit, erasures
    from service.clock import utc_now
    from service.export import export as write

    engine = erasures.make_patient_engine(settings, "export")
    try:
        eraser = erasures.eraser(settings, engine)
        subject = eraser.named(account, user)
        async with engine.connect() as conn:
            await conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            count = await write(conn, subject, eraser.archive, file, utc_now())
        file.flush()
        async with engine.begin() as conn:
            await erasures.note_export(conn, subject, by=audit.COMMAND, count=count, now=utc_now())
        return count
    finally:
        await engine.dispose()
