"""`orchestra db`: the schema of the database, and how much is kept in it."""

from __future__ import annotations

import sys

import rich_click as click

from orchestra import settings
from orchestra.cli import _options, _support
from orchestra.masking import mask_url
from orchestra.store import blobs, removal
from orchestra.store import upgrade as schema
from orchestra.store.database import SCHEMA_VERSION, Database, database, schema_version


@click.group(cls=_support.Group)
def db() -> None:
    """Create, upgrade, prune and reset the database."""


def _open() -> Database:
    """The database by the settings, whatever its schema."""
    _support.need_database()
    database = Database(settings.current().resolved_database_url, patience=5.0)
    if (context := click.get_current_context(silent=True)) is not None:
        context.call_on_close(database.close)
    return database


@db.command()
@_support.output_option
def current(output: str) -> None:
    """Show the schema's version, and the one that this code works with."""
    database = _open()
    found = {"url": mask_url(database.url), "current": schema_version(database), "head": SCHEMA_VERSION}
    if output == "json":
        _support.emit_json(found)
    else:
        _support.emit(found["current"] or "empty")
        if found["current"] != SCHEMA_VERSION:
            _support.say(f"this orchestra works with {SCHEMA_VERSION}: run `orchestra db upgrade`")


@db.command()
def upgrade() -> None:
    """Bring the schema to this code's version; creates it in an empty database. Stop the workers before."""
    database = _open()
    before = schema_version(database)
    schema.upgrade(database)
    after = schema_version(database)
    changed = f"the schema is now {after} (was {before or 'empty'})"
    _support.say(changed if before != after else f"nothing to do: the schema is {after}")


@db.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def reset(yes: bool) -> None:
    """Delete all flows, runs, results and logs, and create the schema anew. Stop the workers before."""
    database = _open()
    if not yes:
        _confirm(mask_url(database.url))
    schema.reset(database)
    _support.say(f"{mask_url(database.url)} is empty now, its schema is {SCHEMA_VERSION}")


@db.command()
@click.option(
    "--older-than",
    metavar="AGE",
    callback=_options.age_in("h"),
    default="24h",
    show_default=True,
    help="As 12h or 2d; a number alone is hours. What is younger may belong to a run that is about to record it.",
)
def clean(older_than: float) -> None:
    """Delete large results that no run refers to, in the database and in result storages.

    Such are left where a process died between keeping a result and recording it, and where a storage was away when a
    run was deleted. Runs may go on meanwhile.
    """
    done = blobs.clean(_open(), older_than)
    _support.say(f"deleted {done.blobs} from the database and {done.files} from result storages")
    if done.left:
        _support.fail(f"{done.left} could not be deleted: the warnings say why; run it again when the storage is back")


@db.command()
@click.option(
    "--older-than",
    metavar="AGE",
    callback=_options.age_in("d"),
    help="As 30d or 12h; a number alone is days, 0: all that has ended. Else ORCHESTRA_RETENTION_DAYS counts.",
)
def prune(older_than: float | None) -> None:
    """Delete runs that ended long ago with all that is theirs, old log lines, and cache entries that have expired.

    Workers do so every hour; they and runs may go on meanwhile.

    \b
    Examples:
      orchestra db prune
      orchestra db prune --older-than 30d
    """
    given = None if older_than is None else dict.fromkeys(settings.RETAINED, older_than)
    _support.need_database()
    done = removal.prune(database(), given or settings.current().retention_seconds)
    _support.say(f"deleted {', '.join(f'{n} {what}' for what, n in done.items())}" if done else "nothing is that old")


def _confirm(url: str) -> None:
    if not sys.stdin.isatty():
        _support.fail(f"this deletes everything in {url}; say --yes", _support.ExitCode.USAGE)
    click.confirm(f"Delete everything in {url}?", abort=True, err=True)
