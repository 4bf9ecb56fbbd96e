"""`orchestra flow-run`: start flow runs, see them, and act on them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rich_click as click

from orchestra import lazy
from orchestra.cli import _drawing, _logs, _options, _pool_views, _support, _watch
from orchestra.cli._support import backend
from orchestra.cli.deployment import start as start_deployment
from orchestra.engine.parameters import bind_named
from orchestra.states import State, StateType

if TYPE_CHECKING:
    from orchestra.client.backend import Backend


@click.group(cls=_support.Group)
def flow_run() -> None:
    """Start flow runs, see them, and act on them."""


@flow_run.command()
@click.option("--flow", "path", metavar="MODULE:FLOW", help="The flow, as etl:pipeline.")
@click.option(
    "--deployment", "deployment_name", metavar="FLOW/DEPLOYMENT", help="A deployment, in the place of a flow."
)
@_support.parameter_options
@click.option("-q", "--queue", help="Celery queue; else the flow's own.")
@click.option("--name", help="Name of the run; else two random words.")
@click.option("-t", "--tag", "tags", multiple=True, help="Tag of the run; repeatable.")
@click.option("--countdown", type=click.FloatRange(min=0), metavar="SECONDS", help="Start that much later.")
@click.option("--priority", type=int, help="Celery message priority.")
@click.option("--idempotency-key", metavar="KEY", help="The same key gives the same run, however often.")
@click.option("-w", "--watch", is_flag=True, help="Wait for its end, with progress; exit code 6 if it fails.")
@_support.app_option
def create(
    path: str | None,
    deployment_name: str | None,
    pairs: tuple[str, ...],
    text: str | None,
    queue: str | None,
    name: str | None,
    tags: tuple[str, ...],
    countdown: float | None,
    priority: int | None,
    idempotency_key: str | None,
    watch: bool,
) -> None:
    """Start a flow run on the workers; its id alone is the first line of stdout.

    \b
    Examples:
      orchestra flow-run create --flow etl:pipeline --param day=2026-11-22 --param limit=10
      orchestra flow-run create --deployment etl/nightly --param limit=10
      id=$(orchestra flow-run create --flow etl:pipeline --params @params.json)
    """
    if (path is None) == (deployment_name is None):
        raise click.UsageError("give --flow or --deployment")
    if deployment_name is not None:
        if queue is not None or priority is not None:
            raise click.UsageError("--queue and --priority are the deployment's own")
        run_id = start_deployment(
            deployment_name,
            _support.parameters(pairs, text),
            flow_run_name=name,
            tags=tags,
            scheduled_time=None if countdown is None else _options.from_now(countdown),
            idempotency_key=idempotency_key,
        )
        if watch:
            _watch.watch(backend(), run_id)
        return
    # Written by this process, so before anything else: is the database known here?
    lazy.load("database")()
    spec = _support.load_flow(str(path))
    given = bind_named(spec.fn, _support.parameters(pairs, text))
    handle = lazy.load("submit_flow_run")(
        spec,
        given,
        queue=queue,
        name=name,
        tags=tags,
        countdown=countdown,
        priority=priority,
        idempotency_key=idempotency_key,
    )
    _support.emit(handle.id)
    _pool_views.say_unheard(
        backend(), lazy.resolve("orchestra.store.runs:read")(lazy.load("database")(), handle.id)["queue"]
    )
    if watch:
        _watch.watch(backend(), handle.id)


@flow_run.command("ls")
@click.option("--flow-name", help="Only runs of this flow.")
@click.option("--parent", "parent_flow_run_id", metavar="ID", help="Only subflow runs of this run.")
@click.option("--deployment", "deployment_name", metavar="FLOW/DEPLOYMENT", help="Only runs of this deployment.")
@_support.tag_option
@_support.state_options
@_support.page_options(15, "flow run")
@_support.output_option
def ls(
    flow_name: str | None,
    parent_flow_run_id: str | None,
    deployment_name: str | None,
    tags: tuple[str, ...],
    state_names: tuple[str, ...],
    state_types: tuple[str, ...],
    limit: int,
    after: str | None,
    output: str,
) -> None:
    """List flow runs, the newest first.

    \b
    Examples:
      orchestra flow-run ls --flow-name pipeline --state-type FAILED
      orchestra flow-run ls --limit 200 -o json
    """
    at = backend(of_runs=True)
    page = at.list_flow_runs(
        limit=limit,
        after=after,
        flow_name=flow_name,
        state_types=state_types,
        state_names=state_names,
        parent_flow_run_id=parent_flow_run_id,
        tags=tags,
        deployment_id=None if deployment_name is None else at.read_deployment(deployment_name).id,
    )
    if output == "json":
        _support.emit_json(page.items)
    else:
        rows = [(r.id, r.flow_name, r.name, r.state_name, r.created) for r in page.items]
        _support.emit_table(("ID", "FLOW", "NAME", "STATE", "CREATED"), rows)
    _support.say_more(page.next)


@flow_run.command()
@click.argument("flow_run_id", metavar="ID")
@_support.output_option
def inspect(flow_run_id: str, output: str) -> None:
    """Show one flow run: state, parameters, result or error, times, what it waits for, state history."""
    record = _support.flat(backend(of_runs=True).read_flow_run(flow_run_id))
    if output == "json":
        _support.emit_json(record)
    else:
        _support.emit_details(record)
    waits = record["state_type"] in (StateType.SCHEDULED, StateType.PENDING) and record["runner"] == "celery"
    if waits:
        _pool_views.say_unheard(backend(), record["work_queue_name"])


@flow_run.command()
@click.argument("flow_run_id", metavar="ID")
@_logs.options
@click.option("--task-run", "task_run_id", metavar="ID", help="Only lines of this task run.")
@_support.output_option
def logs(
    flow_run_id: str,
    task_run_id: str | None,
    head: int | None,
    tail: int | None,
    level: str | None,
    reverse: bool,
    follow: bool,
    output: str,
) -> None:
    """Print the log lines of a flow run and its tasks; with --follow and -o json, one object a line.

    \b
    Examples:
      orchestra flow-run logs RUN_ID --tail 50 --follow
      orchestra flow-run logs RUN_ID --level WARNING -o json
    """
    at = backend(of_runs=True)
    at.flow_run_state(flow_run_id)
    _logs.show(
        at, flow_run_id, task_run_id, head=head, tail=tail, level=level, reverse=reverse, follow=follow, output=output
    )


@flow_run.command()
@click.argument("flow_run_id", metavar="ID")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up watching after that long.")
def watch(flow_run_id: str, timeout: float | None) -> None:
    """Show a run's progress live until it ends; exit code 6 if it does not complete."""
    _watch.watch(backend(of_runs=True), flow_run_id, timeout=timeout)


@flow_run.command()
@click.argument("flow_run_id", metavar="ID")
@click.option("--mermaid", is_flag=True, help="As a Mermaid graph, for Markdown.")
@_support.output_option
def canvas(flow_run_id: str, mermaid: bool, output: str) -> None:
    """Show the canvases that a run was made of, step by step."""
    nodes = backend(of_runs=True).run_graph(flow_run_id)
    if output == "json":
        _support.emit_json(nodes)
        return
    tree = _drawing.of_run(nodes)
    _support.emit(_drawing.mermaid(tree) if mermaid else _drawing.text(tree))


# -- acting on runs ----------------------------------------------------------------------------------------------


def _each(flow_run_ids: tuple[str, ...], act: Callable[[str], object], done: str) -> None:
    """Act on each run in turn; the first that cannot be acted on ends the command."""
    for flow_run_id in flow_run_ids:
        act(flow_run_id)
        _support.say(f"flow run {flow_run_id} {done}")


_ids = click.argument("flow_run_ids", metavar="ID...", nargs=-1, required=True)


@flow_run.command()
@_ids
@_support.app_option
def cancel(flow_run_ids: tuple[str, ...]) -> None:
    """Cancel flow runs with all that they started; running bodies are interrupted."""
    _each(flow_run_ids, backend(of_runs=True).cancel, "is being cancelled")


@flow_run.command()
@_ids
def pause(flow_run_ids: tuple[str, ...]) -> None:
    """Hold flow runs: running steps end, and nothing new of them is started until `resume`."""
    _each(flow_run_ids, backend(of_runs=True).pause, "is paused")


@flow_run.command()
@_ids
def suspend(flow_run_ids: tuple[str, ...]) -> None:
    """As `pause`, shown as Suspended."""
    _each(flow_run_ids, backend(of_runs=True).suspend, "is suspended")


@flow_run.command()
@_ids
@click.option("--input", "text", metavar="JSON", help="What the run waits for, as JSON, or @file.json (one run only).")
@click.option("--key", help="The pause that is meant, where the run waits at several (`inspect` shows them).")
@_support.app_option
def resume(flow_run_ids: tuple[str, ...], text: str | None, key: str | None) -> None:
    """Let paused flow runs go on; with --input, give one what it waits for.

    \b
    Examples:
      orchestra flow-run resume RUN_ID
      orchestra flow-run resume RUN_ID --input '{"approved": true}'
    """
    if len(flow_run_ids) > 1 and (text is not None or key is not None):
        raise click.UsageError("--input and --key take one run")
    given = None if text is None else _support.read_json("--input", text)
    at = backend(of_runs=True)
    _each(flow_run_ids, lambda run_id: at.resume(run_id, run_input=given, key=key), "goes on")


@flow_run.command()
@_ids
@click.option(
    "--from-task",
    "from_task",
    metavar="TASK_RUN",
    help="Id or name of a task run: it is run again, and all that the run asked for behind it (one run only).",
)
@click.option("-w", "--watch", "watched", is_flag=True, help="Wait for the end, with progress (one run only).")
@_support.app_option
def retry(flow_run_ids: tuple[str, ...], from_task: str | None, watched: bool) -> None:
    """Run ended flow runs again in place: what completed is kept, what did not is run again.

    A run of a process of its own runs again in this one, with the code that is here; results that were kept are used
    again. Exit code 6 if one does not complete.

    \b
    Examples:
      orchestra flow-run retry RUN_ID
      orchestra flow-run retry RUN_ID --from-task load-0 --watch
    """
    if len(flow_run_ids) > 1 and (watched or from_task is not None):
        raise click.UsageError("--watch and --from-task take one run")
    at = backend(of_runs=True)
    chosen = None if from_task is None else _task_run_id(at, flow_run_ids[0], from_task)
    failed = []
    for run_id in flow_run_ids:
        if chosen is None and _is_local(at, run_id):
            failed += [] if _retry_here(at, run_id) else [run_id]
        else:
            at.retry(run_id, from_task_run_id=chosen)
            _support.say(f"flow run {run_id} runs again")
    if failed:
        _support.fail(f"not completed: {', '.join(failed)}", _support.ExitCode.RUN_FAILED)
    if watched:
        _watch.watch(at, flow_run_ids[0])


def _is_local(at: Backend, flow_run_id: str) -> bool:
    """Whether it is a run of a process of its own, in a database that is asked directly."""
    of_database = isinstance(at, lazy.resolve("orchestra.client.backend:DatabaseBackend"))
    return of_database and lazy.resolve("orchestra.engine.local_retry:is_local")(at.db, flow_run_id)


def _retry_here(at: Backend, flow_run_id: str) -> bool:
    """Run a local run again in this process; returns whether it completes."""
    _support.import_from_here()
    state: State[Any] = lazy.resolve("orchestra.engine.local_retry:retry")(at.db, flow_run_id)
    told = f": {state.message}" if state.message else ""
    _support.say(_support.visible(f"flow run {flow_run_id} ended {state.name}{told}"))
    return state.is_completed()


def _task_run_id(at: Backend, flow_run_id: str, id_or_name: str) -> str:
    """The id of a task run of a flow run. Of one that was run in several attempts, any id stands for it."""
    if _is_id(id_or_name):
        return id_or_name
    filters = lazy.resolve("orchestra.client.schemas.filters")
    named = filters.TaskRunFilter(
        name=filters.TaskRunFilterName(any_=[id_or_name]),
        flow_run_id=filters.TaskRunFilterFlowRunId(any_=[flow_run_id]),
    )
    newest = lazy.resolve("orchestra.client.schemas.sorting:TaskRunSort").CREATED_DESC.value
    found = at.find_task_runs(filters.Filters(task_runs=named), sort=newest, limit=None, offset=0)
    ids = {each.dynamic_key: each.id for each in found}
    if len(ids) == 1:
        return next(iter(ids.values()))
    if ids:
        several = ", ".join(f"{run_id} ({key})" for key, run_id in sorted(ids.items()))
        raise click.UsageError(f"several task runs are named {id_or_name!r}; give the id of one: {several}")
    at.flow_run_state(flow_run_id)
    raise click.UsageError(
        f"flow run {flow_run_id} has no task run named {id_or_name!r}; "
        f"`orchestra task-run ls --flow-run {flow_run_id}` lists them"
    )


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


@flow_run.command()
@_ids
def delete(flow_run_ids: tuple[str, ...]) -> None:
    """Delete flow runs that have ended, with their child runs, steps, results and logs."""
    _each(flow_run_ids, backend(of_runs=True).delete, "is deleted")
