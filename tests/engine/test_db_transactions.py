"""`db_transaction()`: a task's own rows and the record of its end, in one commit or not at all."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import settings
from orchestra.errors import DbTransactionError, DbTransactionTimeout, MissingContextError
from orchestra.states import State
from orchestra.store.behind import behind
from orchestra.store.database import Database
from orchestra.store.tables import steps, transaction_hooks
from orchestra.transactions import db_transaction
from tests.drive import Driver
from tests.engine import atomic_flows as flows
from tests.helpers import wait_until

pytestmark = pytest.mark.slow

#: How a task is run: in this process, called directly on a worker, or by a message of its own.
WAYS = ("here", "inline", "message")


@dataclass
class Ground:
    """A database with the user's tables, and a way of running tasks on it."""

    database: Database
    driver: Driver
    way: str

    def run(self, kind: str, *arguments: Any) -> State[Any]:
        """The final state of a flow that runs one task."""
        if self.way == "here":
            return flows.one(kind, list(arguments), return_state=True)
        return self.driver.run(flows.one, kind=kind, arguments=list(arguments), submitted=self.way == "message")

    def seats(self) -> dict[int, str]:
        """The bookings, by seat, as others see them."""
        query = sa.select(flows.Booking.seat, flows.Booking.guest).order_by(flows.Booking.seat)
        return dict(self.database.read(lambda c: [tuple(row) for row in c.execute(query)]))

    def task_states(self) -> list[str]:
        """The states of the task runs recorded so far."""
        behind().flush()
        query = sa.select(steps.c.state_name).where(steps.c.kind == "task").order_by(steps.c.sequence)
        return self.database.read(lambda c: list(c.scalars(query)))


@pytest.fixture
def tables(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The user's tables beside orchestra's."""
    monkeypatch.setenv("ORCHESTRA_LOG_TO_CONSOLE", "false")
    settings.reset()
    database.write(lambda connection: flows.Base.metadata.create_all(connection))
    flows.effects.clear()
    yield database
    flows.before.clear()
    flows.inside.clear()


@pytest.fixture(params=WAYS)
def ground(request: pytest.FixtureRequest, tables: Database) -> Ground:
    """On both databases, in each way."""
    return Ground(tables, Driver(tables), request.param)


def test_rows_and_end_are_committed_together(ground: Ground) -> None:
    """Inside of the block nobody else sees the rows, nor after it; at the end of the task they are there with it."""
    flows.inside.append(lambda: flows.effects.append(ground.seats()))

    assert ground.run("book", 7).result() == 7

    assert flows.effects == ["booked", {}]
    assert ground.seats() == {7: "ada"}
    assert ground.task_states() == ["Completed"]


def test_a_body_that_raises_after_the_block_leaves_no_row(ground: Ground) -> None:
    """The failure is recorded, the rows are gone."""
    state = ground.run("book_and_fail", 7)

    assert "no breakfast" in str(state.message)
    assert ground.seats() == {}
    assert ground.task_states() == ["Failed"]


@pytest.mark.parametrize("kind", ["book_at_last", "book_later"])
def test_each_try_has_a_transaction_of_its_own(ground: Ground, kind: str) -> None:
    """The rows of the failed one are undone before the next one begins."""
    if kind == "book_later" and ground.way == "here":
        pytest.skip("sleeps for real")

    assert ground.run(kind, 7).result() == 2

    assert flows.effects == [1, 2]
    assert ground.seats() == {7: "try 2"}


def test_blocks_of_one_body_share_the_transaction(ground: Ground) -> None:
    """A block that raises undoes its own rows; those of the others are committed."""
    ground.run("book_twice", 1, 2).result()

    assert ground.seats() == {1: "ada", 2: "bob"}


def test_a_block_that_raised_holds_nothing_up(ground: Ground) -> None:
    """With nothing left in it, the transaction is over: others may write while the body goes on."""
    flows.inside.append(
        lambda: ground.database.write(lambda c: c.execute(sa.insert(flows.Booking).values(seat=5, guest="x")))
    )

    assert ground.run("book_nothing").result() == "nothing"

    assert ground.seats() == {5: "x"}


def test_rows_are_undone_where_the_result_cannot_be_kept(ground: Ground) -> None:
    """On a worker such a task fails; locally it is a warning."""
    state = ground.run("book_unkept", 3)

    if ground.way == "here":
        assert ground.seats() == {3: "ada"}
    else:
        assert state.is_failed()
        assert ground.seats() == {}


def test_a_large_result_goes_into_the_same_commit(ground: Ground) -> None:
    """Though it would be kept ahead of the transaction otherwise, which SQLite would not allow meanwhile."""
    assert len(ground.run("book_large", 3).result()) == 3_000_000
    assert ground.seats() == {3: "ada"}


def test_what_the_database_refuses_at_the_commit_fails_the_task(ground: Ground) -> None:
    """With its reason; nothing of it stays."""
    state = ground.run("break_promise")

    assert flows.effects == ["tried"]
    assert "the database refused what db_transaction() was to commit" in str(state.message)
    assert ground.task_states() == ["Failed"]


def test_savepoints_and_rollbacks_in_a_block(ground: Ground) -> None:
    """Undo what they undo; a block may be left by `return`."""
    assert ground.run("book_in_parts").result() == 2
    assert ground.seats() == {2: "ada", 3: "bob"}


def test_a_body_over_its_time_leaves_no_row(ground: Ground) -> None:
    """It is interrupted in its block."""
    assert ground.run("dawdle", 1).is_failed()

    assert flows.effects == ["dawdling", "left"]
    assert ground.seats() == {}
    assert ground.task_states() == ["TimedOut"]


@pytest.mark.alone
def test_an_abandoned_thread_writes_nothing_more(tables: Database) -> None:
    """What it held is free at once, what it writes later is refused."""
    ground = Ground(tables, Driver(tables), "here")

    assert flows.one("dawdle", [1], submitted=True, return_state=True).is_failed()
    begun = time.monotonic()
    tables.write(lambda c: c.execute(sa.insert(flows.Booking).values(seat=2, guest="other")))

    assert time.monotonic() - begun < 0.4
    wait_until(lambda: "left" in flows.effects, "the thread to end")
    assert ground.seats() == {2: "other"}
    assert ground.task_states() == ["TimedOut"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("committing", "nothing is committed before the task ends"),
        ("forgotten", "persist_result=False"),
        ("calling", "Call it from the flow"),
    ],
)
def test_a_mistake_is_a_clear_error(ground: Ground, kind: str, message: str) -> None:
    """That says what to do; nothing is written."""
    state = ground.run(kind)

    with pytest.raises(DbTransactionError, match=message):
        state.result()
    assert ground.seats() == {}


@pytest.mark.parametrize("submitted", [False, True])
def test_an_async_task_is_refused(tables: Database, submitted: bool) -> None:
    """On SQLite its loop would wait for the lock that it holds itself."""
    with pytest.raises(DbTransactionError, match="make it a plain `def`"):
        asyncio.run(flows.fetching(submitted))
    with pytest.raises(DbTransactionError, match="make it a plain `def`"):
        Driver(tables).run(flows.fetching, submitted=submitted).result()


def test_another_database_is_a_clear_error(ground: Ground) -> None:
    """It cannot be atomic; the same one, by another driver's URL or another user's, is taken."""
    with pytest.raises(DbTransactionError, match="rows in two databases cannot be committed together"):
        ground.run("elsewhere", "sqlite:////elsewhere.db").result()
    assert ground.seats() == {}

    url = sa.make_url(ground.database.url)
    same = url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+asyncpg", username="somebody")
    ground.run("elsewhere", same.render_as_string(hide_password=False)).result()
    assert ground.seats() == {1: "ada"}


def test_outside_of_a_task_it_is_refused(tables: Database) -> None:
    """In a flow's body, and with no flow at all; a task alone commits at its end."""
    with pytest.raises(MissingContextError, match="outside of any task"):
        db_transaction()
    with pytest.raises(MissingContextError, match="in the body of a flow"):
        flows.body_itself()
    assert Driver(tables).run(flows.body_itself).is_failed()

    assert flows.book(4) == 4
    assert Ground(tables, Driver(tables), "here").seats() == {4: "ada"}


def test_a_plain_task_of_an_async_flow(tables: Database) -> None:
    """Is as any other."""
    assert asyncio.run(flows.awaiting(1)) == 1
    assert Driver(tables).run(flows.awaiting, seat=2).result() == 2
    assert Ground(tables, Driver(tables), "here").seats() == {1: "ada", 2: "ada"}


def test_the_session_is_of_the_thread_that_opened_it(ground: Ground) -> None:
    """Another thread of the body is refused."""
    refused: list[Exception] = []

    def other_thread() -> None:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(block,))
        thread.start()
        thread.join()

    def block() -> None:
        try:
            with db_transaction():
                pass
        except DbTransactionError as error:
            refused.append(error)

    flows.inside.append(other_thread)
    ground.run("book", 1).result()

    assert "belongs to one thread" in str(refused)


@pytest.mark.parametrize("kind", ["book_and_fail", "break_promise_too"])
@pytest.mark.parametrize("way", ["here", "worker"])
def test_the_rollback_of_a_block_undoes_what_was_committed(tables: Database, way: str, kind: str) -> None:
    """The hook of the task that ended is registered in that one commit; the one that failed has none to run."""
    driver = Driver(tables)

    if way == "here":
        state = flows.as_a_whole(7, kind, return_state=True)
    else:
        state = driver.run(flows.as_a_whole, seat=7, kind=kind)

    assert state.name == "Failed"
    assert [each for each in flows.effects if each != "tried"] == ["booked", "unbooked 7"]
    assert Ground(tables, driver, way).seats() == {7: "ada"}
    query = sa.select(transaction_hooks.c.name, transaction_hooks.c.state)
    assert tables.read(lambda c: [tuple(row) for row in c.execute(query)]) == [("unbook", "COMPLETED")]


# -- claims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["inline", "message"])
def test_a_claim_that_was_taken_over_commits_nothing(tables: Database, way: str) -> None:
    """The fence matches no row, and the user's rows are rolled back with it; the next claim does it once."""
    ground = Ground(tables, Driver(tables), way)

    def take_over() -> None:
        flows.before.clear()
        tables.write(lambda c: c.execute(sa.text(STOLEN[way])))

    flows.before.append(take_over)
    run_id = ground.driver.submit(flows.one, kind="book", arguments=[7], submitted=way == "message")
    ground.driver.settle()

    assert ground.seats() == {}
    ground.driver.lapse()
    tables.write(lambda c: c.execute(sa.text("UPDATE steps SET owner = 'x'")))
    assert ground.driver.finish(run_id).result() == 7
    assert ground.seats() == {7: "ada"}
    assert flows.effects == ["booked", "booked"]


#: Another process claims the run, or the step, while the body runs.
STOLEN = {
    "inline": "UPDATE flow_runs SET owner = 'thief', claim_number = claim_number + 1",
    "message": "UPDATE steps SET owner = 'thief', claim_number = claim_number + 1 WHERE kind = 'task'",
}


def test_a_local_run_taken_for_dead_commits_nothing(tables: Database) -> None:
    """It is Crashed for all others by then."""
    flows.before.append(lambda: tables.write(lambda c: c.execute(sa.text("UPDATE flow_runs SET phase = 'DONE'"))))

    state = flows.one("book", [7], return_state=True)

    assert "took this one for dead" in str(state.message)
    assert Ground(tables, Driver(tables), "here").seats() == {}


def test_a_second_copy_of_a_message_changes_nothing(tables: Database) -> None:
    """The step has ended."""
    ground = Ground(tables, Driver(tables), "message")
    run_id = ground.driver.submit(flows.one, kind="book", arguments=[7], submitted=True)
    ground.driver.step()
    message = next(each for each in ground.driver.carrier.messages if each.step_key is not None)

    ground.driver.deliver(message)
    ground.driver.deliver(message)

    assert ground.driver.finish(run_id).result() == 7
    assert flows.effects == ["booked"]


# -- SQLite's lock -----------------------------------------------------------------------------------------------


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    """A lease of 1.5 s, so a transaction of half a second; before anything opens the database."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "1.5")
    settings.reset()
    return 0.5


@pytest.mark.alone
def test_a_transaction_that_takes_too_long_is_rolled_back(short_lease: float, ground: Ground) -> None:
    """On SQLite once it was open for a third of the lease, whatever the body does; on PostgreSQL if it stood still."""
    waited: list[float] = []

    def dawdle() -> None:
        begun = time.monotonic()
        if ground.database.dialect == "sqlite":
            # Another writer gets the lock while the body still sleeps.
            other = threading.Thread(target=lambda: waited.append(written_after(ground.database, begun)))
            other.start()
            other.join()
        else:
            time.sleep(2 * short_lease)

    flows.inside.append(dawdle)

    state = ground.run("book", 7)

    with pytest.raises(DbTransactionTimeout, match=r"open for longer than 0\.5 s"):
        state.result()
    assert 7 not in ground.seats()
    assert ground.task_states() == ["Failed"]
    assert all(seconds < 2 * short_lease for seconds in waited)


def written_after(database: Database, begun: float) -> float:
    """Write a row; gives the seconds until that was done."""
    database.write(lambda c: c.execute(sa.insert(flows.Booking).values(seat=0, guest="other")))
    return time.monotonic() - begun


def test_a_write_of_orchestra_in_the_block_is_refused_on_sqlite(ground: Ground) -> None:
    """It would wait for itself."""
    flows.inside.append(
        lambda: ground.database.write(lambda c: c.execute(sa.insert(flows.Booking).values(seat=5, guest="x")))
    )

    state = ground.run("book", 7)

    if ground.database.dialect == "sqlite":
        with pytest.raises(DbTransactionError, match="would wait for itself"):
            state.result()
        assert ground.seats() == {}
    else:
        assert ground.seats() == {5: "x", 7: "ada"}
