"""Deployments: what runs when, pausing and resuming, and a run of one's own by a form of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from orchestra import clock
from orchestra.celery import deployed
from orchestra.engine import upcoming
from orchestra.errors import ParameterTypeError
from orchestra.server import acts, announcing, forms
from orchestra.server.dependencies import Db, Reader, Runner
from orchestra.server.rendering import PageRoute, render
from orchestra.store import deployments, queries, run_lists, workers
from orchestra.store.deployments import Deployment, ScheduleRecord
from orchestra.store.run_lists import RunFilter

router = APIRouter(route_class=PageRoute)

#: Next times shown of each schedule.
_NEXT = 5


@dataclass(frozen=True, slots=True)
class Shown:
    """A schedule as people read it, and when it fires next."""

    record: ScheduleRecord
    rule: str
    next: tuple[datetime, ...]


@router.get("/deployments")
def show_all(request: Request, db: Db, who: Reader, flow: str = "", after: str | None = None) -> Response:
    """By flow and name."""
    page = deployments.list_deployments(db, limit=50, after=after or None, flow_names=[flow] if flow else [])
    shown = [(each, _schedules(each, 1)) for each in page.items]
    return render(request, "deployments.html", shown=shown, next=page.next, after=after, flow=flow)


@router.get("/deployments/{deployment_id}")
def show(request: Request, db: Db, who: Reader, deployment_id: str) -> Response:
    """One, with its schedules, their next times, and its last runs."""
    found = deployments.read(db, deployment_id)
    return render(
        request,
        "deployment.html",
        deployment=found,
        schedules=_schedules(found, _NEXT),
        runs=run_lists.list_runs(db, RunFilter(deployment_id=found.id), limit=15).items,
        has_worker=not found.queue or bool(workers.slots_by_queue(db).get(found.queue)),
    )


@router.post("/deployments/{deployment_id}/pause")
def pause(db: Db, who: Runner, deployment_id: str) -> Response:
    """Let none of its schedules fire."""
    return _set_paused(db, who, deployment_id, True)


@router.post("/deployments/{deployment_id}/resume")
def resume(db: Db, who: Runner, deployment_id: str) -> Response:
    """Let its schedules fire again, from now on."""
    return _set_paused(db, who, deployment_id, False)


def _set_paused(db: Db, who: Runner, deployment_id: str, paused: bool) -> Response:
    verb = "pause" if paused else "resume"
    what = f"deployment {deployment_id}"
    acts.perform(who, verb, what, lambda: deployments.set_paused(db, deployment_id, paused))
    return RedirectResponse(f"/deployments/{deployment_id}?done=changed", 303)


@router.post("/deployments/{deployment_id}/schedules/{schedule_id}")
def set_active(db: Db, who: Runner, deployment_id: str, schedule_id: str, active: Annotated[bool, Form()]) -> Response:
    """Pause or resume one schedule."""
    verb = "resume" if active else "pause"
    what = f"schedule {schedule_id} of deployment {deployment_id}"
    acts.perform(who, verb, what, lambda: deployments.set_active(db, deployment_id, schedule_id, active))
    return RedirectResponse(f"/deployments/{deployment_id}?done=changed", 303)


# -- a run of one's own ------------------------------------------------------------------------------------------


@router.get("/deployments/{deployment_id}/run")
def ask(request: Request, db: Db, who: Runner, deployment_id: str, like: str = "") -> Response:
    """The form of its parameters, filled with its own, or with those of another run."""
    found = deployments.read(db, deployment_id)
    values: dict[str, Any] = dict(found.parameters)
    tags = ""
    if like:
        run = queries.read_flow_run(db, like).run
        values |= run.parameters if isinstance(run.parameters, dict) else {}
        tags = ", ".join(run.tags)
    return _form(request, found, values, {}, {}, {"tags": tags})


@router.post("/deployments/{deployment_id}/run")
async def run(request: Request, db: Db, who: Runner, deployment_id: str) -> Response:
    """Start it."""
    sent = await forms.read(request)
    return await run_in_threadpool(lambda: _run(request, db, who, deployment_id, sent))


def _run(request: Request, db: Db, who: Runner, deployment_id: str, sent: forms.Sent) -> Response:
    found = deployments.read(db, deployment_id)
    other = {name: sent.one(name) for name in ("name", "tags", "delay", "json")}
    values, wrong = _values(found, sent, other["json"])
    delay, said = _delay(other["delay"])
    if said:
        wrong[""] = said
    if not wrong:
        try:
            run_id = acts.perform(
                who,
                "run",
                f"deployment {found.full_name}",
                lambda: deployed.start_through(
                    announcing.carrier(),
                    found.id,
                    values,
                    flow_run_name=other["name"].strip() or None,
                    tags=[tag.strip() for tag in other["tags"].split(",") if tag.strip()],
                    scheduled_time=None if delay is None else clock.to_datetime(clock.now() + delay),
                ),
            )
        except ParameterTypeError as error:
            wrong[""] = str(error)
        else:
            return RedirectResponse(f"/runs/{run_id}?done=started", 303)
    return _form(request, found, {}, sent.shown(), wrong, other, status=422)


def _values(found: Deployment, sent: forms.Sent, text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters that were sent, and what is wrong with them, by name."""
    if _has_fields(found):
        return forms.values(found.parameter_openapi_schema, sent)
    try:
        return forms.one_object(text), {}
    except ValueError as error:
        return {}, {"": f"The parameters: {error}"}


def _form(
    request: Request,
    found: Deployment,
    values: dict[str, Any],
    shown: dict[str, str],
    wrong: dict[str, str],
    other: dict[str, str],
    status: int = 200,
) -> Response:
    fields = forms.fields(found.parameter_openapi_schema, shown, values) if _has_fields(found) else []
    empty = {"name": "", "tags": "", "delay": "", "json": forms.as_text(values) if values else ""}
    return render(
        request,
        "deployment_run.html",
        status=status,
        deployment=found,
        fields=fields,
        free=not _has_fields(found) and not _takes_nothing(found),
        wrong=wrong,
        other=empty | other,
    )


def _has_fields(found: Deployment) -> bool:
    return bool(found.parameter_openapi_schema.get("properties"))


def _takes_nothing(found: Deployment) -> bool:
    """Whether its schema says that there are no parameters."""
    return "properties" in found.parameter_openapi_schema and not _has_fields(found)


def _delay(text: str) -> tuple[float | None, str]:
    """Minutes from now as seconds, and what is wrong with them."""
    if not text.strip():
        return None, ""
    try:
        minutes = float(text)
    except ValueError:
        return None, f"{text[:40]!r} is no number of minutes"
    if not 0 <= minutes < 60 * 24 * 3650:
        return None, "a run can start now or within ten years"
    return minutes * 60, ""


# -- schedules ---------------------------------------------------------------------------------------------------


def _schedules(found: Deployment, number: int) -> tuple[Shown, ...]:
    return tuple(_shown(found, each, 0 if found.paused else number) for each in found.schedules)


def _shown(found: Deployment, record: ScheduleRecord, number: int) -> Shown:
    zone = f" {record.timezone}" if record.timezone else ""
    interval = timedelta(seconds=record.interval or 0)
    rule = record.cron or record.rrule or f"every {interval}"
    coming = islice(upcoming.of_schedule(found, record, clock.now()), number)
    return Shown(record, f"{rule}{zone}", tuple(each.expected_start_time for each in coming))
