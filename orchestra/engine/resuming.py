"""Let a paused run go on, wherever it runs."""

from __future__ import annotations

import logging

from orchestra import lazy
from orchestra.errors import NoBroker
from orchestra.store import interventions
from orchestra.store.database import database

_logger = logging.getLogger("orchestra.engine")


def resume_flow_run(flow_run_id: str) -> None:
    """Resume the run; a worker is told at once, if a broker can be reached, and by the sweeper else.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It is not paused.
    """
    announcements = interventions.resume(database(), flow_run_id)
    if not announcements:
        return
    try:
        lazy.load("carrier")().announce(announcements)
    except NoBroker:
        _logger.info("no broker is configured here; the sweeper announces run %s", flow_run_id)
