"""A Celery app as many teams have it; orchestra comes in by two lines, and nothing else changes."""

from __future__ import annotations

import os

from celery import Celery

import orchestra.celery

BROKER = os.environ.get("BROKER_URL", "redis://127.0.0.1:6379/0")

app = Celery("proj", broker=BROKER, backend=BROKER)
app.conf.imports = ["shop", "flows"]
app.conf.task_routes = {"flows.parse_orders": {"queue": "heavy"}, "billing.*": {"queue": "billing"}}
app.conf.beat_schedule = {"nightly": {"task": "shop.nightly", "schedule": 86_400.0, "args": ("today",)}}
orchestra.celery.install(app)


@app.task(ignore_result=True)
def send_report(text: str) -> None:
    """A task of your own: it stays what it was, and may be sent from anywhere, also from a flow's task."""
    print(f"report: {text}")
