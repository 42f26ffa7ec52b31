"""``kizashi demo``: everything on this machine, with a sample company."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer


def demo(
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65_535, help="Port of the board.")] = 8000,
    folder: Annotated[
        Path, typer.Option(envvar="KIZASHI_DEMO_DIR", file_okay=False, help="Where the demo keeps its data.")
    ] = Path(".demo"),
    accounts: Annotated[int, typer.Option(min=30, max=700, help="Size of the sample company; counts when new.")] = 300,
    days: Annotated[int, typer.Option(min=30, max=400, help="Days of history; counts when new.")] = 180,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier demo left, and begin anew.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")] = False,
) -> None:
    """Run everything here with a sample company: database, broker, roles, board, and an inbox that shows the alerts."""
    from rich.console import Console

    from embedded.process import EmbeddedError
    from service.demo.stack import Options, run
    from service.demo.state import DemoError, Folder

    console = Console()
    try:
        if fresh and Folder(folder).is_used():
            if not yes:
                typer.confirm(f"Delete the demo's data in {folder.absolute()}?", abort=True)
            with Folder(folder) as old:
                old.wipe()
        options = Options(folder=folder, port=port, accounts=accounts, history_days=days, environment=dict(os.environ))
        status = asyncio.run(run(options, console))
    except (DemoError, EmbeddedError) as error:
        console.print(f"[red]✗[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    raise typer.Exit(status)
