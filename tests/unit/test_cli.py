"""The command line over a home that local runs have filled, and its errors."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from orchestra import errors, flow, get_run_logger, settings, tags, task
from orchestra.cli import cli
from orchestra.cli._support import ExitCode, failure
from orchestra.store import database as databases
from orchestra.store.behind import behind
from orchestra.store.tables import flow_runs

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: A broker that refuses at once.
NOWHERE = "redis://:hidden@127.0.0.1:1/0"


@task
def double(number: int) -> int:
    """A task that logs."""
    get_run_logger().warning("doubling %d", number)
    return number * 2


@flow
def child(number: int) -> int:
    """A subflow."""
    return double(number)


@flow(log_prints=True)
def parent(numbers: list[int]) -> int:
    """A flow with a subflow, submitted tasks and prints."""
    print("begins \x1b]0;title\x07")
    return child(1) + sum(double.map(numbers).result())


@flow
def broken(day: str = "x") -> None:
    """A flow that fails."""
    raise ValueError(f"no data for {day}")


def orchestra(*args: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, list(args), catch_exceptions=False)


def listed(*args: str) -> Any:
    """What a command that must succeed prints as JSON."""
    result = orchestra(*args, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def run_id_of(fn: Callable[[], object], name: str) -> str:
    """Call a flow that may fail, and give the id of its newest run."""
    with contextlib.suppress(ValueError):
        fn()
    behind().flush(5)
    return str(listed("flow-run", "ls", "--flow-name", name)[0]["id"])


@pytest.fixture
def parent_id() -> str:
    """A completed run with a subflow and tasks."""
    return run_id_of(lambda: parent([5, 6]), "parent")


@pytest.fixture
def broken_id() -> str:
    """A failed run."""
    return run_id_of(broken, "broken")


@pytest.fixture
def no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker is set that does not answer."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", NOWHERE)
    settings.reset()


@pytest.fixture
def created_id(no_answer: None) -> str:
    """A run that waits for a worker."""
    result = orchestra("flow-run", "create", "--flow", f"{__name__}:broken")
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


# -- starting up -------------------------------------------------------------------------------------------------


def test_version_is_fast_because_it_loads_nothing_heavy() -> None:
    """Neither Celery nor SQLAlchemy is loaded to print a version."""
    code = (
        "import sys; sys.argv = ['orchestra', 'version']\nimport orchestra.cli\n"
        "try: orchestra.cli.main()\nexcept SystemExit: pass\n"
        "print([m for m in ('celery', 'sqlalchemy', 'pydantic', 'rich.table') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout.split("\n")
    assert re.match(r"\d+\.\d+", out[0])
    assert out[1] == "[]"
    assert listed("version")["celery-orchestra"] == out[0]


@pytest.mark.parametrize("name", cli.list_commands(click.Context(cli)))
def test_a_command_is_listed_with_its_own_first_sentence(name: str) -> None:
    """The list of commands, which imports none, says of each what its own help begins with."""
    context = click.Context(cli)
    listed = cli.get_command(context, name)
    _, command, _ = cli.resolve_command(context, [name])

    assert listed is not None
    assert command is not None
    own = inspect.cleandoc(command.help or "").split("\n\n")[0]
    assert command.name == name
    assert listed.help == " ".join(own.split())


@pytest.mark.parametrize(
    "path",
    [
        [],
        ["flow"],
        ["flow-run"],
        ["task-run"],
        ["transaction"],
        ["db"],
        ["config"],
        ["doctor"],
        ["dev"],
        ["worker"],
        ["profile"],
        ["completion"],
    ],
)
def test_every_command_has_help(path: list[str]) -> None:
    """Help needs neither database nor broker."""
    result = orchestra(*path, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


# -- lists -------------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_prefects_field_names(parent_id: str) -> None:
    """A subflow's run names its parent."""
    runs = {run["flow_name"]: run for run in listed("flow-run", "ls")}
    assert runs["child"]["parent_flow_run_id"] == parent_id
    top = runs["parent"]
    assert top["parent_flow_run_id"] is None
    assert (top["state_type"], top["state_name"], top["parameters"]) == ("COMPLETED", "Completed", {"numbers": [5, 6]})
    assert {"id", "name", "created", "start_time", "end_time", "tags", "run_count", "state"} <= set(top)
    assert [run["id"] for run in listed("flow-run", "ls", "--parent", parent_id)] == [runs["child"]["id"]]


def test_what_is_not_for_a_terminal_is_never_cut(home: Path) -> None:
    """A name of 255 characters and the id stand whole on one line, whatever the width."""
    long = flow(name="n" * 255)(lambda: None)
    run_id = run_id_of(long, "n" * 255)
    (line,) = [line for line in orchestra("flow-run", "ls").stdout.splitlines() if run_id in line]
    assert "n" * 255 in line
    assert "Completed" in line


def test_a_list_is_paged_by_the_last_id(parent_id: str, broken_id: str) -> None:
    """The hint how to go on is for people, and so on stderr."""
    page = orchestra("flow-run", "ls", "--limit", "2", "-o", "json")
    first = [run["id"] for run in json.loads(page.stdout)]
    assert f"--after {first[-1]}" in page.stderr
    rest = [run["id"] for run in listed("flow-run", "ls", "--after", first[-1])]
    assert sorted([*first, *rest]) == sorted(run["id"] for run in listed("flow-run", "ls"))
    assert orchestra("flow-run", "ls", "--after", "gone").exit_code == 3


def test_runs_are_filtered_by_state_however_it_is_written(parent_id: str, broken_id: str) -> None:
    """States are known by type and by name."""
    for given in (("--state-type", "failed"), ("--state", "failed"), ("--state", "FAILED")):
        assert [run["id"] for run in listed("flow-run", "ls", *given)] == [broken_id]


def test_runs_are_filtered_by_tag(parent_id: str) -> None:
    """All of the tags that are asked for must be there."""
    with tags("a", "b"):
        tagged = run_id_of(broken, "broken")
    for given, found in ((["a"], [tagged]), (["a", "b"], [tagged]), (["a", "c"], [])):
        wanted = [word for tag in given for word in ("--tag", tag)]
        assert [run["id"] for run in listed("flow-run", "ls", *wanted)] == found
    assert listed("task-run", "ls", "--tag", "a") == []


def test_flows_are_listed_with_their_newest_run(parent_id: str, broken_id: str) -> None:
    """By name."""
    found = [(flow["name"], flow["last_run_state_name"]) for flow in listed("flow", "ls")]
    assert found == [("broken", "Failed"), ("child", "Completed"), ("parent", "Completed")]


def test_task_runs_of_a_run_are_listed_and_inspected(parent_id: str) -> None:
    """Subflows stand apart from tasks."""
    tasks = listed("task-run", "ls", "--flow-run", parent_id)
    assert len(tasks) == 2
    assert {run["flow_run_id"] for run in tasks} == {parent_id}
    assert len(listed("task-run", "ls", "--flow-run", parent_id, "--all-steps")) == 3
    shown = listed("task-run", "inspect", tasks[0]["id"])
    assert shown["state_type"] == "COMPLETED"
    assert shown["name"] in orchestra("task-run", "inspect", tasks[0]["id"]).stdout
    assert orchestra("task-run", "inspect", "gone").exit_code == 3


# -- one run -----------------------------------------------------------------------------------------------------


def test_a_run_is_inspected_with_its_history_and_error(broken_id: str) -> None:
    """As data and in words."""
    shown = listed("flow-run", "inspect", broken_id)
    assert shown["id"] == broken_id
    assert [state["type"] for state in shown["states"]] == ["RUNNING", "FAILED"]
    assert "no data for x" in orchestra("flow-run", "inspect", broken_id).stdout


def test_a_run_that_is_not_there_is_one_sentence_and_a_code() -> None:
    """On stderr; stdout stays empty."""
    for command in ("inspect", "logs", "watch", "canvas", "cancel", "pause", "suspend", "resume", "retry", "delete"):
        result = orchestra("flow-run", command, "gone")
        assert (result.exit_code, result.stdout) == (3, ""), command
        assert result.stderr.startswith("Error: there is no flow run 'gone'"), command
        assert result.stderr.count("\n") == 1


def test_logs_are_printed_whole_by_page_level_and_end(parent_id: str) -> None:
    """Lines name their writer; control characters are shown, not obeyed."""
    whole = orchestra("flow-run", "logs", parent_id).stdout
    assert r"begins \x1b]0;title\x07" in whole
    assert re.search(r"WARNING \| double-\d+ - doubling 5", whole)
    warnings = listed("flow-run", "logs", parent_id, "--level", "warning")
    assert {line["message"] for line in warnings} == {"doubling 5", "doubling 6"}
    (first,) = orchestra("flow-run", "logs", parent_id, "--head", "1").stdout.splitlines()
    assert whole.startswith(first)
    (last,) = orchestra("flow-run", "logs", parent_id, "--tail", "1").stdout.splitlines()
    assert whole.endswith(last + "\n")
    of_task = listed("flow-run", "logs", parent_id, "--task-run", warnings[0]["task_run_id"])
    assert warnings[0] in of_task
    backwards = orchestra("flow-run", "logs", parent_id, "--reverse").stdout.splitlines()
    assert backwards == whole.splitlines()[::-1]
    assert orchestra("flow-run", "logs", parent_id, "-n", "1").stdout.splitlines() == [first]
    assert orchestra("flow-run", "logs", parent_id, "--head", "1", "--tail", "1").exit_code == 2


def test_lines_of_a_task_run_are_printed_alone(parent_id: str) -> None:
    """By its own id."""
    wanted = next(run for run in listed("task-run", "ls", "--flow-run", parent_id) if run["name"] == "double-0")
    lines = listed("task-run", "logs", wanted["id"])
    assert [line["message"] for line in lines] == ["doubling 5"]
    assert {line["task_run_id"] for line in lines} == {wanted["id"]}
    assert "double-0 - doubling 5" in orchestra("task-run", "logs", wanted["id"], "--tail", "1").stdout
    assert orchestra("task-run", "logs", "gone").exit_code == 3


def test_following_the_logs_ends_with_the_run(parent_id: str) -> None:
    """Every line comes once; as JSON one object a line."""
    text = orchestra("flow-run", "logs", parent_id, "--follow").stdout
    assert sorted(text.splitlines()) == sorted(orchestra("flow-run", "logs", parent_id).stdout.splitlines())
    lines = orchestra("flow-run", "logs", parent_id, "--follow", "--tail", "2", "-o", "json").stdout.splitlines()
    assert len([json.loads(line) for line in lines]) == 2


def test_watch_says_how_a_run_ended(parent_id: str, broken_id: str) -> None:
    """Exit code 0 for a completed run, 6 for any other; nothing on stdout."""
    good = orchestra("flow-run", "watch", parent_id)
    assert (good.exit_code, good.stdout) == (0, "")
    assert "3/3 steps" in good.stderr
    bad = orchestra("flow-run", "watch", broken_id)
    assert bad.exit_code == 6
    assert "no data for x" in bad.stderr


def test_the_canvas_of_a_run_names_its_steps(parent_id: str) -> None:
    """As text, and as a Mermaid graph."""
    text = orchestra("flow-run", "canvas", parent_id).stdout
    assert "child-0" in text
    assert "double-1" in text
    assert orchestra("flow-run", "canvas", parent_id, "--mermaid").stdout.startswith("graph LR\n")


def test_a_run_is_deleted_with_its_children(parent_id: str) -> None:
    """Nothing of it is listed any more."""
    assert orchestra("flow-run", "delete", parent_id).exit_code == 0
    assert listed("flow-run", "ls") == []
    assert listed("task-run", "ls") == []


def test_a_local_run_is_retried_here(broken_id: str) -> None:
    """As its next attempt; the exit code says how that ended."""
    result = orchestra("flow-run", "retry", broken_id)
    assert result.exit_code == 6
    assert f"flow run {broken_id} ended Failed: ValueError: no data for" in result.stderr
    assert listed("flow-run", "inspect", broken_id)["run_count"] == 2


def test_a_local_run_is_not_retried_from_a_task(broken_id: str) -> None:
    """The sentence says what to do."""
    result = orchestra("flow-run", "retry", broken_id, "--from-task", broken_id)
    assert result.exit_code == 4
    assert "retry it as a whole" in result.stderr


# -- starting runs and acting on them ----------------------------------------------------------------------------


def test_a_run_is_created_with_tags(no_answer: None) -> None:
    """They are kept with it."""
    created = orchestra("flow-run", "create", "--flow", f"{__name__}:broken", "--tag", "a", "--tag", "b")
    assert listed("flow-run", "inspect", created.stdout.strip())["tags"] == ["a", "b"]


def test_create_prints_the_id_alone_even_if_the_broker_is_down(created_id: str) -> None:
    """The run is kept, and waits for a worker."""
    assert UUID.fullmatch(created_id)
    shown = listed("flow-run", "inspect", created_id)
    assert (shown["state_type"], shown["runner"], shown["parameters"]) == ("PENDING", "celery", {"day": "x"})


def test_parameters_are_read_as_json_else_as_text(no_answer: None, tmp_path: Path) -> None:
    """One by one they go over the whole object."""
    path = tmp_path / "given.json"
    path.write_text('{"numbers": [9]}')
    for given, seen in (
        (["-p", "numbers=[1, 2]"], [1, 2]),
        (["--params", '{"numbers": [3]}'], [3]),
        (["--params", f"@{path}"], [9]),
        (["--params", '{"numbers": [3]}', "-p", "numbers=[4]"], [4]),
    ):
        run_id = orchestra("flow-run", "create", "--flow", f"{__name__}:parent", *given).stdout.strip()
        assert listed("flow-run", "inspect", run_id)["parameters"] == {"numbers": seen}
    run_id = orchestra("flow-run", "create", "--flow", f"{__name__}:broken", "-p", "day=2026-11-22").stdout.strip()
    assert listed("flow-run", "inspect", run_id)["parameters"] == {"day": "2026-11-22"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--flow", "nocolon"], "module:flow"),
        (["--flow", "no_such_module:f"], "no_such_module"),
        (["--flow", "json:loads"], "no flow"),
        (["--flow", f"{__name__}:parent"], "numbers"),
        (["--flow", f"{__name__}:parent", "-p", "numbers=[1]", "-p", "nmbrs=1"], "nmbrs"),
        (["--flow", f"{__name__}:parent", "-p", "numbers=oops"], "numbers"),
        (["--flow", f"{__name__}:parent", "-p", "numbers"], "name=value"),
        (["--flow", f"{__name__}:parent", "--params", "{"], "JSON"),
        (["--flow", f"{__name__}:parent", "--params", "[]"], "JSON object"),
        (["--flow", f"{__name__}:parent", "--params", "@/no/such/file"], "JSON"),
    ],
)
def test_a_run_that_cannot_start_is_refused_with_its_reason(no_answer: None, given: list[str], said: str) -> None:
    """No run is left behind, and nothing stands on stdout."""
    result = orchestra("flow-run", "create", *given)
    assert result.exit_code in (2, 3)
    assert said in result.stderr
    assert result.stdout == ""
    assert listed("flow-run", "ls") == []


def test_create_without_any_broker_names_what_to_run(home: Path) -> None:
    """Neither app nor broker: `orchestra dev` is the way."""
    result = orchestra("flow-run", "create", "--flow", f"{__name__}:broken")
    assert result.exit_code == 2
    assert "orchestra dev" in result.stderr
    wrong = orchestra("flow-run", "create", "--flow", f"{__name__}:broken", "-A", "no_such_app")
    assert wrong.exit_code == 2
    assert "no_such_app" in wrong.stderr


def test_the_same_idempotency_key_gives_the_same_run(no_answer: None) -> None:
    """With other parameters it is a conflict."""
    command = ("flow-run", "create", "--flow", f"{__name__}:broken", "--idempotency-key", "k")
    first = orchestra(*command, "--name", "mine", "--queue", "q").stdout
    assert orchestra(*command).stdout == first
    assert orchestra(*command, "-p", "day=y").exit_code == 4
    (run,) = listed("flow-run", "ls")
    assert (run["name"], run["work_queue_name"], run["idempotency_key"]) == ("mine", "q", "k")


def test_a_waiting_run_is_paused_suspended_resumed_and_cancelled(created_id: str) -> None:
    """Each says so on stderr, and refuses what the state does not allow."""

    def state() -> str:
        return str(listed("flow-run", "inspect", created_id)["state_type"])

    assert orchestra("flow-run", "resume", created_id).exit_code == 4
    assert orchestra("flow-run", "pause", created_id).exit_code == 0
    assert state() == "PAUSED"
    assert orchestra("flow-run", "suspend", created_id).exit_code == 0
    assert listed("flow-run", "inspect", created_id)["state_name"] == "Suspended"
    given = orchestra("flow-run", "resume", created_id, "--input", "{}")
    assert (given.exit_code, "it waits for no input" in given.stderr) == (2, True)
    assert orchestra("flow-run", "resume", created_id, "--input", "{").exit_code == 2
    assert orchestra("flow-run", "resume", created_id, created_id, "--input", "{}").exit_code == 2
    resumed = orchestra("flow-run", "resume", created_id)
    assert (resumed.exit_code, resumed.stdout) == (0, "")
    assert state() in ("SCHEDULED", "PENDING")
    assert orchestra("flow-run", "delete", created_id).exit_code == 4
    assert orchestra("flow-run", "cancel", created_id).exit_code == 0
    assert state() == "CANCELLED"
    assert orchestra("flow-run", "retry", created_id).exit_code == 0
    assert listed("flow-run", "inspect", created_id)["run_count"] == 2


def test_watching_a_run_that_does_not_end_gives_up_in_time(created_id: str) -> None:
    """The run goes on."""
    result = orchestra("flow-run", "watch", created_id, "--timeout", "0")
    assert result.exit_code == 1
    assert "it goes on" in result.stderr


# -- database and settings ---------------------------------------------------------------------------------------


def test_the_schema_is_made_shown_and_emptied(home: Path) -> None:
    """`reset` asks first; without a terminal it wants --yes."""
    assert orchestra("db", "current").stdout == "empty\n"
    assert orchestra("db", "upgrade").exit_code == 0
    shown = listed("db", "current")
    assert shown["current"] == shown["head"] == databases.SCHEMA_VERSION
    run_id_of(broken, "broken")
    refused = orchestra("db", "reset")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert len(listed("flow-run", "ls")) == 1
    assert orchestra("db", "reset", "--yes").exit_code == 0
    assert listed("flow-run", "ls") == []


def test_a_database_of_another_schema_is_refused_with_the_way_out(parent_id: str) -> None:
    """Every command that reads says which command mends it."""
    db = databases.database()
    db.write(lambda conn: conn.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'"))
    databases.reset()
    result = orchestra("flow-run", "ls")
    assert result.exit_code == 1
    assert "orchestra db upgrade" in result.stderr
    doctor = orchestra("doctor")
    assert doctor.exit_code == 1
    assert "try: orchestra db upgrade" in doctor.stdout


def test_settings_are_shown_with_sources_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither key nor password is printed."""
    monkeypatch.setenv("ORCHESTRA_SECRET_KEY", "sesame")
    monkeypatch.setenv("ORCHESTRA_DATABASE_URL", "postgresql://me:sesame@host/db")
    monkeypatch.setenv("ORCHESTRA_FLOWS", "a, b")
    settings.reset()
    for args in (["config", "view"], ["config", "view", "--show-sources"], ["config", "view", "-o", "json"]):
        assert "sesame" not in orchestra(*args).stdout
    shown = listed("config", "view")
    assert shown["database_url"] == {"value": "postgresql://me:********@host/db", "source": "ORCHESTRA_DATABASE_URL"}
    assert shown["lease_seconds"] == {"value": 30.0, "source": "default"}
    assert "ORCHESTRA_FLOWS=a,b" in orchestra("config", "view").stdout


def test_a_setting_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the value it has."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "long")
    settings.reset()
    result = orchestra("flow-run", "ls")
    assert result.exit_code == 2
    assert "ORCHESTRA_LEASE_SECONDS='long'" in result.stderr


# -- doctor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", ["0", "30", "30d", "12h", "2w"])
def test_what_is_old_is_deleted_by_its_age(home: Path, age: str) -> None:
    """In the units of other commands; a number alone is days."""
    result = orchestra("db", "prune", "--older-than", age)
    assert result.exit_code == 0
    assert "nothing is that old" in result.stderr


@pytest.mark.parametrize("age", ["30mo", "1d 2x", "-1", "soon", ""])
def test_an_age_that_cannot_be_read_deletes_nothing(created_id: str, age: str) -> None:
    """What might be less than was meant above all."""
    result = orchestra("db", "prune", "--older-than", age)
    assert result.exit_code == 2
    assert "is no length of time" in result.stderr


def test_flower_without_a_broker_says_what_to_start(home: Path) -> None:
    """And makes no password up."""
    result = orchestra("flower")
    assert result.exit_code == 2
    assert "orchestra dev" in result.stderr
    assert "password" not in result.stderr


def test_doctor_is_content_with_a_fresh_home(home: Path) -> None:
    """No broker is a note, not a failure: flows run in one process."""
    result = orchestra("doctor")
    assert result.exit_code == 0
    found = {check["name"]: check for check in listed("doctor")}
    assert {"versions", "settings", "database", "key", "clock", "broker", "workers"} <= set(found)
    assert found["broker"]["next"] == "orchestra dev"
    assert "FAILED" not in result.stdout


def test_doctor_tells_of_a_server_that_does_not_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the settings name; where none is named or runs, that is fine."""
    assert {check["name"]: check["status"] for check in listed("doctor")}["server"] == "ok"
    monkeypatch.setenv("ORCHESTRA_API_URL", "http://127.0.0.1:1")
    settings.reset()
    result = orchestra("doctor")
    assert result.exit_code == 1
    assert "FAILED  server    the API at http://127.0.0.1:1/api does not answer" in result.stdout


def test_doctor_says_what_to_type_where_something_is_wrong(created_id: str) -> None:
    """A silent broker, and a run on a queue that nobody consumes; passwords are hidden."""
    result = orchestra("doctor")
    assert result.exit_code == 1
    assert re.search(r"FAILED +broker +redis://.*127.0.0.1:1/0 does not answer", result.stdout)
    assert re.search(r"FAILED +queues .*1 on 'default'\n +try: celery -A celery_app worker -Q default", result.stdout)
    assert "hidden" not in result.stdout


def test_doctor_tells_a_database_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails, and the command ends with its code."""
    monkeypatch.setenv("ORCHESTRA_DATABASE_URL", "mysql://host/db")
    settings.reset()
    result = orchestra("doctor")
    assert result.exit_code == 1
    assert "only SQLite and PostgreSQL" in result.stdout


def test_doctor_tells_another_signing_key(parent_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As do all commands that open the database."""
    monkeypatch.setenv("ORCHESTRA_SECRET_KEY", "another")
    settings.reset()
    databases.reset()
    assert re.search(r"FAILED +key .*ORCHESTRA_SECRET_KEY", orchestra("doctor").stdout)
    assert orchestra("flow-run", "ls").exit_code == 2


def test_values_that_json_has_not_are_still_valid_json(home: Path) -> None:
    """NaN, a lone surrogate and a deep value in parameters do not break a listing."""
    odd = flow(name="odd", validate_parameters=False)(lambda x: None)
    odd([float("nan"), "\ud800", "\x00"])
    behind().flush(5)
    text = orchestra("flow-run", "ls", "-o", "json").stdout
    assert len(json.loads(text, parse_constant=lambda name: pytest.fail(name))) == 1


def test_every_error_of_orchestra_has_a_code_of_its_kind() -> None:
    """A missing thing, a conflict and a database that is away are told apart by scripts."""
    assert failure(errors.TaskRunNotFound("x")).code is ExitCode.NOT_FOUND
    assert failure(errors.IdempotencyConflict("x")).code is ExitCode.CONFLICT
    assert failure(errors.StoreUnavailable("x")).code is ExitCode.UNAVAILABLE
    assert failure(errors.BrokerUnavailable("x")).code is ExitCode.UNAVAILABLE
    assert failure(errors.NoBroker()).code is ExitCode.USAGE
    assert failure(errors.OrchestraError("x")).code is ExitCode.ERROR


def test_ids_of_rows_without_a_flow_are_listed_too(home: Path) -> None:
    """A run whose flow's row is gone is shown without its id."""
    run_id = str(uuid.uuid4())
    row = {
        "id": run_id,
        "name": "n",
        "flow_name": "f",
        "path": "m:f",
        "runner": "local",
        "root_run_id": run_id,
        "phase": "DONE",
        "state_type": "COMPLETED",
        "state_name": "Completed",
        "created_at": 1.0,
    }
    databases.database().write(lambda conn: conn.execute(sa.insert(flow_runs).values(row)))
    (run,) = listed("flow-run", "ls")
    assert run["flow_id"] is None


def test_celery_has_the_commands_for_its_own_app(tmp_path: Path) -> None:
    """`celery -A proj orchestra` sends through proj, and says so if orchestra is not installed in it."""
    proj = tmp_path / "shellproj.py"
    command = [sys.executable, "-m", "celery", "-A", "shellproj", "orchestra", "doctor", "-o", "json"]

    def doctor() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)

    proj.write_text(f"from celery import Celery\napp = Celery('shellproj', broker={NOWHERE!r})\n")
    refused = doctor()
    assert refused.returncode == 2
    assert "orchestra.celery.install(app)" in refused.stderr
    with proj.open("a") as file:
        file.write("import orchestra.celery\norchestra.celery.install(app)\n")
    found = {check["name"]: check["status"] for check in json.loads(doctor().stdout)}
    assert (found["broker"], found["database"]) == ("FAILED", "ok")


def test_the_database_is_also_found_below_the_server() -> None:
    """Where Prefect has it."""
    assert orchestra("server", "database", "current").stdout == orchestra("db", "current").stdout
