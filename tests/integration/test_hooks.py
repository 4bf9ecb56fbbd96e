"""State hooks with real workers, and of real processes that are told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestra.store import logs
from orchestra.store.database import Database, database
from orchestra.store.tables import flow_runs, owed_hooks
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until
from tests.integration import hook_flows as flows
from tests.integration.flows import notes

pytestmark = pytest.mark.slow


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Where hooks note what they were told."""
    return str(tmp_path / "notes")


def noted(file: str, what: str, times: int = 1) -> None:
    """Wait until a hook has noted this."""
    wait_until(lambda: notes(file).count(what) >= times, f"{times} times {what}", 30)


def nothing_owed() -> None:
    """Wait until all debts are struck off."""
    wait_until(lambda: database().read(lambda c: c.execute(owed_hooks.select()).first()) is None, "no hooks owed", 30)


@pytest.mark.services
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_hooks_are_called_on_every_pool(database_url: str, worker_factory: WorkerFactory, pool: str, file: str) -> None:
    """Of the flow, of a submitted task, of a direct one; async ones, too."""
    worker_factory(flows.__name__, pool=pool)

    flows.hooked.delay(file).result(timeout=30)

    noted(file, "hooked:Completed", 2)
    nothing_owed()
    assert Counter(notes(file)) == {
        "hooked:Running": 1,
        "noted:Running": 2,
        "noted:Completed": 4,
        "hooked:Completed": 2,
    }


@pytest.mark.services
def test_failing_runs_call_on_failure(database_url: str, worker_factory: WorkerFactory, file: str) -> None:
    """With log lines in the run's log."""
    worker_factory(flows.__name__)

    handle = flows.hooked.delay(file, fails=True)

    assert handle.wait(30).name == "Failed"
    noted(file, "hooked:Failed")
    assert notes(file)[-2:] == ["noted:Failed", "hooked:Failed"]
    lines = wait_until(
        lambda: [line.message for line in logs.read(database(), handle.id) if "told of Failed" in line.message],
        "the hooks' lines",
    )
    assert "a hook was told of Failed" in lines


@pytest.mark.services
def test_a_task_in_the_background_calls_its_hooks(database_url: str, worker_factory: WorkerFactory, file: str) -> None:
    """`.delay()` of a task, without a flow around it."""
    worker_factory(flows.__name__)

    assert flows.noted.delay(file).result(timeout=30) == "noted"

    nothing_owed()
    assert Counter(notes(file)) == {"noted:Running": 1, "noted:Completed": 2}


@pytest.mark.services
def test_a_running_run_that_is_cancelled_calls_on_cancellation(
    database_url: str, worker_factory: WorkerFactory, file: str
) -> None:
    """When its body has been stopped."""
    worker_factory(flows.__name__)
    handle = flows.cancelled.delay(file)
    noted(file, "started")

    handle.cancel()

    assert handle.wait(30).name == "Cancelled"
    noted(file, "cancelled:Cancelled")


@pytest.mark.services
def test_a_run_that_is_cancelled_before_a_worker_comes_calls_on_cancellation(
    database_url: str, worker_factory: WorkerFactory, file: str
) -> None:
    """By the worker that comes."""
    handle = flows.cancelled.delay(file)
    handle.cancel()
    assert handle.wait(1).name == "Cancelled"

    worker_factory(flows.__name__)

    noted(file, "cancelled:Cancelled")
    nothing_owed()


@pytest.mark.services
def test_a_long_hook_is_called_once(
    database_url: str, worker_factory: WorkerFactory, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim is renewed for as long as it takes."""
    lease = {"ORCHESTRA_LEASE_SECONDS": "1.5", "ORCHESTRA_SWEEP_SECONDS": "0.5"}
    worker_factory(flows.__name__, env=lease)
    worker_factory(flows.__name__, env=lease)

    flows.slowly_hooked.delay(file, 5.0).result(timeout=30)

    noted(file, "lasted")
    nothing_owed()
    assert notes(file) == ["lasting", "lasted"]


# -- in a process of one's own -----------------------------------------------------------------------------------

SCRIPT = """
import asyncio, sys, time
from orchestra import flow

def tell(flow, flow_run, state):
    print("told", flow.name, state.type, flush=True)

@flow(on_crashed=tell, on_failure=tell, on_completion=tell)
def inner():
    print("started", flush=True)
    time.sleep(60)

@flow(on_crashed=tell)
def plain():
    inner()

@flow(on_crashed=tell)
async def coroutine():
    print("started", flush=True)
    await asyncio.sleep(60)

if sys.argv[1] == "plain":
    plain()
else:
    asyncio.run(coroutine())
"""
TOLD = {"plain": ["told inner CRASHED", "told plain CRASHED"], "coroutine": ["told coroutine CRASHED"]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
@pytest.mark.parametrize("name", ["plain", "coroutine"])
def test_a_script_that_is_told_to_end_calls_on_crashed(tmp_path: Path, name: str, number: int) -> None:
    """Runs are recorded as Crashed; the process ends as whoever told it expects."""
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py"), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        told = process.stdout.read().splitlines()

    assert process.returncode == -number
    assert told == TOLD[name]
    with_rows = Database(f"sqlite:///{os.environ['ORCHESTRA_HOME']}/orchestra.db")
    rows = with_rows.read(lambda c: c.execute(flow_runs.select()).all())
    with_rows.close()
    assert {row.state_type for row in rows} == {"CRASHED"}


def test_a_program_with_a_handler_of_its_own_keeps_it(tmp_path: Path) -> None:
    """Nothing of orchestra's is put in its place."""
    script = (
        "import os, signal\nfrom orchestra import flow\nsignal.signal(signal.SIGTERM, lambda *_: print('mine'))\n"
        "@flow(on_crashed=print)\ndef f():\n    os.kill(os.getpid(), signal.SIGTERM)\n    return 'went on'\n"
        "print(f())\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)

    assert ended.stdout.splitlines() == ["mine", "went on"]
