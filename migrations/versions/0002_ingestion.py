"""ingestion: waiting users, the archive, erasures, replays, dead letters that are worked off"""

from __future__ import annotations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One function a matter, called here in order."""


def downgrade() -> None:
    """Nothing to undo yet."""
