"""``kizashi doctor``: checks everything that the service needs, and says what to do about each fault."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer

MARKS = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "fault": "[red]fault[/]  "}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check database, migrations, broker, topics, consumers, rules, channels, keys and clocks. Exit 1 on faults.

    Sends no message and changes nothing.
    """
    from service.clock import utc_now
    from service.doctor import examine
    from service.settings import load

    findings = asyncio.run(examine(load(), utc_now))
    faults = sum(finding.state == "fault" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"faults": faults, "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        from rich.console import Console

        console = Console(soft_wrap=True, highlight=False)
        for finding in findings:
            console.print(f"{MARKS[finding.state]} {finding.check:<12} ", end="")
            console.print(finding.what, markup=False)
            if finding.remedy:
                console.print(f"{'':<21}→ {finding.remedy}", markup=False)
        console.print("Everything is in order." if not faults else f"{faults} fault{'s' if faults > 1 else ''}.")
    if faults:
        raise typer.Exit(1)
