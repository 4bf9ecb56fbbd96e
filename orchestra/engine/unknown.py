"""Runs and steps that wait for what is not there: a worker that has their code, or their result storage."""

from __future__ import annotations

import logging
from typing import Any

from orchestra import settings
from orchestra.errors import DefinitionNotFound, ResultStorageUnavailable
from orchestra.serializers import clean_text
from orchestra.specs import FlowSpec
from orchestra.store import claims
from orchestra.store.claims import Claim
from orchestra.store.database import Database

_logger = logging.getLogger("orchestra.engine")

#: For how long one waits before it is tried again, in seconds.
UNKNOWN_WAIT = 5.0


def wait_for_code(database: Database, claim: Claim, error: DefinitionNotFound) -> None:
    """Leave a run or step to a worker that knows its code, and say for what it waits."""
    message = f"waiting for a worker that knows it: {error}"
    _logger.warning("%s: %s", claims.name_of(claim), message)
    claims.give_back(database, claim, due_in=UNKNOWN_WAIT, message=clean_text(message), begun=False)


def wait_for_storage(database: Database, claim: Claim, error: ResultStorageUnavailable) -> None:
    """Leave a run or step until its result storage may be back, and say for what it waits. No lapse is counted.

    What was not recorded is done again then. A crash before leaves it to the lapse of the claim.
    """
    _logger.warning("%s waits: %s", claims.name_of(claim), error)
    seconds = settings.current().lease_seconds
    claims.give_back(database, claim, due_in=seconds, message=clean_text(f"waiting for its result storage: {error}"))


def unknown_flow(path: str, name: str) -> FlowSpec:
    """What stands for a flow whose code is not here: enough to say which it is, nothing to call."""
    return FlowSpec(fn=_unknown, name=name, path=path, validate_parameters=False)


def is_unknown(flow: FlowSpec) -> bool:
    """Whether this only stands for a flow whose code is not here."""
    return flow.fn is _unknown


def _unknown(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("this flow's code is not on this worker")
