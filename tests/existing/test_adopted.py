"""Tasks of an existing Celery app as tasks of flows: what they did on a worker of their own, they do in a flow."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, signals
from celery.exceptions import MaxRetriesExceededError, Reject

from orchestra import flow, task
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.engine import definitions
from orchestra.errors import DefinitionError, DefinitionNotFound, ReservedArgumentError
from tests.drive import Driver
from tests.existing import project
from tests.existing.conftest import Run
from tests.existing.project import STEPS, seen

pytestmark = pytest.mark.slow

# -- running -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "value"),
    [
        ("add", [1, 2], 3),
        ("charge", [5], "charged 5"),
        ("refund", [5], "refunded 5"),
        ("doubled", [4], 8),
        ("shared", [1], 101),
        ("stacked", [9], 9),
    ],
)
def test_every_kind_of_celery_task_runs_in_a_flow(run: Run, name: str, args: list[Any], value: Any) -> None:
    """Functions, classes, other names, shared tasks, both decorators at once."""
    assert run(name, *args).result() == value


def test_a_mapped_celery_task_gives_its_values_in_order(driver: Driver, app: Celery) -> None:
    """One call per element, here and on a worker."""
    assert project.mapped([1, 2, 3]) == [11, 12, 13, 3]
    assert driver.run(project.mapped, numbers=[1, 2, 3]).result() == [11, 12, 13, 3]


def test_celery_tasks_run_in_processes_of_their_own(app: Celery) -> None:
    """Found there by path or by name; a retry that the body asks for is asked for across the pipe."""
    assert project.in_processes() == [2, "refunded 5", 2]


def test_a_celery_task_runs_outside_of_flows_too(app: Celery) -> None:
    """As any task, without a trace."""
    assert STEPS["add"](1, b=5) == 6


def test_the_task_of_the_app_stays_as_it_was(app: Celery) -> None:
    """Its own name, its own call."""
    assert project.add.name == "tests.existing.project.add"
    assert project.add(1, 2) == 3
    assert project.third_time.max_retries == 2


# -- self --------------------------------------------------------------------------------------------------------


def test_a_bound_task_finds_its_request(run: Run) -> None:
    """`self.request`, as on a worker of its own."""
    found = run("tells", 1).result()

    assert found == {
        "args": [1],
        "kwargs": {},
        "retries": 0,
        "called_directly": False,
        "has_id": True,
        "has_root": True,
        "has_host": True,
        "redelivered": False,
        "task": "tests.existing.project.tells",
    }


def test_a_retry_that_the_body_asks_for_is_the_next_attempt(run: Run) -> None:
    """`self.retry(countdown=…)` until it ends well; `self.request.retries` counts."""
    assert run("third_time").result() == 2


def test_a_body_that_asks_too_often_fails_with_its_error(run: Run) -> None:
    """`max_retries` are Celery's."""
    with pytest.raises(ValueError, match="never"):
        run("gives_up").result()

    assert seen == [("try", 0), ("try", 1)]


def test_a_body_that_gives_no_error_fails_with_celerys(run: Run) -> None:
    """`MaxRetriesExceededError`."""
    with pytest.raises(MaxRetriesExceededError):
        run("gives_up_plainly").result()


@pytest.mark.parametrize(("kind", "tries"), [("KeyError", 3), ("IndexError", 1), ("TypeError", 1)])
def test_autoretry_decides_which_errors_are_tried_again(run: Run, kind: str, tries: int) -> None:
    """`autoretry_for` and `dont_autoretry_for`; any other error fails at once, as in Celery."""
    state = run("looks_up", kind)

    assert len(seen) == tries
    assert state.is_completed() == (kind == "KeyError")


def test_other_arguments_for_the_next_try_are_refused(run: Run) -> None:
    """A step keeps those that are journaled with it."""
    with pytest.raises(DefinitionError, match="Call it a second time"):
        run("with_other_arguments", 1).result()


def test_a_replaced_task_gives_the_value_of_its_replacement(run: Run) -> None:
    """`self.replace(sig)` runs it in place."""
    assert run("replaced").result() == 42


# -- endings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("well", [("before_start", ["well"]), ("on_success", "well"), ("after_return", "SUCCESS")]),
        ("fail", [("before_start", ["fail"]), ("on_failure", "as it should"), ("after_return", "FAILURE")]),
        (
            "retry",
            [
                ("before_start", ["retry"]),
                ("on_retry", "once more"),
                ("before_start", ["retry"]),
                ("on_success", "retry"),
                ("after_return", "SUCCESS"),
            ],
        ),
    ],
)
def test_the_handlers_of_the_base_class_are_called(run: Run, how: str, told: list[Any]) -> None:
    """`before_start`, `on_success`, `on_retry`, `on_failure`, `after_return`."""
    run("watched", how)

    assert seen == told


def test_an_ignored_task_has_completed_without_a_value(run: Run) -> None:
    """`raise Ignore()`."""
    state = run("ignores")

    assert (state.name, state.is_completed(), state.message, state.data) == ("Ignored", True, "nothing to do", None)


def test_a_rejected_task_has_failed(run: Run) -> None:
    """`raise Reject()`."""
    state = run("rejects", False)

    assert (state.name, len(seen)) == ("Rejected", 1)
    with pytest.raises(Reject):
        state.result()


def test_a_task_that_is_put_back_is_tried_again_within_its_limit(run: Run) -> None:
    """`raise Reject(requeue=True)`; not for ever, as it would be in Celery."""
    state = run("rejects", True)

    assert (state.name, len(seen)) == ("Rejected", 2)


def test_a_soft_limit_is_raised_in_the_body(driver: Driver, app: Celery) -> None:
    """`SoftTimeLimitExceeded`, in a main thread."""
    assert project.direct("tidies_up", [], return_state=True).result() == "tidied up"
    assert driver.run(project.submitted, name="tidies_up", args=[]).result() == "tidied up"


def test_a_hard_limit_ends_the_task(run: Run) -> None:
    """`time_limit` is its timeout."""
    assert run("takes_too_long").name == "TimedOut"


def test_signals_of_celery_are_sent(run: Run) -> None:
    """Who listens to them goes on hearing of the project's tasks, each under its own object."""
    heard: list[str] = []

    def hear(signal: Any, **_: Any) -> None:
        heard.append(signal.name)

    listened = [signals.task_prerun, signals.task_success, signals.task_postrun]
    for signal in listened:
        signal.connect(hear, sender=project.app.tasks["tests.existing.project.add"], weak=False)
    try:
        run("add", 1, 2)
    finally:
        for signal in listened:
            signal.disconnect(hear, sender=project.app.tasks["tests.existing.project.add"])

    assert heard == ["task_prerun", "task_success", "task_postrun"]


# -- options -----------------------------------------------------------------------------------------------------


def test_options_given_to_task_hold_over_celerys(driver: Driver, app: Celery) -> None:
    """`task(existing, retries=…)`: every failure is tried again, also by a worker that has only the Celery task."""
    often = task(project.watched, retries=1, retry_delay_seconds=0)

    state = often("fail", return_state=True)

    assert state.is_failed()
    assert seen.count(("on_failure", "as it should")) == 2
    found = definitions.load_task(often.spec.path, definitions.encoded_options(often.spec))
    assert (found.retries, found.retry_delay_seconds) == (1, 0.0)


def test_a_retry_is_refused_where_there_are_to_be_none(app: Celery) -> None:
    """`task(existing, retries=0)`."""
    never = task(project.third_time, retries=0)

    with pytest.raises(ValueError, match="not yet"):
        never()


def test_state_hooks_of_an_adopted_task_run(driver: Driver, app: Celery, flow_of_one: Any) -> None:
    """They travel with the call: a worker has only the Celery task."""
    driver.run(flow_of_one, name="hooked", args=[1])
    flow_of_one("hooked", [1])

    assert [each for each in seen if each[0] == "hook"] == [("hook", "add", 2)] * 2


def test_other_options_come_by_with_options(app: Celery) -> None:
    """As for any task."""
    assert STEPS["add"].with_options(name="sum", queue="q").spec.queue == "q"
    assert STEPS["add"].spec.queue is None


# -- where they go, and how they are found -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "queue", "priority"),
    [("add", "sums", None), ("charge", "billing", 4), ("refund", "billing", 4), ("tells", "existing", None)],
)
def test_the_app_routes_them_by_their_celery_names(app: Celery, name: str, queue: str, priority: int | None) -> None:
    """Those that no route names go to the app's default queue, as without orchestra."""
    spec = STEPS[name].spec

    assert CeleryCarrier(app).route(spec.routed_as) == (queue, priority)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_a_worker_finds_the_task_by_its_path(app: Celery, name: str) -> None:
    """By module and function, else by its name in the app."""
    spec = STEPS[name].spec

    assert definitions.load_task(spec.path).celery_name == spec.celery_name


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("add", "tests.existing.project:add"),
        ("charge", "tests.existing.project:charge"),
        ("stacked", "tests.existing.project:stacked"),
        ("refund", "celery-task:billing.refund"),
        ("doubled", "celery-task:tests.existing.project._hidden"),
    ],
)
def test_paths_lead_to_modules_where_they_can(app: Celery, name: str, path: str) -> None:
    """So that a worker need not have registered the task before."""
    assert STEPS[name].spec.path == path


def test_a_task_that_is_registered_nowhere_is_an_error_that_says_what_to_do(app: Celery) -> None:
    """On a worker whose app does not import the module."""
    with pytest.raises(DefinitionNotFound, match="`imports` or `include`"):
        definitions.load_task("celery-task:nobody.knows")


def test_a_task_is_not_looked_into_before_it_is_used() -> None:
    """The app may be configured after the module of its tasks was imported."""
    late = Celery("late", set_as_current=False)

    @late.task(shared=False)
    def work() -> None: ...

    made = task(work)
    late.conf.task_time_limit = 9

    assert not late.finalized
    assert made.spec.timeout_seconds == 9


# -- mistakes ----------------------------------------------------------------------------------------------------


def test_a_flow_of_a_celery_task_is_refused(app: Celery) -> None:
    """The message says what to write."""
    with pytest.raises(DefinitionError, match="make a task of that"):
        flow(project.add)


def test_a_coroutine_function_is_refused(app: Celery) -> None:
    """Celery itself would not run it."""
    other = Celery("other", set_as_current=False)

    @other.task(shared=False)
    async def work() -> None: ...

    with pytest.raises(DefinitionError, match="put @task on the function"):
        task(work)()


def test_a_reserved_parameter_is_refused() -> None:
    """`wait_for` would never reach the body."""
    other = Celery("other", set_as_current=False)

    @other.task(shared=False)
    def work(wait_for: int) -> None: ...

    with pytest.raises(ReservedArgumentError, match="wait_for"):
        task(work)(1)
