"""Random programs on workers equal plain Python, whatever becomes of messages and workers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import Phase as HypothesisPhase
from hypothesis import settings as examples
from hypothesis import strategies as st

from orchestra import identifiers, settings
from orchestra.errors import IllegalTransition
from orchestra.states import State, StateType
from orchestra.store import interventions, reruns
from orchestra.store.database import Database
from orchestra.store.database import database as opened
from orchestra.store.journal import StepRecord
from orchestra.store.tables import Kind, Phase, edges, flow_runs, joins, steps
from tests import conftest
from tests.drive import Driver, Killed, emptied
from tests.exploring import tries
from tests.properties import programs
from tests.properties.programs import (
    async_program,
    ended_well,
    failed,
    failures,
    plain,
    repeated,
    started,
    sync_program,
)

pytestmark = pytest.mark.slow


def runnable(*, peeks: bool) -> st.SearchStrategy[Any]:
    """A program, and the flow that runs it."""
    return st.one_of(
        programs.programs(peeks=peeks).map(lambda program: (sync_program, program)),
        programs.programs(branches=True, peeks=peeks).map(lambda program: (async_program, program)),
    )


#: Seeds of the order of messages, of duplicates and of deaths.
seeds = st.integers(0, 2**32)
few = examples(
    max_examples=tries(12),
    deadline=None,
    # Shrinking runs flows for minutes; a seed that fails says enough.
    phases=[HypothesisPhase.explicit, HypothesisPhase.reuse, HypothesisPhase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def database(home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A fresh database, with a budget that deaths do not use up."""
    with conftest.fresh_database(request.param, request, home) as url:
        monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
        monkeypatch.setenv("ORCHESTRA_LOG_TO_CONSOLE", "false")
        monkeypatch.setenv("ORCHESTRA_CRASH_BUDGET", "1000")
        conftest.forget()
        assert settings.current().crash_budget == 1000
        yield opened()


class Chaos(Driver):
    """Carries messages in random order, some of them twice, on workers that die at random writes."""

    def __init__(self, database: Database, seed: int, *, deaths: float, duplicates: float = 0.1) -> None:
        self.random = random.Random(seed)
        super().__init__(database, pick=self.random.randrange)
        self.deaths, self.duplicates = deaths, duplicates
        #: For steps that were seen to have ended: how often their bodies had been started by then.
        self.starts: dict[str, int] = {}

    def live(self, run_id: str) -> Any:
        """Carry a run to its end; gives its value."""
        return self.live_to_end(run_id).result()

    def live_to_end(self, run_id: str) -> State[Any]:
        """Carry a run to its end; gives its final state."""
        for _ in range(5000):
            if not self.live_once() and self.row(run_id)["phase"] == Phase.DONE:
                return self.final(run_id)
        raise AssertionError(f"the run does not end: {dict(self.row(run_id))}")

    def live_once(self) -> bool:
        """Carry one message, perhaps on a worker that dies of it; let time pass where there is none."""
        if self.random.random() < self.deaths:
            self.workers_database.kill_at(self.random.randint(1, 8), after_commit=self.random.random() < 0.5)
        try:
            moved = self.step()
        except Killed:
            moved = True
        if self.workers_database.dead:
            self.lapse()
        self.workers_database.revive()
        self._look()
        if not moved:
            self.elapse(40)
            self.sweep()
        return moved

    def deliver(self, message: Any) -> None:
        super().deliver(message)
        if self.random.random() < self.duplicates:
            self.carrier.messages.append(message)

    def _look(self) -> None:
        done = sa.select(steps.c.run_id, steps.c.step_key).where(steps.c.phase == Phase.DONE)
        for run_id, key in self.database.read(lambda connection: connection.execute(done).all()):
            name = f"{run_id}/{key}"
            self.starts.setdefault(name, started.count(name))

    def assert_no_finished_step_ran_again(self) -> None:
        """Compare what was seen at the end of each step with what is now."""
        assert {name: started.count(name) for name in self.starts} == self.starts


@few
@given(runnable(peeks=True), seeds)
def test_programs_equal_plain_python(database: Database, given_program: Any, seed: int) -> None:
    """With messages in any order, some of them twice."""
    flow, program = given_program
    started.clear()
    chaos = Chaos(emptied(database), seed, deaths=0)

    assert chaos.live(chaos.submit(flow, program=program)) == plain(program)
    assert len(started) == len(set(started))


@few
@given(runnable(peeks=True), seeds)
def test_programs_survive_the_death_of_workers(database: Database, given_program: Any, seed: int) -> None:
    """The value is the same, and no step that had ended is run again."""
    flow, program = given_program
    started.clear()
    chaos = Chaos(emptied(database), seed, deaths=0.3)

    assert chaos.live(chaos.submit(flow, program=program)) == plain(program)
    chaos.assert_no_finished_step_ran_again()


@few
@given(runnable(peeks=False), seeds, st.floats(0, 1))
def test_programs_replay_from_any_prefix_of_their_journal(
    database: Database, given_program: Any, seed: int, part: float
) -> None:
    """The same calls with the same values; what the prefix holds is not run again."""
    flow, program = given_program
    chaos = Chaos(emptied(database), seed, deaths=0)
    run_id = chaos.submit(flow, program=program)
    chaos.live(run_id)
    before = {step.key: (step.branch, step.position, step.kind, step.result) for step in chaos.steps(run_id)}
    kept = cut_journal(database, run_id, round(part * len(before)))
    started.clear()

    again = Chaos(database, seed + 1, deaths=0)
    assert again.live(run_id) == plain(program)
    after = {step.key: (step.branch, step.position, step.kind, step.result) for step in again.steps(run_id)}
    fresh_values = {key for key, step in before.items() if step[2] == "observation"} - kept
    assert {key: step for key, step in after.items() if key not in fresh_values} == {
        key: step for key, step in before.items() if key not in fresh_values
    }
    assert not {f"{run_id}/{key}" for key in kept} & set(started)


@few
@given(runnable(peeks=True), seeds, st.integers(0, 30))
def test_programs_that_are_cancelled_end(database: Database, given_program: Any, seed: int, steps_before: int) -> None:
    """At any moment, with workers that die: as CANCELLED with all they started, unless they ended before."""
    flow, program = given_program
    chaos = Chaos(emptied(database), seed, deaths=0.1)
    run_id = chaos.submit(flow, program=program)
    for _ in range(steps_before):
        chaos.live_once()
    with contextlib.suppress(IllegalTransition):
        chaos.carrier.announce(interventions.cancel(database, run_id))

    state = chaos.live_to_end(run_id)
    assert state.is_cancelled() or state.result() == plain(program)
    for _ in range(200):
        if not open_rows(database):
            break
        chaos.live_once()
    assert open_rows(database) == []


@few
@given(runnable(peeks=True), seeds, st.floats(0, 0.5))
def test_retried_programs_run_nothing_again_that_ended_well(
    database: Database, given_program: Any, seed: int, rate: float
) -> None:
    """Tasks fail the first time; the run is retried by hand until it is right.

    What a body sees of unfinished work is seen anew in each attempt: it may ask for a step with other values then.
    """
    flow, program = given_program
    started.clear()
    ended_well.clear()
    repeated.clear()
    failed.clear()
    failures.update(rate=rate, seed=seed)
    chaos = Chaos(emptied(database), seed, deaths=0)
    run_id = chaos.submit(flow, program=program)

    for _ in range(100):
        state = chaos.live_to_end(run_id)
        if state.is_completed():
            break
        chaos.carrier.announce(interventions.retry(database, run_id))
    failures.update(rate=0.0)
    assert state.result() == plain(program)
    assert [key for key in repeated if key.startswith(run_id)] == []


@few
@given(runnable(peeks=False), seeds, st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_programs_are_retried_from_any_task(
    database: Database, given_program: Any, seed: int, places: list[float]
) -> None:
    """Time and again, with workers that die: what was first asked for before it is kept, all else is run again."""
    flow, program = given_program
    chaos = Chaos(emptied(database), seed, deaths=0)
    run_id = chaos.submit(flow, program=program)
    chaos.live(run_id)
    first: dict[str, int] = {}

    for attempt, place in enumerate(places, start=1):
        before = chaos.steps(run_id, attempt)
        for step in before:
            first.setdefault(step.key, step.sequence)
        tasks = [step for step in before if step.kind in reruns.CHOSEN_KINDS]
        if not tasks:
            return
        chosen = tasks[round(place * (len(tasks) - 1))]
        kept = {
            step.key: step.recorded_attempt
            for step in before
            if step.state_type == StateType.COMPLETED and comes_before(step, chosen, first)
        }
        started.clear()
        from_step = identifiers.step_id(run_id, chosen.recorded_attempt, chosen.key)
        chaos.carrier.announce(interventions.retry(database, run_id, from_step=from_step))
        chaos.deaths = 0.2

        assert chaos.live(run_id) == plain(program)
        after = {step.key: step.recorded_attempt for step in chaos.steps(run_id, attempt + 1)}
        assert after == {step.key: kept.get(step.key, attempt + 1) for step in before}
        done = {name for name in started if name.startswith(f"{run_id}/")}
        assert done == {f"{run_id}/{s.key}" for s in before if s.kind == Kind.TASK and s.key not in kept}


def comes_before(step: StepRecord, chosen: StepRecord, first: dict[str, int]) -> bool:
    """Whether a step was asked for before another."""
    if step.branch == chosen.branch:
        return step.position < chosen.position
    return first[step.key] < first[chosen.key]


def open_rows(database: Database) -> list[Any]:
    """Runs and steps that have not ended."""
    queries = [sa.select(table).where(table.c.phase != Phase.DONE) for table in (flow_runs, steps)]
    return database.read(lambda connection: [row for query in queries for row in connection.execute(query)])


def cut_journal(database: Database, run_id: str, length: int) -> set[str]:
    """Leave only the first rows of an ended run's journal, as if it had never got further; gives their keys."""

    def work(connection: sa.Connection) -> set[str]:
        ours = steps.c.run_id == run_id
        rows = connection.execute(sa.select(steps.c.step_key).where(ours).order_by(steps.c.sequence)).scalars().all()
        kept, lost = set(rows[:length]), set(rows[length:])
        orphans = list(connection.scalars(_children(run_id).where(flow_runs.c.parent_step_key.in_(lost))))
        for orphan in orphans:
            orphans += connection.scalars(_children(orphan))
        connection.execute(sa.delete(flow_runs).where(flow_runs.c.id.in_(orphans)))
        connection.execute(sa.delete(steps).where(ours, steps.c.step_key.in_(lost)))
        for table in (edges, joins):
            connection.execute(sa.delete(table).where(table.c.run_id == run_id))
        fresh = {
            "phase": "READY",
            "state_type": "RUNNING",
            "outcome": None,
            "result": None,
            "due_at": 0,
            "announce_at": 0,
        }
        connection.execute(sa.update(flow_runs).where(flow_runs.c.id == run_id).values(fresh))
        return kept

    return database.write(work)


def _children(run_id: str) -> sa.Select[Any]:
    return sa.select(flow_runs.c.id).where(flow_runs.c.parent_run_id == run_id)
