"""`ProcessPoolTaskRunner` in this process: bodies run in processes of their own, and that shows nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestra import flow, runtime, task, wait
from orchestra.engine import operations
from orchestra.errors import CancelledRun, CrashedRun, RunTimeout, SerializationError
from orchestra.states import State
from orchestra.store import logs, queries
from orchestra.store.database import Database
from orchestra.task_runners import InlineTaskRunner, ProcessPoolTaskRunner
from tests.engine.bounded_flows import told
from tests.helpers import ROOT, children, command_line, process_state, wait_until

pytestmark = pytest.mark.services


class Odd(Exception):
    """Cannot be pickled as it is."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def pool_processes(pid: int | None = None) -> list[int]:
    """The processes that this process's flows have started."""
    return [each for each in children(pid or os.getpid()) if "pool_process" in command_line(each)]


@pytest.fixture(autouse=True)
def no_process_stays() -> Any:
    """When a flow has ended, so have its processes."""
    yield
    wait_until(lambda: not pool_processes(), "the processes of the pool to end")


@task
def pid_of(x: int) -> int:
    return os.getpid()


@task
def doubled(x: int) -> int:
    return 2 * x


def test_submitted_tasks_run_in_other_processes_and_direct_calls_here() -> None:
    """As many as asked for, used again; results and futures go between them."""

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
    def work() -> tuple[set[int], int, int]:
        pids = pid_of.map(range(6)).result()
        values = doubled.map(doubled.map([1, 2, 3]))
        return set(pids), pid_of(1), sum(values.result())

    pids, here, value = work()

    assert len(pids) <= 2
    assert os.getpid() not in pids
    assert here == os.getpid()
    assert value == 24


def test_functions_that_cannot_be_imported_go_by_value() -> None:
    """Nested ones, with what they close over, and async ones."""
    factor = 3

    @task
    def tripled(x: int) -> int:
        return factor * x

    @task
    async def later(x: int) -> int:
        return factor + x

    @flow(task_runner=ProcessPoolTaskRunner)
    def work() -> list[int]:
        return [tripled.submit(2).result(), later.submit(2).result()]

    assert work() == [6, 5]


def test_a_body_knows_its_run_and_its_lines_are_kept(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """`runtime`, `get_run_logger()` and captured prints, with handlers of this process and in the database."""
    found: list[str] = []

    @flow(log_prints=True, task_runner=ProcessPoolTaskRunner(max_workers=1))
    def work(day: str) -> dict[str, Any]:
        found.extend([runtime.flow_run.id or "", runtime.flow_run.name or ""])
        return told.submit(7).result()

    seen = work("monday")

    run_id, name = found
    assert seen.pop("pid") != os.getpid()
    assert seen == {
        "task": "told-0",
        "attempt": 1,
        "parameters": {"x": 7},
        "flow": name,
        "flow_parameters": {"day": "monday"},
    }
    lines = {line.message for line in logs.read(database, run_id)}
    assert {"a line from 7", "printed 7"} <= lines
    assert [record.getMessage() for record in caplog.records].count("a line from 7") == 1


def test_failures_and_retries_are_those_of_any_task(tmp_path: Path) -> None:
    """The exception comes back with its type, and the next try may run in another process."""
    file = tmp_path / "tries"

    @task(retries=2)
    def doubtful() -> int:
        with file.open("a") as out:
            out.write("x")
        if len(file.read_text()) < 3:
            raise KeyError("not yet")
        return runtime.task_run.run_count

    @task
    def bad() -> None:
        raise KeyError("no")

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def work() -> tuple[int, Any]:
        future = bad.submit()
        return doubtful.submit().result(), future.result(raise_on_failure=False)

    count, error = work()

    assert count == 3
    assert isinstance(error, KeyError)
    assert "in bad" in "".join(error.__notes__)


def test_an_exception_that_cannot_be_pickled_is_told_as_text() -> None:
    """It fails its task, not the flow's process."""

    @task
    def bad() -> None:
        raise Odd("so", "it is")

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def work() -> BaseException:
        return bad.submit().result(raise_on_failure=False)

    assert "so it is" in str(work())


@pytest.mark.parametrize("what", ["arguments", "result", "function"])
def test_what_cannot_be_handed_over_fails_its_task_with_a_clear_error(what: str) -> None:
    """Named, with the part that cannot be pickled."""
    lock = threading.Lock()

    @task
    def takes(x: Any) -> Any:
        return None

    @task
    def gives() -> Any:
        return threading.Lock()

    @task
    def holds() -> Any:
        return lock.locked()

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def work() -> Any:
        future = {"arguments": lambda: takes.submit([lock]), "result": gives.submit, "function": holds.submit}[what]()
        return future.result()

    with pytest.raises(SerializationError, match=f"the {'set of ' if what == 'arguments' else ''}{what}.*lock"):
        work()


def test_a_killed_process_crashes_its_task_alone() -> None:
    """It is told what killed it; the others go on, and new tasks get new processes."""

    @task
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    def exits() -> None:
        os._exit(3)

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
    def work() -> list[Any]:
        first, second, good = dies.submit(), exits.submit(), doubled.map(range(4))
        wait([first, second])
        told = [(future.state.name, future.state.message) for future in (first, second)]
        return [told, first.result(raise_on_failure=False), sum(good.result()), doubled.submit(8).result()]

    told, error, value, after = work()

    assert told == [
        ("Crashed", "the process that ran it was killed by SIGKILL"),
        ("Crashed", "the process that ran it ended with exit code 3"),
    ]
    assert isinstance(error, CrashedRun)
    assert (value, after) == (12, 16)


@pytest.mark.parametrize("stubborn", [False, True], ids=["sleeps", "swallows it"])
def test_a_body_over_its_time_is_stopped(stubborn: bool, tmp_path: Path) -> None:
    """Also one that does not listen: then its process is killed, and what it had started."""
    file = tmp_path / "pid"

    @task(timeout_seconds=0.5)
    def slow() -> None:
        file.write_text(str(os.getpid()))
        while True:
            try:
                time.sleep(60)
            except BaseException:
                if not stubborn:
                    raise

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def work() -> State[Any]:
        future = slow.submit()
        future.wait()
        return future.state.name, future.result(raise_on_failure=False), doubled.submit(1).result()

    name, error, after = work()

    assert (name, after) == ("TimedOut", 2)
    assert isinstance(error, RunTimeout)
    if stubborn:
        assert process_state(int(file.read_text())) is None


def test_the_flow_times_out_and_its_processes_end(tmp_path: Path) -> None:
    """Where a thread would go on, a process is ended."""
    file = tmp_path / "pid"

    @task
    def slow() -> None:
        file.write_text(str(os.getpid()))
        time.sleep(60)

    @flow(timeout_seconds=2, task_runner=ProcessPoolTaskRunner(max_workers=1))
    def work() -> None:
        slow.submit().result()

    with pytest.raises(TimeoutError):
        work()

    wait_until(lambda: not file.exists() or process_state(int(file.read_text())) in (None, "Z"), "the process to end")


def test_cancelling_the_flow_ends_its_processes(database: Database, tmp_path: Path) -> None:
    """From outside, while a body runs."""
    file = tmp_path / "pid"

    @task
    def slow() -> None:
        file.write_text(str(os.getpid()))
        time.sleep(60)

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def work() -> None:
        run_ids.append(runtime.flow_run.id or "")
        slow.submit().result()

    run_ids: list[str] = []

    def cancel() -> None:
        wait_until(file.exists, "the body to start")
        operations.cancel(database, run_ids[0])

    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    with pytest.raises(CancelledRun):
        work()
    canceller.join()

    wait_until(lambda: process_state(int(file.read_text())) in (None, "Z"), "the process to end")


def script(folder: Path, body: str) -> Path:
    """A script as a user writes it: everything in one file, the flow called at its end without a guard."""
    path = folder / "etl.py"
    path.write_text(textwrap.dedent(body))
    return path


SCRIPT = """
    import os, time
    from orchestra import flow, task
    from orchestra.task_runners import ProcessPoolTaskRunner

    class Row:
        def __init__(self, x): self.x = x

    @task
    def made(x, seconds):
        open({started!r}, "a").write(f"{{os.getpid()}}\\n")
        time.sleep(seconds)
        return Row(x)

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
    def work(seconds):
        rows = made.map([1, 2, 3], seconds).result()
        assert all(isinstance(row, Row) for row in rows)
        return sum(row.x for row in rows)

    print("answer", work({seconds}), flush=True)
"""


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Its tasks and classes live in `__main__`; the script is run once."""
    path = script(tmp_path, SCRIPT.format(started=str(tmp_path / "started"), seconds=0))

    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60)

    assert done.stdout == "answer 6\n", done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_when_the_script_ends_so_do_its_processes(tmp_path: Path, how: signal.Signals) -> None:
    """By Ctrl-C, TERM or kill -9, in the midst of bodies."""
    started = tmp_path / "started"
    path = script(tmp_path, SCRIPT.format(started=str(started), seconds=60))
    with subprocess.Popen([sys.executable, str(path)], stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        wait_until(lambda: started.exists() and len(started.read_text().split()) == 2, "two bodies to start")
        process.send_signal(how)
        process.wait(20)

    pids = [int(pid) for pid in started.read_text().split()]
    wait_until(lambda: all(process_state(pid) in (None, "Z") for pid in pids), "the processes to end")


def test_the_run_of_an_interrupted_script_is_crashed(database: Database, tmp_path: Path) -> None:
    """And so is shown at once."""
    started = tmp_path / "started"
    path = script(tmp_path, SCRIPT.format(started=str(started), seconds=60))
    with subprocess.Popen([sys.executable, str(path)], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: started.exists() and len(started.read_text().split()) == 2, "two bodies to start")
        process.send_signal(signal.SIGINT)
        process.wait(20)

    (run,) = queries.list_flow_runs(database).items
    assert run.state_name == "Crashed"


def test_inline_tasks_run_here_and_at_once() -> None:
    """In the calling thread, one after another; a failure comes with the future."""
    seen: list[Any] = []

    @task
    def note(x: Any) -> int:
        seen.append((x, threading.current_thread() is threading.main_thread()))
        return len(seen)

    @task
    def bad() -> None:
        raise ValueError("no")

    @flow(task_runner=InlineTaskRunner())
    def work() -> list[Any]:
        first = note.submit("a")
        seen.append("body")
        second = note.submit(first)
        failed = bad.submit()
        return [second.result(), failed.state.name, note.submit(failed).state.name]

    assert work() == [3, "Failed", "UpstreamFailed"]
    assert seen == [("a", True), "body", (1, True)]
