"""Events, and by what changes of state are listed as such."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0017_events"
down_revision = "0016_variables"
branch_labels = None
depends_on = None

_TASK_ENDS = "phase = 'DONE' AND kind = 'task'"


def upgrade() -> None:
    """Add the table and the indexes. Runs that are there are not changed: their states show as events at once."""
    op.create_table(
        "events",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("occurred", sa.Double(), nullable=False),
        sa.Column("received", sa.Double(), nullable=False),
        sa.Column("event", sa.String(255), nullable=False),
        sa.Column("resource_id", sa.String(512), nullable=False),
        sa.Column("resource_kind", sa.String(512), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("related", sa.Text(), nullable=False, server_default="[]"),
        sa.Column("payload", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("follows", sa.String(36)),
        sa.Column("run_id", sa.String(36)),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    add_index("ix_events_occurred", "events", ["occurred", "id"])
    add_index("ix_events_received", "events", ["received", "id"])
    add_index("ix_events_event", "events", ["event", "occurred", "id"])
    add_index("ix_events_resource", "events", ["resource_id", "occurred", "id"])
    add_index("ix_events_kind", "events", ["resource_kind", "occurred", "id"])
    add_index("ix_events_run", "events", ["run_id", "occurred", "id"], where="run_id IS NOT NULL")
    for whose, condition in (("flow_run", "step_id IS NULL"), ("task_run", "step_id IS NOT NULL")):
        add_index(f"ix_states_{whose}s", "states", ["timestamp", "id"], where=condition)
        add_index(f"ix_states_{whose}_names", "states", ["name", "timestamp", "id"], where=condition)
    add_index("ix_steps_ends", "steps", ["end_time", "id"], where=_TASK_ENDS)
    add_index("ix_steps_end_names", "steps", ["state_name", "end_time", "id"], where=_TASK_ENDS)
