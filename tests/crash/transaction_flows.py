"""Flows with transactions whose tasks and hooks note in the ledger; some kill their process once."""

from __future__ import annotations

import os
import time

from orchestra import flow, task
from orchestra.transactions import Transaction, transaction
from tests.crash import ledger


@task
def book(what: str) -> str:
    """Can be undone."""
    with ledger.entry():
        return what


@book.on_rollback
def cancel(txn: Transaction) -> None:
    """Undoes it."""
    with ledger.entry():
        time.sleep(0.02)


@book.on_commit
def confirm(txn: Transaction) -> None:
    """Makes it final."""
    with ledger.entry():
        time.sleep(0.02)


def release(what: str) -> None:
    """A plain function."""
    with ledger.entry():
        time.sleep(0.02)


@task
def deadly_release(what: str) -> None:
    """Kills its process the first time."""
    with ledger.entry():
        if ledger.is_first():
            os.kill(os.getpid(), 9)


@task
def hold(seconds: float) -> None:
    """Takes long."""
    with ledger.entry():
        time.sleep(seconds)


@flow
def trip(fails: bool) -> str:
    """Direct and submitted, and a function."""
    with transaction() as txn:
        txn.on_rollback(release, "search")
        book("flight")
        book.submit("hotel").result()
        txn.on_commit(release, "sent")
        if fails:
            raise ValueError("no")
    return "booked"


@flow
def killed_in_a_hook() -> None:
    """The second of three hooks kills its process once."""
    with transaction() as txn:
        book("flight")
        txn.on_rollback(deadly_release, "seat")
        book("hotel")
        raise ValueError("no")


@flow
def held(seconds: float) -> None:
    """Is cancelled while a task of its block runs."""
    with transaction():
        book("flight")
        hold.submit(seconds).result()
