"""What the demo keeps in its folder from one start to the next, and the lock that keeps two from sharing it."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from datetime import datetime
from pathlib import Path
from typing import IO, Final, Self, TypeVar

import msgspec

T = TypeVar("T")

OURS: Final = ("state.json", "secrets.json", "people.yaml", "postgres", "kafka", "inbox", "inbox.json", "log", "lock")
"""Everything the demo makes in its folder: what ``wipe`` removes."""


class DemoError(Exception):
    """The demo cannot go on; says why and what to do."""


class State(msgspec.Struct, kw_only=True):
    """``covered_until``: all that happened at the company before it has been handed to the broker."""

    name: str
    seed: int
    accounts: int
    history_days: int
    broker: str
    anchor: datetime | None = None
    covered_until: datetime | None = None
    starts: int = 0

    @property
    def topic(self) -> str:
        return f"kizashi.{self.name}"

    @property
    def group(self) -> str:
        return f"kizashi-{self.name}"

    @property
    def import_id(self) -> str:
        return f"{self.name}-history"


class Secrets(msgspec.Struct, kw_only=True):
    """Only their owner may read the file."""

    secret_key: str
    api_key: str | None = None

    def __repr__(self) -> str:
        return "Secrets(…)"


class Folder:
    """The state folder. ``with folder:`` holds its lock. Raises DemoError when another demo does."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: IO[str] | None = None

    @property
    def log(self) -> Path:
        return self.path / "log"

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise DemoError(
                f"a demo already runs in {self.path} (process {owner}): stop it with Ctrl-C there, or start this one "
                "elsewhere with KIZASHI_DEMO_DIR=another-folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file
        self.log.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def is_used(self) -> bool:
        """Whether a demo was begun here."""
        return (self.path / "state.json").exists()

    def wipe(self) -> None:
        """Removes what the demo made there, and nothing else."""
        for name in OURS:
            target = self.path / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            elif name != "lock":
                target.unlink(missing_ok=True)
        self.log.mkdir(exist_ok=True)

    def read_state(self) -> State | None:
        """None when nothing was begun here."""
        return self._read("state.json", State)

    def write_state(self, state: State) -> None:
        self._write("state.json", msgspec.json.encode(state))

    def secrets(self) -> Secrets:
        """Those of this folder; made when it is new."""
        found = self._read("secrets.json", Secrets)
        if found is None:
            found = Secrets(secret_key=secrets.token_urlsafe(32))
            self.write_secrets(found)
        return found

    def write_secrets(self, value: Secrets) -> None:
        self._write("secrets.json", msgspec.json.encode(value))

    def write_text(self, name: str, text: str) -> Path:
        """Whole or not at all; for its owner's eyes."""
        return self._write(name, text.encode())

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self.path / name).read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise DemoError(
                f"{self.path / name} cannot be read ({error}): `kizashi demo --fresh` begins anew"
            ) from None

    def _write(self, name: str, content: bytes) -> Path:
        fresh = self.path / f"{name}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        return fresh.replace(self.path / name)
