"""Task runners on a worker: the most tasks in flight, and inline ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestra import flow
from orchestra.errors import ConfigurationError, DefinitionError
from orchestra.states import StateType
from orchestra.store.tables import Phase
from orchestra.task_runners import (
    CeleryTaskRunner,
    InlineTaskRunner,
    ProcessPoolTaskRunner,
    ThreadPoolTaskRunner,
)
from tests.drive import Driver, Killed
from tests.engine import bounded_flows as flows

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def effects() -> Iterator[list[str]]:
    """What bodies did, in order."""
    flows.effects.clear()
    flows.attempts.clear()
    yield flows.effects
    flows.effects.clear()


def started(driver: Driver) -> int:
    """How many tasks have a message under way."""
    return len({message.step_key for message in driver.carrier.messages if message.kind == "step"})


def most_started(driver: Driver, run_id: str) -> int:
    """Carry the run to its end; the most tasks that had a message under way at once."""
    most = 0
    for _ in range(10_000):
        most = max(most, started(driver))
        if not driver.step():
            if driver.row(run_id)["phase"] == Phase.DONE:
                return most
            driver.sweep()
    raise AssertionError("the run does not end")


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize(
    ("work", "answer"), [(flows.fan, 90), (flows.chained, 180), (flows.in_rounds, 10)], ids=["fan", "chain", "rounds"]
)
def test_max_workers_bounds_the_tasks_in_flight(driver: Driver, work: object, answer: int, order: str) -> None:
    """Over several dispatches and joins, whichever task ends first; and as many are, while there are so many."""
    driver.pick = (lambda count: 0) if order == "first" else (lambda count: count - 1)
    run_id = driver.submit(work, n=10)

    assert most_started(driver, run_id) == 2
    assert driver.final(run_id).result() == answer


def test_a_task_that_waits_to_be_tried_again_keeps_its_place(driver: Driver) -> None:
    """As a thread of a pool would: with one place the others wait for it."""
    run_id = driver.submit(flows.one_by_one, n=3)
    for _ in range(3):
        driver.settle()
        assert [step.state_name for step in driver.steps(run_id)].count("AwaitingRetry") == 1
        driver.elapse(40)
        driver.sweep()

    assert driver.finish(run_id).result() == 3


def test_a_task_that_is_not_run_takes_no_place(driver: Driver) -> None:
    """One whose upstream failed."""
    run_id = driver.submit(flows.one_fails)

    assert most_started(driver, run_id) == 1
    assert driver.final(run_id).result() == ["UpstreamFailed", 4, "Failed"]


def test_the_bound_holds_in_a_retry_of_the_flow(driver: Driver) -> None:
    """What is kept from the attempt before takes no place."""
    run_id = driver.submit(flows.tried_again, n=4)

    assert most_started(driver, run_id) == 1
    assert driver.final(run_id).result() == 12 + 200


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 23))
def test_a_worker_may_die_at_any_write_of_a_bounded_run(driver: Driver, write: int, after_commit: bool) -> None:
    """All of it is done all the same, and never more at once."""
    run_id = driver.submit(flows.chained, n=4)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with pytest.raises(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)
    driver.carrier.messages.clear()
    driver.sweep()

    assert most_started(driver, run_id) <= 2
    assert driver.final(run_id).result() == 24


def test_a_static_flow_keeps_to_the_bound(driver: Driver) -> None:
    """It is not sent as a canvas, of which Celery would start all that is ready."""
    run_id = driver.submit(flows.drawn)

    assert most_started(driver, run_id) == 2
    assert driver.final(run_id).result() == 30


def test_inline_tasks_run_when_they_are_submitted(driver: Driver, effects: list[str]) -> None:
    """In the flow's own process, journaled one by one."""
    run_id = driver.submit(flows.at_once)

    assert driver.finish(run_id).result() == [1, 1, 5]
    assert effects == ["plain 1", "body, after Completed", "plain 1", "plain 1", "plain 5"]
    assert driver.segments == 1


def test_an_inline_task_that_fails_fails_what_depends_on_it(driver: Driver) -> None:
    """The body goes on until it asks for the result."""
    run_id = driver.submit(flows.at_once_failing)

    assert driver.finish(run_id).result() == ["ValueError", "UpstreamFailed"]


@pytest.mark.parametrize("runner", [ThreadPoolTaskRunner, ProcessPoolTaskRunner, InlineTaskRunner, CeleryTaskRunner])
def test_a_task_runner_may_be_given_as_a_class(runner: type) -> None:
    """As in Prefect; it is made without arguments."""
    made = flow(task_runner=runner)(lambda: None)

    assert made.spec.task_runner == runner()
    assert made.spec.task_runner.duplicate() == runner()


def test_what_is_no_task_runner_is_refused() -> None:
    """With the names of those that there are."""
    with pytest.raises(DefinitionError, match="ThreadPoolTaskRunner"):
        flow(task_runner=4)(lambda: None)
    for wrong in (0, "two"):
        with pytest.raises(ConfigurationError, match=f"a number from 1, or None, not {wrong!r}"):
            ProcessPoolTaskRunner(max_workers=wrong)  # type: ignore[arg-type]  # a mistake of a user's


def test_options_with_a_task_runner_reach_the_worker(driver: Driver) -> None:
    """`with_options(task_runner=...)` of a flow that another process runs."""
    from orchestra.engine.definitions import encoded_options, load_flow

    for runner in (ThreadPoolTaskRunner(3), CeleryTaskRunner(queue="heavy"), InlineTaskRunner()):
        made = flows.fan.with_options(task_runner=runner)
        assert load_flow(made.spec.path, None, encoded_options(made.spec)).task_runner == runner


def test_the_state_of_a_run_with_a_bound_is_that_of_any_other(driver: Driver) -> None:
    """Tasks beyond it are PENDING."""
    run_id = driver.submit(flows.fan, n=5)
    driver.step()

    assert {step.state_type for step in driver.steps(run_id)} == {StateType.PENDING}
    assert started(driver) == 2
    assert driver.finish(run_id).result() == 20
