"""Runs a command with the parts that the API is made of; a fault of database or broker ends it with a line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import typer

if TYPE_CHECKING:
    from service.deps import Deps

T = TypeVar("T")

_AGO: Final = re.compile(r"(\d{1,5})([dhm])")
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}


def run_with_deps(action: Callable[[Deps], Awaitable[T]]) -> T:
    """Closes them in the end, whatever happens."""
    from service.deps import build
    from service.doctor.database import DATABASE_ERRORS, cause_of
    from service.settings import load

    settings = load()

    async def run() -> T:
        deps = build(settings)
        try:
            return await action(deps)
        finally:
            await deps.close()

    try:
        return asyncio.run(run())
    except DATABASE_ERRORS as error:
        cause = cause_of(error)
        typer.echo(f"The database cannot be used ({type(cause).__name__}); `kizashi doctor` says what to do.", err=True)
        raise typer.Exit(1) from None


def instant(text: str | None, option: str, now: datetime) -> datetime | None:
    """A time with offset, or so long ago: 2h, 30m, 7d. Raises typer.BadParameter."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        problem = "write so long ago, such as 2h or 7d, or a time with offset: 2026-05-01T09:30:00Z"
        raise typer.BadParameter(problem, param_hint=option)
    return at
