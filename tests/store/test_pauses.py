"""A run that was paused from outside: nothing of it is started until it is resumed, and all of it is then."""

from __future__ import annotations

import pytest

from orchestra.errors import IllegalTransition
from orchestra.store import claims, due, interventions, runs, settle, waits
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.interventions import NONDETERMINISTIC
from orchestra.store.waits import Park
from tests.store.test_races import BAD, DONE, announced, claimed, dispatch, key, lapse, new_run, row, task, window


def shown(database: Database, run: Claim) -> tuple[str, str]:
    """What people see of a run."""
    found = row(database, run)
    return found["state_type"], found["state_name"]


def start(database: Database, run: Claim, number: int) -> bool:
    """Whether a message of that task starts it."""
    return claims.claim_step(database, run.run_id, 1, key(number)) is not None


def test_no_task_of_a_paused_run_is_started(database: Database) -> None:
    """Neither one that was announced, nor one that becomes READY meanwhile, nor one whose worker died."""
    run = new_run(database)
    dispatch(database, run, task(0), task(1), task(2), task(3, key(1)))
    running, dying = claimed(database, run, 1, 2)
    interventions.hold(database, run.run_id)
    settle.complete(database, running, DONE)
    lapse(database, dying)

    assert [start(database, run, number) for number in (0, 2, 3)] == [False] * 3


def test_the_sweeper_announces_nothing_of_a_paused_run(database: Database) -> None:
    """Its rows are not owed until it is resumed."""
    run = new_run(database)
    dispatch(database, run, task(0), task(1))
    (dying,) = claimed(database, run, 1)
    assert waits.park(database, run, Park(None), window=window).parked
    lapse(database, dying)
    interventions.hold(database, run.run_id)
    assert due.take_due(database) == []

    interventions.resume(database, run.run_id)
    assert announced([due.take_due(database)]) == [key(1)]


def test_resume_announces_what_was_held_back(database: Database) -> None:
    """Also what became READY meanwhile; each task starts then."""
    run = new_run(database)
    dispatch(database, run, task(0), task(1), task(2, key(1)))
    (running,) = claimed(database, run, 1)
    assert waits.park(database, run, Park(None), window=window).parked
    interventions.hold(database, run.run_id)
    settle.complete(database, running, DONE)

    assert sorted(announced([interventions.resume(database, run.run_id)])) == [key(0), key(2)]
    assert start(database, run, 0)
    assert start(database, run, 2)


def test_a_run_paused_while_a_segment_holds_it_shows_so(database: Database) -> None:
    """After the segment's next park, too."""
    run = new_run(database)
    dispatch(database, run, task(0))
    interventions.hold(database, run.run_id)
    assert waits.park(database, run, Park(None), window=window).parked
    assert shown(database, run) == ("PAUSED", "Paused")

    interventions.resume(database, run.run_id)
    assert shown(database, run) == ("RUNNING", "Waiting")


def test_a_paused_run_whose_body_fails_is_not_retried_before_it_is_resumed(database: Database) -> None:
    """Its next attempt waits."""
    run = new_run(database)
    interventions.hold(database, run.run_id)
    runs.reopen(database, run, delay=0.0, message="no", window=window)
    assert claims.claim_run(database, run.run_id) is None
    assert shown(database, run) == ("PAUSED", "Paused")

    interventions.resume(database, run.run_id)
    assert claims.claim_run(database, run.run_id) is not None


def test_a_run_that_waits_for_mended_code_is_not_paused(database: Database) -> None:
    """The error says what to do, and `retry` still lets it go on."""
    run = new_run(database)
    interventions.hold_claimed(database, run, NONDETERMINISTIC, "NonDeterministic", "other code")

    with pytest.raises(IllegalTransition, match=r"NonDeterministic; it cannot be paused.* retry it, or cancel it"):
        interventions.hold(database, run.run_id)
    interventions.retry(database, run.run_id)
    assert claims.claim_run(database, run.run_id) is not None


def test_pausing_twice_is_pausing_once(database: Database) -> None:
    """One resume is enough."""
    run = new_run(database)
    dispatch(database, run, task(0))
    interventions.hold(database, run.run_id)
    interventions.hold(database, run.run_id)
    interventions.resume(database, run.run_id)

    (claim,) = claimed(database, run, 0)
    settle.complete(database, claim, BAD)
