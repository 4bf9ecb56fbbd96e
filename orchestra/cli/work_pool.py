"""`orchestra work-pool`: where runs of deployments go, and how they are started there."""

from __future__ import annotations

from typing import Any

import rich_click as click

from orchestra import work_pools as types
from orchestra.cli import _pool_views, _support
from orchestra.cli._support import backend
from orchestra.errors import AlreadyThere


@click.group("work-pool", cls=_support.Group)
def work_pool() -> None:
    """Make and change work pools."""


_name = click.argument("name")
_limit = click.option(
    "--concurrency-limit", type=click.IntRange(min=1), help="Most runs at work at once; else any number."
)
_template = click.option(
    "--base-job-template", "template", metavar="FILE|JSON", help="What its runs' jobs are made of: JSON, or a file."
)


@work_pool.command()
@_name
@click.option("-t", "--type", "kind", default="process", show_default=True, help=f"One of {', '.join(types.TYPES)}.")
@click.option("-d", "--description", help="What it is for.")
@_template
@_limit
@click.option("--paused", is_flag=True, help="Nothing is started in it until `resume`.")
@click.option("--overwrite", is_flag=True, help="Change the one of this name, if it is there.")
def create(
    name: str,
    kind: str,
    description: str | None,
    template: str | None,
    concurrency_limit: int | None,
    paused: bool,
    overwrite: bool,
) -> None:
    """Make a work pool; its default queue is the Celery queue of its name.

    \b
    Examples:
      orchestra work-pool create etl
      orchestra work-pool create etl-k8s --type kubernetes --base-job-template template.json
    """
    base = types.type_named(kind).base_job_template() if template is None else _read_template(template)
    values: dict[str, Any] = {
        "description": description or "",
        "paused": paused,
        "concurrency_limit": concurrency_limit,
        "base_job_template": base,
    }
    at = backend()
    try:
        at.create_pool(name, kind, **values)
    except AlreadyThere:
        if not overwrite:
            raise
        at.change_pool(name, type=kind, **values)
        _support.say(f"work pool {name!r} of type {kind} is changed")
        return
    _support.say(f"work pool {name!r} of type {kind} is made; start a worker: orchestra worker start --pool {name}")


@work_pool.command("ls")
@_support.page_options(100, "work pool (its name)")
@_support.output_option
def ls(limit: int, after: str | None, output: str) -> None:
    """List work pools by name."""
    page = backend().list_pools(limit=limit, after=after)
    if output == "json":
        _support.emit_json(page.items)
    else:
        rows = [(p.name, p.type, p.status, p.concurrency_limit or "") for p in page.items]
        _support.emit_table(("NAME", "TYPE", "STATUS", "LIMIT"), rows)
    _support.say_more(page.next)


@work_pool.command()
@_name
@_support.output_option
def inspect(name: str, output: str) -> None:
    """Show one work pool."""
    at = backend()
    found = at.read_pool(name)
    (_support.emit_json if output == "json" else _support.emit_record)(found)
    _pool_views.say_unheard(at, *(each.celery_queue for each in at.list_queues(name)))


@work_pool.command()
@_name
@click.option("-d", "--description", help="What it is for.")
@_template
@_limit
def update(name: str, description: str | None, template: str | None, concurrency_limit: int | None) -> None:
    """Change a work pool; what is not named stays."""
    given = {"description": description, "concurrency_limit": concurrency_limit}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if template is not None:
        changes["base_job_template"] = _read_template(template)
    if not changes:
        raise click.UsageError("nothing to change: give --description, --concurrency-limit or --base-job-template")
    backend().change_pool(name, **changes)
    _support.say(f"work pool {name!r} is changed")


@work_pool.command()
@_name
def pause(name: str) -> None:
    """Start nothing in a pool until `resume`; what has begun goes on."""
    backend().change_pool(name, paused=True)
    _support.say(f"work pool {name!r} is paused")


@work_pool.command()
@_name
def resume(name: str) -> None:
    """Let a paused pool go on."""
    backend().change_pool(name, paused=False)
    _support.say(f"work pool {name!r} goes on")


@work_pool.command()
@_name
def delete(name: str) -> None:
    """Delete a work pool and its queues; its deployments stay, NOT_READY."""
    backend().delete_pool(name)
    _support.say(f"work pool {name!r} is deleted")


@work_pool.command("set-concurrency-limit")
@_name
@click.argument("limit", type=click.IntRange(min=1))
def set_limit(name: str, limit: int) -> None:
    """Let at most so many runs be at work at once."""
    backend().change_pool(name, concurrency_limit=limit)
    _support.say(f"work pool {name!r} has a concurrency limit of {limit}")


@work_pool.command("clear-concurrency-limit")
@_name
def clear_limit(name: str) -> None:
    """Let any number of runs be at work at once."""
    backend().change_pool(name, concurrency_limit=None)
    _support.say(f"work pool {name!r} has no concurrency limit")


@work_pool.command("get-default-base-job-template")
@click.option("-t", "--type", "kind", required=True, help=f"One of {', '.join(types.TYPES)}.")
def default_template(kind: str) -> None:
    """Print the base job template that a new pool of this type has."""
    _support.emit_json(types.type_named(kind).base_job_template())


@work_pool.command()
@_name
@click.option("-l", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most runs to show.")
@_support.output_option
def preview(name: str, limit: int, output: str) -> None:
    """Show the runs that wait to start in a pool, the first due first, and those that schedules will make there."""
    _pool_views.show_waiting(name, None, limit, output)


@work_pool.command()
@_name
@_support.output_option
def slots(name: str, output: str) -> None:
    """Show, of each queue of a pool, its workers' slots, who is at work there, and who waits for a slot."""
    _pool_views.show_slots(name, None, output)


def _read_template(text: str) -> dict[str, Any]:
    given = text if text.lstrip().startswith(("{", "@")) else f"@{text}"
    found: dict[str, Any] = _support.read_json("--base-job-template", given)
    types.check_template(found)
    return found
