"""Concurrency limits for coroutines: in flows, in tasks, and outside of any run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from orchestra import lazy
from orchestra.concurrency import blocks
from orchestra.errors import AcquireConcurrencySlotTimeoutError, ConcurrencySlotAcquisitionError

__all__ = ["AcquireConcurrencySlotTimeoutError", "ConcurrencySlotAcquisitionError", "concurrency", "rate_limit"]


@asynccontextmanager
async def concurrency(
    names: str | Sequence[str],
    occupy: int = 1,
    timeout_seconds: float | None = None,
    max_retries: int | None = None,
    lease_duration: float = 300.0,
    strict: bool = False,
    holder: Mapping[str, Any] | None = None,
    raise_on_lease_renewal_failure: bool | None = None,
) -> AsyncIterator[None]:
    """Have slots of concurrency limits while inside; who asks first is served first. The event loop is not held up.

    In the body of a flow on a worker the wait is a step: when all branches wait the run parks, without a worker slot.

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
    async with lazy.load("slots").held_async(asked) if runner is None else runner.slots_async(asked):
        yield


async def rate_limit(
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
    runner = blocks.body_runner()
    if runner is None:
        seconds = await asyncio.to_thread(blocks.reserve, names, occupy, timeout_seconds, strict)
        await asyncio.sleep(max(seconds, 0.0))
        return
    seconds = blocks.reserve(names, occupy, timeout_seconds, strict)
    if seconds > 0:
        await runner.sleep_async(seconds)
