"""``kizashi forget``: erases an account or a user, for good."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from sqlalchemy.ext.asyncio import AsyncEngine

    from consumers.erasure.subjects import Subject
    from service.erasures import Eraser
    from service.settings import Settings

FAILED = 1
TITLES = {
    "facts": "facts erased, and kept from coming back",
    "alerts": "health, alerts and messages erased",
    "letters": "dead letters and waiting events erased",
    "settle": "what was under way has ended",
    "seen": "hashes of seen events erased",
    "archive": "archive rewritten",
}


def forget(
    account: Annotated[
        str | None, typer.Option("--account", help="The account; with --user: only there.", show_default=False)
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", help="The user's plain id, also where ids are hashed.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be erased; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase an account, or a user, from everything that is kept. It cannot be undone. The same command again goes on
    where a stopped one was."""
    from rich.console import Console

    from service.doctor.database import DATABASE_ERRORS, cause_of
    from service.settings import load

    if not account and not user:
        raise typer.BadParameter("name somebody: --account ID, --user ID, or both")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        asyncio.run(_run(load(), account, user, dry_run, yes, console))
    except DATABASE_ERRORS as error:
        problem = type(cause_of(error)).__name__
        console.print(f"The database cannot be used ({problem}); `kizashi doctor` says what to do.", style="red")
        console.print("What was begun goes on with the same command, or by itself while `kizashi serve` runs.")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        console.print("Stopped. What was begun goes on with the same command, or by itself while `kizashi serve` runs.")
        raise typer.Exit(130) from None


async def _run(
    settings: Settings, account: str | None, user: str | None, dry_run: bool, yes: bool, console: Console
) -> None:
    from service import erasures

    engine = erasures.make_patient_engine(settings, "forget")
    try:
        eraser = erasures.eraser(settings, engine)
        subject = eraser.named(account, user)
        with console.status("Counting …"):
            counts = await eraser.preview(subject)
        _print_counts(console, "Held now:", counts)
        if dry_run:
            console.print("Nothing was changed (--dry-run).")
            return
        what = f"user {user}" + (f" of account {account}" if account else "") if user else f"account {account}"
        if not yes and not typer.confirm(f"Erase {what} for good?", err=True):
            raise typer.Exit(FAILED)
        await _erase(engine, eraser, subject, console)
    finally:
        await engine.dispose()


async def _erase(engine: AsyncEngine, eraser: Eraser, subject: Subject, console: Console) -> None:
    from consumers.archive.files import ArchiveError
    from service import audit, erasures
    from service.clock import utc_now

    async with engine.begin() as conn:
        asked = await erasures.request(conn, subject, by=audit.COMMAND, now=utc_now())
    if asked.step is not None:
        console.print(f"Going on after: {TITLES[asked.step]}.")
    with console.status("Erasing …"):
        try:
            done = await eraser.run(
                asked.erasure_id, lambda step, _: console.print(f"  ✓ {TITLES[step]}", markup=False)
            )
        except erasures.Busy:
            console.print(f"A running service is at work on it: erasure {asked.erasure_id}.")
            return
        except ArchiveError as error:
            console.print(f"The archive: {error}. Run the same command again to go on.", style="red", markup=False)
            raise typer.Exit(FAILED) from None
    _print_counts(console, "Erased or cleaned:", done.counts)
    console.print(f"Done: erasure {done.erasure_id}, in the audit as {done.fingerprint}.")
    console.print("Kafka keeps its records until their retention ends; they are never applied again.")


def _print_counts(console: Console, title: str, counts: Mapping[str, int]) -> None:
    console.print(title)
    for name, count in counts.items():
        if count:
            console.print(f"  {name:<20} {count:>12,}")
    if not any(counts.values()):
        console.print("  nothing")
