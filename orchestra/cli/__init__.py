"""The command line: `orchestra`, and `celery -A proj orchestra`.

Each noun is a file; its commands parse, call one public verb and print. Nothing heavy is imported before a command is
known.
"""

from __future__ import annotations

import rich_click as click

from orchestra import lazy, settings
from orchestra.cli import _support

_COMMANDS = {
    "version": "orchestra.cli.version:version",
    "dev": "orchestra.cli.dev:dev",
    "deploy": "orchestra.cli.deploy:deploy",
    "deployment": "orchestra.cli.deployment:deployment",
    "flow": "orchestra.cli.flow:flow",
    "flow-run": "orchestra.cli.flow_run:flow_run",
    "task": "orchestra.cli.task:task",
    "task-run": "orchestra.cli.task_run:task_run",
    "artifact": "orchestra.cli.artifact:artifact",
    "variable": "orchestra.cli.variable:variable",
    "events": "orchestra.cli.events:events",
    "cache": "orchestra.cli.cache:cache",
    "transaction": "orchestra.cli.transaction:transaction",
    "work-pool": "orchestra.cli.work_pool:work_pool",
    "work-queue": "orchestra.cli.work_queue:work_queue",
    "global-concurrency-limit": "orchestra.cli.global_concurrency_limit:global_concurrency_limit",
    "worker": "orchestra.cli.worker:worker",
    "beat": "orchestra.cli.beat:beat",
    "server": "orchestra.cli.server:server",
    "dashboard": "orchestra.cli.login:dashboard",
    "flower": "orchestra.cli.flower:flower",
    "user": "orchestra.cli.user:user",
    "api-key": "orchestra.cli.api_key:api_key",
    "login": "orchestra.cli.login:login",
    "logout": "orchestra.cli.login:logout",
    "cloud": "orchestra.cli.login:cloud",
    "db": "orchestra.cli.db:db",
    "config": "orchestra.cli.config:config",
    "profile": "orchestra.cli.profile:profile",
    "completion": "orchestra.cli.completion:completion",
    "doctor": "orchestra.cli.doctor:doctor",
}

#: Commands that are about this host, its settings and processes; the others look at, and change, what a server has.
_OF_THIS_HOST = frozenset(
    "version dev task worker beat server flower db config profile completion doctor login logout dashboard "
    "cloud".split()
)

#: Short names, as Prefect has them.
_ALIASES = {"gcl": "global-concurrency-limit", "event": "events"}
_HELP = {"help_option_names": ["-h", "--help"]}


@click.group("orchestra", cls=_support.Group, lazy_commands=_COMMANDS, short_names=_ALIASES, context_settings=_HELP)
@click.option("--profile", metavar="NAME", help="Use the settings of this profile.")
@click.pass_context
def cli(ctx: click.Context, profile: str | None) -> None:
    """Flows and tasks on Celery, journaled in SQL.

    \b
    Examples:
      orchestra dev
      orchestra flow-run create --flow etl:pipeline --param day=2026-11-22 --watch
      orchestra flow-run ls --state-type FAILED -o json
      orchestra flow-run retry RUN_ID
      orchestra doctor
    """
    if profile:
        settings.choose_profile(profile)
    if ctx.invoked_subcommand not in _OF_THIS_HOST:
        settings.ask_api_only()
    # As `celery -A proj orchestra …` the context brings Celery's app; imported, it is the one in use.
    if ctx.parent is not None and ctx.parent.params.get("app"):
        lazy.load("require_installed")(ctx.obj.app, f"-A {ctx.obj.app.main}")


def main() -> None:
    """Entry point of the `orchestra` command."""
    _support.robust_streams()
    cli(prog_name="orchestra")
