"""Concurrency limits for plain functions: in flows, in tasks, and outside of any run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from orchestra import lazy
from orchestra.concurrency import blocks
from orchestra.errors import AcquireConcurrencySlotTimeoutError, ConcurrencySlotAcquisitionError

__all__ = ["AcquireConcurrencySlotTimeoutError", "ConcurrencySlotAcquisitionError", "concurrency", "rate_limit"]


@contextmanager
def concurrency(
    names: str | Sequence[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    max_retries: int | None = None,
    lease_duration: float = 300.0,
    strict: bool = False,
    holder: Mapping[str, Any] | None = None,
    raise_on_lease_renewal_failure: bool | None = None,
) -> Iterator[None]:
    """Have slots of concurrency limits while inside; who asks first is served first.

    In the body of a flow on a worker the wait is a step: the run parks, and holds no worker slot.

    Args:
        names: Of the limits; slots of all of them are had together, or none.
        occupy: How many slots of each.
        timeout_seconds: How long to wait for them; None: without an end.
        max_retries: 0: do not wait. Any other number is taken for Prefect's sake: nobody waits by trying again.
        lease_duration: For how many seconds a process that was killed keeps the slots, where it is not seen to be dead
            before. In a flow's or task's body on a worker its lease counts instead.
        strict: A name of which there is no limit is an error; else it limits nothing, with a warning.
        holder: What `orchestra gcl inspect` shows of the holder, such as `{"type": "job", "id": "42"}`.
        raise_on_lease_renewal_failure: Raise at the end of the block if the lease was lost before; None: as `strict`.

    Raises:
        AcquireConcurrencySlotTimeoutError: They were not to be had in time. It is a TimeoutError.
        ConcurrencySlotAcquisitionError: `occupy` is more than a limit has, or (`strict`) there is none of that name.
        ConcurrencySlotLost: At the end of the block: the lease was over before.
    """
    asked = blocks.wanted(
        names,
        occupy,
        timeout_seconds,
        max_retries,
        lease_duration,
        strict,
        holder,
        raise_on_lease_renewal_failure,
    )
    if not asked.names:
        yield
        return
    runner = blocks.body_runner()
    with lazy.load("slots").held(asked) if runner is None else runner.slots(asked):
        yield


def rate_limit(
    names: str | Sequence[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    strict: bool = False,
) -> None:
    """Go on once slots of these rate limits are free; they get free again at the limits' rate, by themselves.

    Args:
        names: Of the limits, which must have `slot_decay_per_second`.
        occupy: How many slots of each.
        timeout_seconds: How long to wait for them; None: without an end. What is free only later is refused at once.
        strict: A name of which there is no limit is an error; else it limits nothing.

    Raises:
        AcquireConcurrencySlotTimeoutError: They are not to be had in that time. It is a TimeoutError.
        ConcurrencySlotAcquisitionError: A limit is no rate limit, or never has so many, or (`strict`) is not there.
    """
    seconds = blocks.reserve(names, occupy, timeout_seconds, strict)
    if seconds <= 0:
        return
    runner = blocks.body_runner()
    (time.sleep if runner is None else runner.sleep)(seconds)
