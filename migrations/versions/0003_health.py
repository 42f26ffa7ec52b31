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


def downgrade() -> None:
    op.drop_table("fleets")


def _fleets() -> None:
    op.create_table(
        "fleets",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("learnt_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_fleets")),
        comment="What all accounts say together: pauses, clock, base rate; fixed at the close of a day",
    )
