"""`orchestra deploy`: write deployments down, as `orchestra.yaml` or the command line says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import rich_click as click

from orchestra import project_files
from orchestra.cli import _options, _support
from orchestra.deployment_options import COLLISION_STRATEGIES
from orchestra.schedules import Cron, Interval, RRule, Schedule


@click.command()
@click.argument("entrypoint", metavar="[FILE.py:FLOW | init]", required=False)
@click.option("--all", "every", is_flag=True, help="All deployments of the project file.")
@click.option(
    "-n", "--name", "names", multiple=True, help="The deployment's name; of a file's, with * for any letters."
)
@click.option(
    "--prefect-file", "--file", "file", type=click.Path(path_type=Path), help="Project file; else orchestra.yaml."
)
@click.option("-p", "--pool", "work_pool_name", help="Work pool.")
@click.option("-q", "--work-queue", "work_queue_name", help="Queue of the work pool.")
@click.option("--cron", "crons", multiple=True, help="As '0 9 * * mon-fri'; repeatable.")
@click.option(
    "--interval", "intervals", multiple=True, callback=_options.durations, help="As 90, 15m or '2h 30m'; repeatable."
)
@click.option("--rrule", "rrules", multiple=True, help="As 'FREQ=WEEKLY;BYDAY=MO'; repeatable.")
@click.option("--anchor-date", callback=_options.instant, help="When intervals begin.")
@click.option("--timezone", help="Of the schedules, as Europe/Berlin.")
@click.option(
    "--param", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter; the value as JSON, else text."
)
@click.option("--params", "text", metavar="JSON", help="Parameters as one JSON object, or @file.json.")
@_options.job_variables
@click.option("-t", "--tag", "tags", multiple=True, help="Tag of its runs; repeatable.")
@click.option("-d", "--description", help="What it is for.")
@click.option("--version", help="Its version.")
@click.option("-cl", "--concurrency-limit", type=click.IntRange(min=1), help="Most runs at work at once.")
@click.option(
    "--collision-strategy",
    type=click.Choice(COLLISION_STRATEGIES, case_sensitive=False),
    help="What becomes of one more.",
)
@click.option("--trigger", "triggers", multiple=True, metavar="JSON", help="Kept; nothing acts on triggers yet.")
@click.option("--enforce-parameter-schema/--no-enforce-parameter-schema", default=None, help="Check parameters.")
def deploy(
    entrypoint: str | None,
    every: bool,
    names: tuple[str, ...],
    file: Path | None,
    crons: tuple[str, ...],
    intervals: tuple[float, ...],
    rrules: tuple[str, ...],
    anchor_date: datetime | None,
    timezone: str | None,
    pairs: tuple[str, ...],
    text: str | None,
    triggers: tuple[str, ...],
    **options: Any,
) -> None:
    """Write deployments down: those of orchestra.yaml, or one of the flow named. `deploy init` writes such a file.

    \b
    Examples:
      orchestra deploy --all
      orchestra deploy etl.py:pipeline -n nightly -p etl --cron '0 3 * * *' --param limit=10
    """
    if entrypoint == "init":
        _support.say(f"{project_files.initialize(Path.cwd())} is written: put your deployments there")
        return
    over = options | {
        "parameters": _support.parameters(pairs, text),
        "tags": list(options["tags"]),
        "schedules": _schedules(crons, intervals, rrules, anchor_date, timezone),
        "triggers": [_support.read_json("--trigger", each) for each in triggers],
    }
    _support.import_from_here()
    path = file or project_files.find()
    project = project_files.ProjectFile(Path()) if path is None else project_files.read(path)
    for definition in _definitions(project, entrypoint, names, every, path):
        made, deployment_id = project.deploy(definition, **over)
        _support.emit(f"{made.full_name} {deployment_id}")
        where = f"to work pool {made.work_pool_name!r}" if made.work_pool_name else "without a work pool"
        _support.say(f"Deployed {made.full_name!r} {where}; start a run: orchestra deployment run '{made.full_name}'")


def _definitions(
    project: project_files.ProjectFile, entrypoint: str | None, names: tuple[str, ...], every: bool, path: Path | None
) -> list[Any]:
    if entrypoint is None:
        if path is None:
            raise click.UsageError("there is no orchestra.yaml here: name FILE.py:FLOW, or begin with `deploy init`")
        return list(project.chosen(names, every))
    if len(names) != 1 or every:
        raise click.UsageError("a deployment of a flow has one --name")
    known = [each for each in project.deployments if each.get("name") == names[0]]
    return [{**(known[0] if known else {}), "name": names[0], "entrypoint": entrypoint}]


def _schedules(
    crons: tuple[str, ...],
    intervals: tuple[float, ...],
    rrules: tuple[str, ...],
    anchor_date: datetime | None,
    timezone: str | None,
) -> list[Schedule] | None:
    found = [Cron(each, timezone=timezone) for each in crons]
    found += [Interval(each, anchor_date=anchor_date, timezone=timezone) for each in intervals]
    found += [RRule(each, timezone=timezone) for each in rrules]
    return found or None
