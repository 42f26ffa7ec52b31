"""``kizashi partitions``: how far each is, and how a stopped one goes on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.running import run_with_deps

if TYPE_CHECKING:
    from service.deps import Deps
    from service.partitions import From

app = typer.Typer(help="See how far each partition is; let a stopped one go on.", no_args_is_help=True)

_PLACE = re.compile(r"([A-Za-z0-9._-]{1,249})\[(\d{1,9}|\*)\]")


@app.command(name="list")
def list_(
    stopped: Annotated[bool, typer.Option("--stopped", help="Only those that are stopped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Every partition with its offset, its lag, until when it is complete, and why it is stopped."""
    import msgspec
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from service.partitions import partitions

    found = run_with_deps(partitions)
    items = [item for item in found.items if item.stopped_reason is not None or not stopped]
    if as_json:
        typer.echo(msgspec.json.encode(items))
        return
    if found.broker is not None:
        typer.echo(f"The broker does not say how much is unread: {found.broker}", err=True)
    table = Table("partition", "next", "log", "lag", "complete through (UTC)", "stopped", box=None, pad_edge=False)
    for item in items:
        log = "?" if item.log_end is None else f"{item.log_start}–{item.log_end}"
        through = "" if item.complete_through is None else f"{item.complete_through:%Y-%m-%d %H:%M:%S}"
        cells = (f"{item.topic}[{item.partition}]", _number(item.next_offset), log, _number(item.lag), through,
                 item.stopped_reason or "")  # fmt: skip
        table.add_row(*map(Text, cells))
    Console(soft_wrap=True, highlight=False).print(table)


@app.command()
def release(
    partition: Annotated[
        str, typer.Argument(help="As `list` shows it: 'kizashi.events[7]'; [*]: every stopped one of the topic.")
    ],
    skip_to: Annotated[
        int | None, typer.Option(help="Go on at this offset; what lies before it is never read.", min=0, max=2**63 - 1)
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Go on at the start of the log that is there now.")
    ] = False,
) -> None:
    """Let a stopped partition go on: where it stands, or elsewhere in the log that is there now.

    The consumer that holds it goes on within seconds. What is skipped is noted as a gap, so that nobody is called
    silent for it.
    """
    from service.audit import COMMAND
    from service.partitions import CannotRelease, stopped_of
    from service.partitions import release as let_go

    place = _PLACE.fullmatch(partition)
    if place is None:
        raise typer.BadParameter("write it as the list shows it: 'kizashi.events[7]'")
    if from_start and skip_to is not None:
        raise typer.BadParameter("choose one of --skip-to and --from-start")
    if place[2] == "*" and skip_to is not None:
        raise typer.BadParameter("an offset is of one partition: name it")
    start_from: From = "start" if from_start else "here" if skip_to is None else skip_to

    async def run(deps: Deps) -> bool:
        all_well = True
        numbers = await stopped_of(deps, place[1]) if place[2] == "*" else [int(place[2])]
        for number in numbers:
            name = f"{place[1]}[{number}]"
            try:
                after = await let_go(deps, (place[1], number), start_from, actor=COMMAND, now=deps.clock())
            except CannotRelease as error:
                all_well = False
                typer.echo(f"{name} stays as it is: {error}", err=True)
            else:
                typer.echo(f"{name} goes on at offset {after.next_offset}{gap}.")
        if not numbers:
            typer.echo(f"No partition of {place[1]} is stopped.")
        return all_well

    gap = "" if start_from == "here" else "; the time since it was complete is noted as a gap"
    if not run_with_deps(run):
        raise typer.Exit(1)


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)
