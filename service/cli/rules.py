"""``kizashi rules``: check rules, scorecards, routes, sources and webhooks before they go live."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check rules, scorecards and routes.", no_args_is_help=True)


@app.callback()
def rules() -> None:
    """Check rules, scorecards and routes."""


@app.command()
def check(
    directory: Annotated[
        Path | None,
        typer.Argument(help="Directory of the rules; by default KIZASHI_RULES_DIR.", exists=True, file_okay=False),
    ] = None,
) -> None:
    """Load everything, run the rules' own tests, print each problem as file:line:column. Exit 1 when there is one."""
    from alerts.rules import RulebookError, check_book, load
    from consumers import sources
    from consumers.webhooks import file as webhooks
    from health import custom, scorecards
    from health.catalogue import SIGNALS
    from health.yamlfile import FileError
    from service import settings

    folder = directory or settings.load().rules_dir
    problems: list[str] = []
    found = ""
    try:
        book = load(folder, SIGNALS)
        problems += [str(problem) for problem in check_book(book)]
        tests = sum(len(rule.tests) for rule in book.rules)
        found = f"{len(book.rules)} rules with {tests} tests (version {book.version[:12]})"
    except RulebookError as error:
        problems += [str(problem) for problem in error.problems]
    declared = custom.NONE
    with contextlib.suppress(FileError):  # told above, with the rules
        declared = custom.load(folder)
    for load_file in (
        lambda: scorecards.load(folder / "scorecards", declared),
        lambda: sources.load(folder / sources.FILE_NAME),
        lambda: webhooks.load(folder / webhooks.WEBHOOKS_FILE),
    ):
        try:
            load_file()
        except FileError as error:
            problems += [str(problem) for problem in error.problems]
    for problem in problems:
        typer.echo(problem)
    if problems:
        typer.echo(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {folder}.", err=True)
        raise typer.Exit(1)
    typer.echo(f"All is well: {found}, scorecards load.")
