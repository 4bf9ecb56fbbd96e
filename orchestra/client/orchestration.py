"""`get_client()`: read flows, runs, logs, artifacts and variables, and act on them, from Python.

A client asks the database directly, so it needs no server; where ORCHESTRA_API_URL names one, it asks that. In a flow
body on a worker each of its calls is a step, so that a replay sees, and does, the same.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from orchestra.client.deployments import DeploymentMethods
from orchestra.client.records import RecordMethods
from orchestra.client.runs import RunMethods
from orchestra.errors import OrchestraError
from orchestra.handles import durable_body

P = ParamSpec("P")
T = TypeVar("T")


@overload
def get_client(*, sync_client: Literal[False] = False) -> OrchestraClient: ...
@overload
def get_client(*, sync_client: Literal[True]) -> SyncOrchestraClient: ...
def get_client(*, sync_client: bool = False) -> OrchestraClient | SyncOrchestraClient:
    """A client on the database of the settings: `async with get_client() as client: await client.read_flow_runs()`.

    Args:
        sync_client: One whose methods are plain functions: `with get_client(sync_client=True) as client`.
    """
    return SyncOrchestraClient() if sync_client else OrchestraClient()


#: Words in the names of methods that Prefect's client has and this one has not yet.
_LATER = "automation block".split()


class _Client:
    """Says of methods that are still to come that they are."""

    if not TYPE_CHECKING:  # a type checker shall find a misspelled method

        def __getattr__(self, name: str) -> Any:
            later = next((word for word in _LATER if word in name and not name.startswith("_")), None)
            if later is None:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            what = later.replace("_", " ")
            raise AttributeError(f"{type(self).__name__} has no {name!r} yet: {what}s come in a later version")


class SyncOrchestraClient(_Client, DeploymentMethods, RunMethods, RecordMethods):
    """Reads flows, runs, states and logs, and acts on runs. Safe to use from any thread; holds no connection.

    Every method may raise `StoreUnavailable`, where the database does not answer.
    """

    def __enter__(self) -> SyncOrchestraClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def hello(self) -> str:
        """Answers once the database does.

        Raises:
            StoreUnavailable: It does not.
        """
        self._backend().hello()
        return "👋"

    def api_healthcheck(self) -> Exception | None:
        """None where the database answers; else the error that says why it does not."""
        try:
            self.hello()
        except OrchestraError as error:
            return error
        return None


# -- in coroutines -----------------------------------------------------------------------------------------------


def _awaitable(
    method: Callable[Concatenate[SyncOrchestraClient, P], T],
) -> Callable[Concatenate[OrchestraClient, P], Coroutine[Any, Any, T]]:
    """The same method for coroutines: it works in a thread, so that the event loop goes on."""

    @functools.wraps(method)
    async def call(self: OrchestraClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if durable_body() is not None:
            # A step of the flow body: its order is that of the body's own thread.
            return method(self.sync, *args, **kwargs)
        return await asyncio.to_thread(method, self.sync, *args, **kwargs)

    return call


class OrchestraClient(_Client):
    """`SyncOrchestraClient` for coroutines: every method is awaited."""

    def __init__(self) -> None:
        self.sync = SyncOrchestraClient()

    async def __aenter__(self) -> OrchestraClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    read_flow = _awaitable(SyncOrchestraClient.read_flow)
    read_flow_by_name = _awaitable(SyncOrchestraClient.read_flow_by_name)
    read_flows = _awaitable(SyncOrchestraClient.read_flows)
    count_flows = _awaitable(SyncOrchestraClient.count_flows)
    create_flow_run = _awaitable(SyncOrchestraClient.create_flow_run)
    read_flow_run = _awaitable(SyncOrchestraClient.read_flow_run)
    read_flow_runs = _awaitable(SyncOrchestraClient.read_flow_runs)
    count_flow_runs = _awaitable(SyncOrchestraClient.count_flow_runs)
    read_flow_run_states = _awaitable(SyncOrchestraClient.read_flow_run_states)
    set_flow_run_state = _awaitable(SyncOrchestraClient.set_flow_run_state)
    cancel_flow_run = _awaitable(SyncOrchestraClient.cancel_flow_run)
    pause_flow_run = _awaitable(SyncOrchestraClient.pause_flow_run)
    suspend_flow_run = _awaitable(SyncOrchestraClient.suspend_flow_run)
    resume_flow_run = _awaitable(SyncOrchestraClient.resume_flow_run)
    retry_flow_run = _awaitable(SyncOrchestraClient.retry_flow_run)
    delete_flow_run = _awaitable(SyncOrchestraClient.delete_flow_run)
    read_task_run = _awaitable(SyncOrchestraClient.read_task_run)
    read_task_runs = _awaitable(SyncOrchestraClient.read_task_runs)
    count_task_runs = _awaitable(SyncOrchestraClient.count_task_runs)
    read_task_run_states = _awaitable(SyncOrchestraClient.read_task_run_states)
    set_task_run_state = _awaitable(SyncOrchestraClient.set_task_run_state)
    read_logs = _awaitable(SyncOrchestraClient.read_logs)
    create_artifact = _awaitable(SyncOrchestraClient.create_artifact)
    read_artifact = _awaitable(SyncOrchestraClient.read_artifact)
    read_artifacts = _awaitable(SyncOrchestraClient.read_artifacts)
    read_latest_artifacts = _awaitable(SyncOrchestraClient.read_latest_artifacts)
    update_artifact = _awaitable(SyncOrchestraClient.update_artifact)
    delete_artifact = _awaitable(SyncOrchestraClient.delete_artifact)
    create_variable = _awaitable(SyncOrchestraClient.create_variable)
    read_variable_by_name = _awaitable(SyncOrchestraClient.read_variable_by_name)
    read_variables = _awaitable(SyncOrchestraClient.read_variables)
    update_variable = _awaitable(SyncOrchestraClient.update_variable)
    delete_variable_by_name = _awaitable(SyncOrchestraClient.delete_variable_by_name)
    read_events = _awaitable(SyncOrchestraClient.read_events)
    create_global_concurrency_limit = _awaitable(SyncOrchestraClient.create_global_concurrency_limit)
    read_global_concurrency_limit_by_name = _awaitable(SyncOrchestraClient.read_global_concurrency_limit_by_name)
    read_global_concurrency_limits = _awaitable(SyncOrchestraClient.read_global_concurrency_limits)
    update_global_concurrency_limit = _awaitable(SyncOrchestraClient.update_global_concurrency_limit)
    delete_global_concurrency_limit_by_name = _awaitable(SyncOrchestraClient.delete_global_concurrency_limit_by_name)
    create_deployment = _awaitable(SyncOrchestraClient.create_deployment)
    read_deployment = _awaitable(SyncOrchestraClient.read_deployment)
    read_deployment_by_name = _awaitable(SyncOrchestraClient.read_deployment_by_name)
    read_deployments = _awaitable(SyncOrchestraClient.read_deployments)
    update_deployment = _awaitable(SyncOrchestraClient.update_deployment)
    delete_deployment = _awaitable(SyncOrchestraClient.delete_deployment)
    pause_deployment = _awaitable(SyncOrchestraClient.pause_deployment)
    resume_deployment = _awaitable(SyncOrchestraClient.resume_deployment)
    create_flow_run_from_deployment = _awaitable(SyncOrchestraClient.create_flow_run_from_deployment)
    read_deployment_schedules = _awaitable(SyncOrchestraClient.read_deployment_schedules)
    create_deployment_schedules = _awaitable(SyncOrchestraClient.create_deployment_schedules)
    update_deployment_schedule = _awaitable(SyncOrchestraClient.update_deployment_schedule)
    delete_deployment_schedule = _awaitable(SyncOrchestraClient.delete_deployment_schedule)
    create_work_pool = _awaitable(SyncOrchestraClient.create_work_pool)
    read_work_pool = _awaitable(SyncOrchestraClient.read_work_pool)
    read_work_pools = _awaitable(SyncOrchestraClient.read_work_pools)
    update_work_pool = _awaitable(SyncOrchestraClient.update_work_pool)
    delete_work_pool = _awaitable(SyncOrchestraClient.delete_work_pool)
    read_work_queues = _awaitable(SyncOrchestraClient.read_work_queues)
    read_workers_for_work_pool = _awaitable(SyncOrchestraClient.read_workers_for_work_pool)
    hello = _awaitable(SyncOrchestraClient.hello)
    api_healthcheck = _awaitable(SyncOrchestraClient.api_healthcheck)
