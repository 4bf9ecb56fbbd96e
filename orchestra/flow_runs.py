"""What can be done to flow runs from Python: pause or suspend the one that runs here, resume another."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, overload

from orchestra import identifiers, lazy
from orchestra.awaitables import Done, in_coroutine
from orchestra.context import FlowRunContext, flow_run_context, task_run_context
from orchestra.engine.branches import current_line
from orchestra.errors import DefinitionError, MissingContextError, NotSuspendable
from orchestra.questions import Pause, Question, wait_seconds


@overload
def pause_flow_run(
    wait_for_input: None = None,
    timeout: float | timedelta | None = 3600.0,
    poll_interval: float = 10.0,
    key: str | None = None,
) -> Awaitable[None]: ...


@overload
def pause_flow_run(
    wait_for_input: Any,
    timeout: float | timedelta | None = 3600.0,
    poll_interval: float = 10.0,
    key: str | None = None,
) -> Any: ...


def pause_flow_run(
    wait_for_input: Any = None,
    timeout: float | timedelta | None = 3600.0,
    poll_interval: float = 10.0,
    key: str | None = None,
) -> Any:
    """Pause the flow run that runs here until someone resumes it; in a coroutine: `await pause_flow_run()`.

    On a worker no slot is held meanwhile. An answer that the type refuses, though its JSON schema lets it pass, pauses
    the run again; `orchestra flow-run inspect` shows why.

    Args:
        wait_for_input: What is asked for: a `RunInput`, another pydantic model, or a type that pydantic takes as an
            annotation. None: nothing.
        timeout: Seconds to wait for that; None: without an end.
        poll_interval: Taken for Prefect's sake; a resume is noticed sooner.
        key: The name of the pause. Asked for again under the same name it gives the same at once.

    Returns:
        What was given, as an instance of that type; None where nothing is asked for.

    Raises:
        PauseTimeout: Nobody resumed it in time.
        MissingContextError: Called outside of a flow, or in a task.
        DefinitionError: The type cannot be asked for.
    """
    here = _flow_run("pause_flow_run()")
    return _wait(here, _pause(here, wait_for_input, timeout, key, "Paused"))


@overload
def suspend_flow_run(
    wait_for_input: None = None,
    flow_run_id: str | uuid.UUID | None = None,
    timeout: float | timedelta | None = 3600.0,
    key: str | None = None,
) -> Awaitable[None]: ...


@overload
def suspend_flow_run(
    wait_for_input: Any,
    flow_run_id: str | uuid.UUID | None = None,
    timeout: float | timedelta | None = 3600.0,
    key: str | None = None,
) -> Any: ...


def suspend_flow_run(
    wait_for_input: Any = None,
    flow_run_id: str | uuid.UUID | None = None,
    timeout: float | timedelta | None = 3600.0,
    key: str | None = None,
) -> Any:
    """Suspend a flow run on a worker until someone resumes it; in a coroutine: `await suspend_flow_run()`.

    In the flow's own body it is a pause that is shown as Suspended. From elsewhere nothing more of the run is started;
    what runs of it ends. Suspending a run that is suspended changes nothing.

    Args:
        wait_for_input: As of `pause_flow_run`; only in the flow's own body.
        flow_run_id: The run to suspend; None: the one that runs here.
        timeout: Seconds to wait; None: without an end. Only in the flow's own body.
        key: As of `pause_flow_run`.

    Returns:
        As `pause_flow_run`.

    Raises:
        NotSuspendable: The run that runs here was called in this process; says how to run it on a worker.
        PauseTimeout: Nobody resumed it in time.
        MissingContextError: No `flow_run_id` is given, and no flow runs here.
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended, or was called in a process.
        DefinitionError: The type cannot be asked for, or not from outside.
    """
    here = flow_run_context.get()
    if flow_run_id is not None and (here is None or str(flow_run_id) != here.run_id):
        if wait_for_input is not None:
            raise DefinitionError("wait_for_input= is for a flow's own body: from outside nobody would get the input")
        _act("run-suspend", lambda _: lazy.load("operations").suspend(lazy.load("database")(), str(flow_run_id)))
        return Done()
    here = _flow_run("suspend_flow_run() without flow_run_id=")
    if current_line.get() is None:
        raise NotSuspendable(here.flow.name)
    return _wait(here, _pause(here, wait_for_input, timeout, key, "Suspended"))


def resume_flow_run(flow_run_id: str | uuid.UUID, run_input: Any = None, *, key: str | None = None) -> Awaitable[None]:
    """Let a paused or suspended flow run go on; in a coroutine: `await resume_flow_run(…)`.

    Args:
        flow_run_id: The run.
        run_input: What it waits for, a dictionary by field. For a type that is no model, the value, or a dictionary
            with `value`. None: nothing, which is enough where no field is required.
        key: The pause that is meant, where several branches of the flow wait.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It is not paused; someone may have resumed it just before.
        InvalidRunInput: The input does not fit; names the fields. The run waits on.
    """

    def resume(token: str | None) -> None:
        operations, database = lazy.load("operations"), lazy.load("database")()
        operations.resume(database, str(flow_run_id), run_input=run_input, key=key, token=token)

    _act("run-resume", resume)
    return Done()


async def apause_flow_run(
    wait_for_input: Any = None,
    timeout: float | timedelta | None = 3600.0,
    poll_interval: float = 10.0,
    key: str | None = None,
) -> Any:
    """As `pause_flow_run`, of coroutines only."""
    return await pause_flow_run(wait_for_input, timeout, poll_interval, key)


async def asuspend_flow_run(
    wait_for_input: Any = None,
    flow_run_id: str | uuid.UUID | None = None,
    timeout: float | timedelta | None = 3600.0,
    key: str | None = None,
) -> Any:
    """As `suspend_flow_run`, of coroutines only."""
    return await suspend_flow_run(wait_for_input, flow_run_id, timeout, key)


async def aresume_flow_run(flow_run_id: str | uuid.UUID, run_input: Any = None, *, key: str | None = None) -> None:
    """As `resume_flow_run`, of coroutines only."""
    await resume_flow_run(flow_run_id, run_input, key=key)


def _flow_run(what: str) -> FlowRunContext:
    flow_run = flow_run_context.get()
    if flow_run is None or task_run_context.get() is not None:
        raise MissingContextError(f"{what} works in a flow's own body only, not in tasks or outside of runs")
    return flow_run


def _pause(
    here: FlowRunContext, wait_for_input: Any, timeout: float | timedelta | None, key: str | None, state_name: str
) -> Pause:
    seconds = wait_seconds(timeout)
    if wait_for_input is None:
        return Pause(Question(key), seconds, state_name)
    form = lazy.load("input").form_of(wait_for_input)
    accept = partial(form.accept, key=key or "pause", flow_run_id=here.run_id)
    return Pause(form.question(key), seconds, state_name, accept, form.lasting)


def _wait(here: FlowRunContext, pause: Pause) -> Any:
    if in_coroutine():
        return here.runner.pause_async(pause)
    value = here.runner.pause(pause)
    return Done() if pause.accept is None else value


def _act(name: str, act: Callable[[str | None], object]) -> None:
    """Do something to another run; in a flow's body it is a step, so that a replay does not do it again.

    Args:
        name: Of the step.
        act: Gets the step's token, if it has one: the step may be journaled after it is done, and a crash between the
            two has it done again.
    """
    here, line = flow_run_context.get(), current_line.get()
    if here is None or task_run_context.get() is not None:
        act(None)
        return
    token = None
    if line is not None:
        token = identifiers.idempotency_key(here.run_id, line.branch.peek(name).key, here.anew_since)
    here.runner.observe(name, lambda: act(token))
