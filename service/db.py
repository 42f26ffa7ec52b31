"""The database: engine with every timeout set, and migrations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from health.driver import leave_out_values

ROOT = Path(__file__).resolve().parent.parent
MIGRATIONS = ROOT / "migrations"


def make_engine(
    url: str, *, pool_size: int = 8, timeout_seconds: float = 10.0, application_name: str = "kizashi"
) -> AsyncEngine:
    """An engine whose every wait is bounded.

    A peer that stalls without closing would otherwise hang asyncpg for ever: pre-ping hangs too, so both the connect
    and the command time-out are needed, and the server's own time-outs for what it still runs after we gave up.
    """
    # The server gives up first, so that a slow statement ends with its SQLSTATE and not with the connection.
    milliseconds = str(int(timeout_seconds * 900))
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_seconds,
        # What a statement was given are customers' names, webhooks and hashes: none of a log's business.
        hide_parameters=True,
        connect_args={
            "timeout": timeout_seconds,
            "command_timeout": timeout_seconds,
            "max_cacheable_statement_size": 0,  # of any size: those that read facts are long
            "server_settings": {
                "application_name": application_name,
                "statement_timeout": milliseconds,
                "lock_timeout": "2000",
                "idle_in_transaction_session_timeout": "60000",
                "timezone": "UTC",
                # The statement that reads facts is long and over in milliseconds; compiling it would take a hundred.
                "jit": "off",
                "tcp_keepalives_idle": "30",
            },
        },
    )
    event.listen(engine.sync_engine, "handle_error", _leave_out_values)
    return engine


def _leave_out_values(context: ExceptionContext) -> None:
    """Parameters are hidden, but the server's DETAIL and the driver's refusals quote values, too."""
    for error in (context.sqlalchemy_exception, context.original_exception, context.original_exception.__cause__):
        if error is not None:
            leave_out_values(error)


def alembic_config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = make_url(url)
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Brings the schema to ``revision``. Runs its own event loop: call it outside of one, or in a thread."""
    command.upgrade(alembic_config(url), revision)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """A database's revision, and what keeps this release from using it."""

    at: str | None
    problem: str | None


@cache
def revisions() -> tuple[str | None, frozenset[str]]:
    """This release's newest revision, and all that it knows; reads the migration files once."""
    scripts = ScriptDirectory(str(MIGRATIONS))
    return scripts.get_current_head(), frozenset(script.revision for script in scripts.walk_revisions())


async def read_schema(conn: AsyncConnection) -> Schema:
    """A revision that this release does not know is of a newer one: while that is rolled out, the old processes must
    go on serving."""
    if await conn.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return Schema(at=None, problem="the database has no schema yet")
    at = await conn.scalar(text("SELECT version_num FROM alembic_version"))
    newest, known = revisions()
    if at is None or (at != newest and at in known):
        return Schema(at=at, problem=f"the schema is at {at}, this release needs {newest}")
    return Schema(at=at, problem=None)
