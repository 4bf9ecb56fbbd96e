"""What is kept of an order."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """One order of one book."""

    title = models.CharField(max_length=200)
    copies = models.PositiveIntegerField(default=1)
    status = models.CharField(max_length=20, default="new")
    label = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return f"{self.copies} of {self.title}: {self.status}"
