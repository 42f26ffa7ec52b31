"""One consumer process of ``bench/ingest.py``: the consumer role's own parts, a clock around them, and a look at where
the time goes. Reads its share of the topic to the end, then prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from consumers import store
from consumers.applier import Applied, Applier, Limits, Polled, Prepared
from consumers.broker import Consumer, Partition
from consumers.dedup import Dedup, Screened
from consumers.fold import Arrival
from consumers.loop import Loop, Pace, Status
from consumers.offsets import Offsets
from consumers.records import Position
from consumers.run import relax_collector
from service.clock import utc_now
from service.db import make_engine

GIVE_UP_SECONDS = 300.0
SAMPLE_SECONDS = 0.005
NO_TOUCHED = "SELECT $1::text[], $2::bool, $3::timestamptz, $4::timestamptz WHERE false"
NO_TOUCHED_EVERYONE = "SELECT $1::timestamptz, $2::timestamptz WHERE false"
"""In place of the queue's statements: what the evaluator costs the consumers is the difference."""
STEPS = (
    ("event loop", ("selectors.py",)),
    ("dedup", ("consumers/dedup.py",)),
    ("decode", ("consumers/events.py", "applier.py:read_records")),
    ("encode", ("consumers/upserts.py",)),
    ("fold", ("consumers/fold.py", "consumers/fold_records.py", "applier.py:_prepared")),
    ("fetch", ("aiokafka/", "consumers/broker.py")),
    ("write", ("asyncpg/", "consumers/store.py", "sqlalchemy/")),
)
"""The innermost frame that one of the marks fits says what a moment was spent on; all else is ``other``."""


class NoDedup(Dedup):
    """Takes everything for new: what the promise of counting once costs is the difference."""

    async def load(self, batch: Sequence[tuple[Partition, Arrival]]) -> None:
        del batch

    def screen(self, batch: Sequence[tuple[Partition, Arrival]]) -> Screened:
        return Screened(fresh=[True] * len(batch))


class Timed(Applier):
    """Notes when the first record came and when the last was durable."""

    def __init__(self, engine: AsyncEngine, group: str, stop: asyncio.Event, dedup: Dedup | None) -> None:
        super().__init__(engine, group, Limits(), dedup=dedup)
        self._stop = stop
        self.left = 0
        self.done = self.batches = self.rows = 0
        self.began: tuple[float, float] | None = None
        self.ended = (0.0, 0.0)

    async def prepare(
        self, polled: Polled, positions: Mapping[Partition, Position], *, now: datetime, catching_up: bool
    ) -> Prepared | None:
        self.began = self.began or (time.monotonic(), time.process_time())
        return await super().prepare(polled, positions, now=now, catching_up=catching_up)

    async def store(self, prepared: Prepared) -> Applied:
        applied = await super().store(prepared)
        self.done += len(prepared.records)
        self.rows += sum(map(len, applied.fold.rows.values()))
        self.batches += 1
        self.ended = (time.monotonic(), time.process_time())
        if self.done >= self.left:
            self._stop.set()
        return applied

    def figures(self, steps: Mapping[str, float]) -> dict[str, Any]:
        assert self.began is not None
        return {
            "events": self.done, "rows": self.rows, "batches": self.batches, "began": self.began[0],
            "ended": self.ended[0], "cpu_seconds": self.ended[1] - self.began[1], "steps": steps,
        }  # fmt: skip


class Sampler:
    """Looks at what is being done, each few milliseconds of CPU time (of the process: PostgreSQL's is not in it)."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, _: int, frame: FrameType | None) -> None:
        self.seen[_step(frame)] += 1

    def shares(self) -> dict[str, float]:
        return {name: count / self.seen.total() for name, count in self.seen.most_common()}


def _step(frame: FrameType | None) -> str:
    while frame is not None:
        place = f"{frame.f_code.co_filename}:{frame.f_code.co_name}"
        for name, marks in STEPS:
            if any(mark in place for mark in marks):
                return name
        frame = frame.f_back
    return "other"


@dataclass(frozen=True, kw_only=True)
class Asked:
    url: str
    bootstrap: str
    topic: str
    group: str
    incarnation: str | None
    batch: int
    partitions: int
    dedup: bool
    wakeups: bool
    sample: bool


async def consume(asked: Asked) -> None:
    """Joins, waits until the group has given it its share, reads that to the end."""
    relax_collector()
    if not asked.wakeups:
        store.TOUCHED, store.TOUCHED_EVERYONE = NO_TOUCHED, NO_TOUCHED_EVERYONE  # type: ignore[misc]
    engine = make_engine(asked.url, timeout_seconds=60, application_name="kizashi-bench")
    stop = asyncio.Event()
    applier = Timed(engine, asked.group, stop, None if asked.dedup else NoDedup(engine))
    consumer = Consumer(asked.bootstrap, [asked.topic], group=asked.group)
    pace = Pace(live_records=asked.batch, behind_records=asked.batch, behind_from=0)
    loop = Loop(
        consumer,
        applier,
        Offsets(engine, asked.group),
        clock=utc_now,
        pace=pace,
        status=Status(),
        incarnation=asked.incarnation,
    )
    sampler = Sampler()
    await consumer.start()
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while len(consumer.assignment) != asked.partitions:
                await consumer.getmany(1, 0.05)
            applier.left = sum((await consumer.end_offsets(consumer.assignment)).values())
            if asked.sample:
                sampler.start()
            await loop.run(stop)
        sampler.stop()
        print(json.dumps(applier.figures(sampler.shares() if asked.sample else {})), flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until all of the group are done
    finally:
        await consumer.stop()
        await engine.dispose()


async def raw(bootstrap: str, topic: str, count: int) -> None:
    """aiokafka itself, its group member reading everything and looking at nothing."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=f"raw-{time.monotonic_ns()}", auto_offset_reset="earliest",
        enable_auto_commit=False,
    )  # fmt: skip
    await consumer.start()
    try:
        seen = 0
        began: tuple[float, float] | None = None
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while seen < count:
                asked = (time.monotonic(), time.process_time())
                fetched = await consumer.getmany(timeout_ms=200, max_records=20_000)
                if fetched:
                    began = began or asked
                    seen += sum(map(len, fetched.values()))
        assert began is not None
        ended = (time.monotonic(), time.process_time())
    finally:
        await consumer.stop()
    figures = {"events": seen, "rows": 0, "batches": 0, "began": began[0], "ended": ended[0],
               "cpu_seconds": ended[1] - began[1]}  # fmt: skip
    print(json.dumps(figures), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("url", "bootstrap", "topic", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--incarnation")
    parser.add_argument("--batch", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=32)
    parser.add_argument("--no-dedup", dest="dedup", action="store_false")
    parser.add_argument("--no-wakeups", dest="wakeups", action="store_false")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--raw", type=int, help="only read so many records")
    arguments = vars(parser.parse_args())
    count = arguments.pop("raw")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the group is being made
    if count is None:
        asyncio.run(consume(Asked(**arguments)))
    else:
        asyncio.run(raw(arguments["bootstrap"], arguments["topic"], count))


if __name__ == "__main__":
    main()
