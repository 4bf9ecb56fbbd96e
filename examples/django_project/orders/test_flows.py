"""Tests of the flows: called directly they run here, inside the test's transaction."""

from __future__ import annotations

from django.test import TestCase

from orders.flows import fulfil, order_and_fulfil
from orders.models import Order


class FlowTests(TestCase):
    """Flows over the project's own tasks."""

    def test_an_order_is_carried_out(self) -> None:
        """Each step sees what the one before has written."""
        order = Order.objects.create(title="Persuasion")

        self.assertEqual(fulfil(order.pk), f"order {order.pk} is confirmed")

        order.refresh_from_db()
        self.assertEqual((order.status, order.label), ("confirmed", f"order {order.pk}, try 2"))

    def test_an_order_that_is_too_large_stays_as_it_is(self) -> None:
        """The flow decides by a step's value."""
        order = Order.objects.create(title="Persuasion", copies=101)

        self.assertEqual(fulfil(order.pk), f"order {order.pk} is too large")
        self.assertEqual(Order.objects.get().status, "new")

    def test_the_flow_starts_when_the_order_is_committed(self) -> None:
        """With CELERY_TASK_ALWAYS_EAGER, in place."""
        with self.captureOnCommitCallbacks(execute=True):
            order_and_fulfil("Emma")

        self.assertEqual(Order.objects.get().status, "confirmed")
