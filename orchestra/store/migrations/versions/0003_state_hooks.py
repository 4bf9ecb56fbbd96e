"""State hooks that are owed, and what a flow run knows of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.tables import owed_hooks

revision = "0003_state_hooks"
down_revision = "0002_step_tags"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is not there: the first revision takes its tables from the code, and so may have made it just now."""
    connection = op.get_bind()
    present = {column["name"] for column in sa.inspect(connection).get_columns("flow_runs")}
    for name, kind in (("has_hooks", sa.Boolean()), ("hooks_attempt", sa.Integer())):
        if name not in present:
            op.add_column("flow_runs", sa.Column(name, kind))
    owed_hooks.create(connection, checkfirst=True)
