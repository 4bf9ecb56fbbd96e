"""The part of the API's client about what operators look after: deployments, pools, workers, limits, access."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from pydantic_core import to_jsonable_python

from orchestra.accounts import Scope
from orchestra.client.caller import Caller, path_of, read, read_all
from orchestra.concurrency.limits import HolderRecord, Limit
from orchestra.engine.upcoming import UpcomingRun
from orchestra.schedules import Schedule
from orchestra.store.access import ApiKey, User
from orchestra.store.cache import Query
from orchestra.store.cache_records import CacheEntry
from orchestra.store.deployments import Deployment, NewDeployment
from orchestra.store.queries import FlowRun, Page
from orchestra.store.slot_records import SlotRecord, Slots
from orchestra.store.transaction_records import TransactionDetails, TransactionRecord
from orchestra.store.work_pools import WorkPool, WorkQueue
from orchestra.store.worker_records import WorkerRecord

_LIMITS = "global_concurrency_limits"
#: More than there are of anything.
_ALL = 2**31
#: What the API takes of a deployment.
_KEPT = frozenset(
    "name flow_name entrypoint description version tags parameters enforce_parameter_schema work_pool_name "
    "work_queue_name job_variables concurrency_limit collision_strategy paused".split()
)


class HttpOperations(Caller):
    """Asks the API. Each method is one of `DatabaseOperations` too, with the same meaning, records and errors."""

    # -- deployments ---------------------------------------------------------------------------------------------

    def list_deployments(
        self,
        *,
        limit: int,
        after: str | None = None,
        flow_names: Iterable[str] = (),
        work_pool_name: str | None = None,
    ) -> Page[Deployment]:
        """Deployments by flow and name."""
        wanted = {"flow_name": list(flow_names), "work_pool_name": work_pool_name}
        return self._page("deployments", Deployment, wanted, limit, after)

    def read_deployment(self, name: str) -> Deployment:
        """The deployment with this id, or `flow/name`."""
        return read(Deployment, self._get(self._deployment(name)))

    def set_paused(self, name: str, paused: bool) -> None:
        """Pause or resume its schedules."""
        self._post(f"{self._deployment_id(name)}/{'pause' if paused else 'resume'}")

    def start_deployment(
        self,
        name: str,
        parameters: Mapping[str, Any],
        *,
        scheduled_time: datetime | None = None,
        flow_run_name: str | None = None,
        tags: Iterable[str] = (),
        idempotency_key: str | None = None,
        work_queue_name: str | None = None,
        as_subflow: bool = True,
        job_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Start a run of a deployment; gives its id. It is never a subflow: the server knows nothing of this body."""
        new = {
            "deployment": name,
            "parameters": parameters,
            "scheduled_time": scheduled_time,
            "name": flow_run_name,
            "tags": list(tags),
            "idempotency_key": idempotency_key,
            "work_queue_name": work_queue_name,
            "job_variables": job_variables or None,
        }
        return str(self._post("flow_runs", to_jsonable_python(new))["id"])

    def keep_deployment(self, new: NewDeployment, schedules: Iterable[Schedule] | None) -> str:
        """Write a deployment, in place of one of its name; gives its id."""
        given = {name: value for name, value in asdict(new).items() if name in _KEPT}
        given["parameter_openapi_schema"] = new.parameter_schema
        rules = None if schedules is None else [_rule(each) for each in schedules]
        kept = self._ask("PUT", "deployments", json=to_jsonable_python(given | {"schedules": rules}))
        return str(kept.json()["id"])

    def change_deployment(self, name: str, **changes: Any) -> Deployment:
        """Change a deployment; what is not named stays."""
        at = self._deployment_id(name)
        return read(Deployment, self._ask("PATCH", at, json=to_jsonable_python(changes)).json())

    def delete_deployment(self, name: str) -> None:
        """Delete a deployment with its schedules."""
        self._ask("DELETE", self._deployment_id(name))

    def add_schedule(self, name: str, schedule: Schedule, *, replace: bool = False) -> str:
        """Give a deployment one more schedule, or one in the place of all that it has; gives its id."""
        at, params = f"{self._deployment_id(name)}/schedules", {"replace": True} if replace else {}
        return str(self._ask("POST", at, params=params, json=_rule(schedule)).json()["id"])

    def set_schedule_active(self, name: str, schedule: str, active: bool) -> None:
        """Let a schedule fire, or not."""
        self._ask("PATCH", self._schedule(name, schedule), json={"active": active})

    def delete_schedule(self, name: str, schedule: str) -> None:
        """Delete a schedule of a deployment."""
        self._ask("DELETE", self._schedule(name, schedule))

    def clear_schedules(self, name: str) -> int:
        """Delete all schedules of a deployment; gives how many there were."""
        return int(self._ask("DELETE", f"{self._deployment_id(name)}/schedules").json()["deleted"])

    # -- work pools and workers ----------------------------------------------------------------------------------

    def list_pools(self, *, limit: int, after: str | None) -> Page[WorkPool]:
        """Work pools by name."""
        return self._page("work_pools", WorkPool, {}, limit, after)

    def read_pool(self, name: str) -> WorkPool:
        """A work pool."""
        return read(WorkPool, self._get(path_of("work_pools", name)))

    def create_pool(
        self,
        name: str,
        type: str,
        *,
        description: str,
        paused: bool,
        concurrency_limit: int | None,
        base_job_template: Mapping[str, Any],
    ) -> WorkPool:
        """Make a work pool, with its default queue."""
        new = {
            "name": name,
            "type": type,
            "description": description,
            "is_paused": paused,
            "concurrency_limit": concurrency_limit,
            "base_job_template": base_job_template,
        }
        return read(WorkPool, self._post("work_pools", to_jsonable_python(new)))

    def change_pool(self, name: str, **changes: Any) -> WorkPool:
        """Change a work pool; what is not named stays."""
        return read(WorkPool, self._change(path_of("work_pools", name), changes))

    def delete_pool(self, name: str) -> None:
        """Delete a work pool and its queues."""
        self._ask("DELETE", path_of("work_pools", name))

    def list_queues(self, pool: str | None = None) -> list[WorkQueue]:
        """The queues of a work pool, or of all, in the order in which they are served."""
        at = "work_queues" if pool is None else path_of("work_pools", pool, "queues")
        return read_all(WorkQueue, self._get(at))

    def read_queue(self, pool: str, name: str) -> WorkQueue:
        """A queue of a work pool."""
        return read(WorkQueue, self._get(path_of("work_pools", pool, "queues", name)))

    def create_queue(
        self, pool: str, name: str, *, description: str, priority: int, concurrency_limit: int | None
    ) -> WorkQueue:
        """Make a queue of a work pool."""
        new = {
            "name": name,
            "description": description,
            "priority": priority,
            "concurrency_limit": concurrency_limit,
        }
        return read(WorkQueue, self._post(path_of("work_pools", pool, "queues"), new))

    def change_queue(self, pool: str, name: str, **changes: Any) -> WorkQueue:
        """Change a queue of a work pool; what is not named stays."""
        return read(WorkQueue, self._change(path_of("work_pools", pool, "queues", name), changes))

    def delete_queue(self, pool: str, name: str) -> None:
        """Delete a queue of a work pool."""
        self._ask("DELETE", path_of("work_pools", pool, "queues", name))

    def waiting_runs(self, pool: str, queue: str | None, *, limit: int) -> list[FlowRun]:
        """The runs that wait to start in a work pool, or in one of its queues, the first due first."""
        wanted = {"queue": queue, "limit": limit}
        return read_all(FlowRun, self._get(path_of("work_pools", pool, "waiting"), wanted))

    def upcoming_runs(self, pool: str, queue: str | None, *, limit: int) -> list[UpcomingRun]:
        """The next runs that schedules will make there, the first first."""
        wanted = {"queue": queue, "limit": limit}
        return read_all(UpcomingRun, self._get(path_of("work_pools", pool, "upcoming"), wanted))

    def slots(self, pool: str) -> list[Slots]:
        """Of each queue of a work pool, its workers' slots, and how many runs are at work and wait."""
        return read_all(Slots, self._get(path_of("work_pools", pool, "slots")))

    def slot_holders(self, pool: str) -> list[SlotRecord]:
        """The runs at work in a work pool, then those that wait for a slot, in their order."""
        return read_all(SlotRecord, self._get(path_of("work_pools", pool, "holders")))

    def slots_by_queue(self) -> dict[str, int]:
        """How many slots live workers have for each queue."""
        found: dict[str, int] = {}
        for worker in self.list_workers(limit=_ALL, after=None).items:
            for queue in worker.queues if worker.status == "ONLINE" and not worker.stopping else ():
                found[queue] = found.get(queue, 0) + worker.slots
        return found

    def list_workers(self, *, limit: int, after: str | None, pool: str | None = None) -> Page[WorkerRecord]:
        """Workers by name, or those that consume a queue of a work pool."""
        return self._page("workers", WorkerRecord, {"work_pool_name": pool}, limit, after)

    def read_worker(self, name: str) -> WorkerRecord:
        """A worker."""
        return read(WorkerRecord, self._get(path_of("workers", name)))

    # -- concurrency limits --------------------------------------------------------------------------------------

    def create_limit(self, name: str, limit: int, *, active: bool, slot_decay_per_second: float) -> Limit:
        """Make a limit."""
        new = {"name": name, "limit": limit, "active": active, "slot_decay_per_second": slot_decay_per_second}
        return read(Limit, self._post(_LIMITS, new))

    def list_limits(self) -> list[Limit]:
        """All limits by name."""
        return read_all(Limit, self._get(_LIMITS))

    def read_limit(self, name: str) -> Limit:
        """A limit."""
        return read(Limit, self._get(path_of(_LIMITS, name)))

    def read_holders(self, name: str) -> list[HolderRecord]:
        """Who has slots of a limit, then who waits for some."""
        return read_all(HolderRecord, self._get(path_of(_LIMITS, name, "holders")))

    def update_limit(
        self,
        name: str,
        *,
        limit: int | None = None,
        active: bool | None = None,
        slot_decay_per_second: float | None = None,
    ) -> Limit:
        """Change a limit; what is None stays."""
        changes = {"limit": limit, "active": active, "slot_decay_per_second": slot_decay_per_second}
        return read(Limit, self._ask("PATCH", path_of(_LIMITS, name), json=changes).json())

    def delete_limit(self, name: str) -> None:
        """Delete a limit."""
        self._ask("DELETE", path_of(_LIMITS, name))

    # -- cached results and transactions -------------------------------------------------------------------------

    def list_cache(self, wanted: Query, *, limit: int, after: str | None) -> Page[CacheEntry]:
        """Cached results, the newest first."""
        return self._page("cache", CacheEntry, _meant(wanted), limit, after)

    def clear_cache(self, wanted: Query) -> int:
        """Delete cached results; gives how many."""
        return int(self._post("cache/clear", _meant(wanted))["deleted"])

    def list_transactions(
        self, *, flow_run_id: str | None, states: Sequence[str], limit: int, after: str | None
    ) -> Page[TransactionRecord]:
        """Transactions, the newest first."""
        wanted = {"flow_run_id": flow_run_id, "state": list(states)}
        return self._page("transactions", TransactionRecord, wanted, limit, after)

    def read_transaction(self, flow_run_id: str, key: str | None) -> TransactionDetails:
        """A transaction of a flow run, with its hooks."""
        return read(TransactionDetails, self._get(path_of("transactions", flow_run_id), {"key": key}))

    def retry_rollback(self, flow_run_id: str, key: str | None) -> TransactionRecord:
        """Run the rollback hooks of a transaction that failed, once more, on the run's workers."""
        at, params = path_of("transactions", flow_run_id, "retry"), {} if key is None else {"key": key}
        return read(TransactionRecord, self._ask("POST", at, params=params).json())

    # -- who may use the server ----------------------------------------------------------------------------------

    def list_users(self) -> list[User]:
        """All users by name."""
        return read_all(User, self._get("users"))

    def create_user(self, name: str, password: str, scope: Scope) -> None:
        """Add a user."""
        self._post("users", {"name": name, "password": password, "scope": scope.value})

    def update_user(self, name: str, *, password: str | None, scope: Scope | None, disabled: bool | None) -> None:
        """Change a user; what is None stays."""
        changes = {"password": password, "scope": scope, "disabled": disabled}
        self._ask("PATCH", path_of("users", name), json=changes)

    def delete_user(self, name: str) -> None:
        """Delete a user."""
        self._ask("DELETE", path_of("users", name))

    def list_keys(self) -> list[ApiKey]:
        """All API keys by name."""
        return read_all(ApiKey, self._get("api-keys"))

    def create_key(self, name: str, scope: Scope, expires_in: float | None) -> str:
        """Make an API key, and give it."""
        new = {"name": name, "scope": scope.value, "expires_in_seconds": expires_in}
        return str(self._post("api-keys", new)["key"])

    def delete_key(self, name: str) -> None:
        """Delete an API key."""
        self._ask("DELETE", path_of("api-keys", name))

    # -- where things are ----------------------------------------------------------------------------------------

    def _deployment(self, name: str) -> str:
        flow_name, slash, own = name.rpartition("/")
        return path_of("deployments", "name", flow_name, own) if slash else path_of("deployments", name)

    def _deployment_id(self, name: str) -> str:
        return path_of("deployments", self.read_deployment(name).id)

    def _schedule(self, name: str, schedule: str) -> str:
        return f"{self._deployment_id(name)}/{path_of('schedules', schedule)}"

    def _change(self, at: str, changes: Mapping[str, Any]) -> Any:
        """Change a pool or queue. To pause one takes less than to change it, so it is asked for as that."""
        if changes.keys() == {"paused"}:
            return self._post(f"{at}/{'pause' if changes['paused'] else 'resume'}")
        given = {"is_paused" if name == "paused" else name: value for name, value in changes.items()}
        return self._ask("PATCH", at, json=to_jsonable_python(given)).json()


def _rule(schedule: Schedule) -> dict[str, Any]:
    """A schedule as the API takes it: times in seconds."""
    rule = {each.name: getattr(schedule, each.name) for each in fields(schedule)}
    rule["interval"] = None if schedule.interval is None else schedule.interval.total_seconds()
    given: dict[str, Any] = to_jsonable_python(rule)
    return given


def _meant(wanted: Query) -> dict[str, Any]:
    return {
        "task": wanted.task,
        "key": wanted.key,
        "older_than": wanted.older_than,
        "expired": wanted.expired_only,
    }
