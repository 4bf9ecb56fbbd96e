"""How runs advance on workers when all goes well (DESIGN, "How a run advances")."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestra.errors import NotImportable
from orchestra.store.database import Database
from tests.drive import Driver
from tests.engine import flows


def test_direct_calls_run_inside_one_segment(driver: Driver, effects: list[str]) -> None:
    """No message is sent for a call whose queue this worker consumes."""
    state = driver.run(flows.linear, n=5)

    assert state.result() == 5
    assert driver.segments == 1
    assert len(effects) == 5


def test_submitted_tasks_are_carried_by_messages(driver: Driver, effects: list[str]) -> None:
    """Each runs once, and the flow gets every value."""
    assert driver.run(flows.fan_out, n=20).result() == 210
    assert len(effects) == 20


def test_results_travel_along_edges(driver: Driver, effects: list[str]) -> None:
    """A future given as an argument is the value of its task."""
    assert driver.run(flows.diamond).result() == 34
    assert driver.run(flows.reduce, n=20).result() == 210


def test_a_layer_may_wait_for_a_whole_layer(driver: Driver) -> None:
    """All-to-all edges; with more upstreams than one join counts."""
    assert driver.run(flows.layered, n=66).result() == 66 * sum(range(1, 67))


def test_one_upstream_may_be_named_twice(driver: Driver) -> None:
    """Once strictly, once with allow_failure: it is waited for once."""
    assert driver.run(flows.both_ways, messages=20).result() == 4


def test_children_run_inside_their_parents_segment(driver: Driver) -> None:
    """A direct subflow on a queue of this worker needs no message."""
    assert driver.run(flows.parent, n=3).result() == [1, 2, 3]
    assert driver.segments == 1


def test_a_child_that_parks_parts_from_its_parent(driver: Driver) -> None:
    """Each goes on alone; the parent gets its value."""
    assert driver.run(flows.counted, n=3).result() == 6


def test_sixty_nested_flows_need_one_slot(driver: Driver) -> None:
    """No slot is held by a flow that waits for its child."""
    assert driver.run(flows.nested, depth=60).result() == 60


def test_work_that_nobody_awaits_is_done_before_the_run_ends(driver: Driver, effects: list[str]) -> None:
    """The body has ended; the run has when all it submitted has."""
    assert driver.run(flows.unawaited).result() == "ended"
    assert effects == ["add 5 1"]


def test_parked_runs_show_what_they_do(driver: Driver) -> None:
    """RUNNING, named Waiting."""
    run_id = driver.submit(flows.fan_out, n=1)
    driver.step()

    row = driver.row(run_id)
    assert (row["phase"], row["state_type"], row["state_name"]) == ("WAITING", "RUNNING", "Waiting")


@pytest.mark.parametrize("name", ["linear", "fan_out", "gathered", "branches", "completed", "mixed"])
def test_duplicated_messages_change_nothing(sqlite_database: Database, effects: list[str], name: str) -> None:
    """A message whose row is not due is dropped."""

    class Stutter(Driver):
        def deliver(self, message):
            super().deliver(message)
            super().deliver(message)

    expected = Driver(sqlite_database).run(getattr(flows, name), n=4).result()
    once = sorted(effects)
    effects.clear()

    assert Stutter(sqlite_database).run(getattr(flows, name), n=4).result() == expected
    assert sorted(effects) == once


def test_lost_messages_are_announced_again(sqlite_database: Database) -> None:
    """The row is the owed message: the sweeper sends what nobody claimed."""

    class Lossy(Driver):
        lost = 0

        def deliver(self, message):
            self.lost += 1
            if self.lost % 2:
                super().deliver(message)
            else:
                # Longer than the longest pause between two messages for the same row.
                self.elapse(800)

    assert Lossy(sqlite_database).run(flows.fan_out, n=6).result() == 21


def test_a_loop_over_results_costs_few_segments(sqlite_database: Database) -> None:
    """The grace for companions makes a loop of `.result()` cheap, however the tasks end."""
    driver = Driver(sqlite_database, slots=2)
    assert driver.run(flows.fan_out, n=200).result() == 20100
    assert driver.segments <= 8


def test_only_the_window_of_a_wave_is_announced(driver: Driver) -> None:
    """Nothing queues up behind ten thousand messages; each end announces the next."""
    run_id = driver.submit(flows.wide, n=100)
    driver.step()
    assert len(driver.carrier.messages) == 16

    for _ in range(90):
        driver.step()
        assert len(driver.carrier.messages) <= 16
    assert driver.finish(run_id).is_completed()


def test_a_stopping_worker_gives_its_run_back(driver: Driver, effects: list[str]) -> None:
    """At its next call the body is left, and the run is READY for another worker; it counts no lapse."""
    run_id = driver.submit(flows.linear, n=3)
    driver.carrier.stops = True
    driver.step()
    row = driver.row(run_id)
    assert (row["phase"], row["lapses"]) == ("READY", 0)

    driver.carrier.stops = False
    assert driver.finish(run_id).result() == 3
    assert len(effects) == 3


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("mixed", {"n": 3}, [5, 25, 45]),
        ("counted", {"n": 2}, 3),
        ("completed", {"n": 3}, [1, 2, 3]),
        ("with_slow_task", {"submitted": False}, "TimedOut"),
        ("with_slow_task", {"submitted": True}, "TimedOut"),
    ],
)
def test_workers_may_use_threads(driver: Driver, name: str, parameters: dict[str, Any], expected: Any) -> None:
    """Where bodies do not run in the main thread, and cannot be interrupted there."""
    with ThreadPoolExecutor(1) as pool:
        state = pool.submit(driver.run, getattr(flows, name), **parameters).result(20)

    assert state.result() == expected


def test_log_lines_are_written_once_over_replays(driver: Driver) -> None:
    """A replay does not repeat what the body logged before."""
    from orchestra.store import logs
    from orchestra.store.behind import behind

    run_id = driver.submit(flows.logged)
    while driver.step():
        behind().flush(5)
    driver.finish(run_id)
    behind().flush(5)

    lines = [
        line.message for line in logs.read(driver.database, run_id) if line.message in ("before", "between", "after")
    ]
    assert driver.segments == 3
    assert lines == ["before", "between", "after"]


@pytest.mark.parametrize("submitted", [False, True], ids=["direct", "submitted"])
def test_options_that_a_copy_of_a_task_has_go_with_its_call(
    driver: Driver, effects: list[str], submitted: bool
) -> None:
    """Whoever runs it finds the task as it was declared, and these options in its row; a lambda is one as well."""
    assert driver.run(flows.with_more_tries, submitted=submitted).is_failed()
    assert effects == ["stubborn"] * 3


def test_options_that_a_copy_of_a_flow_has_go_with_its_run(driver: Driver) -> None:
    """A child with a timeout of its own, and a name, is timed out though it is carried on by another worker."""
    run_id = driver.submit(flows.with_a_short_child)
    driver.settle()
    driver.elapse(10)

    state = driver.finish(run_id, messages=100)
    assert "longer than its timeout_seconds=0.2" in (state.message or "")


def test_a_task_that_no_worker_would_find_is_refused(driver: Driver) -> None:
    """Where its function's name is not the task's; the error says what stands there."""
    state = driver.run(flows.submits_what_no_worker_finds, messages=50)

    with pytest.raises(NotImportable, match=r"finds a function there: decorate"):
        state.result()
