"""Child side of `embedded.process`: runs one server and makes sure that it stops when its owner is gone.

A file of its own, standard library only, started as `python -I -S guard.py [options] -- command …` in a session of its
own, so that the terminal's Ctrl-C reaches the owner alone. The owner holds the other end of our standard input: end of
file (the owner stopped us, exited, or was killed) means stop the server. A pipe and not PR_SET_PDEATHSIG, because that
signal fires when the *thread* that started the child ends, which under asyncio is a pool thread.
"""

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

# prctl(2): the server should not outlive a guard killed with SIGKILL either. Safe here, where there is one thread only.
PR_SET_PDEATHSIG = 1


def _die_with_guard(stop_signal: int) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, stop_signal)

    return before_exec


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stop-signal", type=int, required=True)
    parser.add_argument("--grace", type=float, required=True, help="seconds between the stop signal and SIGKILL")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--cwd", default="/")
    parser.add_argument("--keep-fd", type=int, action="append", default=[])
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _start(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    who = {} if options.uid is None else {"user": options.uid, "group": options.gid, "extra_groups": []}
    return subprocess.Popen(
        options.command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=sys.stderr,
        cwd=options.cwd,
        pass_fds=options.keep_fd,
        preexec_fn=_die_with_guard(options.stop_signal),  # noqa: PLW1509 - one thread only
        **who,
    )


def main() -> int:
    """Exit with the server's own exit status (128 + signal when a signal ended it)."""
    options = _arguments()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    child = _start(options)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"{child.pid}\n")
        sys.stdout.flush()
    while child.poll() is None:
        ready, _, _ = select.select([0, wake_read], [], [])
        if wake_read in ready and all(number == signal.SIGCHLD for number in os.read(wake_read, 512)):
            continue
        child.send_signal(options.stop_signal)
        try:
            child.wait(options.grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    # Not sys.exit: interpreter shutdown may complain about the closed pipe into the server's log.
    os._exit(main())
