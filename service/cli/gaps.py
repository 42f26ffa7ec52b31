"""``kizashi gaps``: time during which a source was not observed, and what became of its data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.running import instant, run_with_deps

if TYPE_CHECKING:
    from datetime import datetime

    from service.deps import Deps
    from service.gaps import Ended
    from service.queries.status import GapView

app = typer.Typer(help="See what was not observed; note it, end it, say what became of it.", no_args_is_help=True)

GapNumber = Annotated[int, typer.Argument(help="As `list` shows it.", min=1, max=2**63 - 1)]


@app.command(name="list")
def list_(
    state: Annotated[list[str] | None, typer.Option(help="open, refilled or lost; may be repeated.")] = None,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """The latest gaps, the newest first."""
    import msgspec
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from service.gaps import list_gaps

    wanted = tuple(state or ())
    if unknown := set(wanted) - {"open", "refilled", "lost"}:
        raise typer.BadParameter(f"{min(unknown)} is none of open, refilled, lost", param_hint="--state")
    items = run_with_deps(lambda deps: list_gaps(deps, states=wanted, source=source)).items
    if as_json:
        typer.echo(msgspec.json.encode(items))
        return
    table = Table("gap", "source", "from (UTC)", "until (UTC)", "state", "why", box=None, pad_edge=False)
    for gap in items:
        until = "goes on" if gap.until_at is None else f"{gap.until_at:%Y-%m-%d %H:%M}"
        cells = (str(gap.gap_id), gap.source or "every", f"{gap.from_at:%Y-%m-%d %H:%M}", until, gap.state, gap.reason)
        table.add_row(*map(Text, cells))
    Console(soft_wrap=True, highlight=False).print(table)


@app.command(name="open")
def open_(
    since: Annotated[str, typer.Option("--from", help="When it began: a time with offset, or so long ago (6h, 2d).")],
    reason: Annotated[str, typer.Option(help="Why; shown wherever the gap is.")],
    until: Annotated[str | None, typer.Option(help="When it ended; left out, it goes on.")] = None,
    source: Annotated[str | None, typer.Option(help="Left out: every source.")] = None,
) -> None:
    """Note time that was not observed, so that nobody is called silent for it.

    One that has ended counts as lost until you mark it refilled.
    """
    from service.audit import COMMAND
    from service.gaps import open_gap

    async def run(deps: Deps) -> GapView:
        now = deps.clock()
        from_at, until_at = instant(since, "--from", now), instant(until, "--until", now)
        assert from_at is not None
        return await open_gap(
            deps, source=source, from_at=from_at, until_at=until_at, reason=reason, actor=COMMAND, now=now
        )

    _say(run)


@app.command()
def close(
    gap: GapNumber,
    refilled: Annotated[bool, typer.Option("--refilled", help="Its data has come, or nothing was missing.")] = False,
    lost: Annotated[bool, typer.Option("--lost", help="Its data will never come.")] = False,
    until: Annotated[str | None, typer.Option(help="When it ended; left out, now.")] = None,
    retire: Annotated[
        bool, typer.Option("--retire", help="Its source sends no more under this name: it is not waited for.")
    ] = False,
) -> None:
    """End a gap that goes on. While its source stays silent, the guard opens another, unless that is retired."""
    from service.audit import COMMAND
    from service.gaps import close_gap

    if refilled == lost:
        raise typer.BadParameter("say what became of its data: one of --refilled and --lost")

    async def run(deps: Deps) -> GapView:
        now = deps.clock()
        until_at: datetime | None = instant(until, "--until", now)
        state: Ended = "refilled" if refilled else "lost"
        return await close_gap(deps, gap, state=state, until_at=until_at, retire=retire, actor=COMMAND, now=now)

    _say(run)


@app.command()
def mark_refilled(gap: GapNumber) -> None:
    """Say that the data of an ended gap has come after all, or that nothing was missing: a holiday."""
    _mark(gap, "refilled")


@app.command()
def mark_lost(gap: GapNumber) -> None:
    """Say that the data of an ended gap will never come."""
    _mark(gap, "lost")


def _mark(gap: int, state: Ended) -> None:
    from service.audit import COMMAND
    from service.gaps import mark_gap

    _say(lambda deps: mark_gap(deps, gap, state, actor=COMMAND, now=deps.clock()))


def _say(change: Callable[[Deps], Awaitable[GapView]]) -> None:
    from service.gaps import CannotChange, NoSuchGap

    try:
        made = run_with_deps(change)
    except (CannotChange, NoSuchGap) as error:
        typer.echo(f"Nothing was changed: {error}", err=True)
        raise typer.Exit(1) from None
    until = "goes on" if made.until_at is None else f"ended {made.until_at:%Y-%m-%d %H:%M} UTC"
    typer.echo(
        f"Gap {made.gap_id} ({made.source or 'every source'}): {made.state}, {until}. Everybody is looked at again."
    )
