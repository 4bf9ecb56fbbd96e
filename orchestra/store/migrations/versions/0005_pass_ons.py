"""Outcomes owed to canvases of users' own, and the mark of runs that owe one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.tables import pass_ons

revision = "0005_pass_ons"
down_revision = "0004_flow_run_inputs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is not there: the first revision takes its tables from the code, and so may have made it just now."""
    connection = op.get_bind()
    if "passes_on" not in {column["name"] for column in sa.inspect(connection).get_columns("flow_runs")}:
        server_default = sa.text("false")
        op.add_column("flow_runs", sa.Column("passes_on", sa.Boolean(), nullable=False, server_default=server_default))
    pass_ons.create(connection, checkfirst=True)
