"""`orchestra transaction`: see transactions, and run rollback hooks that failed once more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestra.cli import cli
from orchestra.engine import operations
from orchestra.errors import FlowRunNotFound, IllegalTransition, TransactionNotFound
from orchestra.store import queries
from orchestra.store.database import Database
from tests.drive import Driver
from tests.engine import rollback_flows as flows


@pytest.fixture(autouse=True)
def unmended(database: Database) -> Iterator[None]:
    """On both databases; the hotel does not answer."""
    flows.effects.clear()
    flows.mended["hotel"] = False
    yield
    flows.mended["hotel"] = False


@pytest.fixture
def driver(database: Database) -> Driver:
    """Carries messages as workers do."""
    return Driver(database)


def orchestra(*words: str, code: int = 0) -> Result:
    """The command, as typed."""
    done = CliRunner().invoke(cli, ["transaction", *words], catch_exceptions=False)
    assert done.exit_code == code, done.stderr
    return done


def read(*words: str) -> Any:
    """What a command gives as JSON."""
    return json.loads(orchestra(*words, "-o", "json").stdout)


def state_of(database: Database, run_id: str) -> str:
    """The name of a run's state."""
    return queries.flow_run_state(database, run_id).name


def here() -> str:
    """Run the trip in this process; gives its id."""
    state = flows.trip(return_state=True)
    assert state.name == "RollbackFailed"
    return str(state.state_details.flow_run_id)


def on_worker(driver: Driver) -> str:
    """Run the trip as workers do; gives its id."""
    run_id = driver.submit(flows.trip)
    assert driver.finish(run_id).name == "RollbackFailed"
    return run_id


@pytest.fixture(params=["here", "worker"])
def failed(request: pytest.FixtureRequest, driver: Driver) -> str:
    """A run of which one rollback hook has failed, and the other one has done its work."""
    run_id = here() if request.param == "here" else on_worker(driver)
    assert flows.effects == ["flight"]
    return run_id


def test_a_failed_rollback_is_seen(failed: str) -> None:
    """With what was set in it, why it was rolled back, and its hooks in the order in which they ran."""
    (listed,) = read("ls", "--state", "rollback_failed")
    assert (listed["flow_run_id"], listed["state"]) == (failed, "ROLLBACK_FAILED")
    assert "no car is left" in listed["message"]
    assert read("ls", "--state", "COMMITTED") == []
    assert read("ls", "--flow-run", "another") == []
    assert failed in orchestra("ls").stdout

    shown = read("inspect", failed)
    assert shown == read("inspect", listed["id"])
    assert shown["values"] == {"traveller": "ada"}
    assert shown["error"]["type"].endswith("LookupError")
    hooks = [(hook["kind"], hook["name"], hook["state"]) for hook in shown["hooks"]]
    assert hooks == [("rollback", "cancel_hotel", "FAILED"), ("rollback", "cancel_flight", "COMPLETED")]
    assert "the hotel does not answer" in shown["hooks"][0]["message"]
    told = orchestra("inspect", failed).stdout
    assert "book_hotel-0: FAILED" in told
    assert "LookupError: no car is left" in told


def test_a_rollback_is_retried_by_hand(failed: str, driver: Driver, database: Database) -> None:
    """Only the hook that failed runs again; the run then shows as rolled back, whose work it was."""
    flows.mended["hotel"] = True

    orchestra("retry", failed)
    driver.settle()

    assert flows.effects == ["flight", "hotel"]
    assert state_of(database, failed) == "RolledBack"
    assert read("inspect", failed)["state"] == "ROLLED_BACK"
    refused = orchestra("retry", failed, code=4)
    assert "cannot be rolled back again" in refused.stderr


def test_a_hook_that_fails_again_is_shown_again(failed: str, driver: Driver, database: Database) -> None:
    """Nothing is lost by trying."""
    orchestra("retry", failed)
    driver.settle()

    assert flows.effects == ["flight"]
    assert state_of(database, failed) == "RollbackFailed"
    assert read("ls", "--state", "ROLLBACK_FAILED")[0]["flow_run_id"] == failed


def test_workers_are_told_at_once(driver: Driver, database: Database) -> None:
    """They need not wait for a sweep."""
    run_id = on_worker(driver)
    flows.mended["hotel"] = True

    operations.retry_rollback(database, run_id, announce=driver.carrier.announce)

    assert driver.step()
    assert flows.effects == ["flight", "hotel"]


def test_lists_are_paged(driver: Driver) -> None:
    """The newest first; the hint names the last one."""
    runs = [on_worker(driver) for _ in range(3)]

    page = orchestra("ls", "--limit", "2", "-o", "json")

    first = json.loads(page.stdout)
    assert [each["flow_run_id"] for each in first] == [runs[2], runs[1]]
    assert f"--after {first[-1]['id']}" in page.stderr
    assert [each["flow_run_id"] for each in read("ls", "--after", first[-1]["id"])] == [runs[0]]


def test_what_is_not_there_is_said(driver: Driver, database: Database) -> None:
    """And what was not rolled back is not retried."""
    fine = driver.submit(flows.trip, fails=False)
    driver.finish(fine)

    with pytest.raises(FlowRunNotFound):
        operations.retry_rollback(database, "gone")
    with pytest.raises(TransactionNotFound):
        operations.retry_rollback(database, fine, "txn-7")
    with pytest.raises(IllegalTransition):
        operations.retry_rollback(database, fine)
    assert "does not have one transaction" in orchestra("inspect", "gone", code=3).stderr
