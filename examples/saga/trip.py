"""A trip is booked as a whole: flight, hotel and car, or nothing of it, whatever is killed in the meantime.

The companies' systems are a folder: a file in it is a booking, and `calls.log` holds the calls they got.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from orchestra import flow, task
from orchestra.transactions import Transaction, transaction

BOOKINGS = Path(os.environ.get("TRIP_BOOKINGS", "bookings"))
#: Seconds that a company takes to answer: time to kill the worker.
ANSWER = float(os.environ.get("TRIP_ANSWER_SECONDS", "3"))


def call(company: str, wish: str) -> None:
    """What takes time, and what the company remembers of it."""
    BOOKINGS.mkdir(exist_ok=True)
    with (BOOKINGS / "calls.log").open("a") as log:
        log.write(f"{company}: {wish}\n")
    print(f"calling the {company} company: {wish}")
    time.sleep(ANSWER)


def book(company: str, traveller: str) -> str:
    """Book, once: the same booking asked for again is the same booking."""
    call(company, f"book for {traveller}")
    (BOOKINGS / f"{company}-{traveller}").touch()
    return f"{company}-{traveller}"


def cancel(company: str, traveller: str) -> None:
    """Cancel, if there is anything to cancel: it may be asked for twice."""
    call(company, f"cancel for {traveller}")
    (BOOKINGS / f"{company}-{traveller}").unlink(missing_ok=True)


@task
def book_flight(traveller: str) -> str:
    """A seat."""
    return book("flight", traveller)


@book_flight.on_rollback
def cancel_flight(txn: Transaction) -> None:
    """Gives the seat back."""
    cancel("flight", txn.get("traveller"))


@task
def book_hotel(traveller: str) -> str:
    """A bed."""
    return book("hotel", traveller)


@book_hotel.on_rollback
def cancel_hotel(txn: Transaction) -> None:
    """Gives the bed back."""
    cancel("hotel", txn.get("traveller"))


@task
def book_car(traveller: str, cars_left: int) -> str:
    """A car, if there is one."""
    if not cars_left:
        call("car", f"book for {traveller}")
        raise LookupError("no car is left")
    return book("car", traveller)


@book_car.on_rollback
def cancel_car(txn: Transaction) -> None:
    """Gives the car back."""
    cancel("car", txn.get("traveller"))


@flow(log_prints=True)
def book_trip(traveller: str = "ada", cars_left: int = 0) -> list[str]:
    """All three, or none."""
    with transaction() as txn:
        txn.set("traveller", traveller)
        flight = book_flight(traveller)
        hotel = book_hotel(traveller)
        car = book_car(traveller, cars_left)
    return [flight, hotel, car]


if __name__ == "__main__":
    print(book_trip(cars_left=int(sys.argv[1]) if len(sys.argv) > 1 else 0))
