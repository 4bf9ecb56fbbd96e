"""The code of docs/howto/transactions.md: a trip is booked as a whole, or not at all."""

from __future__ import annotations

from orchestra import flow, task
from orchestra.runtime import task_run
from orchestra.transactions import Transaction, get_transaction, transaction

BOOKED: dict[str, str] = {}


def call_airline(what: str, flight: str = "", key: str | None = None) -> str:
    """Stands for a call to another system, which drops a second one with the same key."""
    print(f"airline: {what} {flight}")
    BOOKED[flight] = what
    return f"ticket-{flight}"


@task
def book_flight(flight: str) -> str:
    """Book it, and leave what undoing it takes."""
    ticket = call_airline("book", flight, key=task_run.idempotency_key)
    txn = get_transaction()
    if txn is not None:
        txn.set("flight", flight)
    return ticket


@book_flight.on_rollback
def cancel_flight(txn: Transaction) -> None:
    """Undo it. Called at least once: the key tells a second call."""
    call_airline("cancel", txn.get("flight"), key=task_run.idempotency_key)


@book_flight.on_commit
def send_ticket(txn: Transaction) -> None:
    """What must not happen before the whole trip stands."""
    print(f"ticket for {txn.get('flight')} sent")


@task(retries=3, retry_delay_seconds=1)
def give_back(seat: str) -> None:
    """A task may undo, too: it is tried again by its own retries."""
    print(f"seat {seat} is free again")


@task
def pay(amount: int) -> None:
    """The step that may fail."""
    if amount > 100:
        raise ValueError("the card was refused")


@flow
def trip(amount: int) -> str:
    """Two bookings and a payment: all, or nothing."""
    with transaction() as txn:
        txn.on_rollback(give_back, "12A")
        ticket = book_flight("OR 815")
        book_flight("OR 816")
        pay(amount)
    return ticket


@flow
def invoice(number: str) -> str:
    """Made once, however often the flow is run."""
    with transaction(key=f"invoice-{number}") as txn:
        if not txn.is_committed():
            txn.stage(f"sent {number}")
    return str(txn.read())


if __name__ == "__main__":
    print(trip(80))
    trip(800, return_state=True)
    print(invoice("7"), invoice("7"))
