"""`orchestra beat`: Celery's beat, which fires schedules."""

from __future__ import annotations

import os
import sys

import rich_click as click

from orchestra import settings
from orchestra.cli import _support

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@click.group(cls=_support.Group)
def beat() -> None:
    """Fire schedules."""


@beat.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="INFO", show_default=True)
@click.option("-A", "--app", metavar="MODULE[:APP]", help="Celery app; else ORCHESTRA_APP, else orchestra's own.")
@click.pass_context
def start(ctx: click.Context, log_level: str, app: str | None) -> None:
    """Become Celery's beat: `celery -A APP beat`. What follows `--` goes to Celery as it is.

    Deployments' schedules are fired once however many beats run; entries of the app's own `beat_schedule` are sent by
    each beat, as ever with Celery. When each of these was sent last is kept in ORCHESTRA_HOME/beat-schedule; for
    another file: `-- -s FILE`.

    \b
    Examples:
      orchestra beat start
      orchestra beat start -A proj
      orchestra beat start -- -s /var/lib/proj/beat-2
    """
    _support.need_database()
    current = settings.current()
    command = [sys.executable, "-m", "celery", "-A", app or current.app or "celery_app", "beat"]
    command += ["-l", log_level.upper(), "--pidfile", "", "-s", str(current.home_path / "beat-schedule")]
    environment = dict(os.environ)
    if app:
        environment["ORCHESTRA_APP"] = app
    if current.profile:
        environment["ORCHESTRA_PROFILE"] = current.profile
    # In the place of this process: signals reach beat itself, and nothing is left when it ends.
    os.execve(sys.executable, [*command, *ctx.args], environment)
