"""The part of a client that is about flows, flow runs, task runs and log lines."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from orchestra import lazy, settings
from orchestra.client.backend import Backend, backend
from orchestra.client.methods import LIMIT, Id, Methods
from orchestra.client.schemas.filters import Filters, FlowFilter, FlowRunFilter, LogFilter, TaskRunFilter
from orchestra.client.schemas.objects import (
    Flow,
    FlowRun,
    KeptState,
    Log,
    OrchestrationResult,
    RunState,
    SetStateStatus,
    State,
    StateDetails,
    StateType,
    TaskRun,
)
from orchestra.client.schemas.sorting import FlowRunSort, FlowSort, LogSort, TaskRunSort
from orchestra.engine import definitions
from orchestra.engine.parameters import bind_named
from orchestra.errors import ConfigurationError, FlowNotFound, IllegalTransition
from orchestra.flows import Flow as FlowDefinition
from orchestra.handles import durable_body

Run = TypeVar("Run", FlowRun, TaskRun)

_FLOWS: TypeAdapter[list[Flow]] = TypeAdapter(list[Flow])
_FLOW_RUN: TypeAdapter[FlowRun] = TypeAdapter(FlowRun)
_FLOW_RUNS: TypeAdapter[list[FlowRun]] = TypeAdapter(list[FlowRun])
_TASK_RUN: TypeAdapter[TaskRun] = TypeAdapter(TaskRun)
_TASK_RUNS: TypeAdapter[list[TaskRun]] = TypeAdapter(list[TaskRun])
_STATES: TypeAdapter[list[State[Any]]] = TypeAdapter(list[RunState])
_LOGS: TypeAdapter[list[Log]] = TypeAdapter(list[Log])
_ANSWER: TypeAdapter[OrchestrationResult] = TypeAdapter(OrchestrationResult)
_COUNT: TypeAdapter[int] = TypeAdapter(int)


class RunMethods(Methods):
    """What `SyncOrchestraClient` can do with flows and runs."""

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
        wanted, order = selected(flow_filter, flow_run_filter, task_run_filter), sort or FlowSort.NAME_ASC
        return self._seen(
            "read_flows",
            _FLOWS,
            lambda at: at.find_flows(wanted, sort=order.value, limit=limit, offset=offset),
        )

    def count_flows(
        self, *, flow_filter: FlowFilter | None = None, flow_run_filter: FlowRunFilter | None = None
    ) -> int:
        """How many flows fit."""
        wanted = selected(flow_filter, flow_run_filter, None)
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
        wanted, order = selected(flow_filter, flow_run_filter, task_run_filter), sort or FlowRunSort.CREATED_DESC
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
        wanted = selected(flow_filter, flow_run_filter, task_run_filter)
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
        wanted, order = selected(flow_filter, flow_run_filter, task_run_filter), sort or TaskRunSort.CREATED_DESC
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
        wanted = selected(flow_filter, flow_run_filter, task_run_filter)
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
            return [line.record() for line in found]

        return self._seen("read_logs", _LOGS, look)

    # -- how it is done ------------------------------------------------------------------------------------------

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


def selected(
    flow_filter: FlowFilter | None, flow_run_filter: FlowRunFilter | None, task_run_filter: TaskRunFilter | None
) -> Filters:
    """What is meant: all of it must fit."""
    return Filters(flows=flow_filter, flow_runs=flow_run_filter, task_runs=task_run_filter)
