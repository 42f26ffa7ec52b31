"""``kizashi serve``: all roles under a supervisor, or one role in this process."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer


class Role(StrEnum):
    api = "api"
    relay = "relay"
    consumer = "consumer"
    archive = "archive"
    evaluator = "evaluator"
    sender = "sender"


def serve(
    role: Annotated[Role | None, typer.Option(help="Run this role alone, in this process.")] = None,
) -> None:
    """Run the service: every role as a process of its own, restarted when it dies; or one of them."""
    from service.settings import load

    settings = load()
    if role is not None:
        from service.roles import loop_of, run_role

        with asyncio.Runner(loop_factory=loop_of(role.value)) as runner:
            raise typer.Exit(runner.run(run_role(role.value, settings)))
    from service.roles import run_all

    raise typer.Exit(asyncio.run(run_all(settings)))
