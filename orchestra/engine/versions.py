"""Runs that are pinned to a version of their flow: a worker with another one leaves them alone.

Rows stay in their own queue `q`. Their messages travel on `q@version`, which workers consume for each version that
their flows declare; as long as no live worker does, on `q`, where a worker with another version sets them back and says
that nobody is there.
"""

from __future__ import annotations

import logging
from typing import Any

from orchestra.engine import unknown
from orchestra.errors import OtherVersion
from orchestra.names import versioned_queue
from orchestra.runners.carrier import Carrier
from orchestra.serializers import clean_text
from orchestra.specs import FlowSpec
from orchestra.store import claims, journal
from orchestra.store.announcements import Announcement
from orchestra.store.claims import Claimed
from orchestra.store.database import Database

_logger = logging.getLogger("orchestra.engine")


def check(flow: FlowSpec, wanted: str | None) -> None:
    """Check that a flow is here in the version that its run is pinned to; None: any will do.

    Raises:
        OtherVersion: It is not.
    """
    if wanted is not None and flow.version != wanted and not unknown.is_unknown(flow):
        raise OtherVersion(flow.path, wanted, flow.version)


def leave(database: Database, claimed: Claimed, carrier: Carrier, error: OtherVersion) -> None:
    """Leave a claimed run or step to a worker that has its version, and say where that waits.

    A crash before leaves it to the lapse of the claim; one after it, before the message, to the sweeper.
    """
    row, claim = claimed.row, claimed.claim
    queue = row["queue"] or ""
    pinned = versioned_queue(queue, error.wanted)
    listened = bool(carrier.slots(pinned))
    # Where this worker itself consumes that queue, for another flow, it would only come back here.
    elsewhere = listened and pinned not in carrier.queues
    message = _waits(error, queue, listened)
    _logger.warning("%s: %s", claims.name_of(claim), message)
    wait = 0.0 if elsewhere else unknown.UNKNOWN_WAIT
    unstarted = claim.step_key is None and not _has_begun(database, claimed)
    told = clean_text(message)
    given = claims.give_back(database, claim, due_in=wait, message=told, unstarted=unstarted, begun=False)
    if given and elsewhere:
        carrier.announce([_announcement(row, claimed, error.wanted)])


def _has_begun(database: Database, claimed: Claimed) -> bool:
    """Whether anything of a flow run was done; its deadline counts from then on, not while it waits to begin."""
    row, claim = claimed.row, claimed.claim
    if row["streak_parks"] or row["outcome"] is not None or claim.run_attempt > 1:
        return True
    return not journal.is_empty(database, claim.run_id, 1)


def _waits(error: OtherVersion, queue: str, listened: bool) -> str:
    has = "code without a version" if error.found is None else f"version {error.found!r}"
    if listened:
        return f"waiting for a worker of version {error.wanted!r} on queue {queue!r}"
    return (
        f"no worker of version {error.wanted!r} listens on queue {queue!r}, one with {has} does: start a worker that "
        "has the code of that version, or cancel the run"
    )


def _announcement(row: Any, claimed: Claimed, version: str) -> Announcement:
    claim, queue, priority = claimed.claim, row["queue"] or "", row["priority"]
    key, attempt = claim.step_key, claim.run_attempt
    if key is None:
        name = row["flow_name"]
        return Announcement("flow", claim.run_id, attempt, None, name, queue, priority, 0.0, wake=True, version=version)
    return Announcement("step", claim.run_id, attempt, key, row["name"], queue, priority, 0.0, version=version)
