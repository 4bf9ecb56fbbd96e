"""The tests that this project had before; they pass with orchestra as they did without."""

from __future__ import annotations

from celery import current_app
from django.test import TestCase

from orders import tasks
from orders.models import Order


class OrderTests(TestCase):
    """Orders, from the page to the tasks."""

    def test_an_order_is_reserved_when_it_is_committed(self) -> None:
        """The view sends its task on commit."""
        with self.captureOnCommitCallbacks(execute=True):
            answer = self.client.post("/orders/", {"title": "Middlemarch", "copies": 2})

        self.assertEqual(answer.status_code, 201)
        self.assertEqual(Order.objects.get().status, "reserved")

    def test_the_label_is_printed_at_the_second_try(self) -> None:
        """A task that calls self.retry, in place."""
        order = Order.objects.create(title="Emma")

        self.assertEqual(tasks.print_label.delay(order.pk).get(), f"order {order.pk}, try 2")

    def test_tasks_are_functions(self) -> None:
        """Called directly, they just run."""
        order = Order.objects.create(title="Emma", copies=3)

        self.assertEqual(tasks.reserve(order.pk), 3)

    def test_the_app_is_configured_by_djangos_settings(self) -> None:
        """Queues and routes stand in settings.py, with a prefix."""
        self.assertEqual(current_app.conf.task_default_queue, "bookshop")
        self.assertEqual(tasks.confirm.name, "orders.tasks.confirm")
        self.assertIn("orders.tasks.print_label", current_app.conf.task_routes)
