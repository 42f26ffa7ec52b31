"""Everything that is held on an account or a user, as one JSON document: written piece by piece, in constant memory.

Of an account: all rows of it. Of a user: the user's own rows, and those of the same accounts that name the user. Dead
letters and waiting events are looked through as for an erasure; the archive's events come last.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from sqlalchemy import Table, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts import erasure as of_alerts
from alerts.tables import deliveries, delivery_attempts, episodes, transitions
from consumers.archive.files import Archive
from consumers.erasure import archive as of_archive
from consumers.erasure import facts as of_facts
from consumers.erasure.scrub import clean
from consumers.erasure.subjects import Mentions, Subject
from consumers.tables import dead_letters, user_accounts, waiting_events
from health.tables import health, score_history, score_overrides, user_months, users

FORMAT: Final = "kizashi-export/1"
NOT_HELD_HERE: Final = (
    "records in Kafka that are not archived",
    "what was sent to Slack, by mail or to webhooks",
    "backups of the database",
)
OF_ACCOUNT: Final = (
    *of_facts.OF_ACCOUNT, health, score_history, score_overrides, episodes, deliveries, user_accounts,
)  # fmt: skip
OF_EPISODES: Final = (transitions, delivery_attempts)
LOOKED_THROUGH: Final = (dead_letters, waiting_events)
TABLES: Final = tuple(sorted(str(table.name) for table in (*OF_ACCOUNT, *OF_EPISODES, *LOOKED_THROUGH)))
PAUSE_EVERY: Final = 500

_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


async def export(
    conn: AsyncConnection, subject: Subject, archive: Archive | None, file: IO[bytes], now: datetime
) -> int:
    """Writes the document to ``file``; returns how many rows and events it has. ``conn``: a consistent read, with time
    for whole tables when a user's account is not given."""
    subject = await of_facts.find(conn, subject)
    head = {
        "format": FORMAT,
        "exported_at": now,
        "subject": {
            "kind": subject.kind, "account_id": subject.account_id, "user_id": subject.user_id,
            "accounts": list(subject.accounts), "names": list(subject.names),
        },
        "not_included": list(NOT_HELD_HERE),
    }  # fmt: skip
    file.write(_encode(head)[:-1] + b',"tables":{')
    total = 0
    for number, name in enumerate(TABLES):
        file.write((b"," if number else b"") + _encode(name) + b":[")
        total += await _list(file, _rows(conn, subject, name))
        file.write(b"]")
    file.write(b'},"archive":[')
    if archive is not None:
        total += await _list(file, _archived(archive, subject))
    file.write(b"]}\n")
    return total


async def _list(file: IO[bytes], values: AsyncIterator[Any]) -> int:
    count = 0
    async for value in values:
        file.write((b"," if count else b"") + _encode(value))
        count += 1
        if count % PAUSE_EVERY == 0:
            await asyncio.sleep(0)
    return count


async def _archived(archive: Archive, subject: Subject) -> AsyncIterator[dict[str, Any]]:
    async for row in of_archive.events(archive, subject):
        yield {
            "arrived_at": row.arrived_at, "topic": row.topic, "partition": row.partition, "offset": row.offset,
            "event": msgspec.Raw(row.event),
        }  # fmt: skip


async def _rows(conn: AsyncConnection, subject: Subject, name: str) -> AsyncIterator[dict[str, Any]]:
    table = next(each for each in (*OF_ACCOUNT, *OF_EPISODES, *LOOKED_THROUGH) if each.name == name)
    if table in LOOKED_THROUGH:
        mentions = Mentions(subject)
        async for row in _streamed(conn, table, ()):
            if any(mentions(v) if isinstance(v, bytes) else mentions.value(v) for v in row.values()):
                yield row
        return
    if subject.user_id is None:
        async for row in _streamed(conn, table, (_of_accounts(table, [str(subject.account_id)]),)):
            yield row
        return
    async for row in _streamed(conn, table, _of_user(table, subject)):
        if _own(table, row, subject) or any(clean(value, subject.is_named) is not value for value in row.values()):
            yield row


async def _streamed(conn: AsyncConnection, table: Table, where: Sequence[Any]) -> AsyncIterator[dict[str, Any]]:
    ordered = select(table).where(*where).order_by(*table.primary_key.columns)
    async with conn.stream(ordered) as result:
        async for row in result.mappings():
            yield {str(name): value for name, value in row.items()}  # plain texts: the encoder knows no others


def _of_accounts(table: Table, account_ids: list[str]) -> Any:
    if table is transitions:
        return table.c.episode_id.in_(select(episodes.c.episode_id).where(episodes.c.account_id.in_(account_ids)))
    if table is delivery_attempts:
        return table.c.delivery_id.in_(select(deliveries.c.delivery_id).where(deliveries.c.account_id.in_(account_ids)))
    return table.c.account_id.in_(account_ids)


def _of_user(table: Table, subject: Subject) -> tuple[Any, ...]:
    """The user's own rows; of the same accounts, rows in which the letters of a name stand."""
    own = [table.c.user_id.in_(subject.ids)] if "user_id" in table.c else []
    if table in (users, user_months, user_accounts):
        return (_of_accounts(table, list(subject.accounts)), *own)
    columns = [column for each, column in (*of_facts.CLEANED, *of_alerts.CLEANED) if each is table]
    names = [of_facts.as_stored(name) for name in subject.names]
    named = [text(of_facts.NAMED.format(f"{table.name}.{column}")).bindparams(names=names) for column in columns]
    return _of_accounts(table, list(subject.accounts)), or_(*own, *named, text("false"))


def _own(table: Table, row: dict[str, Any], subject: Subject) -> bool:
    return "user_id" in table.c and row["user_id"] in subject.ids


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the document; committed as docs/export.schema.json."""
    text_or_null = {"type": ["string", "null"]}
    texts = {"type": "array", "items": {"type": "string"}}
    rows = {"type": "array", "items": {"type": "object"}, "description": "Rows as stored: columns and their values"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Kizashi export",
        "description": "All that is held on an account or a user. Times are RFC 3339, bytes base64, money numbers.",
        "type": "object",
        "required": ["format", "exported_at", "subject", "not_included", "tables", "archive"],
        "properties": {
            "format": {"const": FORMAT},
            "exported_at": {"type": "string", "format": "date-time"},
            "subject": {
                "type": "object",
                "required": ["kind", "account_id", "user_id", "accounts", "names"],
                "properties": {
                    "kind": {"enum": ["account", "user"]},
                    "account_id": text_or_null,
                    "user_id": text_or_null,
                    "accounts": {**texts, "description": "Where the user was found"},
                    "names": {**texts, "description": "By what the subject was looked for"},
                },
            },
            "not_included": {**texts, "description": "What may exist of the subject elsewhere"},
            "tables": {"type": "object", "required": list(TABLES), "properties": dict.fromkeys(TABLES, rows)},
            "archive": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["arrived_at", "topic", "partition", "offset", "event"],
                    "properties": {
                        "arrived_at": {"type": "string", "format": "date-time"},
                        "topic": {"type": "string"},
                        "partition": {"type": "integer"},
                        "offset": {"type": "integer"},
                        "event": {"type": "object", "description": "As in events.schema.json"},
                    },
                },
            },
        },
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")
