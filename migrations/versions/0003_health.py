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


def downgrade() -> None:
    op.drop_column("accounts", "sources")
    op.drop_table("cadences")
    op.drop_table("watch")
    op.drop_table("score_overrides")
    op.drop_table("fleets")


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
