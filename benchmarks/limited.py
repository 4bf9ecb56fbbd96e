"""A limit of 10 slots shared by 8 processes of 4 threads: three times as many want one as may have one."""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

from orchestra.concurrency.sync import concurrency
from orchestra.store import limits
from orchestra.store.database import database

LIMIT, PROCESSES, THREADS = 10, 8, 4
#: Slots that each thread takes and gives back, one after another.
EACH = 20
NAME = "benchmark"


def shared() -> int:
    """How many slots all of them took and gave back."""
    return sum(_executor().map(_process, range(PROCESSES)))


@functools.cache
def _executor() -> Executor:
    """The processes; they stay for the next measurement, so that their start is in the first one only."""
    limits.create(database(), NAME, LIMIT)
    return ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"), initializer=_take_one)


def _take_one() -> None:
    """Load what it takes, and connect."""
    with concurrency(NAME, strict=True):
        pass


def _process(_: int) -> int:
    with ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(_thread, range(THREADS)))


def _thread(_: int) -> int:
    for _turn in range(EACH):
        with concurrency(NAME, strict=True):
            pass
    return EACH
