"""Records of flows, runs and log lines as a client gives them, with Prefect's field names. Ids are text."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, InstanceOf, PlainSerializer

from orchestra.errors import MissingResult
from orchestra.handles import durable_body
from orchestra.states import State, StateDetails, StateType

__all__ = [
    "Artifact",
    "ArtifactCollection",
    "Deployment",
    "DeploymentSchedule",
    "Flow",
    "FlowRun",
    "GlobalConcurrencyLimit",
    "KeptState",
    "Log",
    "OrchestrationResult",
    "SetStateStatus",
    "State",
    "StateDetails",
    "StateType",
    "TaskRun",
    "Variable",
    "WorkPool",
    "WorkQueue",
    "Worker",
]


@dataclass(frozen=True, slots=True)
class KeptState(State[Any]):
    """The state of a run as the database has it: its value is read when `result()` asks for it."""

    read: Callable[[], State[Any]] | None = field(default=None, compare=False, repr=False)

    def outcome(self, raise_on_failure: bool = True) -> Any:
        """As `result`, never awaited. The value is read now; a pickle's signature is checked before it is loaded."""
        if self.read is not None and self.is_final():
            return self.read().outcome(raise_on_failure)
        if self.is_completed():
            raise MissingResult("this state is one of a history: only a run's present state has its result")
        return State.outcome(self, raise_on_failure)

    async def aresult(self, raise_on_failure: bool = True) -> Any:
        """As `result`, always awaited: the value is read in a thread, so that the event loop goes on."""
        if durable_body() is not None:
            return self.outcome(raise_on_failure)
        return await asyncio.to_thread(self.outcome, raise_on_failure)


def _read_state(value: Any) -> Any:
    if isinstance(value, State):
        return value
    found = value if isinstance(value, Mapping) else {name: getattr(value, name) for name in _STATE_FIELDS}
    state = KeptState(StateType(found["type"]), found["name"], found.get("message"))
    moment = found.get("timestamp")
    if moment is None:
        return state
    return replace(state, timestamp=datetime.fromisoformat(moment) if isinstance(moment, str) else moment)


def _told_state(state: State[Any]) -> dict[str, Any]:
    return {
        "type": state.type.value,
        "name": state.name,
        "message": state.message,
        "timestamp": state.timestamp.isoformat(),
    }


_STATE_FIELDS = ("type", "name", "message", "timestamp")
#: A state within a record: `KeptState`, from and to a mapping.
RunState = Annotated[InstanceOf[State[Any]], BeforeValidator(_read_state), PlainSerializer(_told_state)]


class _Record(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True, ser_json_timedelta="float")


class Flow(_Record):
    """A flow that ran, or was declared on a worker."""

    id: str
    name: str
    path: str
    description: str | None = None
    created: datetime | None = None
    updated: datetime | None = None
    last_run_state_name: str | None = None
    last_run_created: datetime | None = None


class FlowRun(_Record):
    """A flow run."""

    id: str
    name: str
    flow_id: str | None = None
    flow_name: str
    state_type: StateType
    state_name: str
    state: RunState
    #: As plain JSON; what JSON cannot hold shows as text.
    parameters: dict[str, Any] | str
    tags: list[str] = []
    created: datetime | None = None
    expected_start_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    total_run_time: timedelta = timedelta()
    run_count: int = 0
    parent_flow_run_id: str | None = None
    parent_task_run_id: str | None = None
    root_flow_run_id: str | None = None
    idempotency_key: str | None = None
    flow_version: str | None = None
    work_queue_name: str | None = None
    priority: int | None = None
    #: "local" or "celery": who carries it out.
    runner: str
    path: str
    entrypoint: str | None = None
    deployment_id: str | None = None


class TaskRun(_Record):
    """A task run."""

    id: str
    name: str
    flow_run_id: str
    #: `module:qualname` of the task.
    task_key: str | None = None
    #: The step key, by which a replay knows it.
    dynamic_key: str
    tags: list[str] = []
    state_type: StateType
    state_name: str
    state: RunState
    created: datetime | None = None
    expected_start_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    total_run_time: timedelta = timedelta()
    run_count: int = 0
    flow_run_run_count: int = 0
    child_flow_run_id: str | None = None
    work_queue_name: str | None = None
    worker: str | None = None


class Log(_Record):
    """A log line of a run."""

    id: int
    #: Of the logger.
    name: str
    level: int
    message: str
    timestamp: datetime
    flow_run_id: str
    task_run_id: str | None = None


class GlobalConcurrencyLimit(_Record):
    """A concurrency limit."""

    id: str
    name: str
    limit: int
    active: bool
    #: Slots taken now; of a rate limit, those too that are not free again.
    active_slots: float
    slot_decay_per_second: float
    #: How many wait in line.
    waiting: int
    created: datetime
    updated: datetime


class Artifact(_Record):
    """An artifact."""

    id: str
    key: str | None = None
    type: str | None = None
    description: str | None = None
    #: As it was given: text of markdown, an image's address, a table as JSON text, a progress as number.
    data: Any = None
    metadata_: dict[str, str] | None = None
    flow_run_id: str | None = None
    task_run_id: str | None = None
    created: datetime
    updated: datetime


class ArtifactCollection(Artifact):
    """A key, as its newest artifact shows it."""

    #: The id of that artifact, as `id`.
    latest_id: str


class Variable(_Record):
    """A variable."""

    id: str
    name: str
    value: Any
    tags: list[str] = []
    created: datetime
    updated: datetime


class DeploymentSchedule(_Record):
    """A schedule of a deployment; `interval` and `max_late` in seconds."""

    id: str
    deployment_id: str
    slug: str | None = None
    active: bool
    cron: str | None = None
    interval: float | None = None
    rrule: str | None = None
    timezone: str | None = None
    day_or: bool = True
    anchor_date: datetime | None = None
    parameters: dict[str, Any] = {}
    catchup: str
    catchup_max: int | None = None
    max_late: float | None = None
    created: datetime | None = None
    updated: datetime | None = None


class Deployment(_Record):
    """A deployment."""

    id: str
    name: str
    flow_name: str
    entrypoint: str
    description: str = ""
    version: str | None = None
    tags: list[str] = []
    parameters: dict[str, Any] = {}
    parameter_openapi_schema: dict[str, Any] = {}
    enforce_parameter_schema: bool = True
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = {}
    pull_steps: list[Any] | None = None
    concurrency_limit: int | None = None
    collision_strategy: str
    paused: bool
    #: "NOT_READY" where its work pool is not there, else "READY".
    status: str
    schedules: list[DeploymentSchedule] = []
    created: datetime | None = None
    updated: datetime | None = None


class WorkPool(_Record):
    """A work pool."""

    id: str
    name: str
    type: str
    description: str = ""
    is_paused: bool
    concurrency_limit: int | None = None
    base_job_template: dict[str, Any] = {}
    created: datetime | None = None
    updated: datetime | None = None


class WorkQueue(_Record):
    """A queue of a work pool."""

    id: str
    name: str
    work_pool_name: str
    #: The queue that workers consume.
    celery_queue: str
    description: str = ""
    #: The lowest number is served first.
    priority: int
    is_paused: bool
    concurrency_limit: int | None = None
    created: datetime | None = None
    updated: datetime | None = None


class Worker(_Record):
    """A worker."""

    #: Celery's node name, `celery@host`.
    name: str
    #: "ONLINE" where it gave a heartbeat within the last lease, else "OFFLINE".
    status: str
    #: It lives, and takes no more work.
    stopping: bool
    work_pools: tuple[str, ...]
    queues: tuple[str, ...]
    slots: int
    #: How many runs and tasks it is at work on.
    running: int
    last_heartbeat_time: datetime | None
    started: datetime | None
    host: str
    pid: int
    #: Celery's pool, as "prefork".
    type: str
    #: Of orchestra.
    version: str


class SetStateStatus(enum.StrEnum):
    """What became of a state that was asked for."""

    ACCEPT = "ACCEPT"


class OrchestrationResult(_Record):
    """The answer to `set_flow_run_state`: the state the run is in then. What cannot be done raises instead."""

    status: SetStateStatus
    state: RunState
