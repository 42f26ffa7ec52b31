"""Owner side of a guarded server process: start, watch, stop, kill, and the words for when it would not start."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

GUARD = Path(__file__).with_name("guard.py")
LOG_TAIL_LINES = 25


class EmbeddedError(RuntimeError):
    """An embedded server could not be started or stopped; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """The unprivileged account a server runs under when we are root."""

    uid: int
    gid: int


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listened on a moment ago; the caller retries if it lost the race."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now (old connections in TIME_WAIT do not count)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a server's log, for an error message."""
    if not path.exists():
        return "(no log was written)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) or "(the log is empty)"


@dataclass(kw_only=True)
class GuardedProcess:
    """One server under a guard. `log` receives its output, begun anew at each start (the former one becomes `.1`)."""

    command: Sequence[str]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 30.0
    environment: Mapping[str, str] | None = None
    account: Account | None = None
    keep_fds: Sequence[int] = ()
    cwd: str = "/"
    pid: int = field(default=0, init=False)
    _guard: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Raises EmbeddedError when the command itself cannot be run; readiness is the caller's to await."""
        if self.log.exists():
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        with self.log.open("wb") as log:
            self._guard = self._spawn(log)
        assert self._guard.stdout is not None
        line = self._guard.stdout.readline()
        if not line:
            self._guard.wait()
            raise EmbeddedError(f"cannot run {self.command[0]}:\n{log_tail(self.log)}")
        self.pid = int(line)

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        options = ["--stop-signal", str(int(self.stop_signal)), "--grace", str(self.grace_seconds), "--cwd", self.cwd]
        for fd in self.keep_fds:
            options += ["--keep-fd", str(fd)]
        if self.account is not None:
            options += ["--uid", str(self.account.uid), "--gid", str(self.account.gid)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), *options, "--", *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            pass_fds=self.keep_fds,
            env=None if self.environment is None else dict(self.environment),
        )

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def stop(self) -> None:
        """Stop signal, then SIGKILL after the grace; returns when the process is gone. Harmless when it already is."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        self._guard.wait(self.grace_seconds + 10)
        self._guard.stdout.close()
        self._guard = None

    def kill(self) -> None:
        """SIGKILL, as a crash would; for fault tests."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send any other signal (SIGSTOP and SIGCONT make a stalled server)."""
        os.kill(self.pid, number)


def wait_until_gone(pid: int, seconds: float) -> bool:
    """Whether a process that is not our child has ended within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        time.sleep(0.05)
    return False
