"""Names of flow runs and task runs, from templates and functions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from orchestra import flow, task
from orchestra.runtime import flow_run, task_run
from tests.semantics.conftest import Run


@dataclass
class Source:
    """A parameter with parts."""

    name: str
    rows: list[int]


@task(task_run_name="go-{place}-{day:02d}")
def go(place: str, day: int = 7) -> str | None:
    """Its own name."""
    return task_run.name


@task(task_run_name="{source.name}/{source.rows[1]}/{options[mode]}")
def parts(source: Source, options: dict[str, str]) -> str | None:
    """Its own name."""
    return task_run.name


def from_runtime() -> str:
    """A name without parameters."""
    return f"{task_run.task_name}-of-{flow_run.flow_name}"


def from_parameters(parameters: dict[str, Any]) -> str:
    """A name from parameters."""
    return "with-" + "-".join(map(str, parameters.values()))


@task(task_run_name=from_parameters)
def asked(x: int, y: int = 2) -> str | None:
    """Its own name."""
    return task_run.name


@task(task_run_name=lambda: "always")
def constant() -> str | None:
    """Its own name."""
    return task_run.name


@task(task_run_name="{missing}")
def broken() -> str | None:
    """Its own name."""
    return task_run.name


@task
def plain() -> str | None:
    """Its own name."""
    return task_run.name


@flow(flow_run_name="child-{source.name}-{n:03d}")
def child(source: Source, n: int = 7) -> str | None:
    return flow_run.name


@flow(flow_run_name=from_parameters)
def asked_child(x: int, y: int = 3) -> str | None:
    return flow_run.name


@flow(flow_run_name="{day:%d.%m.}-{n:03d}")
def coerced(day: date, n: int) -> str | None:
    return flow_run.name


@flow
def coerced_child() -> str | None:
    return coerced("2026-01-31", "7")  # type: ignore[arg-type]


@flow
def names(submitted: bool) -> list[Any]:
    source, options = Source("web", [1, 2]), {"mode": "fast"}
    if submitted:
        futures: list[Any] = [go.submit("rome"), go.submit("home", day=12), parts.submit(source, options)]
        futures += [asked.submit(1), constant.submit(), plain.submit(), plain.submit()]
        return [future.result() for future in futures]
    called: list[Any] = [go("rome"), go("home", day=12), parts(source, options)]
    return [*called, asked(1), constant(), plain(), plain()]


@flow
def children() -> list[Any]:
    return [child(Source("web", [])), child(Source("db", []), n=12), asked_child(1)]


@flow
def named_by_options() -> list[Any]:
    other = plain.with_options(task_run_name="other", name="plainer")
    return [other(), other.submit().result()]


@flow
def broken_name() -> str | None:
    return broken()


@pytest.mark.parametrize("submitted", [False, True])
def test_task_runs_are_named_by_their_template_or_function(run: Run, submitted: bool) -> None:
    """Filled in with the arguments: defaults, formats, attributes and items; else the task's name and a number."""
    names_of = run.value(names, submitted=submitted)

    assert names_of == ["go-rome-07", "go-home-12", "web/2/fast", "with-1-2", "always", "plain-0", "plain-1"]


def test_flow_runs_are_named_by_their_template_or_function(run: Run) -> None:
    """As task runs are."""
    assert run.value(children) == ["child-web-007", "child-db-012", "with-1-3"]


def test_a_name_is_made_of_the_parameters_as_the_body_gets_them(run: Run) -> None:
    """A text has become the date and the number that it says."""
    assert run.value(coerced_child) == "31.01.-007"


def test_a_copy_with_options_has_its_own_name(run: Run) -> None:
    """Called and submitted."""
    assert run.value(named_by_options) == ["other", "other"]


def test_a_name_that_cannot_be_made_fails_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The run gets its default name, and a warning says why."""
    assert run.value(broken_name) == "broken-0"
    assert "'{missing}' could not be made (KeyError: 'missing')" in caplog.text


def test_a_name_may_ask_the_runtime_of_its_flow() -> None:
    """A function without parameters."""

    @task
    def step() -> None: ...

    @flow(name="etl", flow_run_name=lambda: f"nightly-{flow_run.flow_name}")
    def work() -> str | None:
        return flow_run.name

    assert str(work()).startswith("nightly-")
