"""The shadow: the fact tables once more, in a schema of their own, and what fills them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import uuid4

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine

from consumers.broker import Partition
from consumers.dedup import DayHashes, event_hash
from consumers.fold import Arrival, fold
from consumers.store import raw_connection, statements
from health.tables import FACT_TABLES

PREFIX: Final = "kizashi_replay_"
LONG_SECONDS: Final = 3600.0
LEFT_OVER: Final = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'kizashi\\_replay\\_%' ORDER BY 1"
_INSERT: Final = "INSERT INTO "
_Key = tuple[str, int, int, str | None]
"""Topic, partition, event day, import."""
_DAY_SECONDS: Final = 86_400


class Shadow:
    """``schema`` is a name made here: it needs no quoting."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.schema = f"{PREFIX}{uuid4().hex}"

    async def create(self) -> None:
        """With the tables, indexes and defaults of the live ones; unlogged: a crash of the server empties them."""
        async with raw_connection(self._engine) as connection, connection.transaction():
            await connection.execute(f"CREATE SCHEMA {self.schema}")
            for table in FACT_TABLES:
                await connection.execute(
                    f"CREATE UNLOGGED TABLE {self.schema}.{table.name} (LIKE {table.name} INCLUDING DEFAULTS "
                    "INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)"
                )

    async def drop(self) -> None:
        async with raw_connection(self._engine) as connection:
            await _drop(connection, self.schema)

    async def analyze(self) -> None:
        """So that the comparison is planned well."""
        async with raw_connection(self._engine) as connection:
            for table in FACT_TABLES:
                await connection.execute(f"ANALYZE {self.schema}.{table.name}", timeout=LONG_SECONDS)

    def statement(self, sql: str) -> str:
        """An upsert of the facts, turned to the shadow by name: a search path could lead back to the live tables."""
        if not sql.startswith(_INSERT):
            raise ValueError(f"not an upsert: {sql[:40]}")
        return f"{_INSERT}{self.schema}.{sql.removeprefix(_INSERT)}"


async def drop_left_over(engine: AsyncEngine) -> int:
    """What runs that were killed left; only for whoever holds the replay's lock."""
    async with raw_connection(engine) as connection:
        names = [row["nspname"] for row in await connection.fetch(LEFT_OVER)]
        for name in names:
            await _drop(connection, name)
    return len(names)


async def _drop(connection: Any, schema: str) -> None:
    await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE", timeout=LONG_SECONDS)


class Seen:
    """Which events came before, told as the consumers tell it, yet without a window: by hashes per partition and event
    day, 8 bytes an event; those of an import by the numbers of their rows, which rise within a partition."""

    def __init__(self) -> None:
        self._days: dict[_Key, DayHashes] = {}
        self._newest: dict[_Key, int] = {}  # arrival, epoch µs
        self._marks: dict[tuple[str, int, str], int] = {}  # the highest row of an import, of the days forgotten
        self._forgotten = -(2**31)  # days before this one

    def fresh(self, batch: Sequence[tuple[Partition, Arrival]]) -> list[Arrival]:
        """What is new, and remembers it; of several of one name the first."""
        keys: defaultdict[_Key, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for index, ((topic, partition), (event, arrived)) in enumerate(batch):
            day = int(event.timestamp.timestamp() // _DAY_SECONDS)
            if (
                event.import_id is not None
                and event.import_row is not None
                and day < self._forgotten
                and event.import_row <= self._marks.get((topic, partition, event.import_id), -1)
            ):
                continue
            key = topic, partition, day, event.import_id
            hashes, places = keys[key]
            hashes.append(event_hash(event) if event.import_row is None else event.import_row)
            places.append(index)
            self._newest[key] = max(self._newest.get(key, arrived), arrived)
        fresh: list[int] = []
        for key, (hashes, places) in keys.items():
            unique, first = np.unique(np.array(hashes, dtype=np.uint64), return_index=True)
            known = self._days.setdefault(key, DayHashes())
            new = ~known.contains(unique)
            if new.any():
                known.add(unique[new])
                fresh += [places[place] for place in first[new].tolist()]
        return [batch[index][1] for index in sorted(fresh)]

    def forget(self, before: date, arrived_before_us: int) -> None:
        """Days before this one of which nothing more will come, but for repetitions: those of an import are told by
        the highest of its rows, others repeat only what arrived lately, and such days are kept."""
        self._forgotten = int(datetime(before.year, before.month, before.day, tzinfo=UTC).timestamp() // _DAY_SECONDS)
        for key in [key for key in self._days if key[2] < self._forgotten]:
            topic, partition, _, import_id = key
            if import_id is None and self._newest[key] >= arrived_before_us:
                continue
            if import_id is not None:
                mark = topic, partition, import_id
                self._marks[mark] = max(self._marks.get(mark, -1), self._days[key].highest)
            del self._days[key], self._newest[key]


@dataclass(kw_only=True)
class Tally:
    """What became of the events that were read."""

    events: int = 0
    duplicates: int = 0
    erased: int = 0
    refused: int = 0


class Rebuilder:
    """Brings events into the shadow. ``now`` stands for every batch's time, which no comparison looks at."""

    def __init__(self, engine: AsyncEngine, shadow: Shadow, now: datetime) -> None:
        self._engine = engine
        self._shadow = shadow
        self._now = now
        self.seen = Seen()
        self.tally = Tally()

    async def add(self, batch: Sequence[tuple[Partition, Arrival]], connection: Any = None) -> None:
        """In a transaction of its own, or in that of ``connection``."""
        fresh = self.seen.fresh(batch)
        self.tally.events += len(fresh)
        self.tally.duplicates += len(batch) - len(fresh)
        if not fresh:
            return
        made = list(statements(fold(fresh, now=self._now)))
        if connection is not None:
            await self._execute(connection, made)
            return
        async with raw_connection(self._engine) as own, own.transaction():
            # Lost with a crash, as the whole shadow: nothing is won by waiting for the disk.
            await own.execute("SET LOCAL synchronous_commit = off")
            await self._execute(own, made)

    async def _execute(self, connection: Any, made: Sequence[tuple[str, Sequence[Any]]]) -> None:
        for sql, arguments in made:
            await connection.execute(self._shadow.statement(sql), *arguments, timeout=LONG_SECONDS)
