"""Runs of deployments: what their bodies see of it, their names, and parameters that do not fit a schedule's run."""

from __future__ import annotations

import pytest

from orchestra.deployments import Deployment
from orchestra.engine import deployed, firing
from orchestra.errors import ParameterTypeError
from orchestra.schedules import Interval
from orchestra.store import deployments, queries, runs
from tests.drive import Driver
from tests.engine import deployed_flows as flows


def start(driver: Driver, name: str | None = None) -> str:
    """A run of the deployment; gives its id."""
    Deployment.build_from_flow(flows.everywhere, "nightly", version="7", parameters={"region": "north"}).apply()
    found = deployments.read(driver.database, "everywhere/nightly")
    new = deployed.new_run(driver.database, found, {}, name=name)
    new.queue = "default"
    driver.carrier.announce(runs.create(driver.database, new).announcements)
    return new.id


def test_a_body_sees_the_deployment_whose_run_it_is(driver: Driver) -> None:
    """So do its tasks and its subflows."""
    run_id = start(driver)

    in_flow, in_task, in_subflow, _, of_parent = driver.finish(run_id).result()

    expected = ["nightly", "7", run_id, {"region": "north", "target": "home"}, True]
    assert in_flow == expected
    # What was started there has no defaults yet, which only the code knows.
    assert [in_task, in_subflow] == [[*expected[:3], {"region": "north"}, True]] * 2
    assert of_parent == [None, deployments.read(driver.database, "everywhere/nightly").id]


@pytest.mark.parametrize(("given", "expected"), [(None, "from north to home"), ("by hand", "by hand")])
def test_the_template_names_a_run_whose_name_was_not_chosen(driver: Driver, given: str | None, expected: str) -> None:
    """With the parameters that the body gets; in the database, too."""
    run_id = start(driver, given)

    assert driver.finish(run_id).result()[3] == expected
    assert driver.row(run_id)["name"] == expected


def test_a_schedule_whose_parameters_do_not_fit_makes_failed_runs(driver: Driver) -> None:
    """They say why, and nothing is sent to a worker."""
    Deployment.build_from_flow(flows.everywhere, "often", schedule=Interval(1, catchup="all")).apply()
    driver.elapse_schedules(3)

    _, announced = firing.fire_due(driver.database, lambda path: ("default", None))

    found = queries.list_flow_runs(driver.database).items
    assert (len(found) >= 2, announced) == (True, [])
    assert {(each.state_name, each.run_count) for each in found} == {("Failed", 1)}
    with pytest.raises(ParameterTypeError, match=r"everywhere/often.*region"):
        driver.final(found[0].id).result()
