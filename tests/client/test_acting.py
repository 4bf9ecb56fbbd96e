"""A client acts on runs of workers, and is asked within flows, whose replays must see and do the same."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestra import get_client, settings, states
from orchestra.client.orchestration import SyncOrchestraClient
from orchestra.errors import (
    DefinitionNotFound,
    FlowRunNotFound,
    IllegalTransition,
    InvalidRunInput,
    ParameterTypeError,
    SignatureMismatchError,
)
from orchestra.states import State
from tests.client import flows
from tests.drive import Driver


@pytest.fixture
def client(driver: Driver) -> SyncOrchestraClient:
    """A client on the driver's database."""
    return get_client(sync_client=True)


@pytest.fixture
def silent_broker(client: SyncOrchestraClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker is set that does not answer: a run that is created waits for a sweep."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", "redis://127.0.0.1:1/0")
    settings.reset()


@pytest.mark.parametrize("flow", [flows.doubled, f"{flows.__name__}:doubled"], ids=["flow", "path"])
def test_a_run_is_created_and_carried_out_by_workers(
    silent_broker: None, driver: Driver, client: SyncOrchestraClient, flow: Any
) -> None:
    """With what may be said of it; the same key gives the same run."""
    made = client.create_flow_run(flow, parameters={"number": 5}, name="five", tags=["odd"], idempotency_key="5")

    assert (made.name, made.tags, made.parameters) == ("five", ["odd"], {"number": 5})
    assert client.create_flow_run(flow, parameters={"number": 5}, idempotency_key="5").id == made.id
    driver.elapse()
    driver.sweep()
    assert driver.finish(made.id).result() == 10


def test_a_run_is_created_for_later(silent_broker: None, client: SyncOrchestraClient) -> None:
    """It is Scheduled until then."""
    later = datetime.now(UTC) + timedelta(days=1)

    made = client.create_flow_run(flows.doubled, parameters={"number": 5}, scheduled_time=later)

    assert (made.state_name, made.expected_start_time) == ("Scheduled", later)


@pytest.mark.parametrize(
    ("flow", "parameters", "error"),
    [
        (flows.doubled, {"nmber": 5}, SignatureMismatchError),
        (flows.doubled, {"number": "five"}, ParameterTypeError),
        (f"{flows.__name__}:tripled", {}, DefinitionNotFound),
    ],
)
def test_a_run_that_cannot_be_is_not_created(
    silent_broker: None, client: SyncOrchestraClient, flow: Any, parameters: dict[str, Any], error: type[Exception]
) -> None:
    """Nothing is written."""
    with pytest.raises(error):
        client.create_flow_run(flow, parameters=parameters)
    assert client.count_flow_runs() == 0


def test_the_value_of_a_run_is_read_from_its_state(driver: Driver, client: SyncOrchestraClient) -> None:
    """Of flow runs and task runs; a failed one raises its own exception."""
    good, bad = driver.submit(flows.doubled, number=4), driver.submit(flows.refused, number=4)
    driver.finish(good)
    driver.finish(bad)

    assert client.read_flow_run(good).state.result() == 8
    (step,) = [run for run in client.read_task_runs() if run.flow_run_id == good]
    assert step.state.result() == 8
    with pytest.raises(ValueError, match="4 is refused"):
        client.read_flow_run(bad).state.result()


@pytest.mark.parametrize(
    ("wanted", "then"),
    [
        (states.Cancelled(), "Cancelled"),
        (states.Cancelling(), "Cancelled"),
        (states.Paused(), "Paused"),
        (states.Paused(name="Suspended"), "Suspended"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_waiting_run_is_brought_into_a_state(
    driver: Driver, client: SyncOrchestraClient, wanted: State[object], then: str
) -> None:
    """By the verb that does so."""
    run_id = driver.submit(flows.doubled, number=1)

    assert client.set_flow_run_state(run_id, wanted).state.name == then
    assert client.read_flow_run(run_id).state_name == then


def test_a_paused_run_is_resumed_and_an_ended_one_retried(driver: Driver, client: SyncOrchestraClient) -> None:
    """By the states that Prefect's users set for that."""
    run_id = driver.submit(flows.refused, number=1)
    client.pause_flow_run(run_id)
    client.set_flow_run_state(run_id, states.Running())
    assert not client.read_flow_run(run_id).state.is_paused()

    driver.finish(run_id)
    client.set_flow_run_state(run_id, states.Scheduled())
    assert client.read_flow_run(run_id).run_count == 2


@pytest.mark.parametrize("given", [{"yes": True}, flows.Approval(yes=True)], ids=["mapping", "model"])
def test_a_run_is_given_the_input_it_waits_for(driver: Driver, client: SyncOrchestraClient, given: Any) -> None:
    """What does not fit is refused, and it waits on."""
    run_id = driver.submit(flows.asking)
    driver.settle()

    with pytest.raises(InvalidRunInput):
        client.resume_flow_run(run_id, {"yes": "perhaps"})
    client.resume_flow_run(run_id, given)
    assert driver.finish(run_id).result() is True


@pytest.mark.parametrize("wanted", [states.Completed(), states.Failed(), states.Scheduled()], ids=lambda s: s.name)
def test_a_state_that_nobody_may_write_is_refused(
    driver: Driver, client: SyncOrchestraClient, wanted: State[object]
) -> None:
    """With what may be done instead; nothing is changed."""
    run_id = driver.submit(flows.doubled, number=1)

    with pytest.raises(IllegalTransition, match="may be cancelled, paused"):
        client.set_flow_run_state(run_id, wanted)
    with pytest.raises(IllegalTransition, match="never written over"):
        client.set_flow_run_state(run_id, wanted, force=True)
    assert driver.finish(run_id).is_completed()


def test_task_runs_have_the_states_of_their_journal(driver: Driver, client: SyncOrchestraClient) -> None:
    """They cannot be set; the error names the flow run to act on."""
    run_id = driver.submit(flows.doubled, number=1)
    driver.finish(run_id)

    with pytest.raises(IllegalTransition, match=run_id):
        client.set_task_run_state(client.read_task_runs()[0].id, states.Failed())


def test_runs_are_cancelled_and_deleted_by_name(driver: Driver, client: SyncOrchestraClient) -> None:
    """One that has not ended is not deleted."""
    run_id = driver.submit(flows.doubled, number=1)

    with pytest.raises(IllegalTransition, match="cancel it first"):
        client.delete_flow_run(run_id)
    client.cancel_flow_run(run_id)
    client.delete_flow_run(run_id)
    with pytest.raises(FlowRunNotFound):
        client.read_flow_run(run_id)


def test_a_replay_sees_what_the_body_saw_first(driver: Driver) -> None:
    """However many runs there are by then, and whatever became of those it saw."""
    driver.run(flows.doubled, number=4)
    run_id = driver.submit(flows.looking, number=3)
    driver.step()
    for number in range(3):
        driver.submit(flows.doubled, number=number)

    assert driver.finish(run_id).result() == [2, [8], 6]


def test_a_replay_of_a_coroutine_sees_it_too(driver: Driver) -> None:
    """The asynchronous client's answers are steps as well."""
    run_id = driver.submit(flows.looking_async, number=3)
    driver.step()
    driver.submit(flows.doubled, number=1)

    assert driver.finish(run_id).result() == [1, 6]


def test_a_replay_does_not_act_again(driver: Driver, client: SyncOrchestraClient) -> None:
    """A run that was deleted meanwhile would else be missed, and fail the flow."""
    other = str(uuid.uuid4())
    run_id = driver.submit(flows.cancelling, other=other)
    driver.submit(flows.doubled, run_id=other, number=1)
    driver.step()
    assert client.read_flow_run(other).state_name == "Cancelled"
    client.delete_flow_run(other)

    assert driver.finish(run_id).result() == "Cancelled"
