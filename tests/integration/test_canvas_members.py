"""Flows and tasks as members of users' own canvases, on real workers, among the project's own tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra.handles import FlowRunHandle
from orchestra.store.database import database
from orchestra.store.tables import flow_runs, pass_ons
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until
from tests.integration import member_flows as members
from tests.matrix import POOLS

pytestmark = pytest.mark.services

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

#: Canvases with a value, and what that is.
SHAPES: dict[str, Any] = {
    # chains
    "chain(plus.s(1, 2), doubled.s(), add.s(10))": 16,
    "plus.s(1, 2) | doubled.s() | plus.s(1)": 7,
    "chain(parking.s(2), plus.s(1))": 5,
    "chain(plus.s(1, 2), doubled.si(21))": 42,
    "chain(plus.s(1, 2), add.signature(kwargs={'y': 5}))": 8,
    "chain(doubled.s(1), doubled.s(), doubled.s(), add.s())": 9,
    # alone
    "doubled.s(4)": 8,
    "add.si(4, y=2)": 6,
    "described.s({1, 2}, (3,), when=date(2026, 11, 26))": ["set", "tuple", "2026-11-26"],
    "chain(adopted.s(1, 2), doubled.s(), adopted.s(1))": 7,
    # groups
    "group(doubled.s(n) for n in range(3))": [0, 2, 4],
    "group(doubled.s(1), plus.s(1, 1), add.s(1, 2), parking.s(2))": [2, 2, 3, 4],
    # chords
    "chord([doubled.s(1), plus.s(1, 1), add.s(2, 3)], xsum.s())": 9,
    "chord([plus.s(1, 1), plus.s(2, 2)], summed.s())": 6,
    "chord([parking.s(1), doubled.s(2)], summed.s())": 6,
    "chord([doubled.s(1)], summed.s())": 2,
    "chain(group(doubled.s(1), doubled.s(2)), summed.s(), plus.s(1))": 7,
    "chain(plus.s(1, 1), group(doubled.s(), add.s(3)), xsum.s())": 9,
    "chord([chain(plus.s(1, 1), doubled.s()), doubled.s(2)], chain(summed.s(), add.s(1)))": 9,
}


class Project:
    """A worker of the project, and clients in processes of their own: Celery watches for results until they end."""

    def __init__(self, start: WorkerFactory, results: str) -> None:
        """Keep results at `results`, or nowhere."""
        self.env = {"MEMBERS_RESULTS": results}
        self._start = start

    def work(self, **options: Any) -> servers.Worker:
        """Start a worker."""
        return self._start(app="tests.integration.members", env=self.env, **options)

    def ask(self, code: str) -> Any:
        """What an expression of `members` gives, as JSON."""
        line = f"import json; from tests.integration.members import *; print(json.dumps({code}))"
        ended = subprocess.run(
            [sys.executable, "-c", line], cwd=ROOT, env={**os.environ, **self.env}, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-4000:]
        return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture
def project(database_url: str, worker_factory: WorkerFactory, broker: servers.Broker) -> Project:
    """The project, with a result backend, without workers."""
    return Project(worker_factory, broker.url)


@pytest.fixture
def silent_project(database_url: str, worker_factory: WorkerFactory) -> Project:
    """The project without a result backend."""
    return Project(worker_factory, "")


@pytest.fixture
def where(tmp_path: Path) -> str:
    """A file for notes."""
    return str(tmp_path / "notes")


def noted(where: str, count: int = 1) -> list[Any]:
    """Wait until so many notes were written."""
    return wait_until(lambda: len(members.notes(where)) >= count and members.notes(where), f"{count} notes", 40)


def all_runs() -> list[Any]:
    """All flow runs, oldest first."""
    query = sa.select(flow_runs).order_by(flow_runs.c.created_at)
    return database().read(lambda connection: list(connection.execute(query)))


def owed() -> int:
    """How many outcomes are still owed to canvases."""
    query = sa.select(sa.func.count()).select_from(pass_ons).where(pass_ons.c.passed_at.is_(None))
    return int(database().read(lambda connection: connection.scalar(query)) or 0)


def values_of(project: Project, shapes: Iterable[str]) -> dict[str, Any]:
    """What canvases give that are all applied at once."""
    started = ", ".join(f"{shape!r}: ({shape}).apply_async()" for shape in shapes)
    values: dict[str, Any] = project.ask(
        f"{{shape: result.get(timeout=60) for shape, result in {{{started}}}.items()}}"
    )
    return values


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_flows_and_tasks_are_members_of_every_shape_of_canvas(project: Project, pool: str) -> None:
    """They take the result before them and give theirs on, also when they parked; each member is one run."""
    project.work(pool=pool)

    assert values_of(project, SHAPES) == SHAPES
    assert {run.state_type for run in all_runs()} == {"COMPLETED"}
    wait_until(lambda: owed() == 0, "all outcomes to be passed on")


@ON_SQLITE
@pytest.mark.parametrize("pool", sorted(set(POOLS) - {"prefork", "threads"}))
def test_canvases_go_on_on_the_other_pools_too(project: Project, pool: str) -> None:
    """Whatever runs the members."""
    project.work(pool=pool, concurrency=1 if pool == "solo" else 4)

    assert values_of(project, SHAPES) == SHAPES


@ON_SQLITE
@pytest.mark.parametrize("results", ["redis", "rpc"])
def test_canvases_go_on_through_rabbitmq(rabbitmq: servers.RabbitMQ, project: Project, results: str) -> None:
    """With results in Redis, or sent back as messages; then without what Celery needs a real backend for."""
    shapes = SHAPES
    if results == "rpc":
        project.env["MEMBERS_RESULTS"] = "rpc://"
        shapes = {shape: value for shape, value in SHAPES.items() if "group(" not in shape and "chord(" not in shape}
    project.work()

    assert values_of(project, shapes) == shapes


@ON_SQLITE
def test_a_task_of_the_project_runs_in_the_background_as_one_of_orchestras(silent_project: Project) -> None:
    """Journaled, with a handle; where the project routes it."""
    silent_project.work()

    assert silent_project.ask("adopted.delay(1, 2).result(timeout=40)") == 3


@ON_SQLITE
def test_canvases_go_on_without_a_result_backend(silent_project: Project, where: str) -> None:
    """Chains and links; chords are what Celery itself refuses then."""
    silent_project.work()

    silent_project.ask(
        f"[chain(plus.s(1, 2), doubled.s(), note.s({where!r})).apply_async().id, "
        f"doubled.s(5).apply_async(link=note.s({where!r})).id, "
        f"chain(add.s(1, 1), noted.s({where!r})).delay().id]"
    )

    assert sorted(noted(where, 3)) == [2, 6, 10]


@ON_SQLITE
def test_the_result_stands_under_the_id_of_the_member(project: Project) -> None:
    """PENDING until the run has ended, then its value, or its exception; the run has the id as its key."""
    project.work()

    done, failed = project.ask(
        "(lambda a, b: [[a.id, a.get(timeout=40), a.state], [b.id, repr(b.get(timeout=40, propagate=False)), b.state]])"
        "(parking.s(2).apply_async(), failing.s(3).apply_async())"
    )

    assert (done[1:], failed[1:]) == ([4, "SUCCESS"], ["ValueError('no 3')", "FAILURE"])
    assert {(run.idempotency_key, run.state_type) for run in all_runs()} == {
        (done[0], "COMPLETED"),
        (failed[0], "FAILED"),
    }


@ON_SQLITE
def test_members_have_the_tags_that_were_in_force(project: Project) -> None:
    """Flows and tasks alike, where their signatures were made."""
    project.work()
    tagged = "__import__('orchestra').tags('nightly')"
    value = project.ask(f"{tagged}(lambda: chain(doubled.s(3), add.s(10)))().apply_async().get(timeout=40)")

    assert value == 16
    assert [json.loads(run.tags) for run in all_runs()] == [["nightly"]] * 2


@ON_SQLITE
def test_a_member_that_fails_stops_the_chain_and_calls_the_errbacks(project: Project, where: str) -> None:
    """With the exception of its run, also of one that parked; a flow as an errback gets the id of what failed."""
    project.work()

    ids = project.ask(
        f"[chain(failing.s(3), note.s({where!r})).on_error(note_error.s({where!r})).apply_async().parent.id, "
        f"refusing.s(4).apply_async(link_error=told.s({where!r})).id, "
        f"chord([failing.s(5), doubled.s(1)], note.s({where!r}).on_error(note_error.s({where!r}))).apply_async().id]"
    )

    lines = noted(where, 3)
    assert "ValueError: no 3" in lines
    assert ids[1] in lines
    assert any("no 5" in str(line) for line in lines)
    assert len(lines) == 3


@ON_SQLITE
def test_arguments_that_do_not_fit_fail_the_member_and_make_no_run(project: Project) -> None:
    """The result before them may be one argument too many."""
    project.work()

    error = project.ask("repr(chain(plus.s(1, 2), doubled.s(4)).apply_async().get(timeout=40, propagate=False))")

    assert "ParameterBindError" in error
    assert all_runs() == []


@ON_SQLITE
def test_a_member_runs_where_its_message_went(project: Project, where: str) -> None:
    """The decorator's queue, or the one that `.set()` or `apply_async` says; with priority and countdown."""
    project.work(queues="default,aside,other")

    values = project.ask(
        "[each.get(timeout=40) for each in [aside.s(1).apply_async(), doubled.s(2).set(queue='other').apply_async(), "
        "aside.s(3).apply_async(queue='other', priority=3, countdown=1), doubled.s(4).apply_async(countdown=1)]]"
    )

    assert values == [1, 4, 3, 8]
    assert sorted((run.flow_name, run.queue, run.priority) for run in all_runs()) == [
        ("doubled", "default", None),
        ("doubled", "other", None),
        ("task:aside", "aside", None),
        ("task:aside", "other", 3),
    ]


@ON_SQLITE
def test_a_task_that_is_tried_again_passes_its_value_on_once(project: Project, where: str, tmp_path: Path) -> None:
    """The chain waits for the last try."""
    project.work()

    value = project.ask(
        f"chain(plus.s(1, 1), flaky.s({str(tmp_path / 'tries')!r}), note.s({where!r})).delay().get(timeout=40)"
    )

    assert value == 2
    assert noted(where) == [2]


@ON_SQLITE
def test_what_json_cannot_say_fails_the_member_clearly(project: Project) -> None:
    """A value that Celery could not carry is Celery's error; with pickle as the app's serializer it is carried."""
    project.work()
    error = project.ask("repr(chain(handing_on_a_set.s(1), described.s()).delay().get(timeout=40, propagate=False))")
    assert "set" in error or "EncodeError" in error


@ON_SQLITE
def test_a_project_that_pickles_hands_on_anything(project: Project) -> None:
    """Messages of the canvas are serialized as the app says."""
    project.env |= {"MEMBERS_SERIALIZER": "pickle", "C_FORCE_ROOT": "1"}
    project.work()

    assert project.ask("chain(handing_on_a_set.s(1), described.s()).delay().get(timeout=40)") == ["set", None]


@ON_SQLITE
def test_a_second_message_of_either_kind_changes_nothing(project: Project, where: str) -> None:
    """The same member delivered twice is one run; its outcome, announced again, is passed on once."""
    project.work()

    project.ask(f"chain(doubled.s(3).set(task_id='twice'), note.s({where!r})).apply_async().get(timeout=40)")
    (run,) = all_runs()

    project.ask(
        "[doubled.s(3).apply_async(task_id='twice').id, "
        f"app.send_task('orchestra.pass_on', [{run.id!r}], task_id='twice').id]"
    )
    last = project.ask(f"chain(doubled.s(4), note.s({where!r})).apply_async().get(timeout=40)")

    assert last == 8
    assert noted(where, 2) == [6, 8]
    assert [each.idempotency_key for each in all_runs()].count("twice") == 1


@ON_SQLITE
@pytest.mark.parametrize(
    ("canvas", "members_of_one", "value"),
    [
        ("doubled.s(1)", 1, 2),
        ("chain(doubled.s(1), add.s())", 2, 3),
        ("group(doubled.s(1), add.s(1))", 2, [2, 2]),
        ("chord([doubled.s(1), add.s(1)], summed.s())", 3, 4),
        ("chain(group(doubled.s(1), add.s(1)), summed.s())", 3, 4),
    ],
)
def test_a_canvas_that_is_applied_twice_is_run_twice(
    project: Project, canvas: str, members_of_one: int, value: Any
) -> None:
    """As one that is kept in a module is."""
    project.work(pool="threads")

    values = project.ask(f"(lambda canvas: [canvas.apply_async().get(timeout=40) for _ in range(2)])({canvas})")

    assert values == [value, value]
    assert len(all_runs()) == 2 * members_of_one


@ON_SQLITE
def test_a_cancelled_member_fails_its_canvas(project: Project, where: str) -> None:
    """Whoever waits behind it is told."""
    project.work()
    project.ask(f"chain(parking.s(1), note.s({where!r})).on_error(note_error.s({where!r})).apply_async().id")
    (run,) = wait_until(all_runs, "the run")

    FlowRunHandle(run.id).cancel()

    assert "CancelledRun" in noted(where)[0]


@ON_SQLITE
@pytest.mark.parametrize("forged", ["path", "kind", "no seal", "no door"])
def test_a_forged_member_loads_no_code(project: Project, tmp_path: Path, forged: str) -> None:
    """Whoever can send messages cannot have a worker run a file: nothing is loaded before the signature is checked."""
    script, proof = tmp_path / "evil.py", tmp_path / "was-here"
    script.write_text(f"import pathlib; pathlib.Path({str(proof)!r}).touch()\n")
    worker = project.work()
    change = {
        "path": f"door.update(path={f'{script}:x'!r})",
        "kind": "door.update(kind='task')",
        "no seal": f"(door.update(path={f'{script}:x'!r}), door.pop('seal'))",
        "no door": "made.kwargs.pop('__orchestra__')",
    }[forged]

    error = project.ask(
        f"(lambda made: (lambda door: ({change}, repr(made.apply_async().get(timeout=40, propagate=False)))[-1])"
        "(made.kwargs['__orchestra__']))(doubled.s(1))"
    )

    assert "SignatureInvalid" in error
    assert not proof.exists()
    assert all_runs() == []
    assert worker.running


@ON_SQLITE
def test_eager_canvases_run_here(silent_project: Project) -> None:
    """Under `task_always_eager`, and by `.apply()`: no worker, no broker, the same values."""
    eager = "app.conf.update(task_always_eager=True, task_store_eager_result=False)"
    values = silent_project.ask(
        f"({eager}, [chain(plus.s(1, 2), doubled.s(), add.s(10)).apply_async().get(), doubled.s(4).delay().get(), "
        "[each.get() for each in group(doubled.s(1), add.s(1, 1)).apply_async()], "
        "doubled.s(4).apply().get(), doubled.s(5)(), add.delay(1, 2).result(), doubled.delay(3).result(), "
        "repr(refusing.delay(1).state.name)])[-1]"
    )

    assert values == [16, 8, [2, 2], 8, 10, 3, 6, "'Failed'"]


@ON_SQLITE
def test_eager_runs_raise_where_the_project_says_so(silent_project: Project) -> None:
    """`task_eager_propagates`, as for the project's own tasks."""
    eager = "app.conf.update(task_always_eager=True, task_eager_propagates=True)"
    for call in (
        "refusing.delay(1)",
        "failing.delay(1)",
        "refusing.s(1).delay()",
        "chain(plus.s(0, 1), failing.s())()",
    ):
        with pytest.raises(AssertionError, match="ValueError: no 1"):
            silent_project.ask(f"({eager}, {call})[-1].id")
