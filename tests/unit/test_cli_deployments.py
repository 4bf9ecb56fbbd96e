"""The command line of deployments, work pools and project files, without a broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestra.cli import cli
from orchestra.cli._support import ExitCode
from orchestra.store import workers
from orchestra.store.database import database
from orchestra.store.workers import WorkerRow

FILE = """
build:
- orchestra.deployments.steps.run_shell_script:
    id: commit
    script: echo abc123
deployments:
- name: nightly
  version: "{{ commit.stdout }}"
  entrypoint: jobs.py:job
  parameters: {n: 5}
  tags: ["{{ $TEAM }}", etl]
  schedules:
  - cron: "0 3 * * *"
    timezone: Europe/Berlin
    slug: night
  - interval: 3600
    active: false
  work_pool: {name: my-pool, work_queue_name: slow}
- name: by-hand
  entrypoint: jobs.py:job
"""
JOBS = "from orchestra import flow\n@flow\ndef job(n: int = 1):\n    return n\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a flow and a project file, and a work pool."""
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "orchestra.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEAM", "data")
    assert orchestra("work-pool", "create", "my-pool").exit_code == 0
    return tmp_path


def orchestra(*args: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, list(args), catch_exceptions=False)


def data(*args: str) -> Any:
    """What a command gives as JSON."""
    done = orchestra(*args, "-o", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_all_deployments_of_a_file_are_written_down() -> None:
    """Filled in with the environment and the outputs of its build steps."""
    assert orchestra("deploy", "--all").exit_code == 0

    by_hand, nightly = data("deployment", "ls")
    assert (by_hand["name"], by_hand["work_pool_name"]) == ("by-hand", None)
    assert (nightly["version"], nightly["tags"], nightly["parameters"]) == ("abc123", ["data", "etl"], {"n": 5})
    assert (nightly["queue"], nightly["status"], nightly["flow_name"]) == ("my-pool.slow", "NOT_READY", "job")
    assert [(each["cron"], each["interval"], each["active"]) for each in nightly["schedules"]] == [
        ("0 3 * * *", None, True),
        (None, 3600.0, False),
    ]


def test_one_of_a_file_is_chosen_by_name() -> None:
    """With options of the command line over the file's; several without a name are refused."""
    assert orchestra("deploy").exit_code == ExitCode.USAGE
    assert orchestra("deploy", "-n", "no-such").exit_code == ExitCode.USAGE

    done = orchestra("deploy", "-n", "job/night*", "--param", "n=7", "--cron", "@daily", "-t", "mine")

    assert done.exit_code == 0, done.output
    (found,) = data("deployment", "ls")
    assert (found["parameters"], found["tags"]) == ({"n": 7}, ["mine"])
    assert [each["cron"] for each in found["schedules"]] == ["@daily"]


def test_a_flow_is_deployed_without_a_file(project: Path) -> None:
    """By its entrypoint and a name."""
    (project / "orchestra.yaml").unlink()

    assert orchestra("deploy", "jobs.py:job", "-n", "ad-hoc", "-p", "my-pool", "--interval", "1h 30m").exit_code == 0

    found = data("deployment", "inspect", "job/ad-hoc")
    assert (found["entrypoint"], found["schedules"][0]["interval"]) == (f"{project}/jobs.py:job", 5400.0)
    assert orchestra("deploy").exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("deployments: [{name: a, entrypiont: x}]", "entrypiont"),
        ("deployments: [{name: a}]", "has no entrypoint"),
        ("deployments: [{name: a, entrypoint: 'jobs.py:job', version: '{{ nothing }}'}]", "in the place of"),
        ("deployments: [{name: a, entrypoint: 'jobs.py:job', tags: ['{{ $NO_SUCH }}']}]", "no variable 'NO_SUCH'"),
        ("deployments: [{name: a, entrypoint: 'jobs.py:job', parameters: {n: x}}]", "'n'"),
        ("deployments: [{name: a, entrypoint: 'jobs.py:job', build: [{no_step: {}}]}]", "no step 'no_step'"),
        ("deployments: {", "cannot be read"),
    ],
)
def test_a_fault_in_a_file_is_named(project: Path, text: str, told: str) -> None:
    """And nothing is written."""
    (project / "orchestra.yaml").write_text(text)

    done = orchestra("deploy", "--all")

    assert (done.exit_code, told in done.stderr) == (ExitCode.USAGE, True), done.stderr
    assert data("deployment", "ls") == []


def test_a_file_to_begin_with_is_written_once(project: Path) -> None:
    """It is never overwritten."""
    assert orchestra("deploy", "init").exit_code == ExitCode.USAGE
    (project / "orchestra.yaml").unlink()
    assert orchestra("deploy", "init").exit_code == 0
    assert orchestra("deploy", "--all").exit_code == 0


def test_schedules_are_made_paused_and_deleted() -> None:
    """By slug or id."""
    orchestra("deploy", "-n", "by-hand")
    made = orchestra("deployment", "schedule", "create", "job/by-hand", "--cron", "0 9 * * *", "--slug", "day")
    assert made.exit_code == 0, made.output

    assert orchestra("deployment", "schedule", "pause", "job/by-hand", "day").exit_code == 0
    (found,) = data("deployment", "schedule", "ls", "job/by-hand")
    assert (found["id"], found["active"]) == (made.stdout.strip(), False)
    assert orchestra("deployment", "schedule", "delete", "job/by-hand", made.stdout.strip()).exit_code == 0
    assert orchestra("deployment", "schedule", "resume", "job/by-hand", "day").exit_code == ExitCode.NOT_FOUND


def test_a_schedules_parameters_are_checked() -> None:
    """Against the flow's annotations, at this door as at the others."""
    orchestra("deploy", "-n", "by-hand")
    done = orchestra("deployment", "schedule", "create", "job/by-hand", "--interval", "60", "--param", "n=many")

    assert (done.exit_code, "'n'" in done.stderr) == (ExitCode.USAGE, True)
    assert data("deployment", "schedule", "ls", "job/by-hand") == []


def test_deployments_are_paused_resumed_and_deleted() -> None:
    """Those that are not there are named."""
    orchestra("deploy", "--all")

    assert orchestra("deployment", "pause", "job/nightly").exit_code == 0
    assert data("deployment", "inspect", "job/nightly")["paused"] is True
    assert orchestra("deployment", "resume", "job/nightly").exit_code == 0
    assert data("deployment", "inspect", "job/nightly")["paused"] is False
    assert orchestra("deployment", "delete", "job/nightly").exit_code == 0
    assert orchestra("deployment", "delete", "job/nightly").exit_code == ExitCode.NOT_FOUND
    assert orchestra("deployment", "delete", "--all").exit_code == 0
    assert data("deployment", "ls") == []


def test_pools_and_queues_are_made_and_changed() -> None:
    """Types are checked, and a limit can be cleared."""
    assert orchestra("work-pool", "create", "k8s", "--type", "kubernetes").exit_code == 0
    assert orchestra("work-pool", "create", "k8s", "--type", "kubernetes").exit_code == ExitCode.CONFLICT
    assert orchestra("work-pool", "create", "other", "--type", "no-such").exit_code == ExitCode.USAGE
    assert orchestra("work-pool", "set-concurrency-limit", "k8s", "3").exit_code == 0
    found = data("work-pool", "inspect", "k8s")
    assert (found["type"], found["concurrency_limit"]) == ("kubernetes", 3)
    assert "namespace" in found["base_job_template"]["variables"]["properties"]

    assert orchestra("work-queue", "create", "urgent", "--pool", "my-pool", "--priority", "0").exit_code == 0
    assert [each["celery_queue"] for each in data("work-queue", "ls", "--pool", "my-pool")] == [
        "my-pool.urgent",
        "my-pool",
    ]
    assert orchestra("work-queue", "pause", "urgent", "--pool", "my-pool").exit_code == 0
    assert data("work-queue", "inspect", "urgent", "--pool", "my-pool")["is_paused"] is True
    assert data("work-pool", "preview", "my-pool") == []
    assert [each["active"] for each in data("work-pool", "slots", "my-pool")] == [0, 0]


def test_a_pool_whose_runs_nobody_starts_has_no_worker() -> None:
    """The command says so, instead of a worker that does nothing."""
    orchestra("work-pool", "create", "k8s", "--type", "kubernetes")

    done = orchestra("worker", "start", "--pool", "k8s")

    assert (done.exit_code, "not there yet" in done.stderr) == (ExitCode.CONFLICT, True)
    assert orchestra("worker", "start", "--pool", "no-such").exit_code == ExitCode.NOT_FOUND


def test_a_worker_of_a_type_that_does_not_fit_its_pool_is_refused() -> None:
    """And one of no type, for a pool that is not there, is told how to make it."""
    refused = orchestra("worker", "start", "--pool", "my-pool", "--type", "docker")
    assert (refused.exit_code, "is of type process" in refused.stderr) == (ExitCode.CONFLICT, True)
    missing = orchestra("worker", "start", "--pool", "later")
    assert (missing.exit_code, "--type process" in missing.stderr) == (ExitCode.NOT_FOUND, True)
    assert orchestra("worker", "start", "--pool", "later", "--type", "no-such").exit_code == ExitCode.USAGE


def test_workers_are_listed_and_inspected() -> None:
    """With their pools, slots and status; `ls` of one pool shows its own only."""
    workers.register(database(), WorkerRow("loader@h", "h", 7, ("my-pool", "other"), 3, "prefork", "1"))

    assert data("worker", "ls", "--pool", "no-pool") == []
    (found,) = data("worker", "ls", "--pool", "my-pool")
    assert (found["name"], found["status"], found["slots"], found["running"]) == ("loader@h", "ONLINE", 3, 0)
    assert (found["work_pools"], found["queues"]) == (["my-pool"], ["my-pool", "other"])
    assert data("worker", "inspect", "loader")["pid"] == 7
    assert "ONLINE" in orchestra("worker", "ls").stdout
    assert orchestra("worker", "inspect", "nobody").exit_code == ExitCode.NOT_FOUND
    assert data("work-pool", "inspect", "my-pool")["status"] == "READY"


def test_upcoming_runs_are_computed_from_schedules() -> None:
    """Nothing is written for them, and a pause takes them away."""
    assert orchestra("deploy", "--all").exit_code == 0

    inspected = data("deployment", "inspect", "job/nightly")
    assert len(inspected["upcoming_runs"]) == 5
    assert [each["next_run"] for each in data("deployment", "ls")] == [None, inspected["upcoming_runs"][0]]
    preview = data("work-pool", "preview", "my-pool", "--limit", "3")
    assert [each["expected_start_time"] for each in preview] == inspected["upcoming_runs"][:3]
    assert {(each["id"], each["deployment_name"], each["work_queue_name"]) for each in preview} == {
        (None, "nightly", "my-pool.slow")
    }
    assert data("work-queue", "preview", "default", "--pool", "my-pool") == []
    assert data("flow-run", "ls") == []
    orchestra("deployment", "pause", "job/nightly")
    assert data("work-pool", "preview", "my-pool") == []


def test_it_is_said_where_no_worker_listens() -> None:
    """With the command that starts one."""
    told = orchestra("work-pool", "inspect", "my-pool").stderr
    assert "No worker listens on queue 'my-pool'" in told
    assert "`orchestra worker start --pool my-pool`" in told
    workers.register(database(), WorkerRow("loader@h", "h", 7, ("my-pool",), 3, "prefork", "1"))
    assert "No worker" not in orchestra("work-pool", "inspect", "my-pool").stderr


def test_a_queues_priority_can_be_changed() -> None:
    """What is not named stays."""
    orchestra("work-queue", "create", "urgent", "--pool", "my-pool", "-d", "now")

    assert orchestra("work-queue", "update", "urgent", "--pool", "my-pool").exit_code == ExitCode.USAGE
    assert orchestra("work-queue", "update", "urgent", "--pool", "my-pool", "--priority", "9").exit_code == 0
    found = data("work-queue", "inspect", "urgent", "--pool", "my-pool")
    assert (found["priority"], found["description"]) == (9, "now")
