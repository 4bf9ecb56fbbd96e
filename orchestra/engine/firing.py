"""Fire what is due: the runs that schedules owe, made and written; and show what is late.

Safe to do in any number of processes at once, and to be killed in at any moment (`store.ticks`).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from orchestra import clock, names, states
from orchestra.engine import deployed
from orchestra.engine.values import ending_of
from orchestra.errors import ParameterTypeError, StoreError, StoreUnavailable
from orchestra.fire_times import due, next_time
from orchestra.results import check_parameters
from orchestra.schedules import Schedule
from orchestra.serializers import clean_text, encode
from orchestra.store import ticks, workers
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database
from orchestra.store.journal import Ending
from orchestra.store.runs import NewRun
from orchestra.store.ticks import Firing

logger = logging.getLogger("orchestra.schedules")

#: Schedules looked at in one go, and runs written in one transaction; more come in the next.
_PAGE, _MOST_RUNS = 100, 500
#: A schedule that cannot be fired is tried again after so many seconds.
_PUT_OFF = 60.0

#: Queue and priority of a run whose deployment names no queue, by the flow's entrypoint.
Router = Callable[[str], tuple[str, int | None]]


def fire_due(database: Database, route: Router) -> tuple[float, list[Announcement]]:
    """Write the runs that are due, of a page of schedules at most; gives the instant at which that was, and what to
    announce.

    Raises:
        StoreError: The database does not take it; nothing is lost by that.
    """
    moment, rows = ticks.find_due(database, _PAGE)
    announcements = []
    batch: list[Firing] = []
    for row in rows:
        batch.append(firing_of(row, moment, route))
        if sum(len(each.new) for each in batch) >= _MOST_RUNS:
            announcements += _fire(database, batch, moment)
            batch = []
    return moment, announcements + (_fire(database, batch, moment) if batch else [])


def _fire(database: Database, batch: list[Firing], moment: float) -> list[Announcement]:
    try:
        return ticks.fire(database, batch)
    except StoreUnavailable:
        raise
    except StoreError as error:
        if len(batch) == 1:
            return ticks.fire(database, [_put_off(batch[0].row, moment, error)])
        # One that the database refuses holds up no other.
        return [announcement for each in batch for announcement in _fire(database, [each], moment)]


def firing_of(row: Any, moment: float, route: Router) -> Firing:
    """What a schedule owes by now, and when it is to be looked at next: nothing of it is written yet."""
    if row.paused or not row.active:
        return Firing(row, [], moment, None)
    try:
        schedule = schedule_of(row)
        owed = due(schedule, row.fired_at, moment)
        new = [(fire_at, _new_run(row, schedule, fire_at, route)) for fire_at in owed.times]
        first = next_time(schedule, row.fired_at)
        # Of what was missed, `catchup` and `max_late` leave the newest.
        is_skipped = first is not None and first <= owed.through and owed.times[:1] != [first]
        return Firing(row, new, owed.through, next_time(schedule, owed.through), first if is_skipped else None)
    except Exception as error:
        # One that nobody can fire (a zone that this host does not know, say) holds up no other.
        return _put_off(row, moment, error)


def _put_off(row: Any, moment: float, error: Exception) -> Firing:
    logger.error(
        "schedule %s of deployment %r cannot be fired (%s: %s); trying again in %d s: mend it by "
        "`orchestra deployment schedule`, or deploy again",
        row.slug or row.id, f"{row.flow_name}/{row.deployment_name}", type(error).__name__, error, _PUT_OFF,
    )  # fmt: skip
    return Firing(row, [], row.fired_at, moment + _PUT_OFF)


def schedule_of(row: Any) -> Schedule:
    """The schedule that a row keeps."""
    return Schedule(
        cron=row.cron,
        interval=None if row.interval is None else timedelta(seconds=row.interval),
        rrule=row.rrule,
        timezone=row.timezone,
        anchor_date=clock.to_datetime(row.anchor),
        day_or=row.day_or,
        parameters=json.loads(row.parameters),
        catchup=row.catchup,
        catchup_max=row.catchup_max,
        max_late=row.max_late,
    )


def _new_run(row: Any, schedule: Schedule, fire_at: float, route: Router) -> NewRun:
    """The run of a fire time. Where its parameters do not fit the deployment's schema it is written as one that has
    failed, where everybody sees that."""
    what = f"the set of parameters of deployment {row.deployment_name!r}"
    parameters = json.loads(row.deployment_parameters) | schedule.parameters
    routed, priority = (row.queue, None) if row.queue else route(row.entrypoint)
    return NewRun(
        flow_name=row.flow_name,
        path=row.entrypoint,
        entrypoint=row.entrypoint,
        name=names.run_name(),
        parameters=check_parameters(encode(parameters, what=what), what=what),
        options=row.options,
        description=row.description,
        queue=routed,
        priority=row.priority if row.priority is not None else priority,
        due_at=fire_at,
        idempotency_key=f"{row.id}/{fire_at:.6f}",
        tags=sorted({clean_text(tag) for tag in json.loads(row.tags)}),
        version=row.flow_version,
        timeout_seconds=row.timeout_seconds,
        has_hooks=row.has_hooks,
        deployment_id=row.deployment_id,
        failed=_misfit(row, parameters),
    )


def _misfit(row: Any, parameters: dict[str, Any]) -> Ending | None:
    """How a run ends whose parameters do not fit; None where they do, or need not."""
    if not row.enforce_parameter_schema:
        return None
    name = f"{row.flow_name}/{row.deployment_name}"
    try:
        deployed.check(name, json.loads(row.parameter_schema), parameters)
    except ParameterTypeError as error:
        logger.error("schedule %s: %s; its runs fail until it is deployed again", row.slug or row.id, error)
        return ending_of(states.from_exception(error), what="an error")[0]
    return None


def mark_late(database: Database) -> Counter[str]:
    """Show runs of deployments that nobody has taken up in time as `Late`; of these, how many wait in each queue that
    no worker listens on."""
    late = Counter(queue for _, queue in ticks.mark_late(database))
    slots = workers.slots_by_queue(database) if late else {}
    return Counter({queue: number for queue, number in late.items() if not slots.get(queue)})
