"""The version of the flow that a step's worker must have, and whether a run's name was chosen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014_versions"
down_revision = "0012_run_slots"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; steps that are there go on on any worker, and runs keep the names that they have."""
    op.add_column("steps", sa.Column("version", sa.String(255)))
    op.add_column("flow_runs", sa.Column("named", sa.Boolean(), nullable=False, server_default=sa.text("false")))
