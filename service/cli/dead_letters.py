"""``kizashi dead-letters``: what could not be read, mended and sent again, or discarded."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service.cli.running import instant, run_with_deps

if TYPE_CHECKING:
    from service.dead_letters import Bulk, Outcome
    from service.dead_letters.desk import Action, Desk
    from service.deps import Deps
    from service.queries import DeadLetter, DeadLetterFilter, DeadLetterPage

app = typer.Typer(help="Look at what could not be read; mend it and send it again, or discard it.",
                  no_args_is_help=True)  # fmt: skip

MAX_ID = 2**63 - 1
Letter = Annotated[int, typer.Argument(help="Its number, as `list` shows it.", min=1, max=MAX_ID)]
Letters = Annotated[list[int] | None, typer.Argument(help="Their numbers; else every open one that the options name.",
                                                     min=1, max=MAX_ID)]  # fmt: skip
Reason = Annotated[list[str] | None, typer.Option("--reason", help="Of this reason; may be given several times.")]
Topic = Annotated[str | None, typer.Option(help="Of this topic; `webhook:<name>` for a webhook.")]
Since = Annotated[str | None, typer.Option(help="Since then: 2h, 7d, or a time with offset.")]
Until = Annotated[str | None, typer.Option(help="Before then.")]
Text = Annotated[str | None, typer.Option(help="With this in its bytes or its faults.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command(name="list")
def list_(
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    text: Text = None,
    status: Annotated[str, typer.Option(help="open, retried, discarded or all.")] = "open",
    limit: Annotated[int, typer.Option(help="Most to show.", min=1, max=200)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the bytes in base64.")] = False,
) -> None:
    """Letters, newest first, and how many are open for each reason."""
    import msgspec

    from service import queries
    from service.queries import LetterCount

    if status not in {"open", "retried", "discarded", "all"}:
        raise typer.BadParameter("use open, retried, discarded or all", param_hint="--status")
    where = msgspec.structs.replace(
        _where(reason, topic, since, until, text), statuses=() if status == "all" else (status,)
    )

    async def read(deps: Deps) -> tuple[DeadLetterPage, tuple[LetterCount, ...]]:
        async with deps.reading() as conn:
            return await queries.dead_letters(conn, where, None, limit), await queries.open_dead_letters(conn)

    page, counts = run_with_deps(read)
    if as_json:
        typer.echo(msgspec.json.encode(page.items))
        return
    for count in counts:
        typer.echo(f"{count.letters:>9,} open  {count.reason}  {count.topic}")
    if page.items:
        _table(page.items)
    if page.next_cursor is not None:
        typer.echo(f"The newest {limit}; narrow the list, or raise --limit.", err=True)


def _table(letters: tuple[DeadLetter, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Plain

    table = Table("number", "since", "status", "place", "reason", "fault", box=None, pad_edge=False)
    for letter in letters:
        first = letter.errors[0] if letter.errors else {"field": "", "problem": ""}
        fault = f"{first['field']} {first['problem']}".strip()
        place = f"{letter.topic}[{letter.partition}]@{letter.record_offset}"
        cells = (str(letter.dead_letter_id), f"{letter.created_at:%Y-%m-%d %H:%M}", letter.status, place,
                 letter.reason, visible(fault))  # fmt: skip
        table.add_row(*map(Plain, cells))
    Console(soft_wrap=True, highlight=False).print(table)


def visible(text: str) -> str:
    """What came from outside may hold anything a terminal obeys."""
    return "".join(each if each.isprintable() else "�" for each in text)


@app.command()
def show(
    number: Letter,
    raw: Annotated[bool, typer.Option("--raw", help="Its bytes alone, to be mended in a file.")] = False,
) -> None:
    """One letter: its place, its faults with their remedies, its bytes."""
    from service import queries
    from service.dead_letters import changes, shown

    async def read(deps: Deps) -> DeadLetter | None:
        async with deps.reading() as conn:
            return await queries.dead_letter(conn, number)

    letter = run_with_deps(read)
    if letter is None:
        _fail(f"There is no dead letter {number}; `kizashi dead-letters list` shows them.")
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
        return
    place = f"{letter.topic}[{letter.partition}] at offset {letter.record_offset}"
    typer.echo(f"Dead letter {letter.dead_letter_id} ({letter.status}): {letter.reason}, {place}")
    typer.echo(f"Since {letter.created_at.isoformat(timespec='seconds')}")
    if letter.closed_at is not None:
        note = f": {visible(letter.note)}" if letter.note else ""
        typer.echo(f"{letter.status.capitalize()} {letter.closed_at.isoformat(timespec='seconds')} "
                   f"by {letter.closed_by}{note}")  # fmt: skip
    for error in letter.errors:
        typer.echo(visible(f"  {error['field'] or 'the event'}: {error['problem']} → {error['remedy']}"))
    key = shown(letter.key)
    typer.echo(f"Key: {key.text or 'none'}")
    value = shown(letter.value)
    typer.echo(f"Value ({letter.value_bytes} bytes, {value.form}{', cut' if value.cut else ''}):\n{value.text}")
    for change in changes(letter.value, letter.sent_value) if letter.sent_value is not None else ():
        typer.echo(f"  sent with {change.field}: {change.before} → {change.after}")


@app.command()
def retry(
    numbers: Letters = None,
    value: Annotated[
        Path | None, typer.Option(help="File with the mended event, for one letter; - reads it from standard input.")
    ] = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    text: Text = None,
    yes: Yes = False,
) -> None:
    """Send letters again: one with a mended value, or any as they came, once the fault was ours or has passed.

    An event keeps its id, so however often it is sent, it counts once. Exit 1 when one was refused again.
    """
    if value is None:
        _many("retry", numbers, _where(reason, topic, since, until, text), None, yes)
        return
    if numbers is None or len(numbers) != 1:
        raise typer.BadParameter("name the one letter that this value is for", param_hint="--value")
    number = numbers[0]
    mended = sys.stdin.buffer.read() if str(value) == "-" else _read(value)
    outcome = run_with_deps(lambda deps: _desk(deps).retry(number, mended))
    _say(outcome)
    if outcome.outcome != "retried":
        raise typer.Exit(1)


@app.command()
def discard(
    numbers: Letters = None,
    note: Annotated[str | None, typer.Option(help="Why nobody needs them.")] = None,
    reason: Reason = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    text: Text = None,
    yes: Yes = False,
) -> None:
    """Say that nobody needs to look at them any more. They are kept for KIZASHI_DEAD_LETTER_DAYS."""
    _many("discard", numbers, _where(reason, topic, since, until, text), note, yes)


def _many(action: Action, numbers: list[int] | None, where: DeadLetterFilter, note: str | None, yes: bool) -> None:
    import msgspec

    from service.dead_letters.desk import MOST_AT_ONCE

    if numbers:
        where = msgspec.structs.replace(where, ids=tuple(numbers))
    elif not (where.reasons or where.topic or where.since or where.until or where.text):
        raise typer.BadParameter("name letters by number, or by --reason, --topic, --since, --until or --text")
    elif not yes:
        typer.confirm(f"{action.capitalize()} every open letter that matches?", abort=True)

    async def work(deps: Deps) -> list[Bulk]:
        desk, after = _desk(deps), 0
        done: list[Bulk] = []
        while True:
            done.append(await desk.many(action, where, limit=MOST_AT_ONCE, after=after, note=note))
            if done[-1].next_after is None or done[-1].unacknowledged:
                return done
            after = done[-1].next_after

    done = run_with_deps(work)
    outcomes = [outcome for bulk in done for outcome in bulk.items]
    for outcome in outcomes:
        if outcome.outcome in {"refused", "unacknowledged"}:
            _say(outcome)
    seen = {outcome.dead_letter_id for outcome in outcomes}
    for number in sorted(set(numbers or ()) - seen):
        typer.echo(f"{number}: there is no such open letter", err=True)
    counts = {said: sum(outcome.outcome == said for outcome in outcomes) for said in
              ("retried", "discarded", "refused", "unacknowledged")}  # fmt: skip
    typer.echo(", ".join(f"{count:,} {said}" for said, count in counts.items() if count) or "Nothing to do.")
    if counts["refused"] or counts["unacknowledged"] or set(numbers or ()) - seen:
        raise typer.Exit(1)


def _say(outcome: Outcome) -> None:
    words = {
        "retried": "sent", "missing": "there is no such letter", "not_open": f"is {outcome.status} already",
        "unacknowledged": "the broker did not acknowledge in time; it is still open", "refused": "refused",
    }.get(outcome.outcome, outcome.outcome)  # fmt: skip
    typer.echo(f"{outcome.dead_letter_id}: {words}", err=True)
    for error in outcome.errors:
        typer.echo(visible(f"  {error.field or 'the event'}: {error.problem} → {error.remedy}"), err=True)


def _where(
    reason: list[str] | None, topic: str | None, since: str | None, until: str | None, text: str | None
) -> DeadLetterFilter:
    from service.clock import utc_now
    from service.queries import DeadLetterFilter

    now = utc_now()
    return DeadLetterFilter(
        reasons=tuple(reason or ()), topic=topic, since=instant(since, "--since", now),
        until=instant(until, "--until", now), text=text,
    )  # fmt: skip


def _desk(deps: Deps) -> Desk:
    from service.audit import COMMAND
    from service.dead_letters import Desk

    now: datetime = deps.clock()
    return Desk(deps=deps, actor=COMMAND, now=now)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        _fail(f"{path} cannot be read: {error.strerror}")


def _fail(text: str) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(1)
