"""The ``kizashi`` command. Each verb lives in a module of its own; heavy imports wait until a verb runs."""

from __future__ import annotations

import typer

from service.cli import migrate, serve

app = typer.Typer(
    name="kizashi",
    help="Turns product events into explained churn-risk alerts.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals hold secrets
)
app.command()(serve.serve)
app.command()(migrate.migrate)
