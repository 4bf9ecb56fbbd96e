"""Retries in all forms, of tasks and flows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from orchestra import exponential_backoff, flow, settings, task
from orchestra.errors import DefinitionError, RunTimeout
from orchestra.retries import next_delay
from orchestra.runtime import flow_run, task_run
from orchestra.states import Failed, State
from tests.semantics.conftest import EFFECTS, Run


def fail_until(last: int) -> int:
    """Note the try, and fail before the `last` one."""
    EFFECTS.append(task_run.run_count)
    if len(EFFECTS) < last:
        raise ConnectionError(f"try {len(EFFECTS)}")
    return len(EFFECTS)


def slow_down(retry: int) -> float:
    """A delay for each retry."""
    EFFECTS.append(f"delay {retry}")
    return 0.0


def only_connections(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether another try may help."""
    return isinstance(state.result(raise_on_failure=False), ConnectionError) and run.run_count < 3


def first_argument(allowed: bool, task: Any, run: Any, state: State[Any]) -> bool:
    """To be made a partial."""
    return allowed


async def ask_elsewhere(task: Any, run: Any, state: State[Any]) -> bool:
    """A condition that is a coroutine function."""
    await asyncio.sleep(0)
    return "try 1" in str(state.message)


def breaks(task: Any, run: Any, state: State[Any]) -> bool:
    """A condition that fails itself."""
    raise RuntimeError("no answer")


class Patient:
    """A condition that is an object."""

    def __call__(self, task: Any, run: Any, state: State[Any]) -> bool:
        """Yes, once."""
        return bool(run.run_count < 2)


@task(retries=2)
def by_number() -> int:
    """Succeeds at its third try."""
    return fail_until(3)


@task(retries=4, retry_delay_seconds=[0, timedelta(seconds=0.001)])
def by_list() -> int:
    """The last delay repeats."""
    return fail_until(4)


@task(retries=2, retry_delay_seconds=slow_down)
def by_function() -> int:
    """Asked for each retry."""
    raise ConnectionError("away")


@task(retries=2, retry_delay_seconds=exponential_backoff(0.001), retry_jitter_factor=0.5)
def by_backoff() -> int:
    """Doubles."""
    return fail_until(3)


@task(retries=2)
async def by_coroutine() -> int:
    """Async."""
    return fail_until(3)


@task(retries=2)
def by_state() -> Any:
    """Says by a state that it failed."""
    EFFECTS.append(task_run.run_count)
    return Failed("not yet") if len(EFFECTS) < 3 else len(EFFECTS)


@task(retries=1)
def hopeless() -> int:
    """Always fails."""
    return fail_until(99)


@task(retries=5, timeout_seconds=0.1)
async def slow_at_first() -> int:
    """Too slow at its first try."""
    EFFECTS.append(task_run.run_count)
    if len(EFFECTS) == 1:
        await asyncio.sleep(60)
    return len(EFFECTS)


@task
def by_settings() -> int:
    """Says nothing of retries."""
    return fail_until(3)


@task(retries=0)
def never() -> int:
    """Says that there are none."""
    return fail_until(2)


CONDITIONS: dict[str, Callable[..., Any]] = {
    "function": only_connections,
    "yes": partial(first_argument, True),
    "no": partial(first_argument, False),
    "coroutine": ask_elsewhere,
    "object": Patient(),
    "breaks": breaks,
}
if_function = hopeless.with_options(retries=9, retry_condition_fn=CONDITIONS["function"])
if_yes = hopeless.with_options(retries=2, retry_condition_fn=CONDITIONS["yes"])
if_no = hopeless.with_options(retries=9, retry_condition_fn=CONDITIONS["no"])
if_coroutine = hopeless.with_options(retries=9, retry_condition_fn=CONDITIONS["coroutine"])
if_object = hopeless.with_options(retries=9, retry_condition_fn=CONDITIONS["object"])
picky = by_coroutine.with_options(retry_condition_fn=CONDITIONS["coroutine"])
once_only = slow_at_first.with_options(retries=0)
if_breaks = hopeless.with_options(retries=9, retry_condition_fn=CONDITIONS["breaks"])


def sees(task: Any, run: Any, state: State[Any]) -> bool:
    """Note what a condition is told."""
    EFFECTS.append((task.name, task.retries, task.fn.__name__, run.name, run.run_count, state.name))
    return False


@task(retries=3, retry_condition_fn=sees, name="seen")
def watched() -> None:
    """Fails."""
    raise ConnectionError("away")


@flow
def calls(name: str, submitted: bool) -> Any:
    tried = globals()[name]
    return tried.submit().result() if submitted else tried()


@flow
async def awaits(name: str, submitted: bool) -> Any:
    tried = globals()[name]
    return await (tried.submit() if submitted else tried())


@flow(retries=2, retry_delay_seconds=0)
def flow_retried() -> int:
    EFFECTS.append(flow_run.run_count)
    if len(EFFECTS) < 3:
        raise ConnectionError("away")
    return len(EFFECTS)


@flow(retries=1)
def flow_says_failed() -> Any:
    EFFECTS.append(flow_run.run_count)
    return Failed("not yet") if len(EFFECTS) < 2 else "done"


@flow
def flow_of_settings() -> int:
    EFFECTS.append(flow_run.run_count)
    if len(EFFECTS) < 2:
        raise ConnectionError("away")
    return len(EFFECTS)


@pytest.mark.parametrize("submitted", [False, True])
@pytest.mark.parametrize(("name", "tries"), [("by_number", 3), ("by_list", 4), ("by_backoff", 3), ("by_state", 3)])
def test_a_task_is_tried_again(run: Run, effects: list[Any], name: str, tries: int, submitted: bool) -> None:
    """After a number, a list, a backoff; after an exception or a returned `Failed`. `run_count` counts the tries."""
    assert run.value(calls, name=name, submitted=submitted) == tries
    assert effects == list(range(1, tries + 1))


@pytest.mark.parametrize("submitted", [False, True])
def test_a_delay_function_is_asked_for_each_retry(run: Run, effects: list[Any], submitted: bool) -> None:
    """With its number, from 1."""
    assert run(calls, name="by_function", submitted=submitted).is_failed()
    assert effects == ["delay 1", "delay 2"]


@pytest.mark.parametrize("submitted", [False, True])
def test_coroutines_are_tried_again(run: Run, effects: list[Any], submitted: bool) -> None:
    """Awaited or submitted."""
    assert run.value(awaits, name="by_coroutine", submitted=submitted) == 3
    assert effects == [1, 2, 3]


@pytest.mark.parametrize("submitted", [False, True])
def test_each_try_has_the_whole_timeout(run: Run, effects: list[Any], submitted: bool) -> None:
    """A try that is over its time is followed by another one."""
    assert run.value(awaits, name="slow_at_first", submitted=submitted) == 2
    assert effects == [1, 2]


def test_the_last_error_is_the_runs(run: Run, effects: list[Any]) -> None:
    """After as many tries as are allowed."""
    with pytest.raises(ConnectionError, match="try 2"):
        run.value(calls, name="hopeless", submitted=False)


@pytest.mark.parametrize("submitted", [False, True])
@pytest.mark.parametrize(
    ("name", "tries"),
    [("if_function", 3), ("if_yes", 3), ("if_no", 1), ("if_coroutine", 2), ("if_object", 2), ("if_breaks", 1)],
)
def test_a_condition_decides(run: Run, effects: list[Any], name: str, tries: int, submitted: bool) -> None:
    """A function, a partial, an object or a coroutine function; one that raises says no."""
    assert run(calls, name=name, submitted=submitted).is_failed()
    assert effects == list(range(1, tries + 1))


@pytest.mark.parametrize("submitted", [False, True])
def test_a_condition_is_told_of_the_task_its_run_and_its_state(run: Run, effects: list[Any], submitted: bool) -> None:
    """The task as the user knows it."""
    run(calls, name="watched", submitted=submitted)
    assert effects == [("seen", 3, "watched", "seen-0", 1, "Failed")]


def test_a_condition_is_asked_of_coroutines_too(run: Run, effects: list[Any]) -> None:
    """In the event loop of an async flow."""
    assert run(awaits, name="picky", submitted=False).is_failed()
    assert effects == [1, 2]


@pytest.mark.parametrize("submitted", [False, True])
def test_settings_say_how_often_where_the_task_does_not(run: Run, effects: list[Any], submitted: bool) -> None:
    """`ORCHESTRA_TASKS_DEFAULT_RETRIES` and its delay; a task that says 0 is not tried again."""
    settings.override(tasks_default_retries=2, tasks_default_retry_delay_seconds=0.001)

    assert run.value(calls, name="by_settings", submitted=submitted) == 3
    effects.clear()
    assert run(calls, name="never", submitted=submitted).is_failed()
    assert effects == [1]


def test_a_flow_is_run_again(run: Run, effects: list[Any]) -> None:
    """`run_count` counts the run attempts; a returned `Failed` counts as a failure."""
    assert run.value(flow_retried) == 3
    assert effects == [1, 2, 3]
    effects.clear()
    assert run.value(flow_says_failed) == "done"


def test_settings_say_it_for_flows_too(run: Run, effects: list[Any]) -> None:
    """`ORCHESTRA_FLOWS_DEFAULT_RETRIES` and its delay."""
    settings.override(flows_default_retries=1)

    assert run.value(flow_of_settings) == 2


def test_default_retries_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first use, not where the task is declared; 0 is a number of retries."""
    monkeypatch.setenv("ORCHESTRA_TASKS_DEFAULT_RETRIES", "3")
    monkeypatch.setenv("ORCHESTRA_FLOWS_DEFAULT_RETRIES", "0")
    settings.reset()

    assert (by_settings.retries, never.retries, flow_of_settings.retries) == (3, 0, 0)


def test_schedules_of_delays() -> None:
    """A list repeats its last; a function gives a number for each retry, or a list for all; backoff doubles."""

    def delays(given: Any, retries: int = 4) -> list[float | None]:
        return [next_delay(retries, given, attempt) for attempt in range(1, retries + 2)]

    assert delays(3.0) == [3, 3, 3, 3, None]
    assert delays((1.0, 5.0)) == [1, 5, 5, 5, None]
    assert delays(lambda retry: 2**retry) == [2, 4, 8, 16, None]
    assert delays(lambda retries: [retries, 1]) == [4, 1, 1, 1, None]
    assert delays(exponential_backoff(2)) == [2, 4, 8, 16, None]
    assert delays(exponential_backoff(0.5), 2) == [0.5, 1, None]


def test_jitter_never_makes_a_delay_negative() -> None:
    """However large its factor."""
    found = [next_delay(1, 10.0, 1, jitter=5.0) or 0.0 for _ in range(500)]

    assert 0 <= min(found) <= max(found) <= 60


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retries": 1, "retry_delay_seconds": [1] * 51}, ValueError, "at most 50"),
        ({"retry_delay_seconds": -1}, ValueError, "0 or more"),
        ({"retry_jitter_factor": -0.5}, ValueError, "from 0"),
        ({"retries": 1.5}, DefinitionError, "retries"),
        ({"retry_condition_fn": True}, DefinitionError, "retry_condition_fn"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_declared(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """With the option's name, or its limit."""
    with pytest.raises(error, match=message):
        task(**options)(fail_until)


def test_a_timeout_that_is_not_retried_is_the_runs(run: Run, effects: list[Any]) -> None:
    """State `TimedOut`."""
    state = run(awaits, name="once_only", submitted=False)

    with pytest.raises(RunTimeout, match=r"timeout_seconds=0\.1"):
        state.result()
