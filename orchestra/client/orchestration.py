"""`get_client()`: read flows, runs, logs, artifacts and variables, and act on them, from Python.

A client asks the database directly, so it needs no server; where ORCHESTRA_API_URL names one, it asks that. In a flow
body on a worker each of its calls is a step, so that a replay sees, and does, the same.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload
from uuid import UUID

from pydantic import BaseModel, TypeAdapter

from orchestra import artifacts, clock, lazy, settings
from orchestra.client.backend import Backend, DatabaseBackend, backend
from orchestra.client.deployments import DeploymentMethods
from orchestra.client.schemas.actions import (
    ArtifactCreate,
    ArtifactUpdate,
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    VariableCreate,
    VariableUpdate,
)
from orchestra.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactFilter,
    Filters,
    FlowFilter,
    FlowRunFilter,
    LogFilter,
    TaskRunFilter,
)
from orchestra.client.schemas.objects import (
    Artifact,
    ArtifactCollection,
    Flow,
    FlowRun,
    GlobalConcurrencyLimit,
    KeptState,
    Log,
    OrchestrationResult,
    RunState,
    SetStateStatus,
    State,
    StateDetails,
    StateType,
    TaskRun,
    Variable,
)
from orchestra.client.schemas.sorting import (
    ArtifactCollectionSort,
    ArtifactSort,
    FlowRunSort,
    FlowSort,
    LogSort,
    TaskRunSort,
)
from orchestra.engine import definitions
from orchestra.engine.parameters import bind_named
from orchestra.errors import (
    ConfigurationError,
    FlowNotFound,
    IllegalTransition,
    OrchestraError,
    VariableNotFound,
)
from orchestra.events import EventPage, event_of, filter_of
from orchestra.flows import Flow as FlowDefinition
from orchestra.handles import durable_body
from orchestra.store import behind, search
from orchestra.store.database import Database, database

P = ParamSpec("P")
T = TypeVar("T")
Id = str | UUID

#: Most records of one search where nothing else is said.
LIMIT = 200

_FLOW: TypeAdapter[Flow] = TypeAdapter(Flow)
_FLOWS: TypeAdapter[list[Flow]] = TypeAdapter(list[Flow])
_FLOW_RUN: TypeAdapter[FlowRun] = TypeAdapter(FlowRun)
_FLOW_RUNS: TypeAdapter[list[FlowRun]] = TypeAdapter(list[FlowRun])
_TASK_RUN: TypeAdapter[TaskRun] = TypeAdapter(TaskRun)
_TASK_RUNS: TypeAdapter[list[TaskRun]] = TypeAdapter(list[TaskRun])
_STATES: TypeAdapter[list[State[Any]]] = TypeAdapter(list[RunState])
_LOGS: TypeAdapter[list[Log]] = TypeAdapter(list[Log])
_ANSWER: TypeAdapter[OrchestrationResult] = TypeAdapter(OrchestrationResult)
_COUNT: TypeAdapter[int] = TypeAdapter(int)
_ID: TypeAdapter[str] = TypeAdapter(str)
_LIMIT: TypeAdapter[GlobalConcurrencyLimit] = TypeAdapter(GlobalConcurrencyLimit)
_LIMITS: TypeAdapter[list[GlobalConcurrencyLimit]] = TypeAdapter(list[GlobalConcurrencyLimit])
_ARTIFACT: TypeAdapter[Artifact] = TypeAdapter(Artifact)
_ARTIFACTS: TypeAdapter[list[Artifact]] = TypeAdapter(list[Artifact])
_COLLECTIONS: TypeAdapter[list[ArtifactCollection]] = TypeAdapter(list[ArtifactCollection])
_VARIABLE: TypeAdapter[Variable] = TypeAdapter(Variable)
_MAYBE_VARIABLE: TypeAdapter[Variable | None] = TypeAdapter(Variable | None)
_VARIABLES: TypeAdapter[list[Variable]] = TypeAdapter(list[Variable])
_EVENTS: TypeAdapter[EventPage] = TypeAdapter(EventPage)
_DONE: TypeAdapter[None] = TypeAdapter(None)


@overload
def get_client(*, sync_client: Literal[False] = False) -> OrchestraClient: ...
@overload
def get_client(*, sync_client: Literal[True]) -> SyncOrchestraClient: ...
def get_client(*, sync_client: bool = False) -> OrchestraClient | SyncOrchestraClient:
    """A client on the database of the settings: `async with get_client() as client: await client.read_flow_runs()`.

    Args:
        sync_client: One whose methods are plain functions: `with get_client(sync_client=True) as client`.
    """
    return SyncOrchestraClient() if sync_client else OrchestraClient()


#: Words in the names of methods that Prefect's client has and this one has not yet.
_LATER = "automation block".split()


class _Client:
    """Says of methods that are still to come that they are."""

    if not TYPE_CHECKING:  # a type checker shall find a misspelled method

        def __getattr__(self, name: str) -> Any:
            later = next((word for word in _LATER if word in name and not name.startswith("_")), None)
            if later is None:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            what = later.replace("_", " ")
            raise AttributeError(f"{type(self).__name__} has no {name!r} yet: {what}s come in a later version")


class SyncOrchestraClient(_Client, DeploymentMethods):
    """Reads flows, runs, states and logs, and acts on runs. Safe to use from any thread; holds no connection.

    Every method may raise `StoreUnavailable`, where the database does not answer.
    """

    def __init__(self) -> None:
        self._has_looked = False

    def __enter__(self) -> SyncOrchestraClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    # -- flows ---------------------------------------------------------------------------------------------------

    def read_flow(self, flow_id: Id) -> Flow:
        """A flow.

        Raises:
            FlowNotFound: There is none with this id.
        """
        tests = FlowFilter.model_validate({"id": {"any_": [str(flow_id)]}})
        return self._one_flow(tests, str(flow_id))

    def read_flow_by_name(self, flow_name: str) -> Flow:
        """A flow.

        Raises:
            FlowNotFound: There is none of this name.
        """
        return self._one_flow(FlowFilter.model_validate({"name": {"any_": [flow_name]}}), flow_name)

    def read_flows(
        self,
        *,
        flow_filter: FlowFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
        sort: FlowSort | None = None,
        limit: int | None = LIMIT,
        offset: int = 0,
    ) -> list[Flow]:
        """Flows that fit, and of which some runs do; by name, unless `sort` says otherwise.

        Args:
            limit: Most flows given; None: all.
            offset: How many to leave out before.
        """
        wanted, order = _wanted(flow_filter, flow_run_filter, task_run_filter), sort or FlowSort.NAME_ASC
        return self._seen(
            "read_flows",
            _FLOWS,
            lambda at: at.find_flows(wanted, sort=order.value, limit=limit, offset=offset),
        )

    def count_flows(
        self, *, flow_filter: FlowFilter | None = None, flow_run_filter: FlowRunFilter | None = None
    ) -> int:
        """How many flows fit."""
        wanted = _wanted(flow_filter, flow_run_filter, None)
        return self._seen("count_flows", _COUNT, lambda at: at.count_flows(wanted))

    # -- flow runs -----------------------------------------------------------------------------------------------

    def create_flow_run(
        self,
        flow: FlowDefinition[Any, Any] | str,
        *,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        idempotency_key: str | None = None,
        scheduled_time: datetime | None = None,
        work_queue_name: str | None = None,
    ) -> FlowRun:
        """Start a run on the workers, as `flow.delay()` does.

        Args:
            flow: A flow, or where to import one from, as `module:flow` or `file.py:flow`.
            parameters: By name.
            name: Of the run; else two random words.
            tags: Of the run, beside those in force here.
            idempotency_key: The same key gives the same run again, whatever its state.
            scheduled_time: When it may start; a naive time is read as UTC.
            work_queue_name: The Celery queue; else the flow's own.

        Raises:
            DefinitionNotFound: The flow cannot be imported here.
            NoBroker: There is nothing to send it through.
            ConfigurationError: ORCHESTRA_API_URL is set: a server never loads code of flows.
            ParameterError: The parameters do not fit.
            IdempotencyConflict: The key was used with other parameters.
        """
        if settings.current().api_url:
            raise ConfigurationError(
                "a run of a flow's code is written and sent by this process, which knows the API only "
                "(ORCHESTRA_API_URL): start a run of a deployment (`orchestra deployment run`), or set "
                "ORCHESTRA_DATABASE_URL and ORCHESTRA_BROKER_URL and unset ORCHESTRA_API_URL"
            )
        spec = definitions.load_flow(flow) if isinstance(flow, str) else flow.spec
        handle = lazy.load("submit_flow_run")(
            spec,
            bind_named(spec.fn, parameters or {}),
            queue=work_queue_name,
            eta=scheduled_time,
            idempotency_key=idempotency_key,
            tags=tags,
            name=name,
        )
        return self.read_flow_run(handle.id)

    def read_flow_run(self, flow_run_id: Id) -> FlowRun:
        """A flow run; `.state.result()` gives its value or raises its exception, where it has ended.

        Raises:
            FlowRunNotFound: There is none with this id.
        """
        found = self._seen("read_flow_run", _FLOW_RUN, lambda at: at.read_flow_run(str(flow_run_id)).run)
        return self._with_value(found)

    def read_flow_runs(
        self,
        *,
        flow_filter: FlowFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
        sort: FlowRunSort | None = None,
        limit: int | None = LIMIT,
        offset: int = 0,
    ) -> list[FlowRun]:
        """Flow runs that fit, whose flow does, and some of whose task runs do; the newest first.

        Args:
            sort: Another order.
            limit: Most runs given; None: all.
            offset: How many to leave out before.
        """
        wanted, order = _wanted(flow_filter, flow_run_filter, task_run_filter), sort or FlowRunSort.CREATED_DESC
        found = self._seen(
            "read_flow_runs",
            _FLOW_RUNS,
            lambda at: at.find_flow_runs(wanted, sort=order.value, limit=limit, offset=offset),
        )
        return [self._with_value(run) for run in found]

    def count_flow_runs(
        self,
        *,
        flow_filter: FlowFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
    ) -> int:
        """How many flow runs fit."""
        wanted = _wanted(flow_filter, flow_run_filter, task_run_filter)
        return self._seen("count_flow_runs", _COUNT, lambda at: at.count_flow_runs(wanted))

    def read_flow_run_states(self, flow_run_id: Id) -> list[State[Any]]:
        """The states a flow run was in, the oldest first; empty where there is no such run."""
        return self._seen("read_states", _STATES, lambda at: at.state_history(str(flow_run_id)))

    def set_flow_run_state(self, flow_run_id: Id, state: State[Any], force: bool = False) -> OrchestrationResult:
        """Bring a run into a state, by the verb that does so.

        Cancelling or Cancelled cancels it; Paused pauses it, or suspends it where it is named Suspended; Scheduled
        retries one that has ended; Scheduled or Running resumes one that is paused. No other state can be set: how a
        run ends is written by who carries it out.

        Args:
            force: Must be false: a state is never written over the run's own.

        Raises:
            FlowRunNotFound: There is no such run.
            IllegalTransition: It cannot be brought into that state.
        """
        run_id = str(flow_run_id)

        def act(at: Backend) -> Mapping[str, Any]:
            then = at.set_state(run_id, state.type, state.name, force=force)
            return {"status": SetStateStatus.ACCEPT, "state": then}

        return self._seen("set_flow_run_state", _ANSWER, act)

    def cancel_flow_run(self, flow_run_id: Id) -> None:
        """Cancel a run with all that it started. Safe to repeat.

        Raises:
            FlowRunNotFound: There is no such run.
            IllegalTransition: It has ended already.
        """
        self._act("cancel", lambda at: at.cancel(str(flow_run_id)))

    def pause_flow_run(self, flow_run_id: Id) -> None:
        """Start no more of a run until it is resumed; what runs now ends.

        Raises:
            FlowRunNotFound: There is no such run.
            IllegalTransition: It has ended, is being cancelled, or runs in a process of its own.
        """
        self._act("pause", lambda at: at.pause(str(flow_run_id)))

    def suspend_flow_run(self, flow_run_id: Id) -> None:
        """As `pause_flow_run`; the run shows as Suspended.

        Raises:
            FlowRunNotFound: There is no such run.
            IllegalTransition: It has ended, is being cancelled, or runs in a process of its own.
        """
        self._act("suspend", lambda at: at.suspend(str(flow_run_id)))

    def resume_flow_run(self, flow_run_id: Id, run_input: Any = None, *, key: str | None = None) -> None:
        """Let a paused run go on.

        Args:
            run_input: What it waits for: a model, a mapping of its fields, or the value; None: nothing.
            key: The pause that is meant, where its body waits at more than one.

        Raises:
            FlowRunNotFound: There is no such run.
            IllegalTransition: It is not paused.
            InvalidRunInput: What was given does not fit what it waits for; it waits on.
        """
        given = run_input.model_dump(mode="json") if isinstance(run_input, BaseModel) else run_input
        self._act("resume", lambda at: at.resume(str(flow_run_id), run_input=given, key=key))

    def retry_flow_run(self, flow_run_id: Id, *, from_task_run_id: Id | None = None) -> None:
        """Run an ended run again in place: what completed is kept.

        Args:
            from_task_run_id: A task run that is run again though it completed, and with it all that the body asked for
                behind it.

        Raises:
            FlowRunNotFound: There is no such run.
            TaskRunNotFound: There is no such task run.
            IllegalTransition: It has not ended, cannot be retried from there, or ran in a process of its own.
        """
        chosen = None if from_task_run_id is None else str(from_task_run_id)
        self._act("retry", lambda at: at.retry(str(flow_run_id), from_task_run_id=chosen))

    def delete_flow_run(self, flow_run_id: Id) -> None:
        """Delete an ended run with its child runs, steps, results and logs.

        Raises:
            FlowRunNotFound: There is no such run.
            IllegalTransition: It has not ended; cancel it first.
        """
        self._act("delete", lambda at: at.delete(str(flow_run_id)))

    # -- task runs and logs --------------------------------------------------------------------------------------

    def read_task_run(self, task_run_id: Id) -> TaskRun:
        """A task run; `.state.result()` gives its value or raises its exception, where it has ended.

        Raises:
            TaskRunNotFound: There is none with this id.
        """
        found = self._seen("read_task_run", _TASK_RUN, lambda at: at.read_task_run(str(task_run_id)).run)
        return self._with_value(found)

    def read_task_runs(
        self,
        *,
        flow_filter: FlowFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
        sort: TaskRunSort | None = None,
        limit: int | None = LIMIT,
        offset: int = 0,
    ) -> list[TaskRun]:
        """Task runs that fit, and whose flow run and flow do; the newest first. As `read_flow_runs` otherwise."""
        wanted, order = _wanted(flow_filter, flow_run_filter, task_run_filter), sort or TaskRunSort.CREATED_DESC
        found = self._seen(
            "read_task_runs",
            _TASK_RUNS,
            lambda at: at.find_task_runs(wanted, sort=order.value, limit=limit, offset=offset),
        )
        return [self._with_value(run) for run in found]

    def count_task_runs(
        self,
        *,
        flow_filter: FlowFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
    ) -> int:
        """How many task runs fit."""
        wanted = _wanted(flow_filter, flow_run_filter, task_run_filter)
        return self._seen("count_task_runs", _COUNT, lambda at: at.count_task_runs(wanted))

    def read_task_run_states(self, task_run_id: Id) -> list[State[Any]]:
        """The states a task run was in, where it had more than one, the oldest first.

        Raises:
            TaskRunNotFound: There is none with this id.
        """
        return self._seen("read_states", _STATES, lambda at: list(at.read_task_run(str(task_run_id)).states))

    def set_task_run_state(self, task_run_id: Id, state: State[Any], force: bool = False) -> OrchestrationResult:
        """Refuse: the states of task runs are their flow run's journal, which only who carries it out writes.

        Raises:
            TaskRunNotFound: There is none with this id.
            IllegalTransition: Always, else.
        """
        run = self.read_task_run(task_run_id)
        wanted = (
            f"set {state.name}: its flow run's journal says what it did. Cancel, pause or retry that flow run instead "
            f"({run.flow_run_id})"
        )
        raise IllegalTransition(run.id, run.state_name, wanted)

    def read_logs(
        self,
        log_filter: LogFilter | None = None,
        *,
        sort: LogSort | None = None,
        limit: int | None = LIMIT,
        offset: int = 0,
    ) -> list[Log]:
        """Log lines that fit, in the order of their time.

        Args:
            sort: Another order.
            limit: Most lines given; None: all.
            offset: How many to leave out before.
        """
        order = sort or LogSort.TIMESTAMP_ASC

        def look(at: Backend) -> list[dict[str, Any]]:
            found = at.find_logs(log_filter, sort=order.value, limit=limit, offset=offset)
            return [_log(line) for line in found]

        return self._seen("read_logs", _LOGS, look)

    # -- artifacts and variables ---------------------------------------------------------------------------------

    def create_artifact(self, artifact: ArtifactCreate) -> Artifact:
        """Make an artifact; in a flow's body on a worker once, whatever dies.

        Raises:
            InvalidArtifact: Its key, or what it shows, cannot be kept.
        """
        given = artifact.model_dump()
        new = artifacts.checked(metadata=given.pop("metadata_"), **given)
        return self.read_artifact(self._do(lambda at: at.create_artifact(new)))

    def read_artifact(self, artifact_id: Id) -> Artifact:
        """An artifact.

        Raises:
            ArtifactNotFound: There is none with this id.
        """

        def look(at: Backend) -> Any:
            behind.flush()
            return at.read_artifact(str(artifact_id))

        return self._seen("read_artifact", _ARTIFACT, look)

    def read_artifacts(
        self,
        *,
        artifact_filter: ArtifactFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
        sort: ArtifactSort | None = None,
        limit: int | None = LIMIT,
        offset: int = 0,
    ) -> list[Artifact]:
        """Artifacts that fit, of runs that do; the newest first. As `read_flow_runs` otherwise."""
        tests, order = artifact_filter.tests() if artifact_filter else (), sort or ArtifactSort.CREATED_DESC
        of = _wanted(None, flow_run_filter, task_run_filter).selection()
        return self._seen(
            "read_artifacts",
            _ARTIFACTS,
            lambda at: search.find_artifacts(_flushed(at), tests, of, sort=order.value, limit=limit, offset=offset),
        )

    def read_latest_artifacts(
        self,
        *,
        artifact_filter: ArtifactCollectionFilter | None = None,
        flow_run_filter: FlowRunFilter | None = None,
        task_run_filter: TaskRunFilter | None = None,
        sort: ArtifactCollectionSort | None = None,
        limit: int | None = LIMIT,
        offset: int = 0,
    ) -> list[ArtifactCollection]:
        """The newest artifact of each key, where it fits; the newest first. As `read_artifacts` otherwise."""
        tests, order = artifact_filter.tests() if artifact_filter else (), sort or ArtifactCollectionSort.CREATED_DESC
        of = _wanted(None, flow_run_filter, task_run_filter).selection()

        def look(at: Backend) -> list[dict[str, Any]]:
            found = search.find_latest_artifacts(_flushed(at), tests, of, sort=order.value, limit=limit, offset=offset)
            return [asdict(each) | {"latest_id": each.id} for each in found]

        return self._seen("read_latest_artifacts", _COLLECTIONS, look)

    def update_artifact(self, artifact_id: Id, artifact: ArtifactUpdate) -> None:
        """Change an artifact in place: it is no new version. Safe to repeat.

        Raises:
            ArtifactNotFound: There is none with this id.
            InvalidArtifact: What it is to show cannot be kept.
        """
        given = artifact.model_dump(exclude_unset=True)
        self._do(lambda at: at.change_artifact(str(artifact_id), given))

    def delete_artifact(self, artifact_id: Id) -> None:
        """Delete an artifact; the version before it is the newest of its key then.

        Raises:
            ArtifactNotFound: There is none with this id.
        """
        self._do(lambda at: at.delete_artifact(str(artifact_id)))

    def create_variable(self, variable: VariableCreate) -> Variable:
        """Set a variable that is not set.

        Raises:
            VariableExists: There is one of this name: update it.
            InvalidVariable: Its name, its value or its tags cannot be kept.
        """
        name, tags = variable.name, variable.tags or ()
        self._do(lambda at: at.set_variable(name, variable.value, tags=tags, overwrite=False))
        return self._seen("read_variable", _VARIABLE, lambda at: at.read_variable(name))

    def read_variable_by_name(self, name: str) -> Variable | None:
        """A variable; None where there is none of this name."""

        def look(at: Backend) -> Any:
            try:
                return at.read_variable(name)
            except VariableNotFound:
                return None

        return self._seen("read_variable", _MAYBE_VARIABLE, look)

    def read_variables(self, limit: int | None = None) -> list[Variable]:
        """Variables by name.

        Args:
            limit: Most given; None: all.
        """
        most = sys.maxsize // 2 if limit is None else limit
        return self._seen(
            "read_variables", _VARIABLES, lambda at: list(at.list_variables(limit=most, after=None).items)
        )

    def update_variable(self, variable: VariableUpdate) -> None:
        """Change the value or the tags of a variable. Safe to repeat.

        Raises:
            VariableNotFound: There is none of this name.
            InvalidVariable: Its value or its tags cannot be kept.
        """
        given = variable.model_dump(exclude_unset=True)
        name = given.pop("name")
        self._do(lambda at: at.change_variable(name, **given))

    def delete_variable_by_name(self, name: str) -> None:
        """Delete a variable.

        Raises:
            VariableNotFound: There is none of this name.
        """
        self._do(lambda at: at.unset_variable(name))

    # -- events --------------------------------------------------------------------------------------------------

    def read_events(
        self,
        *,
        events: Sequence[str] = (),
        resources: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        flow_run_id: Id | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> EventPage:
        """A page of events, the newest first; see `orchestra.events.read_events`.

        Args:
            events: Their names, whole or as a beginning with `*`; one of them is enough.
            resources: Ids of what they are about, in the same way.
            since: From then on, aware.
            until: Before then, aware.
            flow_run_id: What is about this run and its task runs, or was emitted in them.
            limit: Most events of the page.
            after: `next` of the page before.
        """
        wanted = filter_of(events, resources, since, until, flow_run_id)

        def look(at: Backend) -> EventPage:
            found, following = at.list_events(wanted, limit=limit, after=after)
            return EventPage([event_of(record) for record in found], following)

        return self._seen("read_events", _EVENTS, look)

    # -- concurrency limits --------------------------------------------------------------------------------------

    def create_global_concurrency_limit(self, concurrency_limit: GlobalConcurrencyLimitCreate) -> str:
        """Make a limit; gives its id.

        Raises:
            Conflict: There is one of this name.
            ConfigurationError: A value cannot be.
        """
        given = concurrency_limit.model_dump()
        return self._seen("create_limit", _ID, lambda at: at.create_limit(**given).id)

    def read_global_concurrency_limit_by_name(self, name: str) -> GlobalConcurrencyLimit:
        """A limit.

        Raises:
            LimitNotFound: There is none of this name.
        """
        return self._seen("read_limit", _LIMIT, lambda at: asdict(at.read_limit(name)))

    def read_global_concurrency_limits(self, *, limit: int = 100, offset: int = 0) -> list[GlobalConcurrencyLimit]:
        """Limits by name.

        Args:
            limit: Most given.
            offset: How many to leave out before.
        """

        def look(at: Backend) -> list[dict[str, Any]]:
            return [asdict(each) for each in at.list_limits()[offset : offset + limit]]

        return self._seen("read_limits", _LIMITS, look)

    def update_global_concurrency_limit(self, name: str, concurrency_limit: GlobalConcurrencyLimitUpdate) -> None:
        """Change a limit. Who waits is served at once, who has slots keeps them.

        Raises:
            LimitNotFound: There is none of this name.
            ConfigurationError: A value cannot be, or nothing is to change.
        """
        given = concurrency_limit.model_dump()
        self._act("update_limit", lambda at: at.update_limit(name, **given))

    def delete_global_concurrency_limit_by_name(self, name: str) -> None:
        """Delete a limit; who waits goes on.

        Raises:
            LimitNotFound: There is none of this name.
        """
        self._act("delete_limit", lambda at: at.delete_limit(name))

    # -- the database --------------------------------------------------------------------------------------------

    def hello(self) -> str:
        """Answers once the database does.

        Raises:
            StoreUnavailable: It does not.
        """
        self._backend().hello()
        return "👋"

    def api_healthcheck(self) -> Exception | None:
        """None where the database answers; else the error that says why it does not."""
        try:
            self.hello()
        except OrchestraError as error:
            return error
        return None

    # -- how it is done ------------------------------------------------------------------------------------------

    def _backend(self) -> Backend:
        """What is asked: the database, in which local runs of dead processes show as Crashed, or the API."""
        looks, self._has_looked = not self._has_looked, True
        return backend(of_runs=looks)

    def _started(self, name: str, parameters: Mapping[str, Any], **options: Any) -> str:
        """The id of a run of a deployment; in a flow body on a worker a replay starts no second one."""
        at = self._backend()
        if isinstance(at, DatabaseBackend):
            return at.start_deployment(name, parameters, **options)
        return self._seen("start_deployment", _ID, lambda there: there.start_deployment(name, parameters, **options))

    def _need_database(self) -> None:
        """Refuse what a server's API has not, where only that is known."""
        _ = self._backend().db

    def _seen(self, name: str, shape: TypeAdapter[T], look: Callable[[Backend], Any]) -> T:
        """What `look` gives, as records; in a flow body on a worker it is kept, and a replay gets the same."""
        runner = durable_body()
        if runner is None:
            return shape.validate_python(look(self._backend()))

        def kept() -> Any:
            return shape.dump_python(shape.validate_python(look(self._backend())), mode="json")

        return shape.validate_python(runner.observe(f"client-{name}", kept))

    def _act(self, name: str, act: Callable[[Backend], object]) -> None:
        def once(at: Backend) -> None:
            act(at)

        self._seen(name, _DONE, once)

    def _do(self, act: Callable[[Backend], T]) -> T:
        """Change something; in a flow's body on a worker in the database of its run, where a replay repeats nothing."""
        return act(self._backend() if durable_body() is None else DatabaseBackend(database()))

    def _one_flow(self, wanted: FlowFilter, asked: str) -> Flow:
        found = self.read_flows(flow_filter=wanted, limit=1)
        if not found:
            raise FlowNotFound(asked)
        return found[0]

    def _with_value(self, run: Run) -> Run:
        """The record, whose state reads the run's value when that is asked for."""
        details = StateDetails(run.id) if isinstance(run, FlowRun) else StateDetails(run.flow_run_id, run.id)
        read = functools.partial(self._value, run)
        state = KeptState(run.state.type, run.state.name, run.state.message, timestamp=run.state.timestamp)
        return run.model_copy(update={"state": replace(state, state_details=details, read=read)})

    def _value(self, run: FlowRun | TaskRun) -> State[Any]:
        def ending() -> State[Any]:
            at = backend()
            return at.flow_run_ending(run.id) if isinstance(run, FlowRun) else at.task_run_ending(run.id)

        runner = durable_body()
        if runner is None:
            return ending()
        return State(StateType.COMPLETED, data=runner.observe("client-result", lambda: ending().outcome()))


Run = TypeVar("Run", FlowRun, TaskRun)


def _wanted(
    flow_filter: FlowFilter | None, flow_run_filter: FlowRunFilter | None, task_run_filter: TaskRunFilter | None
) -> Filters:
    return Filters(flows=flow_filter, flow_runs=flow_run_filter, task_runs=task_run_filter)


def _flushed(at: Backend) -> Database:
    """The database, once what runs in this process have made is there."""
    behind.flush()
    return at.db


def _log(line: Any) -> dict[str, Any]:
    return {
        "id": line.id,
        "name": line.logger,
        "level": line.level,
        "message": line.message,
        "timestamp": clock.to_datetime(line.timestamp),
        "flow_run_id": line.run_id,
        "task_run_id": line.step_id,
    }


# -- in coroutines -----------------------------------------------------------------------------------------------


def _awaitable(
    method: Callable[Concatenate[SyncOrchestraClient, P], T],
) -> Callable[Concatenate[OrchestraClient, P], Coroutine[Any, Any, T]]:
    """The same method for coroutines: it works in a thread, so that the event loop goes on."""

    @functools.wraps(method)
    async def call(self: OrchestraClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if durable_body() is not None:
            # A step of the flow body: its order is that of the body's own thread.
            return method(self.sync, *args, **kwargs)
        return await asyncio.to_thread(method, self.sync, *args, **kwargs)

    return call


class OrchestraClient(_Client):
    """`SyncOrchestraClient` for coroutines: every method is awaited."""

    def __init__(self) -> None:
        self.sync = SyncOrchestraClient()

    async def __aenter__(self) -> OrchestraClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    read_flow = _awaitable(SyncOrchestraClient.read_flow)
    read_flow_by_name = _awaitable(SyncOrchestraClient.read_flow_by_name)
    read_flows = _awaitable(SyncOrchestraClient.read_flows)
    count_flows = _awaitable(SyncOrchestraClient.count_flows)
    create_flow_run = _awaitable(SyncOrchestraClient.create_flow_run)
    read_flow_run = _awaitable(SyncOrchestraClient.read_flow_run)
    read_flow_runs = _awaitable(SyncOrchestraClient.read_flow_runs)
    count_flow_runs = _awaitable(SyncOrchestraClient.count_flow_runs)
    read_flow_run_states = _awaitable(SyncOrchestraClient.read_flow_run_states)
    set_flow_run_state = _awaitable(SyncOrchestraClient.set_flow_run_state)
    cancel_flow_run = _awaitable(SyncOrchestraClient.cancel_flow_run)
    pause_flow_run = _awaitable(SyncOrchestraClient.pause_flow_run)
    suspend_flow_run = _awaitable(SyncOrchestraClient.suspend_flow_run)
    resume_flow_run = _awaitable(SyncOrchestraClient.resume_flow_run)
    retry_flow_run = _awaitable(SyncOrchestraClient.retry_flow_run)
    delete_flow_run = _awaitable(SyncOrchestraClient.delete_flow_run)
    read_task_run = _awaitable(SyncOrchestraClient.read_task_run)
    read_task_runs = _awaitable(SyncOrchestraClient.read_task_runs)
    count_task_runs = _awaitable(SyncOrchestraClient.count_task_runs)
    read_task_run_states = _awaitable(SyncOrchestraClient.read_task_run_states)
    set_task_run_state = _awaitable(SyncOrchestraClient.set_task_run_state)
    read_logs = _awaitable(SyncOrchestraClient.read_logs)
    create_artifact = _awaitable(SyncOrchestraClient.create_artifact)
    read_artifact = _awaitable(SyncOrchestraClient.read_artifact)
    read_artifacts = _awaitable(SyncOrchestraClient.read_artifacts)
    read_latest_artifacts = _awaitable(SyncOrchestraClient.read_latest_artifacts)
    update_artifact = _awaitable(SyncOrchestraClient.update_artifact)
    delete_artifact = _awaitable(SyncOrchestraClient.delete_artifact)
    create_variable = _awaitable(SyncOrchestraClient.create_variable)
    read_variable_by_name = _awaitable(SyncOrchestraClient.read_variable_by_name)
    read_variables = _awaitable(SyncOrchestraClient.read_variables)
    update_variable = _awaitable(SyncOrchestraClient.update_variable)
    delete_variable_by_name = _awaitable(SyncOrchestraClient.delete_variable_by_name)
    read_events = _awaitable(SyncOrchestraClient.read_events)
    create_global_concurrency_limit = _awaitable(SyncOrchestraClient.create_global_concurrency_limit)
    read_global_concurrency_limit_by_name = _awaitable(SyncOrchestraClient.read_global_concurrency_limit_by_name)
    read_global_concurrency_limits = _awaitable(SyncOrchestraClient.read_global_concurrency_limits)
    update_global_concurrency_limit = _awaitable(SyncOrchestraClient.update_global_concurrency_limit)
    delete_global_concurrency_limit_by_name = _awaitable(SyncOrchestraClient.delete_global_concurrency_limit_by_name)
    create_deployment = _awaitable(SyncOrchestraClient.create_deployment)
    read_deployment = _awaitable(SyncOrchestraClient.read_deployment)
    read_deployment_by_name = _awaitable(SyncOrchestraClient.read_deployment_by_name)
    read_deployments = _awaitable(SyncOrchestraClient.read_deployments)
    update_deployment = _awaitable(SyncOrchestraClient.update_deployment)
    delete_deployment = _awaitable(SyncOrchestraClient.delete_deployment)
    pause_deployment = _awaitable(SyncOrchestraClient.pause_deployment)
    resume_deployment = _awaitable(SyncOrchestraClient.resume_deployment)
    create_flow_run_from_deployment = _awaitable(SyncOrchestraClient.create_flow_run_from_deployment)
    read_deployment_schedules = _awaitable(SyncOrchestraClient.read_deployment_schedules)
    create_deployment_schedules = _awaitable(SyncOrchestraClient.create_deployment_schedules)
    update_deployment_schedule = _awaitable(SyncOrchestraClient.update_deployment_schedule)
    delete_deployment_schedule = _awaitable(SyncOrchestraClient.delete_deployment_schedule)
    create_work_pool = _awaitable(SyncOrchestraClient.create_work_pool)
    read_work_pool = _awaitable(SyncOrchestraClient.read_work_pool)
    read_work_pools = _awaitable(SyncOrchestraClient.read_work_pools)
    update_work_pool = _awaitable(SyncOrchestraClient.update_work_pool)
    delete_work_pool = _awaitable(SyncOrchestraClient.delete_work_pool)
    read_work_queues = _awaitable(SyncOrchestraClient.read_work_queues)
    read_workers_for_work_pool = _awaitable(SyncOrchestraClient.read_workers_for_work_pool)
    hello = _awaitable(SyncOrchestraClient.hello)
    api_healthcheck = _awaitable(SyncOrchestraClient.api_healthcheck)
