"""What was received, newest kept: in memory, and in a JSON-lines file when there is a state folder."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

KEPT = 1000
Door = Literal["slack", "email", "webhook"]


def wall_clock() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the embedded parts stand alone, without service/clock.py


@dataclass(frozen=True, kw_only=True)
class Received:
    """One accepted message. ``message_id`` is the sender's own (webhook-id, Message-ID; none for Slack)."""

    number: int
    door: Door
    target: str
    at: str
    message_id: str | None
    repeats: int
    """How many earlier messages had the same id: a repetition after a crash."""
    content: dict[str, Any]


class Store:
    def __init__(self, folder: Path | None, clock: Callable[[], datetime] = wall_clock) -> None:
        self._clock = clock
        self._messages: deque[Received] = deque(maxlen=KEPT)
        self._file = None if folder is None else folder / "messages.jsonl"
        self._lines = 0
        if self._file is not None and self._file.exists():
            self._load(self._file)

    def _load(self, file: Path) -> None:
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                self._messages.append(Received(**json.loads(line)))
            except (ValueError, TypeError):
                continue  # the last line of a killed process may be half a line
        self._rewrite(file)

    def add(self, door: Door, target: str, content: dict[str, Any], message_id: str | None = None) -> Received:
        last = self._messages[-1].number if self._messages else 0
        seen = sum(1 for one in self._messages if message_id is not None and one.message_id == message_id)
        received = Received(
            number=last + 1, door=door, target=target, at=self._clock().isoformat(timespec="milliseconds"),
            message_id=message_id, repeats=seen, content=content,
        )  # fmt: skip
        self._messages.append(received)
        if self._file is not None:
            self._write(self._file, received)
        return received

    def _write(self, file: Path, received: Received) -> None:
        if self._lines >= 2 * KEPT:
            self._rewrite(file)
            return
        with file.open("a", encoding="utf-8") as out:
            out.write(_line(received))
        self._lines += 1

    def _rewrite(self, file: Path) -> None:
        fresh = file.with_suffix(".new")
        fresh.write_text("".join(_line(one) for one in self._messages), encoding="utf-8")
        fresh.replace(file)
        self._lines = len(self._messages)

    def newest(self, door: str | None = None, after: int = 0) -> Iterator[Received]:
        """Newest first, those with a number above ``after``."""
        return (one for one in reversed(self._messages) if one.number > after and door in {None, one.door})

    def find(self, number: int) -> Received | None:
        return next((one for one in self._messages if one.number == number), None)

    def clear(self) -> None:
        self._messages.clear()
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        self._lines = 0


def _line(received: Received) -> str:
    # Lone surrogates from a broken mail cannot be written as UTF-8: JSON's own escapes can.
    return json.dumps(asdict(received)) + "\n"
