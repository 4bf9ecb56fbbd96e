"""Flows whose states are told."""

from __future__ import annotations

import threading
from collections import Counter

from orchestra import allow_failure, flow, task
from orchestra.cache_policies import INPUTS

#: How often each body was called.
calls: Counter[str] = Counter()
#: A body of `held` has begun; it may end.
began, may_end = threading.Event(), threading.Event()


def fresh() -> None:
    """Forget what was called."""
    calls.clear()
    began.clear()
    may_end.clear()


def _once_wrong(name):
    calls[name] += 1
    if calls[name] == 1:
        raise RuntimeError("not yet")
    return calls[name]


@task
def plain():
    calls["plain"] += 1


@task(retries=1)
def at_once():
    return _once_wrong("at once")


@task(retries=1, retry_delay_seconds=3600)
def much_later():
    return _once_wrong("much later")


@task(tags=["db"])
def limited():
    calls["limited"] += 1


class BusyAtFirst:
    """Locks that another one has, the first three times they are asked for."""

    def acquire_lock(self, key, holder, acquire_timeout=None, hold_timeout=None):
        calls["lock"] += 1
        return calls["lock"] > 3

    def release_lock(self, key, holder):
        pass


@task(cache_policy=INPUTS.configure(lock_manager=BusyAtFirst(), isolation_level="SERIALIZABLE"))
def computed(x=1):
    calls["computed"] += 1


@task
def held():
    began.set()
    assert may_end.wait(20)


@task
def wrong():
    raise ValueError("wrong")


@flow
def one(which, submitted):
    """One task run, called or submitted."""
    tasks = {"plain": plain, "at once": at_once, "much later": much_later, "limited": limited, "computed": computed}
    body = {**tasks, "held": held}[which]
    return body.submit().result() if submitted else body()


@flow
def chained():
    """One task waits for another, a third for one that fails."""
    first = plain.submit()
    bad = wrong.submit()
    later, never = plain.submit(wait_for=[first]), plain.submit(wait_for=[bad])
    later.result()
    never.wait()
    return "end"


@flow(retries=1)
def tried_again():
    """The run itself is tried twice."""
    plain()
    return _once_wrong("flow")


@flow
def mixed():
    """Direct and submitted calls, one that is tried twice, and a wait in between."""
    plain()
    second = at_once.submit().result()
    plain()
    third = allow_failure(plain.submit())
    return [second, plain.submit(wait_for=[third]).result()]
