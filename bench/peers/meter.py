"""The clock of a peer: from its first event to its last durable write, and the arguments that all of them take."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    bootstrap: str
    topic: str
    group: str
    dsn: str
    events: int
    folder: str  # for the peer's own state, empty


def task() -> Task:
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "group", "dsn", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--events", type=int, required=True)
    return Task(**vars(parser.parse_args()))


class Meter:
    """``seen`` at each event, ``durable`` after each write with the number of events that it made durable."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.ended = (0.0, 0.0)
        self.events = self.writes = self.rows = 0

    def seen(self) -> None:
        if self.began is None:
            self.began = (time.monotonic(), time.process_time())

    def durable(self, events: int, rows: int) -> None:
        self.events += events
        self.rows += rows
        self.writes += 1
        self.ended = (time.monotonic(), time.process_time())

    def report(self) -> None:
        """The last line of the process's output, as JSON."""
        assert self.began is not None
        figures = {
            "events": self.events, "rows": self.rows, "batches": self.writes, "began": self.began[0],
            "ended": self.ended[0], "cpu_seconds": self.ended[1] - self.began[1],
        }  # fmt: skip
        print(json.dumps(figures), flush=True)
