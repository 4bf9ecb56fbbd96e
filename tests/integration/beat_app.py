"""An app with a beat schedule of its own, every second; with ORCHESTRA_TEST_SCHEDULER it has chosen its scheduler."""

from __future__ import annotations

import os

from celery import Celery

import orchestra.celery

app = Celery("beat_app", broker=os.environ["ORCHESTRA_BROKER_URL"], set_as_current=False)
orchestra.celery.install(app)
app.conf.beat_schedule = {"tick": {"task": "theirs.tick", "schedule": 1.0, "options": {"queue": "theirs"}}}
if chosen := os.environ.get("ORCHESTRA_TEST_SCHEDULER"):
    app.conf.beat_scheduler = chosen
