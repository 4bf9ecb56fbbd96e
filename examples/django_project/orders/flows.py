"""Flows, beside the tasks; some of their steps are those very tasks."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction

from orchestra import flow, task
from orders import tasks
from orders.models import Order

reserve = task(tasks.reserve)
print_label = task(tasks.print_label)
confirm = task(tasks.confirm)


@task(retries=2)
def check_stock(order_id: int) -> bool:
    """Whether there are so many copies; a task of orchestra's that uses Django's ORM."""
    return Order.objects.get(pk=order_id).copies <= 100


@flow
def fulfil(order_id: int) -> str:
    """Carry an order out, from the stock to the customer's mail."""
    if not check_stock(order_id):
        return f"order {order_id} is too large"
    reserve(order_id)
    print_label(order_id)
    return confirm(order_id)


def order_and_fulfil(title: str, copies: int = 1) -> Any:
    """Start the flow when the order is committed, so that no worker looks for a row that is not there yet."""
    with transaction.atomic():
        order = Order.objects.create(title=title, copies=copies)
        transaction.on_commit(partial(fulfil.delay, order.pk))
    return order
