"""The first states of flow runs and task runs, of which events are made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0025_every_state"
down_revision = "0024_wide_ids"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; of what is there already nothing more is told than before."""
    op.add_column("flow_runs", sa.Column("first_state", sa.String(16)))
    op.add_column("steps", sa.Column("pending_at", sa.Double()))
    op.add_column("steps", sa.Column("running_at", sa.Double()))
    add_index("ix_flow_runs_first", "flow_runs", ["first_state", "created_at", "id"], where="first_state IS NOT NULL")
    add_index("ix_steps_pending", "steps", ["pending_at", "id"], where="pending_at IS NOT NULL")
    add_index("ix_steps_running", "steps", ["running_at", "id"], where="running_at IS NOT NULL")
