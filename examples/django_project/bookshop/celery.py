"""The Celery app of the project, configured by Django's settings; orchestra comes in by two lines."""

from __future__ import annotations

import os

from celery import Celery

import orchestra.celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")

app = Celery("bookshop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(related_name="flows")
orchestra.celery.install(app)
