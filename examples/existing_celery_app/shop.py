"""The tasks and canvases that this project had before: not a line of them knows of orchestra."""

from __future__ import annotations

from typing import Any

from celery import chain, group, shared_task
from proj import app, send_report

SHOPS = ["north", "south", "west"]


@app.task(bind=True, max_retries=5)
def fetch_rate(self: Any, currency: str) -> float:
    """The rate of a currency; the service needs a second call before it answers."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.1, exc=ConnectionError("the rates are not there yet"))
    return {"EUR": 1.0, "USD": 1.25}[currency]


@app.task(name="billing.charge", autoretry_for=(ConnectionError,), retry_backoff=True)
def charge(shop: str, amount: float) -> str:
    """Charge a shop. Registered under another name than its function's, and routed by that."""
    return f"{shop}: {amount:.2f}"


@shared_task
def count_orders(shop: str) -> int:
    """How many orders a shop had."""
    return len(shop)


@app.task
def add_up(counts: list[int]) -> str:
    """The sum, as text."""
    return f"{sum(counts)} orders"


@app.task
def nightly(day: str) -> None:
    """What beat sends each night: a canvas of this project's own."""
    chain(group(count_orders.s(shop) for shop in SHOPS), add_up.s(), send_report.s()).delay()
