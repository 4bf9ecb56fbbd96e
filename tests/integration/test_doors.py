"""The doors of a run on real workers: code that a worker lacks, what `.delay()` refuses and promises, handles, ends."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from orchestra.errors import CancelledRun, IllegalTransition, NotImportable, ParameterError
from orchestra.handles import FlowRunHandle
from orchestra.store import queries
from orchestra.store.database import database
from tests import servers
from tests.conftest import WorkerFactory, forget
from tests.helpers import ROOT, wait_until
from tests.integration import door_flows as doors
from tests.integration import flows

pytestmark = pytest.mark.services

#: What must not take a lease takes at most this, on a busy machine, in seconds.
SOON = 20.0
#: A cancelled body hears of it within a sixth of the short lease, and a busy machine may add to that; in seconds.
PROMPT = 3.0
#: Timers are at most a second late; a busy machine may add another.
LATE = 2.0
#: For what does not depend on the database.
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)

YESTERDAY = """
from orchestra import flow, task

@flow
def counted(n: int) -> int:
    return n
"""
TODAY = f"""{YESTERDAY}
@flow
def priced(n: int) -> int:
    return n * 10

@task(queue="aside")
def weigh(n: int) -> int:
    return n + 1

@flow
def weighed(n: int) -> int:
    return weigh.submit(n).result()

@flow(queue="aside")
def packed(n: int) -> int:
    return n

@flow
def sent(n: int) -> int:
    return packed(n)
"""


class Shop:
    """A module of flows that this process has, and workers have, lack, or have an older version of."""

    def __init__(self, folder: Path, start: WorkerFactory) -> None:
        """Write both versions below `folder`."""
        self._folder, self._start = folder, start
        for version, code in {"nothing": None, "yesterday": YESTERDAY, "today": TODAY}.items():
            (folder / version).mkdir(parents=True)
            if code is not None:
                (folder / version / "door_shop.py").write_text(code)
        self.flows = importlib.import_module("door_shop")

    def work(self, version: str, queues: str = "default") -> servers.Worker:
        """Start a worker that has this version."""
        return self._start(env={"PYTHONPATH": str(self._folder / version)}, pool="solo", queues=queues)


@pytest.fixture
def shop(
    database_url: str, worker_factory: WorkerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    """The shop, without workers; a single lapse would crash a run."""
    monkeypatch.setenv("ORCHESTRA_CRASH_BUDGET", "1")
    forget()
    monkeypatch.syspath_prepend(tmp_path / "shop" / "today")
    yield Shop(tmp_path / "shop", worker_factory)
    del sys.modules["door_shop"]


@pytest.fixture
def start(database_url: str, worker_factory: WorkerFactory) -> Callable[..., servers.Worker]:
    """Starts workers, on both databases, that know the flows of these tests."""
    return lambda **options: worker_factory(doors.__name__, flows.__name__, **options)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies hear twice a second that they are cancelled; nothing goes on by a sweep."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "3")
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "300")
    forget()


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Where bodies note that they start."""
    return str(tmp_path / "notes")


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's local time is nine hours ahead of UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def runs() -> tuple[queries.FlowRun, ...]:
    """All flow runs, the newest first."""
    return queries.list_flow_runs(database()).items


def task_runs(handle: FlowRunHandle, **options: Any) -> tuple[queries.TaskRun, ...]:
    """The task runs of a flow run, in the order of asking; with `kinds=()` all of its steps."""
    return queries.list_task_runs(database(), flow_run_id=handle.id, limit=50, **options).items


def waiting_for_code() -> list[str]:
    """What flow runs and task runs that wait for their code say."""
    found = [*runs(), *queries.list_task_runs(database()).items]
    return [message for each in found if (message := each.state.message) and "waiting for a worker" in message]


def messages(broker: servers.Broker, queue: str) -> list[dict[str, Any]]:
    """What lies in a queue of the broker, at whatever priority."""
    with broker.client() as client:
        found = [key for key in client.keys(f"{queue}*") if client.type(key) == b"list"]
        return [json.loads(text) for key in found for text in client.lrange(key, 0, -1)]


def priorities(broker: servers.Broker, queue: str) -> list[int]:
    """The priorities of the messages in a queue, the lowest first."""
    return sorted(message["properties"]["priority"] for message in messages(broker, queue))


def noted_by(path: str) -> dict[str, int]:
    """The process of each note."""
    return {what: int(pid) for what, pid in (line.split() for line in Path(path).read_text().splitlines())}


# -- code that a worker lacks --------------------------------------------------------------------------------------


@ON_POSTGRES
def test_runs_and_tasks_wait_for_a_worker_that_has_their_code(shop: Shop) -> None:
    """They say what is missing, no lapse is counted against them, and a worker with the code finishes them."""
    shop.work("today")
    old = shop.work("yesterday", queues="aside")
    run, caller = shop.flows.priced.apply_async((4,), queue="aside"), shop.flows.weighed.delay(4)

    wait_until(lambda: len(waiting_for_code()) == 2, "the run and the task to wait for their code")
    (task,), states = task_runs(caller), [run.state, caller.state]
    lapses = [queries.read_flow_run(database(), run.id).lapses, queries.read_task_run(database(), task.id).lapses]
    assert old.terminate() == 0
    shop.work("today", queues="aside")

    assert [state.is_final() for state in states] == [False, False]
    assert "'door_shop:priced' cannot be imported here: AttributeError" in str(states[0].message)
    assert "'door_shop:weigh' cannot be imported here: AttributeError" in str(task.state.message)
    assert lapses == [0, 0]
    assert [handle.result(timeout=SOON) for handle in (run, caller)] == [40, 5]


@ON_SQLITE
def test_a_run_that_waits_for_its_code_is_not_shown_as_running(shop: Shop) -> None:
    """Nobody works on it."""
    shop.work("nothing")
    handle = shop.flows.priced.delay(4)

    wait_until(waiting_for_code, "the run to say what it waits for")

    assert handle.state.name != "Running"


@ON_SQLITE
def test_what_waits_for_its_code_can_be_cancelled(shop: Shop) -> None:
    """A run, a run one of whose tasks waits, and a run whose child waits."""
    shop.work("today")
    shop.work("nothing", queues="aside")
    shops = shop.flows
    handles = [shops.priced.apply_async((1,), queue="aside"), shops.weighed.delay(1), shops.sent.delay(1)]
    wait_until(lambda: len(waiting_for_code()) == 3, "all of them to wait for their code")

    for handle in handles:
        handle.cancel()

    assert [handle.wait(SOON).name for handle in handles] == ["Cancelled"] * 3
    assert {run.state_name for run in runs()} == {"Cancelled"}
    assert [task.state_name for task in task_runs(handles[1])] == ["Cancelled"]


# -- what no worker could import -----------------------------------------------------------------------------------

IN_MAIN = """
from orchestra import flow

@flow
def etl():
    return 1

etl.delay()
"""
REFUSED = {
    "main": (IN_MAIN, "flow 'etl' lives in `__main__`"),
    "lambda": ("from tests.integration.door_flows import LAMBDAS\nLAMBDAS['flow'].delay()", "a lambda"),
    "local": ("from tests.integration.door_flows import local_flow\nlocal_flow().delay()", "lives in a function"),
}


@pytest.mark.parametrize(("script", "where"), REFUSED.values(), ids=REFUSED)
def test_delay_of_a_flow_that_no_worker_could_import_is_refused(
    broker: servers.Broker, tmp_path: Path, script: str, where: str
) -> None:
    """The script ends with an error that says where to put the flow; nothing is written and nothing is sent."""
    path = tmp_path / "script.py"
    path.write_text(f"{script}\nprint('went on')\n")

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, path], env=environment, text=True, capture_output=True, timeout=60)

    assert (ended.returncode, ended.stdout) == (1, "")
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("orchestra.errors.NotImportable: ")
    assert where in last
    assert "put it at the top level of a module (say flows.py)" in last
    assert runs() == ()
    assert messages(broker, "default") == []


@ON_SQLITE
def test_submit_of_a_task_that_no_worker_could_import_is_refused(start: Callable[..., servers.Worker]) -> None:
    """The run fails with an error that says where to put the task, and has no step of it; a body may go on instead."""
    start()

    refused = [doors.submitting.delay(kind) for kind in ("lambda", "local")]
    going_on = [doors.undaunted.delay(kind) for kind in ("lambda", "local")]

    for handle in refused:
        with pytest.raises(NotImportable, match=r"lives in a function or a lambda.*put it at the top level"):
            handle.result(timeout=SOON)
        assert task_runs(handle) == ()
    for handle in going_on:
        assert handle.result(timeout=SOON) == ["NotImportable", 2, 3]
        assert len(task_runs(handle)) == 2


# -- when, how urgent and where ------------------------------------------------------------------------------------


@pytest.mark.alone
@ON_SQLITE
def test_an_eta_is_kept(start: Callable[..., servers.Worker]) -> None:
    """Aware, in any zone: not before, and hardly later; one that is past is due at once."""
    start(pool="solo")
    zone = timezone(timedelta(hours=-7))
    ahead, past = datetime.now(zone) + timedelta(seconds=1), datetime.now(zone) - timedelta(days=1)

    later = doors.clocked.apply_async(eta=ahead)
    assert later.state.is_scheduled()
    begun = time.time()
    now = doors.clocked.apply_async(eta=past)

    assert now.result(timeout=SOON) - begun < LATE
    assert 0 <= later.result(timeout=SOON) - ahead.timestamp() < LATE


@pytest.mark.usefixtures("broker", "tokyo")
def test_a_naive_eta_is_read_as_utc(database_url: str) -> None:
    """Wherever the caller's clock stands."""
    eta = datetime.now(UTC) + timedelta(hours=1)

    doors.clocked.apply_async(eta=eta.replace(tzinfo=None))

    (run,) = runs()
    assert run.expected_start_time == eta
    assert run.state_name == "Scheduled"


@pytest.mark.usefixtures("broker")
def test_an_eta_and_a_countdown_exclude_each_other() -> None:
    """Nothing is written."""
    with pytest.raises(ParameterError, match="not both"):
        doors.clocked.apply_async(eta=datetime.now(UTC), countdown=1)

    assert runs() == ()


@pytest.mark.usefixtures("broker", "database_url")
def test_a_countdown_may_be_a_timedelta() -> None:
    """As that of a task, and as all durations."""
    doors.clocked.apply_async(countdown=timedelta(hours=1))

    (run,) = runs()
    assert run.expected_start_time is not None
    assert timedelta(minutes=59) < run.expected_start_time - datetime.now(UTC) <= timedelta(hours=1)


@pytest.mark.parametrize("priority", [0, 5, 9])
def test_a_priority_reaches_the_message(broker: servers.Broker, priority: int) -> None:
    """The call's, whatever the decorator says; kept with the run, for its later messages."""
    handle = doors.clocked.with_options(priority=3).apply_async(priority=priority)

    (message,) = messages(broker, "default")
    assert message["properties"]["priority"] == priority
    assert handle.id in message["headers"]["argsrepr"]
    assert [run.priority for run in runs()] == [priority]


def test_the_decorators_priority_reaches_the_message(broker: servers.Broker) -> None:
    """Where the call names none."""
    doors.clocked.with_options(priority=3).delay()

    assert priorities(broker, "default") == [3]


@ON_SQLITE
def test_submitted_tasks_have_the_priority_of_their_run(
    start: Callable[..., servers.Worker], broker: servers.Broker
) -> None:
    """Unless they have one of their own."""
    start(pool="solo")

    handle = doors.asking_unread.apply_async(priority=7)

    wait_until(lambda: len(messages(broker, "unread")) == 2, "the tasks to be announced")
    assert priorities(broker, "unread") == [2, 7]
    handle.cancel()


@ON_SQLITE
def test_a_queue_named_in_the_call_is_worked_off_by_its_worker_only(
    start: Callable[..., servers.Worker], file: str
) -> None:
    """The body, and the tasks that it submits; a worker of other queues leaves them alone."""
    start(pool="solo")
    handle = doors.whereabouts.apply_async((file,), queue="special")
    assert flows.both.delay(1).result(timeout=SOON) == 2
    waiting = handle.state
    special = start(queues="special")

    assert waiting.is_pending()
    assert handle.result(timeout=SOON) == "task"
    assert set(noted_by(file).values()) <= set(special.slots())


# -- handles -------------------------------------------------------------------------------------------------------


def seen(handle: FlowRunHandle) -> tuple[bool, bool, bool]:
    """What a handle says of its run: ready, successful, failed."""
    return handle.ready(), handle.successful(), handle.failed()


def test_handles_tell_good_failed_and_cancelled_runs_apart(start: Callable[..., servers.Worker]) -> None:
    """By the names that Celery's results have, too."""
    start(pool="solo")
    good, bad, stopped = flows.both.delay(2), doors.failing.delay(), doors.resting.delay()
    wait_until(lambda: stopped.state.name == "Waiting", "the sleeper to sleep")

    stopped.cancel()

    assert [handle.wait(SOON).name for handle in (good, bad, stopped)] == ["Completed", "Failed", "Cancelled"]
    assert [seen(handle) for handle in (good, bad, stopped)] == [
        (True, True, False),
        (True, False, True),
        (True, False, True),
    ]
    assert good.get(timeout=0) == good.result() == 7
    with pytest.raises(ValueError, match="out of stock"):
        bad.get()
    assert repr(bad.get(propagate=False)) == "ValueError('out of stock')"
    with pytest.raises(CancelledRun):
        stopped.get()


@ON_SQLITE
def test_an_ended_run_cannot_be_cancelled(start: Callable[..., servers.Worker]) -> None:
    """Its end stands; cancelling a cancelled one again changes nothing."""
    start(pool="solo")
    good, bad, stopped = flows.both.delay(2), doors.failing.delay(), doors.resting.apply_async(countdown=3600)
    good.wait(SOON), bad.wait(SOON), stopped.cancel()

    for handle in (good, bad):
        with pytest.raises(IllegalTransition):
            handle.cancel()
    stopped.cancel()

    assert [handle.state.name for handle in (good, bad, stopped)] == ["Completed", "Failed", "Cancelled"]


@pytest.mark.alone
@ON_SQLITE
def test_a_handle_that_waits_in_vain_says_so_and_the_run_goes_on(start: Callable[..., servers.Worker]) -> None:
    """`wait` gives the state then, `result` and `get` raise TimeoutError, all of them in time."""
    start(pool="solo")
    handle = doors.resting.delay(1.2)
    wait_until(lambda: handle.state.name == "Waiting", "the run to sleep")
    begun = time.monotonic()

    assert not handle.wait(0.1).is_final()
    for ask in (handle.result, handle.get):
        with pytest.raises(TimeoutError, match=r"Waiting after 0\.1 s"):
            ask(timeout=0.1)
    assert seen(handle) == (False, False, False)

    assert time.monotonic() - begun < 1
    assert handle.result(timeout=SOON) == "rested"


@ON_POSTGRES
@pytest.mark.usefixtures("short_lease")
def test_cancelling_a_running_body_stops_all_of_the_run(start: Callable[..., servers.Worker], file: str) -> None:
    """The bodies in both slots are interrupted, a child is cancelled too, and nothing of the run starts any more."""
    start()
    handle = doors.busy.delay(file)
    wait_until(lambda: {"inner", "beside"} <= set(flows.notes(file)), "both slots to be at work")

    begun = time.monotonic()
    handle.cancel()
    state = handle.wait(SOON)
    took = time.monotonic() - begun

    assert state.name == "Cancelled"
    assert took < PROMPT
    wait_until(lambda: {run.state_name for run in runs()} == {"Cancelled"}, "the child to be cancelled, too")
    assert {task.state_name for run in runs() for task in task_runs(FlowRunHandle(run.id))} == {"Cancelled"}
    # The slots are free, and what lay in the queue before is worked off.
    assert flows.both.delay(2).result(timeout=SOON) == 7
    assert sorted(flows.notes(file)) == ["beside", "beside-left", "inner", "inner-left"]


@ON_SQLITE
@pytest.mark.usefixtures("short_lease")
def test_a_run_is_shown_as_cancelling_until_its_last_body_has_left(
    start: Callable[..., servers.Worker], file: str
) -> None:
    """Not as `Waiting`, though it waits for that body."""
    start()
    handle = doors.untidy.delay(file)
    wait_until(lambda: flows.notes(file), "the body to start")
    shown: list[str] = []

    handle.cancel()
    wait_until(lambda: shown.append(handle.state.name) or handle.ready(), "the run to end", SOON)

    assert set(shown) <= {"Cancelling", "Cancelled"}
    assert flows.notes(file) == ["untidy", "untidy-left"]


@ON_SQLITE
@pytest.mark.usefixtures("short_lease")
def test_cancelling_reaches_a_body_that_runs_deep_inside(start: Callable[..., servers.Worker], file: str) -> None:
    """One slot carries every run from the first to the innermost: each ends at once, and none counts a lapse."""
    start()
    handle = doors.nested.delay(file, 8)
    wait_until(lambda: flows.notes(file), "the innermost body to start")

    begun = time.monotonic()
    handle.cancel()
    wait_until(lambda: {run.state_name for run in runs()} == {"Cancelled"}, "every run to be cancelled", SOON)
    took = time.monotonic() - begun

    assert took < PROMPT
    assert {queries.read_flow_run(database(), run.id).lapses for run in runs()} == {0}
    assert flows.notes(file) == ["innermost", "innermost-left"]


@ON_SQLITE
@pytest.mark.usefixtures("short_lease")
def test_cancelling_a_child_alone_leaves_its_parent_going(start: Callable[..., servers.Worker], file: str) -> None:
    """The parent's call raises CancelledRun, which its body may catch, though both run in one slot."""
    start()
    handle = doors.outliving.delay(file)
    wait_until(lambda: flows.notes(file), "the child's body to start")
    (child,) = queries.list_flow_runs(database(), parent_flow_run_id=handle.id).items

    FlowRunHandle(child.id).cancel()

    assert handle.result(timeout=SOON) == ["CancelledRun", "after-child"]
    assert flows.notes(file) == ["inner", "inner-left", "after-child"]


@ON_SQLITE
@pytest.mark.usefixtures("short_lease")
def test_a_cancelled_body_that_swallows_everything_starts_nothing_more(
    start: Callable[..., servers.Worker], file: str
) -> None:
    """A bare `except:` does not bring the run back."""
    start()
    handle = doors.stubborn.delay(file)
    wait_until(lambda: flows.notes(file), "the body to start")

    handle.cancel()

    assert handle.wait(SOON).name == "Cancelled"
    assert flows.notes(file) == ["held", "held-left"]


# -- bodies that catch everything ----------------------------------------------------------------------------------

SWALLOWING = {
    doors.swallowing: ["first", "second", "in-child", "slept", "slept", "third"],
    doors.aswallowing: ["first", "second", "left", "right", "in-child", "slept", "slept", "third"],
}


@ON_SQLITE
def test_a_bare_except_changes_nothing(start: Callable[..., servers.Worker], tmp_path: Path) -> None:
    """A body that swallows the signal by which it parks, and goes on, gives what it gives in one go."""
    start(concurrency=4)
    handles = {flow: flow.delay(str(tmp_path / flow.name)) for flow in SWALLOWING}

    for flow, handle in handles.items():
        assert handle.result(timeout=SOON) == SWALLOWING[flow]
        assert Counter(flows.notes(tmp_path / flow.name)) == Counter(set(SWALLOWING[flow]) - {"slept"})
        assert len(task_runs(handle, kinds=())) == len(SWALLOWING[flow])


TIDYING = [(doors.tidying, False), (doors.tidying, True), (doors.atidying, False), (doors.atidying, True)]


@ON_POSTGRES
def test_finally_blocks_with_steps_run_once(start: Callable[..., servers.Worker], tmp_path: Path) -> None:
    """At the end of the `try`, not wherever the body parks: a direct call, a submitted one and a sleep."""
    start(concurrency=4)
    books = [str(tmp_path / f"{flow.name}-{fails}") for flow, fails in TIDYING]
    handles = [flow.delay(book, fails) for (flow, fails), book in zip(TIDYING, books, strict=True)]

    for (_, fails), book, handle in zip(TIDYING, books, handles, strict=True):
        if fails:
            with pytest.raises(ValueError, match="broken"):
                handle.result(timeout=SOON)
        else:
            assert handle.result(timeout=SOON) == "work"
        tried = ["work", "broken"] if fails else ["work"]
        assert flows.notes(book) == [*tried, "direct", "submitted"]
        assert len(task_runs(handle, kinds=())) == len(tried) + 3
