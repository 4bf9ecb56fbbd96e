"""Flows whose tasks write rows of their own together with their ends, for `test_db_transactions.py`."""

from __future__ import annotations

import threading
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from orchestra import flow, task
from orchestra.runtime import task_run
from orchestra.transactions import db_transaction


class Base(DeclarativeBase):
    """The user's tables."""


class Booking(Base):
    """A seat is booked once."""

    __tablename__ = "bookings"
    seat: Mapped[int] = mapped_column(primary_key=True)
    guest: Mapped[str]


class Guest(Base):
    """Refers to a booking, which is checked at the commit only."""

    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    seat: Mapped[int] = mapped_column(sa.ForeignKey("bookings.seat", deferrable=True, initially="DEFERRED"))


#: What bodies did, in order; what a body calls before its block, and in it.
effects: list[Any] = []
before: list[Any] = []
inside: list[Any] = []


def note(what: Any) -> None:
    """Note it, and do what the test wants done inside of the block."""
    effects.append(what)
    for do in inside:
        do()


@task
def book(seat: int) -> int:
    """Books a seat."""
    for do in before:
        do()
    with db_transaction() as session:
        booking = Booking(seat=seat, guest="ada")
        session.add(booking)
        note("booked")
    return booking.seat


@task
def book_and_fail(seat: int) -> None:
    """Books a seat, and fails after the block."""
    with db_transaction() as session:
        session.add(Booking(seat=seat, guest="ada"))
    raise ValueError("no breakfast")


@task(retries=2)
def book_at_last(seat: int) -> int:
    """Books a seat in each try; the second one is good."""
    effects.append(task_run.run_count)
    with db_transaction() as session:
        session.add(Booking(seat=seat, guest=f"try {task_run.run_count}"))
    if task_run.run_count < 2:
        raise ConnectionError("not yet")
    return task_run.run_count


@task(retries=1, retry_delay_seconds=2)
def book_later(seat: int) -> int:
    """As `book_at_last`, after a delay for which a worker's slot is freed."""
    effects.append(task_run.run_count)
    with db_transaction() as session:
        session.add(Booking(seat=seat, guest=f"try {task_run.run_count}"))
    if task_run.run_count < 2:
        raise ConnectionError("not yet")
    return task_run.run_count


@task
def book_twice(first: int, second: int) -> None:
    """Two blocks, one transaction; what the third one does is undone alone."""
    with db_transaction() as session:
        session.add(Booking(seat=first, guest="ada"))
    with db_transaction() as session:
        assert session.get(Booking, first) is not None
        session.add(Booking(seat=second, guest="bob"))
    try:
        with db_transaction() as session:
            session.add(Booking(seat=99, guest="eve"))
            session.flush()
            raise LookupError
    except LookupError:
        note("undone")


@task
def book_nothing() -> str:
    """A block that raises, and a body that goes on."""
    try:
        with db_transaction() as session:
            session.add(Booking(seat=1, guest="ada"))
            session.flush()
            raise LookupError
    except LookupError:
        note("undone")
    return "nothing"


@task
def book_unkept(seat: int) -> Any:
    """Gives what nobody can keep."""
    with db_transaction() as session:
        session.add(Booking(seat=seat, guest="ada"))
    return threading.Lock()


@task
def book_large(seat: int) -> bytes:
    """Gives more than a row holds."""
    with db_transaction() as session:
        session.add(Booking(seat=seat, guest="ada"))
    return b"x" * 3_000_000


@task
def break_promise() -> None:
    """Writes what the database refuses at the commit only."""
    effects.append("tried")
    with db_transaction() as session:
        session.add(Guest(id=1, seat=404))


@task
def committing() -> None:
    """Commits, as it is used to."""
    with db_transaction() as session:
        session.add(Booking(seat=1, guest="ada"))
        session.commit()


@task(timeout_seconds=0.3)
def dawdle(seat: int) -> None:
    """Takes longer than it may, in its block, and then writes on."""
    try:
        with db_transaction() as session:
            session.add(Booking(seat=seat, guest="ada"))
            session.flush()
            note("dawdling")
            time.sleep(0.8)
            session.add(Booking(seat=seat + 1, guest="late"))
            session.flush()
    finally:
        effects.append("left")


@task
def book_in_parts() -> int:
    """Savepoints and a rollback inside of the block."""
    with db_transaction() as session:
        session.add(Booking(seat=1, guest="undone"))
        session.flush()
        session.rollback()
        session.add(Booking(seat=2, guest="ada"))
        with session.begin_nested():
            session.add(Booking(seat=3, guest="bob"))
        try:
            with session.begin_nested():
                session.add(Booking(seat=2, guest="eve"))
        except IntegrityError:
            return 2
    return 0


@task
async def fetch() -> None:
    """A coroutine function."""
    with db_transaction():
        pass


@task(persist_result=False)
def forgotten() -> None:
    """One whose end is not journaled."""
    with db_transaction():
        pass


@task
def calling() -> int:
    """Calls another task in its body."""
    return book(1)


@task
def elsewhere(url: str) -> None:
    """Wants another database."""
    with db_transaction(url) as session:
        session.add(Booking(seat=1, guest="ada"))


@flow
def one(kind: str, arguments: list[Any], submitted: bool = False) -> Any:
    """Calls, or submits, one task."""
    chosen = globals()[kind]
    return chosen.submit(*arguments).result() if submitted else chosen(*arguments)


@flow
def body_itself() -> None:
    """No task at all."""
    with db_transaction():
        pass


@flow
async def fetching(submitted: bool) -> None:
    """Calls, or submits, an async task."""
    await (fetch.submit() if submitted else fetch())


@flow
async def awaiting(seat: int) -> int:
    """An async flow that calls a plain task."""
    return book(seat)
