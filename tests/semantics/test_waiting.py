"""`wait_for`, `return_state`, and the ways to wait for futures."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orchestra import allow_failure, as_completed, flow, task, wait
from orchestra.errors import DefinitionError, ResultTimeout, UpstreamFailed
from orchestra.futures import FutureList
from orchestra.runtime import flow_run
from tests.semantics.conftest import EFFECTS, Run


@task
def note(name: str) -> str:
    """Note that it ran."""
    EFFECTS.append(name)
    return name


@task
def fails() -> None:
    """Fails."""
    raise ValueError("broken")


@task
async def anote(name: str) -> str:
    """As `note`, async."""
    EFFECTS.append(name)
    return name


@flow
def child(name: str) -> str:
    EFFECTS.append(name)
    return name


@flow
async def achild(name: str) -> str:
    EFFECTS.append(name)
    return name


@flow
def orders(several: bool) -> None:
    def after(future: Any) -> Any:
        return [future] if several else future

    first = note.submit("1")
    second = note.submit("2", wait_for=after(first))
    note("3", wait_for=after(second))
    fourth = note.submit("4", wait_for=after(allow_failure(fails.submit())))
    child("5", wait_for=after(fourth))
    seventh = note.map(["6"], wait_for=after(fourth))
    child("7", wait_for=seventh)


@flow
async def orders_async(several: bool) -> None:
    def after(future: Any) -> Any:
        return [future] if several else future

    first = note.submit("1")
    await anote("2", wait_for=after(first))
    second = anote.submit("3", wait_for=after(first))
    await achild("4", wait_for=after(second))


@flow
def not_run(kind: str) -> Any:
    bad = fails.submit()
    calls = {
        "call": lambda: note("x", wait_for=bad),
        "submit": lambda: note.submit("x", wait_for=[bad]).result(),
        "map": lambda: note.map(["x"], wait_for=bad).result(),
        "subflow": lambda: child("x", wait_for=[bad]),
        "state": lambda: note("x", wait_for=[fails(return_state=True)]),
    }
    return calls[kind]()


@flow
def states() -> list[Any]:
    called, submitted = note("a", return_state=True), note.submit("b", return_state=True)
    mapped = note.map(["c", "d"], return_state=True)
    below = child("e", return_state=True)
    return [state.result() for state in (called, submitted, *mapped, below)]


@flow
def states_of_upstream_failures() -> list[str]:
    bad = fails.submit()
    found = [
        note(bad, return_state=True),
        note.submit(bad, return_state=True),
        child(bad, return_state=True),
        child("x", wait_for=bad, return_state=True),
    ]
    # What comes after is asked for in a replay, too.
    note.submit("after").wait()
    return [state.name for state in found]


@flow
async def states_of_upstream_failures_async() -> list[str]:
    bad = fails.submit()
    found = [await anote(bad, return_state=True), await achild("x", wait_for=bad, return_state=True)]
    await anote.submit("after")
    return [state.name for state in found]


@flow
async def states_async() -> list[Any]:
    called, submitted = await anote("a", return_state=True), anote.submit("b", return_state=True)
    below = await achild("c", return_state=True)
    return [await called.result(), await submitted.aresult(), await below.result(raise_on_failure=False)]


@flow
def looks_at_states() -> list[Any]:
    state = note.submit("a", return_state=True)
    details = state.state_details
    return [details.flow_run_id == flow_run.id, bool(details.task_run_id), state.is_final()]


@flow
def waits() -> list[Any]:
    futures = [note.submit("a"), fails.submit()]
    done, open_ = wait(futures)
    futures[0].wait()
    return [len(done), len(open_), sorted(future.state.name for future in done)]


@flow
def completes() -> list[Any]:
    futures = note.map(["a", "b", "c"])
    return sorted(future.result() for future in as_completed(futures, timeout=60))


@flow
def lists() -> list[Any]:
    futures = note.map(["a", "b"])
    futures.wait()
    mixed = [*note.map(["c"]), fails.submit()]
    left = FutureList(mixed).result(raise_on_failure=False)
    return [futures.result(timeout=60), left[0], type(left[1]).__name__, note.map([]).result()]


@flow
def raises_of_a_list() -> Any:
    return fails_map().result()


def fails_map() -> Any:
    """Futures of failed task runs."""
    return maybe.map([1, 0])


@task
def maybe(x: int) -> float:
    """Fails for 0."""
    return 1 / x


@flow
def calls_back() -> list[str]:
    told: list[str] = []
    future = note.submit("a")
    future.add_done_callback(lambda done: told.append(done.result()))
    future.wait()
    future.add_done_callback(lambda done: told.append("again"))
    return told


@flow
def knows_ids() -> list[bool]:
    futures = [note.submit("a"), note.submit("b")]
    ids = [future.task_run_id for future in futures]
    return [len(set(ids)) == 2, futures[0].state.state_details.task_run_id in (None, ids[0])]


@pytest.mark.parametrize("several", [True, False], ids=["in a list", "by itself"])
def test_wait_for_holds_back_calls_submits_maps_and_subflows(run: Run, effects: list[Any], several: bool) -> None:
    """One future, or a list of them."""
    run.value(orders, several=several)
    assert effects == ["1", "2", "3", "4", "5", "6", "7"]


@pytest.mark.parametrize("several", [True, False], ids=["in a list", "by itself"])
def test_wait_for_holds_back_coroutines(run: Run, effects: list[Any], several: bool) -> None:
    """Of tasks and flows."""
    run.value(orders_async, several=several)
    assert effects == ["1", "2", "3", "4"]


@pytest.mark.parametrize("kind", ["call", "submit", "map", "subflow", "state"])
def test_nothing_runs_that_waits_for_what_failed(run: Run, effects: list[Any], kind: str) -> None:
    """A clear error names the culprit."""
    with pytest.raises(UpstreamFailed, match="did not succeed"):
        run.value(not_run, kind=kind)
    assert effects == []


@pytest.mark.parametrize("call", [lambda: note("x", wait_for=3), lambda: child("x", wait_for=3)])
def test_wait_for_takes_futures_only(call: Any) -> None:
    """Anything else is an error that names it."""
    with pytest.raises(DefinitionError, match="wait_for= takes a future, or several in a list, not 3"):
        call()


def test_return_state_gives_states_everywhere(run: Run) -> None:
    """Of calls, submits, maps and subflows."""
    assert run.value(states) == ["a", "b", "c", "d", "e"]


def test_return_state_raises_nothing(run: Run) -> None:
    """The state of what failed says so."""
    assert run.value(states_of_upstream_failures) == ["UpstreamFailed"] * 4
    assert run.value(states_of_upstream_failures_async) == ["UpstreamFailed"] * 2


@pytest.mark.parametrize("given", [[3], 3])
def test_what_is_no_future_cannot_be_waited_for(given: Any) -> None:
    """The error says what is taken, and how a handle waits."""
    with pytest.raises(DefinitionError, match=r"wait\(\) takes futures in a list, .* not 3; a handle"):
        wait(given)
    with pytest.raises(DefinitionError, match=r"as_completed\(\) takes futures"):
        list(as_completed(given))


def test_states_of_coroutines_are_awaited(run: Run) -> None:
    """`await state.result()`, and `.aresult()`."""
    assert run.value(states_async) == ["a", "b", "c"]


def test_states_know_their_runs(run: Run) -> None:
    """By `state_details`."""
    assert run.value(looks_at_states) == [True, True, True]


def test_wait_gives_done_and_not_done(run: Run) -> None:
    """Failed ones are done, too."""
    assert run.value(waits) == [2, 0, ["Completed", "Failed"]]


def test_as_completed_gives_each_future_once(run: Run) -> None:
    """As they end."""
    assert run.value(completes) == ["a", "b", "c"]


def test_a_future_list_gives_all_values_in_order(run: Run) -> None:
    """Exceptions in their places, where that is asked for; an empty one is there at once."""
    assert run.value(lists) == [["a", "b"], "c", "ValueError", []]
    with pytest.raises(ZeroDivisionError):
        run.value(raises_of_a_list)


def test_callbacks_are_called_when_a_future_is_done(run: Run) -> None:
    """At once where it is already."""
    assert sorted(run.value(calls_back)) == ["a", "again"]


def test_futures_know_their_task_runs(run: Run) -> None:
    """By id, from the start."""
    assert run.value(knows_ids) == [True, True]


def test_what_does_not_come_in_time_raises() -> None:
    """Of `as_completed` and of a list; the tasks go on. (On workers: tests/engine/test_waiting.py.)"""
    gate = threading.Event()

    @task
    def slow() -> str:
        gate.wait(30)
        return "here"

    @flow
    def work() -> str:
        futures = FutureList([slow.submit()])
        with pytest.raises(ResultTimeout, match="1 of 1 results"):
            futures.result(timeout=0.01)
        with pytest.raises(TimeoutError, match="1 of 1 task runs"):
            list(as_completed(futures, timeout=0.01))
        gate.set()
        return futures.result()[0]

    assert work() == "here"
