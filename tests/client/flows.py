"""Flows that a client asks about, where a worker could import them."""

from __future__ import annotations

from orchestra import flow, get_client, get_run_logger, pause_flow_run, task
from orchestra.artifacts import create_markdown_artifact
from orchestra.cache_policies import INPUTS
from orchestra.client.schemas.actions import ArtifactCreate, VariableCreate
from orchestra.client.schemas.filters import FlowFilter
from orchestra.input import RunInput
from orchestra.states import Cancelled
from orchestra.transactions import transaction


@task
def double(number: int) -> int:
    get_run_logger().warning("doubling %d", number)
    return number * 2


@task
def refuse(number: int) -> int:
    raise ValueError(f"{number} is refused")


@task(cache_policy=INPUTS)
def keep(number: int) -> int:
    create_markdown_artifact("**all** is well", key="report")
    return number


@flow
def kept(number: int) -> int:
    """Keeps two results for later calls."""
    return keep(number) + keep(number + 1)


@flow
def rolled_back(number: int) -> None:
    """Undoes what a task did, as a later one fails."""
    with transaction():
        double.with_options(name="undone")(number)
        refuse(number)


@flow
def doubled(number: int) -> int:
    return double(number)


@flow
def refused(number: int) -> int:
    return refuse(number)


@flow
def looking(number: int) -> list[object]:
    """Looks at other runs, then waits, so that it is replayed."""
    with get_client(sync_client=True) as client:
        before = client.count_flow_runs()
        found = client.read_flow_runs(flow_filter=FlowFilter.model_validate({"name": {"any_": ["doubled"]}}))
        values = [run.state.result() for run in found]
    return [before, values, double.submit(number).result()]


@flow
async def looking_async(number: int) -> list[object]:
    async with get_client() as client:
        before = await client.count_flow_runs()
    return [before, await double.submit(number)]


class Approval(RunInput):
    """What a person is asked for."""

    yes: bool


@flow
def asking() -> bool:
    return pause_flow_run(wait_for_input=Approval).yes


@flow
def cancelling(other: str) -> str:
    """Cancels another run, then waits, so that it is replayed."""
    with get_client(sync_client=True) as client:
        answer = client.set_flow_run_state(other, Cancelled())
    double.submit(1).result()
    return answer.state.name


@flow
def making(number: int) -> list[object]:
    """Makes an artifact and a variable by a client, then waits, so that it is replayed."""
    with get_client(sync_client=True) as client:
        made = client.create_artifact(ArtifactCreate(key="made", data=number))
        variable = client.create_variable(VariableCreate(name="made", value=number))
    double.submit(number).wait()
    return [made.id, variable.value]
