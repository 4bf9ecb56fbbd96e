"""Flows beside the tasks of an existing Celery project."""

from __future__ import annotations

import shop

from orchestra import flow, task


@task
def list_shops() -> list[str]:
    """The shops that sent orders."""
    return ["north", "south", "west"]


@task
def parse_orders(shop: str) -> int:
    """Count one shop's orders; the app's `task_routes` send it to the queue `heavy`."""
    return len(shop) * 100


@flow(queue="etl")
def daily_orders(day: str) -> dict[str, int]:
    """Orders of all shops on one day, counted at the same time."""
    shops = list_shops()
    counts = parse_orders.map(shops).result()
    return dict(zip(shops, counts, strict=True))


# Tasks of the app, as they are, become tasks of flows.
fetch_rate = task(shop.fetch_rate)
charge = task(shop.charge, retries=2)


@flow(queue="etl")
def bill(currency: str = "USD") -> list[str]:
    """Charge every shop at the day's rate."""
    rate = fetch_rate(currency)
    charged = [charge.submit(name, len(name) * rate) for name in shop.SHOPS]
    return [future.result() for future in charged]
