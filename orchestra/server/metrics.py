"""`/metrics`: the numbers of this installation in Prometheus' text form, counted from the database.

They are counted at most once in a few seconds, however often and by however many they are asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.responses import Response

from orchestra import clock
from orchestra.accounts import Scope
from orchestra.server.dependencies import Db, require
from orchestra.server.throughput import throughput_of
from orchestra.states import FINAL, StateType
from orchestra.store import metrics, queries, run_lists, work_pools, workers
from orchestra.store.database import Database

router = APIRouter(tags=["health"], dependencies=[Depends(require(Scope.READ))])

#: For how long what was counted is given again, in seconds.
KEPT = 5.0


class _Kept:
    """What was counted last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted_at, self._text = float("-inf"), b""
        self._database: Database | None = None

    def text(self, db: Database) -> bytes:
        """Counted anew where it is too old; who asks meanwhile waits for that."""
        with self._lock:
            if clock.monotonic() - self._counted_at > KEPT or self._database is not db:
                registry = CollectorRegistry()
                registry.register(_Collector(db))
                self._text, self._database = generate_latest(registry), db
                self._counted_at = clock.monotonic()
            return self._text


_kept = _Kept()


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
def read_metrics(db: Db) -> Response:
    """Runs by state, depth and age of queues, lateness of schedules, the last sweep, workers, slots of pools."""
    return Response(_kept.text(db), media_type=CONTENT_TYPE_LATEST)


class _Collector:
    """Counts when it is asked."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All of them."""
        numbers = metrics.read(self._db)
        yield _gauge(
            "orchestra_flow_runs",
            "Flow runs by the type of their state.",
            "state",
            self._runs(),
        )
        found = {(each.queue, each.kind): each for each in numbers.waiting}
        yield _gauge(
            "orchestra_queue_due",
            "Runs and tasks that are due and wait for a worker.",
            "queue kind",
            {key: each.count for key, each in found.items()},
        )
        yield _gauge(
            "orchestra_queue_oldest_due_seconds",
            "For how long the oldest of them is due.",
            "queue kind",
            {key: each.oldest for key, each in found.items()},
        )
        yield GaugeMetricFamily(
            "orchestra_schedule_lateness_seconds",
            "For how long the most overdue schedule is due.",
            value=numbers.schedule_lateness,
        )
        if numbers.last_sweep is not None:
            yield GaugeMetricFamily(
                "orchestra_last_sweep_seconds", "How long ago a sweeper did its rounds.", value=numbers.last_sweep
            )
        yield from self._workers()

    def _runs(self) -> dict[tuple[str, ...], float]:
        ended = throughput_of(self._db).all(self._db)
        final = {state: getattr(ended, state.value.lower()) for state in FINAL}
        counts = run_lists.count_open(self._db) | final
        return {(state.value,): counts.get(state, 0) for state in StateType}

    def _workers(self) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily("orchestra_workers", "Workers that live.", value=len(workers.live(self._db)))
        slots = workers.slots_by_queue(self._db)
        yield _gauge(
            "orchestra_queue_slots",
            "Slots of live workers by the queue that they consume.",
            "queue",
            {(queue,): count for queue, count in slots.items()},
        )
        queues = work_pools.list_queues(self._db)
        at_work = queries.runs_by_queue(self._db, [each.celery_queue for each in queues])
        used: dict[tuple[str, ...], float] = {}
        of_pool: dict[tuple[str, ...], float] = {}
        for each in queues:
            pool = (each.work_pool_name,)
            used[pool] = used.get(pool, 0) + at_work.get(each.celery_queue, (0, 0))[0]
            of_pool[pool] = of_pool.get(pool, 0) + slots.get(each.celery_queue, 0)
        yield _gauge("orchestra_work_pool_runs", "Flow runs at work or parked, by work pool.", "pool", used)
        yield _gauge("orchestra_work_pool_slots", "Slots of live workers, by work pool.", "pool", of_pool)


def _gauge(name: str, said: str, labels: str, values: dict[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, said, labels=labels.split())
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family
