"""Runs by when they ended: what failed in the last hours, and how many ended."""

from __future__ import annotations

from orchestra.store.migrations.changes import add_index

revision = "0019_ended_runs"
down_revision = "0018_access"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    add_index("ix_flow_runs_ended", "flow_runs", ["end_time", "state_type"], where="end_time IS NOT NULL")
