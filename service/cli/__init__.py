"""The ``kizashi`` command. Each verb lives in a module of its own; heavy imports wait until a verb runs."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli import (
    backfill,
    dead_letters,
    demo,
    doctor,
    explain,
    export,
    forget,
    gaps,
    keys,
    migrate,
    partitions,
    replay,
    rules,
    serve,
    what_if,
)

app = typer.Typer(
    name="kizashi",
    help="Turns product events into explained churn-risk alerts.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals hold secrets
)
app.command()(serve.serve)
app.command()(migrate.migrate)
app.command()(demo.demo)
app.command()(backfill.backfill)
app.command()(doctor.doctor)
app.command()(replay.replay)
app.command()(forget.forget)
app.command()(export.export)
app.command()(explain.explain)
app.command()(what_if.what_if)
app.add_typer(keys.app, name="keys")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(partitions.app, name="partitions")
app.add_typer(gaps.app, name="gaps")
app.add_typer(rules.app, name="rules")


def _version(wanted: bool) -> None:
    if not wanted:
        return
    import tomllib
    from importlib.metadata import PackageNotFoundError, version

    from service.settings import PACKAGE_ROOT

    try:
        typer.echo(version("kizashi"))
    except PackageNotFoundError:  # run from its sources
        typer.echo(tomllib.loads((PACKAGE_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turns product events into explained churn-risk alerts."""
