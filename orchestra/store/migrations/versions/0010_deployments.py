"""Deployments with their schedules, work pools with their queues, and whose runs are whose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.tables import deployments, flow_runs, schedules, work_pools, work_queues

revision = "0010_deployments"
down_revision = "0005_pass_ons"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is not there: the first revision takes its tables from the code, and so may have made it just now."""
    connection = op.get_bind()
    there = {column["name"] for column in sa.inspect(connection).get_columns("flow_runs")}
    for column in (sa.Column("deployment_id", sa.String(36)), sa.Column("job_variables", sa.Text())):
        if column.name not in there:
            op.add_column("flow_runs", column)
    index = next(each for each in flow_runs.indexes if each.name == "ix_flow_runs_deployment")
    index.create(connection, checkfirst=True)
    for table in (work_pools, work_queues, deployments, schedules):
        table.create(connection, checkfirst=True)
