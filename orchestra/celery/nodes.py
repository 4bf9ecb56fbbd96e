"""What workers do at the ends of a canvas that was applied by hand: create its run, and pass the run's outcome on."""

from __future__ import annotations

from typing import Any

from celery import Task

from orchestra import identifiers, serializers, signing
from orchestra.celery import canvas, submit
from orchestra.celery.dispatch import carrier
from orchestra.engine import definitions, tracing
from orchestra.errors import Conflict, SignatureInvalid
from orchestra.handles import FlowRunHandle
from orchestra.store import runs
from orchestra.store.database import Database
from orchestra.store.runs import Planned

#: First and longest pause between two looks at a run that has not ended, in seconds.
_PAUSES = (0.05, 5.0)


def run_of(run: str, request: Any) -> str:
    """The id of the run that a node belongs to; a token means another one each time its canvas is applied.

    Args:
        run: A run's id, or a canvas's token.
        request: The Celery request, which knows the first task of all.
    """
    if not run.startswith(canvas.TOKEN):
        return run
    return identifiers.canvas_run_id(run, request.root_id or request.id)


def enter(database: Database, task: Task, token: str, path: str, parameters: str, seal: str) -> None:
    """Create the run of a canvas that was applied, with its plan. A second delivery changes nothing.

    Args:
        database: This process's.
        task: The Celery task, with its request.
        token: What stands for the run in the canvas's nodes.
        path: Of the flow.
        parameters: Encoded.
        seal: Of the three, by whoever drew the canvas.

    Raises:
        SignatureInvalid: It was drawn with another key, or changed since; nothing was loaded.
        Conflict: The same canvas object stands twice in one workflow.
        DefinitionNotFound: The flow's code is not on this worker.
        StaticFlowError: Its body can no longer be drawn as one canvas.
    """
    _check_seal(token, path, parameters, seal)
    carrying = carrier()
    spec = definitions.load_flow(path)
    given: dict[str, Any] = serializers.decode(parameters.encode("latin-1"))
    new = submit.new_run(spec, given, carrying, None, None)
    new.id = run_of(token, task.request)
    new.idempotency_key = f"{token}/{task.request.id}"
    plan = tracing.trace(spec, given, canvas.router(spec, carrying), run_id=new.id, run_name=new.name)
    created = runs.create(database, new, Planned(plan.steps, plan.outcome, lambda queue: len(plan.steps)))
    if created.row["idempotency_key"] != new.idempotency_key:
        raise Conflict(
            f"this canvas of flow {spec.name!r} stands twice in one workflow, whose run is {new.id}: call .canvas() "
            "once for each run"
        )
    if not plan.steps:
        # Its end is owed; where there are steps, they are on their way with the canvas.
        carrying.announce(created.announcements)


def _check_seal(token: str, path: str, parameters: str, seal: str) -> None:
    """Refuse a message that anyone but this installation made: its path may name any file, and loading runs it."""
    if signing.is_sealed(seal, canvas.SEAL, token, path, parameters):
        return
    raise SignatureInvalid(
        f"the message that starts a canvas of flow {path!r} was not signed with this installation's key, or was "
        "changed since; its code was not loaded. Give whoever calls .canvas() the ORCHESTRA_SECRET_KEY of the workers, "
        "or share their ORCHESTRA_HOME/secret.key"
    )


def pass_on(database: Database, task: Task, token: str) -> Any:
    """The value of a canvas's run; looks again later where it has not ended.

    Raises:
        Retry: Celery's, to be called again.
        Exception: The run's own.
    """
    state = FlowRunHandle(run_of(token, task.request)).state
    if not state.is_final():
        first, longest = _PAUSES
        raise task.retry(countdown=min(first * 2 ** min(task.request.retries, 10), longest))
    return state.result()
