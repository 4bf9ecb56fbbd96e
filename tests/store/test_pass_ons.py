"""Outcomes owed to canvases: each is passed on when its run has ended, by one at a time, until it is paid."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from orchestra import serializers, settings
from orchestra.errors import FlowRunNotFound
from orchestra.store import claims, interventions, pass_ons, runs, unsent
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.pass_ons import PassOn
from orchestra.store.tables import flow_runs
from orchestra.store.tables import pass_ons as table
from tests.helpers import wait_until
from tests.store.test_races import DONE, race, rounds, window

#: What a run stands for.
OWED = PassOn("celery-id", serializers.encode({"chain": []}))


def unclaimed(database: Database, owed: PassOn | None = OWED) -> runs.NewRun:
    """A run that stands for a Celery task, and that nobody has claimed."""
    new = runs.NewRun(flow_name="etl", path="m:etl", name="a", parameters=serializers.encode({}), queue="q")
    new.pass_on = owed
    runs.create(database, new)
    return new


def new_run(database: Database, owed: PassOn | None = OWED) -> Claim:
    """A claimed run that stands for a Celery task."""
    new = unclaimed(database, owed)
    claimed = claims.claim_run(database, new.id)
    assert claimed is not None
    return claimed.claim


def finish(database: Database, run: Claim) -> list[str | None]:
    """End a run; the Celery ids of what is to be told."""
    announced = runs.finish(database, run, DONE, [], window=window)
    return [each.step_key for each in announced if each.kind == "pass_on"]


def swept(database: Database) -> list[str | None]:
    """The Celery ids of what the sweeper would send."""
    return [each.step_key for each in pass_ons.take_owed(database)]


def lapse(database: Database) -> None:
    """Let a lease go by."""
    past = {"announce_at": 1.0, "lease_until": 1.0}
    database.write(lambda connection: connection.execute(sa.update(table).values(**past)).rowcount)


def test_the_end_of_a_run_tells_its_canvas(database: Database) -> None:
    """In the transaction that ends it; nothing is owed before, and nothing for other runs."""
    run, other = new_run(database), new_run(database, None)
    assert swept(database) == []

    assert (finish(database, other), finish(database, run)) == ([], ["celery-id"])
    assert swept(database) == []
    lapse(database)
    assert swept(database) == ["celery-id"]


def test_a_run_that_ends_in_another_way_tells_its_canvas_too(database: Database) -> None:
    """One that is cancelled before a worker had it: by the sweeper."""
    new = unclaimed(database)

    interventions.cancel(database, new.id)

    assert swept(database) == ["celery-id"]


def test_a_run_that_is_created_again_owes_once(database: Database) -> None:
    """A second delivery finds the run, also when its outcome was passed on long ago."""
    for _ in range(2):
        new = runs.NewRun(
            flow_name="etl", path="m:etl", name="a", parameters=serializers.encode({}), queue="q",
            idempotency_key=OWED.task_id, pass_on=OWED,
        )  # fmt: skip
        created = runs.create(database, new)
        run_id = created.row["id"]
        if created.created:
            claimed = claims.claim_run(database, run_id)
            assert claimed is not None
            finish(database, claimed.claim)
            assert pass_ons.begin(database, run_id, OWED)
            pass_ons.end(database, run_id, OWED.task_id)

    lapse(database)
    assert swept(database) == []
    assert not pass_ons.begin(database, run_id, OWED)


def test_one_at_a_time_passes_on_and_another_after_a_lease(database: Database) -> None:
    """Whoever died at it is followed by the next; once it is paid, nobody is."""
    run = new_run(database)
    assert not pass_ons.begin(database, run.run_id, OWED), "the run has not ended"
    finish(database, run)

    assert [pass_ons.begin(database, run.run_id, OWED) for _ in range(2)] == [True, False]
    lapse(database)
    assert pass_ons.begin(database, run.run_id, OWED)
    pass_ons.end(database, run.run_id, OWED.task_id)
    lapse(database)
    assert not pass_ons.begin(database, run.run_id, OWED)


def test_a_task_that_comes_before_the_end_is_kept(database: Database) -> None:
    """As the last node of a flow's own canvas does: the end of the run tells it."""
    run = new_run(database, None)

    assert not pass_ons.begin(database, run.run_id, OWED)

    assert finish(database, run) == ["celery-id"]


def test_a_task_that_comes_while_the_run_ends_is_never_forgotten(database: Database) -> None:
    """Either it goes on itself, or the end of the run tells it."""
    for _ in range(rounds(database, 30)):
        run = new_run(database, None)
        begun, told = race(
            lambda run=run: pass_ons.begin(database, run.run_id, OWED),  # type: ignore[misc]
            lambda run=run: finish(database, run),  # type: ignore[misc]
        )
        assert (begun, told) in [(True, []), (False, ["celery-id"])]


def test_what_the_broker_did_not_take_is_sent_after_a_sweep(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a lease later."""
    run = new_run(database)
    announced = runs.finish(database, run, DONE, [], window=window)
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "0.01")
    settings.reset()

    unsent.owe_again(database, announced)

    assert wait_until(lambda: swept(database), "the sweeper to send it") == ["celery-id"]


def test_the_outcome_of_a_deleted_run_is_an_error(database: Database) -> None:
    """Its canvas fails, rather than wait for ever."""
    run = new_run(database)
    finish(database, run)
    database.write(lambda c: c.execute(sa.delete(flow_runs).where(flow_runs.c.id == run.run_id)).rowcount)

    with pytest.raises(FlowRunNotFound):
        pass_ons.begin(database, run.run_id, OWED)
