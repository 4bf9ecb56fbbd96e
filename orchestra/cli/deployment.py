"""`orchestra deployment`: see deployments, start runs of them, and change their schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

import rich_click as click

from orchestra import clock, lazy
from orchestra.cli import _options, _pool_views, _support, _watch
from orchestra.cli._support import backend
from orchestra.schedules import CATCHUPS, Cron, Interval, RRule

if TYPE_CHECKING:
    from orchestra.deployment_options import RunOptions
    from orchestra.store.deployments import Deployment, ScheduleRecord


@click.group(cls=_support.Group)
def deployment() -> None:
    """See deployments, start runs of them, and change their schedules."""


#: How many upcoming runs `inspect` shows.
_UPCOMING = 5

_name = click.argument("name", metavar="FLOW/DEPLOYMENT")
_names = click.argument("names", metavar="FLOW/DEPLOYMENT...", nargs=-1, required=True)


@deployment.command("ls")
@click.option("--flow-name", "flow_names", multiple=True, help="Only those of this flow; repeatable.")
@click.option("-p", "--pool", "work_pool_name", help="Only those of this work pool.")
@_support.page_options(100, "deployment (FLOW/DEPLOYMENT)")
@_support.output_option
def ls(flow_names: tuple[str, ...], work_pool_name: str | None, limit: int, after: str | None, output: str) -> None:
    """List deployments by flow and name.

    \b
    Example:
      orchestra deployment ls --flow-name etl -o json
    """
    page = backend().list_deployments(limit=limit, after=after, flow_names=flow_names, work_pool_name=work_pool_name)
    coming = [_upcoming([each], 1, clock.now()) for each in page.items]
    times = [runs_to_be[0].expected_start_time if runs_to_be else None for runs_to_be in coming]
    if output == "json":
        found = [_support.jsonable(each) | {"next_run": when} for each, when in zip(page.items, times, strict=True)]
        _support.emit_json(found)
    else:
        rows = [
            (d.full_name, d.id, d.work_pool_name or "", _state(d), _times(d), when or "")
            for d, when in zip(page.items, times, strict=True)
        ]
        _support.emit_table(("NAME", "ID", "WORK POOL", "STATE", "SCHEDULES", "NEXT"), rows)
    _support.say_more(page.next)


@deployment.command()
@_name
@_support.output_option
def inspect(name: str, output: str) -> None:
    """Show one deployment: what it runs, with which parameters, where and when."""
    at = backend()
    found = at.read_deployment(name)
    coming = [each.expected_start_time for each in _upcoming([found], _UPCOMING, clock.now())]
    if output == "json":
        _support.emit_json(_support.jsonable(found) | {"upcoming_runs": coming})
        return
    shown = {field: getattr(found, field) for field in found.__slots__ if field != "schedules"}
    shown["schedules"] = "\n".join(f"{_slug(each)}: {_rule(each)}" for each in found.schedules)
    shown["upcoming_runs"] = "\n".join(_support.cell(each) for each in coming)
    _support.emit_record(shown)
    _pool_views.say_unheard(at, found.queue)


@deployment.command()
@click.argument("name", metavar="[FLOW/DEPLOYMENT]", required=False)
@click.option("--id", "deployment_id", metavar="ID", help="The deployment's id, in the place of its name.")
@_support.parameter_options
@click.option(
    "--start-in", metavar="TIME", callback=_options.duration, help="Start that much later: 90, 15m, '2h 30m'."
)
@click.option(
    "--start-at", metavar="TIME", callback=_options.instant, help="Start then: 2026-11-22T09:00 (UTC) or +01:00."
)
@click.option("--flow-run-name", "--name", "flow_run_name", help="Name of the run; else two random words.")
@click.option("-t", "--tag", "tags", multiple=True, help="Tag of the run, beside those of the deployment; repeatable.")
@_options.job_variables
@click.option("-q", "--work-queue", "work_queue_name", help="Another queue of its work pool.")
@click.option("--idempotency-key", metavar="KEY", help="The same key gives the same run, however often.")
@click.option("-w", "--watch", is_flag=True, help="Wait for its end, with progress; exit code 6 if it fails.")
@click.option("--watch-interval", type=float, hidden=True, help="Taken for Prefect's sake.")
@click.option("--watch-timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up watching then.")
@_support.app_option
def run(
    name: str | None,
    deployment_id: str | None,
    pairs: tuple[str, ...],
    text: str | None,
    start_in: float | None,
    start_at: datetime | None,
    flow_run_name: str | None,
    tags: tuple[str, ...],
    job_variables: dict[str, Any],
    work_queue_name: str | None,
    idempotency_key: str | None,
    watch: bool,
    watch_interval: float | None,
    watch_timeout: float | None,
) -> None:
    """Start a run of a deployment on the workers; its id alone is the first line of stdout.

    \b
    Examples:
      orchestra deployment run etl/nightly --param day=2026-11-22 --watch
      orchestra deployment run etl/nightly --params '{"limit": 10}' --start-in 2h
    """
    if (name is None) == (deployment_id is None):
        raise click.UsageError("give FLOW/DEPLOYMENT, or --id")
    if start_in is not None and start_at is not None:
        raise click.UsageError("give --start-in or --start-at, not both")
    run_id = start(
        name or str(deployment_id),
        _support.parameters(pairs, text),
        scheduled_time=start_at if start_in is None else _options.from_now(start_in),
        flow_run_name=flow_run_name,
        tags=tags,
        work_queue_name=work_queue_name,
        idempotency_key=idempotency_key,
        job_variables=job_variables,
    )
    if watch:
        _watch.watch(backend(), run_id, timeout=watch_timeout)


def start(name: str, parameters: dict[str, Any], **options: Unpack[RunOptions]) -> str:
    """Start a run of a deployment, print its id, and say where nobody would take it up."""
    at = backend()
    run_id = at.start_deployment(name, parameters, **options)
    _support.emit(run_id)
    _pool_views.say_unheard(at, at.read_flow_run(run_id).run.work_queue_name or "")
    return run_id


@deployment.command()
@click.argument("names", metavar="FLOW/DEPLOYMENT...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All deployments.")
def delete(names: tuple[str, ...], every: bool) -> None:
    """Delete deployments and their schedules; their runs stay."""
    if bool(names) == every:
        raise click.UsageError("give FLOW/DEPLOYMENT, or --all")
    at = backend()
    while every and (page := at.list_deployments(limit=100).items):
        _each(tuple(each.full_name for each in page), at.delete_deployment, "is deleted")
    _each(names, at.delete_deployment, "is deleted")


@deployment.command()
@_names
def pause(names: tuple[str, ...]) -> None:
    """Let no schedule of deployments fire until `resume`; runs can still be started by hand."""
    at = backend()
    _each(names, lambda name: at.set_paused(name, True), "is paused")


@deployment.command()
@_names
def resume(names: tuple[str, ...]) -> None:
    """Let the active schedules of deployments fire again."""
    at = backend()
    _each(names, lambda name: at.set_paused(name, False), "is resumed")


# -- schedules ---------------------------------------------------------------------------------------------------


@deployment.group(cls=_support.Group)
def schedule() -> None:
    """See and change the schedules of a deployment."""


_schedule = click.argument("schedule_name", metavar="SLUG|ID")


@schedule.command("ls")
@_name
@_support.output_option
def ls_schedules(name: str, output: str) -> None:
    """List the schedules of a deployment."""
    found = backend().read_deployment(name).schedules
    if output == "json":
        _support.emit_json(found)
        return
    rows = [(each.id, each.slug or "", "active" if each.active else "paused", _rule(each)) for each in found]
    _support.emit_table(("ID", "SLUG", "STATE", "RULE"), rows)


@schedule.command()
@_name
@click.option("--cron", metavar="EXPRESSION", help="As '0 9 * * mon-fri'.")
@click.option("--interval", metavar="TIME", callback=_options.duration, help="As 90, 15m or '2h 30m'.")
@click.option("--rrule", metavar="RULE", help="As 'FREQ=WEEKLY;BYDAY=MO'.")
@click.option("--anchor-date", metavar="TIME", callback=_options.instant, help="When an interval begins.")
@click.option("--timezone", metavar="NAME", help="As Europe/Berlin; else UTC.")
@click.option("--day-or/--day-and", default=True, help="Of a day of month and a weekday: either, or both.")
@click.option("--slug", help="A name for it.")
@click.option("--catchup", type=click.Choice(CATCHUPS), default="latest", show_default=True, help="Missed times.")
@click.option("--catchup-max", type=click.IntRange(min=1), help="Most missed times that are made up for.")
@click.option("--max-late", metavar="TIME", callback=_options.duration, help="Missed by more: not made up for.")
@click.option("--active/--inactive", default=True, show_default=True, help="Whether it fires.")
@_support.parameter_options
@click.option("--replace", "replaces", is_flag=True, help="In the place of all that there are.")
def create(
    name: str,
    cron: str | None,
    interval: float | None,
    rrule: str | None,
    anchor_date: datetime | None,
    timezone: str | None,
    day_or: bool,
    slug: str | None,
    catchup: str,
    catchup_max: int | None,
    max_late: float | None,
    active: bool,
    pairs: tuple[str, ...],
    text: str | None,
    replaces: bool,
) -> None:
    """Give a deployment one more schedule; its id alone is the first line of stdout.

    \b
    Example:
      orchestra deployment schedule create etl/nightly --cron '0 3 * * *' --timezone Europe/Berlin
    """
    given = [each for each in (cron, interval, rrule) if each is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --cron, --interval and --rrule")
    at, parameters = backend(), _support.parameters(pairs, text)
    options: dict[str, Any] = {"timezone": timezone, "active": active, "parameters": parameters, "slug": slug}
    if cron is not None:
        made = Cron(cron, day_or=day_or, **options)
    elif interval is not None:
        made = Interval(interval, anchor_date=anchor_date, **options)
    else:
        made = RRule(str(rrule), **options)
    made = replace(made, catchup=catchup, catchup_max=catchup_max, max_late=max_late)
    _support.emit(at.add_schedule(name, made, replace=replaces))


@schedule.command("pause")
@_name
@_schedule
def pause_schedule(name: str, schedule_name: str) -> None:
    """Let one schedule not fire until `resume`."""
    backend().set_schedule_active(name, schedule_name, False)
    _support.say(f"schedule {schedule_name} of {name} is paused")


@schedule.command("resume")
@_name
@_schedule
def resume_schedule(name: str, schedule_name: str) -> None:
    """Let a paused schedule fire again."""
    backend().set_schedule_active(name, schedule_name, True)
    _support.say(f"schedule {schedule_name} of {name} is resumed")


@schedule.command("delete")
@_name
@_schedule
def delete_schedule(name: str, schedule_name: str) -> None:
    """Delete one schedule of a deployment."""
    backend().delete_schedule(name, schedule_name)
    _support.say(f"schedule {schedule_name} of {name} is deleted")


@schedule.command()
@_name
def clear(name: str) -> None:
    """Delete all schedules of a deployment."""
    _support.say(f"{backend().clear_schedules(name)} schedules of {name} are deleted")


# -- words -------------------------------------------------------------------------------------------------------


def _each(names: tuple[str, ...], act: Callable[[str], object], done: str) -> None:
    """Act on each in turn; the first that cannot be acted on ends the command."""
    for name in names:
        act(name)
        _support.say(f"deployment {name} {done}")


def _state(found: Deployment) -> str:
    return f"{found.status}, paused" if found.paused else found.status


def _times(found: Deployment) -> str:
    return "; ".join(_rule(each) for each in found.schedules)


def _upcoming(*asked: Any) -> Any:
    return lazy.resolve("orchestra.engine.upcoming:of_deployments")(*asked)


def _slug(found: ScheduleRecord) -> str:
    return found.slug or found.id


def _rule(found: ScheduleRecord) -> str:
    rule = found.cron or found.rrule or f"every {found.interval:g} s"
    zone = f" {found.timezone}" if found.timezone else ""
    return f"{rule}{zone}" if found.active else f"{rule}{zone} (paused)"
