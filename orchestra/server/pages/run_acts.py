"""What people do to one run from its page: cancel, retry, pause, suspend, resume with an answer, run again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from orchestra.engine import operations
from orchestra.errors import IllegalTransition, InvalidRunInput
from orchestra.server import acts, forms, starting
from orchestra.server.announcing import announce
from orchestra.server.dependencies import Db, Runner
from orchestra.server.rendering import PageRoute, render
from orchestra.store import deployments, queries

router = APIRouter(route_class=PageRoute)


@router.post("/runs/{run_id}/cancel")
def cancel(db: Db, who: Runner, run_id: str) -> Response:
    """Cancel it, with all that it started."""
    acts.perform(who, "cancel", f"flow run {run_id}", lambda: operations.cancel(db, run_id, announce))
    return _back(run_id, "cancel")


@router.post("/runs/{run_id}/retry")
def retry(db: Db, who: Runner, run_id: str, from_task_run_id: Annotated[str, Form()] = "") -> Response:
    """Run it again from where it failed, or from a task run."""
    what = f"flow run {run_id}" + (f" from task run {from_task_run_id}" if from_task_run_id else "")

    def act() -> None:
        operations.retry(db, run_id, announce, from_task_run_id=from_task_run_id or None)

    acts.perform(who, "retry", what, act)
    return _back(run_id, "retry-from" if from_task_run_id else "retry")


@router.post("/runs/{run_id}/pause")
def pause(db: Db, who: Runner, run_id: str) -> Response:
    """Start no more of it until it is resumed."""
    acts.perform(who, "pause", f"flow run {run_id}", lambda: operations.pause(db, run_id))
    return _back(run_id, "pause")


@router.get("/runs/{run_id}/resume")
def ask(request: Request, db: Db, who: Runner, run_id: str, key: str = "") -> Response:
    """The form of what a paused run waits for."""
    return _form(request, queries.read_flow_run(db, run_id), key, {}, {})


@router.post("/runs/{run_id}/resume")
async def resume(request: Request, db: Db, who: Runner, run_id: str) -> Response:
    """Let it go on, with what it waits for where it asks for something."""
    sent = await forms.read(request)
    return await run_in_threadpool(lambda: _resume(request, db, who, run_id, sent))


def _resume(request: Request, db: Db, who: Runner, run_id: str, sent: forms.Sent) -> Response:
    details = queries.read_flow_run(db, run_id)
    key = sent.one("key")
    pause = next((each for each in details.pauses if each.key == key), None)
    given, wrong = (None, {}) if pause is None or pause.schema is None else forms.values(pause.schema, sent)
    if wrong:
        return _form(request, details, key, sent.shown(), wrong, status=422)
    try:
        acts.perform(
            who,
            "resume",
            f"flow run {run_id}",
            lambda: operations.resume(db, run_id, announce, run_input=given, key=key or None),
        )
    except InvalidRunInput as error:
        return _form(request, details, key, sent.shown(), {"": str(error)}, status=422)
    return _back(run_id, "resume")


def _form(
    request: Request,
    details: queries.FlowRunDetails,
    key: str,
    shown: dict[str, str],
    wrong: dict[str, str],
    status: int = 200,
) -> Response:
    pause = next((each for each in details.pauses if not key or each.key == key), None)
    if pause is None:
        raise HTTPException(409, f"flow run {details.run.name!r} is {details.run.state_name}: it waits for no answer")
    fields = forms.fields(pause.schema or {}, shown)
    return render(
        request, "resume.html", status=status, run=details.run, pause=pause, fields=fields, shown=shown, wrong=wrong
    )


# -- run again ---------------------------------------------------------------------------------------------------


@router.get("/runs/{run_id}/again")
def ask_again(request: Request, db: Db, who: Runner, run_id: str) -> Response:
    """The form of its deployment, filled with its parameters; without one, these as JSON."""
    run = queries.read_flow_run(db, run_id).run
    if run.deployment_id is not None and deployments.find(db, run.deployment_id) is not None:
        return RedirectResponse(f"/deployments/{run.deployment_id}/run?like={run_id}", 303)
    return _again_form(request, run, forms.as_text(run.parameters), "")


@router.post("/runs/{run_id}/again")
def again(request: Request, db: Db, who: Runner, run_id: str, parameters: Annotated[str, Form()] = "") -> Response:
    """Start a run of the same flow, on the same queue, with these parameters."""
    run = queries.read_flow_run(db, run_id).run
    try:
        given = forms.one_object(parameters)
        new_id = acts.perform(who, "run again", f"flow run {run_id}", lambda: starting.again(db, run_id, given))
    except (ValueError, IllegalTransition) as error:
        return _again_form(request, run, parameters, str(error))
    return _back(new_id, "started")


def _again_form(request: Request, run: queries.FlowRun, text: str, wrong: str) -> Response:
    return render(request, "again.html", status=422 if wrong else 200, run=run, text=text, wrong=wrong)


def _back(run_id: str, done: str) -> Response:
    return RedirectResponse(f"/runs/{run_id}?done={done}", 303)
