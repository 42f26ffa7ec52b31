"""``kizashi keys``: make, list and revoke the keys of the API and the board."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")

app = typer.Typer(help="Make, list and revoke keys of the API and the board.", no_args_is_help=True)
_LIFE = re.compile(r"(\d{1,5})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


class ScopeName(StrEnum):
    ingest = "ingest"
    read = "read"
    write = "write"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; the default `source` of the events it sends.")],
    scope: Annotated[
        list[ScopeName],
        typer.Option("--scope", help="May be given several times: ingest (send events), read, write (act, configure)."),
    ],
    expires: Annotated[
        str | None, typer.Option(help="After this long it stops working: 90d, 12h. Default: never.")
    ] = None,
) -> None:
    """Make a key. It is printed once, on standard output, and stored nowhere but as a hash."""
    from service import audit, auth
    from service.clock import utc_now

    now = utc_now()
    expires_at = None if expires is None else now + _life(expires)

    async def make(conn: AsyncConnection) -> tuple[str, auth.Key]:
        made = await auth.create(conn, name=name, scopes=[s.value for s in scope], expires_at=expires_at, now=now)
        await audit.key_created(conn, made[1], actor=audit.COMMAND, now=now)
        return made

    try:
        presented, key = _run(make)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(presented)
    until = f", until {_shown(key.expires_at)}" if key.expires_at else ""
    typer.echo(f"Key {key.key_id} ({', '.join(key.scopes)}{until}). Keep it now: it is not shown again.", err=True)


@app.command(name="list")
def list_() -> None:
    """All keys without their secrets, newest first."""
    from rich.console import Console
    from rich.table import Table

    from service import auth
    from service.clock import utc_now

    now = utc_now()
    table = Table("key id", "name", "scopes", "state", "created", "expires", "last used", box=None, pad_edge=False)
    for key in _run(auth.list_keys):
        state = "live" if key.live(now) else "revoked" if key.revoked_at else "expired"
        table.add_row(key.key_id, key.name, " ".join(key.scopes), state, _shown(key.created_at), _shown(key.expires_at),
                      _shown(key.last_used_at))  # fmt: skip
    Console(soft_wrap=True).print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The key's id, as `kizashi keys list` shows it.")]) -> None:
    """Make a key useless for ever; running services notice within seconds."""
    from service import audit, auth
    from service.clock import utc_now

    async def end(conn: AsyncConnection) -> bool:
        now = utc_now()
        found = await auth.revoke(conn, key_id, now)
        if found:
            await audit.key_revoked(conn, key_id, actor=audit.COMMAND, now=now)
        return found

    if not _run(end):
        typer.echo(f"There is no key {key_id}; `kizashi keys list` shows all.", err=True)
        raise typer.Exit(1)
    typer.echo(f"Key {key_id} is revoked.", err=True)


def _run(action: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """In one transaction; a database that cannot be used ends the command with a line."""
    from service.db import make_engine
    from service.doctor.database import DATABASE_ERRORS, cause_of
    from service.settings import load

    settings = load()

    async def run() -> T:
        engine = make_engine(settings.database_url.get_secret_value(), pool_size=1, application_name="kizashi-keys",
                             timeout_seconds=settings.database_timeout_seconds)  # fmt: skip
        try:
            async with engine.begin() as conn:
                return await action(conn)
        finally:
            await engine.dispose()

    try:
        return asyncio.run(run())
    except DATABASE_ERRORS as error:
        cause = cause_of(error)
        typer.echo(f"The database cannot be used ({type(cause).__name__}); `kizashi doctor` says what to do.", err=True)
        raise typer.Exit(1) from None


def _life(text: str) -> timedelta:
    match = _LIFE.fullmatch(text)
    if match is None:
        raise typer.BadParameter("write a number with d, h or m: 90d", param_hint="--expires")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _shown(at: datetime | None) -> str:
    return "" if at is None else at.strftime("%Y-%m-%d %H:%M")
