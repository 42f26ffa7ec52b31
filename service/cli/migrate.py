"""``kizashi migrate``: the schema and the topics."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def migrate(
    topics: Annotated[bool, typer.Option(help="Also make the topics that do not exist yet.")] = True,
) -> None:
    """Bring the database to the newest schema, and make the topics. Harmless when repeated."""
    from rich.console import Console

    from consumers.broker import BrokerError, ensure_topics
    from service import db
    from service.doctor import database
    from service.settings import load

    settings = load()
    console = Console(stderr=True)
    try:
        with console.status("Migrating the database …"):
            db.migrate(settings.database_url.get_secret_value())
    except database.DATABASE_ERRORS as error:
        found = database.unreachable(settings, error)
        typer.echo(f"Nothing was migrated: {found.what}. What to do: {found.remedy}.", err=True)
        raise typer.Exit(1) from None
    console.print("The database is at the newest schema.")
    if not topics:
        return
    wanted = dict.fromkeys(settings.events_topics, settings.events_partitions)
    try:
        with console.status("Making the topics …"):
            asyncio.run(ensure_topics(settings.kafka_bootstrap, wanted))
    except BrokerError as error:
        typer.echo(f"The topics could not be made: {error}; `kizashi doctor` says what to do.", err=True)
        raise typer.Exit(1) from None
    console.print(f"Topics ready: {', '.join(settings.events_topics)}.")
