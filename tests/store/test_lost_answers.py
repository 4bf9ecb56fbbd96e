"""The answer to a COMMIT is lost: what a person did to a run is done once, and is no error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orchestra import identifiers, serializers
from orchestra.engine import acts
from orchestra.errors import FlowRunNotFound, IllegalTransition, NotFound
from orchestra.schedules import Cron
from orchestra.store import (
    access,
    artifacts,
    deployments,
    inputs,
    interventions,
    journal,
    limits,
    removal,
    runs,
    settle,
    variables,
    waits,
    work_pools,
)
from orchestra.store.artifacts import NewArtifact
from orchestra.store.database import Database, instant
from orchestra.store.deployments import NewDeployment
from orchestra.store.interventions import NONDETERMINISTIC
from orchestra.store.journal import NewStep
from orchestra.store.tables import Kind, Phase
from orchestra.store.variables import NewVariable
from orchestra.store.waits import Park
from tests import servers
from tests.proxy import LossyProxy
from tests.store.test_inputs import WANTED, answer, ask, message, pause_key, paused, receive_key, results
from tests.store.test_races import (
    BAD,
    announced,
    claimed,
    completing,
    dispatch,
    key,
    new_run,
    phases,
    row,
    task,
    window,
)

pytestmark = [pytest.mark.services, pytest.mark.parametrize("database_url", ["postgres"], indirect=True)]


@pytest.fixture
def proxy(database_url: str) -> Iterator[LossyProxy]:
    """Before the database's server."""
    proxy = LossyProxy(int(database_url.rpartition(":")[2].partition("/")[0]))
    yield proxy
    proxy.close()


@pytest.fixture
def far(database_url: str, proxy: LossyProxy, postgres: servers.Postgres) -> Iterator[Database]:
    """The database, reached through the proxy."""
    opened = Database(database_url.replace(f":{proxy.target_port}/", f":{proxy.port}/"))
    # A first connection commits, too.
    opened.write(instant)
    yield opened
    opened.close()


def test_a_retry_opens_one_attempt(database: Database, far: Database, proxy: LossyProxy) -> None:
    """And announces it."""
    run = new_run(database)
    runs.finish(database, run, BAD, [], window=window)
    proxy.lose(1)

    assert announced([interventions.retry(far, run.run_id)], "flow") == [run.run_id]
    assert (row(database, run)["run_attempt"], proxy.lost) == (2, 1)


def test_a_retry_from_a_task_opens_one_attempt(database: Database, far: Database, proxy: LossyProxy) -> None:
    """And keeps what came before it, once."""
    run = new_run(database)
    dispatch(database, run, *(task(number) for number in range(2)))
    for each in claimed(database, run, 0, 1):
        completing(database, each)()
    runs.finish(database, run, BAD, [], window=window)
    proxy.lose(1)

    chosen = identifiers.step_id(run.run_id, 1, key(1))
    assert announced([interventions.retry(far, run.run_id, from_step=chosen)], "flow") == [run.run_id]
    assert (row(database, run)["run_attempt"], proxy.lost) == (2, 1)
    assert [step.key for step in journal.load(database, run.run_id, 2)] == [key(0)]


def test_a_retry_of_a_run_with_mended_code_is_no_error(database: Database, far: Database, proxy: LossyProxy) -> None:
    """It replays it."""
    run = new_run(database)
    interventions.hold_claimed(database, run, NONDETERMINISTIC, "NonDeterministic", "other code")
    proxy.lose(1)

    assert announced([interventions.retry(far, run.run_id)], "flow") == [run.run_id]
    assert (row(database, run)["run_attempt"], row(database, run)["held"], proxy.lost) == (1, None, 1)


def test_a_resume_is_no_error(database: Database, far: Database, proxy: LossyProxy) -> None:
    """Of a run paused from outside: its tasks are announced."""
    run = new_run(database)
    dispatch(database, run, task(0))
    interventions.hold(database, run.run_id)
    proxy.lose(1)

    assert announced([interventions.resume(far, run.run_id)]) == [key(0)]
    assert proxy.lost == 1
    with pytest.raises(IllegalTransition):
        interventions.resume(far, run.run_id)


def test_a_resume_of_a_pause_is_no_error(database: Database, far: Database, proxy: LossyProxy) -> None:
    """Of one that the body asked for."""
    run = new_run(database)
    pause = NewStep("main/pause-0", "main", 0, 0, Kind.PAUSE, "pause-0")
    assert waits.park(database, run, Park(("main/pause-0",)), [pause], window=window).parked
    proxy.lose(1)

    assert announced([interventions.resume(far, run.run_id)], "flow") == [run.run_id]
    assert phases(database, run)["main/pause-0"] == (Phase.DONE, "Completed")
    assert proxy.lost == 1


def test_an_answer_to_a_pause_is_no_error(database: Database, far: Database, proxy: LossyProxy) -> None:
    """It is taken once; another one is refused."""
    run = paused(database)
    proxy.lose(1)

    assert announced([interventions.resume(far, run.run_id, answer(1))], "flow") == [run.run_id]
    assert results(database, run) == {pause_key(0): 1}
    assert proxy.lost == 1
    with pytest.raises(IllegalTransition):
        interventions.resume(far, run.run_id, answer(1))


def test_a_message_arrives_once(database: Database, far: Database, proxy: LossyProxy) -> None:
    """Also one that is sent by nobody's step."""
    run = new_run(database)
    ask(database, run, 0, 1)
    proxy.lose(1)

    inputs.send(far, message(run, 1))
    assert (results(database, run), proxy.lost) == ({receive_key(0): 1}, 1)


def test_a_message_is_received_once(database: Database, far: Database, proxy: LossyProxy) -> None:
    """By a step, and by whoever looks."""
    run = new_run(database)
    for n in range(3):
        inputs.send(database, message(run, n))
    proxy.lose(2)

    ask(far, run, 0)
    assert results(database, run) == {receive_key(0): 0}
    taken = inputs.take(far, run.run_id, WANTED, "me")
    assert taken is not None
    assert (serializers.decode(taken)["value"], proxy.lost) == (1, 2)


def test_a_deletion_is_no_error(database: Database, far: Database, proxy: LossyProxy) -> None:
    """The run is gone; deleting it once more finds none."""
    run = new_run(database)
    dispatch(database, run, task(0))
    (claim,) = claimed(database, run, 0)
    settle.complete(database, claim, BAD)
    runs.finish(database, run, BAD, [], window=window)
    proxy.lose(1)

    removal.delete(far, run.run_id)
    assert proxy.lost == 1
    with pytest.raises(FlowRunNotFound):
        removal.delete(far, run.run_id)


def test_a_variable_that_is_set_is_no_conflict(database: Database, far: Database, proxy: LossyProxy) -> None:
    """With itself."""
    new = NewVariable("id", "name", "1")
    proxy.lose(1)

    far.write(lambda connection: variables.put(connection, new, 5.0, overwrite=False))

    found = variables.find(database, "name")
    assert found is not None
    assert (found.value, proxy.lost) == (1, 1)


def test_an_artifact_that_is_deleted_is_not_missed(database: Database, far: Database, proxy: LossyProxy) -> None:
    """By who has deleted it."""
    database.write(lambda connection: artifacts.add(connection, NewArtifact("id", "key"), 4.0))
    effect = acts.removal(lambda connection, moment: artifacts.delete(connection, "id"))
    proxy.lose(1)

    far.write(lambda connection: effect(connection, 5.0))

    assert (artifacts.find_latest(database, "key"), proxy.lost) == (None, 1)


def _a_user(database: Database) -> Callable[[Database], object]:
    access.create_user(database, "ada", "hash", "read")
    return lambda far: access.delete_user(far, "ada")


def _a_limit(database: Database) -> Callable[[Database], object]:
    limits.create(database, "few", 2)
    return lambda far: limits.delete(far, "few")


def _a_pool(database: Database) -> Callable[[Database], object]:
    work_pools.create(database, "etl", "process")
    return lambda far: work_pools.delete(far, "etl")


def _a_deployment(database: Database) -> Callable[[Database], object]:
    deployments.keep(database, NewDeployment("nightly", "etl", "/srv/etl.py:etl", "default"))
    return lambda far: deployments.delete(far, "etl/nightly")


def _a_schedule(database: Database) -> Callable[[Database], object]:
    _a_deployment(database)
    deployments.add_schedule(database, "etl/nightly", Cron("0 9 * * *", slug="a"))
    return lambda far: deployments.delete_schedule(far, "etl/nightly", "a")


@pytest.mark.parametrize("make", [_a_user, _a_limit, _a_pool, _a_deployment, _a_schedule])
def test_what_is_deleted_by_name_is_not_missed(
    database: Database, far: Database, proxy: LossyProxy, make: Callable[[Database], Callable[[Database], object]]
) -> None:
    """By who has deleted it; to delete it once more finds none."""
    delete = make(database)
    proxy.lose(1)

    delete(far)

    assert proxy.lost == 1
    with pytest.raises(NotFound):
        delete(far)
