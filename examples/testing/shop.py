"""A flow and its tasks, as the tests beside it see them."""

from __future__ import annotations

from orchestra import flow, get_run_logger, task


@task(retries=2)
def price(item: str) -> float:
    """What an item costs."""
    get_run_logger().info("pricing %s", item)
    return {"bread": 3.5, "milk": 1.25}[item]


@flow
def checkout(items: list[str]) -> float:
    """What all items cost together."""
    return sum(price.map(items).result())
