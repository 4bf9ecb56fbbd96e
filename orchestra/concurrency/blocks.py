"""What a block, or a rate limited line, asks of whom: of the flow run whose body calls, or of this process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestra import lazy
from orchestra.context import flow_run_context, task_run_context
from orchestra.errors import DefinitionError
from orchestra.questions import LONGEST_WAIT, Slots
from orchestra.runners.base import Runner


def wanted(
    names: str | Sequence[str],
    occupy: int,
    timeout_seconds: float | None,
    max_retries: int | None = None,
    lease_duration: float = 300.0,
    strict: bool = False,
    holder: Mapping[str, Any] | None = None,
    raise_on_lease_renewal_failure: bool | None = None,
) -> Slots:
    """The slots that these arguments ask for.

    Raises:
        DefinitionError: One of them cannot be.
    """
    given = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    if not all(isinstance(name, str) and name for name in given):
        raise DefinitionError(f"names={names!r}: a concurrency limit's name is a text that is not empty")
    if occupy < 1:
        raise DefinitionError(f"occupy={occupy}: at least one slot is taken")
    if lease_duration <= 0:
        raise DefinitionError(f"lease_duration={lease_duration}: a lease lasts some seconds")
    timeout = LONGEST_WAIT if timeout_seconds is None else max(timeout_seconds, 0.0)
    return Slots(
        names=tuple(dict.fromkeys(given)),
        occupy=occupy,
        timeout=0.0 if max_retries == 0 else timeout,
        lease_seconds=lease_duration,
        strict=strict,
        must_hold=strict if raise_on_lease_renewal_failure is None else raise_on_lease_renewal_failure,
        label=None if holder is None else json.dumps(dict(holder), default=str),
    )


def body_runner() -> Runner | None:
    """The runner of the flow body that calls; None in a task's body and outside of runs."""
    flow_run = flow_run_context.get()
    return None if flow_run is None or task_run_context.get() is not None else flow_run.runner


def reserve(names: str | Sequence[str], occupy: int, timeout_seconds: float | None, strict: bool) -> float:
    """Take slots of rate limits; gives the seconds until they may be used, the same in a replay.

    Raises:
        AcquireConcurrencySlotTimeoutError: They are not to be had in that time.
        ConcurrencySlotAcquisitionError: A limit is no rate limit, or never has so many, or is not there.
    """
    asked = wanted(names, occupy, timeout_seconds, strict=strict)
    if not asked.names:
        return 0.0

    def look() -> float:
        seconds: float = lazy.load("slots").reserve(asked.names, asked.occupy, asked.timeout, asked.strict)
        return seconds

    runner = body_runner()
    return look() if runner is None else runner.observe("rate_limit", look)
