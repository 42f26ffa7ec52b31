"""The supervisor with real processes: restarts what dies, stops in order, leaves nobody behind when it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded.process import wait_until_gone
from service.settings import EX_CONFIG
from service.supervisor import RoleProcess, Supervisor, restart_delay

ROOT = Path(__file__).parent.parent.parent

CHILD = """
import asyncio, os, sys
from service.supervisor import stop_on_signals
async def main():
    stop = asyncio.Event()
    stop_on_signals(stop)
    note = lambda what: open(sys.argv[2], "a").write(f"{what} {sys.argv[1]} {os.getpid()}\\n")
    note("started")
    await stop.wait()
    note("stopped")
asyncio.run(main())
"""


@dataclass(frozen=True, kw_only=True)
class Child(RoleProcess):
    """A role that only notes when it starts and stops."""

    notes: str
    source: str = CHILD

    @property
    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", self.source, self.role, self.notes]


def child(role: str, notes: Path, source: str = CHILD) -> Child:
    return Child(role=role, environment={"PYTHONPATH": str(ROOT)}, notes=str(notes), source=source)


async def lines(notes: Path, count: int) -> list[list[str]]:
    found: list[list[str]] = []
    for _ in range(200):
        found = await asyncio.to_thread(_read, notes)
        if len(found) >= count:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{found} after 10 s")


def _read(notes: Path) -> list[list[str]]:
    return [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []


async def test_what_dies_is_started_again_and_the_stop_is_in_order(tmp_path: Path) -> None:
    notes, stop = tmp_path / "notes", asyncio.Event()
    supervisor = Supervisor([child("first", notes), child("second", notes)], stop)
    running = asyncio.create_task(supervisor.run())
    started = await lines(notes, 2)
    pid = next(int(line[2]) for line in started if line[1] == "first")
    os.kill(pid, signal.SIGKILL)
    again = await lines(notes, 3)
    assert again[2][:2] == ["started", "first"] and int(again[2][2]) != pid
    stop.set()
    assert await running == 0
    assert [line[:2] for line in (await lines(notes, 5))[3:]] == [["stopped", "first"], ["stopped", "second"]]


async def test_a_role_that_cannot_run_as_configured_stops_everything(tmp_path: Path) -> None:
    notes, stop = tmp_path / "notes", asyncio.Event()
    broken = child("broken", notes, f"import sys; sys.exit({EX_CONFIG})")
    assert await Supervisor([child("fine", notes), broken], stop).run() == EX_CONFIG


async def test_a_role_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    notes, stop = tmp_path / "notes", asyncio.Event()
    deaf = (
        "import signal, sys, time; signal.signal(15, 1); "
        "open(sys.argv[2], 'a').write('started deaf 0\\n'); time.sleep(60)"
    )
    supervisor = Supervisor([child("deaf", notes, deaf)], stop, grace_seconds=0.3)
    running = asyncio.create_task(supervisor.run())
    await lines(notes, 1)
    stop.set()
    assert await asyncio.wait_for(running, 10) == 0


async def test_a_killed_supervisor_leaves_no_role_behind(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    (tmp_path / "owner.py").write_text(
        textwrap.dedent(f"""
        import asyncio, sys
        sys.path[:0] = [{str(ROOT)!r}]
        from pathlib import Path
        from tests.integration.test_supervisor import child
        from service.supervisor import Supervisor
        asyncio.run(Supervisor([child("orphan", Path({str(notes)!r}))], asyncio.Event()).run())
        """)
    )
    owner = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / "owner.py"))
    ((_, _, pid),) = await lines(notes, 1)
    owner.kill()
    await owner.wait()
    assert wait_until_gone(int(pid), 10)
    assert (await lines(notes, 2))[1][0] == "stopped"


def test_the_pause_before_a_restart_grows_and_is_bounded() -> None:
    assert [restart_delay(failures) for failures in (1, 2, 3, 20)] == [0.5, 1.0, 2.0, 30.0]
