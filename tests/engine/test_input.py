"""What runs ask of people and of each other, in this process and on a worker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from orchestra import settings, suspend_flow_run
from orchestra.engine import operations
from orchestra.errors import (
    CancelledRun,
    DefinitionError,
    IllegalTransition,
    InputTimeout,
    InvalidRunInput,
    MissingContextError,
    NotSuspendable,
)
from orchestra.input import RunInput, receive_input, send_input
from orchestra.store import queries
from orchestra.store.database import Database
from tests.drive import Driver, Killed
from tests.engine import input_flows as flows
from tests.helpers import wait_until

pytestmark = pytest.mark.slow


class Way(Protocol):
    """A way of running flows."""

    database: Database

    def start(self, flow: Any, **parameters: Any) -> str:
        """Start a run and let it get as far as it goes; gives its id."""

    def resume(self, run_id: str, run_input: Any = None, key: str | None = None) -> None:
        """Resume a run and let it get as far as it goes."""

    def result(self, run_id: str) -> Any:
        """The value of a run, waited for."""


class Here:
    """Runs are called in threads of this process."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._runs: dict[str, tuple[threading.Thread, list[Any]]] = {}

    def start(self, flow: Any, **parameters: Any) -> str:
        before = self._ids()
        ended: list[Any] = []

        def call() -> None:
            state = flow(**parameters, return_state=True)
            ended.append(asyncio.run(state) if asyncio.iscoroutine(state) else state)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        (run_id,) = wait_until(lambda: self._ids() - before, "the run to begin")
        self._runs[run_id] = thread, ended
        return run_id

    def _ids(self) -> set[str]:
        page = queries.list_flow_runs(self.database, limit=100)
        return {run.id for run in page.items if run.parent_flow_run_id is None}

    def resume(self, run_id: str, run_input: Any = None, key: str | None = None) -> None:
        operations.resume(self.database, run_id, run_input=run_input, key=key)

    def result(self, run_id: str) -> Any:
        thread, ended = self._runs[run_id]
        thread.join(30)
        return ended[0].result()


class OnWorker:
    """Runs are carried from message to message, as workers do."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.database = driver, driver.database

    def start(self, flow: Any, **parameters: Any) -> str:
        run_id = self.driver.submit(flow, **parameters)
        self.driver.settle()
        return run_id

    def resume(self, run_id: str, run_input: Any = None, key: str | None = None) -> None:
        operations.resume(self.database, run_id, self.driver.carrier.announce, run_input=run_input, key=key)
        self.driver.settle()

    def result(self, run_id: str) -> Any:
        return self.driver.finish(run_id).result()


@pytest.fixture
def effects() -> Iterator[list[str]]:
    """What the bodies in `input_flows` did, in order."""
    flows.effects.clear()
    yield flows.effects
    flows.effects.clear()


@pytest.fixture(params=["here", "worker"])
def way(request: pytest.FixtureRequest, driver: Driver, effects: list[str]) -> Way:
    """Both ways of running."""
    return Here(driver.database) if request.param == "here" else OnWorker(driver)


def waiting(way: Way, run_id: str, pauses: int = 1) -> queries.FlowRunDetails:
    """The run's page, once it waits at so many pauses."""

    def look() -> queries.FlowRunDetails | None:
        found = queries.read_flow_run(way.database, run_id)
        return found if len(found.pauses) == pauses else None

    return wait_until(look, f"run {run_id} to wait at {pauses} pauses")


# -- people ------------------------------------------------------------------------------------------------------


def test_a_flow_gets_what_it_asks_for_as_its_model(way: Way, effects: list[str]) -> None:
    """An instance, with defaults filled in; what ran before the pause does not run again."""
    run_id = way.start(flows.approving)
    wait_until(lambda: waiting(way, run_id).run.state_name == "Paused", "the run to show as paused")

    way.resume(run_id, {"approved": True})
    assert way.result(run_id) == ["Approval", True, "", "approval"]
    assert effects == ["before", "after"]


def test_who_looks_at_a_paused_run_sees_what_it_waits_for(way: Way) -> None:
    """Key, description, schema, and until when."""
    run_id = way.start(flows.beginning_with_data)
    (pause,) = waiting(way, run_id).pauses

    assert (pause.key, pause.description) == ("pause-0", "May it?")
    assert pause.schema is not None
    assert pause.schema["properties"]["reason"]["default"] == "as ever"
    assert pause.until is not None
    way.resume(run_id)
    assert way.result(run_id) == [True, True, "as ever"]


@pytest.mark.parametrize(
    ("kind", "given", "found"),
    [
        ("str", {"value": "x"}, "x"),
        ("str", "x", "x"),
        ("list", [1, 2], [1, 2]),
        ("optional", {"value": None}, None),
        ("model", {"street": "Mill Lane", "number": 3}, flows.Address(street="Mill Lane", number=3)),
        ("model", flows.Address(street="Mill Lane", number=3), flows.Address(street="Mill Lane", number=3)),
    ],
)
def test_any_type_that_pydantic_knows_can_be_asked_for(way: Way, kind: str, given: Any, found: Any) -> None:
    """A value comes as the value, a model as the model."""
    run_id = way.start(flows.asking_for, kind=kind)
    waiting(way, run_id)

    way.resume(run_id, given)
    assert way.result(run_id) == found


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (None, "'approved' is a required property"),
        ({"approved": "perhaps"}, "'approved': 'perhaps' is not of type 'boolean'"),
        ({"approved": True, "colour": "red"}, "'colour' was unexpected"),
        ({"approved": True, "reason": object()}, "cannot be written as JSON"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_at_once(way: Way, given: Any, fault: str) -> None:
    """The error names the field; the run waits on, and takes the next answer."""
    run_id = way.start(flows.approving)
    waiting(way, run_id)

    with pytest.raises(InvalidRunInput, match=fault):
        way.resume(run_id, given)
    waiting(way, run_id)
    way.resume(run_id, {"approved": False})
    assert way.result(run_id)[1] is False


def test_an_answer_that_only_the_code_refuses_pauses_the_run_again(way: Way, effects: list[str]) -> None:
    """It says why; each answer is judged once, however often the body is replayed."""
    run_id = way.start(flows.picky)
    waiting(way, run_id)
    way.resume(run_id, {"n": 3})
    (pause,) = wait_until(
        lambda: [each for each in queries.read_flow_run(way.database, run_id).pauses if each.refused], "the refusal"
    )
    assert "'n': Value error, it must be even" in pause.refused

    way.resume(run_id, {"n": 4})
    wait_until(lambda: "judged 4" in effects, "the second answer to be judged")
    (pause,) = waiting(way, run_id).pauses
    assert pause.schema is None
    way.resume(run_id)
    assert way.result(run_id) == 4
    assert effects == ["judged 3", "judged 4"]


def test_a_key_asks_once(way: Way) -> None:
    """The second time it gives the same at once."""
    run_id = way.start(flows.asking_twice)
    assert waiting(way, run_id).pauses[0].key == "a"
    way.resume(run_id, 1)
    wait_until(lambda: [p.key for p in queries.read_flow_run(way.database, run_id).pauses] == ["b"], "the other pause")

    way.resume(run_id, 2)
    assert way.result(run_id) == [1, 1, 2]


def test_input_that_nobody_gives_times_out(way: Way) -> None:
    """PauseTimeout in the body."""
    run_id = way.start(flows.impatient, seconds=0.05)

    assert way.result(run_id) == "nobody came"
    with pytest.raises(IllegalTransition):
        way.resume(run_id, {"approved": True})


def test_branches_that_ask_at_once_are_answered_by_key(way: Way) -> None:
    """Without it nobody could tell which is meant."""
    run_id = way.start(flows.asking_async)
    waiting(way, run_id, 2)
    with pytest.raises(InvalidRunInput, match="name one by key"):
        way.resume(run_id, 1)
    with pytest.raises(IllegalTransition, match="'middle'"):
        way.resume(run_id, 1, key="middle")

    way.resume(run_id, 1, key="right")
    waiting(way, run_id, 1)
    way.resume(run_id, 2)
    assert way.result(run_id) == [2, 1]


def test_pauses_without_a_key_are_told_apart_too(way: Way) -> None:
    """By what `inspect` shows."""
    run_id = way.start(flows.asking_under_one_name)
    shown = [pause.key for pause in waiting(way, run_id, 2).pauses]
    assert len(set(shown)) == 2

    way.resume(run_id, 1, key=shown[1])
    waiting(way, run_id, 1)
    way.resume(run_id, 2, key=shown[0])
    assert sorted(way.result(run_id)) == [1, 2]


def test_input_for_a_run_that_waits_for_none_is_refused(way: Way) -> None:
    """It is not thrown away without a word."""
    run_id = way.start(flows.asking_for, kind="str")
    waiting(way, run_id)
    way.resume(run_id, "x")
    way.result(run_id)

    with pytest.raises(IllegalTransition):
        way.resume(run_id, "x")


def test_a_retry_of_the_flow_does_not_ask_again(way: Way, effects: list[str]) -> None:
    """The answer stands."""
    run_id = way.start(flows.asking_then_failing)
    waiting(way, run_id)
    way.resume(run_id, 5)

    assert way.result(run_id) == 5
    assert effects == ["tried", "tried"]


def test_a_subflow_asks_by_itself(driver: Driver) -> None:
    """Its own run is paused, and resumed; its parent waits."""
    way = OnWorker(driver)
    run_id = way.start(flows.above, kind="str")
    (child,) = queries.list_flow_runs(driver.database, parent_flow_run_id=run_id).items
    assert (child.state_name, queries.read_flow_run(driver.database, run_id).pauses) == ("Paused", ())

    way.resume(child.id, "x")
    assert way.result(run_id) == "x"


def test_a_paused_run_holds_nothing_and_is_cancelled(driver: Driver) -> None:
    """While it waits for input."""
    way = OnWorker(driver)
    run_id = way.start(flows.approving)
    assert driver.row(run_id)["phase"] == "WAITING"

    operations.cancel(driver.database, run_id, driver.carrier.announce)
    with pytest.raises(CancelledRun):
        way.result(run_id)


# -- suspending --------------------------------------------------------------------------------------------------


def test_a_run_on_a_worker_suspends_itself(driver: Driver, effects: list[str]) -> None:
    """A pause that is shown as Suspended, and has no end of its own."""
    way = OnWorker(driver)
    run_id = way.start(flows.suspending)
    driver.elapse(86_400 * 365)
    driver.settle()
    assert (driver.row(run_id)["state_type"], driver.row(run_id)["state_name"]) == ("PAUSED", "Suspended")

    way.resume(run_id, 3)
    assert way.result(run_id) == 3
    assert effects == ["before"]


def test_a_run_of_this_process_cannot_suspend_itself(driver: Driver) -> None:
    """The error says how to run it on a worker."""
    with pytest.raises(NotSuspendable, match="orchestra flow-run create"):
        flows.suspending()


def test_a_run_is_suspended_from_outside(driver: Driver) -> None:
    """Nothing more of it is started until it is resumed."""
    run_id = driver.submit(flows.receiving, count=0)
    suspend_flow_run(flow_run_id=run_id)
    driver.settle()
    assert (driver.row(run_id)["state_name"], driver.row(run_id)["start_time"]) == ("Suspended", None)

    OnWorker(driver).resume(run_id)
    assert driver.finish(run_id).result() == []


def test_suspending_from_outside_asks_for_nothing(driver: Driver) -> None:
    """Nobody would get it."""
    with pytest.raises(DefinitionError, match="nobody would get the input"):
        suspend_flow_run(wait_for_input=int, flow_run_id="x")


def test_a_body_resumes_another_run_once(driver: Driver) -> None:
    """It is a step: replay does not do it again, and so finds no run that is not paused."""
    way = OnWorker(driver)
    other = way.start(flows.approving)
    run_id = way.start(flows.resuming, other=other)
    driver.elapse()

    assert way.result(run_id) == "resumed"
    assert way.result(other)[1] is True


# -- messages ----------------------------------------------------------------------------------------------------


def test_a_run_receives_what_another_sends(way: Way, effects: list[str]) -> None:
    """In order, each once; what was sent before it waited, too."""
    receiver = way.start(flows.receiving, count=4)
    sender = way.start(flows.sending, to=receiver, numbers=[1, 2, 3, 4])

    assert way.result(receiver) == [1, 2, 3, 4]
    assert way.result(sender) is None
    assert sorted(effects) == sorted([f"{did} {n}" for n in range(1, 5) for did in ("got", "sent")])


def test_an_async_flow_receives(way: Way) -> None:
    """By `async for`."""
    receiver = way.start(flows.receiving_async, count=3)
    way.start(flows.sending, to=receiver, numbers=[1, 2, 3])

    assert way.result(receiver) == [1, 2, 3]


def test_runs_answer_each_other(way: Way) -> None:
    """`respond` goes to the run that sent it."""
    squares = way.start(flows.squaring, count=2)
    asking = way.start(flows.asking_squares, of=squares, numbers=[2, 3])

    assert way.result(asking) == [4, 9]
    assert way.result(squares) is None


def test_messages_are_told_apart_by_prefix_and_type(way: Way) -> None:
    """A script may send, too."""
    run_id = way.start(flows.receiving_names, prefix="name")
    send_input(flows.Address(street="Mill Lane", number=3), flow_run_id=run_id)
    send_input("wrong", flow_run_id=run_id)
    send_input("right", flow_run_id=run_id, key_prefix="name", sender="me")
    announce_all(way)

    assert way.result(run_id) == ["right", "me", flows.Address(street="Mill Lane", number=3)]


def announce_all(way: Way) -> None:
    """Let a minute pass on the workers: what nobody announced is swept up."""
    if isinstance(way, OnWorker):
        way.driver.elapse(50.0)


def test_a_message_that_does_not_fit_raises_where_it_is_received(way: Way) -> None:
    """It is named, and not received again."""
    run_id = way.start(flows.receiving_wrong)
    send_input("no number", flow_run_id=run_id, key_prefix="x")
    send_input(5, flow_run_id=run_id, key_prefix="x")
    announce_all(way)

    said, then = way.result(run_id)
    assert "'value'" in said
    assert then == "5"


def test_receiving_ends_when_nothing_comes(way: Way) -> None:
    """After its timeout the iteration is over."""
    assert way.result(way.start(flows.receiving, count=3, timeout=0.05)) == []


def test_a_run_that_has_ended_takes_no_input(way: Way) -> None:
    """The sender is told so."""
    run_id = way.start(flows.receiving, count=0)
    way.result(run_id)

    with pytest.raises(IllegalTransition, match="it has ended"):
        send_input(1, flow_run_id=run_id)


def test_a_task_receives_for_its_run(way: Way) -> None:
    """It looks until something is there."""
    if isinstance(way, OnWorker):
        run_id = way.driver.submit(flows.receiving_below)
        send_input(7, flow_run_id=run_id)
    else:
        run_id = way.start(flows.receiving_below)
        send_input(7, flow_run_id=run_id)

    assert way.result(run_id) == 7


def test_what_was_sent_to_another_run_can_be_received(driver: Driver) -> None:
    """On a worker by looking again and again; it is taken once."""
    way = OnWorker(driver)
    other = way.start(flows.approving)
    run_id = way.start(flows.reading_anothers, of=other)
    send_input(7, flow_run_id=other)
    driver.elapse(30.0)

    assert way.result(run_id) == 7
    with pytest.raises(InputTimeout):
        receive_input(int, flow_run_id=other, timeout=0).next()


def test_a_wait_that_is_given_up_takes_no_message(driver: Driver) -> None:
    """One that comes afterwards is for the next who waits."""
    way = OnWorker(driver)
    run_id = way.start(flows.giving_up)
    wait_until(lambda: driver.step() or queries.read_flow_run(driver.database, run_id).pauses, "the pause")
    send_input(7, flow_run_id=run_id)
    way.resume(run_id)

    assert way.result(run_id) == [7]


def test_a_run_that_waits_for_a_message_is_cancelled(driver: Driver) -> None:
    """It holds nothing meanwhile."""
    way = OnWorker(driver)
    run_id = way.start(flows.receiving, count=1)
    assert driver.row(run_id)["phase"] == "WAITING"

    operations.cancel(driver.database, run_id, driver.carrier.announce)
    with pytest.raises(CancelledRun):
        way.result(run_id)


def test_a_script_sends_to_a_run_and_receives_what_is_sent_to_it(driver: Driver) -> None:
    """Outside of flows both name the run."""
    run_id = driver.submit(flows.receiving, count=1)
    with pytest.raises(MissingContextError, match="flow_run_id="):
        receive_input(int)
    send_input(3, flow_run_id=run_id)

    assert receive_input(int, flow_run_id=run_id, timeout=0).next() == 3
    with pytest.raises(InputTimeout):
        receive_input(int, flow_run_id=run_id, timeout=0).next()


def test_a_message_that_comes_as_the_flow_is_over_its_time_is_not_lost(driver: Driver, effects: list[str]) -> None:
    """The wait that was timed out does not take it."""
    way = OnWorker(driver)
    run_id = way.start(flows.receiving_late)
    driver.elapse(40)
    driver.settle()
    assert effects == ["late"]
    send_input(7, flow_run_id=run_id)
    driver.elapse(40)

    assert way.result(run_id) == [7]


def test_a_run_of_this_process_that_waits_for_a_message_is_cancelled(driver: Driver) -> None:
    """In a thread, where nothing can interrupt it."""
    settings.override(lease_seconds=0.6)
    way = Here(driver.database)
    run_id = way.start(flows.receiving, count=1)
    operations.cancel(driver.database, run_id)

    with pytest.raises(CancelledRun):
        way.result(run_id)


def test_a_model_that_cannot_be_imported_is_made_anew_in_each_replay(way: Way) -> None:
    """So it is of the class that the body knows."""
    run_id = way.start(flows.asking_a_nested_class)
    waiting(way, run_id)
    way.resume(run_id, {"approved": True})
    wait_until(lambda: waiting(way, run_id).pauses[0].schema is None, "the second pause")
    way.resume(run_id)

    assert way.result(run_id) is True


# -- deaths ------------------------------------------------------------------------------------------------------


def die_and_start_again(driver: Driver, write: int, after_commit: bool) -> None:
    """Go on until the worker dies at its n-th write, and let another take over."""
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with pytest.raises(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 19))
def test_messages_arrive_once_though_a_worker_dies_at_any_write(driver: Driver, write: int, after_commit: bool) -> None:
    """The sender's and the receiver's."""
    receiver = driver.submit(flows.receiving, count=3)
    sender = driver.submit(flows.sending, to=receiver, numbers=[1, 2, 3])
    die_and_start_again(driver, write, after_commit)

    assert driver.finish(receiver).result() == [1, 2, 3]
    assert driver.finish(sender).result() is None
    assert list(receive_input(int, flow_run_id=receiver, timeout=0)) == []


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 6))
def test_an_answer_is_judged_right_though_a_worker_dies_at_any_write(
    driver: Driver, effects: list[str], write: int, after_commit: bool
) -> None:
    """Refused and asked again, whichever write it was."""
    way = OnWorker(driver)
    run_id = way.start(flows.picky)
    operations.resume(driver.database, run_id, driver.carrier.announce, run_input={"n": 3})
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with contextlib.suppress(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)
    driver.settle()
    way.resume(run_id, {"n": 4})
    way.resume(run_id)

    assert way.result(run_id) == 4


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", [1, 2])
def test_a_body_resumes_another_run_once_though_it_dies(driver: Driver, write: int, after_commit: bool) -> None:
    """What it did before it died is not refused when it is done again."""
    way = OnWorker(driver)
    other = way.start(flows.approving)
    run_id = driver.submit(flows.resuming, other=other)
    die_and_start_again(driver, write, after_commit)
    driver.settle()
    driver.elapse(10)

    assert way.result(run_id) == "resumed"
    assert way.result(other)[1] is True


def test_initial_data_keeps_what_else_is_said_of_a_field() -> None:
    """Its limits and its description."""
    made = flows.Limited.with_initial_data("Say it", text="abc")
    assert made.model_json_schema()["properties"]["text"] == {
        "default": "abc",
        "description": "What is said.",
        "maxLength": 5,
        "title": "Text",
        "type": "string",
    }


def test_initial_data_is_for_fields_that_are_there() -> None:
    """A slip of the pen is told at once."""
    with pytest.raises(DefinitionError, match="no field 'aproved'"):
        flows.Approval.with_initial_data(aproved=True)


def test_what_was_made_here_has_no_metadata() -> None:
    """And nobody to respond to."""
    made: RunInput = flows.Number(n=1)
    with pytest.raises(MissingContextError, match="not received"):
        made.respond(made)
