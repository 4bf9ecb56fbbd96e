"""A Celery project whose canvases mix its own tasks with a flow and a task of orchestra."""

from __future__ import annotations

import os

from celery import Celery, chain, chord

import orchestra.celery
from orchestra import flow, sleep, task

broker = os.environ.get("BROKER_URL", "redis://127.0.0.1:6379/0")
app = Celery("shop", broker=broker, backend=broker)
orchestra.celery.install(app)


@app.task
def fetch_order(number: int) -> dict[str, int]:
    """A task that the project has had for years."""
    return {"number": number, "cents": 100 * number}


@app.task
def print_totals(totals: list[int]) -> int:
    """Another one."""
    print(f"printed {sum(totals)} cents")
    return sum(totals)


@task(retries=3, retry_delay_seconds=2)
def charge(order: dict[str, int]) -> int:
    """Takes the money; is tried again when the bank does not answer."""
    return order["cents"]


@flow
def sell(order: dict[str, int]) -> int:
    """Waits for a second without a slot, and charges."""
    sleep(1)
    return charge(order)


one_order = chain(fetch_order.s(7), sell.s())

all_orders = chord([chain(fetch_order.s(number), sell.s()) for number in (1, 2, 3)], print_totals.s())


def charge_later(order: dict[str, int]) -> str:
    """A task in the background, outside of any flow."""
    handle = charge.apply_async((order,), countdown=5, idempotency_key=f"order-{order['number']}")
    return str(handle.task_run_id)
