"""Fires the schedules of deployments: in beat, or in the sweeper's leader where beat runs another scheduler."""

from __future__ import annotations

import logging

from orchestra import clock
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.engine import firing
from orchestra.errors import OrchestraError
from orchestra.store import ticks
from orchestra.store.database import Database, database

logger = logging.getLogger("orchestra.schedules")

#: A change of a schedule is seen, and a fire time met, within this time, in seconds.
LONGEST_WAIT = 1.0
#: How often late runs are looked for, and how often a failure is told, in seconds.
_LATE_EVERY, _COMPLAIN_EVERY = 5.0, 60.0


class Lateness:
    """Shows runs that nobody takes up in time as late, and says of which queues that is so."""

    def __init__(self) -> None:
        self._late_at = float("-inf")
        #: When it was said of a queue that no worker listens on it.
        self._told_at: dict[str, float] = {}

    def look(self, opened: Database) -> None:
        """Look for them, every few seconds."""
        if clock.monotonic() < self._late_at:
            return
        self._late_at = clock.monotonic() + _LATE_EVERY
        for queue, number in firing.mark_late(opened).items():
            if clock.monotonic() - self._told_at.get(queue, float("-inf")) < _COMPLAIN_EVERY:
                continue
            self._told_at[queue] = clock.monotonic()
            logger.warning(
                "no worker listens on queue %r, %d runs are late: start one: `orchestra worker start -q %s`",
                queue, number, queue,
            )  # fmt: skip


class Ticker:
    """Fires the schedules of deployments that are due. A failing turn is logged and repeated."""

    def __init__(self, carrier: CeleryCarrier) -> None:
        self._carrier = carrier
        self._complained_at = float("-inf")
        self._lateness = Lateness()
        #: The database's clock at the last turn; at first, whatever it says is later.
        self._moment = float("inf")

    def turn(self) -> float:
        """Fire what is due; gives the seconds until the next turn, at most one."""
        try:
            return self._fire(database())
        except Exception as error:
            self._complain(error)
            return LONGEST_WAIT

    def _fire(self, opened: Database) -> float:
        moment, announcements = firing.fire_due(opened, self._route)
        self._carrier.announce(announcements)
        if moment < self._moment - 1.0 and (number := ticks.turn_back(opened)):
            logger.warning("the clock was set back: %d schedules count from now on again", number)
        self._moment = moment
        self._lateness.look(opened)
        earliest = ticks.earliest(opened)
        wait = LONGEST_WAIT if earliest is None else earliest - opened.now()
        return max(min(wait, LONGEST_WAIT), 0.0)

    def _route(self, entrypoint: str) -> tuple[str, int | None]:
        queue, priority = self._carrier.route(entrypoint)
        return queue or self._carrier.default_queue, priority

    def _complain(self, error: Exception) -> None:
        if clock.monotonic() - self._complained_at < _COMPLAIN_EVERY:
            return
        self._complained_at = clock.monotonic()
        known = isinstance(error, OrchestraError)
        logger.warning("schedules cannot be fired; trying on: %s", error, exc_info=None if known else error)
