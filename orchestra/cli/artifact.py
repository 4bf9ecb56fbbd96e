"""`orchestra artifact`: what runs have shown people."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import rich_click as click

from orchestra import lazy
from orchestra.cli import _support
from orchestra.cli._support import backend
from orchestra.errors import ArtifactNotFound

if TYPE_CHECKING:
    from orchestra.client.backend import Backend
    from orchestra.store.artifacts import Artifact

_COLUMNS = ("ID", "KEY", "TYPE", "CREATED", "UPDATED", "DESCRIPTION")
#: Most characters of a description in a list.
_SHORT = 60


@click.group(cls=_support.Group)
def artifact() -> None:
    """See and delete artifacts: markdown, tables, links, images and progress of runs."""


@artifact.command("ls")
@_support.page_options(100, "artifact")
@click.option(
    "-a", "--all", "every", is_flag=True, help="All versions, and those without a key; else each key's newest."
)
@click.option("--type", "kind", metavar="TYPE", help="Only of this type, as in table.")
@click.option("--flow-run", "flow_run_id", metavar="ID", help="Only of this flow run, its tasks' included.")
@_support.output_option
def ls(limit: int, after: str | None, every: bool, kind: str | None, flow_run_id: str | None, output: str) -> None:
    """List artifacts, the newest first.

    \b
    Examples:
      orchestra artifact ls
      orchestra artifact ls --all --flow-run RUN_ID -o json
    """
    with_data = output == "json"
    if every or flow_run_id:
        query = lazy.resolve("orchestra.store.artifacts:Query")(type=kind, flow_run_id=flow_run_id)
        page = backend().list_artifacts(query, limit=limit, after=after, with_data=with_data)
    else:
        page = backend().list_latest_artifacts(type=kind, limit=limit, after=after, with_data=with_data)
    if output == "json":
        _support.emit_json(page.items)
    else:
        _support.emit_table(_COLUMNS, [_cells(each) for each in page.items])
    _support.say_more(page.next)


def _cells(found: Artifact) -> tuple[object, ...]:
    lines = (found.description or "").splitlines() or [""]
    return found.id, found.key, found.type, found.created, found.updated, lines[0][:_SHORT]


@artifact.command()
@click.argument("key")
@click.option("-l", "--limit", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Most versions.")
@_support.output_option
def inspect(key: str, limit: int, output: str) -> None:
    """Show the versions of a key, the newest first; or one artifact, by its id.

    \b
    Examples:
      orchestra artifact inspect daily-report
      orchestra artifact inspect daily-report --limit 1 -o json
    """
    found = _named(backend(), key, limit)
    if output == "json":
        _support.emit_json(found)
        return
    for number, each in enumerate(found):
        if number:
            _support.emit("")
        _show(each)


def _show(found: Artifact) -> None:
    """One artifact in words; a table as such."""
    table = lazy.resolve("orchestra.artifacts:table_of")(found)
    record = {field.name: getattr(found, field.name) for field in fields(found)}
    _support.emit_record(record if table is None else record | {"data": None})
    if table is not None:
        _support.emit("")
        _support.emit_table(*table)


def _named(at: Backend, name: str, limit: int) -> list[Artifact]:
    """Versions of a key, else the artifact of that id."""
    found = at.list_artifacts(
        lazy.resolve("orchestra.store.artifacts:Query")(key=name), limit=limit, after=None, with_data=True
    )
    if found.items:
        return list(found.items)
    try:
        return [at.read_artifact(name)]
    except ArtifactNotFound:
        _support.fail(
            f"there is no artifact with the key or id {name!r}; `orchestra artifact ls --all` lists them",
            _support.ExitCode.NOT_FOUND,
        )


@artifact.command()
@click.argument("key", required=False)
@click.option("--id", "artifact_id", metavar="ID", help="Only this artifact.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def delete(key: str | None, artifact_id: str | None, yes: bool) -> None:
    """Delete all versions of a key, or one artifact by its id.

    \b
    Examples:
      orchestra artifact delete daily-report --yes
      orchestra artifact delete --id ARTIFACT_ID
    """
    if (key is None) == (artifact_id is None):
        _support.fail("say what to delete: a key, or --id with an artifact's id", _support.ExitCode.USAGE)
    if artifact_id is not None:
        backend().delete_artifact(artifact_id)
        _support.say(f"artifact {artifact_id} is deleted")
        return
    assert key is not None
    if not yes and _support.in_terminal():
        click.confirm(f"Delete all versions of {key!r}?", abort=True, err=True)
    count = backend().delete_artifacts_of_key(key)
    _support.say(f"{count:,} {'version' if count == 1 else 'versions'} of {key!r} deleted")
