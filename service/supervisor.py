"""Runs the roles as processes of their own, restarts what dies, and stops them in the order of the road.

A role's process gets a session of its own, so that the terminal's Ctrl-C reaches the supervisor alone, and our end
of its standard input: when we are gone, however we went, it reads end of file and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.settings import EX_CONFIG

SUPERVISED = "KIZASHI_SUPERVISED"
GRACE_SECONDS = 15.0
HEALTHY_SECONDS = 60.0
"""A role that ran this long starts its backoff anew."""

log = structlog.get_logger("kizashi.supervisor")


@dataclass(frozen=True, kw_only=True)
class RoleProcess:
    """One role to keep running; ``environment`` is added to ours. Its output goes to ours, or at the end of ``log``."""

    role: str
    environment: Mapping[str, str]
    log: Path | None = None

    @property
    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "service.cli", "serve", "--role", self.role]


def restart_delay(failures: int) -> float:
    """Seconds to wait before the next start after so many failures in a row: 0.5, 1, 2, … at most 30."""
    return float(min(30.0, 0.5 * 2 ** max(0, failures - 1)))


class Supervisor:
    """Keeps ``roles`` running until ``stop`` is set; the last in the list is stopped last."""

    def __init__(
        self,
        roles: Sequence[RoleProcess],
        stop: asyncio.Event,
        *,
        grace_seconds: float = GRACE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        told: Callable[[str, str], None] = lambda _role, _what: None,
    ) -> None:
        """``told`` hears of each role that ``ended`` unasked and of each that ``stopped``."""
        self._roles = roles
        self._told = told
        self._stop = stop
        self._grace = grace_seconds
        self._monotonic = monotonic
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.failure: str | None = None

    async def run(self) -> int:
        """Returns the exit status: 0 after an orderly stop, EX_CONFIG when a role cannot run as configured."""
        keepers = [asyncio.create_task(self._keep(role)) for role in self._roles]
        stopping = asyncio.create_task(self._stop.wait())
        # A keeper ends before the stop only when its role could not be started at all: that must not go unnoticed.
        await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
        self._stop.set()
        for role in self._roles:
            await self._end(role.role)
        await asyncio.gather(stopping, *keepers)
        return EX_CONFIG if self.failure else 0

    def pid(self, role: str) -> int | None:
        process = self._processes.get(role)
        return None if process is None or process.returncode is not None else process.pid

    async def _keep(self, role: RoleProcess) -> None:
        failures = 0
        while not self._stop.is_set():
            started = self._monotonic()
            process = self._processes[role.role] = await _spawn(role)
            if self._stop.is_set():  # the stop came while it was being spawned and could not reach it
                await self._end(role.role)
            status = await process.wait()
            if self._stop.is_set():
                return
            if status == EX_CONFIG:
                self.failure = role.role
                log.error("role cannot run as configured; stopping everything", role=role.role)
                self._stop.set()
                return
            failures = 1 if self._monotonic() - started > HEALTHY_SECONDS else failures + 1
            delay = restart_delay(failures)
            log.error("role ended and is started again", role=role.role, status=status, delay_seconds=delay)
            self._told(role.role, "ended")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)

    async def _end(self, role: str) -> None:
        process = self._processes.get(role)
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._grace)
        except TimeoutError:
            log.warning("role did not stop in time and is killed", role=role, grace_seconds=self._grace)
            process.kill()
            await process.wait()
        self._told(role, "stopped")


async def _spawn(role: RoleProcess) -> asyncio.subprocess.Process:
    with contextlib.ExitStack() as files:
        output = None if role.log is None else files.enter_context(role.log.open("ab"))
        return await asyncio.create_subprocess_exec(
            *role.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **role.environment, SUPERVISED: "1"},
            start_new_session=True,
        )


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGINT, SIGTERM set ``stop``; so does the end of our standard input when a supervisor holds its other end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if os.environ.get(SUPERVISED):
        loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1) else _orphaned(stop))


def _orphaned(stop: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()
