"""What the demo says in the terminal: a line per step with its seconds, a bar while history loads, then a panel."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

TICK = "[green]✓[/]"
MEANWHILE = "[cyan]·[/]"
ATTENTION = "[yellow]![/]"
EXAMPLE_ACCOUNT = "acct-003"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """What the panel shows."""

    board: str
    inbox: str
    bootstrap: str
    topic: str
    api_key: str
    key_file: str
    log_folder: str


class Show:
    """Writes calmly, also where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Says ``what`` with a tick when the block is through; strings that the block appends follow it."""
        more: list[str] = []
        began = time.monotonic()
        yield more
        self.done(" ".join([what, *more]), time.monotonic() - began)

    def done(self, what: str, seconds: float | None = None) -> None:
        took = "" if seconds is None else f" [dim]{seconds:.1f} s[/]"
        self.console.print(f"{TICK} {what}{took}", highlight=False)

    def say(self, what: str) -> None:
        self.console.print(f"{MEANWHILE} {what}", highlight=False)

    def warn(self, what: str) -> None:
        self.console.print(f"{ATTENTION} {what}", highlight=False)

    @contextlib.contextmanager
    def bar(self, what: str, total: int) -> Iterator[Bar]:
        columns = (
            TextColumn("  {task.description}"), BarColumn(bar_width=32), MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[rate]}[/]"), TimeElapsedColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            yield Bar(progress, progress.add_task(what, total=total, rate=""))

    def panel(self, addresses: Addresses) -> None:
        places = Table.grid(padding=(0, 2))
        places.add_column(style="bold", no_wrap=True)
        places.add_column(overflow="fold")
        places.add_row("Board", addresses.board)
        places.add_row("Local inbox", f"{addresses.inbox}  [dim]the alerts, as their readers see them[/]")
        places.add_row("API", f"{addresses.board}/docs")
        places.add_row("Kafka", f"{addresses.bootstrap}  [dim]topic[/] {addresses.topic}")
        places.add_row("Metrics", f"{addresses.board}/metrics")
        places.add_row("API key", addresses.api_key)
        places.add_row("", f"[dim]kept in {addresses.key_file}[/]")
        places.add_row("Logs", addresses.log_folder)
        self.console.print()
        self.console.print(Panel(places, title="Kizashi is running", border_style="green", expand=False))
        self.console.print("Make an alert yourself: a payment of one of the customers fails.\n")
        # Outside the box and unwrapped, so that it can be copied.
        self.console.print(example(addresses), style="cyan", highlight=False, markup=False, soft_wrap=True)
        self.console.print(
            f"\nThen look at {addresses.board}/accounts/{EXAMPLE_ACCOUNT} and at the inbox.\n"
            "[dim]Ctrl-C stops everything; starting again goes on from here.[/]",
            highlight=False,
        )


class Bar:
    """One row of progress with the rate of the last seconds."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._marks: list[tuple[float, int]] = []

    def move(self, completed: int, events: int, waiting_for: str | None = None) -> None:
        now = time.monotonic()
        self._marks = [*(mark for mark in self._marks if now - mark[0] < 5.0), (now, events)]
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        rate = "" if last <= first else f"{(after - before) / (last - first):,.0f} events/s"
        # Pacing makes short waits all the time; only a standstill is worth words.
        if waiting_for is not None and last - first > 2.0 and after == before:
            rate = f"waiting for {waiting_for}"
        self._progress.update(self._task, completed=completed, rate=rate)


def example(addresses: Addresses) -> str:
    """A command that makes an alert, another payment each time."""
    number = "mine-'$(date +%s)'"
    return (
        f"curl -s {addresses.board}/api/v1/events -H 'Authorization: Bearer {addresses.api_key}' \\\n"
        f"""  -H 'Content-Type: application/json' -d '{{"kind": "payment", "status": "failed",\n"""
        f"""  "account_id": "{EXAMPLE_ACCOUNT}", "event_id": "{number}", "payment_id": "{number}",\n"""
        """  "timestamp": "'$(date -u +%FT%TZ)'"}'"""
    )
