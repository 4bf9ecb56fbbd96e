"""Flows with transactions, and what they did, for tests that kill their workers."""

from __future__ import annotations

import time
from typing import Any

from orchestra import flow, runtime, sleep, task
from orchestra.context import task_run_context
from orchestra.errors import RollbackFailed
from orchestra.transactions import IsolationLevel, Transaction, transaction

#: What bodies and hooks did, in order.
effects: list[str] = []
#: Turns code into other code.
switch: dict[str, bool] = {}
#: The idempotency keys that bodies and hooks saw, by what they did.
keys: dict[str, list[str]] = {}


def did(what: str) -> None:
    """Note it."""
    effects.append(what)
    running = task_run_context.get()
    if running is not None:
        keys.setdefault(what, []).append(running.idempotency_key)


@task
def book(what: str) -> str:
    """Can be undone."""
    did(f"book {what}")
    return what


@book.on_rollback
def cancel(txn: Transaction) -> None:
    """Undoes it."""
    did(f"cancel for {txn.get('customer')}")


@book.on_commit
def confirm(txn: Transaction) -> None:
    """Makes it final."""
    did("confirm")


@task(retries=2, retry_delay_seconds=5)
def release(what: str) -> None:
    """Undoes at the second try, later."""
    did(f"release {what}")
    if effects.count(f"release {what}") < 2:
        raise ConnectionError("not yet")


def undo(what: str) -> None:
    """A plain function."""
    did(f"undo {what}")
    if switch.get(f"{what} fails"):
        raise ConnectionError(f"{what} cannot be undone")


def note(what: str) -> None:
    """A plain function."""
    did(what)


@flow
def trip(fails: bool) -> str:
    """Direct, submitted, nested; parks in the middle."""
    with transaction() as txn:
        txn.set("customer", "Ada")
        txn.on_rollback(undo, "search")
        txn.on_commit(note, "sent")
        book("flight")
        with transaction() as inner:
            book.submit("hotel").result()
            inner.on_rollback(undo, "hotel")
        sleep(60)
        book.submit("car")
        if fails:
            raise ValueError("no")
    return "booked"


@flow
def catching() -> str:
    """Goes on after its block was rolled back."""
    try:
        with transaction() as txn:
            txn.set("customer", "Ada")
            book("flight")
            if not switch.get("mended"):
                raise ValueError("no")
            book("hotel")
    except ValueError as error:
        return f"{error}: {book('bus')}"
    return "not reached"


@flow
def later_hook() -> None:
    """A hook whose next try is due later."""
    with transaction() as txn:
        txn.on_rollback(undo, "first")
        txn.on_rollback(release, "seat")
        raise ValueError("no")


@flow(timeout_seconds=30)
def timed_out() -> None:
    """Is over its time inside of a block."""
    with transaction() as txn:
        txn.set("customer", "Ada")
        book("flight")
        sleep(60)


@flow(timeout_seconds=1.0)
def interrupted() -> None:
    """Is stopped in the midst of its own code inside of a block."""
    with transaction() as txn:
        txn.set("customer", "Ada")
        book("flight")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            time.sleep(0.01)


@flow
def retried() -> Any:
    """Fails until it is mended."""
    with transaction() as txn:
        txn.set("customer", "Ada")
        key = book("flight")
        if not switch.get("mended"):
            raise ValueError("no")
    return [key, runtime.flow_run.run_count]


@flow
def swallowing() -> str:
    """Makes nothing of a rollback that failed."""
    try:
        with transaction() as txn:
            txn.on_rollback(undo, "first")
            txn.on_rollback(undo, "second")
            raise ValueError("no")
    except RollbackFailed:
        return "went on"


@task(persist_result=False)
def deadly() -> None:
    """What kills its worker."""
    did("deadly")


@flow
def crashing() -> None:
    """Kills its worker inside of a block."""
    with transaction() as txn:
        txn.set("customer", "Ada")
        book("flight")
        deadly()


@flow
def many(count: int) -> None:
    """So many blocks, with nothing in them."""
    for _ in range(count):
        with transaction():
            pass


@flow
def one_at_a_time(key: str, fails: bool = False) -> str:
    """Books once for a key, and parks in the midst of it."""
    with transaction(key=key, isolation_level=IsolationLevel.SERIALIZABLE) as txn:
        if txn.is_committed():
            return "found it"
        txn.set("customer", "Ada")
        book(key)
        sleep(60)
        assert not fails
        txn.stage(key)
    return "did it"
