"""Options: taken, kept on copies, and refused where they would do nothing."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest

from orchestra import flow, task
from orchestra.cache_policies import INPUTS
from orchestra.errors import DefinitionError, ReservedArgumentError
from orchestra.flows import FlowOptions
from orchestra.runtime import flow_run, task_run
from orchestra.task_runners import ThreadPoolTaskRunner
from orchestra.tasks import TaskOptions
from tests.drive import Driver
from tests.semantics.conftest import EFFECTS, Run

TASK_OPTIONS: dict[str, Any] = {
    "name": "a-name",
    "description": "What it does.",
    "version": "2",
    "tags": ["io"],
    "retries": 2,
    "retry_delay_seconds": [1, 2],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": lambda task, run, state: True,
    "timeout_seconds": timedelta(minutes=1),
    "log_prints": True,
    "task_run_name": "x-{x}",
    "persist_result": True,
    "cache_result_in_memory": False,
    "viz_return_value": [1],
    "cache_policy": INPUTS,
    "cache_key_fn": lambda context, parameters: "k",
    "cache_expiration": timedelta(days=1),
    "refresh_cache": True,
    "result_storage": None,
    "result_storage_key": None,
    "result_serializer": None,
    "asset_deps": [],
    "queue": "heavy",
    "priority": 3,
    "lease_seconds": 60,
}
FLOW_OPTIONS: dict[str, Any] = {
    "name": "a-name",
    "description": "What it does.",
    "version": "2",
    "flow_run_name": "x-{x}",
    "retries": 2,
    "retry_delay_seconds": 1,
    "timeout_seconds": 60,
    "validate_parameters": False,
    "log_prints": True,
    "persist_result": True,
    "cache_result_in_memory": False,
    "result_storage": None,
    "result_serializer": None,
    "task_runner": ThreadPoolTaskRunner(2),
    "queue": "heavy",
    "priority": 3,
    "static": False,
}


def work(x: int) -> int:
    """The docstring."""
    return x


@task
def shout(text: str) -> None:
    """Prints."""
    print(f"task {text}")


@task(log_prints=False)
def whisper(text: str) -> None:
    """Prints, and does not log it."""
    print(f"whispered {text}")


@flow
def child_prints() -> None:
    print("child")


@flow(log_prints=True)
def prints() -> None:
    print("flow")
    shout("a")
    shout.submit("b").wait()
    whisper("c")
    child_prints()


@task
def about() -> list[Any]:
    """What its run says of its options."""
    return [task_run.name, task_run.task_name, task_run.tags]


changed = about.with_options(name="other", tags=["a"], task_run_name="named")
again = changed.with_options(tags=["b"])


@flow
def copies() -> list[Any]:
    here = about.with_options(name="third")
    return [about()[1:], changed(), again.submit().result(), here()[1], here.submit().result()[1]]


@flow(version="1")
def versioned() -> list[Any]:
    return [flow_run.flow_name, flow_run.flow_version]


@flow
def child_copies() -> list[Any]:
    other = versioned.with_options(name="renamed", version="2")
    return [versioned(), other()]


@task(persist_result=False)
def not_kept() -> int:
    """Runs again in each replay."""
    EFFECTS.append("ran")
    return 1


@flow
def uses_not_kept() -> int:
    first = not_kept()
    return first + not_kept.submit().result()


@pytest.mark.parametrize("option", sorted(set(TASK_OPTIONS)))
def test_tasks_take_every_option(option: str) -> None:
    """At the decorator and with `with_options`."""
    made = task(**{option: TASK_OPTIONS[option]})(work)

    assert made.with_options(**{option: TASK_OPTIONS[option]})(1) == 1


@pytest.mark.parametrize("option", sorted(set(FLOW_OPTIONS)))
def test_flows_take_every_option(option: str) -> None:
    """At the decorator and with `with_options`."""
    made = flow(**{option: FLOW_OPTIONS[option]})(work)

    assert made.with_options(**{option: FLOW_OPTIONS[option]})(1) == 1


def test_options_are_read_by_their_names() -> None:
    """As given, or as they are by default; of a copy, its own."""
    made_task = task(tags=["io"], cache_policy=INPUTS, task_run_name="x-{x}", retry_delay_seconds=3)(work)
    made_flow = flow(flow_run_name="x-{x}", log_prints=True, persist_result=True)(work)

    assert (set(made_task.tags), made_task.cache_policy, made_task.task_run_name) == ({"io"}, INPUTS, "x-{x}")
    assert (made_task.retry_delay_seconds, made_task.persist_result, made_task.cache_expiration) == (3, None, None)
    assert (made_flow.flow_run_name, made_flow.log_prints, made_flow.persist_result) == ("x-{x}", True, True)
    assert set(made_task.with_options(tags=["db"]).tags) == {"db"}
    assert made_flow.task_runner is None


def test_no_option_of_prefect_is_unknown() -> None:
    """Porting is a matter of search and replace."""
    of_tasks = """name description tags version cache_policy cache_key_fn cache_expiration task_run_name retries
        retry_delay_seconds retry_jitter_factor persist_result result_storage result_serializer result_storage_key
        cache_result_in_memory timeout_seconds log_prints refresh_cache retry_condition_fn viz_return_value
        asset_deps"""
    of_flows = """name version flow_run_name retries retry_delay_seconds task_runner description timeout_seconds
        validate_parameters persist_result result_storage result_serializer cache_result_in_memory log_prints"""

    assert set(of_tasks.split()) <= TaskOptions.__annotations__.keys()
    assert set(of_flows.split()) <= FlowOptions.__annotations__.keys()


@pytest.mark.parametrize(
    ("decorate", "option", "value"),
    [
        (task, "asset_deps", ["s3://x"]),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(decorate: Any, option: str, value: Any) -> None:
    """The error says what is not there yet, and what to do."""
    with pytest.raises(DefinitionError, match=f"{option}= .* does not have yet.*leave {option} out"):
        decorate(**{option: value})(work)


@pytest.mark.parametrize("decorate", [task, flow])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retriez": 1}, r"no option 'retriez': is 'retries' meant\?"),
        ({"x": 1}, "no option 'x': it has .*retries"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
        ({"timeout_seconds": "soon"}, "timeout_seconds"),
        ({"retries": True and 1.0}, "retries"),
        ({"name": 3}, "name="),
        ({"log_prints": "no"}, "log_prints= .* is True or False, not 'no'"),
        ({"persist_result": 1}, "persist_result= .* is True or False, not 1"),
        ({"queue": 3}, "queue= .* is the name of a Celery queue, not 3"),
        ({"priority": "high"}, "priority= .* is a whole number, not 'high'"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_given(decorate: Any, options: dict[str, Any], message: str) -> None:
    """With its name."""
    with pytest.raises(DefinitionError, match=message):
        decorate(**options)(work)


@pytest.mark.parametrize("tags", ["daily", 3, ["daily", 3]])
def test_tags_are_texts_in_a_list(tags: Any) -> None:
    """One text is not taken for its letters."""
    with pytest.raises(DefinitionError, match=r"texts in a list, tags=\['daily', 'eu'\]"):
        task(tags=tags)(work)


def test_a_run_name_must_be_a_text_or_a_function() -> None:
    """Of flows and tasks."""
    with pytest.raises(DefinitionError, match="task_run_name"):
        task(task_run_name=3)(work)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="flow_run_name"):
        flow(flow_run_name=3)(work)  # type: ignore[call-overload]


@pytest.mark.parametrize("decorate", [task, flow])
@pytest.mark.parametrize("name", ["wait_for", "return_state"])
def test_names_that_calls_keep_for_themselves_are_refused(decorate: Any, name: str) -> None:
    """As parameters of a flow or task."""
    namespace: dict[str, Any] = {}
    exec(f"def body({name}): pass", namespace)

    with pytest.raises(ReservedArgumentError, match=f"'{name}'.*rename it"):
        decorate(namespace["body"])


@pytest.mark.parametrize("decorate", [task, flow])
def test_no_time_limit_is_zero(decorate: Any) -> None:
    """`timeout_seconds=0` says that there is none, as in Prefect."""
    assert decorate(timeout_seconds=0)(work).timeout_seconds is None


def test_what_was_declared_can_be_read() -> None:
    """Name, description, version, retries and timeout."""
    made = flow(**FLOW_OPTIONS)(work)

    assert (made.name, made.description, made.version) == ("a-name", "What it does.", "2")
    assert (made.retries, made.timeout_seconds) == (2, 60.0)
    assert (task(work).description, task(work).version, task(work).retries) == ("The docstring.", None, 0)


def test_copies_have_their_own_options(run: Run) -> None:
    """On workers too: options go along with each call; a copy of a copy keeps what it does not name."""
    assert run.value(copies) == [
        ["about", []],
        ["named", "other", ["a"]],
        ["named", "other", ["b"]],
        "third",
        "third",
    ]
    assert run.value(child_copies) == [["versioned", "1"], ["renamed", "2"]]


def test_log_prints_goes_for_tasks_and_child_runs(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Unless they say otherwise."""
    with caplog.at_level(logging.INFO):
        run.value(prints)

    # A replay, which does not know yet what was written behind, may say a line again.
    said = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert [line for line in said if line in ("flow", "task a", "task b", "child")] == [
        "flow",
        "task a",
        "task b",
        "child",
    ]
    assert "whispered c" not in said


def test_a_result_that_is_not_to_be_kept_is_made_again(driver: Driver, effects: list[Any]) -> None:
    """On a worker `persist_result=False` runs a direct call in each replay; a submitted one is journaled."""
    assert driver.run(uses_not_kept).result() == 2
    assert len(effects) > 2


def test_a_flow_says_for_its_tasks_that_results_are_kept(driver: Driver) -> None:
    """`persist_result=True` on a flow that runs here; a task may say otherwise."""
    from orchestra.store import tables

    @task
    def counted() -> int:
        return 1

    @flow(persist_result=True)
    def whole() -> int:
        return counted() + counted.with_options(persist_result=False)()

    assert whole() == 2
    query = tables.steps.select().order_by(tables.steps.c.sequence)
    rows = driver.database.read(lambda connection: connection.execute(query).all())
    assert [row.result is not None for row in rows] == [True, False]
