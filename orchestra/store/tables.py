"""The tables and their indexes, and nothing else.

Instants are seconds since the epoch (UTC) in double precision; `state_*` is what people see, `phase` is private
and drives claims. Encoded values are the bytes of `orchestra.serializers`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.sql.elements import ColumnElement

from orchestra.names import clean_text

#: Longest name, queue or version, and longest step or idempotency key, in characters.
LONGEST_NAME, LONGEST_KEY = 255, 512

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
#: An id that is counted up. SQLite counts only what is called INTEGER, which has 64 bits there.
_Counted = BigInteger().with_variant(Integer, "sqlite")


class Phase(enum.StrEnum):
    """Where a row stands in its way through claims."""

    #: May be claimed once `due_at` has come. A READY row is the owed message.
    READY = "READY"
    #: Someone works on it, until `lease_until`.
    CLAIMED = "CLAIMED"
    #: Something else must happen first: upstreams (a step), awaited steps (a parked flow run).
    WAITING = "WAITING"
    #: Final.
    DONE = "DONE"


class Kind(enum.StrEnum):
    """What a step asks of the world."""

    TASK = "task"
    SUBFLOW = "subflow"
    SLEEP = "sleep"
    PAUSE = "pause"
    #: A wait for a message of another run.
    INPUT = "input"
    #: A wait for slots of concurrency limits, which the run then holds.
    SLOT = "slot"
    #: Something the body saw of the outside: a clock, a state, an order of completion, a timeout.
    OBSERVATION = "observation"
    #: That the body went by a patch of its code (`orchestra.patched`).
    PATCH = "patch"
    #: The opening of a transaction, or a value set in one: done anew in each attempt of the run.
    TRANSACTION = "transaction"


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over the rows for which the condition `where` holds, the same in both dialects."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


def _claim_columns() -> list[Column[object]]:
    """What a claimable row carries: the owed message, the claim, and its fence."""
    return [
        Column("phase", String(8), nullable=False),
        #: When it may be claimed; for a sleep or a pause, when it is over.
        Column("due_at", Double),
        #: When to announce it next; null: not announced yet, beyond the window of its wave.
        Column("announce_at", Double),
        #: When its last message was sent.
        Column("announced_at", Double),
        Column("queue", String(LONGEST_NAME)),
        Column("priority", Integer),
        Column("owner", String(LONGEST_NAME)),
        Column("lease_until", Double),
        Column("lease_seconds", Double),
        #: Counted up by every claim: the fence.
        Column("claim_number", Integer, nullable=False, server_default="0"),
        #: Claims in a row that took over a lapsed one, with no new journal row between.
        Column("lapses", Integer, nullable=False, server_default="0"),
    ]


def _state_columns() -> list[Column[object]]:
    return [
        Column("state_type", String(16), nullable=False),
        Column("state_name", String(64), nullable=False),
        Column("state_message", Text),
        #: The encoded value or exception; null where none or in `blobs`.
        Column("result", LargeBinary),
        Column("result_blob", String(80)),
        Column("created_at", Double, nullable=False),
        Column("start_time", Double),
        Column("end_time", Double),
    ]


flows = Table(
    "flows",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False, unique=True),
    Column("path", String(1024), nullable=False),
    Column("description", Text),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

flow_runs = Table(
    "flow_runs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False),
    Column("flow_name", String(LONGEST_NAME), nullable=False),
    Column("path", String(1024), nullable=False),
    #: Encoded options that differ from those of what stands at `path`.
    Column("options", LargeBinary),
    Column("entrypoint", String(1024)),
    #: When it was to start; `due_at` is when it may be claimed next.
    Column("scheduled_at", Double),
    Column("version", String(LONGEST_NAME)),
    Column("parameters", LargeBinary),
    Column("tags", Text, nullable=False, server_default="[]"),
    Column("idempotency_key", String(LONGEST_KEY)),
    #: "local" or "celery": which runner carries it out.
    Column("runner", String(16), nullable=False),
    Column("parent_run_id", String(36)),
    Column("parent_attempt", Integer),
    Column("parent_step_key", String(LONGEST_KEY)),
    Column("root_run_id", String(36), nullable=False),
    Column("depth", Integer, nullable=False, server_default="0"),
    #: Counted up by retries and `flow-run retry` only.
    Column("run_attempt", Integer, nullable=False, server_default="1"),
    Column("timeout_seconds", Double),
    Column("deadline_at", Double),
    #: Why no claim may be made: "paused", "nondeterministic", "slot" (see `run_slots`); null: free to go.
    Column("held", String(32)),
    #: Parked: how many of the awaited steps must still end (null: all unfinished ones), and all unfinished steps.
    Column("wait_needed", Integer),
    Column("wait_open", Integer),
    #: How many had to end when it parked: what the sweeper counts `wait_needed` from again.
    Column("wait_count", Integer),
    #: The claim number of the park that set the two above; steps it awaits carry it. Null: not parked.
    Column("wait_claim", Integer),
    #: The streak of parks without a new dispatch: when it began, how many there were.
    Column("streak_at", Double),
    Column("streak_parks", Integer, nullable=False, server_default="0"),
    #: The body has ended so; the run is final when all submitted work is. Encoded like a result.
    Column("outcome", LargeBinary),
    #: Whether `pass_ons` has rows of it.
    Column("passes_on", Boolean, nullable=False, server_default=text("false")),
    #: Whether its flow has hooks for an end, as whoever submitted it knew; null: nobody knew.
    Column("has_hooks", Boolean),
    #: The run attempt whose on_running hooks have run.
    Column("hooks_attempt", Integer),
    #: The deployment that it is a run of; kept when that is deleted.
    Column("deployment_id", String(36)),
    #: Its name was chosen: the template of the flow of a deployment does not make another one.
    Column("named", Boolean, nullable=False, server_default=text("false")),
    #: The key of the step from which a person last had it retried: done anew, whatever a cache has. Null: nobody did.
    Column("retried_from", String(LONGEST_KEY)),
    #: The run attempt that this opened: what its body starts and sends from then on is something new.
    Column("retried_from_attempt", Integer),
    #: JSON: what this run changes of the job variables of its deployment; null: nothing.
    Column("job_variables", Text),
    #: The name of the state that it was created in; null: its history tells it, or it was never told.
    Column("first_state", String(16)),
    *_claim_columns(),
    *_state_columns(),
    UniqueConstraint("flow_name", "idempotency_key"),
    Index("ix_flow_runs_created", "created_at", "id"),
    Index("ix_flow_runs_flow", "flow_name", "created_at", "id"),
    Index("ix_flow_runs_state", "state_type", "created_at", "id"),
    # As events are listed.
    _partial("ix_flow_runs_first", "first_state", "created_at", "id", where="first_state IS NOT NULL"),
    _partial("ix_flow_runs_started", "start_time", "id", where="start_time IS NOT NULL"),
    _partial("ix_flow_runs_ended", "end_time", "state_type", where="end_time IS NOT NULL"),
    _partial("ix_flow_runs_failed", "end_time", "id", where="state_type IN ('FAILED', 'CRASHED')"),
    _partial("ix_flow_runs_tagged", "created_at", "id", where="tags <> '[]'"),
    _partial("ix_flow_runs_deployment", "deployment_id", "created_at", "id", where="deployment_id IS NOT NULL"),
    _partial("ix_flow_runs_queued", "queue", "due_at", where="phase = 'READY' AND deployment_id IS NOT NULL"),
    _partial("ix_flow_runs_parent", "parent_run_id", where="parent_run_id IS NOT NULL"),
    _partial("ix_flow_runs_announce", "announce_at", where="phase = 'READY'"),
    _partial("ix_flow_runs_lease", "lease_until", where="phase = 'CLAIMED'"),
    _partial("ix_flow_runs_waiting", "id", where="phase = 'WAITING'"),
    _partial("ix_flow_runs_blob", "result_blob", where="result_blob IS NOT NULL"),
    _partial("ix_flow_runs_deadline", "deadline_at", where="deadline_at IS NOT NULL AND phase = 'WAITING'"),
)

steps = Table(
    "steps",
    metadata,
    Column("run_id", String(36), nullable=False),
    Column("run_attempt", Integer, nullable=False),
    #: `branch/name-n`.
    Column("step_key", String(LONGEST_KEY), nullable=False),
    #: Of the row, and of the task run people see.
    Column("id", String(36), nullable=False),
    Column("branch", String(LONGEST_NAME), nullable=False),
    #: The ordinal of the step in its branch.
    Column("position", Integer, nullable=False),
    #: The ordinal of the step in its run, in order of asking: how rows of one run are sorted and locked.
    Column("sequence", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("name", String(LONGEST_NAME), nullable=False),
    #: `module:qualname` of a task.
    Column("path", String(1024)),
    #: Encoded options that differ from those of what stands at `path`.
    Column("options", LargeBinary),
    #: The run attempt in which it was recorded; older than `run_attempt` once a retry has moved it on.
    Column("recorded_attempt", Integer, nullable=False),
    #: The run's, where that is pinned to one: only a worker that has the flow in it may claim the step.
    Column("version", String(LONGEST_NAME)),
    #: Tries of this step so far, counted up by retries only.
    Column("attempt", Integer, nullable=False, server_default="1"),
    #: Run in the segment's own process.
    Column("inline", Boolean, nullable=False, server_default=text("false")),
    Column("inputs", LargeBinary),
    Column("inputs_fingerprint", String(32)),
    #: The join whose upstreams it waits for.
    Column("join_id", String(LONGEST_KEY)),
    #: Rows that became READY together, the ordinal there, and how many of them are announced ahead.
    Column("wave", String(LONGEST_KEY)),
    Column("wave_index", Integer),
    Column("wave_window", Integer),
    #: The park (its claim number) that needs this row.
    Column("awaited_by", Integer),
    Column("child_run_id", String(36)),
    Column("worker", String(LONGEST_NAME)),
    #: JSON list; null: none.
    Column("tags", Text),
    #: The innermost transaction in whose block it was asked for.
    Column("transaction_key", String(LONGEST_KEY)),
    #: Of a task run, when it was first seen Pending, and Running; null: it was not, or its history tells it.
    Column("pending_at", Double),
    Column("running_at", Double),
    *_claim_columns(),
    *_state_columns(),
    PrimaryKeyConstraint("run_id", "run_attempt", "step_key"),
    UniqueConstraint("id"),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    Index("ix_steps_created", "created_at", "id"),
    Index("ix_steps_run", "run_id", "run_attempt", "sequence"),
    _partial("ix_steps_tagged", "created_at", "id", where="tags IS NOT NULL"),
    _partial("ix_steps_ended", "run_id", "run_attempt", "end_time", where="phase = 'DONE'"),
    _partial("ix_steps_open", "run_id", "run_attempt", where="phase <> 'DONE'"),
    _partial("ix_steps_announce", "announce_at", where="phase = 'READY'"),
    _partial("ix_steps_lease", "lease_until", where="phase = 'CLAIMED'"),
    _partial("ix_steps_join", "run_id", "run_attempt", "join_id", where="phase = 'WAITING'"),
    _partial("ix_steps_blob", "result_blob", where="result_blob IS NOT NULL"),
    _partial("ix_steps_wave", "run_id", "wave", "wave_index", where="wave IS NOT NULL"),
    # When task runs waited and began, as events are listed.
    _partial("ix_steps_pending", "pending_at", "id", where="pending_at IS NOT NULL"),
    _partial("ix_steps_running", "running_at", "id", where="running_at IS NOT NULL"),
    # The ends of task runs, as events are listed: all, and those of a state.
    _partial("ix_steps_ends", "end_time", "id", where="phase = 'DONE' AND kind = 'task'"),
    _partial("ix_steps_end_names", "state_name", "end_time", "id", where="phase = 'DONE' AND kind = 'task'"),
)

#: Steps with the same upstreams wait for one join. One of over 64 members is striped: its members count down
#: joins of their own, whose `parent_id` it is.
joins = Table(
    "joins",
    metadata,
    Column("run_id", String(36), nullable=False),
    Column("run_attempt", Integer, nullable=False),
    Column("join_id", String(LONGEST_KEY), nullable=False),
    Column("parent_id", String(LONGEST_KEY)),
    Column("remaining", Integer, nullable=False),
    PrimaryKeyConstraint("run_id", "run_attempt", "join_id"),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
)

#: Which joins a step counts down when it ends.
edges = Table(
    "edges",
    metadata,
    Column("run_id", String(36), nullable=False),
    Column("run_attempt", Integer, nullable=False),
    Column("upstream", String(LONGEST_KEY), nullable=False),
    Column("join_id", String(LONGEST_KEY), nullable=False),
    #: The join that holds the dependents: `join_id` itself, or its parent where it is a stripe.
    Column("target_id", String(LONGEST_KEY), nullable=False),
    #: False: the dependents run even if this upstream failed.
    Column("strict", Boolean, nullable=False),
    PrimaryKeyConstraint("run_id", "run_attempt", "upstream", "join_id"),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    Index("ix_edges_target", "run_id", "run_attempt", "target_id"),
)

#: Outcomes owed to canvases of users' own: of each Celery task that a run stands for, the message that passes its
#: outcome on. It is owed while the run is DONE and `passed_at` is null.
pass_ons = Table(
    "pass_ons",
    metadata,
    Column("run_id", String(36), nullable=False),
    #: Celery's id of the task.
    Column("task_id", String(LONGEST_NAME), nullable=False),
    #: The encoded options of its signature: callbacks, chain, chord, group; null once it was passed on.
    Column("message", LargeBinary),
    Column("created_at", Double, nullable=False),
    #: When to send it next; null: it was not sent yet.
    Column("announce_at", Double),
    #: Until when somebody passes it on.
    Column("lease_until", Double),
    #: When Celery had gone on.
    Column("passed_at", Double),
    PrimaryKeyConstraint("run_id", "task_id"),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    _partial("ix_pass_ons_owed", "run_id", where="passed_at IS NULL"),
)

#: State hooks that are owed: written with the end of a run or step that has them, deleted when they have run. Whoever
#: ended the run holds the first claim.
owed_hooks = Table(
    "owed_hooks",
    metadata,
    Column("run_id", String(36), nullable=False),
    #: In which the run or step ended; a retry by hand may have opened another one since.
    Column("run_attempt", Integer, nullable=False),
    #: The step whose hooks they are; empty: the flow run's own.
    Column("step_key", String(LONGEST_KEY), nullable=False),
    #: Of the flow or step.
    Column("name", String(LONGEST_NAME), nullable=False),
    #: The state that the hooks are told of.
    Column("state_type", String(16), nullable=False),
    Column("state_name", String(64), nullable=False),
    Column("state_message", Text),
    #: How many of them have run.
    Column("position", Integer, nullable=False, server_default="0"),
    #: Why they wait, for people.
    Column("waits_for", Text),
    *_claim_columns(),
    PrimaryKeyConstraint("run_id", "run_attempt", "step_key"),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
)

#: Transactions of flow runs. `key` is the step key of its opening.
transactions = Table(
    "transactions",
    metadata,
    Column("run_id", String(36), nullable=False),
    Column("run_attempt", Integer, nullable=False),
    Column("key", String(LONGEST_KEY), nullable=False),
    #: The block around it.
    Column("parent_key", String(LONGEST_KEY)),
    #: What users call its key: `transaction(key=…)`.
    Column("name", String(LONGEST_KEY)),
    #: A `transaction_rules.Durable`.
    Column("state", String(16), nullable=False),
    #: What `txn.set` has set, encoded.
    Column("stored", LargeBinary),
    #: What it is rolled back for: encoded, and for people.
    Column("error", LargeBinary),
    Column("message", Text),
    #: Where the block failed: the branch of the body, and how many steps that had asked for.
    Column("failed_branch", String(LONGEST_NAME)),
    Column("failed_position", Integer),
    Column("created_at", Double, nullable=False),
    Column("end_time", Double),
    PrimaryKeyConstraint("run_id", "run_attempt", "key"),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    Index("ix_transactions_created", "created_at", "run_id", "key"),
    Index("ix_transactions_state", "state", "created_at", "run_id", "key"),
)

#: Hooks of transactions: written before they can be needed, each run to one recorded end.
transaction_hooks = Table(
    "transaction_hooks",
    metadata,
    Column("run_id", String(36), nullable=False),
    Column("run_attempt", Integer, nullable=False),
    Column("key", String(2 * LONGEST_KEY), nullable=False),
    Column("transaction_key", String(LONGEST_KEY), nullable=False),
    #: A `transaction_rules.HookKind`.
    Column("kind", String(16), nullable=False),
    Column("name", String(LONGEST_NAME), nullable=False),
    #: The step whose task it belongs to, and its place among that task's hooks; null: of the block itself.
    Column("step_key", String(LONGEST_KEY)),
    Column("number", Integer, nullable=False, server_default="0"),
    #: `module:qualname` of the task it belongs to, or of what is to be called; null: see `function`.
    Column("path", String(1024)),
    #: Encoded options of that task.
    Column("options", LargeBinary),
    #: What is to be called, where it cannot be imported.
    Column("function", LargeBinary),
    #: Encoded arguments.
    Column("arguments", LargeBinary),
    #: What the task's body has set in its own transaction, encoded.
    Column("stored", LargeBinary),
    #: The order of registration: by time, then by this.
    Column("created_at", Double, nullable=False),
    Column("sequence", Integer, nullable=False),
    #: A `transaction_rules.HookState`.
    Column("state", String(16), nullable=False),
    #: How often it was started, crashes included, and its tries so far.
    Column("starts", Integer, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="1"),
    #: When the next try is due.
    Column("due_at", Double),
    Column("message", Text),
    Column("start_time", Double),
    Column("end_time", Double),
    PrimaryKeyConstraint("run_id", "run_attempt", "key"),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    Index("ix_transaction_hooks_transaction", "run_id", "run_attempt", "transaction_key"),
)

#: What was staged by committed transactions that have a key of the user's.
transaction_keys = Table(
    "transaction_keys",
    metadata,
    Column("key", String(LONGEST_KEY), primary_key=True),
    Column("result", LargeBinary),
    Column("result_blob", String(80)),
    Column("created_at", Double, nullable=False),
    _partial("ix_transaction_keys_blob", "result_blob", where="result_blob IS NOT NULL"),
)

#: State history of flow runs (and of steps, where they had more than one state).
states = Table(
    "states",
    metadata,
    Column("id", _Counted, primary_key=True, autoincrement=True),
    Column("run_id", String(36), nullable=False),
    Column("step_id", String(36)),
    Column("type", String(16), nullable=False),
    Column("name", String(64), nullable=False),
    Column("message", Text),
    Column("timestamp", Double, nullable=False),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    Index("ix_states_run", "run_id", "id"),
    # By time, and by name and time: as events are listed.
    _partial("ix_states_flow_runs", "timestamp", "id", where="step_id IS NULL"),
    _partial("ix_states_flow_run_names", "name", "timestamp", "id", where="step_id IS NULL"),
    _partial("ix_states_task_runs", "timestamp", "id", where="step_id IS NOT NULL"),
    _partial("ix_states_task_run_names", "name", "timestamp", "id", where="step_id IS NOT NULL"),
)

#: What was emitted, and what people and the system did. Changes of state are events too, and not written here: they
#: are read from `states`, `steps` and `flow_runs`.
events = Table(
    "events",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("occurred", Double, nullable=False),
    #: When it was written down; later than `occurred` where that is given.
    Column("received", Double, nullable=False),
    Column("event", String(LONGEST_NAME), nullable=False),
    Column("resource_id", String(LONGEST_KEY), nullable=False),
    #: Its id up to the last dot.
    Column("resource_kind", String(LONGEST_KEY), nullable=False),
    #: JSON: the labels of the resource, its id among them; a list of such; and what else is told.
    Column("resource", Text, nullable=False),
    Column("related", Text, nullable=False, server_default="[]"),
    Column("payload", Text, nullable=False, server_default="{}"),
    #: The event that it came from.
    Column("follows", String(36)),
    #: The flow run that it is about, or that emitted it; kept when that is deleted.
    Column("run_id", String(36)),
    Index("ix_events_occurred", "occurred", "id"),
    Index("ix_events_received", "received", "id"),
    Index("ix_events_event", "event", "occurred", "id"),
    Index("ix_events_resource", "resource_id", "occurred", "id"),
    Index("ix_events_kind", "resource_kind", "occurred", "id"),
    _partial("ix_events_run", "run_id", "occurred", "id", where="run_id IS NOT NULL"),
)

logs = Table(
    "logs",
    metadata,
    Column("id", _Counted, primary_key=True, autoincrement=True),
    Column("run_id", String(36), nullable=False),
    Column("step_id", String(36)),
    Column("logger", String(LONGEST_NAME), nullable=False),
    Column("level", Integer, nullable=False),
    Column("message", Text, nullable=False),
    Column("timestamp", Double, nullable=False),
    #: Of a flow body's lines: branch and ordinal there, by which replay tells which are written.
    Column("branch", String(LONGEST_NAME)),
    Column("ordinal", Integer),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    Index("ix_logs_run", "run_id", "id"),
    _partial("ix_logs_step", "step_id", "id", where="step_id IS NOT NULL"),
    Index("ix_logs_time", "timestamp", "id"),
    _partial("uq_logs_line", "run_id", "branch", "ordinal", unique=True, where="branch IS NOT NULL"),
)

#: Results too large for a row, in chunks.
blobs = Table(
    "blobs",
    metadata,
    #: `sha256:` and the digest of the whole.
    Column("name", String(80), nullable=False),
    Column("chunk", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    PrimaryKeyConstraint("name", "chunk"),
)

#: Results that later calls of a task are answered with, by what the calls are recognised by.
cache_entries = Table(
    "cache_entries",
    metadata,
    #: A digest of the task and of what its cache policy says of the call.
    Column("key", String(64), primary_key=True),
    #: What the policy says, as it says it: a text of the user's own, or a digest.
    Column("policy_key", Text, nullable=False),
    #: `module:qualname` of the task.
    Column("task", String(1024), nullable=False),
    Column("task_name", String(LONGEST_NAME), nullable=False),
    #: The encoded value; null where in `blobs`.
    Column("result", LargeBinary),
    Column("result_blob", String(80)),
    #: Bytes of the encoded value.
    Column("size", Integer, nullable=False),
    #: Who computed it.
    Column("run_id", String(36)),
    Column("step_id", String(36)),
    #: The transaction of that run in which it was computed: it answers nobody before that is committed. Null: at once.
    Column("transaction_attempt", Integer),
    Column("transaction_key", String(LONGEST_KEY)),
    Column("created_at", Double, nullable=False),
    #: Null: never.
    Column("expires_at", Double),
    Index("ix_cache_entries_created", "created_at", "key"),
    Index("ix_cache_entries_task", "task_name", "created_at", "key"),
    _partial("ix_cache_entries_expires", "expires_at", where="expires_at IS NOT NULL"),
    _partial("ix_cache_entries_blob", "result_blob", where="result_blob IS NOT NULL"),
)

#: Results in a storage outside of the database. A row is there before its file, and goes after it, so that no file is
#: without one; the run or step that refers to it comes in a later transaction than the file.
stored_results = Table(
    "stored_results",
    metadata,
    #: As `result_blob` has it.
    Column("name", String(80), primary_key=True),
    #: A folder, or a URL of fsspec.
    Column("storage", Text, nullable=False),
    #: Within the storage.
    Column("path", String(LONGEST_NAME), nullable=False),
    Column("size", BigInteger, nullable=False),
    #: Of the file, hexadecimal.
    Column("sha256", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    #: Since when nothing refers to it and its file is to be deleted.
    Column("dropped_at", Double),
    Index("ix_stored_results_created", "created_at"),
    _partial("ix_stored_results_dropped", "name", where="dropped_at IS NOT NULL"),
)

#: Messages to flow runs, in the order of their arrival.
flow_run_inputs = Table(
    "flow_run_inputs",
    metadata,
    Column("id", _Counted, primary_key=True, autoincrement=True),
    #: The run that is to have it.
    Column("run_id", String(36), nullable=False),
    #: By which it is asked for, and its own.
    Column("key_prefix", String(LONGEST_NAME), nullable=False),
    Column("key", String(2 * LONGEST_KEY), nullable=False),
    #: Encoded: `value`, `key` and `sender`.
    Column("content", LargeBinary, nullable=False),
    #: Of the step that sent it: a repeated sending changes nothing.
    Column("token", String(2 * LONGEST_KEY)),
    #: Who has taken it; null: it waits.
    Column("taken_by", String(2 * LONGEST_KEY)),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("key"),
    UniqueConstraint("token"),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    Index("ix_flow_run_inputs_run", "run_id", "id"),
    _partial("ix_flow_run_inputs_waiting", "run_id", "id", where="taken_by IS NULL"),
    _partial("ix_flow_run_inputs_taken", "taken_by", where="taken_by IS NOT NULL"),
)

#: What runs show people, and what is made by hand: a row each; those of one key are its versions.
artifacts = Table(
    "artifacts",
    metadata,
    Column("id", String(36), primary_key=True),
    #: Null: it belongs to its run only, and goes with it.
    Column("key", String(LONGEST_NAME)),
    #: "markdown", "table", "image", "progress", or a word of the user's own.
    Column("type", String(64)),
    Column("description", Text),
    #: JSON.
    Column("data", Text),
    #: JSON object of texts.
    Column("metadata", Text),
    #: Who made it. No foreign keys: a version of a key outlives its run.
    Column("flow_run_id", String(36)),
    Column("task_run_id", String(36)),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Index("ix_artifacts_created", "created_at", "id"),
    Index("ix_artifacts_type", "type", "created_at", "id"),
    _partial("ix_artifacts_key", "key", "created_at", "id", where="key IS NOT NULL"),
    _partial("ix_artifacts_flow_run", "flow_run_id", "created_at", "id", where="flow_run_id IS NOT NULL"),
    _partial("ix_artifacts_task_run", "task_run_id", "created_at", "id", where="task_run_id IS NOT NULL"),
)

#: Each key with its newest artifact, so that nobody has to look for it among the versions.
artifact_collections = Table(
    "artifact_collections",
    metadata,
    Column("key", String(LONGEST_NAME), primary_key=True),
    Column("latest_id", String(36), nullable=False),
    #: Of the newest artifact.
    Column("type", String(64)),
    Column("created_at", Double, nullable=False),
    Index("ix_artifact_collections_created", "created_at", "key"),
    Index("ix_artifact_collections_type", "type", "created_at", "key"),
)

#: Values that people set and runs read, by name.
variables = Table(
    "variables",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False, unique=True),
    #: JSON.
    Column("value", Text, nullable=False),
    #: JSON list.
    Column("tags", Text, nullable=False, server_default="[]"),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

#: Where runs of deployments go. A pool's default queue is the Celery queue of its name.
work_pools = Table(
    "work_pools",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False, unique=True),
    #: By what its runs are started: "process", "docker", "kubernetes".
    Column("type", String(32), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    #: How many of its runs may be at work at once; null: any number.
    Column("concurrency_limit", Integer),
    #: JSON: `job_configuration`, a template of its `variables`, which are a JSON schema.
    Column("base_job_template", Text, nullable=False, server_default="{}"),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

#: Queue `q` of pool `P` is the Celery queue `P.q`; `default` is `P` itself.
work_queues = Table(
    "work_queues",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("pool_id", String(36), nullable=False),
    Column("name", String(LONGEST_NAME), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    #: The lowest number is served first.
    Column("priority", Integer, nullable=False, server_default="1"),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("concurrency_limit", Integer),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("pool_id", "name"),
    ForeignKeyConstraint(["pool_id"], ["work_pools.id"], ondelete="CASCADE"),
)

#: A flow with parameters, a place to run, and times to start. What is marked JSON is text.
deployments = Table(
    "deployments",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False),
    Column("flow_name", String(LONGEST_NAME), nullable=False),
    #: `file.py:qualname` or `module:qualname`, by which a worker loads the flow.
    Column("entrypoint", String(1024), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("version", String(LONGEST_NAME)),
    #: JSON list.
    Column("tags", Text, nullable=False, server_default="[]"),
    #: JSON: values for those that a run is not given.
    Column("parameters", Text, nullable=False, server_default="{}"),
    #: JSON schema of the flow's parameters.
    Column("parameter_schema", Text, nullable=False, server_default="{}"),
    Column("enforce_parameter_schema", Boolean, nullable=False, server_default=text("true")),
    #: By name: it may be deployed before its pool is made. Null: the Celery queue of the flow, or a `serve`.
    Column("work_pool_name", String(LONGEST_NAME)),
    Column("work_queue_name", String(LONGEST_NAME)),
    #: The Celery queue of its runs.
    Column("queue", String(LONGEST_NAME), nullable=False),
    #: JSON: over the pool's base job template.
    Column("job_variables", Text, nullable=False, server_default="{}"),
    #: JSON list: how a worker gets the code; null: it is there.
    Column("pull_steps", Text),
    #: How many of its runs may be at work at once (null: any number), and what becomes of one more: "ENQUEUE" or
    #: "CANCEL_NEW".
    Column("concurrency_limit", Integer),
    Column("collision_strategy", String(16), nullable=False, server_default="ENQUEUE"),
    #: JSON list: kept; nothing acts on them yet.
    Column("triggers", Text, nullable=False, server_default="[]"),
    #: None of its schedules fires.
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    #: What of the flow's spec a run's row carries.
    Column("options", LargeBinary),
    Column("flow_version", String(LONGEST_NAME)),
    Column("priority", Integer),
    Column("timeout_seconds", Double),
    Column("has_hooks", Boolean),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("flow_name", "name"),
    Index("ix_deployments_queue", "queue"),
)

#: When runs of a deployment are to start: by one of `cron`, `interval` and `rrule`.
schedules = Table(
    "schedules",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("deployment_id", String(36), nullable=False),
    #: Its own name within the deployment; null: it has none.
    Column("slug", String(LONGEST_NAME)),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("cron", String(LONGEST_NAME)),
    #: In seconds.
    Column("interval", Double),
    Column("rrule", Text),
    #: IANA name; null: UTC.
    Column("timezone", String(64)),
    Column("day_or", Boolean, nullable=False, server_default=text("true")),
    #: The instant at which the interval begins.
    Column("anchor", Double),
    #: JSON: over those of the deployment.
    Column("parameters", Text, nullable=False, server_default="{}"),
    #: Which of the times that were missed are made up for: "latest", "none" or "all", of these at most so many.
    Column("catchup", String(8), nullable=False, server_default="latest"),
    Column("catchup_max", Integer),
    #: A time missed by more than this is not made up for, in seconds; null: however late.
    Column("max_late", Double),
    #: When it is to be looked at next; null: it is paused, or will not fire any more. A change makes it due at once.
    Column("next_at", Double),
    #: All fire times up to this instant are dealt with.
    Column("fired_at", Double, nullable=False, server_default=text("0")),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("deployment_id", "slug"),
    ForeignKeyConstraint(["deployment_id"], ["deployments.id"], ondelete="CASCADE"),
    Index(
        "ix_schedules_next",
        "next_at",
        sqlite_where=text("next_at IS NOT NULL"),
        postgresql_where=text("next_at IS NOT NULL"),
    ),
)

#: The fire times of schedules for which a run was made: one each. Those of the last days are kept.
ticks = Table(
    "ticks",
    metadata,
    Column("schedule_id", String(36), primary_key=True),
    Column("fire_at", Double, primary_key=True),
    Column("run_id", String(36), nullable=False),
    ForeignKeyConstraint(["schedule_id"], ["schedules.id"], ondelete="CASCADE"),
)

#: Runs of deployments that have a slot of the limits that hold for them (their deployment's, work pool's and work
#: queue's), and those that wait for one, or for a paused pool (`run_slots.py`). A row counts while its run attempt
#: goes on.
run_slots = Table(
    "run_slots",
    metadata,
    Column("run_id", String(36), primary_key=True),
    Column("run_attempt", Integer, nullable=False),
    Column("deployment_id", String(36), nullable=False),
    #: As the run's Celery queue names them; there may be no such pool.
    Column("pool_name", String(LONGEST_NAME), nullable=False),
    Column("queue_name", String(LONGEST_NAME), nullable=False),
    #: When the run was to start: of one priority, the earliest goes first.
    Column("order_at", Double, nullable=False),
    #: Null: it waits.
    Column("taken_at", Double),
    Column("created_at", Double, nullable=False),
    ForeignKeyConstraint(["run_id"], ["flow_runs.id"], ondelete="CASCADE"),
    _partial("ix_run_slots_waiting", "pool_name", "order_at", where="taken_at IS NULL"),
    _partial("ix_run_slots_taken", "pool_name", where="taken_at IS NOT NULL"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", String(LONGEST_NAME), primary_key=True),
    Column("host", String(LONGEST_NAME), nullable=False),
    Column("pid", Integer, nullable=False),
    #: JSON list of the queues it consumes.
    Column("queues", Text, nullable=False),
    #: JSON list of its processes, `pid:start`, by which claims are known as its own.
    Column("processes", Text, nullable=False, server_default="[]"),
    Column("slots", Integer, nullable=False),
    Column("pool", String(32), nullable=False),
    Column("version", String(32), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
    Column("stopping", Boolean, nullable=False, server_default=text("false")),
)

#: Of each queue, the latest announcement that was claimed and when: by it the sweeper tells lost from waiting.
queue_marks = Table(
    "queue_marks",
    metadata,
    Column("queue", String(LONGEST_NAME), primary_key=True),
    Column("announced_at", Double, nullable=False),
    Column("claimed_at", Double, nullable=False),
)

#: How much may go on at once, by a name that people give.
concurrency_limits = Table(
    "concurrency_limits",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False, unique=True),
    Column("slot_limit", Integer, nullable=False),
    #: False: it limits nothing.
    Column("active", Boolean, nullable=False, server_default=text("true")),
    #: Of a rate limit: how many slots a second are free again; 0: it is none.
    Column("slot_decay_per_second", Double, nullable=False, server_default="0"),
    #: Of a rate limit: when all that was taken from it is free again.
    Column("drained_at", Double, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

#: Who has slots of a limit, and who waits for them, in order of `id`. A row counts while its owner lives (`slots.py`);
#: how many are taken is always counted from these rows.
slots = Table(
    "slots",
    metadata,
    Column("id", _Counted, primary_key=True, autoincrement=True),
    Column("limit_name", String(LONGEST_KEY), nullable=False),
    #: What takes them: the same one asks again under the same name.
    Column("holder", String(2 * LONGEST_KEY), nullable=False),
    Column("occupy", Integer, nullable=False),
    #: By what it is told that the holder lives: "process", "segment", "step" or "run".
    Column("kind", String(16), nullable=False),
    Column("run_id", String(36)),
    Column("run_attempt", Integer),
    Column("step_key", String(LONGEST_KEY)),
    Column("step_id", String(36)),
    #: The claim under which it holds or waits; null: it holds or waits without one.
    Column("claim_number", Integer),
    #: The process that asked.
    Column("owner", String(LONGEST_NAME), nullable=False),
    #: Of a process: its lease. Of a step that waits to be claimed: until when its slots are kept for it.
    Column("lease_until", Double),
    #: Null: it waits.
    Column("taken_at", Double),
    Column("created_at", Double, nullable=False),
    #: What people are told of the holder; JSON.
    Column("label", Text),
    UniqueConstraint("holder", "limit_name"),
    _partial("ix_slots_waiting", "limit_name", "id", where="taken_at IS NULL"),
    _partial("ix_slots_taken", "limit_name", where="taken_at IS NOT NULL"),
)

#: One row a duty; who holds it does it (the sweeper).
leaders = Table(
    "leaders",
    metadata,
    Column("duty", String(64), primary_key=True),
    Column("owner", String(LONGEST_NAME), nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("ticked_at", Double, nullable=False),
)

#: Who may log in to the server.
users = Table(
    "users",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False, unique=True),
    #: Argon2id.
    Column("password_hash", Text, nullable=False),
    #: "read", "run" or "admin".
    Column("scope", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    #: Null: they may log in.
    Column("disabled_at", Double),
    Column("last_login_at", Double),
)

#: Keys by which programs use the server; only their digests are kept.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False, unique=True),
    #: Its first characters, by which people tell keys apart.
    Column("prefix", String(16), nullable=False),
    #: SHA-256 of the key, hexadecimal.
    Column("digest", String(64), nullable=False, unique=True),
    Column("scope", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("last_used_at", Double),
)

#: Browsers that are logged in, by the SHA-256 of what their cookie holds.
sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("user_id", String(36), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
    Index("ix_sessions_user", "user_id"),
    Index("ix_sessions_expires", "expires_at"),
)

#: Facts of this installation, such as the fingerprint of the key that signs.
installation = Table(
    "installation",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)


def phase_is(table: Table, *phases: Phase) -> ColumnElement[bool]:
    """The condition that a row is in one of these phases, in literals: only so do the partial indexes serve it."""
    values: list[ColumnElement[str]] = [literal_column(f"'{phase.value}'") for phase in phases]
    return table.c.phase == values[0] if len(values) == 1 else table.c.phase.in_(values)


def phase_is_not(table: Table, phase: Phase) -> ColumnElement[bool]:
    """The condition that a row is not in this phase, in a literal."""
    return table.c.phase != literal_column(f"'{phase.value}'")


def encode_tags(tags: Iterable[str]) -> str | None:
    """The tags of a step as its column holds them: a JSON list without doubles, sorted; null where there are none."""
    found = sorted({clean_text(tag) for tag in tags})
    return json.dumps(found) if found else None


def is_tagged(table: Table) -> ColumnElement[bool]:
    """The condition that a row has tags, in the words of the partial indexes over such rows."""
    return flow_runs.c.tags != literal_column("'[]'") if table is flow_runs else table.c.tags.is_not(None)


def has_tag(table: Table, tag: str) -> ColumnElement[bool]:
    """The condition that a row has this tag."""
    quoted = json.dumps(clean_text(tag))
    return table.c.tags.contains(quoted, autoescape=True)
