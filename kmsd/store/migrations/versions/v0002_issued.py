"""An index by which certificates are listed, the newest first."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("certificates_issued", "certificates", ["issued_at"])
