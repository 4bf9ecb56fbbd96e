"""The version of the flow that a step's worker must have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014_versions"
down_revision = "0011_ticks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; steps that are there go on on any worker."""
    op.add_column("steps", sa.Column("version", sa.String(255)))
