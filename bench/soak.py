"""The whole service under steady load: from "accepted" to durable facts, memory, table sizes.

    python -m bench.soak --rate 2000 --minutes 5

Its own PostgreSQL (TCP, fsync on) and Apache Kafka (else the embedded broker), and every role as a process. The load
is that of many servers with an analytics SDK: each collects its events and flushes them every half second, at most 100
a request (analytics-python's defaults). When a flush is due is decided beforehand and does not wait for the answer of
the last one (open loop), and how long an answer took counts from that moment: a stall is seen by every request that
it should have delayed (no coordinated omission).

A sample of the events, spread evenly, are probes: each uses a feature of its own, and the facts are asked for those
until they are there, every 20 ms. A latency is therefore at most 20 ms too long, and never too short.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import msgspec
import numpy as np

from bench.ingest import PARTITIONS, start_broker
from bench.workload import records
from embedded.postgres import EmbeddedPostgres
from embedded.process import free_port
from service import auth
from service.clock import utc_now
from service.db import make_engine, migrate

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("api", "consumer", "archive", "evaluator", "sender")
FLUSH_SECONDS = 0.5
FLUSH_EVENTS = 100
CLIENTS = 40
PROBES_PER_SECOND = 20.0
POLL_SECONDS = 0.02
CHUNK = 20_000
ANSWER_SECONDS = 30.0
DRAIN_SECONDS = 60.0
START_SECONDS = 300.0
WARM_SHARE = 1 / 3
"""Of the run, at its beginning: caches fill, and memory's slope is not taken."""
LARGEST_TABLES = 12
LOOK = """
SELECT f.account_id, f.feature FROM unnest($1::text[], $2::text[]) AS u(account_id, feature)
JOIN features f ON f.account_id = u.account_id AND f.feature = u.feature
"""


@dataclass(kw_only=True)
class Flush:
    """What one client sends at once. Times are of ``time.perf_counter``."""

    due: float
    body: bytes
    events: int
    probes: list[tuple[str, str]]  # account, feature


@dataclass(kw_only=True)
class Measured:
    """Seconds each, and what was not accepted."""

    answers: list[float] = field(default_factory=list)  # from due to 202
    durable: list[float] = field(default_factory=list)  # from 202 to in the facts
    whole: list[float] = field(default_factory=list)  # from due to in the facts
    late: list[float] = field(default_factory=list)  # how much after it was due a request was begun: our own fault
    accepted: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    waiting: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)  # probe: (due, accepted)


def events(until_stopped: float) -> Iterator[dict[str, Any]]:
    """The workload without end; ``timestamp`` is to be set when it is sent."""
    decode = msgspec.json.Decoder().decode
    for seed in itertools.count(1):
        for _, value in records(CHUNK, until=datetime.fromtimestamp(until_stopped, UTC), seed=seed):
            yield decode(value)


def flushes(rate: float, seconds: float, started: float) -> Iterator[Flush]:
    """In the order they are due: each client has a phase of its own within the half second."""
    stream = events(time.time())
    every = max(1, round(rate / PROBES_PER_SECOND))
    share = rate * FLUSH_SECONDS / CLIENTS
    owed = np.random.default_rng(7).random(CLIENTS)
    number = 0
    for turn in range(int(seconds / FLUSH_SECONDS)):
        for client in range(CLIENTS):
            owed[client] += share
            count, owed[client] = int(owed[client]), owed[client] % 1
            due = started + (turn + client / CLIENTS) * FLUSH_SECONDS
            for start in range(0, count, FLUSH_EVENTS):
                batch, probes = [], []
                stamp = datetime.now(UTC).isoformat()
                for event in itertools.islice(stream, min(FLUSH_EVENTS, count - start)):
                    number += 1
                    event["timestamp"] = stamp
                    if number % every == 0:
                        probe = f"probe-{number}"
                        event |= {"kind": "usage", "feature": probe, "quantity": 1}
                        probes.append((event["account_id"], probe))
                    batch.append(event)
                if batch:
                    yield Flush(due=due, body=msgspec.json.encode(batch), events=len(batch), probes=probes)


async def send(client: httpx2.AsyncClient, flush: Flush, found: Measured) -> None:
    found.late.append(time.perf_counter() - flush.due)
    try:
        answer = await client.post("/api/v1/events", content=flush.body)
        what = f"status {answer.status_code}"
    except httpx2.HTTPError as error:
        answer, what = None, type(error).__name__
    now = time.perf_counter()
    accepted = answer.json()["accepted"] if answer is not None and answer.status_code == 202 else 0
    found.accepted += accepted
    if accepted != flush.events:
        found.failed[what] = found.failed.get(what, 0) + flush.events - accepted
        return
    found.answers.append(now - flush.due)
    found.waiting.update(dict.fromkeys(flush.probes, (flush.due, now)))


async def load(url: str, key: str, rate: float, seconds: float, found: Measured) -> None:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=CLIENTS)
    under_way: set[asyncio.Task[None]] = set()
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=ANSWER_SECONDS, limits=limits, trust_env=False
    ) as client:
        for flush in flushes(rate, seconds, time.perf_counter() + 1.0):
            await asyncio.sleep(max(0.0, flush.due - time.perf_counter()))
            task = asyncio.create_task(send(client, flush, found))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)


async def watch_probes(dsn: str, found: Measured, stop: asyncio.Event) -> None:
    """Until told to stop and none is waited for any more, or that takes too long."""
    connection = await asyncpg.connect(dsn)
    give_up = float("inf")
    try:
        look = await connection.prepare(LOOK)
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        while True:
            if stop.is_set():
                give_up = min(give_up, time.perf_counter() + DRAIN_SECONDS)
                if not found.waiting or time.perf_counter() > give_up:
                    return
            asked = list(found.waiting)
            for row in await look.fetch(*zip(*asked, strict=True)) if asked else ():
                due, accepted = found.waiting.pop((row["account_id"], row["feature"]))
                now = time.perf_counter()
                found.durable.append(now - accepted)
                found.whole.append(now - due)
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await connection.close()


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    listing = ["ps", "-o", "rss=", "-p", str(pid)]
    return int(subprocess.run(listing, capture_output=True, text=True, check=True).stdout) / 1024


async def watch_memory(
    roles: Mapping[str, subprocess.Popen[bytes]], sizes: dict[str, list[tuple[float, float]]]
) -> None:
    """Each second (seconds since the start, MiB), for ever. Raises when a role has ended."""
    began = time.perf_counter()
    for turn in itertools.count(1):
        for role, process in roles.items():
            if process.poll() is not None:
                raise RuntimeError(f"the {role} ended with {process.returncode}")
            sizes.setdefault(role, []).append((time.perf_counter() - began, resident_mib(process.pid)))
        await asyncio.sleep(max(0.0, began + turn - time.perf_counter()))


def start_role(role: str, environment: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / f"{role}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--role", role],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


@contextlib.asynccontextmanager
async def running(roles: Sequence[str], environment: Mapping[str, str], folder: Path) -> AsyncIterator[dict[str, Any]]:
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for role in roles:
            processes[role] = start_role(role, environment, folder)
        yield processes
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            await asyncio.to_thread(process.wait)


async def ready(url: str, connection: Any) -> None:
    """The API answers, and the consumer has opened its partitions."""
    async with asyncio.timeout(START_SECONDS), httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        while True:
            opened = await connection.fetchval("SELECT count(DISTINCT (topic, partition)) FROM stream_offsets")
            with contextlib.suppress(httpx2.HTTPError):
                if opened >= PARTITIONS and (await client.get("/livez")).status_code == 200:
                    return
            await asyncio.sleep(0.2)


async def tables(connection: Any) -> dict[str, int]:
    """Bytes of each, with its indexes."""
    rows = await connection.fetch(
        "SELECT relname, pg_total_relation_size(oid) AS size FROM pg_class "
        "WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    )
    return {row["relname"]: row["size"] for row in rows}


async def counted(connection: Any) -> int:
    return int(await connection.fetchval("SELECT coalesce(sum(events), 0)::bigint FROM source_hours"))


def milliseconds(values: Sequence[float]) -> dict[str, float]:
    """p50, p99, p99.9 and max."""
    if not values:
        return {}
    shares = np.percentile(values, [50, 99, 99.9, 100], method="higher") * 1000
    return dict(zip(("p50", "p99", "p99.9", "max"), (round(float(ms), 1) for ms in shares), strict=True))


def memory(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Median of its first and last tenth, greatest, and the slope after warming up, MiB an hour."""
    times, sizes = np.array(samples).T
    warm = times >= times[-1] * WARM_SHARE
    tenth = max(1, len(sizes) // 10)
    slope = float(np.polyfit(times[warm], sizes[warm], 1)[0]) * 3600 if warm.sum() > 1 else 0.0
    figures = (np.median(sizes[:tenth]), np.median(sizes[-tenth:]), sizes.max(), slope)
    names = ("first_mib", "last_mib", "most_mib", "slope_mib_per_hour")
    return dict(zip(names, (round(float(figure), 1) for figure in figures), strict=True))


async def soak(chosen: argparse.Namespace, folder: Path, postgres: EmbeddedPostgres, environment: dict[str, str],
               api_url: str) -> dict[str, Any]:  # fmt: skip
    dsn = postgres.dsn("soak", driver=None)
    found = Measured()
    sizes: dict[str, list[tuple[float, float]]] = {}
    stop = asyncio.Event()
    engine = make_engine(postgres.dsn("soak"), pool_size=1)
    async with engine.begin() as conn:
        key, _ = await auth.create(conn, name="soak", scopes=auth.SCOPES, expires_at=None, now=utc_now())
    await engine.dispose()
    connection = await asyncpg.connect(dsn)
    try:
        before = await tables(connection)
        async with running(chosen.roles, environment, folder) as roles:
            await ready(api_url, connection)
            watching = asyncio.create_task(watch_probes(dsn, found, stop))
            measuring = asyncio.create_task(watch_memory(roles, sizes))
            loading = asyncio.create_task(load(api_url, key, chosen.rate, chosen.minutes * 60, found))
            began = time.perf_counter()
            await asyncio.wait({loading, measuring, watching}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (measuring, watching):
                if ended.done():
                    ended.result()
            await loading
            seconds = time.perf_counter() - began
            stop.set()
            await watching
            measuring.cancel()
        total = await counted(connection)
        after = await tables(connection)
    finally:
        await connection.close()
    return {
        "events_per_second": round(found.accepted / seconds, 1), "accepted": found.accepted, "in_the_facts": total,
        "failed": found.failed, "probes": len(found.durable), "probes_missing": len(found.waiting),
        "accepted_to_durable_ms": milliseconds(found.durable), "due_to_accepted_ms": milliseconds(found.answers),
        "due_to_durable_ms": milliseconds(found.whole), "requests_begun_late_ms": milliseconds(found.late),
        "memory": {role: memory(samples) for role, samples in sizes.items()},
        "tables_mib": {
            name: [round(before.get(name, 0) / 2**20, 2), round(size / 2**20, 2)]
            for name, size in sorted(after.items(), key=lambda item: -item[1])[:LARGEST_TABLES]
        },
    }  # fmt: skip


def told(report: Mapping[str, Any]) -> str:
    def line(name: str) -> str:
        return "  ".join(f"{share} {ms:,.1f}" for share, ms in report[name].items())

    exact = "exact" if report["in_the_facts"] == report["accepted"] else f"WRONG: {report['in_the_facts']:,}"
    lines = [
        f"{report['accepted']:,} events accepted, {report['events_per_second']:,} a second; facts {exact}",
        f"not accepted: {report['failed'] or 'none'}; {report['probes']:,} probes, {report['probes_missing']} missing",
        f"accepted to durable, ms:   {line('accepted_to_durable_ms')}",
        f"due to accepted, ms:       {line('due_to_accepted_ms')}",
        f"due to durable, ms:        {line('due_to_durable_ms')}",
        f"requests begun late, ms:   {line('requests_begun_late_ms')}   (the load's own delay, part of the two above)",
        f"{'memory, MiB':<16}{'first':>9}{'last':>9}{'most':>9}{'slope/h':>10}",
    ]
    for role, figures in report["memory"].items():
        first, last, most, slope = figures.values()
        lines.append(f"{role:<16}{first:>9.1f}{last:>9.1f}{most:>9.1f}{slope:>+10.1f}")
    lines.append(f"{'tables, MiB':<24}{'before':>9}{'after':>9}")
    lines += [f"{name:<24}{first:>9.2f}{last:>9.2f}" for name, (first, last) in report["tables_mib"].items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2_000.0, help="events per second")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--roles", nargs="+", default=list(ROLES), help="processes to run; api and consumer are needed")
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    chosen = parser.parse_args(arguments)
    topic = f"soak.{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-soak-")))
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", settings={"shared_buffers": "512MB"}))
        postgres.create_database("soak")
        migrate(postgres.dsn("soak"))
        bootstrap, incarnation, name = start_broker(stack, folder, [topic], chosen.broker)
        port = free_port()
        environment = {
            "KIZASHI_DATABASE_URL": postgres.dsn("soak"),
            "KIZASHI_KAFKA_BOOTSTRAP": bootstrap,
            "KIZASHI_EVENTS_TOPICS": json.dumps([topic]),
            "KIZASHI_CONSUMER_GROUP": topic,
            "KIZASHI_PORT": str(port),
            "KIZASHI_ARCHIVE_URL": (folder / "archive").as_uri(),
            "KIZASHI_LOG_LEVEL": "warning",
            **({"KIZASHI_BROKER_INCARNATION": incarnation} if incarnation else {}),
        }
        print(
            f"# {name}, {PARTITIONS} partitions; PostgreSQL over TCP, fsync on; {', '.join(chosen.roles)}; "
            f"{CLIENTS} clients at {chosen.rate:,.0f} events/s for {chosen.minutes:g} min",
            flush=True,
        )
        report = asyncio.run(soak(chosen, folder, postgres, environment, f"http://127.0.0.1:{port}"))
        for role in chosen.roles:
            said = (folder / f"{role}.log").read_text(errors="replace").strip()
            if said:
                print(f"# {role} said, lastly: {said.splitlines()[-1][:300]}")
    if chosen.out:
        chosen.out.write_text(json.dumps(report, indent=1))
    print(told(report))
    right = report["in_the_facts"] == report["accepted"] and not report["probes_missing"] and not report["failed"]
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
