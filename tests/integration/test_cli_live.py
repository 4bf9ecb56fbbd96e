"""The command line as a person meets it: in a terminal, with Ctrl-C, through pipes, and where something is missing."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Signature
from click.testing import CliRunner, Result

from orchestra import clock, settings
from orchestra.celery.embedded import read_address
from orchestra.cli import cli
from orchestra.store import workers
from orchestra.store.behind import behind
from orchestra.store.database import database
from tests import servers
from tests.conftest import WorkerFactory, fresh_database
from tests.helpers import ROOT, command_line, environment_of, processes, wait_until
from tests.integration import live_flows

pytestmark = pytest.mark.services

COMMAND = [sys.executable, "-m", "orchestra"]
FLOWS = live_flows.__name__
CANVASES = "tests.unit.canvas_flows"
#: What moves the cursor and colours text.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command in a terminal of its own, and what stands on the screen."""

    def __init__(self, *args: str, columns: int = 100) -> None:
        """Start `orchestra` with these arguments."""
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [*COMMAND, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env=environment | {"TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._written = b""

    def raw(self) -> str:
        """All that was written until now."""
        try:
            while select.select([self._master], [], [], 0)[0] and (piece := os.read(self._master, 65536)):
                self._written += piece
        except OSError:
            pass  # the last process of the terminal has ended
        return self._written.decode(errors="replace")

    def text(self) -> str:
        """The same as words only."""
        return _ESCAPES.sub("", self.raw())

    def shows(self, pattern: str) -> None:
        """Wait until something of this pattern was written."""

        def seen() -> bool:
            ended = self.process.poll() is not None
            found = re.search(pattern, self.text()) is not None
            assert found or not ended, self.text()
            return found

        wait_until(seen, f"{pattern!r} on the screen", 40)

    def ctrl_c(self) -> None:
        """As a person types it."""
        os.write(self._master, b"\x03")

    def code(self, timeout: float = 40.0) -> int:
        """Wait for the end; the exit code."""

        def ended() -> bool:
            self.raw()
            return self.process.poll() is not None

        wait_until(ended, "the command to end", timeout)
        return int(self.process.returncode)

    def close(self) -> None:
        """Kill what is left."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Starts commands in terminals of their own."""
    opened: list[Terminal] = []

    def start(*args: str, columns: int = 100) -> Terminal:
        opened.append(Terminal(*args, columns=columns))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def orchestra(*args: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with pipes."""
    surrounding = os.environ | environment
    done = subprocess.run([*COMMAND, *args], cwd=ROOT, env=surrounding, text=True, capture_output=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def said(*args: str, code: int = 0) -> Result:
    """What a command prints; in this process, which is faster."""
    result = CliRunner().invoke(cli, list(args), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def inspected(run_id: str) -> dict[str, Any]:
    """A run as `inspect` prints it."""
    return dict(json.loads(said("flow-run", "inspect", run_id, "-o", "json").stdout))


# -- watching in a terminal --------------------------------------------------------------------------------------


@pytest.fixture
def gates(tmp_path: Path, worker_factory: WorkerFactory) -> Path:
    """A folder for gates, and a worker that knows the flows which wait at them."""
    worker_factory(FLOWS)
    return tmp_path


def counts(screen: Terminal, bar: str) -> list[int]:
    """What a bar of three steps has shown."""
    return [int(done) for done in re.findall(rf"\b{bar} +[━╸╺]+ +(\d)/3", screen.text())]


def test_bars_move_from_none_to_all(gates: Path, terminal: Callable[..., Terminal]) -> None:
    """Each task that ends moves its bar and the run's; the end is said in a sentence, and the cursor comes back."""
    screen = terminal("flow-run", "watch", live_flows.through_gates.delay(str(gates)).id)
    for number in range(3):
        screen.shows(rf"gated +[━╸╺]+ +{number}/3")
        (gates / str(number)).touch()

    assert screen.code() == 0
    assert set(counts(screen, "gated")) == {0, 1, 2, 3}
    for bar in ("run", "gated"):
        assert counts(screen, bar) == sorted(counts(screen, bar))
        assert counts(screen, bar)[-1] == 3
    assert re.search(r"Flow run '\S+' ended Completed after [\d.]+ s\s*$", screen.text())
    assert screen.raw().rindex("\x1b[?25h") > screen.raw().rindex("\x1b[?25l")


def test_a_failed_run_ends_the_watch_with_its_reason(home: Path, terminal: Callable[..., Terminal]) -> None:
    """Exit code 6, as without a terminal."""
    with pytest.raises(ValueError, match="no data"):
        live_flows.broken()
    behind().flush(5)
    (run,) = json.loads(said("flow-run", "ls", "-o", "json").stdout)

    screen = terminal("flow-run", "watch", run["id"])

    assert screen.code() == 6
    assert f"Flow run {run['name']!r} ended Failed" in screen.text()
    assert "ValueError: no data" in screen.text()


def test_ctrl_c_ends_the_watch_and_not_the_run(gates: Path, terminal: Callable[..., Terminal]) -> None:
    """With a sentence how to look again instead of a traceback; the run goes on to its end."""
    run = live_flows.through_gates.delay(str(gates))
    screen = terminal("flow-run", "watch", run.id)
    screen.shows(" 0/3")
    screen.ctrl_c()

    assert screen.code(10) == 130
    assert f"The run goes on. Look again with `orchestra flow-run watch {run.id}`" in screen.text()
    assert "Traceback" not in screen.text()
    assert inspected(run.id)["state_type"] == "RUNNING"
    for number in range(3):
        (gates / str(number)).touch()
    assert run.result(timeout=30) == 3


def test_ctrl_c_leaves_a_run_that_was_created_to_be_watched(
    broker: servers.Broker, terminal: Callable[..., Terminal]
) -> None:
    """Its id stands on the screen, and it waits for its worker as before."""
    screen = terminal("flow-run", "create", "--flow", f"{FLOWS}:short", "--watch")
    screen.shows(r"run +[━╸╺]+ +0/\?")
    screen.ctrl_c()

    assert screen.code(10) == 130
    assert "Traceback" not in screen.text()
    run_id = screen.text().splitlines()[0]
    assert f"orchestra flow-run watch {run_id}" in screen.text()
    assert inspected(run_id)["state_type"] in ("PENDING", "SCHEDULED")


def test_ctrl_c_ends_following_the_logs(gates: Path, terminal: Callable[..., Terminal]) -> None:
    """With the exit code of any command that Ctrl-C ends; the run goes on."""
    run = live_flows.through_gates.delay(str(gates))
    screen = terminal("flow-run", "logs", run.id, "--follow")
    screen.shows("started flow")
    screen.ctrl_c()

    assert screen.code(10) == 130
    assert "Traceback" not in screen.text()
    assert inspected(run.id)["state_type"] == "RUNNING"


# -- lists in terminals and pipes --------------------------------------------------------------------------------


@pytest.fixture
def told(home: Path) -> str:
    """A text of many words that a flow of a long name was given, logged and returned."""
    text = "many words " * 1000
    live_flows.wordy(text)
    behind().flush(5)
    return text


def test_json_is_never_cut_however_narrow_the_terminal(told: str) -> None:
    """Every listing and page, as a script reads it."""

    def read(*args: str) -> Any:
        return json.loads(orchestra(*args, "-o", "json", COLUMNS="20").stdout)

    (run,) = read("flow-run", "ls")
    (step,) = read("task-run", "ls")
    assert (run["flow_name"], run["parameters"]) == (live_flows.LONG, {"text": told})
    assert step["name"] == f"{live_flows.LONG}-0"
    assert [flow["name"] for flow in read("flow", "ls")] == [live_flows.LONG]
    assert told in [line["message"] for line in read("flow-run", "logs", run["id"])]
    assert read("flow-run", "inspect", run["id"])["parameters"] == {"text": told}
    assert read("task-run", "inspect", step["id"])["name"] == step["name"]
    assert live_flows.LONG in json.dumps(read("flow-run", "canvas", run["id"]))


def test_text_in_a_pipe_is_never_cut_either(told: str) -> None:
    """A row is one line, so that `grep` and `awk` find it."""
    for args in (["flow-run", "ls"], ["task-run", "ls"], ["flow", "ls"]):
        lines = orchestra(*args, COLUMNS="20").stdout.splitlines()
        assert len(lines) == 2, args
        assert live_flows.LONG in lines[1]
        assert "Completed" in lines[1]


@pytest.mark.parametrize("noun", ["flow-run", "task-run"])
def test_a_list_can_be_read_at_eighty_columns(noun: str, home: Path, terminal: Callable[..., Terminal]) -> None:
    """The id and the state stand there whole, and the name at least begins."""
    live_flows.short()
    behind().flush(5)
    (row,) = json.loads(said(noun, "ls", "-o", "json").stdout)

    screen = terminal(noun, "ls", columns=80)

    assert screen.code() == 0
    for word in (row["id"], row["name"][:6], "Completed"):
        assert word in screen.text()


# -- canvases ----------------------------------------------------------------------------------------------------


def test_the_canvas_of_a_flow_is_drawn_as_text() -> None:
    """With the parameters given; no broker is asked, and no task runs."""
    drawn = orchestra("flow", "canvas", f"{CANVASES}:layered", "-p", "width=2").stdout
    assert "chain of" in drawn
    assert "group of 2" in drawn
    assert re.search(r"then\n( +chain of \d\n)? +total-0  \(queue heavy\)", drawn)


def test_the_canvas_of_a_flow_is_drawn_as_a_mermaid_graph() -> None:
    """Each call is a node, and each edge leads from one node to another."""
    graph = said("flow", "canvas", f"{CANVASES}:layered", "--param", "width=2", "--mermaid").stdout.splitlines()
    nodes = dict(found.groups() for line in graph if (found := re.fullmatch(r'  (n\d+)\["(.*)"\]', line)))
    edges = [line.split() for line in graph if "-->" in line]
    assert graph[0] == "graph LR"
    assert {"add-0", "add-1", "add-2", "total-0"} <= set(nodes.values())
    assert edges
    assert {end for before, _, after in edges for end in (before, after)} <= {line.strip()[:2] for line in graph}


def test_the_canvas_of_a_flow_as_json_is_a_celery_signature() -> None:
    """Celery makes the canvas of it again."""
    data = json.loads(said("flow", "canvas", f"{CANVASES}:straight", "-p", "n=2", "-o", "json").stdout)
    canvas = Signature.from_dict(data)
    assert canvas.task == "celery.chain"
    assert "add-0" in str(data)
    assert "add-2" not in str(data)


@pytest.mark.parametrize("style", [[], ["--mermaid"], ["-o", "json"]])
def test_a_body_that_looks_into_a_result_is_refused_with_task_and_line(style: list[str]) -> None:
    """One sentence on stderr, which says also that the flow still runs step by step; nothing on stdout."""
    source = (ROOT / "tests/unit/canvas_flows.py").read_text().splitlines()
    line = next(number for number, text in enumerate(source, 1) if text.endswith("# bool"))

    refused = said("flow", "canvas", f"{CANVASES}:branches", *style, code=2)

    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert f"canvas_flows.py:{line}" in refused.stderr
    assert "task 'add'" in refused.stderr
    assert "still runs step by step" in refused.stderr


# -- doctor ------------------------------------------------------------------------------------------------------


def diagnosed(name: str) -> dict[str, Any]:
    """What `doctor` found in one of its checks."""
    result = CliRunner().invoke(cli, ["doctor", "-o", "json"], catch_exceptions=False)
    found = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.exit_code == ("FAILED" in {check["status"] for check in found.values()})
    return dict(found[name])


def registered(version: str) -> str:
    """The name of a worker that has signed on, of some version of orchestra."""
    row = workers.WorkerRow("w@host", "host", 1, ("default",), 2, "prefork", version)
    workers.register(database(), row)
    return row.name


def test_doctor_names_the_command_that_starts_a_worker(broker: servers.Broker) -> None:
    """Where none was ever there, and where the only one has not been heard of for a lease."""
    missing = {"name": "workers", "status": "FAILED", "message": "no live worker"}
    missing["next"] = "celery -A celery_app worker -Q default"
    assert diagnosed("workers") == missing
    registered("0.1.0")
    assert diagnosed("workers")["status"] == "ok"
    long_ago = clock.now() - settings.current().lease_seconds - 1
    database().write(lambda conn: conn.exec_driver_sql(f"UPDATE workers SET heartbeat_at = {long_ago}"))
    assert diagnosed("workers") == missing


def test_doctor_names_what_to_do_about_a_worker_of_another_version(broker: servers.Broker) -> None:
    """It works, but a person should know, and know what to type."""
    registered("0.0.7")
    found = diagnosed("workers")
    assert "0.0.7" in found["message"]
    assert found["next"]


@pytest.fixture
def late_database(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PostgreSQL database whose clock is 90 s ahead."""
    with fresh_database("postgres", request, home) as url:
        plain = url.replace("+psycopg", "")
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
                " $$ SELECT pg_catalog.clock_timestamp() + interval '90 s' $$"
            )
            name = connection.info.dbname
            connection.execute(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog')  # type: ignore[call-overload]  # a name is no literal
        monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
        settings.reset()
        yield


def test_doctor_tells_a_clock_that_goes_wrong(late_database: None) -> None:
    """By how much, in which direction, and what sets it right."""
    found = diagnosed("clock")
    assert found["status"] == "FAILED"
    assert re.search(r"this host is (89\.\d|90\.\d) s behind the database", found["message"])
    assert found["next"] == "chronyc makestep"


# -- orchestra dev -----------------------------------------------------------------------------------------------


@pytest.fixture
def dev(home: Path, terminal: Callable[..., Terminal]) -> Iterator[Terminal]:
    """`orchestra dev` in a terminal, its broker up."""
    screen = terminal("dev", "--flows", FLOWS, "--concurrency", "1", columns=200)
    try:
        screen.shows("broker at ")
        settings.reset()
        yield screen
    finally:
        for pid in family(home):
            os.kill(pid, signal.SIGKILL)


def test_worker_start_becomes_a_celery_worker(broker: servers.Broker, tmp_path: Path) -> None:
    """On the queues that are named, in the place of the command: SIGTERM ends it in order, as any of Celery's."""
    options = ["-q", "etl", "--flows", FLOWS, "--concurrency", "1", "--pool-type", "solo", "--", "--without-mingle"]
    worker = servers.Process([*COMMAND, "worker", "start", *options], tmp_path / "worker.log")
    try:
        run = live_flows.short.apply_async(queue="etl")
        wait_until(lambda: run.ready() or not worker.running, "the run to end", 30)
        assert run.result(timeout=5) == 1, worker.log()
        assert worker.terminate() == 0
    finally:
        worker.kill_group()


def family(home: Path) -> dict[int, str]:
    """The processes of a home, and their command lines."""
    mark = f"ORCHESTRA_HOME={home}"
    return {pid: command_line(pid) for pid in processes() if pid != os.getpid() and mark in environment_of(pid)}


def parts(home: Path) -> set[str]:
    """Which parts of `orchestra dev` live."""
    lines = family(home).values()
    found = {part for part in ("worker", "beat") for line in lines if f"celery_app {part} " in line}
    found |= {"server"} if any("orchestra server start" in line for line in lines) else set()
    return found | ({"broker"} if read_address(home) else set())


def test_dev_brings_up_broker_worker_beat_and_server(dev: Terminal, home: Path) -> None:
    """Runs of the same home go through them, without any setting."""
    dev.shows(r" ready\.")
    dev.shows(r"beat: Starting\.\.\.")
    assert parts(home) == {"broker", "worker", "beat", "server"}

    screen = said("flow-run", "create", "--flow", f"{FLOWS}:short", "--watch")

    assert inspected(screen.stdout.splitlines()[0])["state_type"] == "COMPLETED"
    assert diagnosed("workers")["status"] == "ok"
    wait_until(lambda: CliRunner().invoke(cli, ["server", "status"]).exit_code == 0, "the server to answer")


def test_a_second_dev_in_the_same_home_is_refused(dev: Terminal, home: Path) -> None:
    """In one sentence, with the process id of the first, which is not disturbed."""
    refused = orchestra("dev", "--flows", FLOWS, code=2)
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert f"runs already in {str(home)!r} (process {dev.process.pid})" in refused.stderr
    assert dev.process.poll() is None
    assert parts(home) == {"broker", "worker", "beat", "server"}


def test_ctrl_c_ends_dev_in_order(dev: Terminal, home: Path) -> None:
    """The worker first: the others wait until it has finished what it runs; then nothing is left."""
    run = live_flows.through_gates.delay(str(home), 1)
    dev.shows(r"gated-0\[.*received")
    dev.ctrl_c()
    dev.shows("Warm shutdown")
    assert parts(home) == {"broker", "worker", "beat", "server"}

    (home / "0").touch()

    assert dev.code() == 0
    wait_until(lambda: not family(home), "every process to end")
    assert parts(home) == set()
    assert "Traceback" not in dev.text()
    (step,) = json.loads(said("task-run", "ls", "--flow-run", run.id, "-o", "json").stdout)
    assert step["state_type"] == "COMPLETED"
