"""The step from which a person had a run retried."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021_retried_from"
down_revision = "0020_long_lists"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; nobody had a run that is there retried from a step."""
    op.add_column("flow_runs", sa.Column("retried_from", sa.String(512)))
    op.add_column("flow_runs", sa.Column("retried_from_attempt", sa.Integer()))
