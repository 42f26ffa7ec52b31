"""health: what the fleet says"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One function a matter, called here in order."""
    _fleets()
    _score_overrides()
    _watch()
    _hierarchy()
    _gaps_by_hand()
    _million()
    op.add_column("health", sa.Column("holding", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    _compress("lz4")


def downgrade() -> None:
    _compress("default")
    op.drop_column("health", "holding")
    _without_million()
    op.drop_index("ix_health_parent", "health")
    for column in ("rollup", "as_child", "parent_problem", "parent_id"):
        op.drop_column("health", column)
    op.drop_column("gaps", "retired")
    op.drop_column("gaps", "by_hand")
    op.drop_column("accounts", "sources")
    op.drop_table("cadences")
    op.drop_table("watch")
    op.drop_table("score_overrides")
    op.drop_table("fleets")


def _compress(method: str) -> None:
    """What each evaluation writes: with pglz that costs more than all else of writing it. Not every server has lz4."""
    op.execute(f"""
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
    ALTER TABLE health ALTER signals SET COMPRESSION {method}, ALTER contributions SET COMPRESSION {method};
    ALTER TABLE score_history ALTER contributions SET COMPRESSION {method};
  END IF;
END $$
""")


def _hierarchy() -> None:
    op.add_column("health", sa.Column("parent_id", sa.Text(collation="C"), nullable=True))
    op.add_column("health", sa.Column("parent_problem", sa.Text(), nullable=True))
    op.add_column("health", sa.Column("as_child", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("health", sa.Column("rollup", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_index(
        "ix_health_parent",
        "health",
        ["parent_id", "account_id"],
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )


def _score_overrides() -> None:
    op.create_table(
        "score_overrides",
        sa.Column("override_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("score", sa.Numeric(4, 1), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("override_id", name=op.f("pk_score_overrides")),
        comment="Scores that people set, with why and until when; at most one not ended per account",
    )
    op.create_index(
        "uq_score_overrides_standing",
        "score_overrides",
        ["account_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def _fleets() -> None:
    op.create_table(
        "fleets",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("learnt_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_fleets")),
        comment="What all accounts say together: pauses, clock, base rate; fixed at the close of a day",
    )


def _watch() -> None:
    op.create_table(
        "watch",
        sa.Column("one", sa.Boolean(), nullable=False),
        sa.Column("judged_through", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("held_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("complete_since", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("places", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("places_on", sa.Date(), nullable=True),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_watch")),
        comment="How far the guard over the sources has looked; its lock makes the evaluators take turns",
    )
    op.create_table(
        "cadences",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("cadence", sa.Interval(), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_cadences")),
        comment="Sources that deliver now and then, as rules/sources.yaml says: for those who cannot read it",
    )
    # What was stored before may have come from any source: all bits. New accounts begin with none.
    op.add_column("accounts", sa.Column("sources", sa.BigInteger(), nullable=False, server_default="-1"))
    op.alter_column("accounts", "sources", server_default="0")


def _gaps_by_hand() -> None:
    for name in ("by_hand", "retired"):
        op.add_column("gaps", sa.Column(name, sa.Boolean(), nullable=False, server_default="false"))


def _million() -> None:
    """What keeps a million accounts cheap: rounds of re-evaluation, the sweep's place, and indexes for what is asked
    often."""
    op.create_table(
        "reevaluations",
        sa.Column("round", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="running", nullable=False),
        sa.Column("accounts", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("next_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("began_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("round", name=op.f("pk_reevaluations")),
        comment="Rounds in which everybody is looked at again; an account is up to date when its row names the newest",
    )
    op.create_table(
        "sweeps",
        sa.Column("one", sa.Boolean(), nullable=False),
        sa.Column("after_account_id", sa.Text(collation="C"), nullable=False),
        sa.Column("swept_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("circle_began_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_sweeps")),
        comment="How far the sweep for missed accounts has come; its lock makes the evaluators take turns",
    )
    op.add_column("rule_activations", sa.Column("levels_version", sa.Text(), nullable=True))
    op.add_column("rule_activations", sa.Column("levels_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("health", sa.Column("round", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("ix_health_problem", "health", ["account_id"], postgresql_where=sa.text("problem IS NOT NULL"))
    op.create_index(
        "ix_touched_queue",
        "touched",
        [sa.literal_column("urgent DESC"), "touched_id"],
        postgresql_where=sa.text("account_ids IS NOT NULL"),
    )
    op.create_index(
        "ix_touched_everyone", "touched", ["everyone_since"], postgresql_where=sa.text("everyone_since IS NOT NULL")
    )
    op.create_index(
        "ix_episodes_open",
        "episodes",
        [sa.literal_column("opened_at DESC"), "episode_id"],
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index("ix_deliveries_dead", "deliveries", ["created_at"], postgresql_where=sa.text("status = 'dead'"))


def _without_million() -> None:
    op.drop_index("ix_deliveries_dead", "deliveries")
    op.drop_index("ix_episodes_open", "episodes")
    op.drop_index("ix_touched_everyone", "touched")
    op.drop_index("ix_touched_queue", "touched")
    op.drop_index("ix_health_problem", "health")
    op.drop_column("health", "round")
    op.drop_column("rule_activations", "levels_at")
    op.drop_column("rule_activations", "levels_version")
    op.drop_table("sweeps")
    op.drop_table("reevaluations")
