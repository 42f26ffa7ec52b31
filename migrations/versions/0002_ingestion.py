"""ingestion: waiting users, the archive, erasures, replays, dead letters that are worked off"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One function a matter, called here in order."""
    _dead_letters()
    _privacy()
    _archive()
    _waiting()


def downgrade() -> None:
    """In the opposite order."""
    _without_waiting()
    _without_dead_letters()
    _without_archive()
    _without_privacy()


REFUSE_CHANGES = """
CREATE FUNCTION kizashi_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$
"""
APPEND_ONLY = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION kizashi_append_only()
"""
SALT = """
INSERT INTO tombstone_salt SELECT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
"""


def _privacy() -> None:
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("pk_audit")),
        comment="Who did what; a trigger refuses UPDATE, DELETE and TRUNCATE",
    )
    op.create_index("ix_audit_list", "audit", [sa.text("at DESC"), sa.text("audit_id DESC")])
    op.execute(REFUSE_CHANGES)
    op.execute(APPEND_ONLY)
    op.create_table(
        "tombstones",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("scope", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("erased_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "scope", "subject", name=op.f("pk_tombstones")),
        comment="Who was erased, as keyed hashes: what arrived before erased_at is never applied again",
    )
    op.create_table(
        "tombstone_salt",
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("salt", name=op.f("pk_tombstone_salt")),
        comment="One row, made by the migration: the key of the hashes in tombstones",
    )
    op.execute(SALT)
    op.create_table(
        "erasures",
        sa.Column("erasure_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("scope", postgresql.JSONB(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=True),
        sa.Column("counts", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("requested_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("erased_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("leased_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("erasure_id", name=op.f("pk_erasures")),
        comment="Erasures asked for, and how far each has come; a crash is gone on from",
    )
    op.create_index(
        "uq_erasures_open", "erasures", ["fingerprint"], unique=True, postgresql_where=sa.text("status <> 'done'")
    )
    op.create_index("ix_erasures_list", "erasures", [sa.text("requested_at DESC"), "erasure_id"])


def _without_privacy() -> None:
    for table in ("erasures", "tombstone_salt", "tombstones", "audit"):
        op.drop_table(table)
    op.execute("DROP FUNCTION kizashi_append_only")


def _dead_letters() -> None:
    op.add_column("dead_letters", sa.Column("closed_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("dead_letters", sa.Column("closed_by", sa.Text(), nullable=True))
    op.add_column("dead_letters", sa.Column("note", sa.Text(), nullable=True))
    op.add_column("dead_letters", sa.Column("sent_value", sa.LargeBinary(), nullable=True))
    op.create_index("ix_dead_letters_open", "dead_letters", ["reason"], postgresql_where=sa.text("status = 'open'"))
    op.create_index(
        "ix_dead_letters_closed", "dead_letters", ["closed_at"], postgresql_where=sa.text("status <> 'open'")
    )


def _without_dead_letters() -> None:
    for index in ("ix_dead_letters_closed", "ix_dead_letters_open"):
        op.drop_index(index, "dead_letters")
    for column in ("sent_value", "note", "closed_by", "closed_at"):
        op.drop_column("dead_letters", column)


def _waiting() -> None:
    op.create_table(
        "user_accounts",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("bound_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("updated_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_user_accounts")),
        comment="The account of each user that was tied to one; decides for events that name only the user",
    )
    op.create_index("ix_user_accounts_account", "user_accounts", ["account_id"])
    op.create_table(
        "waiting_events",
        sa.Column("waiting_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("event", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("waiting_id", name=op.f("pk_waiting_events")),
        sa.UniqueConstraint("user_id", "source", "event_id", name=op.f("uq_waiting_events_user_id_source_event_id")),
        comment="Events whose user is known and whose account is not yet",
    )
    op.create_index(
        "ix_waiting_events_decided",
        "waiting_events",
        ["waiting_id"],
        postgresql_where=sa.text("account_id IS NOT NULL"),
    )
    op.create_index("ix_waiting_events_created", "waiting_events", ["created_at"])


def _without_waiting() -> None:
    op.drop_table("waiting_events")
    op.drop_table("user_accounts")


def _archive() -> None:
    op.create_table(
        "archive_files",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("first_day", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("first_account", sa.Text(collation="C"), nullable=False),
        sa.Column("last_account", sa.Text(collation="C"), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("replaced_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_archive_files")),
        comment="The files of the archive that count; a file that no row names does not exist",
    )
    op.create_index(
        "ix_archive_files_days", "archive_files", ["first_day", "last_day"],
        postgresql_where=sa.text("replaced_at IS NULL"),
    )  # fmt: skip
    op.create_index(
        "ix_archive_files_replaced", "archive_files", ["replaced_at"],
        postgresql_where=sa.text("replaced_at IS NOT NULL"),
    )  # fmt: skip
    op.create_table(
        "archive_partitions",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("first_offset", sa.BigInteger(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=True),
        sa.Column("topic_id", sa.Text(), nullable=True),
        sa.Column("missing", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("pk_archive_partitions")),
        comment="From where to where each partition is archived; moves with the offsets of the archive's group",
    )


def _without_archive() -> None:
    op.drop_table("archive_partitions")
    op.drop_table("archive_files")
