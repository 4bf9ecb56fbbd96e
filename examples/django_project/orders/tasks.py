"""The Celery tasks that this project had before: not a line of them knows of orchestra."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.db import transaction

from orders.models import Order


@shared_task
def reserve(order_id: int) -> int:
    """Put the copies of an order aside; gives how many."""
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order_id)
        order.status = "reserved"
        order.save(update_fields=["status"])
    return order.copies


@shared_task(bind=True, max_retries=3)
def print_label(self: Any, order_id: int) -> str:
    """Print an order's label; the printer needs a moment before the first one."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.1, exc=OSError("the printer warms up"))
    label = f"order {order_id}, try {self.request.retries + 1}"
    Order.objects.filter(pk=order_id).update(label=label)
    return label


@shared_task
def confirm(order_id: int) -> str:
    """Tell the customer."""
    Order.objects.filter(pk=order_id).update(status="confirmed")
    return f"order {order_id} is confirmed"
