"""``kizashi explain``: the score of an account as of now or of a past day, and under another scorecard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.cli.running import run_with_deps

if TYPE_CHECKING:
    from health.explaining import Explained, Scored
    from health.scorecards import Scorecards
    from service.cards import InForce
    from service.deps import Deps
    from service.explaining import Moment

T = TypeVar("T")

Account = Annotated[str, typer.Argument(help="The account's id, as its events name it.")]
DayOption = Annotated[str | None, typer.Option(help="A UTC day such as 2026-05-01; left out: as of now.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
SHOWN_LINES = 20


def explain(
    account: Account,
    day: DayOption = None,
    scorecard: Annotated[
        Path | None,
        typer.Option(help="Another card (a file), or all cards (a folder).", exists=True, readable=True),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Why an account has its score: as of now or of a past day, under the scorecards in force or another."""
    import msgspec

    async def run(deps: Deps, moment: Moment, in_force: InForce, other: Scorecards | None) -> Explained | None:
        from service.explaining import explain as look

        async with deps.reading() as conn:
            return await look(conn, account, moment, in_force, other=other, stream=deps.stream)

    found = asked(day, scorecard, run)
    if found is None:
        typer.echo(f"Nothing is known of an account {account!r}.", err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    show(found)


def asked(
    day: str | None,
    cards: Path | None,
    action: Callable[[Deps, Moment, InForce, Scorecards | None], Awaitable[T]],
) -> T:
    """Runs ``action`` with what was asked for; ends with a line when a card is bad or the day is none."""
    from health.yamlfile import FileError
    from service.cards import of_path, running

    async def run(deps: Deps) -> T:
        in_force = running(deps.settings.rules_dir)
        other = None if cards is None else of_path(cards, in_force.cards, in_force.custom)
        return await action(deps, _moment(day, deps), in_force, other)

    try:
        return run_with_deps(run)
    except FileError as error:
        for problem in error.problems:
            typer.echo(str(problem), err=True)
        raise typer.Exit(1) from None


def _moment(day: str | None, deps: Deps) -> Moment:
    from datetime import date

    from service.explaining import FIRST_DAY, DayToCome, Moment

    try:
        wanted = None if day is None else date.fromisoformat(day)
        if wanted is not None and wanted < FIRST_DAY:
            raise typer.BadParameter(f"no event is older than {FIRST_DAY}", param_hint="--day")
        return Moment.of(wanted, deps.clock())
    except DayToCome as error:
        raise typer.BadParameter(str(error), param_hint="--day") from None
    except ValueError:
        raise typer.BadParameter("write a date such as 2026-05-01", param_hint="--day") from None


def show(found: Explained) -> None:
    """For people: the score, its lines, what was recorded and why it differs."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    name = f"{found.name} ({found.account_id})" if found.name else found.account_id
    console.print(Text(f"{name}, end of {found.day} (UTC)" if _past(found) else f"{name}, now"), style="bold")
    console.print(Text(f"{_score(found.now)}  {found.now.scorecard}"))
    console.print(Text(found.now.explanation["en"]))
    table = Table("line", "points", box=None, pad_edge=False)
    for line in found.now.contributions:
        if line["contribution"] or line["points"] is None:
            table.add_row(Text(line["reason"]["en"]), f"{line['contribution']:+g}")
    if table.row_count:
        console.print(table)
    if found.recorded is not None:
        console.print(Text(f"Recorded that day: {_score(found.recorded)}  {found.recorded.scorecard}"))
    if found.by_recorded_card is not None:
        console.print(Text(f"By the card of then, facts known now: {_score(found.by_recorded_card)}"))
    for told in [*found.differences, *found.not_known]:
        console.print(Text(f"- {told.reason['en']}"))
    show_lines(console, found.lines[:SHOWN_LINES])


def show_lines(console: Any, lines: Any) -> None:
    """The lines that differ."""
    from rich.table import Table
    from rich.text import Text

    table = Table("line that differs", "before", "after", box=None, pad_edge=False)
    for line in lines:
        table.add_row(Text(line.reason["en"]), f"{line.before:+g}", f"{line.after:+g}")
    if table.row_count:
        console.print(table)


def _past(found: Explained) -> bool:
    return found.at.date() == found.day and (found.at.hour, found.at.minute, found.at.second) == (23, 59, 59)


def _score(scored: Scored) -> str:
    return "no score" if scored.score is None else f"{scored.score:g} {scored.band}"
