"""The seam between a Celery worker that has claimed a run, and what its work pool says of where it goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from orchestra import lazy
from orchestra.engine.deployed import Job
from orchestra.engine.heartbeat import Heart
from orchestra.engine.segment import Segment
from orchestra.engine.unknown import unknown_flow
from orchestra.errors import Cancelled
from orchestra.runners.carrier import Carrier
from orchestra.store import claims
from orchestra.store.claims import Claimed
from orchestra.store.database import Database
from orchestra.work_pools import type_named


@dataclass(frozen=True, slots=True)
class Assignment:
    """A claimed run of a deployment, its job, and what there is to carry it out with."""

    database: Database
    claimed: Claimed
    job: Job
    carrier: Carrier
    heart: Heart

    def keep_outcome(self, error: BaseException) -> bool:
        """Note that the body ended by this; as `Segment.keep_outcome`. Nothing is kept of a run that is cancelled."""
        try:
            return self._segment(self.claimed).keep_outcome(error)
        except Cancelled:
            return True

    def end_without_code(self) -> None:
        """End the run as was noted, or as cancelled, here, where its flow is not loaded: its hooks are owed."""
        claim = self.claimed.claim
        now = claims.lent(self.database, claim.run_id, claim.owner)
        if now is not None:
            self._segment(now).run()

    def _segment(self, claimed: Claimed) -> Segment:
        flow = unknown_flow(claimed.row["path"], claimed.row["flow_name"])
        return Segment(self.database, flow, claimed, self.carrier, self.heart)


class JobWorker(ABC):
    """Carries out runs of one type of work pool. Made for each; a `WorkPoolType` names its class as `worker`."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment

    @abstractmethod
    def carry_out(self) -> bool:
        """Carry the run on as far as it goes, and return when the claim on it is over.

        Whatever happens to it, the claim ends: the run has parked, ended, or was given back; or this raises, and the
        claim lapses.

        Returns:
            False where it goes on in this very process, as a run without a work pool does.

        Raises:
            StoreError: The database is away; the run is taken up again when it is back.
        """


def carry_out(database: Database, claimed: Claimed, job: Job, carrier: Carrier, heart: Heart) -> bool:
    """Carry a claimed run with a work pool out as that says.

    Returns:
        False where it goes on in this very process.

    Raises:
        StoreError: The database is away; the claim lapses.
    """
    worker: type[JobWorker] = lazy.resolve(type_named(job.kind).worker)
    return worker(Assignment(database, claimed, job, carrier, heart)).carry_out()
