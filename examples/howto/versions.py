"""The code of docs/howto/versions.md: changes to flows whose runs have not ended."""

from __future__ import annotations

from orchestra import flow, patched, task


@task
def charge(order: int) -> str:
    """Take the money."""
    return f"order {order} is paid"


@task
def check_stock(order: int) -> bool:
    """Whether all of it is there."""
    return order > 0


@task
def ship(order: int) -> str:
    """Send it."""
    return f"order {order} is on its way"


@flow
def fulfil(order: int) -> list[str]:
    """Runs that were paid before stock was checked go on without the check."""
    paid = charge(order)
    if patched("check-stock") and not check_stock(order):
        return [paid, "nothing to send"]
    return [paid, ship(order)]


@flow(version="2026-11")
def close_month(month: str) -> str:
    """One that must end under the code that it began with."""
    return f"{month} is closed"


if __name__ == "__main__":
    print(fulfil(7))
    print(close_month("2026-10"))
