"""Answers and messages on both databases: who wins where two act at once, and that each message is taken once."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from orchestra import serializers
from orchestra.errors import FlowRunNotFound, IllegalTransition
from orchestra.questions import Message, Pause, Question, Receive
from orchestra.states import StateType
from orchestra.store import claims, due, inputs, interventions, journal, removal, runs, waits
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.journal import Ending, NewStep
from orchestra.store.tables import Kind, Phase
from orchestra.store.waits import Park
from tests.store.test_races import new_run, phases, race, rounds, row, window

WANTED = Receive(60.0, ("n",))


def message(run: Claim, value: Any, prefix: str = "n", token: str | None = None) -> Message:
    """Something sent to a run."""
    key = f"{prefix}-{uuid.uuid4()}"
    content = serializers.encode({"value": value, "key": key, "sender": None})
    return Message(run.run_id, prefix, key, content, token)


def pause_key(number: int) -> str:
    """The step key of a pause."""
    return f"main/pause-{number}"


def paused(database: Database, *, delay: float = 60.0) -> Claim:
    """A run of its own that waits for input."""
    run = new_run(database)
    step = NewStep(pause_key(0), "main", 0, 0, Kind.PAUSE, "pause-0", delay=delay)
    step.inputs = Question(None, {"type": "object"}).encoded()
    assert waits.park(database, run, Park((pause_key(0),)), [step], window=window).parked
    return run


def answer(value: Any) -> dict[str, bytes]:
    """What the pause is given."""
    return {pause_key(0): serializers.encode(value)}


def ask(database: Database, run: Claim, *numbers: int, wanted: Receive = WANTED) -> None:
    """Write steps of a claimed run that wait for messages."""
    new = [NewStep(receive_key(n), "main", n, n, Kind.INPUT, f"receive-{n}", delay=wanted.timeout) for n in numbers]
    for step in new:
        step.inputs = wanted.encoded()
    inputs.ask(database, run, new, window=window)


def receive_key(number: int) -> str:
    """The step key of a wait for a message."""
    return f"main/receive-{number}"


def results(database: Database, run: Claim) -> dict[str, Any]:
    """What the steps of a run that have ended well were given, by key; of messages the value."""
    found = {}
    for step in journal.load(database, run.run_id, 1):
        if step.state_type == StateType.COMPLETED and step.result is not None:
            given = serializers.decode(step.result)
            found[step.key] = given["value"] if step.kind == Kind.INPUT else given
    return found


# -- answers -----------------------------------------------------------------------------------------------------


def test_of_two_answers_at_once_one_is_taken(database: Database) -> None:
    """The other is told that the run is not paused; which one it was, the journal says."""
    for _ in range(rounds(database, 30)):
        run = paused(database)

        tried = race(
            *(lambda n=n, run=run: interventions.resume(database, run.run_id, answer(n)) for n in range(2))  # type: ignore[misc]
        )
        refused = [n for n, found in enumerate(tried) if isinstance(found, IllegalTransition)]
        assert len(refused) == 1
        assert results(database, run) == {pause_key(0): 1 - refused[0]}
        assert row(database, run)["phase"] == Phase.READY


def test_an_answer_beside_the_end_of_its_time_is_taken_or_refused(database: Database) -> None:
    """Who was told that the run goes on was in time."""
    for _ in range(rounds(database, 30)):
        run = paused(database, delay=0.0)

        resumed, over = race(
            lambda run=run: interventions.resume(database, run.run_id, answer(1)), lambda: due.complete_due(database)
        )
        assert not isinstance(over, Exception)
        in_time = not isinstance(resumed, IllegalTransition)
        assert phases(database, run)[pause_key(0)] == (Phase.DONE, "Completed" if in_time else "TimedOut")
        assert row(database, run)["phase"] == Phase.READY


def test_an_answer_beside_a_cancel_loses_neither(database: Database) -> None:
    """The run is being cancelled, and the answer was in time or is refused."""
    for _ in range(rounds(database, 30)):
        run = paused(database)

        resumed, cancelled = race(
            lambda run=run: interventions.resume(database, run.run_id, answer(1)),
            lambda run=run: interventions.cancel(database, run.run_id),
        )
        assert not isinstance(cancelled, Exception)
        in_time = not isinstance(resumed, IllegalTransition)
        assert phases(database, run)[pause_key(0)] == (Phase.DONE, "Completed" if in_time else "Cancelled")
        assert (row(database, run)["state_name"], row(database, run)["phase"]) == ("Cancelling", Phase.READY)


def test_a_resume_without_an_answer_leaves_what_asks_for_one(database: Database) -> None:
    """Where the run was paused from outside as well, only that is lifted."""
    run = paused(database)
    with pytest.raises(IllegalTransition):
        interventions.resume(database, run.run_id)
    interventions.hold(database, run.run_id)

    interventions.resume(database, run.run_id)
    assert (row(database, run)["held"], row(database, run)["phase"]) == (None, Phase.WAITING)
    assert len(interventions.open_pauses(database, run.run_id)[1]) == 1


# -- messages ----------------------------------------------------------------------------------------------------


def test_messages_are_given_in_the_order_of_their_arrival(database: Database) -> None:
    """To the steps in the order of asking, before or after they are asked for."""
    run = new_run(database)
    for n in range(3):
        inputs.send(database, message(run, n))
    ask(database, run, 0, 1, 2, 3)
    inputs.send(database, message(run, 3))

    assert results(database, run) == {receive_key(n): n for n in range(4)}


def test_a_message_wakes_a_parked_run(database: Database) -> None:
    """Its sender is told to announce it."""
    run = new_run(database)
    ask(database, run, 0)
    assert waits.park(database, run, Park((receive_key(0),)), window=window).parked

    assert [each.run_id for each in inputs.send(database, message(run, 1))] == [run.run_id]
    assert claims.claim_run(database, run.run_id) is not None


def test_only_what_is_wanted_is_given(database: Database) -> None:
    """By prefix; the rest waits."""
    run = new_run(database)
    ask(database, run, 0)
    inputs.send(database, message(run, "x", prefix="other"))
    inputs.send(database, message(run, 1))

    assert results(database, run) == {receive_key(0): 1}
    assert inputs.take(database, run.run_id, Receive(0.0, ("other",)), "me") is not None


def test_a_repeated_sending_is_one_message(database: Database) -> None:
    """Under the same token."""
    run = new_run(database)
    for n in range(2):
        inputs.send(database, message(run, n, token="run/step"))
    ask(database, run, 0, 1)

    assert results(database, run) == {receive_key(0): 0}


def test_two_sendings_at_once_fill_two_waits(database: Database) -> None:
    """Each message is given once, and none is lost beside the step that waits for it."""
    for _ in range(rounds(database, 30)):
        run = new_run(database)

        tried = race(
            lambda run=run: inputs.send(database, message(run, 1)),
            lambda run=run: inputs.send(database, message(run, 2)),
            lambda run=run: ask(database, run, 0, 1),
        )
        assert not [each for each in tried if isinstance(each, Exception)]
        assert sorted(results(database, run).values()) == [1, 2]


def test_a_sending_beside_a_park_wakes_the_run(database: Database) -> None:
    """Or the run does not park."""
    for _ in range(rounds(database, 30)):
        run = new_run(database)
        ask(database, run, 0)

        sent, parking = race(
            lambda run=run: inputs.send(database, message(run, 1)),
            lambda run=run: waits.park(database, run, Park((receive_key(0),)), window=window),
        )
        assert not isinstance(sent, Exception)
        assert row(database, run)["phase"] == (Phase.READY if parking.parked else Phase.CLAIMED)


def test_two_takers_at_once_take_different_messages(database: Database) -> None:
    """And the same taker gets its own again."""
    for _ in range(rounds(database, 15)):
        run = new_run(database)
        for n in range(2):
            inputs.send(database, message(run, n))

        taken = race(
            *(lambda n=n, run=run: inputs.take(database, run.run_id, WANTED, f"{run.run_id}/{n}") for n in range(2))  # type: ignore[misc]
        )
        assert sorted(serializers.decode(each)["value"] for each in taken) == [0, 1]
        assert inputs.take(database, run.run_id, WANTED, f"{run.run_id}/0") == taken[0]
        assert inputs.take(database, run.run_id, WANTED, "another") is None


def test_a_wait_that_is_given_up_gives_its_message_back(database: Database) -> None:
    """To the next step that waits."""
    run = new_run(database)
    ask(database, run, 0)
    inputs.send(database, message(run, 1))
    inputs.give_up(database, run, receive_key(0), [], window=window)
    ask(database, run, 1)

    assert results(database, run) == {receive_key(1): 1}
    assert phases(database, run)[receive_key(0)] == (Phase.DONE, "Cancelled")


def test_a_message_beside_the_end_of_the_time_to_wait_is_not_lost(database: Database) -> None:
    """It was in time, or waits for the next step."""
    for _ in range(rounds(database, 30)):
        run = new_run(database)
        ask(database, run, 0, wanted=Receive(0.0, ("n",)))
        assert waits.park(database, run, Park((receive_key(0),)), window=window).parked

        tried = race(lambda run=run: inputs.send(database, message(run, 1)), lambda: due.complete_due(database))
        assert not [each for each in tried if isinstance(each, Exception)]
        in_time = results(database, run) == {receive_key(0): 1}
        left = inputs.take(database, run.run_id, WANTED, "next")
        assert (left is None) == in_time


def test_a_message_beside_a_cancel_breaks_neither(database: Database) -> None:
    """The step has the message, or is cancelled."""
    for _ in range(rounds(database, 30)):
        run = new_run(database)
        ask(database, run, 0)
        assert waits.park(database, run, Park((receive_key(0),)), window=window).parked

        tried = race(
            lambda run=run: inputs.send(database, message(run, 1)),
            lambda run=run: interventions.cancel(database, run.run_id),
        )
        assert not [each for each in tried if isinstance(each, Exception)]
        has_it = results(database, run) == {receive_key(0): 1}
        assert phases(database, run)[receive_key(0)] == (Phase.DONE, "Completed" if has_it else "Cancelled")
        assert row(database, run)["state_name"] == "Cancelling"


def test_nobody_sends_to_a_run_that_is_not_there_or_has_ended(database: Database) -> None:
    """A sending that was done before is no error all the same."""
    run = new_run(database)
    once = message(run, 1, token="run/step")
    inputs.send(database, once)
    runs.finish(database, run, Ending(StateType.COMPLETED, "Completed"), [], window=window)

    assert inputs.send(database, once) == []
    with pytest.raises(IllegalTransition):
        inputs.send(database, message(run, 1))
    removal.delete(database, run.run_id)
    with pytest.raises(FlowRunNotFound):
        inputs.send(database, message(run, 1))


def test_what_a_pause_asks_for_comes_back_as_it_was() -> None:
    """By way of the journal; one that asks for nothing takes no room."""
    asked = Question("a", {"type": "object"}, "May it?", True, "no")

    assert Question.decoded(asked.encoded()) == asked
    assert Pause(Question(), 1.0).question.encoded() is None
