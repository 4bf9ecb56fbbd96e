"""Slots of runs of deployments on both databases: never more at work than allowed, and the right one goes on next."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from orchestra.states import StateType
from orchestra.store import (
    claims,
    deployments,
    interventions,
    precedence,
    run_slots,
    runs,
    slot_records,
    work_pools,
    workers,
)
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.deployments import NewDeployment
from orchestra.store.journal import Ending
from orchestra.store.runs import NewRun
from orchestra.store.tables import flow_runs
from orchestra.store.workers import WorkerRow

DONE = Ending(StateType.COMPLETED, "Completed")


@pytest.fixture(autouse=True)
def pool(database: Database) -> None:
    """A work pool with two queues, a deployment, and a worker that consumes all."""
    work_pools.create(database, "etl", "process")
    work_pools.create_queue(database, "etl", "urgent", priority=0)
    deploy(database, "nightly")
    workers.register(database, WorkerRow("w@h", "h", 1, ("etl", "etl.urgent"), 2, "prefork", "1"))


def deploy(database: Database, name: str, **fields: object) -> str:
    """A deployment of the pool."""
    new = NewDeployment(name, "f", "f.py:f", "etl", work_pool_name="etl", **fields)  # type: ignore[arg-type]
    return deployments.keep(database, new)


def make(database: Database, deployment: str = "nightly", queue: str = "etl", version: str | None = None) -> str:
    """A run that waits for a worker."""
    deployment_id = deployments.read(database, f"f/{deployment}").id
    new = NewRun("f", "f:f", "run", b"{}", queue=queue, deployment_id=deployment_id, version=version)
    return runs.create(database, new).row["id"]


def start(
    database: Database, run_id: str, *, begun: bool = False, tell: Callable[[str], None] = lambda run_id: None
) -> Claim | None:
    """Claim a run and ask; its claim where it goes on. `tell` is told of others that go on for it."""
    claimed = claims.claim_run(database, run_id)
    assert claimed is not None
    found = run_slots.gate(database, claimed.row)
    if found.holds or not (found.limits or found.paused):
        return claimed.claim
    asked = run_slots.ask(database, claimed.claim, claimed.row, begun=begun)
    for each in asked.announcements:
        tell(each.run_id)
    return claimed.claim if asked.granted else None


def end(database: Database, claim: Claim) -> list[str]:
    """End a run; those that go on for it."""
    runs.finish(database, claim, DONE, [], window=lambda queue: 1)
    return [each.run_id for each in run_slots.leave(database, claim.run_id)]


def shown(database: Database, run_id: str) -> tuple[str, str, str]:
    """What people see of a run."""
    row = runs.read(database, run_id)
    return row["state_type"], row["state_name"], row["state_message"] or ""


def test_a_run_over_the_limit_waits_visibly_and_goes_on_when_a_slot_is_freed(database: Database) -> None:
    """Held: no message starts it before that."""
    work_pools.update(database, "etl", concurrency_limit=1)
    first, second = make(database), make(database)
    claim = start(database, first)
    assert claim is not None

    assert start(database, second) is None
    kind, name, message = shown(database, second)
    assert (kind, name, "work pool 'etl', which has 1" in message) == ("SCHEDULED", "AwaitingConcurrencySlot", True)
    assert runs.read(database, second)["start_time"] is None
    assert claims.claim_run(database, second) is None
    assert run_slots.serve(database) == []

    assert end(database, claim) == [second]
    assert shown(database, second)[1] == "Scheduled"
    assert start(database, second) is not None


def test_the_queue_of_the_higher_priority_goes_first_and_then_who_was_to_start_first(database: Database) -> None:
    """The lowest number is the highest priority; it may change while they wait."""
    work_pools.update(database, "etl", concurrency_limit=1)
    holder = start(database, make(database))
    waiting = [make(database), make(database, queue="etl.urgent"), make(database), make(database, queue="etl.urgent")]
    for run_id in waiting:
        assert start(database, run_id) is None

    order = []
    while holder is not None and (gone_on := end(database, holder)):
        if len(order) == 1:
            work_pools.update_queue(database, "etl", "urgent", priority=9)
        order += gone_on
        holder = start(database, gone_on[0])
    assert order == [waiting[1], waiting[3], waiting[0], waiting[2]]


def test_who_waits_for_another_limit_holds_up_nobody(database: Database) -> None:
    """A deployment of one run at a time leaves the rest of its pool's slots to others."""
    work_pools.update(database, "etl", concurrency_limit=2)
    deploy(database, "single", concurrency_limit=1)
    singles = [make(database, "single") for _ in range(3)]
    held = [start(database, run_id) for run_id in singles]
    other = make(database)

    assert [claim is not None for claim in held] == [True, False, False]
    assert start(database, other) is not None
    assert held[0] is not None
    assert end(database, held[0]) == [singles[1]]


def test_one_more_than_the_deployment_allows_can_be_refused(database: Database) -> None:
    """With the reason; one that has begun is not."""
    deploy(database, "single", concurrency_limit=1, collision_strategy="CANCEL_NEW")
    start(database, make(database, "single"))
    claimed = claims.claim_run(database, make(database, "single"))
    assert claimed is not None

    asked = run_slots.ask(database, claimed.claim, claimed.row, begun=False)

    assert asked.refused
    assert "one run is at work of deployment 'f/single' already" in asked.reason
    assert not run_slots.ask(database, claimed.claim, claimed.row, begun=True).refused


def test_a_limit_counts_what_began_before_it_and_a_raised_one_lets_more_go_on(database: Database) -> None:
    """At once."""
    began = start(database, make(database))
    assert began is not None
    run_slots.adopt(database)
    work_pools.update_queue(database, "etl", "default", concurrency_limit=1)
    waiting = [make(database), make(database)]
    assert [start(database, run_id) for run_id in waiting] == [None, None]

    work_pools.update_queue(database, "etl", "default", concurrency_limit=2)
    assert [each.run_id for each in run_slots.serve(database)] == waiting[:1]
    work_pools.update_queue(database, "etl", "default", concurrency_limit=None)
    assert [each.run_id for each in run_slots.serve(database)] == waiting[1:]


def test_a_paused_queue_holds_back_what_has_not_begun(database: Database) -> None:
    """Resumed, it lets all go that there are slots for."""
    work_pools.update(database, "etl", paused=True)
    held, begun = make(database), make(database)

    assert start(database, held) is None
    assert shown(database, held) == ("SCHEDULED", "Scheduled", "work pool 'etl' is paused")
    assert start(database, begun, begun=True) is not None
    assert run_slots.serve(database) == []
    work_pools.update(database, "etl", paused=False, concurrency_limit=1)
    run_slots.show_as_awaiting(database)
    assert run_slots.serve(database) == []
    assert shown(database, held)[1] == "AwaitingConcurrencySlot"


def test_a_lapsed_lease_frees_its_slot_and_its_run_asks_again(database: Database) -> None:
    """Whoever has it now keeps it."""
    work_pools.update(database, "etl", concurrency_limit=1)
    dead, other = make(database), make(database)
    claim = start(database, dead)
    assert claim is not None
    assert start(database, other) is None
    assert run_slots.serve(database, expire=True) == []

    claims.let_lapse(database, [claim])
    assert run_slots.serve(database) == []
    assert [each.run_id for each in run_slots.serve(database, expire=True)] == [other]

    assert start(database, dead, begun=True) is None
    holder = start(database, other)
    assert holder is not None
    assert end(database, holder) == [dead]


def test_parked_and_finished_retries_count_as_they_should(database: Database) -> None:
    """A parked run keeps its slot; one that waits for its next attempt has given it back."""
    work_pools.update(database, "etl", concurrency_limit=1)
    first, second = make(database), make(database)
    claim = start(database, first)
    assert claim is not None
    assert start(database, second) is None
    parked = sa.update(flow_runs).where(flow_runs.c.id == first)
    database.write(lambda connection: connection.execute(parked.values(phase="WAITING")).rowcount)
    assert run_slots.leave(database, first) == []
    database.write(lambda connection: connection.execute(parked.values(phase="CLAIMED")).rowcount)

    runs.reopen(database, claim, delay=60, message=None, window=lambda queue: 1)

    assert [each.run_id for each in run_slots.leave(database, first)] == [second]


def test_who_is_paused_or_cancelled_meanwhile_leaves_the_line(database: Database) -> None:
    """And gets no slot that others wait for."""
    work_pools.update(database, "etl", concurrency_limit=1)
    holder = start(database, make(database))
    paused, cancelled, other = make(database), make(database), make(database)
    for run_id in (paused, cancelled, other):
        assert start(database, run_id) is None
    interventions.hold(database, paused)
    interventions.cancel(database, cancelled)
    assert holder is not None

    assert end(database, holder) == [other]
    interventions.resume(database, paused)
    assert start(database, paused) is None
    assert shown(database, paused)[1] == "AwaitingConcurrencySlot"
    assert run_slots.purge(database) == 1


def test_a_queue_without_a_worker_gets_no_slot(database: Database) -> None:
    """It would keep it from those that can use it; a worker that comes gets it."""
    work_pools.update(database, "etl", concurrency_limit=1)
    holder = start(database, make(database))
    urgent, other = make(database, queue="etl.urgent"), make(database)
    assert [start(database, urgent), start(database, other)] == [None, None]
    workers.register(database, WorkerRow("w@h", "h", 1, ("etl",), 2, "prefork", "1"))
    assert holder is not None

    assert end(database, holder) == [other]
    claim = start(database, other)
    workers.register(database, WorkerRow("w@h", "h", 1, ("etl", "etl.urgent"), 2, "prefork", "1"))
    assert claim is not None
    assert end(database, claim) == [urgent]


def test_a_run_about_to_start_leaves_its_worker_slot_to_a_more_urgent_one(database: Database) -> None:
    """Of those that are due and that the worker may take; what has started is not stopped."""
    low, later = make(database), make(database, queue="etl.urgent")
    claimed = claims.claim_run(database, low)
    assert claimed is not None
    assert run_slots.gate(database, claimed.row).is_outranked
    assert precedence.outranking(database, claimed.row, ["etl"]) is None
    assert precedence.outranking(database, claimed.row, ["etl", "etl.urgent"]) == later

    assert [each.run_id for each in precedence.step_back(database, claimed.claim)] == [low]
    assert runs.read(database, low)["start_time"] is None
    urgent = claims.claim_run(database, later)
    assert urgent is not None
    assert not run_slots.gate(database, urgent.row).is_outranked
    again = claims.claim_run(database, low)
    assert again is not None
    assert precedence.outranking(database, again.row, ["etl", "etl.urgent"]) is None


def test_a_run_of_a_version_that_only_others_have_outranks_nobody(database: Database) -> None:
    """It would be sent to them again and again, while they are busy; where nobody has it, this worker says so."""
    make(database, queue="etl.urgent", version="2")
    claimed = claims.claim_run(database, make(database))
    assert claimed is not None
    mine = ["etl", "etl.urgent", "etl.urgent@1"]

    assert precedence.outranking(database, claimed.row, mine) is not None
    workers.register(database, WorkerRow("other@h", "h", 2, ("etl.urgent", "etl.urgent@2"), 2, "prefork", "1"))
    assert precedence.outranking(database, claimed.row, mine) is None
    own = make(database, queue="etl.urgent", version="1")
    assert precedence.outranking(database, claimed.row, mine) == own


def test_a_run_that_waits_to_begin_is_cancelled_at_once(database: Database) -> None:
    """No worker is needed for that, but for its hooks; one that has begun ends by a last segment."""
    work_pools.update(database, "etl", concurrency_limit=1)
    start(database, make(database))
    waits, has_begun = make(database), make(database)
    start(database, waits)
    start(database, has_begun, begun=True)

    (hooks,) = interventions.cancel(database, waits)
    (last,) = interventions.cancel(database, has_begun)

    assert (shown(database, waits)[0], hooks.kind) == ("CANCELLED", "hooks")
    assert (shown(database, has_begun)[0], last.kind) == ("CANCELLING", "flow")


def test_a_slot_is_given_up_only_under_the_claim(database: Database) -> None:
    """Whoever has claimed the run since goes on with it."""
    work_pools.update(database, "etl", concurrency_limit=1)
    first, second = make(database), make(database)
    claim = start(database, first)
    assert claim is not None
    assert start(database, second) is None
    claims.give_back(database, claim)
    again = start(database, first)
    assert again is not None

    assert run_slots.give_up(database, claim) == []
    assert [each.run_id for each in run_slots.give_up(database, again)] == [second]


def test_who_has_slots_and_who_waits_is_shown_in_order(database: Database) -> None:
    """With where they are at work, or why they wait."""
    work_pools.update(database, "etl", concurrency_limit=1)
    first, second, urgent = make(database), make(database), make(database, queue="etl.urgent")
    for run_id in (first, second, urgent):
        start(database, run_id)

    found = slot_records.holders(database, "etl", ["default", "urgent"])

    assert [(each.id, each.has_slot) for each in found] == [(first, True), (urgent, False), (second, False)]
    assert [each.process is not None for each in found] == [True, False, False]
    assert "work pool 'etl'" in (found[1].state_message or "")
    assert [each.id for each in slot_records.holders(database, "etl", ["urgent"])] == [urgent]


def test_many_that_ask_at_once_never_exceed_a_limit(database: Database) -> None:
    """Threads that start, end and hand on; all runs get their turn."""
    work_pools.update(database, "etl", concurrency_limit=2)
    deploy(database, "single", concurrency_limit=1)
    todo: queue.Queue[str] = queue.Queue()
    for number in range(20):
        todo.put(make(database, "single" if number % 3 else "nightly"))
    lock, at_work, most, ended = threading.Lock(), [0], [0], []

    def turns() -> None:
        while len(ended) < 20:
            try:
                run_id = todo.get(timeout=0.02)
            except queue.Empty:
                workers.beat(database, "w@h")
                continue
            claim = start(database, run_id, tell=todo.put)
            if claim is None:
                continue
            with lock:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
            with lock:
                at_work[0] -= 1
            for gone_on in end(database, claim):
                todo.put(gone_on)
            ended.append(run_id)

    threads = [threading.Thread(target=turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(ended)) == len(ended) == 20
    assert most[0] <= 2
