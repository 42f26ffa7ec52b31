"""Checks of the database: reachable, new enough, migrated, its clock, what its tables say of consumers and keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import asyncpg
from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from consumers.tables import stream_offsets
from health.tables import people
from service.clock import Clock
from service.db import make_engine, read_schema
from service.doctor.finding import Finding, fault, ok, warning
from service.secrets import SecretsError, Vault
from service.settings import Settings
from service.tables import api_keys

DATABASE_ERRORS = (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
OLDEST_SERVER = 150000
SKEW_WARNING = timedelta(seconds=2)
SKEW_FAULT = timedelta(seconds=60)
QUIET = timedelta(seconds=60)
"""A consumer says every second how far it is."""
TIMEOUT_SECONDS = 5.0


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """A connection with short time-outs. Raises one of DATABASE_ERRORS."""
    engine = make_engine(
        settings.database_url.get_secret_value(), pool_size=1, timeout_seconds=TIMEOUT_SECONDS,
        application_name="kizashi-doctor",
    )  # fmt: skip
    try:
        async with engine.connect() as conn:
            yield conn
    finally:
        await engine.dispose()


def cause_of(error: BaseException) -> BaseException:
    """The driver's own exception beneath SQLAlchemy's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    return error.__cause__ if isinstance(error.__cause__, asyncpg.PostgresError | OSError) else error


def unreachable(settings: Settings, error: BaseException) -> Finding:
    url = make_url(settings.database_url.get_secret_value())
    cause = cause_of(error)
    # A driver's own words may quote the address with its password; the server's words do not.
    said = f": {cause}" if isinstance(cause, asyncpg.PostgresError) else ""
    what = f"{url.host}:{url.port or 5432}/{url.database} cannot be used: {type(cause).__name__}{said}"
    return fault("database", what, "start PostgreSQL there, or correct KIZASHI_DATABASE_URL")


async def server(conn: AsyncConnection, clock: Clock) -> list[Finding]:
    """Version and clock."""
    before = clock()
    row = (await conn.execute(text("SELECT current_setting('server_version_num')::int, "
                                   "current_setting('server_version'), clock_timestamp()"))).one()  # fmt: skip
    number, shown, theirs = row
    found = [ok("database", f"PostgreSQL {shown}")]
    if number < OLDEST_SERVER:
        found = [fault("database", f"PostgreSQL {shown} is too old", "use PostgreSQL 15 or later")]
    middle = before + (clock() - before) / 2
    return [*found, _skew(theirs - middle)]


def _skew(skew: timedelta) -> Finding:
    seconds = skew.total_seconds()
    what = f"the database's clock is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} ours"
    remedy = "synchronise the clocks of all machines (NTP): days since, leases and timers go by them"
    if abs(skew) >= SKEW_FAULT:
        return fault("clock", what, remedy)
    if abs(skew) >= SKEW_WARNING:
        return warning("clock", what, remedy)
    return ok("clock", "ours and the database's agree")


async def migrations(conn: AsyncConnection) -> Finding:
    schema = await read_schema(conn)
    if schema.problem is not None:
        return fault("migrations", schema.problem, "run `kizashi migrate`")
    return ok("migrations", f"the schema is at {schema.at}")


async def consumers(
    conn: AsyncConnection, settings: Settings, ends: Mapping[tuple[str, int], int] | None, now: datetime
) -> list[Finding]:
    """``ends``: per topic and partition the next offset; None when the broker cannot be asked."""
    own = stream_offsets.c.group_id == settings.consumer_group
    rows = (await conn.execute(select(stream_offsets).where(own))).all()
    if not rows:
        what = f"no consumer of group {settings.consumer_group} has ever run"
        return [warning("consumers", what, "start one: `kizashi serve`, or `kizashi serve --role consumer`")]
    stopped = [
        fault("consumers", f"{row.topic}[{row.partition}] is stopped: {row.stopped_reason}",
              "see `kizashi partitions list` and docs/operations.md, then `kizashi partitions release`")
        for row in rows if row.stopped_reason is not None
    ]  # fmt: skip
    read = {(row.topic, row.partition): row.next_offset for row in rows}
    unread = None if ends is None else sum(max(0, end - read.get(place, 0)) for place, end in ends.items())
    quiet = now - max(row.updated_at for row in rows)
    lag = "an unknown number of" if unread is None else f"{unread:,}"
    if quiet > QUIET:
        what = f"nothing was heard of the consumers for {_duration(quiet)}; {lag} records are unread"
        judge = fault if unread else warning
        return [*stopped, judge("consumers", what, "start them: `kizashi serve`; if they run, see their log")]
    through = min((row.complete_through for row in rows if row.complete_through is not None), default=None)
    if unread and through is not None and now - through > QUIET:
        what = f"they are behind: {lag} records unread, all is applied up to {through:%Y-%m-%d %H:%M:%S}"
        return [*stopped, warning("consumers", what, "wait, or run more consumers (at most one per partition)")]
    return stopped or [ok("consumers", f"{len(rows)} partitions are read, {lag} records unread")]


async def keys(conn: AsyncConnection, now: datetime) -> Finding:
    live = api_keys.c.revoked_at.is_(None) & func.coalesce(api_keys.c.expires_at > now, True)
    count = await conn.scalar(select(func.count()).where(live)) or 0
    if not count:
        return warning("keys", "there is no live API key", "make one: `kizashi keys create NAME --scope ingest`")
    return ok("keys", f"{count} live API key{'s' if count > 1 else ''}")


async def secret_key(conn: AsyncConnection, settings: Settings) -> Finding:
    """Whether what is sealed in the database opens."""
    sealed = (await conn.execute(select(people.c.person_id, people.c.slack_webhook)
                                 .where(people.c.slack_webhook.is_not(None)))).all()  # fmt: skip
    remedy = "set KIZASHI_SECRET_KEY to the key they were sealed with, or enter these people's webhooks anew"
    vault = Vault(settings.secret_key)
    if settings.secret_key is None:
        if sealed:
            return fault("secret key", f"none is set, and {len(sealed)} people have a sealed Slack webhook", remedy)
        what = "none is set: people cannot have a Slack webhook of their own"
        return warning("secret key", what, "set KIZASHI_SECRET_KEY to a long random string, if they shall")
    shut = [row.person_id for row in sealed if not _opens(vault, row.slack_webhook)]
    if shut:
        return fault("secret key", f"the Slack webhooks of {', '.join(sorted(shut)[:5])} do not open", remedy)
    return ok("secret key", f"set; {len(sealed)} sealed webhooks open")


def _opens(vault: Vault, token: str) -> bool:
    try:
        vault.open(token)
    except SecretsError:
        return False
    return True


def _duration(time: timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
