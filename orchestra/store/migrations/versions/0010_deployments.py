"""Deployments with their schedules, work pools with their queues, and whose runs are whose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0010_deployments"
down_revision = "0009_transactions"
branch_labels = None
depends_on = None

_FALSE, _TRUE = sa.text("false"), sa.text("true")


def upgrade() -> None:
    """Add the columns and tables; those that others point to come first."""
    op.add_column("flow_runs", sa.Column("deployment_id", sa.String(36)))
    op.add_column("flow_runs", sa.Column("job_variables", sa.Text()))
    columns = ["deployment_id", "created_at", "id"]
    add_index("ix_flow_runs_deployment", "flow_runs", columns, where="deployment_id IS NOT NULL")
    create_work_pools()
    create_work_queues()
    create_deployments()
    create_schedules()


def create_work_pools() -> None:
    """Where runs of deployments go."""
    op.create_table(
        "work_pools",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("description", sa.Text(), nullable=False, server_default=""),
        sa.Column("paused", sa.Boolean(), nullable=False, server_default=_FALSE),
        sa.Column("concurrency_limit", sa.Integer()),
        sa.Column("base_job_template", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_work_pools"),
        sa.UniqueConstraint("name", name="uq_work_pools_name"),
    )


def create_work_queues() -> None:
    """The queues of a pool."""
    op.create_table(
        "work_queues",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("pool_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False, server_default=""),
        sa.Column("priority", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("paused", sa.Boolean(), nullable=False, server_default=_FALSE),
        sa.Column("concurrency_limit", sa.Integer()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_work_queues"),
        sa.UniqueConstraint("pool_id", "name", name="uq_work_queues_pool_id_name"),
        sa.ForeignKeyConstraint(
            ["pool_id"], ["work_pools.id"], name="fk_work_queues_pool_id_work_pools", ondelete="CASCADE"
        ),
    )


def create_deployments() -> None:
    """A flow with parameters, a place to run, and times to start."""
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("flow_name", sa.String(255), nullable=False),
        sa.Column("entrypoint", sa.String(1024), nullable=False),
        sa.Column("description", sa.Text(), nullable=False, server_default=""),
        sa.Column("version", sa.String(255)),
        sa.Column("tags", sa.Text(), nullable=False, server_default="[]"),
        sa.Column("parameters", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("parameter_schema", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("enforce_parameter_schema", sa.Boolean(), nullable=False, server_default=_TRUE),
        sa.Column("work_pool_name", sa.String(255)),
        sa.Column("work_queue_name", sa.String(255)),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("job_variables", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("pull_steps", sa.Text()),
        sa.Column("concurrency_limit", sa.Integer()),
        sa.Column("collision_strategy", sa.String(16), nullable=False, server_default="ENQUEUE"),
        sa.Column("triggers", sa.Text(), nullable=False, server_default="[]"),
        sa.Column("paused", sa.Boolean(), nullable=False, server_default=_FALSE),
        sa.Column("options", sa.LargeBinary()),
        sa.Column("flow_version", sa.String(255)),
        sa.Column("priority", sa.Integer()),
        sa.Column("timeout_seconds", sa.Double()),
        sa.Column("has_hooks", sa.Boolean()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
        sa.UniqueConstraint("flow_name", "name", name="uq_deployments_flow_name_name"),
    )
    op.create_index("ix_deployments_queue", "deployments", ["queue"])


def create_schedules() -> None:
    """When runs of a deployment are to start."""
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("deployment_id", sa.String(36), nullable=False),
        sa.Column("slug", sa.String(255)),
        sa.Column("active", sa.Boolean(), nullable=False, server_default=_TRUE),
        sa.Column("cron", sa.String(255)),
        sa.Column("interval", sa.Double()),
        sa.Column("rrule", sa.Text()),
        sa.Column("timezone", sa.String(64)),
        sa.Column("day_or", sa.Boolean(), nullable=False, server_default=_TRUE),
        sa.Column("anchor", sa.Double()),
        sa.Column("parameters", sa.Text(), nullable=False, server_default="{}"),
        sa.Column("catchup", sa.String(8), nullable=False, server_default="latest"),
        sa.Column("catchup_max", sa.Integer()),
        sa.Column("max_late", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
        sa.UniqueConstraint("deployment_id", "slug", name="uq_schedules_deployment_id_slug"),
        sa.ForeignKeyConstraint(
            ["deployment_id"], ["deployments.id"], name="fk_schedules_deployment_id_deployments", ondelete="CASCADE"
        ),
    )
