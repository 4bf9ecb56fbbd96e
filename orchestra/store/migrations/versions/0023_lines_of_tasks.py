"""The lines of one task run, among the many of its run."""

from __future__ import annotations

from orchestra.store.migrations.changes import add_index

revision = "0023_lines_of_tasks"
down_revision = "0021_retried_from"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    add_index("ix_logs_step", "logs", ["step_id", "id"], where="step_id IS NOT NULL")
