"""Tags of task runs, and indexes over runs that have tags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0002_step_tags"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the indexes."""
    op.add_column("steps", sa.Column("tags", sa.Text()))
    add_index("ix_flow_runs_tagged", "flow_runs", ["created_at", "id"], where="tags <> '[]'")
    add_index("ix_steps_tagged", "steps", ["created_at", "id"], where="tags IS NOT NULL")
