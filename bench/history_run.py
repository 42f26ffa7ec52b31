"""Runs ``kizashi backfill`` against a running consumer, killing either at random, and takes the facts' fingerprint.

Shared by ``bench/real_history.py`` and ``tests/faults/test_backfill_killed.py``: the processes are the service's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from health.tables import FACT_TABLES, imports
from service.db import make_engine

ROOT = Path(__file__).resolve().parent.parent
WALL_CLOCK = frozenset({"changed_at", "known_at", "imported_until", "version", "last_live_at"})
"""Columns that say when we worked, not what happened."""
PATIENCE_SECONDS = 600.0


@dataclass(kw_only=True)
class Stage:
    """Where processes run: settings as environment, a folder for their logs."""

    environment: Mapping[str, str]
    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    kills: int = 0

    def start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """``python -m service.cli`` with these arguments; its output goes to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", *arguments],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def role(self, role: str) -> subprocess.Popen[bytes]:
        return self.start(role, ["serve", "--role", role])

    def kill(self, name: str) -> bool:
        """SIGKILL; whether it was still running."""
        process = self.running.pop(name)
        alive = process.poll() is None
        process.kill()
        process.wait()
        self.kills += alive
        return alive

    def stop(self) -> None:
        """Everything, in good order."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def resumed_after(self) -> list[int]:
        """After how many rows each run of the backfill that found an unfinished import went on."""
        return [int(rows.replace(",", "")) for rows in re.findall(r"Going on after row ([\d,]+)", self.log("backfill"))]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


def run_through(stage: Stage, backfill: Sequence[str]) -> float:
    """A backfill from beginning to end with the consumer running; returns its seconds. Raises when it fails."""
    begun = time.monotonic()
    process = stage.start("backfill", ["backfill", *backfill, "--wait"])
    status = process.wait(PATIENCE_SECONDS)
    if status != 0:
        raise RuntimeError(f"the backfill ended with {status}:\n{stage.log('backfill')[-3000:]}")
    return time.monotonic() - begun


def run_killed(stage: Stage, backfill: Sequence[str], *, seed: int, kills: int) -> None:
    """Kills consumer, backfill or both with SIGKILL, ``kills`` times, then lets them finish.

    A kill comes a random moment after a random row of its share of the rows was sent: time alone would mostly hit
    processes that are starting.
    """
    chance = random.Random(seed)
    for number in range(kills):
        if "consumer" not in stage.running:
            stage.role("consumer")
        if "backfill" not in stage.running:
            stage.start("backfill", ["backfill", *backfill, "--wait"])
        _wait_for_rows(stage, (number + chance.uniform(0.0, 0.8)) / kills)
        time.sleep(chance.uniform(0.0, 0.3))
        for name in chance.choice((("consumer",), ("backfill",), ("consumer", "backfill"))):
            stage.kill(name)
    if "backfill" in stage.running:
        stage.kill("backfill")
    if "consumer" not in stage.running:
        stage.role("consumer")
    run_through(stage, backfill)


def _wait_for_rows(stage: Stage, share: float) -> None:
    """Until that share of the rows is sent, or the backfill has ended."""

    async def sent() -> None:
        engine = make_engine(stage.environment["KIZASHI_DATABASE_URL"], pool_size=1)
        try:
            while stage.running["backfill"].poll() is None:
                async with engine.connect() as conn:
                    row = (await conn.execute(select(imports.c.rows_sent, imports.c.rows_total))).one_or_none()
                if row is not None and row.rows_sent > share * row.rows_total:
                    break
                await asyncio.sleep(0.02)
        finally:
            await engine.dispose()

    asyncio.run(asyncio.wait_for(sent(), PATIENCE_SECONDS))


async def fingerprint(engine: AsyncEngine) -> dict[str, str]:
    """Per table of facts: number of rows and a hash of all that is in them but the wall clock."""
    found = {}
    async with engine.connect() as conn:
        for table in FACT_TABLES:
            columns = [column for column in table.c if column.name not in WALL_CLOCK]
            digest = hashlib.sha256()
            count = 0
            for row in await conn.execute(select(*columns).order_by(*table.primary_key.columns)):
                digest.update(json.dumps(list(row), default=str, sort_keys=True).encode())
                count += 1
            found[table.name] = f"{count} {digest.hexdigest()[:16]}"
    return found


def fingerprint_now(url: str) -> dict[str, str]:
    """For callers without an event loop."""

    async def run() -> dict[str, str]:
        engine = make_engine(url, pool_size=1)
        try:
            return await fingerprint(engine)
        finally:
            await engine.dispose()

    return asyncio.run(run())


async def one_row(engine: AsyncEngine, statement: Any) -> Any:
    async with engine.connect() as conn:
        return (await conn.execute(statement)).one()
