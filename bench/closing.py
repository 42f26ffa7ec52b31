"""What the close of a day costs: ``python -m bench.closing --accounts 100000``.

Accounts with two years of activity in their own rhythms and a recorded start and, of some, end, in a PostgreSQL of its
own. Printed: seconds and CPU of this process, its growth, and how long a plain query of another connection waited at
most while it went on.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.postgres import EmbeddedPostgres
from health import fleet
from service.db import make_engine, migrate

NOW = datetime(2025, 6, 18, 0, 5, tzinfo=UTC)
MONTHS = 24


def rows(accounts: int) -> Iterator[tuple[str, datetime, datetime | None, list[tuple[date, int]]]]:
    """(account, start, end, (month, bits of active days))."""
    random = np.random.default_rng(7)
    first = np.datetime64("2023-07", "M")
    months = [(first + n).astype("datetime64[D]").astype(object) for n in range(MONTHS)]
    for n in range(accounts):
        often = min(0.9, random.lognormal(-1.5, 1))
        masks = np.packbits(random.random((MONTHS, 28)) < often, axis=1, bitorder="little").view("<i4")[:, 0]
        begins, left = int(random.integers(0, MONTHS - 1)), random.random() < 0.2
        ends = int(random.integers(begins + 1, MONTHS)) if left else MONTHS
        spans = [(month, int(mask)) for month, mask in zip(months[begins:ends], masks[begins:ends], strict=True)]
        begun = datetime.combine(months[begins], datetime.min.time(), UTC)
        over = datetime.combine(months[ends], datetime.min.time(), UTC) if left else None
        yield f"account-{n:07d}", begun, over, [(month, mask) for month, mask in spans if mask]


async def store(url: str, accounts: int) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    nothing = [0] * 31
    found = rows(accounts)
    while some := [row for _, row in zip(range(5000), found, strict=False)]:
        heads = [(a, begun, over or NOW, begun, NOW) for a, begun, over, _ in some]
        names = ["account_id", "started_at", "last_activity_at", "first_event_at", "changed_at"]
        await connection.copy_records_to_table("accounts", records=heads, columns=names)
        months = [(a, month, nothing, nothing, mask) for a, _, _, spans in some for month, mask in spans]
        names = ["account_id", "month", "logins", "events", "active_days"]
        await connection.copy_records_to_table("account_months", records=months, columns=names)
        said = [(a, "status", at, f"b:{status}", f'"{status}"', NOW) for a, begun, over, _ in some
                for status, at in (("active", begun), ("ended", over)) if at is not None]  # fmt: skip
        names = ["account_id", "attribute", "valid_from", "event_key", "value", "known_at"]
        await connection.copy_records_to_table("account_history", records=said, columns=names)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def close(engine: AsyncEngine) -> tuple[bool, float]:
    """Whether the day was closed, and the longest that another query waited meanwhile, in seconds."""
    closing = asyncio.create_task(fleet.close_day(engine, NOW))
    longest = 0.0
    async with engine.connect() as conn:
        while not closing.done():
            begun = time.monotonic()
            await conn.execute(text("SELECT 1"))
            longest = max(longest, time.monotonic() - begun)
            await asyncio.sleep(0.01)
    return await closing, longest


def peak(*, anew: bool = False) -> float:
    """The most memory that this process held, MiB (Linux); ``anew``: counted from now on."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


async def measure(url: str, accounts: int) -> None:
    await store(url, accounts)
    engine = make_engine(url)
    before = peak(anew=True)
    begun, spent = time.monotonic(), time.process_time()
    closed, longest = await close(engine)
    seconds, cpu = time.monotonic() - begun, time.process_time() - spent
    async with engine.connect() as conn:
        learnt = await fleet.of_day(conn, NOW.date() - timedelta(days=1))
        size = await conn.scalar(text("SELECT max(pg_column_size(payload)) FROM fleets"))
        begun = time.monotonic()
        await fleet.read_base_rate(conn, NOW.date() - timedelta(days=1))
        counting = time.monotonic() - begun
    await engine.dispose()
    grown = peak() - before
    print(f"{accounts:,} accounts, closed: {closed}; {seconds:.1f} s, of them {counting:.1f} s counting cancellations; "
          f"CPU of this process {cpu:.1f} s; peak memory +{grown:.0f} MiB; another query waited "
          f"{longest * 1000:.0f} ms at most; base rate {learnt.base_rate:.2%}; {size:,} bytes kept")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, default=100_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as postgres:
        postgres.create_database("bench")
        migrate(postgres.dsn("bench"))
        asyncio.run(measure(postgres.dsn("bench"), chosen.accounts))


if __name__ == "__main__":
    main()
