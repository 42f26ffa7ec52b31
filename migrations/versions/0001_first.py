"""the facts, the alerts, the keys"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


ADD_DAYS = """
CREATE FUNCTION kizashi_add_days(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ARRAY[{places}]
$$
""".format(places=", ".join(f"a[{i}] + b[{i}]" for i in range(1, 32)))
"""Adds day arrays place by place; spelled out, so that Postgres inlines it into the upsert."""

MERGE_REGISTERS = """
CREATE FUNCTION kizashi_merge_registers(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(jsonb_object_agg(f.field, CASE
        WHEN NOT a ? f.field THEN b -> f.field
        WHEN NOT b ? f.field THEN a -> f.field
        WHEN ((a -> f.field ->> 't')::bigint, (a -> f.field ->> 'k') COLLATE "C", (a -> f.field)::text COLLATE "C")
           >= ((b -> f.field ->> 't')::bigint, (b -> f.field ->> 'k') COLLATE "C", (b -> f.field)::text COLLATE "C")
        THEN a -> f.field ELSE b -> f.field END), '{}'::jsonb)
    FROM (SELECT jsonb_object_keys(a) UNION SELECT jsonb_object_keys(b)) AS f(field)
$$
"""
"""Per field, the value with the greatest (event time, event key) stays."""


def upgrade() -> None:  # noqa: PLR0915 - one statement a table
    op.execute(ADD_DAYS)
    op.execute(MERGE_REGISTERS)
    op.create_table(
        "account_attributes",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_account_attributes")),
        comment='Current attributes: {"plan": {"v": "pro", "t": 1700000000000000, "k": "source:event_id"}, …}; t in µs',
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "account_history",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("attribute", sa.Text(), nullable=False),
        sa.Column("valid_from", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("value", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("known_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "attribute", "valid_from", "event_key", name=op.f("pk_account_history")),
    )
    op.create_table(
        "account_months",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("logins", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("active_days", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "month", name=op.f("pk_account_months")),
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "accounts",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("first_event_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_event_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_login_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_activity_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_contact_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("events", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("logins", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("changed_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("imported_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_accounts")),
        comment="The account row: hot, no index beside its key, written last in each transaction",
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_used_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_keys_hash")),
    )
    op.create_table(
        "channel_holds",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("until", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("channel", "target", name=op.f("pk_channel_holds")),
        comment="A receiver's Retry-After defers the whole target, not one message",
    )
    op.create_table(
        "dead_letters",
        sa.Column("dead_letter_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("record_offset", sa.BigInteger(), nullable=False),
        sa.Column("record_timestamp", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column(
            "headers", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("errors", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("dead_letter_id", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint(
            "topic", "partition", "record_offset", name=op.f("uq_dead_letters_topic_partition_record_offset")
        ),
    )
    op.create_table(
        "dedup_batches",
        sa.Column("dedup_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("event_day", sa.Date(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("dedup_id", name=op.f("pk_dedup_batches")),
        comment="One row per batch and event day: 8 bytes an event",
    )
    op.create_index("ix_dedup_batches_created", "dedup_batches", ["created_at"], unique=False)
    op.create_index("ix_dedup_batches_day", "dedup_batches", ["topic", "partition", "event_day"], unique=False)
    op.create_table(
        "episodes",
        sa.Column("episode_id", sa.UUID(), nullable=False),
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("pre_existing", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("since", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("opened_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("closed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cleared_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("acknowledged_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("snoozed_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("next_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("mrr", sa.Numeric(precision=18, scale=4), nullable=True),
        sa.Column("rule_version", sa.Text(), nullable=False),
        sa.Column("scorecard", sa.Text(), nullable=True),
        sa.Column("reason", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("signals", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("score", sa.Numeric(precision=5, scale=1), nullable=True),
        sa.Column("contributions", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("updated_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("episode_id", name=op.f("pk_episodes")),
    )
    op.create_index(
        "ix_episodes_account", "episodes", ["account_id", sa.literal_column("opened_at DESC")], unique=False
    )
    op.create_index("ix_episodes_list", "episodes", [sa.literal_column("opened_at DESC"), "episode_id"], unique=False)
    op.create_index(
        "ix_episodes_next",
        "episodes",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'open' AND next_at IS NOT NULL"),
    )
    op.create_index(
        "uq_episodes_open",
        "episodes",
        ["rule_id", "account_id"],
        unique=True,
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "feature_months",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("quantities", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("active_days", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "month", "feature", name=op.f("pk_feature_months")),
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "features",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("first_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("last_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "feature", name=op.f("pk_features")),
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "gaps",
        sa.Column("gap_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("from_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("until_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("noticed_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("closed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("gap_id", name=op.f("pk_gaps")),
        comment="Time during which a source was not observed; days-since subtract open and lost gaps",
    )
    op.create_index(
        "uq_gaps_open_source",
        "gaps",
        ["source"],
        unique=True,
        postgresql_where=sa.text("state = 'open' AND until_at IS NULL"),
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "health",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("plan", sa.Text(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("segment", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("mrr", sa.Numeric(precision=18, scale=4), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("renewal_on", sa.Date(), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("band", sa.Text(), nullable=True),
        sa.Column("mrr_at_risk", sa.Numeric(precision=18, scale=4), nullable=True),
        sa.Column("open_alerts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_seen_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_login_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("signals", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("contributions", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("scorecard", sa.Text(), nullable=True),
        sa.Column("incomplete_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("facts_version", sa.BigInteger(), server_default="-1", nullable=False),
        sa.Column("imported_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("waiting_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("evaluated_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("due_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_health")),
        comment="One row per account: what the lists show, and when to look again",
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("ix_health_due", "health", ["due_at"], unique=False, postgresql_where=sa.text("due_at IS NOT NULL"))
    op.create_index("ix_health_last_seen", "health", ["last_seen_at", "account_id"], unique=False)
    op.create_index(
        "ix_health_mrr_at_risk",
        "health",
        [sa.literal_column("mrr_at_risk DESC NULLS LAST"), "account_id"],
        unique=False,
    )
    op.create_index(
        "ix_health_owner",
        "health",
        ["owner", sa.literal_column("mrr_at_risk DESC NULLS LAST"), "account_id"],
        unique=False,
    )
    op.create_index("ix_health_renewal", "health", ["renewal_on", "account_id"], unique=False)
    op.create_index("ix_health_score", "health", ["score", "account_id"], unique=False)
    op.create_table(
        "import_marks",
        sa.Column("import_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("last_row", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("import_id", "topic", "partition", name=op.f("pk_import_marks")),
        comment="Last applied row per import and partition, kept for ever: an import never doubles",
    )
    op.create_table(
        "imports",
        sa.Column("import_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("files", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("shift_us", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rows_total", sa.BigInteger(), nullable=True),
        sa.Column("rows_sent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("events_sent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("rows_refused", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("import_id", name=op.f("pk_imports")),
    )
    op.create_table(
        "late_arrivals",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("event_day", sa.Date(), nullable=False),
        sa.Column("arrival_day", sa.Date(), nullable=False),
        sa.Column("logins", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "event_day", "arrival_day", name=op.f("pk_late_arrivals")),
        comment="What arrived after its own day was over, so that a backtest sees only what was known",
    )
    op.create_table(
        "people",
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("slack_id", sa.Text(), nullable=True),
        sa.Column("slack_webhook", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), server_default="en", nullable=False),
        sa.Column("timezone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("role", sa.Text(), server_default="csm", nullable=False),
        sa.Column("manager", sa.Text(), nullable=True),
        sa.Column("stand_in", sa.Text(), nullable=True),
        sa.Column("away_from", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("away_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("updated_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("person_id", name=op.f("pk_people")),
    )
    op.create_table(
        "record_events",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("known_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "kind", "record_id", "at", "event_key", name=op.f("pk_record_events")),
        comment="Every discrete fact as it happened, for the timeline and for seeing any past day as it was known then",
    )
    op.create_index(
        "ix_record_events_timeline", "record_events", ["account_id", sa.literal_column("at DESC")], unique=False
    )
    op.create_table(
        "records",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("first_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("last_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "kind", "record_id", name=op.f("pk_records")),
        comment="A row per ticket, payment, …: its fields as registers, its state in fields.status",
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "rule_activations",
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("rule_version", sa.Text(), nullable=False),
        sa.Column("activated_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("retired_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("rule_id", name=op.f("pk_rule_activations")),
    )
    op.create_table(
        "rulebooks",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("loaded_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_rulebooks")),
    )
    op.create_table(
        "score_history",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("band", sa.Text(), nullable=True),
        sa.Column("scorecard", sa.Text(), nullable=False),
        sa.Column("contributions", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("account_id", "day", name=op.f("pk_score_history")),
        comment="The last score of each day, with the version of the scorecard that made it",
    )
    op.create_table(
        "source_hours",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("hour", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source", "hour", name=op.f("pk_source_hours")),
    )
    op.create_table(
        "sources",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("first_event_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("last_event_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("last_live_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_sources")),
        comment="Where events come from; a source without live events is never watched for silence",
    )
    op.create_table(
        "stream_offsets",
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cluster_id", sa.Text(), nullable=True),
        sa.Column("topic_id", sa.Text(), nullable=True),
        sa.Column("last_offset", sa.BigInteger(), nullable=True),
        sa.Column("last_timestamp_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_crc", sa.BigInteger(), nullable=True),
        sa.Column("complete_through", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("records", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stopped_reason", sa.Text(), nullable=True),
        sa.Column("updated_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "topic", "partition", name=op.f("pk_stream_offsets")),
        comment="The next offset per partition; moves by compare-and-set in the transaction that stores the facts",
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "touched",
        sa.Column("touched_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_ids", postgresql.ARRAY(sa.Text(collation="C")), nullable=True),
        sa.Column("everyone_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("after_account_id", sa.Text(collation="C"), nullable=True),
        sa.Column("urgent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("oldest_event_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("touched_id", name=op.f("pk_touched")),
        comment="Door (a): which accounts a batch touched. Appended by the consumers, consumed by the evaluators",
    )
    op.create_table(
        "user_months",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("active_days", sa.Integer(), nullable=False),
        sa.Column("last_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "month", "user_id", name=op.f("pk_user_months")),
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "users",
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("first_identified_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "user_id", name=op.f("pk_users")),
    )
    op.create_table(
        "transitions",
        sa.Column("transition_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("episode_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column(
            "data", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["episode_id"], ["episodes.episode_id"], name=op.f("fk_transitions_episode_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("transition_id", name=op.f("pk_transitions")),
    )
    op.create_index("ix_transitions_episode", "transitions", ["episode_id", "transition_id"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.UUID(), nullable=False),
        sa.Column("transition_id", sa.BigInteger(), nullable=False),
        sa.Column("episode_id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("message", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("leased_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("oldest_event_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("sent_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["transition_id"],
            ["transitions.transition_id"],
            name=op.f("fk_deliveries_transition_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint(
            "transition_id", "channel", "target", name=op.f("uq_deliveries_transition_id_channel_target")
        ),
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'leased')"),
    )
    op.create_index("ix_deliveries_episode", "deliveries", ["episode_id"], unique=False)
    op.create_index(
        "ix_deliveries_list", "deliveries", [sa.literal_column("created_at DESC"), "delivery_id"], unique=False
    )
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.UUID(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("retry_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["deliveries.delivery_id"],
            name=op.f("fk_delivery_attempts_delivery_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "attempt", name=op.f("pk_delivery_attempts")),
    )


def downgrade() -> None:  # noqa: PLR0915 - one statement a table
    op.drop_table("delivery_attempts")
    op.drop_index("ix_deliveries_list", table_name="deliveries")
    op.drop_index("ix_deliveries_episode", table_name="deliveries")
    op.drop_index(
        "ix_deliveries_due", table_name="deliveries", postgresql_where=sa.text("status IN ('pending', 'leased')")
    )
    op.drop_table("deliveries")
    op.drop_index("ix_transitions_episode", table_name="transitions")
    op.drop_table("transitions")
    op.drop_table("users")
    op.drop_table("user_months")
    op.drop_table("touched")
    op.drop_table("stream_offsets")
    op.drop_table("sources")
    op.drop_table("source_hours")
    op.drop_table("score_history")
    op.drop_table("rulebooks")
    op.drop_table("rule_activations")
    op.drop_table("records")
    op.drop_index("ix_record_events_timeline", table_name="record_events")
    op.drop_table("record_events")
    op.drop_table("people")
    op.drop_table("late_arrivals")
    op.drop_table("imports")
    op.drop_table("import_marks")
    op.drop_index("ix_health_score", table_name="health")
    op.drop_index("ix_health_renewal", table_name="health")
    op.drop_index("ix_health_owner", table_name="health")
    op.drop_index("ix_health_mrr_at_risk", table_name="health")
    op.drop_index("ix_health_last_seen", table_name="health")
    op.drop_index("ix_health_due", table_name="health", postgresql_where=sa.text("due_at IS NOT NULL"))
    op.drop_table("health")
    op.drop_index(
        "uq_gaps_open_source",
        table_name="gaps",
        postgresql_where=sa.text("state = 'open' AND until_at IS NULL"),
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("gaps")
    op.drop_table("features")
    op.drop_table("feature_months")
    op.drop_index("uq_episodes_open", table_name="episodes", postgresql_where=sa.text("state = 'open'"))
    op.drop_index(
        "ix_episodes_next", table_name="episodes", postgresql_where=sa.text("state = 'open' AND next_at IS NOT NULL")
    )
    op.drop_index("ix_episodes_list", table_name="episodes")
    op.drop_index("ix_episodes_account", table_name="episodes")
    op.drop_table("episodes")
    op.drop_index("ix_dedup_batches_day", table_name="dedup_batches")
    op.drop_index("ix_dedup_batches_created", table_name="dedup_batches")
    op.drop_table("dedup_batches")
    op.drop_table("dead_letters")
    op.drop_table("channel_holds")
    op.drop_table("api_keys")
    op.drop_table("accounts")
    op.drop_table("account_months")
    op.drop_table("account_history")
    op.drop_table("account_attributes")
    op.execute("DROP FUNCTION kizashi_merge_registers(jsonb, jsonb)")
    op.execute("DROP FUNCTION kizashi_add_days(bigint[], bigint[])")
