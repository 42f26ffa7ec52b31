"""The ``kizashi`` command in a test: verbs run in a thread of their own, because they bring their own event loop."""

from __future__ import annotations

from collections.abc import Mapping

from typer.testing import CliRunner, Result

from tests.conftest import in_thread


def kizashi(*arguments: str, environment: Mapping[str, str]) -> Result:
    """Runs one verb with these settings; ``result.output`` has both streams, ``stdout`` and ``stderr`` each."""
    found: list[Result] = []

    def run() -> None:
        from service.cli import app

        found.append(CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **environment}))

    in_thread(run)
    return found[0]
