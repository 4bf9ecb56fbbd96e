"""Large results of steps and runs: they hold nobody up while written, and go with the last run that has one."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from orchestra import settings
from orchestra.store import blobs, journal, removal, runs, settle
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.journal import Ending
from orchestra.store.tables import blobs as table
from tests.store.test_races import claimed, dispatch, key, new_run, task, window

pytestmark = pytest.mark.slow

#: Larger than a row's result may be, and more than one chunk.
LARGE = b"x" * (blobs.CHUNK + settings.current().result_inline_max_bytes)


def ended_run(database: Database, data: bytes = LARGE) -> Claim:
    """A run that has ended, and one task of it, with a large result each."""
    run = new_run(database)
    dispatch(database, run, task(0))
    (claim,) = claimed(database, run, 0)
    settle.complete(database, claim, Ending("COMPLETED", "Completed", result=data))
    runs.finish(database, run, Ending("COMPLETED", "Completed", result=data), [], window=window)
    return run


def names(database: Database) -> set[str]:
    """The blobs that are kept."""
    return set(database.read(lambda connection: connection.scalars(sa.select(table.c.name)).all()))


def test_a_large_result_comes_back(database: Database) -> None:
    """Of a step and of its run; it is kept once."""
    run = ended_run(database)

    assert journal.result_of(database, run.run_id, 1, key(0)) == LARGE
    assert runs.result_of(database, runs.read(database, run.run_id)) == LARGE
    assert len(names(database)) == 1


def test_a_deleted_run_takes_its_large_results_along(database: Database) -> None:
    """But for those that another run has, too."""
    first, second = ended_run(database), ended_run(database)
    other = ended_run(database, LARGE + b"y")

    removal.delete(database, first.run_id)
    assert len(names(database)) == 2
    removal.delete(database, second.run_id)
    assert names(database) == {blobs.name_of(LARGE + b"y")}
    assert runs.result_of(database, runs.read(database, other.run_id)) == LARGE + b"y"


def test_a_large_result_that_a_deletion_took_is_put_back(database: Database) -> None:
    """Between its keeping and the write that refers to it, the last run that had it may go."""
    old, run = ended_run(database), new_run(database)
    ending = Ending("COMPLETED", "Completed", result=LARGE)
    journal.keep_large(database, [ending])
    removal.delete(database, old.run_id)
    assert names(database) == set()

    runs.finish(database, run, ending, [], window=window)
    assert runs.result_of(database, runs.read(database, run.run_id)) == LARGE


def test_others_write_while_a_large_result_is_written(database: Database) -> None:
    """Nobody waits for the whole of 64 MiB: other writers are let in between its pieces."""
    run, ended = new_run(database), threading.Event()
    seen: set[int] = set()

    def write() -> None:
        count = sa.select(sa.func.count()).select_from(table)
        while not ended.is_set():
            seen.add(database.write(lambda connection: connection.scalar(count) or 0))

    writer = threading.Thread(target=write)
    writer.start()
    result = b"z" * (64 * blobs.CHUNK)
    runs.finish(database, run, Ending("COMPLETED", "Completed", result=result), [], window=window)
    ended.set()
    writer.join()

    assert len(seen - {0, 64}) > 5
