"""`make demo` as a reader of the README types it, in the clone that holds this file; part of what CI runs.

Starts it, looks at every address that it prints, waits for the first alert, sends an event, presses Ctrl-C, starts it
again and stops it again. Prints what took how long. Status 1, and the output, when a promise is not kept.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
UP_SECONDS = 90.0
FIRST_ALERT_SECONDS = 60.0
LOADED_SECONDS = 120.0
STOP_SECONDS = 40.0
SHOWN_SECONDS = 5.0


class NotKept(Exception):
    """A promise of the demo that it did not keep."""


class MakeDemo:
    """`make demo` with its output in a file, in a process group of its own, as a terminal would have it."""

    def __init__(self, out: IO[bytes], folder: Path) -> None:
        self._out = out
        self._from = out.tell()
        self.folder = folder
        self.process = subprocess.Popen(
            ["make", "demo"],
            cwd=ROOT,
            env={**os.environ, "KIZASHI_DEMO_DIR": str(folder), "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )

    def said(self) -> str:
        return Path(self._out.name).read_bytes()[self._from :].decode()

    def wait_for(self, pattern: str, seconds: float) -> str:
        def look() -> str | None:
            found = re.search(pattern, self.said())
            if found is None and self.process.poll() is not None:
                raise NotKept(f"it ended with status {self.process.returncode}")
            return found[1] if found else None

        return str(until(look, seconds, f"to print {pattern!r}"))

    def ctrl_c(self) -> None:
        """To the whole foreground group, as the terminal sends it."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise NotKept(f"it did not stop within {STOP_SECONDS:.0f} s of Ctrl-C") from None
        for name in ("api", "consumer", "evaluator", "sender", "PostgreSQL", "Local inbox"):
            if f"{name} stopped" not in self.said():
                raise NotKept(f"it did not say that the {name} stopped")


def until(look: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise NotKept(f"waited {seconds:.0f} s for it {what}")
        time.sleep(0.1)
    return found


def fetch(url: str, *, key: str | None = None, body: dict[str, Any] | None = None) -> tuple[int, str]:
    headers = {"content-type": "application/json", **({} if key is None else {"authorization": f"Bearer {key}"})}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def first_run(demo: MakeDemo, measured: dict[str, float]) -> None:
    began = time.monotonic()
    board = demo.wait_for(r"The board answers: (http://\S+)", UP_SECONDS)
    up = time.monotonic()
    measured["start to board"] = up - began
    demo.wait_for(r"(The first alert is in the inbox)", FIRST_ALERT_SECONDS)
    measured["board to first alert"] = time.monotonic() - up
    demo.wait_for(r"(History loaded)", LOADED_SECONDS)
    measured["board to all history loaded"] = time.monotonic() - up
    key = demo.wait_for(r"(kz_[\w-]+)", 5)
    inbox = demo.wait_for(r"Local inbox\s+(http://[^\s│]+)", 5)
    for url in (board, f"{board}/alerts", f"{board}/docs", f"{board}/metrics", inbox, f"{inbox}/api/messages"):
        status, _ = fetch(url)
        if status != 200:
            raise NotKept(f"{url} answers {status}")
    account = "acct-003"
    event = {
        "kind": "ticket", "ticket_id": "from-the-clone", "status": "open", "event_id": "from-the-clone",
        "account_id": account, "timestamp": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    sent = time.monotonic()
    status, text = fetch(f"{board}/api/v1/events", key=key, body=event)
    if status != 202:
        raise NotKept(f"an event was answered {status}: {text}")
    page = f"{board}/api/v1/accounts/{account}/timeline"
    until(lambda: "from-the-clone" in fetch(page, key=key)[1], SHOWN_SECONDS, "to show an event on its account")
    measured["event to timeline"] = time.monotonic() - sent


def main() -> int:
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, (Path(name) / "output.txt").open("wb+") as out:
        demo = MakeDemo(out, Path(name) / "state")
        try:
            first_run(demo, measured)
            stopping = time.monotonic()
            demo.ctrl_c()
            measured["Ctrl-C to end"] = time.monotonic() - stopping
            out.seek(0, os.SEEK_END)
            began = time.monotonic()
            demo = MakeDemo(out, Path(name) / "state")
            demo.wait_for(r"(accounts is here already)", UP_SECONDS)
            measured["second start to all data served"] = time.monotonic() - began
            demo.ctrl_c()
        except NotKept as problem:
            print(f"make demo: {problem}\n--- it printed:\n{demo.said()}", file=sys.stderr)
            if demo.process.poll() is None:
                demo.process.terminate()
                demo.process.wait(STOP_SECONDS)
            return 1
    for what, seconds in measured.items():
        print(f"  {what}: {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
