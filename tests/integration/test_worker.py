"""Workers as people run them: pools, orderly and other ends, the sweeper's process, wrong configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestra import settings
from orchestra.handles import FlowRunHandle
from orchestra.store import logs, workers
from orchestra.store.database import database
from tests import servers
from tests.conftest import WorkerFactory, forget
from tests.helpers import ROOT, children, process_state, session_members, wait_until
from tests.integration import deadly, flows

pytestmark = pytest.mark.services

#: So long that nothing in a test goes on because a lease has lapsed, in seconds.
LONG = "300"
#: What must not take a lease takes at most this, on a busy machine, in seconds.
SOON = 20.0


@pytest.fixture
def long_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes on by a lapsed lease."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", LONG)
    forget()


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Where bodies note that they start."""
    return str(tmp_path / "notes")


def started(file: str, count: int = 1) -> list[str]:
    """Wait until so many bodies were started."""
    return wait_until(lambda: len(flows.notes(file)) >= count and flows.notes(file), f"{count} bodies to start")


def names() -> list[str]:
    """The workers that are written down as living."""
    return [worker.name for worker in workers.live(database())]


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_flow_runs_on_every_pool(worker_factory: WorkerFactory, pool: str) -> None:
    """Direct and submitted calls, from `.delay()` to the result."""
    worker_factory(flows.__name__, pool=pool)

    assert flows.both.delay(3).result(timeout=30) == 15


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_worker_is_written_down_while_it_lives(worker_factory: WorkerFactory, pool: str) -> None:
    """With its queues and slots; it is struck off when it ends."""
    worker = worker_factory(flows.__name__, pool=pool, queues="default,aside", concurrency=3)

    (row,) = workers.live(database())
    assert (row.queues, row.slots, row.pool, row.pid) == (("aside", "default"), 3, pool, worker.pid)

    assert worker.terminate() == 0
    assert names() == []


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
@pytest.mark.usefixtures("long_lease")
def test_an_orderly_stop_finishes_the_body_and_gives_the_run_back(
    worker_factory: WorkerFactory, pool: str, file: str
) -> None:
    """TERM: the running call ends, the flow parks at its next one, and another worker goes on without waiting."""
    worker = worker_factory(flows.__name__, pool=pool)
    handle = flows.in_turn.delay(file, 1.5)
    started(file)

    assert worker.terminate() == 0
    stopped_with = flows.notes(file)
    worker_factory(flows.__name__)

    assert handle.result(timeout=SOON) == ["first", "second"]
    assert stopped_with == ["first"]
    assert flows.notes(file) == ["first", "second"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_log_lines_are_kept_when_the_worker_stops(worker_factory: WorkerFactory, pool: str) -> None:
    """Also those of the last moment, which are written behind."""
    worker = worker_factory(flows.__name__, pool=pool)
    handle = flows.telling.delay("the last word")
    handle.wait(30)

    assert worker.terminate() == 0

    assert "the last word" in [line.message for line in logs.read(database(), handle.id)]


@pytest.mark.usefixtures("long_lease")
@pytest.mark.parametrize("flow", [flows.in_turn, flows.submitted], ids=["direct", "submitted"])
def test_a_cold_stop_frees_what_it_kills_at_once(worker_factory: WorkerFactory, file: str, flow: Any) -> None:
    """QUIT ends the bodies; another worker need not wait for their leases."""
    worker = worker_factory(flows.__name__, env={"CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": "0"})
    handle = flow.delay(file, 60.0 if flow is flows.submitted else 40.0)
    started(file)

    worker.popen.send_signal(signal.SIGQUIT)
    worker.popen.send_signal(signal.SIGQUIT)
    worker.popen.wait(60)
    worker_factory(flows.__name__)

    started(file, 2)
    handle.cancel()


@pytest.mark.usefixtures("long_lease")
def test_a_killed_child_frees_its_claims_at_once(worker_factory: WorkerFactory, file: str) -> None:
    """The sweeper's process sees it die."""
    worker = worker_factory(flows.__name__)
    handle = flows.submitted.delay(file, 2.0)
    started(file)

    os.kill(pid_of_last(file), signal.SIGKILL)

    assert handle.result(timeout=SOON) == "submitted"
    assert flows.notes(file) == ["submitted", "submitted"]
    assert worker.running


@pytest.mark.usefixtures("long_lease")
def test_a_killed_worker_frees_its_claims_at_once(worker_factory: WorkerFactory, file: str) -> None:
    """SIGKILL of the parent alone: its children die with it, and the sweeper's process clears up and ends."""
    worker = worker_factory(flows.__name__)
    handle = flows.submitted.delay(file, 2.0)
    started(file)

    os.kill(worker.pid, signal.SIGKILL)
    worker.popen.wait(10)
    wait_until(lambda: not session_members(worker.pid), "all of the worker to end")
    assert names() == []
    worker_factory(flows.__name__)

    assert handle.result(timeout=SOON) == "submitted"


@pytest.mark.usefixtures("long_lease")
def test_a_worker_killed_just_after_it_forked_frees_its_claims_at_once(
    worker_factory: WorkerFactory, file: str
) -> None:
    """The sweeper's process had no time to see the new child, which took up the work."""
    worker = worker_factory(flows.__name__, concurrency=1)
    (helper,) = worker.helpers()
    (child,) = [pid for pid in children(worker.pid) if pid != helper]
    os.kill(helper, signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: [pid for pid in children(worker.pid) if pid not in (helper, child)], "another child")
    handle = flows.in_turn.delay(file, 2.0)
    started(file)

    os.kill(worker.pid, signal.SIGKILL)
    os.kill(helper, signal.SIGCONT)
    worker.popen.wait(10)
    wait_until(lambda: not session_members(worker.pid), "all of the worker to end")
    worker_factory(flows.__name__)

    assert handle.result(timeout=SOON) == ["first", "second"]


def test_the_sweepers_process_is_started_again_when_it_dies(worker_factory: WorkerFactory) -> None:
    """It is looked after by the worker's loop."""
    worker = worker_factory(flows.__name__)
    (helper,) = worker.helpers()

    os.kill(helper, signal.SIGKILL)

    wait_until(lambda: [pid for pid in worker.helpers() if pid != helper], "another sweeper's process")
    assert flows.both.delay(2).result(timeout=30) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_does_not_end_the_sweeper_first(
    worker_factory: WorkerFactory, number: signal.Signals
) -> None:
    """Ctrl-C reaches every process of a terminal; the sweeper's ends when the worker says so."""
    worker = worker_factory(flows.__name__)
    (helper,) = worker.helpers()

    os.kill(helper, number)

    assert flows.both.delay(2).result(timeout=30) == 7
    assert process_state(helper) is not None


def test_a_hung_body_keeps_its_claim(worker_factory: WorkerFactory, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """A C call that holds the GIL silences the heartbeat; the parent's side renews, and it is not started twice."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "2")
    forget()
    worker_factory(flows.__name__)

    handle = flows.hanging.delay(file, 6)

    assert handle.result(timeout=30) == "woke"
    assert flows.notes(file) == ["hung"]


def test_a_body_that_hangs_for_too_long_loses_its_claim(
    worker_factory: WorkerFactory, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """After `hung_after` another slot starts it again."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "2")
    monkeypatch.setenv("ORCHESTRA_HUNG_AFTER", "1")
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "1")
    forget()
    worker_factory(flows.__name__)

    flows.hanging.delay(file, 8)

    assert started(file, 2) == ["hung", "hung"]


def test_a_run_submitted_while_the_broker_is_away_runs_when_it_is_back(
    broker: servers.Broker, worker_factory: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error, no waiting in `.delay()`, and no wait for a lease afterwards."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", LONG)
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "1")
    forget()
    worker_factory(flows.__name__)
    broker.kill()

    begun = time.monotonic()
    handle = flows.both.delay(2)
    took = time.monotonic() - begun
    broker.start()

    assert took < 5
    assert handle.result(timeout=30) == 7


def test_a_countdown_is_kept(worker_factory: WorkerFactory) -> None:
    """The run is SCHEDULED until it is due, and starts at most a second late, with the broker knowing nothing of it."""
    worker_factory(flows.__name__)

    handle = flows.both.apply_async(args=(1,), countdown=2.0)

    assert handle.state.is_scheduled()
    assert handle.result(timeout=20) == 2


def test_a_run_started_by_a_flow_is_started_once(worker_factory: WorkerFactory, file: str) -> None:
    """`.delay()` in a flow body is a step: a replay gives the same run."""
    worker_factory(flows.__name__)

    child = FlowRunHandle(flows.starting_another.delay(file).result(timeout=30))

    assert child.result(timeout=30) == "child"
    assert sorted(flows.notes(file)) == ["after", "child"]


def test_the_same_idempotency_key_gives_the_same_run(worker_factory: WorkerFactory) -> None:
    """Whatever its state."""
    worker_factory(flows.__name__)
    first = flows.both.apply_async(args=(2,), idempotency_key="monday")
    first.result(timeout=30)

    again = flows.both.apply_async(args=(2,), idempotency_key="monday")

    assert again.id == first.id


def test_a_flow_waits_for_a_worker_of_its_queue(worker_factory: WorkerFactory) -> None:
    """`queue=` of the decorator; its tasks go there, too."""
    worker_factory(flows.__name__)
    handle = flows.elsewhere.delay()
    assert flows.both.delay(1).result(timeout=30) == 2

    waiting = handle.state
    worker_factory(flows.__name__, queues="aside")

    assert waiting.is_pending()
    assert handle.result(timeout=30) == "2"


def test_two_sweepers_do_not_disturb_each_other(worker_factory: WorkerFactory) -> None:
    """One leads; when it ends, the other goes on at once."""
    first, _ = worker_factory(flows.__name__), worker_factory(flows.__name__)
    assert first.terminate() == 0

    assert flows.both.apply_async(args=(1,), countdown=0.5).result(timeout=20) == 2


REFUSALS = [
    ({"ORCHESTRA_FLOWS": "no_such_flows"}, "ORCHESTRA_FLOWS names the module 'no_such_flows'"),
    ({"ORCHESTRA_SECRET_KEY": "another"}, "signs with key"),
    ({"ORCHESTRA_DATABASE_URL": "mysql://nowhere/x"}, "only SQLite and PostgreSQL"),
    ({"ORCHESTRA_BROKER_URL": ""}, "run `orchestra dev`"),
]


@pytest.mark.parametrize(("env", "reason"), REFUSALS, ids=["flows", "key", "database", "broker"])
@pytest.mark.usefixtures("broker")
def test_a_worker_that_cannot_work_says_why_and_ends(env: dict[str, str], reason: str) -> None:
    """One sentence and no traceback."""
    database().close()
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-c", "1", "-Q", "default"]

    ended = subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, text=True, capture_output=True, timeout=60)

    assert ended.returncode == 1
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_eager_flows_run_here(broker: servers.Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`task_always_eager`, as in a test suite of a Celery project."""
    code = """
        import celery, orchestra.celery
        app = orchestra.celery.install(celery.Celery("eager", broker="memory://"))
        app.conf.task_always_eager = True
        from tests.integration.flows import both
        handle = both.delay(2)
        print(handle.result(), handle.state.name, handle.id)
    """
    script = tmp_path / "eager.py"
    script.write_text("\n".join(line.strip() for line in code.splitlines()))

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, script], env=environment, text=True, capture_output=True, timeout=60)

    result, state, run_id = ended.stdout.split()
    assert (result, state) == ("7", "Completed")
    assert FlowRunHandle(run_id).state.is_completed()


def pid_of_last(file: str) -> int:
    """The process that noted the last line."""
    return int(Path(file).read_text().split()[-1])


def test_no_child_of_a_worker_is_left_when_it_ends(worker_factory: WorkerFactory) -> None:
    """Neither a slot nor the sweeper's process."""
    worker = worker_factory(flows.__name__)
    family = children(worker.pid)

    assert worker.terminate() == 0

    wait_until(lambda: not [pid for pid in family if process_state(pid) not in (None, "Z")], "all of them to end", 5)
    assert settings.current().lease_seconds == 30


@pytest.mark.usefixtures("short_lease")
def test_code_whose_import_kills_the_worker_leaves_it_in_peace_after_three_starts(
    worker_factory: WorkerFactory,
) -> None:
    """The run is Crashed, and kept for a retry where the code can be imported."""
    worker_factory(flows.__name__, env={"TEST_IMPORT_IS_DEADLY": "1"})
    handle = deadly.lives.delay()

    # Three leases at the worst: one that was never seen alive is not seen to die.
    assert handle.wait(120).name == "Crashed"


def test_a_body_that_waits_for_a_run_it_started_holds_no_slot(worker_factory: WorkerFactory) -> None:
    """The only slot carries that run meanwhile; what was seen of it is seen in each replay."""
    worker_factory(flows.__name__, concurrency=1)

    assert flows.waits_for_another.delay().result(timeout=SOON) == [False, 15, True]
    assert flows.catches_another.delay().result(timeout=SOON) == "caught as it should"
