"""The faults. Each is done to a running road, and returns with its details when it has ended: the process is dead (and
about to be started again), the link flows, the disk has room.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults import rigged, sender
from tests.faults.proxy import Lost, is_commit, is_produce
from tests.faults.rig import CONSUMERS, SESSION_SECONDS, Rig, family, process_of

CONSUMER = b"kizashi-consumer"
API = b"kizashi-api"
CLIENTS = sender.NAME.encode()
LOST_SECONDS = 60.0
BALLAST_STEPS = (1 << 20, 1 << 12)

OPENED = "partitions opened"
CONSUMER_POINTS = tuple(name for name, (_, _, role) in rigged.POINTS.items() if role == "consumer")
API_POINTS = tuple(name for name, (_, _, role) in rigged.POINTS.items() if role == "api")
BATCH_POINTS = ("offsets claimed", "before COMMIT", "after COMMIT")
ZOMBIE_POINTS = ("records polled", "duplicates looked up", *BATCH_POINTS)
BROKER_POINTS = ("records polled", *API_POINTS)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``weight``: how often among the others in a long run. ``small_disk``: needs Postgres on a small disk."""

    name: str
    inject: Callable[[Rig, Random], Awaitable[str]]
    weight: int
    small_disk: bool = False


async def kill_consumer_at_a_point(rig: Rig, chance: Random) -> str:
    point = chance.choice(CONSUMER_POINTS)
    rigged.arm(rig.failpoints, point, number=signal.SIGKILL)
    if point == OPENED:
        rig.processes[chance.choice(CONSUMERS)].signal(signal.SIGKILL)
    await rig.passes(point)
    return point


async def kill_consumer(rig: Rig, chance: Random) -> str:
    await asyncio.sleep(chance.uniform(0, 1))
    killed = chance.choice(((CONSUMERS[0],), (CONSUMERS[1],), CONSUMERS))
    for name in killed:
        rig.processes[name].signal(signal.SIGKILL)
    return ", ".join(killed)


async def zombie(rig: Rig, chance: Random) -> str:
    """Paused until others have its partitions, then resumed."""
    point = chance.choice(ZOMBIE_POINTS)
    rigged.arm(rig.failpoints, point, number=signal.SIGSTOP)
    pid = await rig.passes(point, dies=False)
    await asyncio.sleep(SESSION_SECONDS + chance.uniform(0.5, 2.5))
    os.kill(pid, signal.SIGCONT)
    return point


async def rebalance_storm(rig: Rig, chance: Random) -> str:
    """Members come and go, some in good order, some by SIGKILL."""
    rounds = chance.randint(3, 5)
    guests = [process_of(rig, f"consumer-guest-{number}") for number in range(rounds)]
    try:
        for guest in guests:
            guest.start()
            await asyncio.sleep(chance.uniform(1.0, 3.0))
            guest.signal(chance.choice((signal.SIGKILL, signal.SIGTERM)))
    finally:
        for guest in guests:
            await asyncio.to_thread(guest.end)
    return f"{rounds} guests"


async def kill_api_at_a_point(rig: Rig, chance: Random) -> str:
    point = chance.choice(API_POINTS)
    rigged.arm(rig.failpoints, point, number=signal.SIGKILL)
    await rig.passes(point)
    return point


async def kill_api(rig: Rig, chance: Random) -> str:
    await asyncio.sleep(chance.uniform(0, 1))
    rig.processes["api"].signal(signal.SIGKILL)
    return "at random"


async def kill_broker(rig: Rig, chance: Random) -> str:
    point = chance.choice((*BROKER_POINTS, "at random"))
    if point in BROKER_POINTS:
        rigged.arm(rig.failpoints, point, number=signal.SIGKILL, pids=[rig.kafka.pid])
        await rig.passes(point, dies=False)
    await rig.kill_broker(down_seconds=chance.uniform(0, 2))
    return point


async def stall_broker(rig: Rig, chance: Random) -> str:
    seconds = chance.uniform(1, 7)
    rig.kafka.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        rig.kafka.signal(signal.SIGCONT)
    return f"{seconds:.1f} s"


async def kill_postgres_at_a_point(rig: Rig, chance: Random) -> str:
    point = chance.choice(BATCH_POINTS)
    rigged.arm(rig.failpoints, point, number=signal.SIGKILL, pids=family(rig.postgres.pid))
    await rig.passes(point, dies=False)
    await rig.kill_postgres()
    return point


async def kill_postgres(rig: Rig, chance: Random) -> str:
    await asyncio.sleep(chance.uniform(0, 1))
    await rig.kill_postgres()
    return "at random"


async def lose_commit_answer(rig: Rig, chance: Random) -> str:
    await _lost(rig.to_database.lose_answer(CONSUMER, is_commit))
    return "consumer"


async def lose_produce_answer(rig: Rig, chance: Random) -> str:
    name = chance.choice((API, CLIENTS))
    await _lost(rig.to_broker.lose_answer(name, is_produce))
    return name.decode()


async def _lost(lost: Lost) -> None:
    if not await asyncio.to_thread(lost.done.wait, LOST_SECONDS):
        raise TimeoutError("nothing was asked whose answer could be lost")


async def reset_database_links(rig: Rig, chance: Random) -> str:
    name = chance.choice((CONSUMER, CONSUMER, API))
    cut = 0
    for _ in range(chance.randint(1, 6)):
        cut += rig.to_database.reset(name)
        await asyncio.sleep(chance.uniform(0, 0.3))
    return f"{name.decode()}, {cut} connections"


async def database_half_open(rig: Rig, chance: Random) -> str:
    name = chance.choice((CONSUMER, CONSUMER, API))
    seconds = chance.uniform(2, 7)
    rig.to_database.stall(name)
    try:
        await asyncio.sleep(seconds)
    finally:
        rig.to_database.flow()
    return f"{name.decode()}, {seconds:.1f} s"


async def reset_broker_links(rig: Rig, chance: Random) -> str:
    name = chance.choice((CONSUMER, API, CLIENTS))
    cut = 0
    for _ in range(chance.randint(1, 6)):
        cut += rig.to_broker.reset(name)
        await asyncio.sleep(chance.uniform(0, 0.3))
    return f"{name.decode()}, {cut} connections"


async def broker_half_open(rig: Rig, chance: Random) -> str:
    name = chance.choice((CONSUMER, API, CLIENTS))
    seconds = chance.uniform(2, 8)
    rig.to_broker.stall(name)
    try:
        await asyncio.sleep(seconds)
    finally:
        rig.to_broker.flow()
    return f"{name.decode()}, {seconds:.1f} s"


async def fill_disk(rig: Rig, chance: Random) -> str:
    """Until nothing fits any more; then there is room again, and a server that gave up is started."""
    seconds = chance.uniform(2, 6)
    ballast = rig.postgres.folder / "ballast"
    filling = asyncio.create_task(_keep_full(ballast))
    try:
        await asyncio.sleep(seconds)
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
        ballast.unlink(missing_ok=True)
    await asyncio.sleep(0.5)  # what was about to give up does
    ended = not rig.postgres.running
    if ended:
        await asyncio.to_thread(rig.postgres.kill)
        await asyncio.to_thread(rig.postgres.start)
    return f"{seconds:.1f} s, the server {'gave up' if ended else 'stayed'}"


async def _keep_full(path: Path) -> None:
    """Takes also what Postgres gives back meanwhile."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, fd)
        while True:
            for step in BALLAST_STEPS:
                _write_until_full(fd, step)
            await asyncio.sleep(0.02)


def _write_until_full(fd: int, step: int) -> None:
    while True:
        try:
            os.write(fd, bytes(step))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


FAULTS: Sequence[Fault] = (
    Fault(name="consumer killed at a named point", inject=kill_consumer_at_a_point, weight=40),
    Fault(name="consumer killed at random", inject=kill_consumer, weight=14),
    Fault(name="zombie consumer", inject=zombie, weight=18),
    Fault(name="rebalance storm", inject=rebalance_storm, weight=8),
    Fault(name="API killed at a named point", inject=kill_api_at_a_point, weight=14),
    Fault(name="API killed at random", inject=kill_api, weight=4),
    Fault(name="broker killed", inject=kill_broker, weight=14),
    Fault(name="broker stalled", inject=stall_broker, weight=8),
    Fault(name="Postgres killed at a named point", inject=kill_postgres_at_a_point, weight=18),
    Fault(name="Postgres killed at random", inject=kill_postgres, weight=6),
    Fault(name="answer to COMMIT lost", inject=lose_commit_answer, weight=24),
    Fault(name="answer to produce lost", inject=lose_produce_answer, weight=8),
    Fault(name="connections to Postgres reset", inject=reset_database_links, weight=8),
    Fault(name="Postgres half open", inject=database_half_open, weight=10),
    Fault(name="connections to the broker reset", inject=reset_broker_links, weight=8),
    Fault(name="broker half open", inject=broker_half_open, weight=8),
    Fault(name="Postgres' disk full", inject=fill_disk, weight=10, small_disk=True),
)
