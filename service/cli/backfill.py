"""``kizashi backfill``: history from files, through the broker, paced and resumable, with an account at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy.ext.asyncio import AsyncEngine

    from consumers.backfill import Counts, History, Plan, Refusal
    from consumers.backfill.run import Applied
    from consumers.importing import Progress
    from service.settings import Settings

USAGE, FAILED, INTERRUPTED = 2, 1, 130
LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The options of one run."""

    import_id: str | None
    shift_to_now: bool
    again: bool
    dry_run: bool
    strict: bool
    wait: bool
    write_refused: bool
    max_unread_kib: int


class Stop(Exception):
    """Ends the command; ``status`` is its exit status, the message says why and what to do."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _print_schema(wanted: bool) -> None:
    if wanted:
        from consumers.backfill import json_schema

        typer.echo(json.dumps(json_schema(), indent=2))
        raise typer.Exit


def backfill(
    files: Annotated[
        list[Path],
        typer.Argument(help="CSV, NDJSON (also .gz) or Parquet, in this order.", exists=True, dir_okay=False),
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(help="What rows become which events (YAML); not needed for NDJSON of events.", dir_okay=False),
    ] = None,
    source: Annotated[str | None, typer.Option(help="`source` of the events; wins over the mapping's.")] = None,
    import_id: Annotated[
        str | None, typer.Option(help="Name of the import; by default the hash of files, mapping, source and shift.")
    ] = None,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Lay the history onto today: whole days, the newest event just past.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row and send nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when any row was refused.")] = False,
    write_refused: Annotated[
        bool, typer.Option("--write-refused", help="Write every refusal to <import>.refused.ndjson.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return once the consumers have applied everything.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Send files although another import has sent them: they count twice.")
    ] = False,
    max_unread_kib: Annotated[
        int, typer.Option(min=0, help="KiB per partition sent ahead of the consumers; 0: any amount.")
    ] = 1024,
    _: Annotated[
        bool,
        typer.Option("--mapping-schema", callback=_print_schema, is_eager=True, help="Print the mapping's schema."),
    ] = False,
) -> None:
    """Send history from files through the broker. The same command again goes on: nothing is ever counted twice."""
    from rich.console import Console

    from service.settings import load

    wishes = Wishes(
        import_id=import_id, shift_to_now=shift_to_now, again=again, dry_run=dry_run, strict=strict, wait=wait,
        write_refused=write_refused, max_unread_kib=max_unread_kib,
    )  # fmt: skip
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        history = _history(files, mapping, source, console)
        if dry_run:
            raise typer.Exit(_dry_run(history, wishes, console))
        raise typer.Exit(asyncio.run(_send(load(), history, wishes, console)))
    except Stop as stop:
        console.print(str(stop), style="red", markup=False)
        raise typer.Exit(stop.status) from None
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on where this one was.")
        raise typer.Exit(INTERRUPTED) from None


def _history(files: list[Path], mapping: Path | None, source: str | None, console: Console) -> History:
    from consumers.backfill import FileFault, History, load
    from consumers.faults import source_is_good
    from health.yamlfile import FileError

    if source is not None and not source_is_good(source):
        raise Stop("--source: use 1 to 64 of the characters A-Z a-z 0-9 _ . : -", USAGE)
    try:
        with console.status("Looking at the files …"):
            return History.of(files, None if mapping is None else load(mapping), source)
    except (FileError, FileFault) as error:
        raise Stop(str(error), USAGE) from None


def _dry_run(history: History, wishes: Wishes, console: Console) -> int:
    from datetime import timedelta

    from consumers.backfill import Counts, FileFault
    from consumers.backfill.history import shift_to
    from service.clock import utc_now

    now = utc_now()
    counts = Counts()
    import_id = wishes.import_id or history.import_id("to-now" if wishes.shift_to_now else "none")
    try:
        with console.status("Checking every row …"), _refused_file(import_id, wishes) as on_refused:
            newest = history.newest() if wishes.shift_to_now else None
            shift = timedelta(0) if newest is None else shift_to(newest, now)
            for _ in history.rows(counts, shift=shift, now=now, on_refused=on_refused):
                pass
    except FileFault as fault:
        raise Stop(str(fault), FAILED) from None
    console.print(f"Import {import_id}: nothing was sent (--dry-run).")
    _print_counts(console, counts, shift.days)
    return FAILED if wishes.strict and counts.rows_refused else 0


async def _send(settings: Settings, history: History, wishes: Wishes, console: Console) -> int:
    from consumers.backfill import BackfillError, Counts, FileFault, begin
    from consumers.broker import Producer
    from service.clock import utc_now
    from service.db import make_engine
    from service.doctor.database import DATABASE_ERRORS, cause_of

    engine = make_engine(settings.database_url.get_secret_value(), pool_size=2, application_name="kizashi-backfill",
                         timeout_seconds=settings.database_timeout_seconds)  # fmt: skip
    producer = Producer(settings.kafka_bootstrap, client_id="kizashi-backfill")
    try:
        await _topic_is_there(settings)
        with console.status("Beginning …"):
            plan = await begin(engine, history, import_id=wishes.import_id, shift_to_now=wishes.shift_to_now,
                               again=wishes.again, clock=utc_now)  # fmt: skip
        counts = Counts()
        _announce(console, plan, history)
        with _refused_file(plan.import_id, wishes) as on_refused:
            done = await _stream(engine, producer, settings, history, plan, counts, wishes, console, on_refused)
        _print_account(console, done, counts, plan)
        if wishes.wait:
            await _wait(engine, settings, plan, console)
        else:
            console.print("Add --wait to the same command to see that the consumers have applied everything.")
    except BackfillError as error:
        raise Stop(str(error), USAGE) from None
    except FileFault as fault:
        raise Stop(str(fault), FAILED) from None
    except DATABASE_ERRORS as error:
        cause = cause_of(error)
        problem = f"the database cannot be used ({type(cause).__name__}); see `kizashi doctor`, then run this again"
        raise Stop(problem, FAILED) from None
    finally:
        await producer.stop()
        await engine.dispose()
    return FAILED if wishes.strict and done.rows_refused else 0


async def _topic_is_there(settings: Settings) -> None:
    from consumers.broker import BrokerUnavailable
    from consumers.broker.survey import survey

    topic = settings.events_topics[0]
    try:
        found = await survey(settings.kafka_bootstrap, [topic], timeout_seconds=15)
    except BrokerUnavailable as error:
        raise Stop(f"the broker does not answer: {error}; see `kizashi doctor`", FAILED) from None
    if topic not in found.topics:
        raise Stop(f"there is no topic {topic}: run `kizashi migrate`, which makes it", FAILED)


async def _stream(
    engine: AsyncEngine,
    producer: Any,
    settings: Settings,
    history: History,
    plan: Plan,
    counts: Counts,
    wishes: Wishes,
    console: Console,
    on_refused: Callable[[Refusal], None],
) -> Progress:
    from consumers.importing import send_import
    from service.clock import utc_now

    with _shown(console, history, counts) as on_progress:
        return await send_import(
            engine,
            producer,
            topic=settings.events_topics[0],
            group=settings.consumer_group,
            import_id=plan.import_id,
            source=history.source,
            rows=history.rows(counts, shift=plan.shift, now=plan.started_at, on_refused=on_refused),
            total=history.rows_total,
            clock=utc_now,
            on_progress=on_progress,
            max_unread_bytes=wishes.max_unread_kib * 1024 or None,
        )


async def _wait(engine: AsyncEngine, settings: Settings, plan: Plan, console: Console) -> None:
    from consumers.backfill import waited_until_applied
    from consumers.broker import BrokerUnavailable
    from consumers.broker.survey import survey

    topic = settings.events_topics[0]
    with console.status("Waiting for the consumers …") as status:

        def on_wait(unread: int) -> None:
            of_what = "the database" if unread < 0 else f"the consumers: {unread:,} records unread"
            status.update(f"Waiting for {of_what} …")

        try:
            ends = (await survey(settings.kafka_bootstrap, [topic], timeout_seconds=15)).topics[topic].ends
        except (BrokerUnavailable, KeyError):
            raise Stop("the broker no longer answers: everything was sent; run this again to wait", FAILED) from None
        applied = await waited_until_applied(
            engine, plan, ends, topic=topic, group=settings.consumer_group, on_wait=on_wait
        )
    _print_applied(console, applied, plan)


def _print_applied(console: Console, applied: Applied, plan: Plan) -> None:
    if not applied.complete:
        raise Stop(
            f"The topic is read, yet only events up to number {applied.last_number} of {applied.events_sent - 1} are "
            f"applied: is KIZASHI_CONSUMER_GROUP the consumers' own? See `kizashi doctor`",
            FAILED,
        )
    equal = "=" if not applied.dead_letters else "≠"
    console.print(f"Events in {applied.events_sent:,} {equal} applied {applied.applied:,}.")
    if applied.dead_letters:
        console.print(f"The consumers refused {applied.dead_letters:,}: GET /api/v1/dead-letters says why.")
    console.print(
        f"Import {plan.import_id} is complete; the facts hold {applied.source_events:,} events of its source."
    )


def _announce(console: Console, plan: Plan, history: History) -> None:
    names = ", ".join(file.path.name for file in history.files)
    console.print(f"Import {plan.import_id} of {names}: {history.rows_total:,} rows.", markup=False)
    if plan.shift:
        console.print(f"Every time is laid {plan.shift.days:,} days later.")
    if plan.finished:
        console.print("It was sent completely before; nothing is sent again.")
    elif plan.resumed:
        console.print(f"Going on after row {plan.rows_sent:,}.")


def _print_account(console: Console, done: Progress, counts: Counts, plan: Plan) -> None:
    if plan.finished:
        console.print(f"  rows read     {done.rows_sent:>12,}\n  events sent   {done.events_sent:>12,}")
        console.print(f"  rows refused  {done.rows_refused:>12,}")
        return
    _print_counts(console, counts, 0)


def _print_counts(console: Console, counts: Counts, shift_days: int) -> None:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.kinds.items()))
    console.print(f"  rows read     {counts.rows:>12,}")
    console.print(f"  events        {counts.events:>12,}" + (f"  ({kinds})" if kinds else ""))
    if counts.rows_without_event:
        console.print(f"  rows without  {counts.rows_without_event:>12,}  (no event's condition held)")
    console.print(f"  rows refused  {counts.rows_refused:>12,}")
    if shift_days:
        console.print(f"  laid later by {shift_days:>12,}  days")
    for refusal in counts.refusals:
        console.print(f"  {refusal}", style="yellow", markup=False)
    if counts.rows_refused > len(counts.refusals):
        console.print("  … --write-refused writes all of them to a file.")


@contextlib.contextmanager
def _refused_file(import_id: str, wishes: Wishes) -> Iterator[Callable[[Refusal], None]]:
    if not wishes.write_refused:
        yield lambda _: None
        return
    with Path(f"{import_id}.refused.ndjson").open("w", encoding="utf-8") as file:
        yield lambda refusal: print(json.dumps(asdict(refusal), ensure_ascii=False), file=file)


@contextlib.contextmanager
def _shown(console: Console, history: History, counts: Counts) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        with _bar(console, history, counts) as on_progress:
            yield on_progress
        return
    import time

    last = time.monotonic()

    def line(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            waiting = f", waiting for {progress.waiting_for}" if progress.waiting_for else ""
            print(f"{progress.rows_sent:,} of {history.rows_total:,} rows sent{waiting}", file=sys.stderr, flush=True)

    yield line


@contextlib.contextmanager
def _bar(console: Console, history: History, counts: Counts) -> Iterator[Callable[[Progress], None]]:
    from rich import progress as bars

    columns = (
        bars.BarColumn(), bars.TaskProgressColumn(), bars.TextColumn("{task.fields[rows]:,} rows"),
        bars.TextColumn("{task.fields[events]:,} events"), bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(), bars.TextColumn("{task.fields[waiting]}"),
    )  # fmt: skip
    with bars.Progress(*columns, console=console) as shown:
        task = shown.add_task("", total=history.rows_total, rows=0, events=0, rate="", waiting="")

        def update(progress: Progress) -> None:
            waiting = f"waiting for {progress.waiting_for}" if progress.waiting_for else ""
            # Before anything is sent, the rows of earlier runs are passed over: show those.
            rows = max(progress.rows_sent, counts.rows)
            speed = shown.tasks[0].speed
            shown.update(task, completed=rows, rows=rows, events=max(progress.events_sent, counts.events),
                         rate=f"{speed:,.0f} rows/s" if speed else "", waiting=waiting)  # fmt: skip

        yield update
