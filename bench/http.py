"""The HTTP door beside a bare Starlette endpoint that only produces to Kafka: events per second, p99, their ratio.

    python -m bench.http --seconds 8 --rounds 3

Both run as a process of their own under uvicorn with the API role's settings, before the same broker, and take turns.
The bare endpoint looks at nothing: a body of one event is a record as it is, a list is cut into its items, none has a
key. The door does all it always does: key, limits, checks, stamps, one result an event, metrics. Load comes from `wrk`
where it is installed, else from a client of our own, which needs more of the shared cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from bench.workload import records
from embedded.broker import EmbeddedBroker
from embedded.kafka import EmbeddedKafka, available
from embedded.postgres import EmbeddedPostgres
from embedded.process import free_port
from service.db import make_engine, migrate

PARTITIONS = 32
BODIES = 512
START_SECONDS = 90.0
WARM_UP_SECONDS = 2
LUA = """
local bodies, at = {{}}, 0
for line in io.lines("{bodies}") do
  bodies[#bodies + 1] = wrk.format("POST", nil, {{
    ["Content-Type"] = "application/json", ["Authorization"] = "Bearer {key}" }}, line)
end
request = function() at = at % #bodies + 1; return bodies[at] end
done = function(summary, latency)
  io.write(string.format("figures %d %d %d %d\\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(99)))
end
"""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One server under load once."""

    requests: int
    seconds: float
    errors: int
    p99_ms: float
    cpu_seconds: float


def bare_app(bootstrap: str, topic: str) -> Any:
    """What one would write to get events into Kafka and nothing else."""
    import msgspec
    from aiokafka import AIOKafkaProducer
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    items = msgspec.json.Decoder(list[msgspec.Raw])
    producers: list[AIOKafkaProducer] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, compression_type="lz4",
            max_batch_size=64 * 1024,
        )  # fmt: skip
        await producer.start()
        producers.append(producer)
        yield
        await producer.stop()

    async def produce(request: Request) -> Response:
        body = await request.body()
        values = map(bytes, items.decode(body)) if body.startswith(b"[") else [body]
        await asyncio.gather(*[await producers[0].send(topic, value) for value in values])
        return Response(b'{"success":true}', status_code=202, media_type="application/json")

    return Starlette(routes=[Route("/api/v1/events", produce, methods=["POST"])], lifespan=lifespan)


def serve(which: str, port: int, bootstrap: str, topic: str, profile: str | None) -> None:
    """In a process of its own, until it is told to stop."""
    import uvicorn

    from consumers.run import relax_collector
    from service import logging as logs
    from service.app import create_app
    from service.deps import build
    from service.settings import load

    logs.configure("json", "info")
    relax_collector()

    async def run() -> None:
        app = bare_app(bootstrap, topic) if which == "bare" else create_app(build(load()))
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, log_config=None, access_log=False, server_header=False
        )
        await uvicorn.Server(config).serve()

    import uvloop

    if profile is None:
        uvloop.run(run())
        return
    import cProfile

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again at its end, before anything is written
    profiler = cProfile.Profile()
    profiler.runcall(uvloop.run, run())
    profiler.dump_stats(profile)


@contextlib.contextmanager
def server(which: str, environment: dict[str, str], bootstrap: str, topic: str, profile: str | None) -> Iterator[Any]:
    """(process, port) of a server that answers."""
    port = free_port()
    command = [sys.executable, "-m", "bench.http", "--serve", which, "--port", str(port), "--bootstrap", bootstrap,
               "--topic", topic]  # fmt: skip
    if profile is not None and which == "door":
        command += ["--profile", profile]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                httpx2.get(f"http://127.0.0.1:{port}/livez", trust_env=False, timeout=1)
                break
            except httpx2.HTTPError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield process, port
    finally:
        process.terminate()
        process.wait(30)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def turn(pid: int, port: int, key: str, bodies: Path, seconds: int, connections: int, folder: Path) -> Turn:
    before = cpu_seconds(pid)
    url = f"http://127.0.0.1:{port}/api/v1/events"
    if shutil.which("wrk"):
        script = folder / "load.lua"
        script.write_text(LUA.format(bodies=bodies, key=key))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    else:
        command = [sys.executable, "-m", "bench.http", "--load", url, "--key", key, "--bodies", str(bodies),
                   "--seconds", str(seconds), "--connections", str(connections)]  # fmt: skip
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"figures (\d+) (\d+) (\d+) (\d+)", out)
    assert found is not None, out
    requests, microseconds, errors, p99 = map(int, found.groups())
    return Turn(
        requests=requests, seconds=microseconds / 1e6, errors=errors, p99_ms=p99 / 1000,
        cpu_seconds=cpu_seconds(pid) - before,
    )  # fmt: skip


async def load(url: str, key: str, bodies: Path, seconds: int, connections: int) -> None:
    """The stand-in for wrk: as many connections, each with one request under way at a time."""
    parsed = httpx2.URL(url)
    head = (
        f"POST {parsed.path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    )
    lines = (await asyncio.to_thread(bodies.read_bytes)).splitlines()
    prepared = [head.format(len(line)).encode() + line for line in lines]
    ends, errors = time.monotonic() + seconds, 0
    times: list[float] = []

    async def one(at: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(parsed.host, parsed.port)
        while (began := time.monotonic()) < ends:
            writer.write(prepared[at % len(prepared)])
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            errors += not answer.startswith(b"HTTP/1.1 2")
            times.append(time.monotonic() - began)
            at += 1
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(one(number * len(prepared) // connections) for number in range(connections)))
    times.sort()
    took = int((time.monotonic() - began) * 1e6)
    print("figures", len(times), took, errors, int(times[int(len(times) * 0.99)] * 1e6))


def write_bodies(folder: Path) -> dict[int, Path]:
    """A file for each size of batch, a body a line."""
    values = [value for _, value in records(BODIES * 20, until=datetime.now(UTC))]
    single, batch = folder / "single.jsonl", folder / "batch.jsonl"
    single.write_bytes(b"\n".join(values[:BODIES]) + b"\n")
    lists = [b"[" + b",".join(values[start : start + 100]) + b"]" for start in range(0, len(values), 100)]
    batch.write_bytes(b"\n".join(lists) + b"\n")
    return {1: single, 100: batch}


def start_broker(stack: ExitStack, folder: Path, topic: str, which: str) -> tuple[str, str]:
    """(bootstrap, name)."""
    if which == "kafka" or (which == "auto" and available()[0]):
        kafka = stack.enter_context(EmbeddedKafka(folder / "kafka"))
        kafka.create_topic(topic, PARTITIONS)
        return kafka.bootstrap, "Apache Kafka"
    return stack.enter_context(EmbeddedBroker({topic: PARTITIONS})).bootstrap, "embedded broker"


async def make_key(url: str) -> str:
    from service import auth
    from service.clock import utc_now

    engine = make_engine(url, application_name="kizashi-bench")
    async with engine.begin() as conn:
        presented, _ = await auth.create(conn, name="bench", scopes=["ingest"], expires_at=None, now=utc_now())
    await engine.dispose()
    return presented


def report(events: int, name: str, turns: Sequence[Turn]) -> float:
    rate = statistics.median(one.requests * events / one.seconds for one in turns)
    p99 = statistics.median(one.p99_ms for one in turns)
    cpu = statistics.median(one.cpu_seconds / (one.requests * events) * 1e6 for one in turns)
    errors = sum(one.errors for one in turns)
    print(f"{name:<22}{rate:>12,.0f}{p99:>12.1f}{cpu:>16.1f}{errors:>10}")
    return rate


def run(chosen: argparse.Namespace, stack: ExitStack) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-bench-")))
    postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
    postgres.create_database("bench")
    url = postgres.dsn("bench")
    migrate(url)
    key = asyncio.run(make_key(url))
    topic = f"bench.{uuid.uuid4().hex[:8]}"
    bootstrap, broker = start_broker(stack, folder, topic, chosen.broker)
    environment = {
        "KIZASHI_DATABASE_URL": url, "KIZASHI_KAFKA_BOOTSTRAP": bootstrap, "KIZASHI_EVENTS_TOPICS": json.dumps([topic]),
        "KIZASHI_LOG_LEVEL": "info", "KIZASHI_INGEST_EVENTS_PER_SECOND": "1000000",
        "KIZASHI_INGEST_BURST_EVENTS": "10000000",
    }  # fmt: skip
    servers = {
        which: stack.enter_context(server(which, environment, bootstrap, topic, chosen.profile))
        for which in ("bare", "door")
    }
    tool = "wrk" if shutil.which("wrk") else "own client"
    print(f"# {broker}; {tool}, {chosen.connections} connections, {chosen.rounds} turns of {chosen.seconds} s each")
    print(f"# load average {os.getloadavg()[0]:.1f} before; {PARTITIONS} partitions, lz4, acks=all")
    print(f"{'':<22}{'events/s':>12}{'p99 ms':>12}{'CPU µs/event':>16}{'errors':>10}")
    for events, bodies in write_bodies(folder).items():
        turns: dict[str, list[Turn]] = {"bare": [], "door": []}
        for round_ in range(chosen.rounds + 1):
            for which, (process, port) in servers.items():
                seconds = chosen.seconds if round_ else WARM_UP_SECONDS
                found = turn(process.pid, port, key, bodies, seconds, chosen.connections, folder)
                if round_:
                    turns[which].append(found)
        what = "single events" if events == 1 else f"batches of {events}"
        rates = {which: report(events, f"{which}, {what}", found) for which, found in turns.items()}
        print(f"# {what}: the door reaches {rates['door'] / rates['bare']:.2f} of the bare endpoint")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns counted, after a short one to warm up")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    parser.add_argument("--profile", help="write cProfile statistics of the door here (it is then slower)")
    for hidden in ("--serve", "--port", "--bootstrap", "--topic", "--load", "--key", "--bodies"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve:
        serve(chosen.serve, int(chosen.port), chosen.bootstrap, chosen.topic, chosen.profile)
    elif chosen.load:
        asyncio.run(load(chosen.load, chosen.key, Path(chosen.bodies), chosen.seconds, chosen.connections))
    else:
        with ExitStack() as stack:
            run(chosen, stack)


if __name__ == "__main__":
    main()
