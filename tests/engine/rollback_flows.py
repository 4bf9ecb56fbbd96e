"""Flows whose rollback hooks fail until a person has mended what they need, for `test_rollbacks_by_hand.py`."""

from __future__ import annotations

from orchestra import flow, task
from orchestra.transactions import Transaction, transaction

#: What hooks did, in order; whether the hotel takes cancellations.
effects: list[str] = []
mended = {"hotel": False}


@task
def book_flight() -> None:
    """A seat."""


@book_flight.on_rollback
def cancel_flight(txn: Transaction) -> None:
    """Gives it back."""
    effects.append("flight")


@task
def book_hotel() -> None:
    """A bed."""


@book_hotel.on_rollback
def cancel_hotel(txn: Transaction) -> None:
    """Gives it back, if the hotel lets it."""
    if not mended["hotel"]:
        raise ConnectionError("the hotel does not answer")
    effects.append("hotel")


@flow
def trip(fails: bool = True) -> None:
    """Books both; then there is no car."""
    with transaction() as txn:
        txn.set("traveller", "ada")
        book_flight()
        book_hotel()
        if fails:
            raise LookupError("no car is left")
