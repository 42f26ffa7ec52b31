"""A million accounts: the sweep beside a full scan, exact crossings under load, looking at everybody again.

    python -m bench.million --accounts 1000000 --rescore-seconds 120
    python -m bench.million --whole          # re-score all of them, to the end

The evaluator is the role itself, a process of its own; the bench stands for the consumers: it keeps the position, and
touches accounts. PostgreSQL listens on TCP with fsync on and shares the machine. Rates by the clock depend on what else
runs there: CPU seconds stand beside them, where /proc tells. bench/README.md says what each part does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np

from alerts.sweeping import MISSED, SMALLEST_SLICE, slice_keys
from bench.ingest import TICKS, postgres_cpu
from bench.million_tables import fill
from bench.soak import resident_mib, start_role
from embedded.postgres import EmbeddedPostgres
from health.instants import HOUR, spread_us
from service.db import migrate

MINUTE: Final = timedelta(minutes=1)
GROUP: Final = "million"
TOPIC: Final = "million.events"
AS_FAST_AS_IT_CAN: Final = "1000000"
SAY_SECONDS: Final = 10.0
CROSSING: Final = timedelta(days=14)
GIVE_UP_SECONDS: Final = 60.0
FULL: Final = """
SELECT a.account_id FROM accounts a LEFT JOIN health h ON h.account_id = a.account_id
WHERE h.facts_version IS DISTINCT FROM a.version AND a.changed_at < $1 AND h.problem IS NULL
ORDER BY a.account_id LIMIT 500
"""
TOUCH: Final = """
UPDATE accounts SET version = version + 1, changed_at = now(), events = events + 1, last_activity_at = now(),
    last_event_at = now() WHERE account_id = ANY($1)
"""
POSITION: Final = """
INSERT INTO stream_offsets (group_id, topic, partition, next_offset, updated_at, complete_through)
VALUES ($1, $2, 0, 0, now(), now())
ON CONFLICT (group_id, topic, partition) DO UPDATE SET complete_through = now(), updated_at = now()
"""
PROBES: Final = """
UPDATE accounts SET last_login_at = u.at, version = version + 1, changed_at = now()
FROM unnest($1::text[], $2::timestamptz[]) AS u(account_id, at) WHERE accounts.account_id = u.account_id
"""
TOLD: Final = """
SELECT account_id, min(created_at) FROM deliveries
WHERE account_id = ANY($1) AND message->>'rule_id' = 'no-login' GROUP BY account_id
"""


class Evaluating:
    """The role, with what it costs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def cpu(self) -> float:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / TICKS
        return float("nan")

    def peak_mib(self) -> float:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) / 1024
        return resident_mib(self.process.pid)


@contextlib.asynccontextmanager
async def evaluating(environment: Mapping[str, str], folder: Path, rate: str) -> AsyncIterator[Evaluating]:
    role = start_role("evaluator", {**environment, "KIZASHI_REEVALUATE_PER_SECOND": rate}, folder)
    try:
        yield Evaluating(role)
    finally:
        role.terminate()
        await asyncio.to_thread(role.wait)
        said = (folder / "evaluator.log").read_text(errors="replace").splitlines()
        for line in [line for line in said if '"warning"' in line or '"error"' in line][-3:]:
            print(f"# the evaluator said: {line[:300]}")


async def keep_position(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        while True:
            await connection.execute(POSITION, GROUP, TOPIC)
            await asyncio.sleep(0.5)
    finally:
        await connection.close()


async def keep_touching(dsn: str, accounts: int, rate: int) -> None:
    """``rate`` accounts a second, five batches, chosen anew."""
    connection = await asyncpg.connect(dsn)
    chooser = random.Random(11)
    began = time.monotonic()
    try:
        for turn in range(10**9):
            await touch(connection, [name(n) for n in chooser.sample(range(1, accounts + 1), max(1, rate // 5))])
            await asyncio.sleep(max(0.0, began + (turn + 1) * 0.2 - time.monotonic()))
    finally:
        await connection.close()


def name(number: int) -> str:
    return f"acct-{number:07}"


async def touch(connection: Any, ids: Sequence[str]) -> None:
    async with connection.transaction():
        await connection.execute(TOUCH, sorted(ids))
        await connection.execute(
            "INSERT INTO touched (account_ids, oldest_event_at, created_at) VALUES ($1, now(), now())", sorted(ids)
        )


async def sweep(connection: Any, accounts: int) -> dict[str, Any]:
    """A minute's slice in the middle of the table, beside looking at everybody: time, and pages read."""
    keys = slice_keys(accounts, MINUTE) if accounts > SMALLEST_SLICE * 2 else max(1, accounts // 50)
    before = datetime.now(UTC)
    statement = str(MISSED)
    for number, parameter in enumerate((":after", ":keys", ":before", ":most"), start=1):
        statement = statement.replace(parameter, f"${number}")
    statement = statement.replace("LIMIT $2", "LIMIT $2::bigint").replace("LIMIT $4", "LIMIT $4::bigint")
    middle = name(accounts // 2)
    await connection.execute("SET max_parallel_workers_per_gather = 0")
    found: dict[str, Any] = {"keys": keys}
    for way, query, arguments in (
        ("slice", statement, (middle, keys, before, 500)),
        ("full", FULL, (before,)),
    ):
        plans = [
            json.loads(await connection.fetchval("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, *arguments))[0]
            for _ in range(5)
        ]
        found[way] = {
            "ms": round(statistics.median(plan["Execution Time"] for plan in plans), 1),
            "pages": plans[-1]["Plan"]["Shared Hit Blocks"] + plans[-1]["Plan"]["Shared Read Blocks"],
        }
    found["share_of_time"] = round(found["slice"]["ms"] / found["full"]["ms"], 3)
    found["share_of_pages"] = round(found["slice"]["pages"] / found["full"]["pages"], 3)
    return found


def day_border(accounts: int) -> dict[str, Any]:
    """Accounts due by the minute of the hour after a day border."""
    at = spread_us(tuple(name(n) for n in range(1, accounts + 1)))
    minutes = np.bincount(at * 60 // HOUR, minlength=60)
    return {"least": int(minutes.min()), "most": int(minutes.max()), "mean": round(float(minutes.mean()), 1)}


async def round_row(connection: Any) -> Any:
    return await connection.fetchrow("SELECT * FROM reevaluations ORDER BY round DESC LIMIT 1")


async def begun(connection: Any, role: Evaluating, *, after: int = 0) -> Any:
    """The row of the first round ``after`` that, once somebody has been looked at."""
    for _ in range(600):
        if role.process.poll() is not None:
            raise RuntimeError(f"the evaluator ended with {role.process.returncode}")
        row = await round_row(connection)
        if row is not None and row["round"] > after and row["done"]:
            return row
        await asyncio.sleep(0.2)
    raise RuntimeError("nobody was looked at within two minutes")


async def rescore(
    connection: Any, environment: Mapping[str, str], folder: Path, seconds: float, postmaster: int
) -> dict[str, Any]:
    """Everybody under another scorecard, as fast as one evaluator can."""
    before = postgres_cpu(postmaster) or 0.0
    async with evaluating(environment, folder, AS_FAST_AS_IT_CAN) as role:
        row = await begun(connection, role)
        began, first, cpu = time.monotonic(), row["done"], role.cpu()
        said = 0.0
        while row["state"] == "running" and time.monotonic() - began < seconds:
            await asyncio.sleep(0.5)
            row = await round_row(connection)
            if time.monotonic() - said >= SAY_SECONDS:
                said = time.monotonic()
                rate = (row["done"] - first) / (said - began)
                left = max(0, row["accounts"] - row["done"])
                print(f"# round {row['round']}: {row['done']:,} of {row['accounts']:,}, {rate:,.0f} a second, "
                      f"{left / max(rate, 1):,.0f} s left; {role.peak_mib():.0f} MiB at most", flush=True)  # fmt: skip
        took, used, done = time.monotonic() - began, role.cpu() - cpu, row["done"] - first
        told = await connection.fetchval("SELECT count(*) FROM deliveries WHERE account_id <> ''")
        return {
            "accounts": done, "of": row["accounts"], "state": row["state"], "seconds": round(took, 1),
            "per_second": round(done / took, 1), "per_core_second": round(done / max(used, 0.01), 1),
            "postgres_cpu_us": round(((postgres_cpu(postmaster) or 0.0) - before) / max(done, 1) * 1e6),
            "million_minutes": round(1e6 / max(done / took, 0.001) / 60, 1), "peak_mib": round(role.peak_mib(), 1),
            "told": told,
        }  # fmt: skip


async def crossings(
    connection: Any, dsn: str, environment: Mapping[str, str], folder: Path, chosen: argparse.Namespace, rate: str
) -> dict[str, Any]:
    """Seconds from the crossing to the message in the outbox, as another connection sees it."""
    picked = random.Random(len(rate)).sample(range(1, chosen.accounts + 1), chosen.probes)
    last = await round_row(connection)
    over = last["round"] if last is not None and last["state"] == "done" else 0
    if over:  # another, that there be one beside the crossings
        await connection.execute("INSERT INTO touched (everyone_since, created_at) VALUES ('epoch', now())")
    async with evaluating(environment, folder, rate) as role:
        row = await begun(connection, role, after=over)
        load = asyncio.create_task(keep_touching(dsn, chosen.accounts, chosen.touched))
        began, done = time.monotonic(), (row["done"] if row else 0)
        start = datetime.now(UTC) + timedelta(seconds=15)
        crossing = {name(n): start + timedelta(seconds=30 * k / len(picked)) for k, n in enumerate(sorted(picked))}
        await connection.execute(PROBES, list(crossing), [at - CROSSING for at in crossing.values()])
        await connection.execute("DELETE FROM deliveries WHERE account_id = ANY($1)", list(crossing))
        await touch(connection, list(crossing))
        seen: dict[str, float] = {}
        give_up = max(crossing.values()) + timedelta(seconds=GIVE_UP_SECONDS)
        while len(seen) < len(crossing) and datetime.now(UTC) < give_up:
            for row in await connection.fetch(TOLD, list(crossing)):
                if row["account_id"] not in seen:
                    seen[row["account_id"]] = (datetime.now(UTC) - crossing[row["account_id"]]).total_seconds()
            await asyncio.sleep(0.05)
        load.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await load
        row = await round_row(connection)
        rate_seen = (row["done"] - done) / (time.monotonic() - began)
        overdue = await connection.fetchval("SELECT count(*) FROM health WHERE due_at < now() - interval '1 minute'")
        waiting = await connection.fetchval("SELECT count(*) FROM touched WHERE account_ids IS NOT NULL")
    late = sorted(seen.values())
    return {
        "probes": len(crossing), "missing": len(crossing) - len(seen),
        "p50_s": round(statistics.median(late or [0]), 2),
        "max_s": round(max(late, default=0.0), 2), "earliest_s": round(min(late, default=0.0), 2),
        "reevaluated_per_second": round(rate_seen, 1), "overdue_left": overdue, "touched_rows_left": waiting,
    }  # fmt: skip


async def measure(chosen: argparse.Namespace, dsn: str, environment: Mapping[str, str], folder: Path) -> dict[str, Any]:
    postmaster = int(next((folder / "postgres").rglob("postmaster.pid")).read_text().split()[0])
    connection = await asyncpg.connect(dsn)
    position = asyncio.create_task(keep_position(dsn))
    found: dict[str, Any] = {"accounts": chosen.accounts}
    try:
        await fill(connection, chosen.accounts)
        found["sweep"] = await sweep(connection, chosen.accounts)
        print(f"sweep: {found['sweep']}", flush=True)
        found["day_border"] = day_border(chosen.accounts)
        print(f"accounts due in a minute of the hour after a day border: {found['day_border']}", flush=True)
        seconds = float("inf") if chosen.whole else chosen.rescore_seconds
        found["rescore"] = await rescore(connection, environment, folder, seconds, postmaster)
        print(f"everybody again: {found['rescore']}", flush=True)
        found["crossings"] = await crossings(connection, dsn, environment, folder, chosen, str(chosen.rate))
        print(f"crossings, beside touched accounts and a round: {found['crossings']}", flush=True)
        await connection.execute(
            "UPDATE health SET due_at = now() - interval '1 hour' + random() * interval '59 minutes' "
            "WHERE account_id <= $1", name(chosen.overdue),
        )  # fmt: skip
        found["after_an_outage"] = await crossings(connection, dsn, environment, folder, chosen, f"{chosen.rate}.0")
        print(f"the same, {chosen.overdue:,} accounts overdue: {found['after_an_outage']}", flush=True)
    finally:
        position.cancel()
        await connection.close()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--rescore-seconds", type=float, default=120.0, help="how long everybody is looked at again")
    parser.add_argument("--whole", action="store_true", help="until everybody was")
    parser.add_argument("--rate", type=int, default=1_000, help="accounts a second of the round beside the crossings")
    parser.add_argument("--touched", type=int, default=300, help="accounts touched a second beside the crossings")
    parser.add_argument("--probes", type=int, default=60, help="accounts that cross 14 days, within half a minute")
    parser.add_argument("--overdue", type=int, default=200_000, help="accounts overdue by up to an hour")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    chosen = parser.parse_args(arguments)
    chosen.overdue = min(chosen.overdue, chosen.accounts)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-million-")))
        settings = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "15min"}
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", settings=settings))
        postgres.create_database("million")
        migrate(postgres.dsn("million"))
        environment = {
            "KIZASHI_DATABASE_URL": postgres.dsn("million"),
            "KIZASHI_EVENTS_TOPICS": json.dumps([TOPIC]),
            "KIZASHI_CONSUMER_GROUP": GROUP,
            "KIZASHI_SLACK_WEBHOOK_URL": "http://127.0.0.1:9/unused",
            "KIZASHI_LOG_LEVEL": "info",
        }
        print(f"# {chosen.accounts:,} accounts; {os.cpu_count()} cores; PostgreSQL over TCP, fsync on", flush=True)
        found = asyncio.run(measure(chosen, postgres.dsn("million", driver=None), environment, folder))
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1))
    late = max(found[part]["max_s"] for part in ("crossings", "after_an_outage"))
    missing = sum(found[part]["missing"] for part in ("crossings", "after_an_outage"))
    right = late <= 5.0 and not missing and found["sweep"]["share_of_time"] <= 0.1
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
