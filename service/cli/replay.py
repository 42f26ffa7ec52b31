"""``kizashi replay``: rebuilds the facts from the events, compares, and swaps on request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy.ext.asyncio import AsyncConnection

    from consumers.replay.comparing import Difference
    from consumers.replay.run import Progress, Report, Wishes
    from consumers.replay.swapping import Swapped
    from service.settings import Settings

FAILED, USAGE, INTERRUPTED = 1, 2, 130
LINE_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""
PATIENT_SECONDS = 600.0


class SourceName(StrEnum):
    kafka = "kafka"
    archive = "archive"


def replay(
    first: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="First day (UTC) that is compared, 2026-05-01.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day, included.")] = None,
    account: Annotated[
        list[str] | None, typer.Option(help="Only this account; may be given several times.", show_default="all")
    ] = None,
    source: Annotated[
        SourceName | None,
        typer.Option(help="Where the events are read.", show_default="the archive where there is one"),
    ] = None,
    swap: Annotated[bool, typer.Option("--swap", help="Put what was rebuilt in the place of what differs.")] = False,
    show: Annotated[int, typer.Option(min=1, max=10_000, help="Differing rows shown of each table.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Rebuild the facts from the events, beside the live ones, and prove them equal or show what differs.

    Nothing is sent. Nothing live is changed without --swap. Exit 0: equal, or swapped; 1: different.
    """
    from rich.console import Console

    from consumers.replay.reading import ReplayRefused, Scope
    from consumers.replay.run import Wishes
    from service.doctor.database import DATABASE_ERRORS, cause_of
    from service.settings import load

    settings = load()
    scope = Scope(
        first_day=_day(first, "--from"),
        last_day=_day(last, "--to"),
        accounts=frozenset(account) if account else None,
    )
    if scope.first_day and scope.last_day and scope.last_day < scope.first_day:
        raise typer.BadParameter("lies before --from", param_hint="--to")
    chosen = source or (SourceName.archive if settings.archive_url else SourceName.kafka)
    wishes = Wishes(scope=scope, source=chosen.value, swap=swap, shown=show)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        report = asyncio.run(_run(settings, wishes, console))
    except ReplayRefused as refusal:
        console.print(f"Not done: {refusal}.", style="red", markup=False)
        raise typer.Exit(USAGE) from None
    except DATABASE_ERRORS as error:
        cause = cause_of(error)
        console.print(f"The database cannot be used ({type(cause).__name__}); `kizashi doctor` says what to do.")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        console.print("Stopped. Nothing live was changed.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        sys.stdout.write(json.dumps(document(report), indent=2, ensure_ascii=False) + "\n")
    else:
        _print(report, wishes, Console(soft_wrap=True, highlight=False))
    raise typer.Exit(0 if report.comparison.equal or report.swapped else FAILED)


def document(report: Report) -> dict[str, Any]:
    """The report as JSON."""
    swapped = report.swapped
    return {
        "source": report.source,
        "events": report.tally.events,
        "duplicates": report.tally.duplicates,
        "erased": report.tally.erased,
        "refused": report.tally.refused,
        "missing": report.missing,
        "equal": report.comparison.equal,
        "tables": {table: report.comparison.rows.get(table, 0) for table in report.comparison.tables},
        "differences": [
            {"table": d.table, "key": dict(d.key), "column": d.column, "live": d.live, "rebuilt": d.rebuilt}
            for d in report.comparison.shown
        ],
        "swapped": None if swapped is None else {"accounts": len(swapped.accounts), "rows": swapped.rows},
    }


async def _run(settings: Settings, wishes: Wishes, console: Console) -> Report:
    from consumers.applier import Limits
    from consumers.archive.files import ArchiveError
    from consumers.broker import BrokerError
    from consumers.replay.reading import ReplayRefused
    from consumers.replay.run import Surroundings
    from consumers.replay.run import replay as run_replay
    from service.archive import archive_of
    from service.clock import utc_now
    from service.db import make_engine
    from service.secrets import pseudonyms_of

    engine = make_engine(settings.database_url.get_secret_value(), pool_size=6, application_name="kizashi-replay",
                         timeout_seconds=max(PATIENT_SECONDS, settings.database_timeout_seconds))  # fmt: skip
    try:
        with _shown(console) as on_progress:
            around = Surroundings(
                engine=engine,
                bootstrap=settings.kafka_bootstrap,
                topics=settings.events_topics,
                group=settings.consumer_group,
                limits=Limits(
                    event_max_bytes=settings.event_max_bytes,
                    future_tolerance=timedelta(seconds=settings.future_tolerance_seconds),
                ),
                clock=utc_now,
                archive=archive_of(settings, engine),
                pseudonyms=pseudonyms_of(settings),
                on_progress=on_progress,
                on_swap=_note,
            )
            return await run_replay(around, wishes)
    except (ArchiveError, BrokerError, ValueError) as error:
        raise ReplayRefused(str(error)) from error
    finally:
        await engine.dispose()


async def _note(conn: AsyncConnection, swapped: Swapped, now: datetime) -> None:
    from service import audit

    detail = {"accounts": len(swapped.accounts), "rows": swapped.rows}
    await audit.note(conn, actor=audit.COMMAND, action="facts.swapped", subject="replay", detail=detail, now=now)


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    titles = {"archive": "Reading the archive", "kafka": "Reading Kafka", "comparing": "Comparing",
              "swapping": "Swapping"}  # fmt: skip
    if console.is_terminal:
        from rich import progress as bars

        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(),
                   bars.TimeRemainingColumn())  # fmt: skip
        with bars.Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("", total=None)

            def update(progress: Progress) -> None:
                total = progress.total or None
                shown.update(task, description=titles[progress.phase], completed=progress.done, total=total)

            yield update
        return
    last = time.monotonic()

    def line(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            of = f": {progress.done:,} of {progress.total:,} events" if progress.total else ""
            console.print(f"{titles[progress.phase]}{of}")

    yield line


def _print(report: Report, wishes: Wishes, console: Console) -> None:
    tally, comparison = report.tally, report.comparison
    left_out = [f"{tally.duplicates:,} duplicates", f"{tally.refused:,} refused", f"{tally.erased:,} erased"]
    console.print(f"{tally.events:,} events rebuilt from {_origin(report)} ({', '.join(left_out)} left out).")
    if report.missing is not None:
        console.print(f"Not everything that was ever applied is there: {report.missing}.", style="yellow", markup=False)
    if comparison.equal:
        console.print(f"Equal: {len(comparison.tables)} tables, not a row differs.")
        return
    rows = sum(comparison.rows.values())
    console.print(f"Different: {rows:,} rows in {len(comparison.rows)} of {len(comparison.tables)} tables.")
    for table, count in comparison.rows.items():
        console.print(f"\n{table}: {count:,} rows", style="bold")
        shown = [d for d in comparison.shown if d.table == table]
        for difference in shown:
            console.print(f"  {_line(difference)}", markup=False)
        if count > wishes.shown:
            console.print(f"  … and {count - wishes.shown:,} more; --show and --json show them")
    if report.swapped is not None:
        swapped = report.swapped
        console.print(
            f"\nSwapped {swapped.rows:,} rows of {len(swapped.accounts):,} accounts. They are evaluated anew; "
            "what their past shows is on the lists, and nobody is told."
        )
    else:
        console.print("\nNothing was changed. The same command with --swap mends it.")


def _origin(report: Report) -> str:
    return "Kafka" if report.source == "kafka" else "the archive and what Kafka has beyond it"


def _line(difference: Difference) -> str:
    key = " ".join(str(value) for value in difference.key.values())
    if difference.column is None:
        return f"{key}: only {'rebuilt' if difference.live is None else 'live'}"
    return f"{key}, {difference.column}: live {_short(difference.live)}, rebuilt {_short(difference.rebuilt)}"


def _short(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 160 else f"{shown[:159]}…"


def _day(text: str | None, option: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write a day: 2026-05-01", param_hint=option) from None
