"""Tables of the consumers: how far each partition has been applied, what was seen before, what could not be read."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from health.tables import TZ, metadata

stream_offsets = Table(
    "stream_offsets",
    metadata,
    Column("group_id", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default="0"),  # bumped by forget: fences batches in flight
    Column("cluster_id", Text),
    Column("topic_id", Text),
    Column("last_offset", BigInteger),  # fingerprint of the last applied record, re-read on assignment
    Column("last_timestamp_ms", BigInteger),
    Column("last_crc", BigInteger),
    Column("complete_through", TZ),  # everything that the broker had at this wall time is applied
    Column("records", BigInteger, nullable=False, server_default="0"),
    Column("stopped_reason", Text),  # set: this partition is stopped, loudly
    Column("updated_at", TZ, nullable=False),
    comment="The next offset per partition; moves by compare-and-set in the transaction that stores the facts",
    postgresql_with={"fillfactor": 50},
)

dedup_batches = Table(
    "dedup_batches",
    metadata,
    Column("dedup_id", BigInteger, Identity(), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("event_day", Date, nullable=False),
    Column("hashes", LargeBinary, nullable=False),  # sorted little-endian uint64 of (source, account, event id)
    Column("created_at", TZ, nullable=False),
    Index("ix_dedup_batches_day", "topic", "partition", "event_day"),
    Index("ix_dedup_batches_created", "created_at"),
    comment="One row per batch and event day: 8 bytes an event",
)

import_marks = Table(
    "import_marks",
    metadata,
    Column("import_id", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("last_row", BigInteger, nullable=False),
    comment="Last applied row per import and partition, kept for ever: an import never doubles",
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("dead_letter_id", BigInteger, Identity(), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("record_offset", BigInteger, nullable=False),
    Column("record_timestamp", TZ),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSONB, nullable=False, server_default=text("'[]'::jsonb")),
    Column("errors", JSONB, nullable=False),  # [{item, field, problem, remedy}]
    Column("reason", Text, nullable=False),  # bounded vocabulary: the metric's label
    Column("status", Text, nullable=False, server_default="open"),  # open | retried | discarded
    Column("created_at", TZ, nullable=False),
    Column("closed_at", TZ),  # retried or discarded
    Column("closed_by", Text),
    Column("note", Text),  # why it was discarded, in its reader's words
    Column("sent_value", LargeBinary),  # what was sent in its place; NULL: the value as it came
    UniqueConstraint("topic", "partition", "record_offset"),
    Index("ix_dead_letters_open", "reason", postgresql_where=text("status = 'open'")),
    Index("ix_dead_letters_closed", "closed_at", postgresql_where=text("status <> 'open'")),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("kind", Text, primary_key=True),  # account | user
    Column("scope", LargeBinary, primary_key=True),  # hash of the account of a user; empty: in every account
    Column("subject", LargeBinary, primary_key=True),  # hash of the account's or user's id, or of a user's e-mail
    Column("erased_at", TZ, nullable=False),
    Column("requested_by", Text, nullable=False),
    comment="Who was erased, as keyed hashes: what arrived before erased_at is never applied again",
)

tombstone_salt = Table(
    "tombstone_salt",
    metadata,
    Column("salt", LargeBinary, primary_key=True),
    comment="One row, made by the migration: the key of the hashes in tombstones",
)

user_accounts = Table(
    "user_accounts",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("bound_at", TZ, nullable=False),  # event time; the last by (bound_at, event_id) holds
    Column("event_id", Text, nullable=False),
    Column("updated_at", TZ, nullable=False),
    Index("ix_user_accounts_account", "account_id"),
    comment="The account of each user that was tied to one; decides for events that name only the user",
)

waiting_events = Table(
    "waiting_events",
    metadata,
    Column("waiting_id", BigInteger, Identity(), primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("account_id", Text),  # decided in the transaction that ties the user; then produced, then deleted
    Column("event", LargeBinary, nullable=False),  # canonical JSON, its account_id empty
    Column("created_at", TZ, nullable=False),
    UniqueConstraint("user_id", "source", "event_id"),
    Index("ix_waiting_events_decided", "waiting_id", postgresql_where=text("account_id IS NOT NULL")),
    Index("ix_waiting_events_created", "created_at"),
    comment="Events whose user is known and whose account is not yet",
)

archive_files = Table(
    "archive_files",
    metadata,
    Column("path", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("first_day", Date, nullable=False),  # of event time; the days of one file are one day or one month
    Column("last_day", Date, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("first_account", Text(collation="C"), nullable=False),
    Column("last_account", Text(collation="C"), nullable=False),
    Column("created_at", TZ, nullable=False),
    Column("replaced_at", TZ),  # set: no longer counts, and is deleted once nobody can be reading it
    Index("ix_archive_files_days", "first_day", "last_day", postgresql_where=text("replaced_at IS NULL")),
    Index("ix_archive_files_replaced", "replaced_at", postgresql_where=text("replaced_at IS NOT NULL")),
    comment="The files of the archive that count; a file that no row names does not exist",
)

archive_partitions = Table(
    "archive_partitions",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("first_offset", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("cluster_id", Text),
    Column("topic_id", Text),
    Column("missing", Text),  # why not everything that the consumers applied is in the archive; NULL: everything is
    comment="From where to where each partition is archived; moves with the offsets of the archive's group",
)
