"""Tags: given by `with tags(...)`, handed on by runs, kept in their rows; in one process and on workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestra import settings, tags
from orchestra.store import queries
from orchestra.store.behind import behind
from orchestra.store.database import Database
from tests.drive import Driver
from tests.engine import tag_flows


@pytest.fixture
def driver(database: Database) -> Driver:
    """Carries messages over a worker, on either database."""
    return Driver(database, slots=1)


@pytest.fixture(params=["local", "worker"])
def run(request: pytest.FixtureRequest, driver: Driver) -> Callable[[Any], Any]:
    """Runs a flow to its end, and gives its value."""

    def local(flow: Any) -> Any:
        value = flow()
        behind().flush(10)
        return value

    return local if request.param == "local" else lambda flow: driver.run(flow).result()


def test_runs_have_the_tags_that_stand_around_their_call(run: Callable[[Any], Any]) -> None:
    """Blocks nest and add up; a run hands its tags on; a task has its own beside them."""
    with tags("outer"):
        seen = run(tag_flows.tagged)

    assert seen == {
        "run": ["outer"],
        "direct": ["io", "outer"],
        "submitted": ["inner", "outer"],
        "child": ["inner", "outer"],
    }


def test_tags_are_kept_with_the_runs(run: Callable[[Any], Any], database: Database) -> None:
    """And runs are listed by them: those that have all of the tags asked for."""
    with tags("outer"):
        run(tag_flows.tagged)
    run(tag_flows.child)

    def flows(*wanted: str) -> list[str]:
        return sorted(each.flow_name for each in queries.list_flow_runs(database, tags=wanted).items)

    def tasks(*wanted: str) -> list[str]:
        return sorted(each.name for each in queries.list_task_runs(database, tags=wanted).items)

    assert (flows("outer"), flows("outer", "inner"), flows("out")) == (["child", "tagged"], ["child"], [])
    assert len(flows()) == 3
    assert (tasks("io"), tasks("inner"), tasks("outer")) == (["load-0"], ["plain-0"], ["load-0", "plain-0"])


def test_tags_with_any_character_are_found_again(run: Callable[[Any], Any], database: Database) -> None:
    """Also those that SQL's LIKE or JSON would read otherwise."""
    odd = ['100%_"\\', "ä\n"]
    with tags(*odd):
        run(tag_flows.child)

    for tag in odd:
        (found,) = queries.list_flow_runs(database, tags=[tag]).items
        assert found.tags == tuple(sorted(odd))
    assert queries.list_flow_runs(database, tags=["100"]).items == ()


def test_a_run_that_is_sent_to_workers_has_them_too(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that stand around `.delay()`; where all steps are known before, these have them at once."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", "redis://127.0.0.1:1/0")
    settings.reset()
    with tags("sent"):
        run = tag_flows.child.delay()

        planned = tag_flows.planned.delay()

    assert queries.read_flow_run(database, run.id).run.tags == ("sent",)
    steps = queries.list_task_runs(database, flow_run_id=planned.id).items
    assert [(step.name, step.tags) for step in steps] == [("plain-0", ("sent",)), ("load-0", ("io", "sent"))]


def test_a_tag_is_a_text() -> None:
    """A list given whole is refused, not taken for one tag."""
    with pytest.raises(TypeError, match="one by one"), tags(["a", "b"]):  # type: ignore[arg-type]
        pass


def test_no_tag_stays_behind_its_block() -> None:
    """Also where the block is left by an error."""
    with pytest.raises(ValueError, match="out"), tags("a"):
        raise ValueError("out")
    with tags("b") as now:
        assert now == {"b"}
