"""From an event's acceptance to its account's new score in the API, while events come at a steady rate.

    python -m bench.score_latency --rate 1000 --minutes 2

The service as in ``bench/soak.py``, with the same load. Probes are logins of accounts of their own, whose last login
the risk list shows from the row that the score is in. The list is asked again and again: a latency is at most one
answer too long, and never too short.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2

from bench.ingest import PARTITIONS, start_broker
from bench.soak import Measured, load, milliseconds, ready, running
from embedded.postgres import EmbeddedPostgres
from embedded.process import free_port
from service import auth
from service.clock import utc_now
from service.db import make_engine, migrate

ROLES: Final = ("api", "consumer", "evaluator")
ACCOUNTS: Final = 50
PROBES_PER_SECOND: Final = 20.0
POLL_SECONDS: Final = 0.02
WARM_SHARE: Final = 0.2
"""Of the run, at its beginning, is not counted: caches fill, and every account is new."""
DRAIN_SECONDS: Final = 30.0
OWNER: Final = "probes"


class Probes:
    """Logins that are not yet seen, by account: (their time, when they were accepted)."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client
        self.waiting: dict[str, list[tuple[datetime, float]]] = {}
        self.seen: list[tuple[float, float]] = []  # accepted, seconds until seen
        self.answers: list[float] = []

    async def introduce(self) -> None:
        told = [
            {"kind": "group", "event_id": f"who-{n}", "account_id": f"probe-{n:03}",
             "timestamp": datetime.now(UTC).isoformat(), "traits": {"owner": OWNER, "mrr": 100, "currency": "EUR"}}
            for n in range(ACCOUNTS)
        ]  # fmt: skip
        (await self.client.post("/api/v1/events", json=told)).raise_for_status()

    async def send(self, seconds: float) -> None:
        began = time.perf_counter()
        for number in range(int(seconds * PROBES_PER_SECOND)):
            await asyncio.sleep(max(0.0, began + number / PROBES_PER_SECOND - time.perf_counter()))
            account, at = f"probe-{number * 7 % ACCOUNTS:03}", datetime.now(UTC)
            event = {"kind": "login", "event_id": f"probe-{number}-{uuid.uuid4().hex}", "account_id": account,
                     "user_id": "probe", "timestamp": at.isoformat()}  # fmt: skip
            (await self.client.post("/api/v1/events", json=event)).raise_for_status()
            self.waiting.setdefault(account, []).append((at, time.perf_counter()))

    async def watch(self, sending: asyncio.Task[None]) -> None:
        give_up = float("inf")
        while self.waiting or not sending.done():
            if sending.done():
                give_up = min(give_up, time.perf_counter() + DRAIN_SECONDS)
                if time.perf_counter() > give_up:
                    return
            asked = time.perf_counter()
            answer = await self.client.get("/api/v1/accounts", params={"owner": OWNER, "limit": ACCOUNTS})
            answer.raise_for_status()
            now = time.perf_counter()
            self.answers.append(now - asked)
            for item in answer.json()["items"]:
                self._look(item, now)
            await asyncio.sleep(POLL_SECONDS)

    def _look(self, item: dict[str, Any], now: float) -> None:
        shown = item["last_login_at"] and datetime.fromisoformat(item["last_login_at"])
        if not shown or item["score"] is None:
            return
        left = []
        for at, accepted in self.waiting.get(item["account_id"], ()):
            if at <= shown:
                self.seen.append((accepted, now - accepted))
            else:
                left.append((at, accepted))
        if left:
            self.waiting[item["account_id"]] = left
        else:
            self.waiting.pop(item["account_id"], None)


async def measure(
    chosen: argparse.Namespace, folder: Path, postgres: EmbeddedPostgres, environment: dict[str, str], url: str
) -> dict[str, Any]:
    engine = make_engine(postgres.dsn("latency"), pool_size=1)
    async with engine.begin() as conn:
        key, _ = await auth.create(conn, name="latency", scopes=auth.SCOPES, expires_at=None, now=utc_now())
    await engine.dispose()
    connection = await asyncpg.connect(postgres.dsn("latency", driver=None))
    seconds, found = chosen.minutes * 60, Measured()
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with (
            running(ROLES, environment, folder),
            httpx2.AsyncClient(base_url=url, headers=headers, timeout=30.0, trust_env=False) as client,
        ):
            await ready(url, connection)
            probes = Probes(client)
            await probes.introduce()
            began = time.perf_counter()
            sending = asyncio.create_task(probes.send(seconds))
            loading = asyncio.create_task(load(url, key, chosen.rate, seconds, found))
            await asyncio.gather(probes.watch(sending), sending, loading)
            took = time.perf_counter() - began
        evaluated = await connection.fetchval("SELECT count(*) FROM health WHERE evaluated_at IS NOT NULL")
        hot = await connection.fetchrow(
            "SELECT n_tup_hot_upd::float8 / greatest(1, n_tup_upd) AS share, n_tup_upd AS updates "
            "FROM pg_stat_user_tables WHERE relname = 'accounts'"
        )
        assert hot is not None
    finally:
        await connection.close()
    counted = [late for accepted, late in probes.seen if accepted >= began + seconds * WARM_SHARE]
    return {
        "accepted": found.accepted, "events_per_second": round(found.accepted / took, 1), "failed": found.failed,
        "probes": len(counted), "missing": sum(map(len, probes.waiting.values())),
        "accepted_to_score_ms": milliseconds(counted), "list_answer_ms": milliseconds(probes.answers),
        "accounts_evaluated": evaluated, "hot_share": round(hot["share"], 3), "account_updates": hot["updates"],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events per second")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--coalesce", type=float, help="KIZASHI_COALESCE_SECONDS, to compare")
    parser.add_argument("--broker", choices=["auto", "kafka", "embedded"], default="auto")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    chosen = parser.parse_args(arguments)
    topic = f"latency.{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kizashi-latency-")))
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", settings={"shared_buffers": "512MB"}))
        postgres.create_database("latency")
        migrate(postgres.dsn("latency"))
        bootstrap, incarnation, name = start_broker(stack, folder, [topic], chosen.broker)
        port = free_port()
        environment = {
            "KIZASHI_DATABASE_URL": postgres.dsn("latency"),
            "KIZASHI_KAFKA_BOOTSTRAP": bootstrap,
            "KIZASHI_EVENTS_TOPICS": json.dumps([topic]),
            "KIZASHI_CONSUMER_GROUP": topic,
            "KIZASHI_PORT": str(port),
            "KIZASHI_LOG_LEVEL": "warning",
            **({"KIZASHI_BROKER_INCARNATION": incarnation} if incarnation else {}),
            **({} if chosen.coalesce is None else {"KIZASHI_COALESCE_SECONDS": str(chosen.coalesce)}),
        }
        print(
            f"# {name}, {PARTITIONS} partitions; PostgreSQL over TCP, fsync on; {chosen.rate:,.0f} events/s", flush=True
        )
        report = asyncio.run(measure(chosen, folder, postgres, environment, f"http://127.0.0.1:{port}"))
    if chosen.out:
        chosen.out.write_text(json.dumps(report, indent=1))
    for what, figure in report.items():
        print(f"{what}: {figure}")
    right = report["accepted_to_score_ms"].get("p99", float("inf")) < 2000 and not report["missing"]
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
