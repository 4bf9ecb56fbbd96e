"""What workers do for canvases of users' own: create the run that a door leads to, and pass its outcome on.

The run stands for the Celery task whose message came to the door. That task neither returns nor fails (Ignore); when
the run has ended, `orchestra.pass_on` is sent under the same id, with all that came with the first message, and its
return or its exception is what Celery goes on with: links, errbacks, chains, chords, and the result backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Task, states
from celery.app.task import Context
from celery.exceptions import Ignore, TaskPredicate
from kombu.exceptions import OperationalError

from orchestra import identifiers
from orchestra.celery import background, canvas, doors, messages, submit
from orchestra.celery.dispatch import carrier
from orchestra.celery.doors import Door
from orchestra.context import tags
from orchestra.engine import local, tracing
from orchestra.engine.parameters import bind
from orchestra.errors import Conflict, RunFailed
from orchestra.failpoints import failpoint
from orchestra.handles import FlowRunHandle
from orchestra.specs import Call, FlowSpec, TaskSpec
from orchestra.states import State
from orchestra.store import pass_ons, runs
from orchestra.store.database import database
from orchestra.store.pass_ons import PassOn
from orchestra.store.runs import Planned

#: Of the request of a `pass_on`: whether what it passes on is a value.
_SUCCEEDS = "orchestra_succeeds"


def run_of(run: str, request: Any) -> str:
    """The id of the run that a node belongs to; a token means another one each time its canvas is applied.

    Args:
        run: A run's id, or a canvas's token.
        request: The Celery request, which knows the first task of all.
    """
    if not run.startswith(canvas.TOKEN):
        return run
    return identifiers.canvas_run_id(run, request.root_id or request.id)


def enter(task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Create the run that a door leads to, and have its end passed on. A second delivery changes nothing.

    The run has Celery's id of the task as its idempotency key (`_key`). What is raised but Ignore fails the Celery
    task: its errbacks are called, and no run is made.

    Args:
        task: The Celery task, with its request.
        args: The door's own arguments, behind what Celery adds.
        kwargs: Likewise, and what is sealed.

    Raises:
        Ignore: Celery goes on when the run has ended.
        SignatureInvalid: The message was made with another key, or changed since; nothing was loaded.
        ParameterBindError: The arguments do not fit.
        DefinitionNotFound: The code is not on this worker.
        IdempotencyConflict: Celery's id was used before, with other arguments.
    """
    door = Door.opened(kwargs.pop(doors.DOOR, None))
    spec = door.load()
    failed = _failed(task, args) if task.request.called_directly else None
    args, kwargs = doors.arguments(_without_error(args), kwargs)
    if failed is not None:
        return _create(spec, args, kwargs, f"{failed}/link_error", None, tagged=door.tag_names())
    if task.request.is_eager or task.request.called_directly:
        with tags(*door.tag_names()):
            return _run_here(spec, args, kwargs).result()
    if door.token:
        assert isinstance(spec, FlowSpec)
        return _enter_canvas(task, door, spec, bind(spec.fn, args, kwargs))
    delivery = task.request.delivery_info or {}
    _create(
        spec, args, kwargs, _key(task.request), messages.kept(task),
        queue=delivery.get("routing_key"), priority=delivery.get("priority") or None, tagged=door.tag_names(),
    )  # fmt: skip
    raise Ignore(f"{door.kind} {spec.name!r} has a run of its own; its outcome is passed on when that has ended")


def _key(request: Any) -> str:
    """What is the same for each delivery of one message, and for no other.

    Celery's id of the task, and of the one before it: a chain object that is applied twice has its last task's id
    twice.
    """
    return f"{request.id}/{request.parent_id}" if request.parent_id else str(request.id)


def _create(
    spec: FlowSpec | TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: str,
    pass_on: PassOn | None,
    *,
    queue: str | None = None,
    priority: int | None = None,
    tagged: Sequence[str] = (),
) -> None:
    """Create a run of a flow or task.

    Args:
        spec: The flow or task.
        args: Its positional arguments.
        kwargs: Its arguments by name.
        key: Its idempotency key.
        pass_on: What is to be told its outcome.
        queue: By which its door's message came: where it goes, if that is a queue of this worker's.
        priority: Of that message.
        tagged: Tags of the run, as the door's message has them.
    """
    carrying = carrier()
    queue = queue if queue in carrying.queues else None
    parameters = bind(spec.fn, args, kwargs)
    if isinstance(spec, TaskSpec):
        queue, priority = background.routed(spec, carrying, queue, priority)
        spec, parameters = background.as_flow(spec, Call(args, kwargs), queue, priority)
    new = submit.new_run(spec, parameters, carrying, queue, priority)
    new.idempotency_key, new.pass_on, new.tags = key, pass_on, tagged
    static = canvas.plan_static(spec, parameters, new, carrying) if spec.static else None
    submit.create(new, carrying, static)


# -- as an errback -----------------------------------------------------------------------------------------------


def _failed(task: Task, args: tuple[Any, ...]) -> str | None:
    """Celery's id of the task whose errback is called; None where a person calls a signature, and where all is eager.

    Celery calls errbacks that take any arguments as functions, where the task failed, with its request, exception and
    traceback; immutable ones with nothing. Nothing waits for their runs, which are made once for each failure.
    """
    around = task.app.current_worker_task
    request = args[0] if args and isinstance(args[0], Context) else around and around.request
    return None if request is None or request.is_eager or task.app.conf.task_always_eager else str(request.id)


def _without_error(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with the failed task's id in the place of its request, exception and traceback."""
    return (str(args[0].id), *args[3:]) if args and isinstance(args[0], Context) else args


# -- in the place of a member ------------------------------------------------------------------------------------


def _run_here(spec: FlowSpec | TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> State[Any]:
    """Under `task_always_eager`, by `.apply()` or as a call of the signature."""
    if isinstance(spec, TaskSpec):
        return local.runner().call_task(spec, Call(args, kwargs))
    return local.runner().call_flow(spec, bind(spec.fn, args, kwargs), ())


def _enter_canvas(task: Task, door: Door, spec: FlowSpec, parameters: dict[str, Any]) -> None:
    """Create the run of a whole flow's canvas, with its plan: its steps are on their way with the canvas.

    Raises:
        Conflict: The same canvas object stands twice in one workflow.
        StaticFlowError: Its body can no longer be drawn as one canvas.
    """
    carrying = carrier()
    new = submit.new_run(spec, parameters, carrying, None, None)
    new.id, new.tags = run_of(door.token, task.request), door.tag_names()
    new.idempotency_key = f"{door.token}/{task.request.id}"
    plan = tracing.trace(spec, parameters, canvas.router(spec, carrying), run_id=new.id, run_name=new.name)
    created = runs.create(database(), new, Planned(plan.steps, plan.outcome, lambda queue: len(plan.steps)))
    if created.row["idempotency_key"] != new.idempotency_key:
        raise Conflict(
            f"this canvas of flow {spec.name!r} stands twice in one workflow, whose run is {new.id}: call .canvas() "
            "once for each run"
        )
    if not plan.steps:
        # Its end is owed; where there are steps, they are on their way.
        carrying.announce(created.announcements)


def pass_on(task: Task, run: str) -> Any:
    """The value of a run that has ended; the task is kept until then.

    Raises:
        Ignore: The run has not ended, or this was done already, or somebody else is at it.
        Exception: The run's own.
    """
    opened, run_id = database(), run_of(run, task.request)
    if not pass_ons.begin(opened, run_id, messages.kept(task)):
        raise Ignore(f"flow run {run_id} has not ended, or its outcome is passed on already")
    state = FlowRunHandle(run_id).state
    if not state.is_final():
        raise Ignore(f"flow run {run_id} was opened again")
    setattr(task.request, _SUCCEEDS, state.is_completed())
    failpoint("in_pass_on")
    return _outcome(run_id, state)


def _outcome(run_id: str, state: State[Any]) -> Any:
    """A run's value or exception; what Celery, or its worker, would take for an order of its own comes as RunFailed."""
    try:
        return state.result()
    except TaskPredicate as error:
        raise RunFailed(f"flow run {run_id} ended {state.name} with {error!r}") from None
    except Exception:
        raise
    except BaseException as error:
        raise RunFailed(f"flow run {run_id} ended {state.name} with {error!r}") from None


def passed_on(task: Task, run: str, outcome: str, value: Any) -> None:
    """Celery has gone on: it has sent what comes next, and stored the result.

    Where it had a value to go on with, and no broker to send it to, the outcome is still owed.

    Args:
        task: The Celery task, with its request.
        run: As it was given.
        outcome: Celery's name of the state that the task has ended in.
        value: What it returned or raised.
    """
    gave_up = outcome == states.FAILURE and isinstance(value, OperationalError)
    if gave_up and getattr(task.request, _SUCCEEDS, False):
        return
    pass_ons.end(database(), run_of(run, task.request), str(task.request.id))
