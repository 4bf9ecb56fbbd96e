"""What a body can learn about its run, and of the outside."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from orchestra import flow, now, once, random, runtime, settings, task, uuid4
from orchestra.context import FlowRunContext, TaskRunContext, get_run_context
from orchestra.errors import ConfigurationError, MissingContextError


def test_a_body_can_ask_about_its_run() -> None:
    """`orchestra.runtime` answers for the run that runs here."""

    @task(tags=["io"])
    def step(number: int) -> tuple[object, ...]:
        run = runtime.task_run
        return run.name, run.task_name, run.parameters, run.tags, run.run_count

    @flow(name="etl", version="7")
    def work(day: str) -> tuple[object, ...]:
        run = runtime.flow_run
        return run.flow_name, run.flow_version, run.parameters, run.run_count, step(1)

    assert work("monday") == ("etl", "7", {"day": "monday"}, 1, ("step-0", "step", {"number": 1}, ["io"], 1))


def test_outside_of_runs_there_is_nothing_to_say() -> None:
    """Every attribute has its empty value."""
    assert (runtime.flow_run.id, runtime.flow_run.parameters, runtime.task_run.tags) == (None, {}, [])


def test_a_run_knows_its_page_in_the_admin_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a link in a message; there is none where no server is named."""

    @flow
    def work() -> tuple[object, ...]:
        return runtime.flow_run.ui_url, runtime.flow_run.id

    assert work()[0] is None

    settings.override(api_url="http://admin:4200/")
    page, run_id = work()

    assert page == f"http://admin:4200/runs/{run_id}"
    assert runtime.flow_run.ui_url is None


def test_a_step_has_an_idempotency_key() -> None:
    """The same for each try of one step, another one for each step."""
    keys = []

    @task(retries=1)
    def pay() -> None:
        keys.append(runtime.task_run.idempotency_key)
        if len(keys) % 2:
            raise ConnectionError

    @flow
    def work() -> None:
        pay()
        pay()

    work()

    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert keys[0] != keys[2]


def test_the_outside_is_observed_through_orchestra() -> None:
    """Time, chance, and anything `once`: on a worker, replay sees the same again."""

    @flow
    def work() -> tuple[object, ...]:
        return now().tzinfo, 0 <= random() < 1, uuid4().version, once(lambda: 42)

    assert work() == (UTC, True, 4, 42)


def test_the_context_of_what_runs_here_can_be_had() -> None:
    """The task's in a task, the flow's in a flow, an error elsewhere."""

    @task
    def step() -> tuple[str, str]:
        context = get_run_context()
        assert isinstance(context, TaskRunContext)
        assert TaskRunContext.get() is context
        return context.task_run.name, context.task_run.id

    @flow
    def work() -> tuple[object, ...]:
        context = get_run_context()
        assert isinstance(context, FlowRunContext)
        assert FlowRunContext.get() is context
        return context.flow_run.id == runtime.flow_run.id, context.flow_run.name == runtime.flow_run.name, step()[0]

    assert work() == (True, True, "step-0")
    with pytest.raises(MissingContextError, match="no flow or task runs here"):
        get_run_context()


def test_the_environment_may_say_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of code that asks: each value is read as its attribute's type, in runs and outside."""
    for name, text in {
        "FLOW_RUN__NAME": "nightly",
        "FLOW_RUN__RUN_COUNT": "3",
        "FLOW_RUN__TAGS": '["a"]',
        "TASK_RUN__PARAMETERS": '{"x": 1}',
        "DEPLOYMENT__NAME": "prod",
        "DEPLOYMENT__OWNER": "me",
    }.items():
        monkeypatch.setenv(f"ORCHESTRA__RUNTIME__{name}", text)

    @flow
    def work() -> tuple[object, ...]:
        return runtime.flow_run.name, runtime.flow_run.run_count, runtime.flow_run.tags, runtime.flow_run.flow_name

    assert work() == ("nightly", 3, ["a"], "work")
    assert (runtime.flow_run.name, runtime.task_run.parameters) == ("nightly", {"x": 1})
    assert (runtime.deployment.name, runtime.deployment.owner) == ("prod", "me")


def test_a_time_in_the_environment_is_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what cannot be read is named."""

    @flow
    def work() -> object:
        return runtime.flow_run.scheduled_start_time

    monkeypatch.setenv("ORCHESTRA__RUNTIME__FLOW_RUN__SCHEDULED_START_TIME", "2026-11-22T09:00:00+00:00")
    assert work() == datetime(2026, 11, 22, 9, tzinfo=UTC)
    monkeypatch.setenv("ORCHESTRA__RUNTIME__FLOW_RUN__SCHEDULED_START_TIME", "nine")
    with pytest.raises(ConfigurationError, match="SCHEDULED_START_TIME='nine'"):
        work()


def test_what_runtime_has_not_is_no_attribute() -> None:
    """A misspelled name is an error, not None."""
    with pytest.raises(AttributeError, match="flow_run has no attribute 'nmae'"):
        _ = runtime.flow_run.nmae
    assert (runtime.deployment.id, runtime.deployment.parameters) == (None, {})
