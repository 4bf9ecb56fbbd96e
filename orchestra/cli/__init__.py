"""The command line: `orchestra`, and `celery -A proj orchestra`.

Each noun is a file; its commands parse, call one public verb and print. Nothing heavy is imported before a command is
known.
"""

from __future__ import annotations

import rich_click as click

from orchestra import lazy, settings
from orchestra.cli import _support

#: Where each command is, and the sentence that help lists it with: its own first one.
_COMMANDS = {
    "version": ("orchestra.cli.version:version", "Print the version of orchestra."),
    "dev": (
        "orchestra.cli.dev:dev",
        "Bring up all that flows need: an embedded broker, a worker, beat, the server. Ctrl-C ends all of it.",
    ),
    "deploy": (
        "orchestra.cli.deploy:deploy",
        "Write deployments down: those of orchestra.yaml, or one of the flow named. `deploy init` writes such a file.",
    ),
    "deployment": (
        "orchestra.cli.deployment:deployment",
        "See deployments, start runs of them, and change their schedules.",
    ),
    "flow": ("orchestra.cli.flow:flow", "See and serve flows."),
    "flow-run": ("orchestra.cli.flow_run:flow_run", "Start flow runs, see them, and act on them."),
    "task": ("orchestra.cli.task:task", "Run tasks in the background."),
    "task-run": ("orchestra.cli.task_run:task_run", "See task runs."),
    "artifact": (
        "orchestra.cli.artifact:artifact",
        "See and delete artifacts: markdown, tables, links, images and progress of runs.",
    ),
    "variable": ("orchestra.cli.variable:variable", "Set, see and delete variables: values that runs read by name."),
    "events": ("orchestra.cli.events:events", "See what happens, as it happens, and tell what happened."),
    "cache": ("orchestra.cli.cache:cache", "See and clear cached results."),
    "transaction": (
        "orchestra.cli.transaction:transaction",
        "See transactions, and run rollback hooks that failed once more.",
    ),
    "work-pool": ("orchestra.cli.work_pool:work_pool", "Make and change work pools."),
    "work-queue": ("orchestra.cli.work_queue:work_queue", "Make and change the queues of work pools."),
    "global-concurrency-limit": (
        "orchestra.cli.global_concurrency_limit:global_concurrency_limit",
        "Limit how much goes on at once: blocks by concurrency(), rates by rate_limit(), tasks by their tags.",
    ),
    "worker": ("orchestra.cli.worker:worker", "Start workers, and see them."),
    "beat": ("orchestra.cli.beat:beat", "Fire schedules."),
    "server": ("orchestra.cli.server:server", "Run the REST API and the admin view."),
    "dashboard": ("orchestra.cli.login:dashboard", "The admin view in a browser."),
    "flower": (
        "orchestra.cli.flower:flower",
        "Become Celery's Flower: `celery -A APP flower`, on loopback, read-only, behind a password.",
    ),
    "user": (
        "orchestra.cli.user:user",
        "Manage who may log in to the server. Once there is a user or an API key, everybody has to say who they are.",
    ),
    "api-key": ("orchestra.cli.api_key:api_key", "Manage the keys by which programs use the server."),
    "login": ("orchestra.cli.login:login", "Let this profile's command line and clients work through a server."),
    "logout": (
        "orchestra.cli.login:logout",
        "Forget the server and its key in this profile: the database is asked again.",
    ),
    "cloud": (
        "orchestra.cli.login:cloud",
        "Prefect's words for `login` and `profile use`: there is no hosted service, workspaces are profiles.",
    ),
    "db": ("orchestra.cli.db:db", "Create, upgrade, prune and reset the database."),
    "config": ("orchestra.cli.config:config", "See the settings, and change those of the profile in use."),
    "profile": ("orchestra.cli.profile:profile", "Keep several sets of settings, and switch between them."),
    "completion": ("orchestra.cli.completion:completion", "Print the script by which a shell completes `orchestra`."),
    "doctor": (
        "orchestra.cli.doctor:doctor",
        "Check versions, settings, database, broker, workers and server; exit code 1 if a check failed.",
    ),
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
