"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index, of_a_run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of runs, steps and workers; those that others point to come first."""
    create_flows()
    create_flow_runs()
    create_steps()
    create_joins()
    create_edges()
    create_states()
    create_logs()
    create_blobs()
    create_workers()
    create_queue_marks()
    create_leaders()
    create_installation()


def create_flows() -> None:
    """Flows by name."""
    op.create_table(
        "flows",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("path", sa.String(1024), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_flows"),
        sa.UniqueConstraint("name", name="uq_flows_name"),
    )


def create_flow_runs() -> None:
    """One row a run: state, parameters, claim, wait."""
    op.create_table(
        "flow_runs",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("flow_name", sa.String(255), nullable=False),
        sa.Column("path", sa.String(1024), nullable=False),
        sa.Column("options", sa.LargeBinary()),
        sa.Column("entrypoint", sa.String(1024)),
        sa.Column("scheduled_at", sa.Double()),
        sa.Column("version", sa.String(255)),
        sa.Column("parameters", sa.LargeBinary()),
        sa.Column("tags", sa.Text(), nullable=False, server_default="[]"),
        sa.Column("idempotency_key", sa.String(512)),
        sa.Column("runner", sa.String(16), nullable=False),
        sa.Column("parent_run_id", sa.String(36)),
        sa.Column("parent_attempt", sa.Integer()),
        sa.Column("parent_step_key", sa.String(512)),
        sa.Column("root_run_id", sa.String(36), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("run_attempt", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("timeout_seconds", sa.Double()),
        sa.Column("deadline_at", sa.Double()),
        sa.Column("held", sa.String(32)),
        sa.Column("wait_needed", sa.Integer()),
        sa.Column("wait_open", sa.Integer()),
        sa.Column("wait_count", sa.Integer()),
        sa.Column("wait_claim", sa.Integer()),
        sa.Column("streak_at", sa.Double()),
        sa.Column("streak_parks", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("outcome", sa.LargeBinary()),
        sa.Column("phase", sa.String(8), nullable=False),
        sa.Column("due_at", sa.Double()),
        sa.Column("announce_at", sa.Double()),
        sa.Column("announced_at", sa.Double()),
        sa.Column("queue", sa.String(255)),
        sa.Column("priority", sa.Integer()),
        sa.Column("owner", sa.String(255)),
        sa.Column("lease_until", sa.Double()),
        sa.Column("lease_seconds", sa.Double()),
        sa.Column("claim_number", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("lapses", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("state_type", sa.String(16), nullable=False),
        sa.Column("state_name", sa.String(64), nullable=False),
        sa.Column("state_message", sa.Text()),
        sa.Column("result", sa.LargeBinary()),
        sa.Column("result_blob", sa.String(80)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("start_time", sa.Double()),
        sa.Column("end_time", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_flow_runs"),
        sa.UniqueConstraint("flow_name", "idempotency_key", name="uq_flow_runs_flow_name_idempotency_key"),
    )
    add_index("ix_flow_runs_announce", "flow_runs", ["announce_at"], where="phase = 'READY'")
    add_index("ix_flow_runs_blob", "flow_runs", ["result_blob"], where="result_blob IS NOT NULL")
    add_index("ix_flow_runs_created", "flow_runs", ["created_at", "id"])
    add_index(
        "ix_flow_runs_deadline", "flow_runs", ["deadline_at"], where="deadline_at IS NOT NULL AND phase = 'WAITING'"
    )
    add_index("ix_flow_runs_flow", "flow_runs", ["flow_name", "created_at", "id"])
    add_index("ix_flow_runs_lease", "flow_runs", ["lease_until"], where="phase = 'CLAIMED'")
    add_index("ix_flow_runs_parent", "flow_runs", ["parent_run_id"], where="parent_run_id IS NOT NULL")
    add_index("ix_flow_runs_state", "flow_runs", ["state_type", "created_at", "id"])
    add_index("ix_flow_runs_waiting", "flow_runs", ["id"], where="phase = 'WAITING'")


def create_steps() -> None:
    """The journal."""
    op.create_table(
        "steps",
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("run_attempt", sa.Integer(), nullable=False),
        sa.Column("step_key", sa.String(512), nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("branch", sa.String(255), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("path", sa.String(1024)),
        sa.Column("options", sa.LargeBinary()),
        sa.Column("recorded_attempt", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("inline", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("inputs", sa.LargeBinary()),
        sa.Column("inputs_fingerprint", sa.String(32)),
        sa.Column("join_id", sa.String(512)),
        sa.Column("wave", sa.String(512)),
        sa.Column("wave_index", sa.Integer()),
        sa.Column("wave_window", sa.Integer()),
        sa.Column("awaited_by", sa.Integer()),
        sa.Column("child_run_id", sa.String(36)),
        sa.Column("worker", sa.String(255)),
        sa.Column("phase", sa.String(8), nullable=False),
        sa.Column("due_at", sa.Double()),
        sa.Column("announce_at", sa.Double()),
        sa.Column("announced_at", sa.Double()),
        sa.Column("queue", sa.String(255)),
        sa.Column("priority", sa.Integer()),
        sa.Column("owner", sa.String(255)),
        sa.Column("lease_until", sa.Double()),
        sa.Column("lease_seconds", sa.Double()),
        sa.Column("claim_number", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("lapses", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("state_type", sa.String(16), nullable=False),
        sa.Column("state_name", sa.String(64), nullable=False),
        sa.Column("state_message", sa.Text()),
        sa.Column("result", sa.LargeBinary()),
        sa.Column("result_blob", sa.String(80)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("start_time", sa.Double()),
        sa.Column("end_time", sa.Double()),
        sa.PrimaryKeyConstraint("run_id", "run_attempt", "step_key", name="pk_steps"),
        sa.UniqueConstraint("id", name="uq_steps_id"),
        of_a_run("steps"),
    )
    add_index("ix_steps_announce", "steps", ["announce_at"], where="phase = 'READY'")
    add_index("ix_steps_blob", "steps", ["result_blob"], where="result_blob IS NOT NULL")
    add_index("ix_steps_created", "steps", ["created_at", "id"])
    add_index("ix_steps_ended", "steps", ["run_id", "run_attempt", "end_time"], where="phase = 'DONE'")
    add_index("ix_steps_join", "steps", ["run_id", "run_attempt", "join_id"], where="phase = 'WAITING'")
    add_index("ix_steps_lease", "steps", ["lease_until"], where="phase = 'CLAIMED'")
    add_index("ix_steps_open", "steps", ["run_id", "run_attempt"], where="phase <> 'DONE'")
    add_index("ix_steps_run", "steps", ["run_id", "run_attempt", "sequence"])
    add_index("ix_steps_wave", "steps", ["run_id", "wave", "wave_index"], where="wave IS NOT NULL")


def create_joins() -> None:
    """What steps with the same upstreams wait for."""
    op.create_table(
        "joins",
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("run_attempt", sa.Integer(), nullable=False),
        sa.Column("join_id", sa.String(512), nullable=False),
        sa.Column("parent_id", sa.String(512)),
        sa.Column("remaining", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "run_attempt", "join_id", name="pk_joins"),
        of_a_run("joins"),
    )


def create_edges() -> None:
    """Which joins a step counts down."""
    op.create_table(
        "edges",
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("run_attempt", sa.Integer(), nullable=False),
        sa.Column("upstream", sa.String(512), nullable=False),
        sa.Column("join_id", sa.String(512), nullable=False),
        sa.Column("target_id", sa.String(512), nullable=False),
        sa.Column("strict", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "run_attempt", "upstream", "join_id", name="pk_edges"),
        of_a_run("edges"),
    )
    add_index("ix_edges_target", "edges", ["run_id", "run_attempt", "target_id"])


def create_states() -> None:
    """State history."""
    op.create_table(
        "states",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("step_id", sa.String(36)),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("message", sa.Text()),
        sa.Column("timestamp", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_states"),
        of_a_run("states"),
    )
    add_index("ix_states_run", "states", ["run_id", "id"])


def create_logs() -> None:
    """Lines of runs and steps."""
    op.create_table(
        "logs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("step_id", sa.String(36)),
        sa.Column("logger", sa.String(255), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.Double(), nullable=False),
        sa.Column("branch", sa.String(255)),
        sa.Column("ordinal", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_logs"),
        of_a_run("logs"),
    )
    add_index("ix_logs_run", "logs", ["run_id", "id"])
    add_index("uq_logs_line", "logs", ["run_id", "branch", "ordinal"], unique=True, where="branch IS NOT NULL")


def create_blobs() -> None:
    """Results too large for a row, in chunks."""
    op.create_table(
        "blobs",
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("chunk", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "chunk", name="pk_blobs"),
    )


def create_workers() -> None:
    """Workers that are there, or were."""
    op.create_table(
        "workers",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("pool", sa.String(32), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("heartbeat_at", sa.Double(), nullable=False),
        sa.Column("stopping", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )


def create_queue_marks() -> None:
    """The latest claimed announcement of each queue."""
    op.create_table(
        "queue_marks",
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("announced_at", sa.Double(), nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name="pk_queue_marks"),
    )


def create_leaders() -> None:
    """Who holds which duty."""
    op.create_table(
        "leaders",
        sa.Column("duty", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("ticked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("duty", name="pk_leaders"),
    )


def create_installation() -> None:
    """Facts of this installation."""
    op.create_table(
        "installation",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_installation"),
    )
