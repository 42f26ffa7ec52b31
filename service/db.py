"""The database: engine with every timeout set, and migrations."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

ROOT = Path(__file__).resolve().parent.parent


def make_engine(
    url: str, *, pool_size: int = 8, timeout_seconds: float = 10.0, application_name: str = "kizashi"
) -> AsyncEngine:
    """An engine whose every wait is bounded.

    A peer that stalls without closing would otherwise hang asyncpg for ever: pre-ping hangs too, so both the connect
    and the command time-out are needed, and the server's own time-outs for what it still runs after we gave up.
    """
    milliseconds = str(int(timeout_seconds * 1000))
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_seconds,
        connect_args={
            "timeout": timeout_seconds,
            "command_timeout": timeout_seconds,
            "server_settings": {
                "application_name": application_name,
                "statement_timeout": milliseconds,
                "lock_timeout": "2000",
                "idle_in_transaction_session_timeout": "60000",
                "timezone": "UTC",
                "tcp_keepalives_idle": "30",
            },
        },
    )


def alembic_config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["url"] = make_url(url)
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Brings the schema to ``revision``. Runs its own event loop: call it outside of one, or in a thread."""
    command.upgrade(alembic_config(url), revision)
