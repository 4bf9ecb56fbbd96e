"""Start a flow run on Celery: `.delay()` and `.apply_async()`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from orchestra import clock, identifiers, names
from orchestra.celery.canvas import StaticRun, plan_static
from orchestra.celery.dispatch import CeleryCarrier, carrier
from orchestra.context import flow_run_context, tags_context, task_run_context
from orchestra.engine import definitions, local, run_names
from orchestra.engine import parameters as binding
from orchestra.engine.branches import current_line
from orchestra.errors import MissingContextError, ParameterError
from orchestra.handles import FlowRunHandle
from orchestra.hooks import has_final_hooks
from orchestra.results import check_parameters
from orchestra.runners.carrier import Carrier
from orchestra.serializers import clean_text, encode
from orchestra.specs import FlowSpec, require_importable
from orchestra.states import State
from orchestra.store import runs
from orchestra.store.database import database
from orchestra.store.tables import LONGEST_KEY, LONGEST_NAME


def submit_flow_run(
    spec: FlowSpec,
    parameters: dict[str, Any],
    *,
    queue: str | None = None,
    countdown: float | timedelta | None = None,
    eta: datetime | None = None,
    priority: int | None = None,
    idempotency_key: str | None = None,
    tags: Iterable[str] = (),
    name: str | None = None,
) -> FlowRunHandle:
    """Write a flow run, announce it once, and return a handle on it.

    A broker that is away costs a sweep, not an error. From a flow body on a worker this is a step: a replay starts no
    second run.

    Args:
        parameters: By name, defaults included.
        tags: Beside those in force here.
        queue: Celery queue; else the decorator's, else the app's route for the flow, else its default.
        countdown: Seconds until it is due.
        eta: When it is due; a naive one is read as UTC.
        priority: As Celery's, with the meaning that the broker gives it.
        idempotency_key: A later call with the same key returns the same run.

    Raises:
        NoBroker: There is neither an app nor a broker.
        ConfigurationError: It is not said which of several apps sends, or the app has no such queue.
        NotImportable: A worker could not import the flow.
        ParameterError: The parameters do not fit.
        IdempotencyConflict: The key was used with other parameters.
        StaticFlowError: The flow is static, and its body looks into a result.
    """
    carrying = carrier()
    if carrying.app.conf.task_always_eager:
        return _run_here(spec, parameters, carrying)
    require_importable(spec.path, "flow")
    if spec.validate_parameters:
        binding.validate(spec.fn, parameters)
    new = new_run(spec, parameters, carrying, queue, priority)
    new.idempotency_key = None if idempotency_key is None else clean_text(idempotency_key)
    new.tags = [clean_text(tag) for tag in {*tags, *tags_context.get()}]
    new.delay, new.due_at = _when(countdown, eta)
    if name is not None:
        new.name = clean_text(name)[:LONGEST_NAME]
    check_text("queue", new.queue, LONGEST_NAME)
    carrying.check_queue(new.queue)
    check_text("idempotency_key", new.idempotency_key, LONGEST_KEY)
    # One that is due later is planned by its first segment.
    due = not new.delay and new.due_at is None
    static = plan_static(spec, parameters, new, carrying) if spec.static and due else None
    run_id = as_step(f"{spec.name}-delay", new, lambda: create(new, carrying, static))
    return FlowRunHandle(run_id, carrying)


def new_run(
    spec: FlowSpec, parameters: dict[str, Any], carrying: CeleryCarrier, queue: str | None, priority: int | None
) -> runs.NewRun:
    """A run of `spec` to be.

    Args:
        spec: The flow.
        parameters: By name.
        carrying: By which the app's routes are asked.
        queue: The Celery queue; None: the flow's, or as the app routes it.
        priority: Of its messages; likewise.

    Raises:
        SerializationError: The parameters cannot be encoded.
    """
    what = f"the set of parameters of flow {spec.name!r}"
    data = check_parameters(encode(parameters, what=what), what=what)
    routed_queue, routed_priority = carrying.route(spec.path)
    ranked = next((each for each in (priority, spec.priority, routed_priority) if each is not None), None)
    return runs.NewRun(
        flow_name=clean_text(spec.name),
        path=spec.path,
        name=clean_text(run_names.flow_run_name(spec, parameters)),
        parameters=data,
        options=definitions.encoded_options(spec),
        entrypoint=spec.entrypoint,
        description=clean_text(spec.description),
        queue=queue or spec.queue or routed_queue or carrying.default_queue,
        priority=ranked,
        version=spec.version,
        timeout_seconds=spec.timeout_seconds,
        has_hooks=has_final_hooks(spec),
    )


def check_text(option: str, value: str | None, longest: int) -> None:
    if value is None:
        return
    if len(value) > longest:
        raise ParameterError(f"{option}= has {len(value):,} characters; at most {longest} are kept")
    if clean_text(value) != value:
        raise ParameterError(f"{option}={value!r} has characters that a database cannot keep")


def _when(countdown: float | timedelta | None, eta: datetime | None) -> tuple[float, float | None]:
    """Seconds until due, and the instant at which, where that is given."""
    if countdown is not None and eta is not None:
        raise ParameterError("give countdown= or eta=, not both")
    if eta is not None:
        return 0.0, clock.to_instant(eta)
    delay = clock.seconds(countdown or 0.0)
    if not math.isfinite(delay):
        raise ParameterError(f"countdown={countdown!r} is no number of seconds")
    return max(delay, 0.0), None


def as_step(what: str, new: runs.NewRun, create: Callable[[], str]) -> str:
    """Create the run, as a step of this name of the flow body that asks for it; gives the run's id.

    Args:
        what: The step's name.
        new: The run to be.
        create: Writes and announces it; repeating that with one idempotency key changes nothing.
    """
    here = flow_run_context.get()
    if here is None or task_run_context.get() is not None:
        return create()
    if (line := current_line.get()) is not None and new.idempotency_key is None:
        # The step may be journaled after the run is created: a crash between the two must not make a second run.
        key = line.branch.peek(names.step_name(what)).key
        new.idempotency_key = identifiers.idempotency_key(here.run_id, key, here.anew_since)
        new.key_of_step = True
    return here.runner.observe(what, create)


def create(new: runs.NewRun, carrying: CeleryCarrier, static: StaticRun | None) -> str:
    """Write a run, and send what is owed for it; gives its id. Repeating it with one idempotency key changes nothing.

    Args:
        new: The run.
        carrying: By which it is announced.
        static: Its plan, where it is a static flow's.
    """
    if static is None:
        return write(new, carrying)
    created = runs.create(database(), new, static.planned)
    static.send(created, carrying)
    return str(created.row["id"])


def write(new: runs.NewRun, carrying: Carrier) -> str:
    """As `create`, of a run that is no static flow's."""
    created = runs.create(database(), new)
    carrying.announce(created.announcements)
    return str(created.row["id"])


def finished(carrying: CeleryCarrier, state: State[Any]) -> State[Any]:
    """The final state of what was run here under `task_always_eager`; raises what it ended with where the app says
    so by `task_eager_propagates`."""
    if carrying.app.conf.task_eager_propagates:
        state.result()
    return state


def _run_here(spec: FlowSpec, parameters: dict[str, Any], carrying: CeleryCarrier) -> FlowRunHandle:
    """Under `task_always_eager`: run the flow now, in this process."""
    state = finished(carrying, local.runner().call_flow(spec, parameters, ()))
    run_id = state.state_details.flow_run_id
    if run_id is None:
        raise MissingContextError("the run that was carried out here has no id")
    return FlowRunHandle(run_id, None, final=state)
