"""``kizashi what-if``: which accounts would change band under other scorecards, with their MRR."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.explain import AsJson, DayOption, asked, show_lines

if TYPE_CHECKING:
    from health.explaining import Explained
    from health.scorecards import Scorecards
    from health.what_if import BandChange, Tally
    from service.cards import InForce
    from service.deps import Deps
    from service.explaining import Moment
    from service.what_if import Question

PAGE = 1000


@dataclass(kw_only=True)
class Answer:
    """``kept``: as many of the changes as are listed, those with the most MRR."""

    question: Question
    tally: Tally
    kept: list[BandChange] = field(default_factory=list)


def what_if(
    scorecards: Annotated[
        Path,
        typer.Option(
            help="A card (a file: it takes the place of the one of its name), or all cards (a folder).",
            exists=True,
            readable=True,
        ),
    ],
    account: Annotated[str | None, typer.Option(help="Only this account, with the lines that differ.")] = None,
    day: DayOption = None,
    limit: Annotated[int, typer.Option(help="How many changes are listed.", min=1, max=100_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """Which accounts would change band under other scorecards: nothing is changed, nothing locked."""
    if account is not None:
        _one(account, scorecards, day, as_json=as_json)
        return
    import msgspec

    async def run(deps: Deps, moment: Moment, in_force: InForce, other: Scorecards | None) -> Answer:
        from service.what_if import Question

        assert other is not None
        question = Question(before=in_force.cards, after=other, in_force=in_force, moment=moment, stream=deps.stream)
        return await _everybody(deps, question, limit)

    found = asked(day, scorecards, run)
    if as_json:
        typer.echo(msgspec.json.encode(_plain(found)))
        return
    _show(found)


async def _everybody(deps: Deps, question: Question, limit: int) -> Answer:
    """In pages; of the changes only those that will be listed are kept."""
    from rich.console import Console
    from rich.progress import Progress

    from health.what_if import Tally
    from service.what_if import by_money, count_accounts, part

    answer, after = Answer(question=question, tally=Tally()), None
    async with deps.reading() as conn:
        total = await count_accounts(conn)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("accounts", total=total)
        while True:
            async with deps.reading() as conn:
                found = await part(conn, question, after, PAGE)
            answer.tally.add(found.tally)
            answer.kept = heapq.nsmallest(limit, [*answer.kept, *found.changes], key=by_money)
            progress.advance(task, PAGE)
            after = found.last
            if after is None:
                return answer


def _plain(found: Answer) -> dict[str, Any]:
    return {
        "at": found.question.moment.at,
        "before": found.question.before.name,
        "after": found.question.after.name,
        "looked_at": found.tally.looked_at,
        "changed": found.tally.changed,
        "become_unknown": found.tally.become_unknown,
        "totals": found.tally.totals(),
        "items": found.kept,
    }


def _show(found: Answer) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from health.what_if import UNKNOWN

    console, tally = Console(soft_wrap=True, highlight=False), found.tally
    console.print(Text(f"{tally.changed} of {tally.looked_at} accounts would change band."), style="bold")
    if tally.become_unknown:
        console.print(Text(f"{tally.become_unknown} of them would have no score."))
    sums = Table("from", "to", "accounts", "MRR", box=None, pad_edge=False)
    for total in tally.totals():
        if total.band_before != total.band_after:
            money = _money(total.mrr, total.currency)
            sums.add_row(total.band_before or UNKNOWN, total.band_after or UNKNOWN, f"{total.accounts}", money)
    if sums.row_count:
        console.print(sums)
    table = Table("account", "MRR", "before", "after", "mostly by", box=None, pad_edge=False)
    for change in found.kept:
        table.add_row(
            Text(f"{change.name} ({change.account_id})" if change.name else change.account_id),
            _money(change.mrr, change.currency),
            _side(change.score_before, change.band_before),
            _side(change.score_after, change.band_after),
            Text(_why(change)),
        )
    if table.row_count:
        console.print(table)
    if tally.changed > len(found.kept):
        console.print(Text(f"Listed are the {len(found.kept)} with the most MRR; --limit lists more."))


def _one(account: str, cards: Path, day: str | None, *, as_json: bool) -> None:
    import msgspec
    from rich.console import Console
    from rich.text import Text

    from health.explaining import line_changes

    async def run(
        deps: Deps, moment: Moment, in_force: InForce, other: Scorecards | None
    ) -> tuple[Explained | None, Explained | None]:
        from service.explaining import explain

        async with deps.reading() as conn:
            before = await explain(conn, account, moment, in_force, stream=deps.stream)
            return before, await explain(conn, account, moment, in_force, other=other, stream=deps.stream)

    before, after = asked(day, cards, run)
    if before is None or after is None:
        typer.echo(f"Nothing is known of an account {account!r}.", err=True)
        raise typer.Exit(1)
    lines = line_changes(before.now.contributions, after.now.contributions)
    if as_json:
        typer.echo(msgspec.json.encode({"before": before, "after": after, "lines": lines}))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(f"{account}: {_side(before.now.score, before.now.band)} → "
                       f"{_side(after.now.score, after.now.band)}"), style="bold")  # fmt: skip
    console.print(Text(f"{before.now.scorecard} → {after.now.scorecard}"))
    show_lines(console, lines)


def _why(change: BandChange) -> str:
    if change.measure is None:
        return change.reason["en"]
    return f"{change.reason['en']} ({change.contribution_before:+g} → {change.contribution_after:+g})"


def _side(score: float | None, band: str | None) -> str:
    return "no score" if score is None else f"{score:g} {band}"


def _money(amount: float | None, currency: str | None) -> str:
    return "" if amount is None else f"{amount:,.2f}".removesuffix(".00") + (f" {currency}" if currency else "")
