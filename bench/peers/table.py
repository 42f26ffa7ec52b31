"""Where the peers keep what they computed: one row an account, written many at a time."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import psycopg

from bench.peers.facts import Facts

UPSERT = """
INSERT INTO peer_accounts (account_id, first_event_at, last_event_at, last_login_at, events, logins, facts)
SELECT * FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::bigint[], %s::bigint[],
    %s::text[]::jsonb[])
ON CONFLICT (account_id) DO UPDATE SET first_event_at = excluded.first_event_at,
    last_event_at = excluded.last_event_at, last_login_at = excluded.last_login_at, events = excluded.events,
    logins = excluded.logins, facts = excluded.facts
"""
SCALARS = ("first_event_at", "last_event_at", "last_login_at", "events", "logins")
_encode = msgspec.json.Encoder().encode


class Table:
    """One connection; ``write`` returns once the rows are durable."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn)

    def write(self, rows: Mapping[str, Facts]) -> None:
        """The whole facts of each account, in the order of the accounts, in one statement and transaction."""
        accounts = sorted(rows)
        scalars = [[rows[account][name] for account in accounts] for name in SCALARS]
        rest = [
            _encode({name: value for name, value in rows[account].items() if name not in SCALARS}).decode()
            for account in accounts
        ]
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(UPSERT, (accounts, *scalars, rest))

    def close(self) -> None:
        self._connection.close()
