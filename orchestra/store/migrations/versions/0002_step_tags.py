"""Tags of task runs, and indexes over runs that have tags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.tables import flow_runs, steps

revision = "0002_step_tags"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is not there: the first revision takes its tables from the code, so it may have made it all just now."""
    connection = op.get_bind()
    if "tags" not in {column["name"] for column in sa.inspect(connection).get_columns("steps")}:
        op.add_column("steps", sa.Column("tags", sa.Text()))
    for table, name in ((flow_runs, "ix_flow_runs_tagged"), (steps, "ix_steps_tagged")):
        index = next(each for each in table.indexes if each.name == name)
        index.create(connection, checkfirst=True)
