"""Tables of the service: API keys, the audit, erasures."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Identity, Index, LargeBinary, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from health.tables import TZ, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),  # the public part of the key
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),  # SHA-256 of the whole key: it has 256 random bits
    Column("scopes", ARRAY(Text), nullable=False),  # ingest | read | write
    Column("created_at", TZ, nullable=False),
    Column("expires_at", TZ),
    Column("revoked_at", TZ),
    Column("last_used_at", TZ),
)

audit = Table(
    "audit",
    metadata,
    Column("audit_id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", TZ, nullable=False),
    Column("actor", Text, nullable=False),  # key:<name>, board:<name>, command, or a role
    Column("action", Text, nullable=False),  # key.created, rules.changed, erasure.requested, …
    Column("subject", Text, nullable=False),  # never a user or an account in plain words: nothing here is erased
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Index("ix_audit_list", text("at DESC"), text("audit_id DESC")),
    comment="Who did what; a trigger refuses UPDATE, DELETE and TRUNCATE",
)

erasures = Table(
    "erasures",
    metadata,
    Column("erasure_id", UUID(as_uuid=True), primary_key=True),
    Column("kind", Text, nullable=False),  # account | user
    Column("fingerprint", Text, nullable=False),  # of kind, account and user: finds the row once the ids are gone
    Column("account_id", Text),  # both NULL again when it is done
    Column("user_id", Text),
    Column("scope", JSONB),  # what else names the user, and where: found at the start, NULL again when it is done
    Column("status", Text, nullable=False),  # waiting | running | done
    Column("step", Text),  # the last one that is done
    Column("counts", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # rows erased or cleaned per table
    Column("requested_by", Text, nullable=False),
    Column("requested_at", TZ, nullable=False),
    Column("erased_at", TZ),  # when the tombstones were set: what arrives later counts as new
    Column("finished_at", TZ),
    Column("problem", Text),  # why the last attempt ended; it is tried again
    Column("leased_until", TZ),
    Index("uq_erasures_open", "fingerprint", unique=True, postgresql_where=text("status <> 'done'")),
    Index("ix_erasures_list", text("requested_at DESC"), "erasure_id"),
    comment="Erasures asked for, and how far each has come; a crash is gone on from",
)
