"""Caching: what is answered by an earlier result, what is computed, and what is kept; here and on workers."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest

from orchestra import flow, settings, task
from orchestra.cache_policies import DEFAULT, FLOW_PARAMETERS, INPUTS, NO_CACHE, RUN_ID, TASK_SOURCE, CachePolicy
from orchestra.context import get_run_context
from orchestra.errors import DefinitionError
from orchestra.runtime import task_run
from orchestra.store import cache, cache_records
from orchestra.store.database import Database
from orchestra.transactions import transaction
from tests.helpers import wait_until
from tests.semantics.conftest import EFFECTS, Run


@pytest.fixture(autouse=True)
def no_effects(effects: list[Any]) -> None:
    """Each test begins with none."""


def noted(value: Any) -> Any:
    EFFECTS.append(value)
    return value


# -- hits --------------------------------------------------------------------------------------------------------


@task(cache_policy=INPUTS)
def double(x: Any) -> Any:
    noted(x)
    return x * 2


@flow
def doubles(values: list[Any]) -> list[Any]:
    called = [double(value, return_state=True) for value in values]
    return [(state.name, state.result()) for state in called]


@flow
def submits(values: list[Any]) -> list[Any]:
    return [(state.name, state.result()) for state in double.map(values, return_state=True)]


def test_equal_inputs_are_computed_once(run: Run, effects: list[Any]) -> None:
    """In one run, and in the next."""
    assert run.value(doubles, values=[2, 2, 3]) == [("Completed", 4), ("Cached", 4), ("Completed", 6)]
    assert run.value(doubles, values=[2]) == [("Cached", 4)]
    assert effects == [2, 3]


def test_submitted_calls_are_answered_too(run: Run, effects: list[Any]) -> None:
    """Each by its own key."""
    run(submits, values=[1, 2])

    assert run.value(submits, values=[1, 2, 3]) == [("Cached", 2), ("Cached", 4), ("Completed", 6)]
    assert sorted(effects) == [1, 2, 3]


def test_types_are_told_apart(run: Run) -> None:
    """1, True, 1.0 and "1" are four inputs."""
    values = [1, True, 1.0, "1"]

    assert [name for name, _ in run.value(doubles, values=values)] == ["Completed"] * 4


@flow
def frames() -> list[str]:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    other = pd.DataFrame({"a": [1, 3], "b": ["x", "y"]})
    return [double(each, return_state=True).name for each in (frame, frame.copy(), other)]


def test_frames_are_told_by_their_contents(run: Run) -> None:
    """A copy is the same input, a changed one is not."""
    assert run.value(frames) == ["Completed", "Cached", "Completed"]


@task(cache_policy=INPUTS)
def first(x: int) -> str:
    return "first"


@task(cache_policy=INPUTS)
def second(x: int) -> str:
    return "second"


@flow
def two_tasks() -> list[str]:
    return [first(1), second(1), first(1)]


def test_tasks_never_share_a_result(run: Run) -> None:
    """Though their inputs are equal: the task is always part of the key."""
    assert run.value(two_tasks) == ["first", "second", "first"]


def test_functions_without_a_name_of_their_own_are_told_apart() -> None:
    """Two closures of one factory are two tasks."""

    def times(factor: int) -> Any:
        return task(lambda x: x * factor, cache_policy=INPUTS)

    assert [times(2)(3), times(3)(3), times(2)(3)] == [6, 9, 6]


@task(cache_policy=INPUTS)
async def double_async(x: int) -> int:
    return int(noted(x)) * 2


@flow
async def doubles_async() -> list[str]:
    states = [await double_async(x, return_state=True) for x in (1, 1, 2)]
    return [state.name for state in states]


def test_coroutine_functions_are_cached(run: Run, effects: list[Any]) -> None:
    """As others."""
    assert run.value(doubles_async) == ["Completed", "Cached", "Completed"]
    assert effects == [1, 2]


def test_a_task_outside_of_a_flow_is_cached(run: Run, effects: list[Any]) -> None:
    """And shares its results with runs of flows."""
    assert double(8) == 16
    assert run.value(doubles, values=[8]) == [("Cached", 16)]
    assert effects == [8]


@task(cache_policy=INPUTS)
def nothing(x: int) -> None:
    noted(x)


@flow
def nothings() -> list[Any]:
    return [(state.name, state.result()) for state in (nothing(1, return_state=True), nothing(1, return_state=True))]


@flow
def doubles_in_a_block(value: int, submitted: bool, fails: bool) -> int:
    with transaction(), transaction():
        found = double.submit(value).result() if submitted else double(value)
        assert not fails
    return found


@pytest.mark.parametrize("submitted", [False, True], ids=["called", "submitted"])
def test_a_result_is_kept_once_its_transaction_is_committed(run: Run, effects: list[Any], submitted: bool) -> None:
    """What was rolled back answers nobody."""
    assert run(doubles_in_a_block, value=2, submitted=submitted, fails=True).is_failed()
    assert run.value(doubles, values=[2]) == [("Completed", 4)]

    assert run.value(doubles_in_a_block, value=3, submitted=submitted, fails=False) == 6
    assert run.value(doubles, values=[3]) == [("Cached", 6)]
    assert effects == [2, 2, 3]


def test_none_is_cached(run: Run) -> None:
    """None is a result like any other."""
    assert run.value(nothings) == [("Completed", None), ("Cached", None)]


@task(cache_policy=INPUTS, retries=1)
def failing(x: int) -> int:
    if len(EFFECTS) < 3:
        raise ValueError(noted(x))
    return x


@flow
def fails() -> list[str]:
    return [failing(1, return_state=True).name for _ in range(3)]


def test_failures_are_never_cached(run: Run, effects: list[Any]) -> None:
    """The next call tries again, and so does the next after that."""
    assert run.value(fails) == ["Failed", "Completed", "Cached"]
    assert effects == [1, 1, 1]


def keep_ended(task: Any, run: Any, state: Any) -> None:
    noted((state.name, run.name))


@task(cache_policy=INPUTS, on_completion=keep_ended)
def hooked(x: int) -> int:
    return x


@flow
def calls_hooked() -> None:
    hooked(1)
    hooked(1)


def test_an_answered_call_runs_its_hooks(run: Run, effects: list[Any]) -> None:
    """It has completed, as others."""
    run.value(calls_hooked)

    assert effects == [("Completed", "hooked-0"), ("Cached", "hooked-1")]


@task(cache_policy=INPUTS)
def calls_itself(x: int) -> int:
    return calls_itself(x) + 1 if not EFFECTS and noted(x) else 1


@flow
def within() -> int:
    return calls_itself(1)


def test_a_call_inside_of_the_same_call_does_not_wait_for_it(run: Run) -> None:
    """It would wait for ever."""
    assert run.value(within) == 2


# -- policies ----------------------------------------------------------------------------------------------------


@task(cache_policy=INPUTS - "verbose")
def quiet(x: int, verbose: bool = False) -> int:
    return noted(x)  # type: ignore[no-any-return]


@task(cache_policy=DEFAULT)
def by_default(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@task(cache_policy=RUN_ID)
def once_a_run(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@task(cache_policy=FLOW_PARAMETERS + TASK_SOURCE)
def by_flow(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@task(cache_policy=FLOW_PARAMETERS)
def by_parameters(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@task(cache_policy=INPUTS)
def without_parameters() -> int:
    return noted(0)  # type: ignore[no-any-return]


@task(cache_policy=NO_CACHE)
def never(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@task(cache_key_fn=lambda context, parameters: parameters["x"] or None, cache_policy=NO_CACHE)
def by_function(x: str) -> str:
    return noted(x)  # type: ignore[no-any-return]


class ByFirstLetter(CachePolicy):
    """A policy of a user's own."""

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kwargs: Any) -> str | None:
        return str(inputs["x"])[:1] or None


@task(cache_policy=ByFirstLetter())
def by_letter(x: str) -> str:
    return noted(x)  # type: ignore[no-any-return]


@task(cache_policy=INPUTS + ByFirstLetter())
def by_letter_too(x: str) -> str:
    return noted(x)  # type: ignore[no-any-return]


TASKS = {
    each.name: each
    for each in (
        quiet, by_default, once_a_run, by_flow, without_parameters, never, by_function, by_letter, by_letter_too,
    )
}  # fmt: skip


@flow
def calls(name: str, calls: list[dict[str, Any]], day: int = 1) -> list[Any]:
    return [TASKS[name](**each, return_state=True).name for each in calls]


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("quiet", [{"x": 1}, {"x": 1, "verbose": True}, {"x": 2}], ["Completed", "Cached", "Completed"]),
        ("by_default", [{"x": 1}, {"x": 1}], ["Completed", "Cached"]),
        ("once_a_run", [{"x": 1}, {"x": 2}], ["Completed", "Cached"]),
        ("by_flow", [{"x": 1}, {"x": 2}], ["Completed", "Cached"]),
        ("without_parameters", [{}, {}], ["Completed", "Completed"]),
        ("never", [{"x": 1}, {"x": 1}], ["Completed", "Completed"]),
        ("by_function", [{"x": "a"}, {"x": "a"}, {"x": ""}, {"x": ""}], ["Completed", "Cached", *["Completed"] * 2]),
        ("by_letter", [{"x": "ab"}, {"x": "ac"}, {"x": "b"}], ["Completed", "Cached", "Completed"]),
        ("by_letter_too", [{"x": ""}, {"x": ""}, {"x": "b"}, {"x": "b"}], [*["Completed"] * 3, "Cached"]),
    ],
)
def test_a_policy_says_which_calls_are_the_same(run: Run, name: str, given: list[Any], found: list[str]) -> None:
    """Those of orchestra, and those of one's own."""
    assert run.value(calls, name=name, calls=given) == found


@pytest.mark.parametrize(
    ("name", "found"), [("by_default", "Completed"), ("quiet", "Cached"), ("by_flow", "Completed")]
)
def test_what_counts_over_runs(run: Run, name: str, found: str) -> None:
    """DEFAULT ends with its run, FLOW_PARAMETERS with those parameters."""
    run.value(calls, name=name, calls=[{"x": 1}])

    assert run.value(calls, name=name, calls=[{"x": 1}], day=2) == [found]


def test_the_source_counts_as_it_is_loaded() -> None:
    """Another body is another source; a comment is not."""
    made = []
    for body in ("return 1", "return 1  # a comment", "return 2"):
        scope: dict[str, Any] = {}
        exec(f"def f():\n    {body}", scope)
        scope["f"].__module__, scope["f"].__qualname__ = "shop", "f"
        made.append(task(scope["f"], cache_policy=TASK_SOURCE).explain_cache_key().key)

    assert made[0] == made[1] != made[2]


# -- expiry, refreshing, settings --------------------------------------------------------------------------------


brief = double.with_options(cache_expiration=timedelta(milliseconds=150))


@flow
def briefly() -> str:
    return str(brief(5, return_state=True).name)


def test_an_expired_result_is_computed_anew(run: Run) -> None:
    """And replaced."""

    def entries() -> list[bool]:
        """Of each, whether it has expired by the database's clock."""
        found = cache_records.list_entries(run.driver.database, cache.Query(), limit=9)
        return [entry.expired for entry in found.items]

    assert [run.value(briefly), run.value(briefly)] == ["Completed", "Cached"]
    wait_until(lambda: entries() == [True], "the result to expire")

    assert run.value(briefly) == "Completed"
    assert len(entries()) == 1


refreshing = double.with_options(refresh_cache=True)


@flow
def refreshes(x: int) -> list[str]:
    return [refreshing(x, return_state=True).name, double(x, return_state=True).name]


def test_refreshing_computes_anew_and_replaces(run: Run, effects: list[Any]) -> None:
    """Others have the new result."""
    run(refreshes, x=1)

    assert run.value(refreshes, x=1) == ["Completed", "Cached"]
    assert effects == [1, 1]


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({}, ["Cached"]),
        ({"tasks_disable_caching": True}, ["Completed"]),
        ({"tasks_refresh_cache": True}, ["Completed"]),
    ],
)
def test_caching_can_be_turned_off_everywhere(run: Run, setting: dict[str, bool], found: list[str]) -> None:
    """Or all of it computed anew."""
    run(doubles, values=[1])
    settings.override(**setting)

    assert [name for name, _ in run.value(doubles, values=[1])] == found


@task
def says_nothing(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@flow
def plain() -> list[str]:
    return [says_nothing(1, return_state=True).name for _ in range(2)]


def test_nothing_is_cached_that_was_not_asked_for(run: Run) -> None:
    """Unless a setting asks for all."""
    assert run.value(plain) == ["Completed", "Completed"]
    settings.override(tasks_default_no_cache=False)

    assert run.value(plain) == ["Completed", "Cached"]


# -- what goes wrong ---------------------------------------------------------------------------------------------


@flow
def unknowable() -> list[str]:
    return [opened(iter([1]), return_state=True).name, opened((x for x in [1]), return_state=True).name]


@task(cache_policy=INPUTS)
def opened(x: Any) -> int:
    return noted(len(list(x)))  # type: ignore[no-any-return]


def test_inputs_that_cannot_be_told_apart_are_not_cached(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The call runs, and its log says why it is not cached."""
    with caplog.at_level(logging.WARNING, "orchestra"):
        assert run.value(unknowable) == ["Completed", "Completed"]

    assert "is not cached: NoDigest: 'x': a value of type generator has no parts to tell it by" in caplog.text


@task(cache_key_fn=lambda context, parameters: 1 / parameters["x"])
def bad_key(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


class ByNumber(CachePolicy):
    """A policy whose keys are no texts."""

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kwargs: Any) -> Any:
        return inputs["x"]


@task(cache_policy=ByNumber())
def by_number(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@task(cache_policy=INPUTS + ByNumber())
def by_number_too(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@flow
def bad_keys() -> list[int]:
    return [each(1) for each in (by_number, by_number_too, by_number)] + [bad_key(0), bad_key(1), bad_key(1)]


def test_a_failing_key_is_said_once_and_nothing_is_cached(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Neither one that raises nor one that gives no text fails the call."""
    with caplog.at_level(logging.WARNING, "orchestra"):
        assert run.value(bad_keys) == [1, 1, 1, 0, 1, 1]

    said = [record.getMessage() for record in caplog.records if "is not cached" in record.getMessage()]
    assert len(said) == 4
    for text in said[:2]:
        assert "compute_key() of ByNumber returned 1: it is to give a text, or None for no caching" in text
    assert "ZeroDivisionError" in said[2]
    assert "returned 1.0: it is to give a text, or None for no caching" in said[3]


@task(cache_policy=INPUTS)
def unkeepable(x: int) -> Any:
    noted(x)
    return (each for each in "ab")


def test_a_result_that_cannot_be_kept_is_computed_each_time(
    effects: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Locally; on a worker it fails its task, cached or not."""
    with caplog.at_level(logging.WARNING, "orchestra"):
        unkeepable.with_options(cache_policy=INPUTS)(1)
        locked(1)
        locked(1)

    assert effects == [1, 1, 1]
    assert "is not kept for later calls" in caplog.text


@task(cache_policy=INPUTS)
def locked(x: int) -> Any:
    noted(x)
    return get_run_context().__class__.get  # a bound method of what holds a lock


def test_a_damaged_result_is_computed_anew(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Never wrong data: what is kept carries its digest or signature, and a call that cannot use it replaces it."""
    settings.override(result_inline_max_bytes=100)
    long = "x" * 200
    run(doubles, values=[long])
    _damage(run.driver.database)

    with caplog.at_level(logging.WARNING, "orchestra"):
        assert run.value(doubles, values=[long]) == [("Completed", long * 2)]

    assert "computes anew: what is kept under its cache key cannot be used" in caplog.text
    assert run.value(doubles, values=[long]) == [("Cached", long * 2)]


def _damage(database: Database) -> None:
    database.write(
        lambda connection: connection.exec_driver_sql(
            "UPDATE blobs SET data = x'00' WHERE name IN (SELECT result_blob FROM cache_entries)"
        )
    )


# -- what is said of it ------------------------------------------------------------------------------------------


@flow
def explains() -> list[str]:
    return [str(by_default.explain_cache_key(1)), str(by_default.explain_cache_key(2))]


def test_a_key_is_explained_part_by_part(run: Run) -> None:
    """What went into it, by argument."""
    one, two = run.value(explains)

    assert one.splitlines()[0].startswith("cache key ")
    changed = [
        line.split(":")[0] for line, other in zip(one.splitlines(), two.splitlines(), strict=True) if line != other
    ]
    assert changed == [changed[0], "  INPUTS", "    x"]
    assert changed[0].startswith("cache key ")


@pytest.mark.parametrize(
    ("explain", "why"),
    [
        (lambda: says_nothing.explain_cache_key(1), "it names no cache_policy and no cache_key_fn"),
        (lambda: never.explain_cache_key(1), "its policy is NO_CACHE"),
        (lambda: without_parameters.explain_cache_key(), "has no parameters, of which INPUTS tells"),
        (lambda: by_default.explain_cache_key(1), "outside of a flow run no two calls are the same"),
        (lambda: double.explain_cache_key(x for x in ()), "'x': a value of type generator has no parts to tell it by"),
        (lambda: by_function.explain_cache_key(""), "cache_key_fn: it gave no key"),
        (lambda: by_parameters.explain_cache_key(1), "FLOW_PARAMETERS: outside of a flow run there are none"),
        (lambda: by_number.explain_cache_key(1), "compute_key() of ByNumber returned 1"),
    ],
)
def test_why_there_is_no_key_is_explained(explain: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where a call would not be cached; asking leaves nothing in the log."""
    found = explain()

    assert found.key is None
    assert why in str(found)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_policy": "INPUTS"}, "cache_policy= of a task takes a policy"),
        ({"cache_key_fn": "key"}, "cache_key_fn= of a task takes a plain function"),
        ({"cache_expiration": 0}, "cache_expiration= of a task is a time above 0"),
        ({"cache_expiration": -1}, "cache_expiration="),
        ({"cache_policy": INPUTS, "persist_result": False}, "persist_result=False keeps no result"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    """Where the task is declared."""
    with pytest.raises(DefinitionError, match=message):
        task(**options)(lambda x: x)


@task(cache_key_fn=lambda context, parameters: f"{context.task.name}/{context.task_run.flow_run_id}/{task_run.name}")
def told(x: int) -> int:
    return noted(x)  # type: ignore[no-any-return]


@flow
def tells() -> list[str]:
    return [told(x, return_state=True).name for x in (1, 2)]


def test_a_key_function_is_told_of_the_run(run: Run) -> None:
    """As Prefect's context tells it."""
    run.value(tells)
    entry = cache_records.list_entries(run.driver.database, cache.Query(task="told"), limit=9).items[-1]

    assert entry.policy_key.split("/")[:2] == ["told", entry.flow_run_id]
