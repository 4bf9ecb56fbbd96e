"""The first states of flow runs and task runs, of which events are made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022_every_state"
down_revision = "0021_retried_from"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; of what is there already nothing more is told than before."""
    op.add_column("flow_runs", sa.Column("first_state", sa.String(16)))
    op.add_column("steps", sa.Column("pending_at", sa.Double()))
    op.add_column("steps", sa.Column("running_at", sa.Double()))
    _index("ix_flow_runs_first", "flow_runs", ["first_state", "created_at", "id"])
    _index("ix_steps_pending", "steps", ["pending_at", "id"])
    _index("ix_steps_running", "steps", ["running_at", "id"])


def _index(name: str, table: str, columns: list[str]) -> None:
    where = sa.text(f"{columns[0]} IS NOT NULL")
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
