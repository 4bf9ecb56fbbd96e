"""What `orchestra flower` gives to Flower as its `--conf`: which columns there are, and what of a task is shown."""

from __future__ import annotations

import os
import re
from typing import Any

#: Flower reads this file by executing it, and takes the names that are options of its own.
tasks_columns = "name,args,state,started,runtime,worker,uuid"

_RUN = re.compile(r"flow run ([0-9a-f-]{36})")
_MASK = "(not shown)"


def format_task(task: Any) -> Any:
    """Show of our tasks where their run is to be seen, and of all others no arguments and no result."""
    found = _RUN.search(str(task.args))
    if found is None:
        task.args = task.kwargs = _MASK
    else:
        task.kwargs = f"{os.environ.get('ORCHESTRA_FLOWER_LEADS_TO', '')}/runs/{found[1]}"
    if found is None and getattr(task, "result", None) is not None:
        task.result = _MASK
    return task
