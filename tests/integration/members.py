"""A Celery project whose canvases mix its own tasks with flows and tasks of orchestra."""

from __future__ import annotations

import os
from datetime import date as date
from typing import Any

from celery import Celery
from celery import chain as chain
from celery import chord as chord
from celery import group as group

import orchestra.celery
from orchestra import task
from tests.integration.member_flows import add as add
from tests.integration.member_flows import aside as aside
from tests.integration.member_flows import described as described
from tests.integration.member_flows import doubled as doubled
from tests.integration.member_flows import failing as failing
from tests.integration.member_flows import flaky as flaky
from tests.integration.member_flows import handing_on_a_set as handing_on_a_set
from tests.integration.member_flows import noted as noted
from tests.integration.member_flows import parking as parking
from tests.integration.member_flows import refusing as refusing
from tests.integration.member_flows import summed as summed
from tests.integration.member_flows import told as told
from tests.integration.member_flows import write

app = Celery(
    "members", broker=os.environ.get("ORCHESTRA_BROKER_URL"), backend=os.environ.get("MEMBERS_RESULTS") or None
)
app.conf.task_default_queue = "default"
app.conf.broker_connection_retry_on_startup = True
if os.environ.get("MEMBERS_SERIALIZER"):
    app.conf.update(
        task_serializer=os.environ["MEMBERS_SERIALIZER"],
        result_serializer=os.environ["MEMBERS_SERIALIZER"],
        accept_content=["json", os.environ["MEMBERS_SERIALIZER"]],
    )
orchestra.celery.install(app)


@app.task
def plus(x: int, y: int) -> int:
    """The sum of two."""
    return x + y


@app.task
def xsum(numbers: list[int]) -> int:
    """The sum of a list."""
    return sum(numbers)


@app.task
def note(value: Any, where: str) -> Any:
    """Notes what it got, and hands it on."""
    write(where, value)
    return value


#: One of the project's own tasks as a task of orchestra's.
adopted = task(plus, retries=1)


@app.task
def note_error(request: Any, error: Exception, traceback: Any, where: str) -> None:
    """Notes how a member failed."""
    write(where, f"{type(error).__name__}: {error}")
