"""Accounts per core-second of the evaluator, reads and writes included, and what computing costs beside plain Python.

    python -m bench.health --accounts 4000 --rounds 5

A fleet with all that is kept of accounts (``bench/health_fleet.py``), the shipped rules and scorecards, and rules more
until 60 signals are in use. Through the evaluator's own step, doors, locks, context
and commit included. PostgreSQL listens on TCP with fsync on and shares the machine; its CPU stands beside, where /proc
tells. A core-second is CPU time of the evaluator's process. bench/README.md says what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from alerts import metrics
from alerts.context import ContextSource
from alerts.evaluator import Evaluator
from alerts.routing import Channels
from bench.health_computing import Compared, compare
from bench.health_fleet import Fleet, features, start_of_bench, touch, write_rules
from bench.ingest import ROOT, postgres_cpu
from consumers.run import relax_collector
from embedded.postgres import EmbeddedPostgres
from health import scorecards
from service.db import make_engine, migrate

STEP: Final = timedelta(minutes=1)
DOORS: Final = ("touched", "due", "everyone", "round")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one round: ``accounts`` evaluated."""

    way: str
    accounts: int
    cpu_seconds: float
    seconds: float
    postgres_seconds: float | None

    @property
    def rate(self) -> float:
        """Accounts per core-second."""
        return self.accounts / self.cpu_seconds

    def micros(self, seconds: float | None) -> float:
        return float("nan") if seconds is None else seconds / self.accounts * 1e6


class Clock:
    """Time of the bench, which moves when told to."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True, kw_only=True)
class Setting:
    url: str
    postmaster: int
    rules: Path
    clock: Clock


def evaluator(engine: AsyncEngine, setting: Setting, batch: int) -> Evaluator:
    async def progress(_: AsyncConnection) -> datetime | None:
        return setting.clock()

    context = ContextSource(
        engine, setting.rules, channels=Channels(slack_team=True, email=True, default_recipient="cs@example.com"),
        public_url="https://kizashi.example.com", progress=progress,
    )  # fmt: skip
    return Evaluator(engine=engine, context=context, clock=setting.clock, batch=batch, coalesce=timedelta(0))


def evaluated() -> int:
    return int(sum(metrics.EVALUATIONS.labels(door=door)._value.get() for door in DOORS))


async def drained(setting: Setting, one: Evaluator, way: str) -> Figures:
    """Until no door has work; what the doors hand out beside the touched accounts is counted, too."""
    before, postgres = evaluated(), postgres_cpu(setting.postmaster)
    began, cpu = time.monotonic(), time.process_time()
    await one.drain()
    cpu_seconds, seconds = time.process_time() - cpu, time.monotonic() - began
    ended = postgres_cpu(setting.postmaster)
    return Figures(
        way=way, accounts=evaluated() - before, cpu_seconds=cpu_seconds, seconds=seconds,
        postgres_seconds=None if postgres is None or ended is None else ended - postgres,
    )  # fmt: skip


async def rounds(
    setting: Setting, engine: AsyncEngine, connection: Any, ids: Sequence[str], batches: Sequence[int], count: int
) -> list[Figures]:
    """The first evaluation of everybody, then ``count`` rounds in which the batch sizes take turns: each touches every
    account once, in batches of accounts chosen anew, a minute after the last."""
    chooser = random.Random(7)
    found: list[Figures] = []
    ways = {f"batches of {batch:,}": (batch, evaluator(engine, setting, batch)) for batch in batches}
    largest = max(batches)
    for start in range(0, len(ids), largest):
        await touch(connection, ids[start : start + largest], setting.clock())
    _, first = ways[f"batches of {largest:,}"]
    found.append(await drained(setting, first, "first evaluation"))
    for number in range(count + 1):
        for way, (batch, one) in ways.items():
            setting.clock.now += STEP
            order = chooser.sample(ids, len(ids))
            for start in range(0, len(ids), batch):
                await touch(connection, order[start : start + batch], setting.clock())
            figures = await drained(setting, one, way)
            if number:  # the first one warms up
                found.append(figures)
    return found


def report(found: Sequence[Figures]) -> None:
    heads = ("accounts/core-s", "CPU µs", "Postgres µs", "both: per core-s", "evaluated")
    print(f"{'':<24}" + "".join(f"{head:>18}" for head in heads))
    for way in dict.fromkeys(figures.way for figures in found):
        own = [figures for figures in found if figures.way == way]
        rates = sorted(figures.rate for figures in own)
        cpu = statistics.median(figures.micros(figures.cpu_seconds) for figures in own)
        postgres = statistics.median(figures.micros(figures.postgres_seconds) for figures in own)
        print(
            f"{way:<24}{statistics.median(rates):>18,.0f}{cpu:>18.0f}{postgres:>18.0f}{1e6 / (cpu + postgres):>18,.0f}"
            f"{own[0].accounts:>18,}   ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        )


def report_computing(compared: Sequence[Compared]) -> None:
    for one in compared:
        fast, slow = (statistics.median(part) / one.accounts * 1e6 for part in (one.columns, one.plain))
        print(
            f"{one.signals} signals, scores, rules and next changes of {one.accounts:,} accounts at once: "
            f"{fast:.0f} µs an account by columns, "
            f"{slow:.0f} in plain Python: {one.ratio:.1f} times"
        )


@asynccontextmanager
async def prepared(folder: Path, accounts: int) -> AsyncIterator[tuple[Setting, Any, Fleet]]:
    with EmbeddedPostgres(folder / "postgres", settings={"shared_buffers": "512MB"}) as postgres:
        postgres.create_database("bench")
        await asyncio.to_thread(migrate, postgres.dsn("bench"))
        book = write_rules(ROOT / "rules", folder / "rules")
        cards = scorecards.load(folder / "rules" / "scorecards")
        refs = book.refs.union(cards.refs)
        clock = Clock(start_of_bench())
        fleet = Fleet(accounts, clock.now, cards.cards[-1].name)
        url = postgres.dsn("bench").replace("+asyncpg", "")
        connection = await asyncpg.connect(url)
        try:
            await fleet.store(connection)
            await connection.execute("VACUUM ANALYZE")
            print(f"# {accounts:,} accounts, {len(refs)} signals, {len(book.rules)} rules, {cards.name}", flush=True)
            setting = Setting(url=url, postmaster=postgres.pid, rules=folder / "rules", clock=clock)
            yield setting, connection, fleet
        finally:
            await connection.close()


async def run(arguments: argparse.Namespace) -> None:
    relax_collector()  # as the evaluator's role does
    with tempfile.TemporaryDirectory(prefix="kizashi-bench-") as name:
        async with prepared(Path(name), arguments.accounts) as (setting, connection, fleet):
            engine = make_engine(setting.url.replace("postgresql:", "postgresql+asyncpg:"), timeout_seconds=60)
            try:
                found = await rounds(setting, engine, connection, fleet.ids, arguments.batches, arguments.rounds)
                compared = [
                    await compare(engine, fleet.ids[:batch], setting.clock(), features(), arguments.rounds)
                    for batch in arguments.batches
                ]
            finally:
                await engine.dispose()
    report(found)
    report_computing(compared)
    if arguments.json is not None:
        figures = {"evaluation": list(map(asdict, found)), "computing": list(map(asdict, compared))}
        arguments.json.write_text(json.dumps(figures), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1_000, 100])
    parser.add_argument("--json", type=Path, help="write the figures of every round there, too")
    asyncio.run(run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
