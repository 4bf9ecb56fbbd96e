"""Two and more connections at once, on both databases: who wins, and that nothing is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import serializers
from orchestra.errors import CancelRequested, ClaimLost, IllegalTransition
from orchestra.graph import Edge
from orchestra.states import StateType
from orchestra.store import claims, due, interventions, journal, runs, settle, waits
from orchestra.store.announcements import Announcement
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.journal import Ending, NewStep
from orchestra.store.tables import Kind, Phase, flow_runs, joins, steps
from orchestra.store.waits import Park

pytestmark = pytest.mark.slow

DONE = Ending(StateType.COMPLETED, "Completed", result=serializers.encode(1))
BAD = Ending(StateType.FAILED, "Failed", "no", serializers.encode_exception(ValueError("no"))[0])


def race(*works: Callable[[], Any], spread: float = 0.002) -> list[Any]:
    """Do all at once, each in a thread, a random moment apart; gives what each returned or raised."""
    results: list[Any] = [None] * len(works)
    barrier = threading.Barrier(len(works))
    first = random.randrange(len(works))

    def run(number: int) -> None:
        pause = 0.0 if number == first else random.uniform(0, spread)
        barrier.wait()
        time.sleep(pause)
        try:
            results[number] = works[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def rounds(database: Database, most: int) -> int:
    """How often to race: on SQLite, where writers come one after the other anyway, less often."""
    return most if database.dialect == "postgresql" else max(most // 3, 2)


def window(queue: str) -> int:
    """The least window."""
    return 16


def new_run(database: Database) -> Claim:
    """A run of its own, claimed."""
    new = runs.NewRun(flow_name="etl", path="m:etl", name="a", parameters=serializers.encode({}), queue="q")
    runs.create(database, new)
    claimed = claims.claim_run(database, new.id)
    assert claimed is not None
    return claimed.claim


def task(number: int, *upstreams: Edge | str) -> NewStep:
    """A submitted task, with edges to others."""
    edges = tuple(Edge(each) if isinstance(each, str) else each for each in upstreams)
    return NewStep(key(number), "main", number, number, Kind.TASK, f"t-{number}", "m:t", queue="q", edges=edges)


def key(number: int) -> str:
    """The step key of `task(number)`."""
    return f"main/t-{number}"


def dispatch(database: Database, run: Claim, *new: NewStep) -> list[Announcement]:
    """Write submitted tasks."""
    return journal.record(database, run, new, window=window, dispatched=True)


def claimed(database: Database, run: Claim, *numbers: int) -> list[Claim]:
    """Claims on these tasks."""
    found = [claims.claim_step(database, run.run_id, 1, key(number)) for number in numbers]
    assert all(found)
    return [each.claim for each in found if each is not None]


def completing(database: Database, claim: Claim, ending: Ending = DONE) -> Callable[[], list[Announcement]]:
    """Ends a task, when called."""
    return lambda: settle.complete(database, claim, ending)


def row(database: Database, run: Claim) -> Any:
    """The run's row."""
    return runs.read(database, run.run_id)


def phases(database: Database, run: Claim) -> dict[str, tuple[str, str]]:
    """Phase and state name of each step."""
    return {step.key: (step.phase, step.state_name) for step in journal.load(database, run.run_id, 1)}


def announced(results: Sequence[Any], kind: str = "step") -> list[str]:
    """What these results say is to be announced; none of them may be an error."""
    assert not [each for each in results if isinstance(each, Exception)]
    return [each.step_key or each.run_id for found in results for each in found if each.kind == kind]


def lapse(database: Database, *claims_: Claim) -> None:
    """Let these claims' leases lapse."""
    for claim in claims_:
        table, name = (flow_runs, flow_runs.c.id) if claim.kind == "flow" else (steps, steps.c.run_id)
        where = [name == claim.run_id] + ([steps.c.step_key == claim.step_key] if claim.step_key else [])
        statement = sa.update(table).where(*where).values(lease_until=1.0, announce_at=1.0)
        database.write(lambda connection, statement=statement: connection.execute(statement).rowcount)


# -- claims -------------------------------------------------------------------------------------------------------


def test_one_of_many_claimers_wins(database: Database) -> None:
    """Of a run and of a step, READY or lapsed; each claim has a number of its own."""
    for _ in range(rounds(database, 15)):
        run = new_run(database)
        dispatch(database, run, task(0))
        lapse(database, run)
        runs_ = race(*[lambda run=run: claims.claim_run(database, run.run_id)] * 4)
        steps_ = race(*[lambda run=run: claims.claim_step(database, run.run_id, 1, key(0))] * 4)
        (winner,) = [each for each in steps_ if each]
        lapse(database, winner.claim)
        again = race(*[lambda run=run: claims.claim_step(database, run.run_id, 1, key(0))] * 4)

        assert [each.claim.number for each in runs_ if each] == [2]
        assert [each.claim.number for each in again if each] == [2]


def test_the_late_write_of_a_lapsed_claim_is_refused(database: Database) -> None:
    """Once another claim was made; of two ends at the same time one counts."""
    for _ in range(rounds(database, 15)):
        run = new_run(database)
        dispatch(database, run, task(0))
        (late,) = claimed(database, run, 0)
        lapse(database, late)
        (present,) = claimed(database, run, 0)

        results = race(completing(database, late, BAD), completing(database, present))
        assert isinstance(results[0], ClaimLost)
        assert phases(database, run) == {key(0): (Phase.DONE, "Completed")}


def test_a_lapsed_claim_that_nobody_took_over_still_counts(database: Database) -> None:
    """A lapsed lease revokes nothing until another claim is made; here they race."""
    for _ in range(rounds(database, 30)):
        run = new_run(database)
        dispatch(database, run, task(0))
        (late,) = claimed(database, run, 0)
        lapse(database, late)

        done, taken = race(
            completing(database, late), lambda run=run: claims.claim_step(database, run.run_id, 1, key(0))
        )
        assert isinstance(done, ClaimLost) == (taken is not None)


def test_a_renewal_tells_who_lost(database: Database) -> None:
    """And keeps what still holds."""
    run = new_run(database)
    dispatch(database, run, task(0), task(1))
    lost, kept = claimed(database, run, 0, 1)
    lapse(database, lost)
    claimed(database, run, 0)

    claims.renew(database, [lost, kept])
    assert (lost.lost, kept.lost) == (True, False)


def test_a_renewal_waits_for_one_row_and_holds_no_other(database: Database) -> None:
    """In whatever order it takes claims, it is never in a circle with a park that locks the same rows."""
    if database.dialect != "postgresql":
        pytest.skip("SQLite has one writer")
    run = new_run(database)
    dispatch(database, run, task(0), task(1))
    first, second = claimed(database, run, 0, 1)
    renewing = threading.Thread(target=lambda: claims.renew(database, [second, first]))

    def lock(connection: Any, number: int) -> Any:
        query = sa.select(steps.c.step_key).where(steps.c.run_id == run.run_id, steps.c.step_key == key(number))
        return connection.execute(query.with_for_update(nowait=True)).scalar()

    def work(connection: Any) -> Any:
        lock(connection, 0)
        renewing.start()
        # Until the renewal waits for this transaction's row, or (as it should not) holds the other one for it.
        waits_ = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while not connection.scalar(waits_):
            pass
        return lock(connection, 1)

    assert database.write(work) == key(1)
    renewing.join()
    assert (first.lost, second.lost) == (False, False)


# -- completion and park ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True], ids=["all of them", "the first of them"])
def test_completions_beside_a_park_never_lose_the_wake_up(database: Database, first: bool) -> None:
    """A run that has parked is READY once what it needs has ended, however the transactions interleave."""
    parked_rounds = 0
    for _ in range(rounds(database, 120)):
        run = new_run(database)
        dispatch(database, run, task(0), task(1))
        a, b = claimed(database, run, 0, 1)
        wanted = Park((key(0), key(1)), 1 if first else 2)

        parking, *ends = race(
            lambda run=run, wanted=wanted: waits.park(database, run, wanted, window=window),
            completing(database, a),
            completing(database, b),
        )
        woken = announced(ends, "flow")
        phase = row(database, run)["phase"]
        assert phase == (Phase.READY if parking.parked else Phase.CLAIMED)
        assert bool(woken) == parking.parked
        parked_rounds += parking.parked
    assert parked_rounds


def test_a_dispatch_beside_the_end_of_its_upstream_loses_nothing(database: Database) -> None:
    """The dependent is READY at once, or made READY by the end; never both, never neither."""
    for _ in range(rounds(database, 60)):
        run = new_run(database)
        dispatch(database, run, task(0), task(1))
        a, b = claimed(database, run, 0, 1)

        results = race(
            lambda run=run: dispatch(database, run, task(2, key(0), key(1))),
            completing(database, a),
            completing(database, b),
        )
        assert announced(results) == [key(2)]
        assert phases(database, run)[key(2)][0] == Phase.READY


def test_a_dispatch_beside_the_failure_of_its_upstream_fails_too(database: Database) -> None:
    """It ends as UpstreamFailed, whichever comes first."""
    for _ in range(rounds(database, 40)):
        run = new_run(database)
        dispatch(database, run, task(0))
        (a,) = claimed(database, run, 0)

        results = race(
            lambda run=run: dispatch(database, run, task(1, key(0)), task(2, key(1))), completing(database, a, BAD)
        )
        assert announced(results) == []
        assert [phases(database, run)[key(n)] for n in (1, 2)] == [(Phase.DONE, "UpstreamFailed")] * 2


# -- joins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "threads", "times"), [(2, 2, 60), (6, 6, 15), (130, 5, 2)])
def test_concurrent_ends_make_dependents_ready_once(database: Database, members: int, threads: int, times: int) -> None:
    """Also across the stripes of a large join."""
    for _ in range(rounds(database, times)):
        run = new_run(database)
        upstreams = [key(number) for number in range(members)]
        dispatch(database, run, *map(task, range(members)))
        dispatch(database, run, task(members, *upstreams), task(members + 1, *upstreams))
        made = claimed(database, run, *range(members))
        random.shuffle(made)

        def end(part: list[Claim]) -> list[Announcement]:
            return [each for claim in part for each in settle.complete(database, claim, DONE)]

        results = race(*[lambda part=made[n::threads]: end(part) for n in range(threads)])
        ready = [name for name in announced(results) if name not in upstreams]
        assert sorted(ready) == sorted([key(members), key(members + 1)])


def test_failures_cascade_once(database: Database) -> None:
    """Dependents of several failing upstreams end once; the parked run wakes when all are done."""
    for _ in range(rounds(database, 25)):
        run = new_run(database)
        dispatch(database, run, *map(task, range(3)))
        dispatch(database, run, task(3, key(0), key(1)), task(4, key(1), key(2)), task(5, key(3), key(4)))
        made = claimed(database, run, 0, 1, 2)
        parking = waits.park(database, run, Park(None), window=window)
        assert parking.parked

        results = race(*[completing(database, claim, BAD) for claim in made])
        assert announced(results) == []
        assert announced(results, "flow") == [run.run_id]
        assert [phases(database, run)[key(n)] for n in (3, 4, 5)] == [(Phase.DONE, "UpstreamFailed")] * 3
        assert (row(database, run)["phase"], row(database, run)["wait_open"]) == (Phase.READY, 0)


def test_a_lenient_dependent_waits_for_all_and_runs(database: Database) -> None:
    """Failures are counted, too, where they are allowed."""
    for _ in range(rounds(database, 15)):
        run = new_run(database)
        dispatch(database, run, task(0), task(1))
        dispatch(database, run, task(2, Edge(key(0), strict=False), Edge(key(1), strict=False)))
        a, b = claimed(database, run, 0, 1)

        results = race(completing(database, a, BAD), completing(database, b))
        assert announced(results) == [key(2)]


# -- waves --------------------------------------------------------------------------------------------------------


def test_each_end_announces_the_next_of_its_wave(database: Database) -> None:
    """All rows are announced, each once, and never more than the window at a time."""
    run = new_run(database)
    size = 60
    first = dispatch(database, run, *map(task, range(size)))
    assert len(first) == 16
    open_ = [each.step_key or "" for each in first]
    seen = set(open_)

    while open_:
        assert len(open_) <= 16
        batch, open_ = open_[:4], open_[4:]
        made = claimed(database, run, *[int(name.rpartition("-")[2]) for name in batch])
        fresh = announced(race(*[completing(database, claim, random.choice([DONE, BAD])) for claim in made]))
        assert not seen.intersection(fresh)
        seen.update(fresh)
        open_ += fresh
    assert len(seen) == size


def test_the_sweeper_starts_a_wave_that_stands_still(database: Database) -> None:
    """Of a wave of which nothing is announced, the oldest are."""
    run = new_run(database)
    dispatch(database, run, *map(task, range(40)))
    for claim in claimed(database, run, *range(16)):
        statement = sa.update(steps).where(steps.c.step_key == claim.step_key).values(phase=Phase.DONE)
        database.write(lambda connection, statement=statement: connection.execute(statement).rowcount)

    assert [each.step_key for each in due.recount(database)] == [key(n) for n in range(16, 32)]
    assert due.recount(database) == []


# -- cancel -------------------------------------------------------------------------------------------------------


def test_cancel_beside_completion_gives_each_step_one_end(database: Database) -> None:
    """A task that was claimed ends as it does; others are CANCELLED; the run is due for its last segment."""
    for _ in range(rounds(database, 40)):
        run = new_run(database)
        dispatch(database, run, task(0), task(1), task(2, key(0)))
        (a,) = claimed(database, run, 0)
        assert waits.park(database, run, Park((key(2),)), window=window).parked

        cancelled, done = race(
            lambda run=run: interventions.cancel(database, run.run_id), completing(database, a), spread=0.004
        )
        assert not isinstance(cancelled, Exception)
        assert not isinstance(done, Exception)
        found = phases(database, run)
        assert found[key(0)] == (Phase.DONE, "Completed")
        assert found[key(1)] == found[key(2)] == (Phase.DONE, "Cancelled")
        assert (row(database, run)["phase"], row(database, run)["state_type"]) == (Phase.READY, "CANCELLING")


def test_cancel_beside_a_park_is_noticed(database: Database) -> None:
    """Either the park is told, or the parked run is due for its last segment."""
    for _ in range(rounds(database, 40)):
        run = new_run(database)
        dispatch(database, run, task(0))

        cancelled, _ = race(
            lambda run=run: interventions.cancel(database, run.run_id),
            lambda run=run: waits.park(database, run, Park((key(0),)), window=window),
            spread=0.004,
        )
        assert not isinstance(cancelled, Exception)
        found = row(database, run)
        assert found["state_type"] == "CANCELLING"
        assert found["phase"] in (Phase.READY, Phase.CLAIMED)


def test_a_cancelled_run_whose_heartbeat_knows_it_starts_nothing(database: Database) -> None:
    """Also where it learned it after the body last asked; it may still wait for its running steps to end."""
    run = new_run(database)
    dispatch(database, run, task(0))
    claimed(database, run, 0)
    interventions.cancel(database, run.run_id)
    claims.renew(database, [run])
    assert run.cancelled

    for going_on in (
        lambda: dispatch(database, run, task(1)),
        lambda: waits.park(database, run, Park((key(0), key(1))), [task(1)], window=window),
    ):
        with pytest.raises(CancelRequested):
            going_on()
    assert list(phases(database, run)) == [key(0)]
    assert waits.park(database, run, Park(None, ending=True), window=window).parked


def test_cancel_beside_the_end_of_the_run_gives_one_final_state(database: Database) -> None:
    """Who comes first decides: the run has ended, or its end is told that it is cancelled."""
    for _ in range(rounds(database, 40)):
        run = new_run(database)

        cancelled, ended = race(
            lambda run=run: interventions.cancel(database, run.run_id),
            lambda run=run: runs.finish(database, run, DONE, [], window=window),
            spread=0.004,
        )
        found = row(database, run)
        if isinstance(cancelled, IllegalTransition):
            assert not isinstance(ended, Exception)
            assert (found["phase"], found["state_type"]) == (Phase.DONE, "COMPLETED")
        else:
            assert not isinstance(cancelled, Exception)
            assert found["state_type"] in ("CANCELLING", "COMPLETED")
            assert (found["phase"] == Phase.DONE) == (found["state_type"] == "COMPLETED")


def test_two_cancels_at_once_are_one(database: Database) -> None:
    """Of a tree of runs."""
    for _ in range(rounds(database, 10)):
        run = new_run(database)
        dispatch(database, run, *map(task, range(4)))
        assert waits.park(database, run, Park(None), window=window).parked

        results = race(*[lambda run=run: interventions.cancel(database, run.run_id)] * 3)
        assert not [each for each in results if isinstance(each, Exception)]
        assert {state for _, state in phases(database, run).values()} == {"Cancelled"}


def test_resume_beside_the_end_of_its_time_ends_a_pause_once(database: Database) -> None:
    """The person was in time, or not."""
    for _ in range(rounds(database, 30)):
        run = new_run(database)
        pause = NewStep("main/pause-0", "main", 0, 0, Kind.PAUSE, "pause-0")
        assert waits.park(database, run, Park(("main/pause-0",)), [pause], window=window).parked

        resumed, over = race(
            lambda run=run: interventions.resume(database, run.run_id), lambda: due.complete_due(database)
        )
        assert not isinstance(over, Exception)
        state = phases(database, run)["main/pause-0"]
        assert state == (Phase.DONE, "TimedOut" if isinstance(resumed, IllegalTransition) else "Completed")
        assert row(database, run)["phase"] == Phase.READY


# -- counters -----------------------------------------------------------------------------------------------------


def falsify(database: Database, table: sa.Table, **values: Any) -> None:
    """Write wrong numbers into all rows of a table."""
    database.write(lambda connection: connection.execute(sa.update(table).values(**values)).rowcount)


def test_a_wrong_wait_is_counted_again(database: Database) -> None:
    """A parked run whose counters say that it must go on waiting is made READY by the sweeper."""
    run = new_run(database)
    dispatch(database, run, task(0), task(1))
    (a,) = claimed(database, run, 0)
    assert waits.park(database, run, Park((key(0),)), window=window).parked
    falsify(database, flow_runs, wait_open=7, wait_needed=5)
    settle.complete(database, a, DONE)
    assert row(database, run)["phase"] == Phase.WAITING

    assert [each.kind for each in due.recount(database)] == ["flow"]
    assert row(database, run)["phase"] == Phase.READY


@pytest.mark.parametrize(("ending", "expected"), [(DONE, Phase.READY), (BAD, Phase.DONE)])
def test_a_join_that_counts_too_many_is_counted_again(database: Database, ending: Ending, expected: Phase) -> None:
    """Its dependents go on, or fail, as their upstreams say."""
    run = new_run(database)
    dispatch(database, run, task(0), task(1, key(0)))
    (a,) = claimed(database, run, 0)
    falsify(database, joins, remaining=9)
    settle.complete(database, a, DONE)
    assert phases(database, run)[key(1)][0] == Phase.WAITING
    if ending is BAD:
        falsify_end = (
            sa.update(steps)
            .where(steps.c.step_key == key(0))
            .values(state_type="FAILED", state_name="Failed", state_message="ValueError: no")
        )
        database.write(lambda connection: connection.execute(falsify_end).rowcount)

    due.recount(database)
    assert phases(database, run)[key(1)][0] == expected
    if ending is BAD:
        told = sa.select(steps.c.state_message).where(steps.c.step_key == key(1))
        assert f"{key(0)!r} did not succeed: ValueError: no" in database.read(lambda c: c.scalar(told))


def test_a_join_that_counts_too_few_starts_nothing_early(database: Database) -> None:
    """A dependent starts when all its upstreams have ended, whatever the counter says."""
    run = new_run(database)
    dispatch(database, run, task(0), task(1), task(2, key(0), key(1)))
    a, b = claimed(database, run, 0, 1)
    falsify(database, joins, remaining=1)

    assert announced([settle.complete(database, a, DONE)]) == []
    assert phases(database, run)[key(2)][0] == Phase.WAITING
    settle.complete(database, b, DONE)
    due.recount(database)
    assert phases(database, run)[key(2)][0] == Phase.READY


def test_two_sweepers_mend_the_same_once(database: Database) -> None:
    """Each row is checked again in the transaction that changes it."""
    for _ in range(rounds(database, 15)):
        run = new_run(database)
        dispatch(database, run, task(0), task(1, key(0)))
        (a,) = claimed(database, run, 0)
        falsify(database, joins, remaining=9)
        settle.complete(database, a, DONE)

        assert announced(race(*[lambda: due.recount(database)] * 3)) == [key(1)]
