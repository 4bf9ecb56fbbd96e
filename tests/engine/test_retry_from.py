"""Retries of ended runs from a task that a person chooses."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from orchestra import identifiers, settings
from orchestra.engine import operations
from orchestra.errors import IllegalTransition, TaskRunNotFound
from orchestra.store import queries
from orchestra.store.database import Database
from orchestra.store.tables import events, flow_runs
from tests.drive import Driver, Killed
from tests.engine import rerun_flows as flows


@pytest.fixture
def driver(database: Database, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Carries messages over a worker with one slot; on SQLite and on PostgreSQL."""
    monkeypatch.setenv("ORCHESTRA_LOG_TO_CONSOLE", "false")
    return Driver(database, slots=1)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Nothing was done yet."""
    for each in (flows.effects, flows.keys, flows.switch):
        each.clear()


def step_id(driver: Driver, run_id: str, key: str) -> str:
    """The id of a step of the run's present attempt; a key without a branch is of the main one."""
    attempt = driver.row(run_id)["run_attempt"]
    (found,) = [step for step in driver.steps(run_id, attempt) if step.key in (key, f"main/{key}")]
    return identifiers.step_id(run_id, found.recorded_attempt, found.key)


def retry(driver: Driver, run_id: str, step: str) -> None:
    """Have a run retried from the step with this id."""
    operations.retry(driver.database, run_id, driver.carrier.announce, from_task_run_id=step)


def done_again(driver: Driver, run_id: str, key: str) -> list[str]:
    """What is done when a run is retried from a step, to its end."""
    before = len(flows.effects)
    retry(driver, run_id, step_id(driver, run_id, key))
    driver.finish(run_id)
    return flows.effects[before:]


def ended(driver: Driver, flow: object, **parameters: object) -> str:
    """A run that has ended."""
    run_id = driver.submit(flow, **parameters)
    driver.finish(run_id)
    return run_id


@pytest.mark.parametrize(
    ("key", "done"),
    [("step-0", ["extract", "transform", "load"]), ("step-1", ["transform", "load"]), ("step-2", ["load"])],
)
def test_the_step_and_all_behind_it_run_again(driver: Driver, key: str, done: list[str]) -> None:
    """Of a run that completed, and though none is given what another returned; what came before keeps its result."""
    run_id = ended(driver, flows.in_a_row)

    assert done_again(driver, run_id, key) == done
    counts = {name: 2 if name in done else 1 for name in ("extract", "transform", "load")}
    assert driver.final(run_id).result() == [f"{name} {count}" for name, count in counts.items()]


def test_what_was_done_before_stays_in_the_history(driver: Driver) -> None:
    """As it was, in its own attempt; whoever asked for what is told as well."""
    run_id = ended(driver, flows.in_a_row)
    chosen = step_id(driver, run_id, "step-1")
    done_again(driver, run_id, "step-1")

    old = [(step.key, step.state_name) for step in driver.steps(run_id, 1)]
    assert old == [("main/step-1", "Completed"), ("main/step-2", "Completed")]
    assert queries.read_task_run(driver.database, chosen).result == "transform 1"
    history = queries.state_history(driver.database, run_id)
    assert "retried by hand from step-1" in [state.message for state in history]
    asked = sa.select(events.c.payload).where(events.c.event == "orchestra.flow-run.retry-requested")
    assert chosen in driver.database.read(lambda connection: connection.execute(asked).scalar_one())


def test_a_member_of_a_map_runs_again_with_those_behind_it(driver: Driver) -> None:
    """And so does what they are joined in."""
    run_id = ended(driver, flows.fanned_out)

    assert sorted(done_again(driver, run_id, "step-1")) == ["b", "c", "joined"]
    assert driver.final(run_id).result() == ["a 1", "b 2", "c 2", "joined 2"]


@pytest.mark.parametrize("flow", [flows.planned, flows.one_by_one])
def test_however_tasks_were_sent_the_run_goes_on_from_there(driver: Driver, flow: object) -> None:
    """As one canvas, or one after another."""
    run_id = ended(driver, flow)

    assert sorted(done_again(driver, run_id, "step-2")) == ["c", "joined"]
    assert driver.final(run_id).result() == "joined 2"


def test_a_subflow_is_run_again_as_another_run(driver: Driver) -> None:
    """The one that was stays."""
    run_id = ended(driver, flows.with_child)

    assert done_again(driver, run_id, "in-a-row-0") == ["extract", "transform", "load", "after"]
    children = sa.select(flow_runs.c.id).where(flow_runs.c.parent_run_id == run_id)
    assert len(driver.database.read(lambda connection: connection.scalars(children).all())) == 2


@pytest.mark.parametrize("submitted", [False, True])
def test_the_cache_does_not_answer_for_the_chosen_step(driver: Driver, submitted: bool) -> None:
    """For those behind it, it may; and from then on it has the newer result."""
    run_id = ended(driver, flows.with_cache, submitted=submitted)

    assert done_again(driver, run_id, "cached-0") == ["one"]
    assert driver.final(run_id).result() == ["one 2", "two 1"]
    assert driver.run(flows.with_cache, submitted=submitted).result() == ["one 2", "two 1"]


@pytest.mark.parametrize("key", ["step-2", "cached-0"])
def test_a_block_is_done_anew_as_a_whole(driver: Driver, key: str) -> None:
    """Whichever of its tasks is chosen, whatever a cache or its key has of it; as other things than before."""
    run_id = ended(driver, flows.in_blocks)

    assert done_again(driver, run_id, key) == ["b 1", "b 2", "last"]
    assert driver.final(run_id).result() == ["a 1 1", "a 2 1", "b 1 2", "b 2 2", "last 2"]
    assert len(set(flows.keys[:5] + flows.keys[5:7])) == 7


def test_a_block_that_was_committed_before_is_not_opened(driver: Driver) -> None:
    """Where an earlier task was chosen, a block with a key is one of those that come behind."""
    run_id = ended(driver, flows.in_blocks)

    assert done_again(driver, run_id, "step-1") == ["a 1", "a 2"]
    assert driver.final(run_id).result() == ["a 1 2", "a 2 2", "b was committed"]


def test_a_block_that_was_rolled_back_is_done_anew(driver: Driver) -> None:
    """As at any retry."""
    flows.switch["b fails"] = True
    run_id = ended(driver, flows.rolled_back)
    flows.switch.clear()

    assert done_again(driver, run_id, "step-1") == ["a", "b"]
    assert driver.final(run_id).result() == "b 2"


def test_in_other_branches_what_was_asked_for_later_runs_again(driver: Driver) -> None:
    """A block that is open there then runs again from its beginning; what is before it is kept."""
    run_id = ended(driver, flows.in_branches)

    assert done_again(driver, run_id, "main.2/lone-0") == ["left 1", "right", "left 2", "end"]
    assert done_again(driver, run_id, "main.1/lone-2") == ["left 1", "right", "left 2", "end"]


def test_a_task_that_failed_before_is_tried_again(driver: Driver) -> None:
    """What did not complete runs in every retry; what came behind it and before the chosen step is kept."""
    flows.switch["shaky fails"] = True
    run_id = ended(driver, flows.tolerant)
    flows.switch.clear()

    assert done_again(driver, run_id, "step-2") == ["shaky", "last"]
    assert driver.final(run_id).result() == ["shaky 2", "middle 1", "last 2"]


def test_what_an_earlier_retry_ran_counts_where_it_was_first_asked_for(driver: Driver) -> None:
    """It does not come last because it was written last."""
    flows.switch["shaky fails"] = True
    run_id = ended(driver, flows.tolerant)
    flows.switch.clear()
    operations.retry(driver.database, run_id, driver.carrier.announce)
    driver.finish(run_id)

    assert sorted(done_again(driver, run_id, "step-0")) == ["last", "middle", "shaky"]


def test_a_task_that_never_ran_is_run_with_what_it_waited_for(driver: Driver) -> None:
    """Its upstream failed, and so is tried again."""
    flows.switch["first fails"] = True
    run_id = ended(driver, flows.dependent)
    flows.switch.clear()

    assert done_again(driver, run_id, "step-1") == ["first", "second"]
    assert driver.final(run_id).is_completed()


def test_a_task_run_of_an_old_attempt_stands_for_the_same_of_the_present_one(driver: Driver) -> None:
    """Whichever attempt's table it was picked from."""
    run_id = ended(driver, flows.in_a_row)
    chosen = step_id(driver, run_id, "step-1")
    done_again(driver, run_id, "step-1")

    retry(driver, run_id, chosen)
    assert driver.finish(run_id).result() == ["extract 1", "transform 3", "load 3"]


def test_under_changed_code_the_chosen_place_is_what_counts(driver: Driver) -> None:
    """What comes before must still be asked for; from there on the body may ask for something else."""
    run_id = ended(driver, flows.in_a_row)
    flows.switch["mended"] = True

    assert done_again(driver, run_id, "step-1") == ["check", "load"]


def test_a_task_keeps_its_idempotency_key(driver: Driver) -> None:
    """As in any retry: outside of a transaction it is the same thing that is done again."""
    run_id = ended(driver, flows.in_a_row)
    done_again(driver, run_id, "step-1")

    assert flows.keys[3:] == flows.keys[1:3]


def test_a_run_that_the_body_starts_behind_it_is_another_one(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, though a crash has the body start it again; without a choice it is the one that was started."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", "redis://127.0.0.1:1/0")
    settings.reset()
    run_id = ended(driver, flows.starting)
    first = driver.final(run_id).result()
    retry(driver, run_id, step_id(driver, run_id, "step-0"))
    # The write of the end, which journals that the other run was started.
    driver.workers_database.kill_at(3, after_commit=False)
    with pytest.raises(Killed):
        driver.finish(run_id)
    driver.lapse()
    driver.elapse(40)
    driver.settle()

    second = driver.finish(run_id).result()
    assert second != first
    started = sa.select(sa.func.count()).where(flow_runs.c.flow_name == "in-a-row")
    assert driver.database.read(lambda connection: connection.scalar(started)) == 2
    operations.retry(driver.database, run_id, driver.carrier.announce)
    assert driver.finish(run_id).result() == second


def test_a_retry_of_its_own_does_not_go_back_to_the_cache(driver: Driver) -> None:
    """The chosen step fails at first: it is tried again, and not answered by what it was to replace."""
    run_id = ended(driver, flows.retried)
    flows.switch["transform fails"] = True
    retry(driver, run_id, step_id(driver, run_id, "cached-0"))
    while flows.effects[-1] != "transform":
        driver.step()
    flows.switch.clear()

    assert driver.finish(run_id).result() == ["extract 1", "transform 3", "load 2"]


def test_a_run_that_has_not_ended_is_refused(driver: Driver) -> None:
    """And so is whoever asks a second time; nothing is changed."""
    run_id = ended(driver, flows.in_a_row)
    chosen = step_id(driver, run_id, "step-1")
    retry(driver, run_id, chosen)

    with pytest.raises(IllegalTransition, match="before it has ended"):
        retry(driver, run_id, chosen)
    assert driver.row(run_id)["run_attempt"] == 2
    assert driver.finish(run_id).is_completed()


def test_what_no_run_can_be_retried_from_is_refused(driver: Driver) -> None:
    """With what it is instead; nothing is changed."""
    run_id, other = ended(driver, flows.with_child), ended(driver, flows.in_a_row)

    with pytest.raises(IllegalTransition, match=f"that is of flow run {other}"):
        retry(driver, run_id, step_id(driver, other, "step-0"))
    with pytest.raises(IllegalTransition, match="that is a sleep; choose a task or a subflow"):
        retry(driver, run_id, step_id(driver, run_id, "sleep-0"))
    with pytest.raises(TaskRunNotFound):
        retry(driver, run_id, "no-such-id")
    assert driver.row(run_id)["run_attempt"] == 1


def test_a_run_that_waits_for_mended_code_is_refused(driver: Driver) -> None:
    """It has not ended: it is replayed, or cancelled."""
    run_id = ended(driver, flows.in_a_row)
    chosen = step_id(driver, run_id, "step-2")
    flows.switch["renamed"] = True
    operations.retry(driver.database, run_id, driver.carrier.announce)
    driver.settle()
    assert driver.row(run_id)["state_name"] == "NonDeterministic"

    with pytest.raises(IllegalTransition, match="mend its code and retry it without that"):
        retry(driver, run_id, chosen)


def test_a_run_of_a_process_of_its_own_is_refused(driver: Driver) -> None:
    """As any retry of it: it is called again."""
    run_id = flows.in_a_row(return_state=True).state_details.flow_run_id

    with pytest.raises(IllegalTransition, match="call the flow again"):
        retry(driver, run_id, "any")
