"""What `orchestra flower` gives to Flower as its `--conf`: which columns there are, and what of a task is shown.

Flower executes this file before it starts, and takes the names that are options of its own.
"""

from __future__ import annotations

import os
import re
from importlib.resources import files
from typing import Any

from flower.urls import settings
from tornado.template import Loader

#: The uuid, which leads to the page of a task, is in view in a narrow window too.
tasks_columns = "name,uuid,args,state,started,runtime,worker"

_RUN = re.compile(r"flow run ([0-9a-f-]{36})")
_MASK = "(not shown)"
_TASK_PAGE = str(files("orchestra.celery") / "flower_task.html")


def format_task(task: Any) -> Any:
    """Tell of our tasks where the page of their run is, and of all others no arguments and no result."""
    found = _RUN.search(str(task.args))
    if found is not None:
        # Read by our template alone; `task` is a copy.
        task.run_page = f"{os.environ.get('ORCHESTRA_FLOWER_LEADS_TO', '')}/runs/{found[1]}"
        return task
    task.args = task.kwargs = _MASK
    if getattr(task, "result", None) is not None:
        task.result = _MASK
    return task


class _Templates(Loader):
    """Flower's own templates, but for the page of a task: that is ours, which extends Flower's."""

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """The file of a template; the one that ours extends is Flower's."""
        resolved = super().resolve_path(name, parent_path)
        return _TASK_PAGE if resolved == "task.html" and parent_path != _TASK_PAGE else resolved


# Flower's options escape all that is shown and link only within Flower. This is a setting of Tornado's, to which Flower
# hands these as they are.
settings["template_loader"] = _Templates(settings["template_path"])
