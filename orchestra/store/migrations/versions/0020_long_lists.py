"""Lists over a long history: runs by their start, those that failed by their end, log lines by time."""

from __future__ import annotations

from orchestra.store.migrations.changes import add_index

revision = "0020_long_lists"
down_revision = "0019_ended_runs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes."""
    add_index("ix_flow_runs_started", "flow_runs", ["start_time", "id"], where="start_time IS NOT NULL")
    add_index("ix_flow_runs_failed", "flow_runs", ["end_time", "id"], where="state_type IN ('FAILED', 'CRASHED')")
    add_index("ix_logs_time", "logs", ["timestamp", "id"])
