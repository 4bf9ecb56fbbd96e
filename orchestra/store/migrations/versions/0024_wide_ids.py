"""Ids that are counted up get 64 bits on PostgreSQL: log lines and states would have used 32 up in some years."""

from __future__ import annotations

from alembic import op

revision = "0024_wide_ids"
down_revision = "0023_lines_of_tasks"
branch_labels = None
depends_on = None

_TABLES = ("flow_run_inputs", "slots", "states", "logs")


def upgrade() -> None:
    """Widen the columns and the sequences that count them up; SQLite's have 64 bits already.

    PostgreSQL writes each table and its indexes anew for that, and locks it meanwhile.
    """
    if op.get_bind().dialect.name != "postgresql":
        return
    # The time goes into building the indexes again.
    op.execute("SET LOCAL maintenance_work_mem TO '256MB'")
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN id TYPE bigint")
        op.execute(f"ALTER SEQUENCE {table}_id_seq AS bigint")
