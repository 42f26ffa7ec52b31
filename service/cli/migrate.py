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

    from service import db
    from service.settings import load

    settings = load()
    console = Console(stderr=True)
    with console.status("Migrating the database …"):
        db.migrate(settings.database_url.get_secret_value())
    console.print("The database is at the newest schema.")
    if topics:
        from consumers.broker import ensure_topics

        with console.status("Making the topics …"):
            asyncio.run(
                ensure_topics(
                    settings.kafka_bootstrap, dict.fromkeys(settings.events_topics, settings.events_partitions)
                )
            )
        console.print(f"Topics ready: {', '.join(settings.events_topics)}.")
