"""An existing project on real workers, started as its owners start them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestra.store import workers
from orchestra.store.database import database
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until
from tests.servers import Broker, RabbitMQ

pytestmark = pytest.mark.services

APP = "tests.existing.project"
ALL = "flows,existing,sums,billing"


@pytest.fixture
def project(broker: Broker) -> dict[str, str]:
    """The environment of the project: its own broker setting, none of orchestra's."""
    return {"EXISTING_BROKER": broker.url, "ORCHESTRA_BROKER_URL": "", "C_FORCE_ROOT": "1"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where bodies write."""
    return tmp_path / "notes"


def start(factory: WorkerFactory, project: dict[str, str], queues: str = ALL, **options: object) -> servers.Worker:
    """A worker of the project's app."""
    return factory(app=APP, queues=queues, env=project, **options)


def python(code: str, project: dict[str, str]) -> str:
    """What some code of the project prints, in a process of its own."""
    command = [sys.executable, "-c", f"from {APP} import *; {code}"]
    environment = {**os.environ, **project}
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=90)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def works(project: dict[str, str], file: Path) -> None:
    """Flows over the project's tasks run, and so do its tasks without a flow."""
    assert python("print(mapped.delay([1, 2]).result(timeout=60))", project) == "[11, 12, 3]"

    python(f"own_work.apply_async([{str(file)!r}], ignore_result=True)", project)
    wait_until(file.exists, "the project's own task to run")


def test_tasks_of_the_project_run_where_they_always_ran(
    project: dict[str, str], worker_factory: WorkerFactory, file: Path
) -> None:
    """On their own queues, by other workers than the flow's; a retry is taken up again, and tells its attempt."""
    flows = start(worker_factory, project, "flows", concurrency=1)
    others = start(worker_factory, project, "existing,billing", concurrency=1)

    printed = python(f"print(noting.delay({str(file)!r}).result(timeout=60))", project)

    assert printed == str([[others.name, "existing"], "refunded 5", "charged 7"])
    assert file.read_text().split() == ["noted", "0", "noted", "1"]
    assert "charge" not in flows.log().partition(" ready.")[2]


def test_adopted_tasks_run_in_the_background_and_in_canvases(
    project: dict[str, str], worker_factory: WorkerFactory, broker: Broker
) -> None:
    """`.delay()` and `.s()` of the task of a flow, as of any; each is found by its path or its name."""
    project["EXISTING_CONF"] = json.dumps({"result_backend": broker.url})
    start(worker_factory, project)

    assert python("print(STEPS['refund'].delay(5).result(timeout=60))", project) == "refunded 5"
    assert python("print(STEPS['third_time'].delay().result(timeout=60))", project) == "2"
    code = "print((STEPS['add'].s(1, 2) | STEPS['doubled'].s()).apply_async().get(timeout=60))"
    assert python(code, project) == "6"


def test_a_retry_outlives_its_worker(project: dict[str, str], worker_factory: WorkerFactory, file: Path) -> None:
    """Killed while the task waits for its next try: another worker makes that one, and no other."""
    start(worker_factory, project, "flows", concurrency=1)
    doomed = start(worker_factory, project, "existing,billing", concurrency=1)
    client = subprocess.Popen(
        [sys.executable, "-c", f"from {APP} import *; print(noting.delay({str(file)!r}).result(timeout=90))"],
        env={**os.environ, **project},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: re.search(r"Task notes-0\S+ succeeded", doomed.log()), "the task to ask for another try")

    doomed.kill_group()
    heir = start(worker_factory, project, "existing,billing", concurrency=1)

    printed, _ = client.communicate(timeout=90)
    assert printed.strip() == str([[heir.name, "existing"], "refunded 5", "charged 7"])
    assert file.read_text().split() == ["noted", "0", "noted", "1"]


@pytest.mark.parametrize(
    ("pool", "options"),
    [
        ("prefork", ["--without-heartbeat", "--without-gossip", "--without-mingle"]),
        ("prefork", ["--max-tasks-per-child=1"]),
        ("prefork", ["--max-memory-per-child=1"]),
        ("prefork", ["--autoscale=3,1"]),
        ("solo", []),
        ("threads", ["-O", "fair", "--prefetch-multiplier=1"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value).replace("--", "") or "plain",
)
def test_workers_are_started_as_ever(
    project: dict[str, str], worker_factory: WorkerFactory, file: Path, pool: str, options: list[str]
) -> None:
    """Whatever options of `celery worker` a team has in its unit files."""
    start(worker_factory, project, pool=pool, options=options)

    works(project, file)


@pytest.mark.parametrize(
    "settings",
    [
        {"task_serializer": "pickle", "accept_content": ["pickle"], "result_serializer": "pickle"},
        {"task_create_missing_queues": False, "task_queues": {name: {} for name in ALL.split(",")}},
        {"task_protocol": 1, "task_acks_late": True, "worker_prefetch_multiplier": 4},
        {"task_annotations": {"*": {"rate_limit": "1/m", "acks_late": True}}, "task_ignore_result": True},
    ],
    ids=["pickle", "no other queues", "old protocol", "annotations"],
)
def test_flows_run_under_the_settings_of_the_app(
    project: dict[str, str], worker_factory: WorkerFactory, file: Path, settings: dict[str, object]
) -> None:
    """What a team has set for its own tasks neither stops flows nor is changed."""
    project["EXISTING_CONF"] = json.dumps(settings)
    start(worker_factory, project)

    works(project, file)


def consumed() -> set[str]:
    """The queues of the only worker, as the lists of workers show them."""
    (worker,) = workers.live(database())
    return set(worker.queues)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_that_is_told_to_consume_another_queue_runs_its_flows(
    project: dict[str, str], worker_factory: WorkerFactory, file: Path, pool: str
) -> None:
    """By `celery control add_consumer`, or a button of Flower's: parts of a flow that come back are taken, too.

    It is listed with that queue, until it is told not to consume it any more.
    """
    start(worker_factory, project, "existing,sums,billing", pool=pool)

    assert "ok" in python("print(app.control.add_consumer('flows', reply=True))", project)

    works(project, file)
    wait_until(lambda: consumed() == set(ALL.split(",")), "the queue to be listed")
    # Wake-ups go to a queue of their own from then on.
    works(project, file)

    python("app.control.cancel_consumer('flows', reply=True)", project)
    wait_until(lambda: "flows" not in consumed(), "the queue not to be listed any more")


def test_a_message_to_all_workers_reaches_each_of_them_once(
    project: dict[str, str], worker_factory: WorkerFactory, rabbitmq: RabbitMQ
) -> None:
    """The queue that is consumed beside it is not bound to the exchange that hands the message out."""
    queues = {"existing": {}, "news": {"exchange": "news", "exchange_type": "fanout"}}
    project |= {"EXISTING_BROKER": rabbitmq.url, "EXISTING_CONF": json.dumps({"task_queues": queues})}
    start(worker_factory, project, "existing,news").terminate()

    python("add.apply_async([1], queue='news')", project)

    wait_until(lambda: rabbitmq.waiting("news") == 1, "the message to be there")
    assert rabbitmq.waiting("news.wake") == 0


def test_a_result_backend_is_left_alone(
    project: dict[str, str], worker_factory: WorkerFactory, file: Path, broker: Broker
) -> None:
    """Flows keep their values in the journal; the project's tasks keep theirs where they did."""
    project["EXISTING_CONF"] = json.dumps({"result_backend": broker.url})
    start(worker_factory, project)

    works(project, file)
    with broker.client() as client:
        assert list(client.scan_iter("celery-task-meta-*")) == []

    assert python("print(add.delay(20, 22).get(timeout=30))", project) == "42"


@pytest.mark.parametrize("limits", [["--time-limit=3", "--soft-time-limit=2"], []], ids=["option", "setting"])
def test_the_apps_time_limits_are_not_for_flows(
    project: dict[str, str], worker_factory: WorkerFactory, limits: list[str]
) -> None:
    """They are for its own tasks; a segment of a flow may take longer than any of them."""
    if not limits:
        project["EXISTING_CONF"] = json.dumps({"task_time_limit": 3, "task_soft_time_limit": 2})
    start(worker_factory, project, options=limits)

    assert python("print(lasting.delay(4).result(timeout=60))", project) == "3"


@pytest.mark.parametrize("submits", [True, False], ids=["submitted", "direct"])
def test_a_queue_that_the_app_does_not_know_is_refused(
    project: dict[str, str], worker_factory: WorkerFactory, submits: bool
) -> None:
    """At once, to whoever starts a run there, or calls a task; not a run that nobody takes up."""
    queues = {name: {} for name in ALL.split(",")}
    project["EXISTING_CONF"] = json.dumps({"task_create_missing_queues": False, "task_queues": queues})
    start(worker_factory, project)
    code = f"""
for refused in (lambda: mapped.apply_async([[1]], queue="typo"), lambda: misrouted.delay({submits}).result(timeout=60)):
    try:
        refused()
    except ValueError as error:
        print(error)
"""

    assert python(f"exec({code!r})", project).count("has no queue 'typo' in its task_queues") == 2
