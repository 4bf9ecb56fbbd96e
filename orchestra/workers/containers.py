"""Types of work pools whose runs go on in containers: they are configured and deployed to; their workers come later."""

from __future__ import annotations

import logging

from orchestra.engine import deployed
from orchestra.engine.unknown import UNKNOWN_WAIT
from orchestra.store import claims
from orchestra.workers.base import JobWorker

logger = logging.getLogger("orchestra.worker")


class ComingLater(JobWorker):
    """Leaves a run alone and says why: it must not go on in a Celery worker's process, outside of its container."""

    def carry_out(self) -> bool:
        """Give the run back, as one that has not started."""
        given = self.assignment
        job, claim = given.job, given.claimed.claim
        reason = (
            f"waiting for a worker that starts its {job.kind} container, which orchestra does not have yet: run it in "
            f"a work pool of type process in the place of {job.pool!r}, or cancel it"
        )
        logger.warning("%s: %s", claims.name_of(claim), reason)
        deployed.give_up(given.database, given.claimed, given.carrier)
        # A crash before leaves the claim to its lapse.
        claims.give_back(given.database, claim, due_in=UNKNOWN_WAIT, message=reason, unstarted=True)
        return True
