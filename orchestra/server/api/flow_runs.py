"""`/api/flow_runs`: start flow runs, see them, and act on them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from orchestra.celery import deployed
from orchestra.engine import operations
from orchestra.server import announcing, bulk
from orchestra.server.acts import Outcome, perform
from orchestra.server.api.logs import AfterLine, Level, Line, page_of_lines
from orchestra.server.api.results import result_response
from orchestra.server.api.shapes import (
    After,
    Body,
    FlowRunRead,
    FlowRunSearch,
    Id,
    IdempotencyKey,
    Key,
    Limit,
    Name,
    OfTags,
    Page,
    Selected,
    StateNames,
    StateTypes,
    Tags,
    Values,
    flow_run_read,
    one_key,
)
from orchestra.server.dependencies import Asker, Db
from orchestra.states import StateType
from orchestra.store import queries, runs, search
from orchestra.store.database import Database
from orchestra.store.queries import FlowRun, Node, StateRecord, StepCount, TaskRun
from orchestra.store.tables import Kind

router = APIRouter(prefix="/flow_runs", tags=["flow runs"])


# -- seeing ------------------------------------------------------------------------------------------------------


@router.get("", response_model=Page[FlowRun])
def list_flow_runs(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    flow_name: Annotated[Name | None, Query(description="Only runs of this flow.")] = None,
    state_type: StateTypes = [],  # noqa: B006  # as FastAPI wants a list's default; never changed
    state_name: StateNames = [],  # noqa: B006  # likewise
    tag: OfTags = [],  # noqa: B006  # likewise
    parent_flow_run_id: Annotated[Id | None, Query(description="Only subflow runs of this run.")] = None,
    deployment_id: Annotated[Id | None, Query(description="Only runs of this deployment.")] = None,
) -> queries.Page[FlowRun]:
    """Flow runs, the newest first. What is given must all fit; one of several states or types does."""
    return queries.list_flow_runs(
        db,
        limit=limit,
        after=after,
        flow_name=flow_name,
        state_types=state_type,
        state_names=state_name,
        parent_flow_run_id=parent_flow_run_id,
        tags=tag,
        deployment_id=deployment_id,
    )


@router.post("/filter")
def filter_flow_runs(db: Db, wanted: FlowRunSearch) -> list[FlowRun]:
    """Flow runs that fit, whose flow does, and some of whose task runs do."""
    return search.find_flow_runs(
        db, wanted.selection(), sort=wanted.sort.value, limit=wanted.limit, offset=wanted.offset
    )


@router.post("/count")
def count_flow_runs(db: Db, wanted: Selected) -> int:
    """How many flow runs fit."""
    return search.count_flow_runs(db, wanted.selection())


@router.get("/{flow_run_id}")
def read_flow_run(db: Db, flow_run_id: Id) -> FlowRunRead:
    """A flow run: state, parameters, result or error, times, what it waits for, state history."""
    return flow_run_read(queries.read_flow_run(db, flow_run_id))


@router.get("/{flow_run_id}/state")
def read_flow_run_state(db: Db, flow_run_id: Id) -> StateRecord:
    """The state a run is in; cheap, for polling."""
    return queries.flow_run_state(db, flow_run_id)


@router.get("/{flow_run_id}/states")
def read_flow_run_states(db: Db, flow_run_id: Id) -> list[StateRecord]:
    """The states a run was in, the oldest first."""
    queries.flow_run_state(db, flow_run_id)
    return list(queries.state_history(db, flow_run_id))


@router.get("/{flow_run_id}/steps")
def count_steps(db: Db, flow_run_id: Id) -> list[StepCount]:
    """How many steps of each task are in each state, for the run's present attempt, in order of asking."""
    return queries.step_counts(db, flow_run_id)


@router.get("/{flow_run_id}/graph")
def read_flow_run_graph(db: Db, flow_run_id: Id) -> list[Node]:
    """The steps of the run's present attempt in order of asking, with what each waited for; 20,000 at most."""
    return queries.run_graph(db, flow_run_id)


@router.get("/{flow_run_id}/task_runs", response_model=Page[TaskRun])
def list_task_runs_of_flow_run(
    db: Db, flow_run_id: Id, limit: Limit = 50, after: After = None
) -> queries.Page[TaskRun]:
    """Task runs of the run's present attempt, in order of asking."""
    return queries.list_task_runs(db, flow_run_id=flow_run_id, limit=limit, after=after, kinds=(Kind.TASK,))


@router.get("/{flow_run_id}/logs")
def read_flow_run_logs(
    db: Db,
    flow_run_id: Id,
    limit: Limit = 200,
    after: AfterLine = 0,
    level: Level = None,
    tail: Annotated[bool, Query(description="The last lines, in the place of a page.")] = False,
    task_run_id: Annotated[Id | None, Query(description="Only lines of this task run.")] = None,
) -> Page[Line]:
    """Log lines of a run and its tasks, in the order in which they were written."""
    queries.flow_run_state(db, flow_run_id)
    return page_of_lines(db, flow_run_id, task_run_id, limit=limit, after=after, level=level, tail=tail)


@router.get(
    "/{flow_run_id}/result",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}, 204: {"description": "None was kept."}},
)
def read_flow_run_result(db: Db, flow_run_id: Id) -> Response:
    """The result as it is stored: encoded, and signed where loading it could run code. For orchestra's own client."""
    return result_response(runs.result_of(db, runs.read(db, flow_run_id)))


# -- starting ----------------------------------------------------------------------------------------------------


class NewFlowRun(Body):
    """A run of a deployment to be."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"parameters": {"day": "2026-11-22"}, "tags": ["by-hand"]}]},
    )

    parameters: Values = Field(default_factory=dict, description="Over those of the deployment.")
    name: Name | None = Field(default=None, description="Of the run; null: two random words.")
    tags: Tags = Field(default_factory=list, description="Beside those of the deployment.")
    scheduled_time: datetime | None = Field(
        default=None, description="When it is due; null: at once. Without a zone: UTC."
    )
    idempotency_key: Key | None = Field(default=None, description="The same key gives the same run again.")
    work_queue_name: Name | None = Field(default=None, description="Another queue of the deployment's work pool.")
    job_variables: Values | None = Field(default=None, description="Over those of the deployment.")


class NewFlowRunOf(NewFlowRun):
    """A run to be, of the deployment that is named."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"deployment": "etl/nightly", "parameters": {"day": "2026-11-22"}}]},
    )

    deployment: Name = Field(description="Its id, or `flow/deployment`.")


@router.post("", status_code=201)
def create_flow_run(db: Db, who: Asker, new: NewFlowRunOf, key: IdempotencyKey) -> FlowRunRead:
    """Start a run of a deployment. The parameters are checked against its schema; no code of the flow is loaded."""
    return start(db, who, new.deployment, new, key)


def start(db: Database, who: Asker, deployment: str, new: NewFlowRun, key: str | None) -> FlowRunRead:
    """Write a run of a deployment and tell the workers; gives it as it stands."""

    def act() -> str:
        return deployed.start_through(
            announcing.carrier(),
            deployment,
            new.parameters,
            scheduled_time=new.scheduled_time,
            flow_run_name=new.name,
            tags=new.tags,
            idempotency_key=one_key(key, new.idempotency_key),
            work_queue_name=new.work_queue_name,
            job_variables=new.job_variables,
        )

    run_id = perform(who, "start", f"a run of deployment {deployment}", act)
    return flow_run_read(queries.read_flow_run(db, run_id))


# -- acting ------------------------------------------------------------------------------------------------------


class ResumeInput(Body):
    """What a paused run is given."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"run_input": {"approved": True}}]})

    run_input: Any = Field(default=None, description="What it waits for; null: nothing.")
    key: Key | None = Field(default=None, description="The pause that is meant, where its body waits at more than one.")


class WantedState(Body):
    """A state to bring a run into."""

    type: StateType
    name: Name | None = Field(default=None, description="Suspended, say; null: as the type.")
    message: str | None = Field(default=None, max_length=1024, description="Taken for Prefect's sake.")


class SetState(Body):
    """A state to bring a run into, by the verb that does so."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"state": {"type": "CANCELLING"}}]})

    state: WantedState
    force: bool = Field(default=False, description="Must be false: a state is never written over the run's own.")


class StateAnswer(Body):
    """The state a run is in after it was asked for another."""

    status: Literal["ACCEPT"] = "ACCEPT"
    state: StateRecord


@router.post("/{flow_run_id}/cancel")
def cancel_flow_run(db: Db, who: Asker, flow_run_id: Id) -> StateRecord:
    """Cancel a run with all that it started; gives its state then. Safe to repeat."""
    perform(who, "cancel", f"flow run {flow_run_id}", lambda: operations.cancel(db, flow_run_id, announcing.announce))
    return queries.flow_run_state(db, flow_run_id)


class RetryFrom(Body):
    """Where a run is to begin anew."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"from_task_run_id": "9f0f3c1e-7a55-5c0e-9b8e-2d3f5f0a6c11"}]},
    )

    from_task_run_id: Id | None = Field(
        default=None,
        description="This task run is run again though it completed, and with it all that the run asked for behind it; "
        "null: what completed is kept.",
    )


@router.post("/{flow_run_id}/retry")
def retry_flow_run(db: Db, who: Asker, flow_run_id: Id, given: RetryFrom | None = None) -> StateRecord:
    """Run an ended run again in place: what completed is kept, what did not is run again, or all from a task run on."""
    chosen = (given or RetryFrom()).from_task_run_id
    what = f"flow run {flow_run_id}" + ("" if chosen is None else f" from task run {chosen}")

    def act() -> None:
        operations.retry(db, flow_run_id, announcing.announce, from_task_run_id=chosen)

    perform(who, "retry", what, act)
    return queries.flow_run_state(db, flow_run_id)


@router.post("/{flow_run_id}/pause")
def pause_flow_run(db: Db, who: Asker, flow_run_id: Id) -> StateRecord:
    """Start no more of a run until it is resumed; what runs now ends."""
    perform(who, "pause", f"flow run {flow_run_id}", lambda: operations.pause(db, flow_run_id))
    return queries.flow_run_state(db, flow_run_id)


@router.post("/{flow_run_id}/suspend")
def suspend_flow_run(db: Db, who: Asker, flow_run_id: Id) -> StateRecord:
    """As pause; the run shows as Suspended."""
    perform(who, "suspend", f"flow run {flow_run_id}", lambda: operations.suspend(db, flow_run_id))
    return queries.flow_run_state(db, flow_run_id)


@router.post("/{flow_run_id}/resume")
def resume_flow_run(db: Db, who: Asker, flow_run_id: Id, given: ResumeInput | None = None) -> StateRecord:
    """Let a paused run go on, with what it waits for, which must fit its schema."""
    what = given or ResumeInput()

    def act() -> None:
        operations.resume(db, flow_run_id, announcing.announce, run_input=what.run_input, key=what.key)

    perform(who, "resume", f"flow run {flow_run_id}", act)
    return queries.flow_run_state(db, flow_run_id)


@router.post("/{flow_run_id}/set_state")
def set_flow_run_state(db: Db, who: Asker, flow_run_id: Id, wanted: SetState) -> StateAnswer:
    """Bring a run into a state by the verb that does so: cancel, pause, suspend, resume or retry."""
    kind = wanted.state.type
    name = wanted.state.name or kind.value.capitalize()

    def act() -> None:
        operations.set_state(db, flow_run_id, kind, name, announcing.announce, force=wanted.force)

    perform(who, f"set {name} on", f"flow run {flow_run_id}", act)
    return StateAnswer(state=queries.flow_run_state(db, flow_run_id))


@router.delete("/{flow_run_id}", status_code=204)
def delete_flow_run(db: Db, who: Asker, flow_run_id: Id) -> None:
    """Delete an ended run with its child runs, steps, results and logs."""
    perform(who, "delete", f"flow run {flow_run_id}", lambda: operations.delete(db, flow_run_id))


# -- acting on many ----------------------------------------------------------------------------------------------


class Many(Selected):
    """Which runs are meant: those that fit, and to which the act can be done, the newest first."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"flow_runs": {"tags": {"all_": ["nightly"]}}, "limit": 100}]},
    )

    limit: int = Field(default=bulk.MOST, ge=1, le=bulk.MOST, description="Most runs that are acted on now.")
    after: Key | None = Field(default=None, description="The `next` of the answer before.")


class Outcomes(Body):
    """What became of each run."""

    outcomes: list[Outcome]
    next: str | None = Field(default=None, description="Hand this as `after` to go on; null: these were all.")


def _many(db: Database, who: Asker, verb: bulk.Verb, which: Many) -> Outcomes:
    wanted = which.selection(*bulk.fitting(verb))
    outcomes, after = bulk.act(db, who, verb, wanted, limit=which.limit, after=which.after)
    return Outcomes(outcomes=outcomes, next=after)


@router.post("/bulk_cancel")
def cancel_flow_runs(db: Db, who: Asker, which: Many) -> Outcomes:
    """Cancel the runs that fit and have not ended."""
    return _many(db, who, "cancel", which)


@router.post("/bulk_retry")
def retry_flow_runs(db: Db, who: Asker, which: Many) -> Outcomes:
    """Retry the runs that fit and have ended without completing."""
    return _many(db, who, "retry", which)


@router.post("/bulk_delete")
def delete_flow_runs(db: Db, who: Asker, which: Many) -> Outcomes:
    """Delete the runs that fit and have ended."""
    return _many(db, who, "delete", which)
