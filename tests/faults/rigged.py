"""``kizashi`` with failpoints: `python -m tests.faults.rigged serve --role consumer`.

The service's own code knows nothing of them. Each point is the moment before or after one of its functions, wrapped
here; a file of the point's name in the folder KIZASHI_FAILPOINTS arms it for the first process that passes. A function
that is no longer there ends the process at its start, so that no fault test passes for want of a fault.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

FOLDER = "KIZASHI_FAILPOINTS"
SESSION = "KIZASHI_FAULTS_SESSION_MS"
NO_SUCH_PLACE = 70

POINTS: dict[str, tuple[str, str, str]] = {
    # the consumer, along its road
    "partitions opened": ("consumers.offsets:Offsets.open", "after", "consumer"),
    "records polled": ("consumers.broker:Consumer.getmany", "after", "consumer"),
    "duplicates looked up": ("consumers.dedup:Dedup.load", "after", "consumer"),
    "offsets claimed": ("consumers.store:Store._claim", "after", "consumer"),
    "before COMMIT": ("consumers.store:Store._write", "after", "consumer"),
    "after COMMIT": ("consumers.store:Store.write", "after", "consumer"),
    "progress noted": ("consumers.offsets:Offsets.beat", "after", "consumer"),
    "Kafka told": ("consumers.broker:Consumer.commit", "before", "consumer"),
    # the HTTP door
    "before produce": ("consumers.broker:Producer.send_many", "before", "api"),
    "after produce": ("consumers.broker:Producer.send_many", "after", "api"),
}
"""What each stands for: (module:Class.method, when, role)."""


def arm(folder: Path, point: str, *, number: signal.Signals, pids: list[int] | None = None) -> None:
    """The first process to pass sends the signal to ``pids``, or to itself when there are none."""
    half = folder / f".{point}"
    half.write_text(json.dumps({"signal": int(number), "pids": pids or []}))
    half.rename(folder / point)


def disarm(folder: Path, point: str) -> bool:
    """Whether nobody had passed."""
    try:
        (folder / point).unlink()
    except FileNotFoundError:
        return False
    return True


def passed_by(folder: Path, point: str) -> int | None:
    """The process that has passed the point, None: nobody yet. Asking forgets it."""
    try:
        path = folder / f"{point}.passed"
        text = path.read_text()
        path.unlink()
    except FileNotFoundError:
        return None
    return int(text)


def _pass(folder: Path, point: str) -> None:
    try:
        order = json.loads((folder / point).read_text())
        (folder / point).rename(folder / f".{point}.{os.getpid()}")  # ours alone
    except FileNotFoundError:
        return
    half = folder / f".{point}.{os.getpid()}"
    half.write_text(str(os.getpid()))
    half.rename(folder / f"{point}.passed")
    for pid in order["pids"] or [os.getpid()]:
        try:
            os.kill(pid, order["signal"])
        except ProcessLookupError:
            continue


def _wrapped(
    function: Callable[..., Awaitable[Any]], passing: Callable[[], None], when: str
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def wrapped(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            passing()
        result = await function(*arguments, **named)
        if when == "after":
            passing()
        return result

    return wrapped


def rig(folder: Path, role: str) -> None:
    for point, (place, when, of_role) in POINTS.items():
        if of_role != role:
            continue
        module, _, path = place.partition(":")
        owner_name, _, name = path.partition(".")
        owner = getattr(importlib.import_module(module), owner_name, None)
        function = getattr(owner, name, None)
        if owner is None or function is None:
            sys.stderr.write(f"failpoint {point!r}: there is no {place}\n")
            raise SystemExit(NO_SUCH_PLACE)
        setattr(owner, name, _wrapped(function, functools.partial(_pass, folder, point), when))


def main() -> None:
    import consumers.broker

    if milliseconds := os.environ.get(SESSION):
        consumers.broker.SESSION_TIMEOUT_MS = int(milliseconds)  # before consumers.run takes its default from there
    rig(Path(os.environ[FOLDER]), sys.argv[-1])
    from service.cli import app

    app(sys.argv[1:])


if __name__ == "__main__":
    main()
