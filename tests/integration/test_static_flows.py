"""Static flows on real workers: the canvas that is sent, what is lost of it, and canvases applied by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from celery.canvas import Signature

from orchestra.celery.dispatch import carrier
from orchestra.engine import operations
from orchestra.errors import StaticFlowError
from orchestra.handles import FlowRunHandle
from orchestra.states import StateType
from orchestra.store.database import Database, database
from orchestra.store.tables import Phase, flow_runs, steps
from tests import servers
from tests.conftest import WorkerFactory, forget
from tests.crash import ledger
from tests.helpers import ROOT, wait_until
from tests.integration import static_flows as flows

pytestmark = pytest.mark.services

#: In seconds.
LEASE, SWEEP = 2.0, 1.0
#: For what does not depend on the database.
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Bench:
    """A worker on the test's broker and database, and what its tasks noted."""

    def __init__(self, start: WorkerFactory, book: Path, database: Database) -> None:
        """Note in `book`; `work` starts a worker."""
        self._start, self.book, self.database = start, book, database

    def work(self, **options: Any) -> servers.Worker:
        """Start a worker."""
        return self._start(flows.__name__, env={ledger.VARIABLE: str(self.book)}, **options)

    def starts(self, run_id: str) -> Counter[str]:
        """How often each step of a run was started."""
        lines = ledger.read(self.book) if self.book.exists() else []
        return Counter(line.step for line in lines if line.run == run_id and line.what == "start")

    def steps(self, run_id: str) -> list[Any]:
        """The steps of a run, in the order of asking."""
        query = sa.select(steps).where(steps.c.run_id == run_id).order_by(steps.c.sequence)
        return self.database.read(lambda connection: list(connection.execute(query)))

    def runs(self) -> list[Any]:
        """All flow runs, oldest first."""
        query = sa.select(flow_runs).order_by(flow_runs.c.created_at)
        return self.database.read(lambda connection: list(connection.execute(query)))


@pytest.fixture
def bench(database_url: str, worker_factory: WorkerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench without workers yet, with short leases."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", str(LEASE))
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", str(SWEEP))
    forget()
    return Bench(worker_factory, tmp_path / "ledger", database())


def test_static_flows_give_the_answers_of_their_bodies(bench: Bench) -> None:
    """Chains, groups, chords, an N, joins of joins, failures and retries; no step is run twice."""
    answers = {
        flows.diamond: 32,
        flows.sums: {"whole": 55, "again": 45 + 550},
        flows.crossed: 5,
        flows.ends_in_groups: 4,
        flows.tolerant: "ValueError",
        flows.retrying: ["str", "int"],
    }
    bench.work()

    handles = {flow: flow.delay(*([10] if flow is flows.sums else [])) for flow in answers}

    assert {flow.name: handle.result(timeout=40) for flow, handle in handles.items()} == {
        flow.name: answer for flow, answer in answers.items()
    }
    for handle in handles.values():
        again = {key: n for key, n in bench.starts(handle.id).items() if n > 1 and "flaky" not in key}
        assert again == {}


@ON_SQLITE
def test_the_plan_is_in_the_journal_when_delay_returns(bench: Bench) -> None:
    """All steps with their edges, before any worker lives; a worker that comes later needs no message."""
    handle = flows.sums.delay(3)

    kinds = [(step.step_key, step.kind, step.phase) for step in bench.steps(handle.id)]
    assert kinds == [
        ("main/add-0", "task", Phase.READY),
        *((f"main/add-{number}", "task", Phase.WAITING) for number in (1, 2, 3)),
        ("main/total-0", "task", Phase.WAITING),
        *((f"main/add-{number}", "task", Phase.WAITING) for number in (4, 5, 6)),
        ("main/total-1", "task", Phase.WAITING),
    ]
    assert (handle.state.type, handle.state.name) == (StateType.RUNNING, "Waiting")


@ON_SQLITE
def test_each_step_of_an_exact_canvas_takes_one_message(bench: Bench) -> None:
    """Celery sends what comes next; the journal does not announce it beside that."""
    worker = bench.work()

    handle = flows.sums.delay(20)

    assert handle.result(timeout=30)["whole"] == 190 + 20
    wait_until(lambda: worker.log().count("] succeeded in") >= 44, "all messages to be worked off")
    assert worker.log().count("] received") == 1 + 20 + 1 + 20 + 1 + 1


def test_a_killed_worker_breaks_the_canvas_and_not_the_run(bench: Bench) -> None:
    """SIGKILL of the worker with its messages; what the canvas lost, the sweeper goes on with."""
    worker = bench.work()
    handle = flows.sums.delay(12, seconds=0.1)
    wait_until(lambda: len(bench.starts(handle.id)) >= 5, "the layer to be under way")

    worker.kill_group()
    done = {step.step_key for step in bench.steps(handle.id) if step.phase == Phase.DONE}
    before = bench.starts(handle.id)
    bench.work()

    assert handle.result(timeout=40) == {"whole": 66 + 12, "again": 66 + 12 * 78}
    after = bench.starts(handle.id)
    assert {key: after[key] - before[key] for key in done} == dict.fromkeys(done, 0)
    assert max(after.values()) <= 2


def test_a_killed_slot_breaks_the_canvas_and_not_the_run(bench: Bench) -> None:
    """SIGKILL of one prefork child, whose part of the chord is never counted by Celery."""
    worker = bench.work()
    handle = flows.sums.delay(12, seconds=0.1)
    wait_until(lambda: len(bench.starts(handle.id)) >= 5, "the layer to be under way")

    os.kill(worker.slots()[0], signal.SIGKILL)

    assert handle.result(timeout=40) == {"whole": 66 + 12, "again": 66 + 12 * 78}
    assert sum(bench.starts(handle.id).values()) <= 1 + 12 + 1 + 12 + 1 + 1


def test_a_broker_that_forgets_all_breaks_the_canvas_and_not_the_run(bench: Bench, broker: servers.Broker) -> None:
    """FLUSHALL: messages and the counts of chords are gone."""
    bench.work()
    handle = flows.sums.delay(12, seconds=0.1)
    wait_until(lambda: len(bench.starts(handle.id)) >= 5, "the layer to be under way")

    broker.flush()

    assert handle.result(timeout=40) == {"whole": 66 + 12, "again": 66 + 12 * 78}
    assert set(bench.starts(handle.id).values()) == {1}


def test_nodes_that_come_too_early_or_twice_are_dropped(bench: Bench) -> None:
    """The claim decides, not the message."""
    bench.work()
    handle = flows.sums.delay(4, seconds=0.2)
    for step in bench.steps(handle.id) * 2:
        options = {"queue": "default", "shadow": "too early"}
        carrier().send(Signature("orchestra.task", (handle.id, step.step_key), options=options), [])

    assert handle.result(timeout=40) == {"whole": 10, "again": 6 + 40}
    assert set(bench.starts(handle.id).values()) == {1}


@ON_SQLITE
def test_a_failed_call_ends_the_run_as_its_exception_would(bench: Bench) -> None:
    """What stands behind it is not run; the run fails with the exception that the body would have raised."""
    bench.work()
    handle = flows.failing.delay()

    with pytest.raises(ValueError, match="no"):
        handle.result(timeout=30)
    assert [(step.step_key, step.state_name) for step in bench.steps(handle.id)] == [
        ("main/fail-0", "Failed"),
        ("main/add-0", "UpstreamFailed"),
    ]


@ON_SQLITE
def test_a_retry_by_hand_keeps_what_has_ended(bench: Bench) -> None:
    """It goes on step by step, with the same keys."""
    bench.work()
    handle = flows.second_fails.delay()
    handle.wait(timeout=30)

    operations.retry(bench.database, handle.id)

    wait_until(lambda: bench.starts(handle.id)["main/fail-0"] == 2, "the failed step to be run again")
    assert FlowRunHandle(handle.id).wait(timeout=30).is_failed()
    assert bench.starts(handle.id)["main/add-0"] == 1


@ON_SQLITE
def test_a_static_flow_that_is_due_later_is_planned_then(bench: Bench) -> None:
    """By its first segment; no body runs before."""
    bench.work()
    handle = flows.diamond.apply_async(kwargs={"n": 2}, countdown=1)

    assert bench.steps(handle.id) == []
    assert handle.result(timeout=30) == 34


@ON_SQLITE
def test_a_static_flow_that_looks_into_a_result_is_refused_at_submit(bench: Bench) -> None:
    """With the line, and without a run."""
    with pytest.raises(StaticFlowError, match=r"static_flows\.py:\d+ it looks into the result of task 'add' \(>\)"):
        flows.looking.delay()
    assert bench.runs() == []


@ON_SQLITE
def test_the_same_idempotency_key_gives_the_same_planned_run(bench: Bench) -> None:
    """The plan is written once, and the canvas sent once."""
    bench.work()

    first, second = (flows.diamond.apply_async([3], idempotency_key="once") for _ in range(2))

    assert first.id == second.id
    assert (first.result(timeout=30), set(bench.starts(first.id).values())) == (36, {1})


@ON_SQLITE
def test_a_broker_that_is_down_at_submit_costs_a_sweep(bench: Bench, broker: servers.Broker) -> None:
    """The handle is there at once, and the run goes on when the broker is back."""
    broker.kill()
    started = time.monotonic()
    handle = flows.sums.delay(3)
    took = time.monotonic() - started

    broker.start()
    bench.work()

    assert took < 8
    assert handle.result(timeout=40) == {"whole": 6, "again": 3 + 18}


# -- by hand -----------------------------------------------------------------------------------------------------


def value_of(canvas: str) -> Any:
    """What Celery gives as the result of a canvas, in a process of its own: there it watches for results until it ends.

    Args:
        canvas: An expression of `flows`, `chain` and `group`.
    """
    code = (
        "import json; from celery import chain, group; from tests.integration import static_flows as flows; "
        f"print(json.dumps(({canvas}).apply_async().get(timeout=30)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@ON_SQLITE
def test_each_time_a_canvas_is_applied_is_a_run_of_its_own(bench: Bench) -> None:
    """The first node makes the run, the last one gives its value."""
    bench.work()
    flows.deciding.canvas(limit=4)
    assert bench.runs() == []

    values = [value_of(f"flows.deciding.canvas(limit={limit})") for limit in (3, 4)]

    assert values == [6, 10]
    assert [run.state_type for run in bench.runs()] == ["COMPLETED", "COMPLETED"]
    assert all(set(bench.starts(run.id).values()) == {1} for run in bench.runs())


@ON_SQLITE
@pytest.mark.parametrize("forged", ["path", "options", "no seal"])
def test_a_forged_canvas_loads_no_code(bench: Bench, tmp_path: Path, forged: str) -> None:
    """Whoever can send messages cannot have a worker run a file: nothing is loaded before the signature is checked."""
    script, proof = tmp_path / "evil.py", tmp_path / "was-here"
    script.write_text(f"import pathlib; pathlib.Path({str(proof)!r}).touch()\n")
    worker = bench.work()
    enter = flows.deciding.canvas(limit=3).tasks[0]
    door = enter.kwargs["__orchestra__"]
    unsealed = {name: value for name, value in door.items() if name != "seal"}
    enter.kwargs["__orchestra__"] = {
        "path": {**door, "path": f"{script}:x"},
        "options": {**door, "options": "p"},
        "no seal": {**unsealed, "path": f"{script}:x"},
    }[forged]

    enter.set(link=[], chain=None).apply_async()

    wait_until(lambda: "was not signed with this installation's key" in worker.log(), "the worker to refuse it")
    assert not proof.exists()
    assert bench.runs() == []


@ON_SQLITE
def test_canvases_can_be_embedded_in_others(bench: Bench) -> None:
    """Side by side in a group, and one after another in a chain; each is a run."""
    bench.work()

    value = value_of(
        "chain(flows.deciding.canvas(limit=2), group(flows.ends_in_groups.canvas(n=3), flows.diamond.canvas(n=5)), "
        "flows.deciding.canvas(limit=3))"
    )

    assert value == 6
    assert sorted(run.flow_name for run in bench.runs()) == ["deciding", "deciding", "diamond", "ends-in-groups"]
    assert {run.state_type for run in bench.runs()} == {"COMPLETED"}


@ON_SQLITE
def test_a_canvas_passes_its_exception_on(bench: Bench) -> None:
    """What comes behind it in the chain does not run."""
    bench.work()

    with pytest.raises(AssertionError, match="ValueError: no"):
        value_of("chain(flows.failing.canvas(), flows.diamond.canvas())")
    assert [run.flow_name for run in bench.runs()] == ["failing"]
