"""The part of the database's client about what operators look after: deployments, pools, workers, limits, access.

Each method is one of `HttpOperations` too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from orchestra import accounts, lazy
from orchestra.accounts import Scope
from orchestra.concurrency import limits
from orchestra.concurrency.limits import HolderRecord, Limit
from orchestra.deployment_options import RunOptions
from orchestra.engine import deployed, operations, upcoming
from orchestra.engine import work_pools as acting
from orchestra.engine.upcoming import UpcomingRun
from orchestra.schedules import Schedule
from orchestra.store import (
    access,
    cache,
    cache_records,
    deployments,
    queries,
    slot_records,
    transaction_records,
    work_pools,
    worker_records,
    workers,
)
from orchestra.store.access import ApiKey, User
from orchestra.store.cache import Query
from orchestra.store.cache_records import CacheEntry
from orchestra.store.database import Database
from orchestra.store.deployments import Deployment, NewDeployment
from orchestra.store.queries import FlowRun, Page
from orchestra.store.slot_records import SlotRecord, Slots
from orchestra.store.transaction_records import TransactionDetails, TransactionRecord
from orchestra.store.work_pools import WorkPool, WorkQueue
from orchestra.store.worker_records import WorkerRecord


class DatabaseOperations:
    """Asks the database."""

    def __init__(self, db: Database) -> None:
        self.db = db

    # -- deployments ---------------------------------------------------------------------------------------------

    def list_deployments(self, **wanted: Any) -> Page[Deployment]:
        """As `deployments.list_deployments`."""
        return deployments.list_deployments(self.db, **wanted)

    def read_deployment(self, name: str) -> Deployment:
        """As `deployments.read`."""
        return deployments.read(self.db, name)

    def set_paused(self, name: str, paused: bool) -> None:
        """As `deployments.set_paused`."""
        deployments.set_paused(self.db, name, paused)

    def start_deployment(self, name: str, parameters: Mapping[str, Any], **options: Unpack[RunOptions]) -> str:
        """Start a run of a deployment; gives its id. As `run_deployment` otherwise."""
        return str(lazy.load("start_deployment")(name, parameters, **options).id)

    def keep_deployment(self, new: NewDeployment, schedules: Iterable[Schedule] | None) -> str:
        """As `work_pools.keep_deployment`."""
        return acting.keep_deployment(self.db, new, schedules)

    def change_deployment(self, name: str, **changes: Any) -> Deployment:
        """As `work_pools.change_deployment`.

        Raises:
            ParameterTypeError: The parameters do not fit its schema.
        """
        if "parameters" in changes and changes.get("enforce_parameter_schema", True):
            deployed.check_some(self.read_deployment(name), changes["parameters"])
        return acting.change_deployment(self.db, name, **changes)

    def delete_deployment(self, name: str) -> None:
        """As `work_pools.delete_deployment`."""
        acting.delete_deployment(self.db, name)

    def add_schedule(self, name: str, schedule: Schedule, *, replace: bool = False) -> str:
        """As `deployments.add_schedule`.

        Raises:
            ParameterTypeError: Its parameters do not fit the deployment's schema.
        """
        deployed.check_some(self.read_deployment(name), schedule.parameters)
        return deployments.add_schedule(self.db, name, schedule, replace=replace)

    def set_schedule_active(self, name: str, schedule: str, active: bool) -> None:
        """As `deployments.set_active`."""
        deployments.set_active(self.db, name, schedule, active)

    def delete_schedule(self, name: str, schedule: str) -> None:
        """As `deployments.delete_schedule`."""
        deployments.delete_schedule(self.db, name, schedule)

    def clear_schedules(self, name: str) -> int:
        """As `deployments.clear_schedules`."""
        return deployments.clear_schedules(self.db, name)

    # -- work pools and workers ----------------------------------------------------------------------------------

    def list_pools(self, *, limit: int, after: str | None) -> Page[WorkPool]:
        """As `work_pools.list_pools`."""
        return work_pools.list_pools(self.db, limit=limit, after=after)

    def read_pool(self, name: str) -> WorkPool:
        """As `work_pools.read`."""
        return work_pools.read(self.db, name)

    def create_pool(self, name: str, type: str, **values: Any) -> WorkPool:
        """As `work_pools.create`."""
        return work_pools.create(self.db, name, type, **values)

    def change_pool(self, name: str, **changes: Any) -> WorkPool:
        """As `engine.work_pools.change`."""
        return acting.change(self.db, name, **changes)

    def delete_pool(self, name: str) -> None:
        """As `engine.work_pools.delete`."""
        acting.delete(self.db, name)

    def list_queues(self, pool: str | None = None) -> list[WorkQueue]:
        """As `work_pools.list_queues`."""
        return work_pools.list_queues(self.db, pool)

    def read_queue(self, pool: str, name: str) -> WorkQueue:
        """As `work_pools.read_queue`."""
        return work_pools.read_queue(self.db, pool, name)

    def create_queue(self, pool: str, name: str, **values: Any) -> WorkQueue:
        """As `work_pools.create_queue`."""
        return work_pools.create_queue(self.db, pool, name, **values)

    def change_queue(self, pool: str, name: str, **changes: Any) -> WorkQueue:
        """As `engine.work_pools.change_queue`."""
        return acting.change_queue(self.db, pool, name, **changes)

    def delete_queue(self, pool: str, name: str) -> None:
        """As `engine.work_pools.delete_queue`."""
        acting.delete_queue(self.db, pool, name)

    def waiting_runs(self, pool: str, queue: str | None, *, limit: int) -> list[FlowRun]:
        """As `queries.waiting_runs`, of a work pool or one of its queues."""
        return queries.waiting_runs(self.db, work_pools.celery_queues(self.db, pool, queue), limit=limit)

    def upcoming_runs(self, pool: str, queue: str | None, *, limit: int) -> list[UpcomingRun]:
        """As `upcoming.of_pool`."""
        return upcoming.of_pool(self.db, pool, limit, queue=queue)

    def slots(self, pool: str) -> list[Slots]:
        """As `slot_records.slots`, of the queues of a work pool."""
        return slot_records.slots(self.db, work_pools.list_queues(self.db, pool))

    def slot_holders(self, pool: str) -> list[SlotRecord]:
        """As `slot_records.holders`, of the queues of a work pool."""
        return slot_records.holders(self.db, pool, [each.name for each in work_pools.list_queues(self.db, pool)])

    def slots_by_queue(self) -> dict[str, int]:
        """As `workers.slots_by_queue`."""
        return workers.slots_by_queue(self.db)

    def list_workers(self, *, limit: int, after: str | None, pool: str | None = None) -> Page[WorkerRecord]:
        """As `worker_records.list_workers`."""
        return worker_records.list_workers(self.db, limit=limit, after=after, pool=pool)

    def read_worker(self, name: str) -> WorkerRecord:
        """As `worker_records.read`."""
        return worker_records.read(self.db, name)

    # -- concurrency limits --------------------------------------------------------------------------------------

    def create_limit(self, name: str, limit: int, *, active: bool, slot_decay_per_second: float) -> Limit:
        """As `limits.create_limit`."""
        return limits.create_limit(name, limit, active=active, slot_decay_per_second=slot_decay_per_second)

    def list_limits(self) -> list[Limit]:
        """As `limits.list_limits`."""
        return limits.list_limits()

    def read_limit(self, name: str) -> Limit:
        """As `limits.read_limit`."""
        return limits.read_limit(name)

    def read_holders(self, name: str) -> list[HolderRecord]:
        """As `limits.read_holders`."""
        return limits.read_holders(name)

    def update_limit(
        self,
        name: str,
        *,
        limit: int | None = None,
        active: bool | None = None,
        slot_decay_per_second: float | None = None,
    ) -> Limit:
        """As `limits.update_limit`."""
        return limits.update_limit(name, limit=limit, active=active, slot_decay_per_second=slot_decay_per_second)

    def delete_limit(self, name: str) -> None:
        """As `limits.delete_limit`."""
        limits.delete_limit(name)

    # -- cached results and transactions -------------------------------------------------------------------------

    def list_cache(self, wanted: Query, *, limit: int, after: str | None) -> Page[CacheEntry]:
        """As `cache_records.list_entries`."""
        return cache_records.list_entries(self.db, wanted, limit=limit, after=after)

    def clear_cache(self, wanted: Query) -> int:
        """As `cache.clear`."""
        return cache.clear(self.db, wanted)

    def list_transactions(
        self, *, flow_run_id: str | None, states: Sequence[str], limit: int, after: str | None
    ) -> Page[TransactionRecord]:
        """As `transaction_records.list_transactions`."""
        return transaction_records.list_transactions(
            self.db, flow_run_id=flow_run_id, states=states, limit=limit, after=after
        )

    def read_transaction(self, flow_run_id: str, key: str | None) -> TransactionDetails:
        """As `transaction_records.read`."""
        return transaction_records.read(self.db, flow_run_id, key)

    def retry_rollback(self, flow_run_id: str, key: str | None) -> TransactionRecord:
        """As `operations.retry_rollback`."""
        return transaction_records.record_of(operations.retry_rollback(self.db, flow_run_id, key))

    # -- who may use the server ----------------------------------------------------------------------------------

    def list_users(self) -> list[User]:
        """As `access.list_users`."""
        return access.list_users(self.db)

    def create_user(self, name: str, password: str, scope: Scope) -> None:
        """As `accounts.create_user`."""
        accounts.create_user(self.db, name, password, scope)

    def update_user(self, name: str, *, password: str | None, scope: Scope | None, disabled: bool | None) -> None:
        """As `accounts.update_user`."""
        accounts.update_user(self.db, name, password=password, scope=scope, disabled=disabled)

    def delete_user(self, name: str) -> None:
        """As `access.delete_user`."""
        access.delete_user(self.db, name)

    def list_keys(self) -> list[ApiKey]:
        """As `access.list_keys`."""
        return access.list_keys(self.db)

    def create_key(self, name: str, scope: Scope, expires_in: float | None) -> str:
        """As `accounts.create_key`."""
        return accounts.create_key(self.db, name, scope, expires_in)

    def delete_key(self, name: str) -> None:
        """As `access.delete_key`."""
        access.delete_key(self.db, name)
